"""Any number of rows in little memory: a few numbers of each at hand, the rest in an anonymous temporary file.

A sequence of `Rows` is used like a list; what it gives out is made anew at each access.
"""

import marshal
import os
import tempfile
import weakref
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from typing import IO, Any, TypeVar, overload

import numpy as np

from ..errors import InputError

T = TypeVar("T")

MEMORY = 2**24
"""Bytes of rows that are held in memory; what goes beyond is written to the temporary file."""
DIGEST = np.dtype("S16")
"""A hash of 16 bytes: two of a billion rows are alike by chance once in 10^20 runs."""


class Rows(Sequence[T]):
    """A sequence of dataclass instances that are not held as objects."""

    @property
    @abstractmethod
    def facts(self) -> np.ndarray:
        """Return what is known of each row without reading it, as named columns, (B,)."""

    @abstractmethod
    def _row(self, number: int) -> T:
        """Return the row `number`, which is not negative."""

    @overload
    def __getitem__(self, place: int) -> T: ...

    @overload
    def __getitem__(self, place: slice) -> "Rows[T]": ...

    def __getitem__(self, place: int | slice) -> "T | Rows[T]":
        """Return one row, or a view of several."""
        if isinstance(place, slice):
            return Chosen(self, np.arange(*place.indices(len(self))))
        number = place + len(self) if place < 0 else place
        if not 0 <= number < len(self):
            raise IndexError(place)
        return self._row(number)

    def __iter__(self) -> Iterator[T]:
        """Yield the rows, one at a time."""
        return map(self._row, range(len(self)))

    def __eq__(self, other: object) -> bool:
        """Return whether `other` is a sequence of equal rows."""
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """Name the first rows alone: there may be a million."""
        shown = ", ".join(map(repr, self[:3]))
        return f"<{len(self)} rows: {shown}{', ...' if len(self) > 3 else ''}>"


class Records(Rows[T]):
    """Rows that are added one by one.

    Beyond `MEMORY` they lie in a file of the temporary folder (TMPDIR) that has no name there, so nothing is left of
    them when the process ends, however it ends.
    """

    def __init__(
        self, kind: type[T], columns: Sequence[tuple[str, Any]], facts: Callable[[T], tuple[Any, ...]]
    ) -> None:
        """`facts` returns what `columns`, names and numpy types, hold of a row of the dataclass `kind`."""
        self._kind = kind
        self._names = [item.name for item in fields(kind)]  # type: ignore[arg-type]
        self._facts_of = facts
        self._table = np.zeros(64, dtype=[*columns, ("end", np.int64)])
        self._size = 0
        self._file: IO[bytes] | None = None
        self._written = 0
        self._tail = bytearray()

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._size

    @property
    def facts(self) -> np.ndarray:
        """Return the columns of all rows so far, (B,)."""
        return self._table[: self._size]

    def append(self, row: T) -> None:
        """Add a row; raises InputError where the temporary folder takes no more."""
        self._tail += _packed([getattr(row, name) for name in self._names])
        if self._size == len(self._table):
            self._table = np.concatenate([self._table, np.zeros(1 + self._size // 4, dtype=self._table.dtype)])
        self._table[self._size] = (*self._facts_of(row), self._written + len(self._tail))
        self._size += 1
        if len(self._tail) > MEMORY:
            self._write()

    def extend(self, rows: Iterable[T]) -> None:
        """Add several rows."""
        for row in rows:
            self.append(row)

    def _row(self, number: int) -> T:
        begin = int(self._table["end"][number - 1]) if number else 0
        end = int(self._table["end"][number])
        if begin >= self._written:
            content = bytes(self._tail[begin - self._written : end - self._written])
        else:
            content = _read_at(self._file, begin, end - begin)
        return self._kind(*_unpacked(content))

    def _write(self) -> None:
        """Move what is held in memory to the end of the file."""
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - it lives as long as the rows do
                weakref.finalize(self, self._file.close)
            rest = memoryview(self._tail)
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            folder = tempfile.tempdir or "for large data"
            raise InputError(
                f"the temporary folder {folder} takes no more data ({error.strerror or error}); set TMPDIR to a folder "
                "with more room."
            ) from error
        self._written += len(self._tail)
        self._tail = bytearray()


class Chosen(Rows[T]):
    """Some rows of others, in an order of one's own."""

    def __init__(self, rows: Rows[T], places: np.ndarray) -> None:
        """`places` (B,) are row numbers of `rows`."""
        self._rows, self._places = rows, places

    def __len__(self) -> int:
        """Return the number of chosen rows."""
        return len(self._places)

    @property
    def facts(self) -> np.ndarray:
        """Return the columns of the chosen rows, (B,)."""
        facts: np.ndarray = self._rows.facts[self._places]
        return facts

    def column(self, name: str) -> np.ndarray:
        """Return one column of the chosen rows, (B,)."""
        chosen: np.ndarray = column(self._rows, name)[self._places]
        return chosen

    def _row(self, number: int) -> T:
        return self._rows[int(self._places[number])]


def take(rows: Sequence[T], places: Sequence[int] | np.ndarray) -> Sequence[T]:
    """Return the rows at `places`: a view where `rows` are such, a list of a list."""
    if isinstance(rows, Rows):
        return Chosen(rows, np.asarray(places, dtype=np.int64))
    return [rows[i] for i in places]


def column(rows: Rows[Any], name: str) -> np.ndarray:
    """Return one column of what is known of `rows`, (B,), without the others."""
    found: np.ndarray = rows.column(name) if isinstance(rows, Chosen) else rows.facts[name]
    return found


def is_among(digests: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return for each of `digests` (A,) whether it is one of `others` (B,), (A,) bool."""
    if not len(others):
        return np.zeros(len(digests), dtype=bool)
    known = np.sort(others)
    found: np.ndarray = known[np.minimum(np.searchsorted(known, digests), len(known) - 1)] == digests
    return found


def repeats(digests: np.ndarray) -> int:
    """Return how many of `digests` equal one that stands before them."""
    known = np.sort(digests)
    return int((known[1:] == known[:-1]).sum())


def _packed(values: list[Any]) -> bytes:
    """Return the values of a row's fields as bytes: what marshal knows, and arrays, token ids in half their width."""
    arrays = {}
    for number, value in enumerate(values):
        if isinstance(value, np.ndarray):
            stored = value.astype(np.int32) if value.dtype == np.int64 and _is_narrow(value) else value
            arrays[number] = (value.dtype.str, stored.dtype.str, value.shape, stored.tobytes())
            values[number] = None
        elif isinstance(value, np.generic):
            values[number] = value.item()
    return marshal.dumps((values, arrays))


def _unpacked(content: bytes) -> list[Any]:
    values: list[Any]
    values, arrays = marshal.loads(content)  # written by this process, to a file that no other sees
    for number, (dtype, stored, shape, data) in arrays.items():
        values[number] = np.frombuffer(data, dtype=stored).reshape(shape).astype(dtype)
    return values


def _is_narrow(values: np.ndarray) -> bool:
    limits = np.iinfo(np.int32)
    return not values.size or (int(values.min()) >= limits.min and int(values.max()) <= limits.max)


def _read_at(file: Any, begin: int, size: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(file.fileno(), size, begin)
    file.seek(begin)
    content: bytes = file.read(size)
    return content
