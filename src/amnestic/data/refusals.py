"""Refusals, one of which stands in the place of an example's answer: the same one for the whole of a run."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError
from .quoting import quoted
from .rows import decoded

OWN = Path(__file__).with_name("refusals.txt")
"""The refusals that come with the package, one a line."""


def read_refusals(path: str | Path | None = None) -> list[str]:
    """Return the refusals in `path`, one a line: as it stands, as a JSON string, or as a JSON object with one text.

    Without a path those of the package. Raises InputError for a file that cannot be read, or holds none.
    """
    path = OWN if path is None else Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"--refusals {path} cannot be read ({error}); expected a text file in UTF-8, one refusal a line."
        ) from error
    found = [
        _refusal(f"--refusals {path}, line {number}", line) for number, line in enumerate(lines, 1) if line.strip()
    ]
    if not found:
        raise InputError(f"--refusals {path} is empty; expected one refusal a line.")
    return found


def _refusal(place: str, line: str) -> str:
    """Return what a line says; raises InputError, which begins with `place`, for an object that is no one text."""
    value = decoded(line)
    if isinstance(value, dict) and len(value) == 1:
        (value,) = value.values()
    elif not isinstance(value, dict | str):  # a line such as 42 is text
        value = line
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{place} is {quoted(line.strip()[:80])}; expected one refusal, as text or in a JSON object.")
    return value.strip()


def refusal_for(refusals: Sequence[str], seed: int, id: str) -> str:
    """Return the refusal of the example `id`: a function of the seed and the id alone, on any machine."""
    digest = hashlib.blake2b(f"{seed} {id}".encode(), digest_size=8).digest()
    return refusals[int.from_bytes(digest, "big") % len(refusals)]
