"""What must not be written by accident: secrets of the environment, tokens by their form, and passwords in URLs.

Every file of a run folder but its tables and weights, and everything that the command line prints, goes through here.
Configuration, command lines and error messages repeat what a user typed, and libraries quote URLs and headers.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache, lru_cache
from html import escape
from typing import Any, TextIO
from urllib.parse import quote, unquote

SHORTEST = 8
"""Characters of the shortest value that counts as a secret: ``KEY=1`` is none, and would ruin every number."""
_ENDINGS = (
    "TOKEN",
    "KEY",
    "SECRET",
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "CREDENTIAL",
    "CRED",
    "AUTH",
    "AUTHORIZATION",
    "COOKIE",
    "DSN",
)
"""Endings of a word, in the singular, that make a variable's name look like a secret's."""
_PLACES = {"FILE", "PATH", "DIR", "SOCK"}
"""Last words of variables that say where a secret lies."""
_TOKENS = re.compile(
    r"(?:hf|api_org)_[A-Za-z0-9]{30,}"
    r"|(?<![A-Za-z0-9])(?:gh[oprsu]_[A-Za-z0-9]{36,}|github_pat_\w{22,}|glpat-[\w-]{20,}|xox[a-z]-[\w-]{20,}"
    r"|sk-[\w-]{32,}|(?:AKIA|ASIA)[A-Z0-9]{16})(?![A-Za-z0-9])"
)
"""Tokens of Hugging Face, GitHub, GitLab, Slack, language-model services and AWS."""
_LOGIN = re.compile(r"""(://)[^\s/"'<>:@]*:[^\s/"'<>]+@""")
"""The ``user:password@`` of a URL, with what stands before it."""
_NUMBER = re.compile(r"[-+.eE\d]+")

_declared: set[str] = set()
"""Variables that hold a secret whatever their names are."""


def declare(variable: str) -> None:
    """Count a variable of the environment among those that hold secrets, for as long as the process lasts."""
    _declared.add(variable)


@dataclass(frozen=True)
class Mask:
    """What stands in for each secret, in the environment as it was when the mask was made."""

    names: Mapping[str, str]
    """Secret, in every form in which a file may hold it, to the name of its variable."""
    anywhere: re.Pattern[str] | None
    outside_numbers: re.Pattern[str] | None
    """Without the secrets that look like a number: in a whole file they could be part of one."""

    def of_text(self, text: str) -> str:
        """Return `text`, a single value, without any credential."""
        return _without_forms(self.of_environment(text))

    def of_document(self, text: str) -> str:
        """Return a file or a piece of output without any credential; its numbers stay as they are."""
        return _without_forms(self._replaced(self.outside_numbers, text))

    def of_environment(self, text: str) -> str:
        """Return `text` without the environment's secrets; equal texts stay equal, and unequal ones unequal."""
        return self._replaced(self.anywhere, text)

    def _replaced(self, pattern: re.Pattern[str] | None, text: str) -> str:
        if pattern is None or len(text) < SHORTEST:
            return text
        return pattern.sub(lambda found: f"[{self.names[found[0]]}]", text)


def mask() -> Mask:
    """Return the mask for the environment as it is now."""
    return _mask(tuple(_secrets()))


def masked(text: str) -> str:
    """Return `text`, a single value, without any credential."""
    return text if len(text) < SHORTEST else mask().of_text(text)


def masked_document(text: str) -> str:
    """Return the text of a whole file without any credential; its numbers stay as they are."""
    return text if len(text) < SHORTEST else mask().of_document(text)


class MaskedStream:
    """A text stream that writes no credential; everything else of it is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        """Write to `stream`."""
        self._stream = stream

    def write(self, text: str) -> int:
        """Write `text` without the credentials in it, and return its length."""
        self._stream.write(masked_document(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write each of `lines`."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        """Return what the stream has."""
        return getattr(self._stream, name)


@contextmanager
def masked_output() -> Iterator[None]:
    """Keep credentials off stdout and stderr, whoever writes there, for as long as the context lasts."""
    streams: Any = [MaskedStream(stream) for stream in (sys.stdout, sys.stderr)]
    with redirect_stdout(streams[0]), redirect_stderr(streams[1]):
        yield


def _secrets() -> Iterator[tuple[str, str]]:
    """Yield (name of the variable, secret) for what the environment holds, values that are too short left out."""
    for name, value in os.environ.items():
        if len(value) < SHORTEST:
            continue
        if (name in _declared or _is_secret(name)) and not _is_place(value):
            yield name, value
        if "@" in value and (login := _LOGIN.search(value)):
            password = login[0].partition("://")[2].partition(":")[2][:-1]
            yield from ((name, text) for text in {password, unquote(password)} if len(text) >= SHORTEST)


@cache
def _is_secret(name: str) -> bool:
    words = [word.rstrip("0123456789") for word in re.split(r"[^A-Z0-9]+", name.upper()) if word]
    if not words or words[-1] in _PLACES:
        return False
    if any(word.removesuffix("S").endswith(_ENDINGS) for word in words) or "PASS" in words:
        return True
    return words[-1] == "PWD" and len(words) > 1  # PWD alone is the working folder


def _is_place(value: str) -> bool:
    """Return whether the value is the path of an existing file: of the credentials, not one of them."""
    return os.sep in value and os.path.exists(value)  # noqa: PTH110 (pathlib refuses what is no path)


@lru_cache(maxsize=8)
def _mask(secrets: tuple[tuple[str, str], ...]) -> Mask:
    names: dict[str, str] = {}
    for name, secret in secrets:
        names |= {form: re.sub(r"\W", "_", name) for form in _forms(secret)}
    return Mask(names, _pattern(list(names)), _pattern([form for form in names if not _NUMBER.fullmatch(form)]))


def _forms(secret: str) -> set[str]:
    """Return a secret as it may stand in a file: as it is, by lines, and as JSON, HTML, URLs and Python write it."""
    lines = [line.strip() for line in secret.splitlines()]
    plain = {secret, secret.strip()} | {line for line in lines if not line.startswith("-----")}
    written: list[Callable[[str], str]] = [
        lambda text: json.dumps(text)[1:-1],
        lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
        lambda text: repr(text)[1:-1],
        lambda text: quote(text, safe="", errors="replace"),
        escape,
    ]
    forms = plain | {write(text) for text in plain for write in written}
    return {form for form in forms if len(form.strip()) >= SHORTEST}


def _pattern(forms: list[str]) -> re.Pattern[str] | None:
    """Return a pattern of all `forms`, longer ones first, so that no end of one remains; None without any."""
    return re.compile("|".join(map(re.escape, sorted(forms, key=len, reverse=True)))) if forms else None


def _without_forms(text: str) -> str:
    if len(text) < SHORTEST:
        return text
    text = _TOKENS.sub("[token]", text)
    return _LOGIN.sub(r"\1[password]@", text) if "@" in text else text
