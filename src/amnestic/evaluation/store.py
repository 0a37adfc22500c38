"""What sweeps found, row by row, so that nothing is computed twice: in memory, or in a file that outlives the run.

A value is found again under the fingerprint of the model that gave it and that of the row, so splits and suites that
have rows in common share them, and an evaluation that was interrupted goes on with what is missing.
"""

import hashlib
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from .. import processes
from ..errors import InputError, RunError

FORMAT = 2
"""Counts the changes of what is stored, and of how it is computed."""
FILE = "scores.sqlite"
CHECK = 8
"""Bytes of the hash in front of each value."""
AT_ONCE = 500
"""Keys of one question to the file."""
WAIT = 60.0
"""Seconds that one waits for another evaluation to write."""


class Store:
    """Arrays by model, kind and row; one process of a run reads and writes the file, all get what is in it."""

    def __init__(self, folder: str | Path | None = None, held_back: Iterable[str] = ()) -> None:
        """Keep values in `folder` too, which is made where it is missing, but for those of the kinds `held_back`.

        Raises InputError for a folder that cannot be used.
        """
        self._held: dict[bytes, np.ndarray] = {}
        self._held_back = frozenset(held_back)
        self._file: sqlite3.Connection | None = None
        self._place = None if folder is None else Path(folder) / FILE
        if folder is not None and processes.is_first():
            self._file = _opened(Path(folder))

    def find(self, model: str, kind: str, keys: Iterable[bytes]) -> dict[bytes, np.ndarray]:
        """Return what is known of the rows `keys` under `model`, by key."""
        names = {key: _name(model, kind, key) for key in keys}
        found = {key: self._held[name] for key, name in names.items() if name in self._held}
        rest = {name: key for key, name in names.items() if key not in found}
        if rest:
            read = processes.from_first(self._read(list(rest)))
            found |= {rest[name]: value for name, value in read.items()}
            self._held |= read
        return found

    def keep(self, model: str, kind: str, values: Mapping[bytes, np.ndarray]) -> None:
        """Keep what was found of rows; raises RunError where the file cannot be written."""
        named = {_name(model, kind, key): value for key, value in values.items()}
        self._held |= named
        if self._file is None or kind in self._held_back:
            return
        rows = [_written(name, value) for name, value in named.items()]
        try:
            with self._file:
                self._file.executemany("INSERT OR REPLACE INTO found VALUES (?, ?, ?, ?)", rows)
        except sqlite3.Error as error:
            raise RunError(f"what was scored cannot be written to {self._place} ({error}).") from error

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            with suppress(sqlite3.Error):
                self._file.close()
            self._file = None

    def _read(self, names: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        if self._file is None:
            return {}
        try:
            return self._select(self._file, names)
        except sqlite3.Error as error:
            raise RunError(f"what was scored cannot be read from {self._place} ({error}).") from error

    @staticmethod
    def _select(file: sqlite3.Connection, names: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        found = {}
        for first in range(0, len(names), AT_ONCE):
            part = names[first : first + AT_ONCE]
            marks = ",".join("?" * len(part))
            rows = file.execute(f"SELECT name, dtype, shape, content FROM found WHERE name IN ({marks})", part)
            for name, dtype, shape, content in rows:
                if _check(name, dtype, shape, content[CHECK:]) == content[:CHECK]:  # else it is computed again
                    sizes = [int(size) for size in shape.strip("(),").split(",") if size.strip()]
                    found[name] = np.frombuffer(content[CHECK:], dtype=dtype).reshape(sizes)
        return found


def _written(name: bytes, value: np.ndarray) -> tuple[bytes, str, str, bytes]:
    dtype, shape, content = value.dtype.str, repr(value.shape), value.tobytes()
    return name, dtype, shape, _check(name, dtype, shape, content) + content


def _check(name: bytes, dtype: str, shape: str, content: bytes) -> bytes:
    """Return what tells whether a value is still the one that was written under `name`."""
    facts = f"{dtype} {shape} ".encode()
    return hashlib.blake2b(b"".join([name, facts, content]), digest_size=CHECK).digest()


def _name(model: str, kind: str, key: bytes) -> bytes:
    return hashlib.blake2b(
        b"\0".join([str(FORMAT).encode(), model.encode(), kind.encode(), key]), digest_size=16
    ).digest()


def _opened(folder: Path) -> sqlite3.Connection:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = sqlite3.connect(folder / FILE, timeout=WAIT)
        file.execute("PRAGMA synchronous=NORMAL")
        file.execute("CREATE TABLE IF NOT EXISTS found (name BLOB PRIMARY KEY, dtype TEXT, shape TEXT, content BLOB)")
        file.execute("SELECT name, dtype, shape, content FROM found LIMIT 0")  # or somebody else's table has this name
    except (OSError, sqlite3.Error) as error:
        raise InputError(
            f"--cache_dir {folder} cannot be used ({error}); give a folder that can be written, or remove the file "
            f"{FILE} in it."
        ) from error
    return file
