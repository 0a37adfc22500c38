"""Options of judging; nothing heavy is imported here."""

import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, urlsplit

from ..errors import InputError

KEY = "OPENAI_API_KEY"
"""The variable that most servers' own clients read."""
NO_KEY = "none"
PATH = "/chat/completions"


@dataclass(frozen=True, kw_only=True)
class AnswerOptions:
    """Which answers are judged, and by what words."""

    run: str
    """Folder of a run of unlearn or eval that ended, with generated answers."""
    splits: tuple[str, ...] = ("forget", "retain")
    """Splits whose answers are judged."""
    models: tuple[str, ...] = ()
    """Models whose answers are judged: before, after, retrained; model in a run of eval [default: all that the run
    has answers of]."""
    rows: int = 100
    """Examples of each split, evenly spaced: the same for all models."""
    prompts: str | None = None
    """Folder of prompts of your own, SPLIT.md for each split [default: those that come with amnestic]."""

    def __post_init__(self) -> None:
        """Raise InputError for values that nothing could be judged by."""
        if self.rows < 1:
            raise InputError(f"--rows is {self.rows}; expected at least 1.")
        if not self.splits:
            raise InputError("--splits names none; expected names with commas between them, such as forget,retain.")


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Which server judges, and how it is asked."""

    endpoint: str
    """Base URL of an OpenAI-compatible server, to which /chat/completions is added: http://localhost:8000/v1; of a
    host alone /v1 too."""
    judge_model: str
    """The model that judges, as the server calls it."""
    key_env: str = KEY
    """Environment variable that holds the key, which is never written; none: no key is sent."""
    concurrency: int = 8
    """Requests at once."""
    retries: int = 5
    """Further tries for a prompt, with growing pauses, where the server is busy, breaks off, or answers out of form."""
    timeout: float = 120.0
    """Seconds to wait for a reply."""
    max_tokens: int = 256
    """Most tokens of a reply."""
    seed: int = 0
    """Seed that the server is sent; one more at each try after a reply out of form."""
    request_args: dict[str, str] = field(default_factory=dict)
    """Further fields of a request, or others in the place of temperature, max_tokens and seed; none leaves a field out,
    as models need that take max_completion_tokens alone [default: none are added]."""

    def __post_init__(self) -> None:
        """Raise InputError for values that no server could be asked with."""
        _check_address(self.endpoint)
        for name, least in (("concurrency", 1), ("retries", 0), ("max_tokens", 1)):
            if getattr(self, name) < least:
                raise InputError(f"--{name} is {getattr(self, name)}; expected at least {least}.")
        if not self.timeout > 0:
            raise InputError(f"--timeout is {self.timeout}; expected seconds, more than 0.")
        if not self.judge_model:
            raise InputError("--judge_model is empty; expected the name by which the server knows its model.")
        if own := {"model", "messages", "stream", "n"} & self.request_args.keys():
            raise InputError(f"--request_args.{min(own)} is given; that field is amnestic's own, so leave it out.")

    @property
    def url(self) -> SplitResult:
        """Return where requests go."""
        parts = urlsplit(self.endpoint)
        base = parts.path.rstrip("/").removesuffix(PATH)
        return parts._replace(path=(base or "/v1") + PATH)


@dataclass(frozen=True, kw_only=True)
class SendingOptions:
    """What is agreed to, what it costs, and where replies are kept."""

    yes: bool = False
    """Agree that the prompts leave for the endpoint; without it, that is asked at the terminal."""
    price_input: float | None = None
    """Price of a million tokens that are sent, in any currency [default: no cost is told]."""
    price_output: float | None = None
    """Price of a million tokens of replies, in the same currency [default: no cost is told]."""
    cache_dir: str | None = None
    """Folder that keeps what was answered, for several runs [default: the folder judge in the run]."""

    def __post_init__(self) -> None:
        """Raise InputError for prices below 0, and for one without the other."""
        for name in ("price_input", "price_output"):
            price = getattr(self, name)
            if price is not None and price < 0:
                raise InputError(f"--{name} is {price}; expected at least 0.")
        if (self.price_input is None) != (self.price_output is None):
            raise InputError("--price_input and --price_output belong together; give both or neither.")


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """Everything that decides ``amnestic judge``."""

    answers: AnswerOptions
    server: ServerOptions
    sending: SendingOptions = field(default_factory=SendingOptions)


def _check_address(endpoint: str) -> None:
    """Raise InputError for what is no address of a server; its text never shows a password."""
    expected = "expected a base URL such as http://localhost:8000/v1"
    try:
        parts = urlsplit(endpoint)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_address, parts = False, SplitResult("", "", "", "", "")
    if parts.username is not None or parts.password is not None:
        raise InputError(f"--endpoint holds a user or password; {expected}, with the key in the variable of --key_env.")
    if parts.query or parts.fragment:
        raise InputError(f"--endpoint holds a query or fragment; {expected}.")
    if not is_address or any(c.isspace() or not c.isprintable() or not c.isascii() for c in endpoint):
        raise InputError(f"--endpoint is {endpoint!r}; {expected}.")


def fields_of(server: ServerOptions) -> dict[str, Any]:
    """Return the fields of a request beside model and messages; texts are read as JSON where they are some."""
    found: dict[str, Any] = {"temperature": 0, "max_tokens": server.max_tokens, "seed": server.seed}
    for name, text in server.request_args.items():
        if text.lower() in ("none", "null"):
            found.pop(name, None)
            continue
        try:
            found[name] = json.loads(text)
            json.dumps(found[name], allow_nan=False)  # Python reads NaN and 1e999, which JSON does not have
        except ValueError:
            found[name] = text
    return found
