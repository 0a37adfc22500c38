"""How numbers, and texts that nobody has checked, appear on a page."""

import re
import sys
import unicodedata
from collections.abc import Iterator
from itertools import groupby
from typing import Any, NamedTuple

from ..credentials import masked

NOTHING = "–"
_JOINERS = "\u200c\u200d"
"""Ordinary spelling in Persian, Hindi and emoji, where they follow a character beyond `_LAST_LATIN`."""
_LAST_LATIN = "\u024f"
_BLANKS = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0"
    + "".join(map(chr, range(0xFE00, 0xFE0E)))
    + "".join(map(chr, range(0xE0100, 0xE01F0)))
)
"""What nobody sees although Unicode calls it a letter, a mark or a symbol. Of the variation selectors, in which a text
could hide another one, the two that choose between a sign and an emoji are not among them."""
_SEEN_MARKS = "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
"""Format marks that are drawn around the digits or letters that follow (Unicode's Prepended_Concatenation_Mark)."""
_MINUS = "\u2212"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def measured(value: float | None) -> str:
    """Return a measured value with four significant digits: 0.9941, 612.3, 1.084 × 10⁻⁷."""
    if value is None:
        return NOTHING
    if value == 0 or isinstance(value, int):
        return f"{value:,}".replace("-", _MINUS) if value else "0"
    if 1e-4 <= abs(value) < 9999.5:
        return f"{value:#.4g}".rstrip(".").replace("-", _MINUS)
    return f"{value:,.0f}".replace("-", _MINUS) if 1 < abs(value) < 1e7 else _scientific(value)


def _scientific(value: float) -> str:
    digits, _, exponent = f"{value:.3e}".partition("e")
    return f"{digits} ×\u00a010{superscript(int(exponent))}".replace("-", _MINUS)


def superscript(exponent: int) -> str:
    """Return an exponent in raised digits: ⁻⁷."""
    return str(exponent).translate(_SUPERSCRIPTS)


def setting(value: Any) -> str:
    """Return a setting as somebody would type it, numbers with six significant digits at most: 0.0003, 1e-05, yes."""
    if value is None or value == "":
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def percent(share: float) -> str:
    """Return a share as a percentage with as many decimals as it needs, at most two: 98 %, 99.57 %."""
    return f"{100 * share:.2f}".rstrip("0").rstrip(".") + "\u00a0%"


def duration(seconds: float) -> str:
    """Return seconds in the largest two units that say something: 9.2 s, 1 min 32 s, 2 h 5 min."""
    if seconds < 0.1:
        return f"{1000 * seconds:.3g}\u00a0ms"
    if seconds < 59.95:
        return f"{seconds:.1f}\u00a0s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}\u00a0min {rest}\u00a0s"
    return f"{minutes // 60}\u00a0h {minutes % 60}\u00a0min"


def size(count: int) -> str:
    """Return bytes in binary units: 1.24 GiB."""
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.3g}\u00a0{unit}"


class Piece(NamedTuple):
    """A stretch of a text as it is shown; `kind` is "text", "escape", "break" (a line break) or "cut"."""

    kind: str
    text: str


def pieces(text: str, limit: int = sys.maxsize) -> Iterator[Piece]:
    """Yield `text` with every character that cannot be seen, or that moves others, as a visible escape.

    A run of one such character is shown once, with its length. What exceeds `limit` characters is cut, with a mark.
    Credentials are masked.
    """
    text = masked(text)
    shown = text[:limit]
    neighbours = zip("\0" + shown, shown, strict=False)  # each character with the one before it
    for unsafe, run in groupby(neighbours, key=lambda pair: pair[1] if _is_unsafe(*pair) else ""):
        characters = "".join(character for _, character in run)
        if not unsafe:
            yield Piece("text", characters)
            continue
        count = f"×{len(characters)}" if len(characters) > 1 else ""
        yield Piece("break" if unsafe == "\n" else "escape", _escape(unsafe) + count)
    if len(text) > limit:
        yield Piece("cut", f"… {len(text) - limit:,} more characters")


def visible(value: Any, limit: int = sys.maxsize) -> Any:
    """Return a text with its unsafe characters as escapes, cut to `limit`; anything else, markup included, as it is."""
    return "".join(piece.text for piece in pieces(value, limit)) if type(value) is str else value


def sentence(text: str) -> str:
    """Return a sentence of a run as print sets it: 0.99 → 5.68 × 10⁻⁶ for 0.99 -> 5.68e-06, 95 % kept in one line."""
    text = re.sub(
        r"\b(\d(?:\.\d+)?)e([+-]\d+)\b", lambda found: f"{found[1]}\u00a0×\u00a010{superscript(int(found[2]))}", text
    )
    return text.replace(" -> ", " → ").replace(" %", "\u00a0%")


def _escape(character: str) -> str:
    if character == "\n":
        return "↵"
    return character.encode("unicode_escape").decode("ascii")


def _is_unsafe(before: str, character: str) -> bool:
    """Return whether the character is a control, a line separator, unassigned, private, or an invisible mark.

    A joiner is none in writing that uses it, which the character `before` it tells.
    """
    if character in _JOINERS:
        return before <= _LAST_LATIN or before in _JOINERS or _is_unsafe("", before)
    category = unicodedata.category(character)
    if category == "Cf":
        return character not in _SEEN_MARKS
    return character in _BLANKS or category in {"Cc", "Cs", "Co", "Cn", "Zl", "Zp"}
