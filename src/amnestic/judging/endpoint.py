"""The server that judges: one request, one reply, and what becomes of everything else.

The standard library's client is used: it needs no dependency, and a connection per request costs little beside a reply
of a language model. It follows no redirection, since the key and the texts are meant for one server alone.
"""

import email.utils
import http.client
import ipaddress
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import SplitResult, urlunsplit

from ..credentials import masked
from ..errors import RunError

LARGEST = 4_000_000
"""Bytes of a reply that are read."""
QUOTED = 300
"""Characters of a server's message that an error shows."""
TRANSIENT = frozenset({408, 409, 425, 429}) | frozenset(range(500, 600))
HINTS = {
    401: "the key was not accepted; check the variable that --key_env names",
    403: "the key was not accepted; check the variable that --key_env names",
    404: "check --judge_model, and --endpoint: the base URL, to which /chat/completions is added",
}


class RefusedError(RunError):
    """The server will not answer any such request: a wrong key, an unknown model, a field that it does not know."""


class UnavailableError(Exception):
    """The server gave no answer now, and may later; its text is the reason, as a clause."""

    def __init__(self, reason: str, is_heard: bool, wait: float | None = None) -> None:
        """`is_heard`: the server said something; `wait`: the seconds that it asked for."""
        super().__init__(reason)
        self.is_heard = is_heard
        self.wait = wait


@dataclass(frozen=True)
class Reply:
    """What a server answered."""

    text: str
    model: str
    """As the server names it."""
    is_cut: bool
    """The server stopped at its limit of tokens."""
    tokens: tuple[int, int] | None
    """Of the prompt and of the reply, as the server counts them, if it does."""


@dataclass(frozen=True)
class Endpoint:
    """Where prompts are sent."""

    url: SplitResult
    key: str | None
    timeout: float

    def __repr__(self) -> str:
        """Return the address alone."""
        return f"Endpoint({self.address!r})"

    @property
    def address(self) -> str:
        """Return the URL that requests go to."""
        return urlunsplit(self.url)

    @property
    def is_local(self) -> bool:
        """Return whether it is this machine."""
        host = str(self.url.hostname)
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost" or host.endswith(".localhost")

    def post(self, request: Mapping[str, Any]) -> Reply:
        """Send one request; raises UnavailableError where a later one may succeed, and RefusedError where none will."""
        # loopback addresses go past proxies: what is said to stay here must
        proxies = [urllib.request.ProxyHandler({})] if self.is_local else []
        opener = urllib.request.build_opener(_NoRedirection, *proxies)
        try:
            with opener.open(self._request(request), timeout=self.timeout) as response:
                content = response.read(LARGEST + 1)
        except urllib.error.HTTPError as error:
            with error:
                raise self._error(error) from None
        except TimeoutError:
            raise UnavailableError(f"no reply within {self.timeout:g} s", is_heard=False) from None
        except (OSError, http.client.HTTPException) as error:
            raise UnavailableError(_reason(error, self.timeout), is_heard=False) from None
        return _reply(content)

    def _request(self, request: Mapping[str, Any]) -> urllib.request.Request:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "amnestic"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        return urllib.request.Request(self.address, json.dumps(request).encode(), headers, method="POST")

    def _error(self, error: urllib.error.HTTPError) -> RefusedError | UnavailableError:
        status, said = error.code, self._said(error)
        if status in TRANSIENT:
            return UnavailableError(f"HTTP {status}", True, _wait(error.headers.get("Retry-After")))
        if 300 <= status < 400:
            hint = "redirections are not followed, since the texts are meant for one server; give the new address"
        else:
            hint = HINTS.get(status, "the request was refused; --request_args can replace its fields or leave them out")
        return RefusedError(f"{self.address} answered {status}{f' ({said})' if said else ''}: {hint}.")

    def _said(self, response: IO[bytes]) -> str:
        """Return the server's message in one line, cut, and without the key, which some servers repeat."""
        try:
            text = response.read(LARGEST).decode("utf-8", errors="replace")
        except (OSError, http.client.HTTPException):
            return ""
        try:
            content = json.loads(text)
            error = content.get("error", content)
            text = str(error.get("message", error) if isinstance(error, dict) else error)
        except (ValueError, AttributeError, RecursionError):
            pass  # no JSON, or another form: the text as it is
        text = masked(text if self.key is None else text.replace(self.key, "[key]"))
        text = " ".join(text.split())
        return text if len(text) <= QUOTED else f"{text[:QUOTED]} ..."


class _NoRedirection(urllib.request.HTTPRedirectHandler):
    """Leaves a redirection to be reported as an error."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow none."""


def _reason(error: Exception, timeout: float) -> str:
    """Return why a connection failed, without what a server may have said in it."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return f"no connection within {timeout:g} s"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror.lower()
    return f"the connection broke ({type(cause).__name__})"


def _wait(header: str | None) -> float | None:
    """Return the seconds of a Retry-After, which is a number or a date; None for anything else."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _reply(content: bytes) -> Reply:
    """Return a chat completion; raises UnavailableError for a body that is none."""
    if len(content) > LARGEST:
        raise UnavailableError(f"a reply of more than {LARGEST:,} bytes", is_heard=True)
    try:
        body = json.loads(content)
        choice = body["choices"][0]
        text, model = choice["message"].get("content"), body.get("model")
        usage = body.get("usage") or {}
        sent, received = usage.get("prompt_tokens"), usage.get("completion_tokens")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise UnavailableError("a body that is no chat completion", is_heard=True) from None
    tokens = (sent, received) if type(sent) is int and type(received) is int and min(sent, received) >= 0 else None
    is_cut = choice.get("finish_reason") == "length"
    named = model if isinstance(model, str) else ""
    return Reply(text if isinstance(text, str) else "", named, is_cut, tokens)
