"""Text files as they lie on disks: UTF-8, plain or compressed by gzip; whatever else a file is, is told by name."""

import gzip
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from ..errors import InputError

GZIP = b"\x1f\x8b"
"""How a gzip file begins."""
PARQUET = b"PAR1\x15"
"""How a Parquet file begins."""
START = 4096
"""Bytes at the beginning of a file that tell what it is."""
WIDE = {
    b"\xff\xfe\0\0": "UTF-32",  # begins as the mark of UTF-16 does, so it comes first
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
"""Byte order marks at the beginning of text that is not UTF-8."""
PACKED = {
    b"\x28\xb5\x2f\xfd": "is compressed by Zstandard",
    b"PK\x03\x04": "is a ZIP archive, as .zip and .xlsx files are,",
    **{f"BZh{level}1AY&SY".encode(): "is compressed by bzip2" for level in range(1, 10)},
    b"\xfd7zXZ\0": "is compressed by xz",
    b"7z\xbc\xaf": "is a 7z archive",
}
"""How files begin that cannot be read -> what they are."""
PACKED_SUFFIXES = (".zst", ".zip", ".bz2", ".xz", ".7z", ".tar", ".tgz", ".xlsx", ".br", ".lz4")
"""Suffixes of such files."""
UNPACK = "expected plain text, or text compressed by gzip, so unpack it first."


def open_text(path: Path, newline: str | None = None) -> TextIO:
    """Open UTF-8, with or without a byte order mark, compressed by gzip or not."""
    return io.TextIOWrapper(open_bytes(path), encoding="utf-8-sig", newline=newline)


def open_bytes(path: Path) -> io.BufferedReader | gzip.GzipFile:
    """Open a file for reading, through gzip where it begins as such a file does."""
    file = path.open("rb")
    if file.peek(2)[:2] != GZIP:
        return file
    file.close()
    return gzip.open(path)


def is_packed(path: Path) -> bool:
    """Return whether the name is that of data which must be unpacked first."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return bool(suffixes) and (
        suffixes[-1] in PACKED_SUFFIXES or suffixes[-2:] in ([".parquet", ".gz"], [".tar", ".gz"])
    )


def refuse_no_text(path: Path) -> None:
    """Raise InputError for a file whose first bytes are not those of UTF-8 text, with what they are."""
    with path.open("rb") as file:
        raw = file.read(START)
    if path.suffix.lower() == ".gz" and not raw.startswith(GZIP):
        raise InputError(f"{path} is not compressed by gzip, though its name says so; rename it, or compress it again.")
    if (kind := _beginning(raw, PACKED)) is not None:
        raise InputError(f"{path} {kind} by its first bytes; {UNPACK}")
    if raw.startswith(PARQUET):
        raise InputError(f"{path} is a Parquet file by its first bytes; give it the suffix .parquet.")
    with open_bytes(path) as file:
        start = file.read(START)
    if (wide := _beginning(start, WIDE) or _unmarked(start)) is not None:
        raise InputError(f"{path} is {wide} by its first bytes; expected UTF-8, so save it in that encoding.")
    if len(start) > 1 and not start.strip(b"\0"):
        raise InputError(f"{path} begins with nothing but zero bytes; it is damaged, so copy it again.")


def refuse_packed_table(path: Path) -> None:
    """Raise InputError for a Parquet file that was compressed once more."""
    with path.open("rb") as file:
        start = file.read(START)
    if (kind := _beginning(start, PACKED | {GZIP: "is compressed by gzip"})) is not None:
        raise InputError(f"{path} {kind} by its first bytes; a Parquet file is compressed inside, so unpack it first.")


def not_utf8(path: Path) -> InputError:
    """Return what is wrong with the encoding of a file that is not UTF-8."""
    with open_bytes(path) as file:
        zeros = _unmarked(file.read(START), least=0.02)
        file.seek(0)
        line = next((number for number, line in enumerate(file, 1) if not _is_utf8(line)), 1)
    guess = f" (it looks like {zeros})" if zeros else ""
    return InputError(f"{path}, line {line} is not UTF-8{guess}; save the file in that encoding.")


def _beginning(start: bytes, kinds: Mapping[bytes, str]) -> str | None:
    return next((kind for mark, kind in kinds.items() if start.startswith(mark)), None)


def _unmarked(start: bytes, least: float = 0.0) -> str | None:
    """Return the name of a wide encoding without a mark: its Latin letters leave zeros at every other byte.

    With the first letter a Latin one, as a file of data begins, that is enough; else `least` is the share of these
    bytes that must be zero.
    """
    zeros = [byte == 0 for byte in start[:4].ljust(4, b"x")]
    if zeros in ([False, True, True, True], [True, True, True, False]):
        return "UTF-32 without a byte order mark"
    counts = sorted((start[0::2].count(0), start[1::2].count(0)))
    is_one_sided = counts[1] > 1 and counts[1] > 2 * counts[0]
    begins_so = zeros[0] != zeros[1] if not least else counts[1] >= least * len(start) / 2
    return "UTF-16 without a byte order mark" if is_one_sided and begins_so else None


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True
