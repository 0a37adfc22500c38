"""One file to rows: JSON, JSON Lines, CSV, TSV and Parquet, each row with the place that an error message names."""

import codecs
import csv
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from ..errors import InputError
from .quoting import quoted
from .rows import Row, listing

PARQUET_ROWS = 1024
"""Rows of a Parquet file that are held as Python objects at once."""
MOST_CELL = 2**31 - 1
"""Longest cell of a CSV file, in characters; Python's own limit of 131072 is less than a book."""
BLANK = re.compile(r"[ \t\r\n]*")
"""What JSON allows between two values."""
WIDE = {
    codecs.BOM_UTF32_LE: "UTF-32",  # begins as the mark of UTF-16 does, so it comes first
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
"""Byte order marks at the beginning of text that is not UTF-8."""


def is_readable(path: Path) -> bool:
    """Return whether the suffix is one that `read_rows` knows."""
    return path.suffix.lower() in READERS


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
            yield from READERS[path.suffix.lower()](path)
    except UnicodeDecodeError as error:
        raise InputError(_not_utf8(path)) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or one_line(error)}).") from error


def _read_json(path: Path) -> Iterator[Row]:
    """Yield the rows of JSON Lines, or of one array: both are called .json, and only the content tells."""
    with _text(path) as file:
        is_array = file.read(4096).lstrip().startswith("[")
    return _read_array(path) if is_array else _read_lines(path)


def _read_lines(path: Path) -> Iterator[Row]:
    with _text(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise _not_json(path, error, number) from error
            yield Row(f"{path}, line {number}", value)


def _read_array(path: Path) -> Iterator[Row]:
    with _text(path) as file:
        text = file.read()
    try:
        for line, value in _items(text):
            yield Row(f"{path}, line {line}", value)
    except (ValueError, RecursionError) as error:
        raise _not_json(path, error, getattr(error, "lineno", None)) from error


def _items(text: str) -> Iterator[tuple[int, Any]]:
    """Yield the items of a JSON array one by one, so that each comes with its line.

    Raises ValueError or RecursionError for what the json module cannot decode.
    """
    decode = json.JSONDecoder().raw_decode
    position = _skip(text, text.index("[") + 1)
    line, counted = 1, 0
    is_open = not text.startswith("]", position)
    while is_open:
        value, end = decode(text, position)
        line += text.count("\n", counted, position)
        counted = position
        yield line, value
        position = _skip(text, end)
        is_open = text.startswith(",", position)
        if is_open:
            position = _skip(text, position + 1)
        elif not text.startswith("]", position):
            raise json.JSONDecodeError("Expecting ',' delimiter", text, position)
    if (end := _skip(text, position + 1)) != len(text):
        raise json.JSONDecodeError("Extra data", text, end)


def _skip(text: str, position: int) -> int:
    """Return the position of the next character that is not blank."""
    found = BLANK.match(text, position)
    return found.end() if found else position


def _not_json(path: Path, error: Exception, line: int | None) -> InputError:
    cause = quoted(one_line(error))
    if isinstance(error, json.JSONDecodeError):
        cause = f"{error.msg}, column {error.colno}"
    place = str(path) if line is None else f"{path}, line {line}"
    return InputError(
        f"{place} is not JSON ({cause}); expected one object a line, or one array of objects in the file."
    )


def _read_table(path: Path, delimiter: str) -> Iterator[Row]:
    """Yield the rows of a CSV or TSV file, whose first record names the columns."""
    with _text(path, newline="") as file, _long_cells():
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
    twice = [name for name in header if name and header.count(name) > 1]
    if twice:
        raise InputError(f"{place} names the column '{quoted(twice[0])}' twice; expected every column once.")
    if delimiter == "," and len(header) == 1 and re.search("[;\t]", header[0]):
        raise InputError(
            f"{place} names one column, {quoted(listing(header))}; expected commas between the cells of a .csv file."
        )


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

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=PARQUET_ROWS):
                for value in batch.to_pylist():
                    yield Row(f"{path}, row {number} (counted from 0)", value)
                    number += 1
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as Parquet ({quoted(one_line(error))}).") from error


def _text(path: Path, newline: str | None = None) -> TextIO:
    """Open UTF-8, with or without a byte order mark."""
    return path.open(encoding="utf-8-sig", newline=newline)


def _not_utf8(path: Path) -> str:
    """Return what is wrong with the encoding of a file that is not UTF-8."""
    with path.open("rb") as file:
        start = file.read(4)
        for mark, name in WIDE.items():
            if start.startswith(mark):
                return f"{path} is {name} by its first bytes; expected UTF-8, so save it in that encoding."
        file.seek(0)
        line = next((number for number, line in enumerate(file, 1) if not _is_utf8(line)), 1)
    return f"{path}, line {line} is not UTF-8; save the file in that encoding."


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".json": _read_json,
    ".jsonl": _read_json,
    ".csv": partial(_read_table, delimiter=","),
    ".tsv": partial(_read_table, delimiter="\t"),
    ".parquet": _read_parquet,
}
"""The reader of each suffix."""
