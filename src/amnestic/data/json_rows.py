"""JSON Lines and JSON arrays to rows, a piece of the file at a time."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from ..errors import InputError
from .opening import open_text
from .quoting import quoted
from .rows import Row

BLANK = re.compile(r"[ \t\r\n]*")
"""What JSON allows between two values."""
PIECE = 2**16
"""Characters of an array that are read at once, at least."""
CUT_SHORT = 16
"""A value may go on behind what was read if it is broken within so many characters of the end, as ``fal`` is."""


class NamedTwiceError(ValueError):
    """An object names a key twice, and JSON does not say which counts."""


def read_json(path: Path) -> Iterator[Row]:
    """Yield the rows of JSON Lines, or of one array: both are called .json, and only the content tells."""
    with open_text(path) as file:
        is_array = Unread(file).starts_with("[")
    return _read_array(path) if is_array else _read_lines(path)


def _read_lines(path: Path) -> Iterator[Row]:
    decode = _decoder().decode
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                value = decode(line)
            except (ValueError, RecursionError) as error:
                raise _not_json(path, error, number) from error
            yield Row(f"{path}, line {number}", value)


def _read_array(path: Path) -> Iterator[Row]:
    with open_text(path) as file:
        unread = Unread(file)
        try:
            for line, value in _items(unread):
                yield Row(f"{path}, line {line}", value)
        except (ValueError, RecursionError) as error:
            if isinstance(error, UnicodeDecodeError):
                raise
            raise _not_json(path, error, getattr(error, "lineno", unread.line)) from error


class Unread:
    """What was read of a JSON text and not yet decoded.

    Each further piece is as long as what could not be decoded, so that a long value is not scanned again and again.
    """

    def __init__(self, file: TextIO) -> None:
        """`file` is read from where it stands."""
        self._file = file
        self._decode = _decoder().raw_decode
        self._text = ""
        self._at = 0
        self._counted = 0
        self._columns = 0
        self.line = 1
        """The line of the value that is next, or of the last one where it broke off."""

    def starts_with(self, character: str) -> bool:
        """Return whether the next character that is not blank is `character`."""
        while True:
            found = BLANK.match(self._text, self._at)
            self._at = found.end() if found else self._at
            if self._at < len(self._text) or not self._more():
                break
        self.line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._text.startswith(character, self._at)

    def skip(self, character: str) -> bool:
        """Move behind `character` where it is next, and return whether it was."""
        found = self.starts_with(character)
        self._at += found
        return found

    @property
    def is_at_end(self) -> bool:
        """Return whether nothing but blanks is left."""
        self.starts_with("")
        return self._at == len(self._text)

    def value(self) -> Any:
        """Return the next value; raises ValueError or RecursionError for what the json module cannot decode."""
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if self._may_go_on(error) and self._more():
                    continue
                raise self.placed(error.msg, error.pos) from error
            if end <= len(self._text) - CUT_SHORT or not self._more():  # a number may go on: ``1`` as ``1.5e+3``
                self._at = end
                return value

    def placed(self, message: str, at: int | None = None) -> json.JSONDecodeError:
        """Return an error that counts lines and columns from the beginning of the file."""
        at = self._at if at is None else at
        error = json.JSONDecodeError(message, "", 0)
        error.lineno = self.line + self._text.count("\n", self._counted, at)
        begin = self._text.rfind("\n", 0, at)
        error.colno = at - begin if begin >= 0 else self._columns + at + 1
        return error

    def _may_go_on(self, error: json.JSONDecodeError) -> bool:
        return error.msg.startswith("Unterminated string") or error.pos >= len(self._text) - CUT_SHORT

    def _more(self) -> bool:
        """Read another piece, and forget what was decoded; return whether there was more."""
        piece = self._file.read(max(PIECE, len(self._text) - self._at))
        if not piece:
            return False
        begin = self._text.rfind("\n", 0, self._at)
        self._columns = self._at - begin - 1 if begin >= 0 else self._columns + self._at
        self.line += self._text.count("\n", self._counted, self._at)
        self._text = self._text[self._at :] + piece
        self._at = self._counted = 0
        return True


def _items(unread: Unread) -> Iterator[tuple[int, Any]]:
    """Yield the items of a JSON array one by one, each with the line that it begins on.

    Raises ValueError or RecursionError for what is no JSON.
    """
    unread.skip("[")
    is_open = not unread.starts_with("]")
    while is_open:
        unread.starts_with("")
        line = unread.line
        yield line, unread.value()
        is_open = unread.skip(",")
        if not is_open and not unread.starts_with("]"):
            raise unread.placed("Expecting ',' delimiter")
    unread.skip("]")
    if not unread.is_at_end:
        raise unread.placed("Extra data")


def _decoder() -> json.JSONDecoder:
    return json.JSONDecoder(object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise NamedTwiceError(next(name for name in names if names.count(name) > 1))
    return found


def _not_json(path: Path, error: Exception, line: int) -> InputError:
    if isinstance(error, NamedTwiceError):
        key = quoted(error)
        return InputError(f"{path}, line {line} names the key '{key}' twice in one object; expected it once.")
    cause = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else quoted(error)
    if isinstance(error, RecursionError):
        cause = "its values are nested too deeply"
    return InputError(
        f"{path}, line {line} is not JSON ({cause}); expected one object a line, or one array of objects in the file."
    )
