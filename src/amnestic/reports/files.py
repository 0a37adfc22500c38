"""Files of a run folder that are never half written, and hold no credentials."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from ..credentials import Mask, mask, masked_document
from ..errors import InputError, RunError
from ..storage import write_file


def write_json(path: str | Path, mapping: Mapping[str, Any]) -> None:
    """Write `mapping` as JSON, all or nothing; numpy's and torch's numbers and arrays become plain ones.

    Raises RunError, naming the key, for a number that is not finite or a value that JSON does not know.
    """
    write_text(path, json.dumps(plain(mapping), indent=2, allow_nan=False) + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 under a temporary name, then rename, so that `path` holds the old or the new text.

    Credentials in it are masked. Raises RunError where the file system refuses.
    """
    content = masked_document(text)
    write_file(Path(path), lambda temporary: temporary.write_text(content, encoding="utf-8", newline="\n"))


def read_json(path: str | Path) -> dict[str, Any]:
    """Return the JSON object in `path`; raises InputError where there is none."""
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}.") from error
    except ValueError as error:
        raise InputError(f"{path} is no JSON: {error}.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}; expected a JSON object.")
    return content


class JsonLines:
    """A file of one JSON object a line that grows while a run goes on; each line is on disk once `append` returns.

    A half line, left by a process that was killed, is cut off when the file is opened again.
    """

    def __init__(self, path: str | Path) -> None:
        """Open `path` for appending; raises RunError where the file system refuses."""
        self.path = Path(path)
        try:
            _drop_half_line(self.path)
            self._file = self.path.open("a", encoding="utf-8", newline="\n")
        except OSError as error:
            raise RunError(f"cannot write {self.path}: {error.strerror or error}.") from error

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record; raises RunError as `write_json` does."""
        line = json.dumps(plain(record), allow_nan=False)
        try:
            self._file.write(line + "\n")
            self._file.flush()
        except OSError as error:
            raise RunError(f"cannot write {self.path}: {error.strerror or error}.") from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> "JsonLines":
        """Return the open file."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()


def read_jsonl(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a JSON Lines file, without a half line at its end; raises InputError for a broken one."""
    path = Path(path)
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith("\n"):
                return
            try:
                yield json.loads(line)
            except ValueError as error:
                raise InputError(f"{path}, line {number}, is no JSON: {error}.") from error


def _drop_half_line(path: Path) -> None:
    if path.is_file() and not (content := path.read_bytes()).endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)


def plain(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return `content` as JSON and YAML write it, without credentials in its texts and names.

    Raises RunError, naming the key, for a number that is not finite or a value that JSON does not know.
    """
    found: dict[str, Any] = _plain(content, "", mask())
    return found


def _plain(value: Any, key: str, masking: Mask) -> Any:
    """Return `value` as json writes it; `key` is its dotted place, for the message."""
    if isinstance(value, str):
        return masking.of_text(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise RunError(f"cannot write {key or 'the value'}: it is {value}; expected a finite number.")
        return float(value)
    if isinstance(value, Mapping):
        names = {name: masking.of_text(str(name)) for name in value}
        return {names[name]: _plain(item, f"{key}.{names[name]}".lstrip("."), masking) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{key}[{index}]", masking) for index, item in enumerate(value)]
    if hasattr(value, "tolist"):
        return _plain(value.tolist(), key, masking)
    if isinstance(value, os.PathLike):
        return masking.of_text(os.fspath(value))
    raise RunError(f"cannot write {key or 'the value'}: JSON has no form for {type(value).__name__}.")
