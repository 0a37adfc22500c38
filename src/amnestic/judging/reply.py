"""Reading a judge's reply: strictly, or not at all."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from ..reports.judged import HIGHEST, LOWEST

MOST_STARTS = 100
"""Braces that open no object, beyond which a reply is not searched further: each costs a look at the whole text."""
_THINKING = re.compile(r"\A.*</think(?:ing)?>", re.DOTALL)


class UnreadableError(Exception):
    """A reply that holds no scores, or leaves them open; its text is the reason, and quotes nothing of the reply."""


def scores_of(text: str, criteria: Sequence[str]) -> dict[str, float]:
    """Return the scores in `text`: a JSON object with a number from 0 to 10 for each of `criteria` and nothing else.

    It may stand in a fence or among words, behind what a model thinks first. Raises UnreadableError where there is
    none, or where two of them differ.
    """
    found = list(_objects(_THINKING.sub("", text)))
    if not found:
        raise UnreadableError("no JSON object in the reply")
    read = [_checked(parsed, criteria) for parsed in found]
    scores = [item for item in read if isinstance(item, dict)]
    if not scores:
        raise UnreadableError(str(read[0]))
    if any(item != scores[0] for item in scores):
        raise UnreadableError("several JSON objects that differ")
    return scores[0]


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects in `text` that do not lie within another."""
    decoder = json.JSONDecoder(object_pairs_hook=_unambiguous)
    place, failed = text.find("{"), 0
    while place >= 0 and failed < MOST_STARTS:
        try:
            parsed, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            end, failed = place + 1, failed + 1
        else:
            yield parsed
        place = text.find("{", end)


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; one that names a key twice keeps neither value, and so lacks it."""
    times = Counter(name for name, _ in pairs)
    return {name: value for name, value in pairs if times[name] == 1}


def _checked(parsed: dict[str, Any], criteria: Sequence[str]) -> dict[str, float] | str:
    """Return the scores of an object in the order of `criteria`, or why it holds none."""
    if parsed.keys() != set(criteria):
        return "other criteria than those asked for"
    for value in parsed.values():
        if isinstance(value, bool) or not isinstance(value, int | float):
            return "a score that is no number"
        if not LOWEST <= value <= HIGHEST:
            return f"a score that is not between {LOWEST} and {HIGHEST}"
    return {name: float(parsed[name]) for name in criteria}
