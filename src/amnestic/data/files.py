"""One file to rows: JSON, JSON Lines, CSV, TSV and Parquet, each row with the place that an error message names."""

import csv
import gzip
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from ..errors import InputError
from .json_rows import read_json
from .opening import not_utf8, open_text, refuse_no_text, refuse_packed_table
from .quoting import quoted
from .rows import Row, listing

PARQUET_ROWS = 128
"""Rows of a Parquet file that are held as Python objects at once."""
MOST_CELL = 2**31 - 1
"""Longest cell of a CSV file, in characters; Python's own limit of 131072 is less than a book."""


def is_readable(path: Path) -> bool:
    """Return whether the suffix is one that `read_rows` knows."""
    return _suffix(path) in READERS


def _suffix(path: Path) -> str:
    """Return the suffix that tells the kind of a file: of text, the one before .gz."""
    *_, before, last = ["", "", *(suffix.lower() for suffix in path.suffixes)]
    return before if last == ".gz" and before != ".parquet" else last


def one_line(error: BaseException, most: int = 300) -> str:
    """Return the text of another library's error as part of a sentence."""
    text = " ".join(str(error).split()).rstrip(".")
    return text if len(text) <= most else f"{text[:most]}..."


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of one file in order; an empty file has none.

    Raises InputError, with file and line, for what is not UTF-8 or breaks the rules of the file's kind.
    """
    try:
        if path.stat().st_size:
            yield from READERS[_suffix(path)](path)
    except UnicodeDecodeError as error:
        raise not_utf8(path) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{path} cannot be unpacked by gzip ({one_line(error)}); it is cut off or damaged, so copy it or compress "
            "it again."
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or one_line(error)}).") from error


def _read_json(path: Path) -> Iterator[Row]:
    refuse_no_text(path)
    return read_json(path)


def _read_table(path: Path, delimiter: str) -> Iterator[Row]:
    """Yield the rows of a CSV or TSV file, whose first record names the columns."""
    refuse_no_text(path)
    with open_text(path, newline="") as file, _long_cells():
        records = _records(path, file, delimiter)
        place, header = next(records, (f"{path}, line 1", []))
        _check_header(place, header, delimiter)
        for place, cells in records:
            if len(cells) != len(header):
                raise InputError(
                    f"{place} has {len(cells)} cells, but the header names {len(header)} columns; put cells that "
                    "contain the delimiter or a line break in double quotes."
                )
            yield Row(place, dict(zip(header, cells, strict=True)))


def _records(path: Path, file: TextIO, delimiter: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each record that is not blank, with the place of its first line: a quoted cell may span several."""
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    line = 1
    try:
        for cells in reader:
            if cells:
                yield f"{path}, line {line}", cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"{path}: the row that starts on line {line} is broken ({quoted(one_line(error))}); put cells that "
            "contain quotes in double quotes, and double the quotes inside."
        ) from error


def _check_header(place: str, header: list[str], delimiter: str) -> None:
    """Raise InputError for a column named twice, and for columns that another character separates."""
    refuse_twice(place, filter(None, header))  # a spreadsheet writes any number of columns without a name
    if delimiter == "," and len(header) == 1 and re.search("[;\t]", header[0]):
        raise InputError(
            f"{place} names one column, {quoted(listing(header))}; expected commas between the cells of a .csv file."
        )


def refuse_twice(place: str, names: Iterable[Any]) -> None:
    """Raise InputError where two columns have one name."""
    seen = set()
    for name in names:
        if name in seen:
            raise InputError(f"{place} names the column '{quoted(name)}' twice; expected every column once.")
        seen.add(name)


@contextmanager
def _long_cells() -> Iterator[None]:
    limit = csv.field_size_limit(MOST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    refuse_packed_table(path)
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            refuse_twice(str(path), file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=PARQUET_ROWS):
                for value in batch.to_pylist():
                    yield Row(f"{path}, row {number} (counted from 0)", value)
                    number += 1
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as Parquet ({quoted(one_line(error))}).") from error


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".json": _read_json,
    ".jsonl": _read_json,
    ".csv": partial(_read_table, delimiter=","),
    ".tsv": partial(_read_table, delimiter="\t"),
    ".parquet": _read_parquet,
}
"""The reader of each suffix."""
