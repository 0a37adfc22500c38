"""Which parts of an answer a row marks to be forgotten.

A span is a range of characters ``[start, end)`` of the answer as it stands in the row, counted as Python counts them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any

from ..errors import InputError
from .example import Example, Spans, marked_rows
from .options import DataOptions, SpansOptions
from .rows import ABSENT, Row, decoded, described, reach

COLUMN = "forget_spans"
EXPECTED = "expected pairs of whole numbers, such as [[12, 24]], which count the answer's characters from 0"


def spans_column(options: DataOptions) -> str | None:
    """Return the column of the spans; None for a command that forgets nothing, and reads the whole of every row."""
    return (options.forget_spans_column or COLUMN) if isinstance(options, SpansOptions) else None


def marked(example: Example, row: Row, column: str | None) -> Example:
    """Return `example`, which was read from `row`, with the spans that the row marks in `column`.

    Raises InputError for spans that are not ranges of the answer's characters.
    """
    if column is None:
        return example
    if isinstance(row.value, Example):
        value: Any = row.value.forget_spans or None
    else:
        value = reach(row.value, column)
        value = None if value is ABSENT else value
    spans = read_spans(f"{row.place}: '{column}'", value, example.answer)
    return replace(example, forget_spans=spans) if spans else example


def refuse_misplaced(examples: Mapping[str, Sequence[Example]], options: DataOptions) -> None:
    """Raise InputError where rows that are to be kept mark spans, and where a named column marks none to be forgotten.

    `examples` are those of each split. What is kept is kept whole: a span that is to be forgotten would be held there.
    """
    column = spans_column(options)
    for name, rows in examples.items():
        found = marked_rows(rows)
        if len(found) and name != "forget":
            raise InputError(
                f"{len(found)} {name} rows mark spans to forget in '{column}' (the first is {rows[int(found[0])].id}), "
                f"and {name} rows are kept whole; move them to the forget data, or leave their spans out."
            )
        if name == "forget" and not len(found) and getattr(options, "forget_spans_column", None) is not None:
            raise InputError(
                f"no forget row marks a span in the column '{column}' that --forget_spans_column names; check the name."
            )


def read_spans(where: str, value: Any, answer: str) -> Spans:
    """Return the spans that `value` describes, in order; those that overlap become one.

    `value` is a list of pairs, or of objects with start and end, or either as JSON in a text; nothing (null, an empty
    text) marks no span. An empty list is refused: it says that nothing is to be forgotten, and a row that marks nothing
    is forgotten whole. `where` begins the message of the InputError.
    """
    value = _plain(value)
    if isinstance(value, str):
        value = decoded(value) if value.strip() else None
    if value is None or (isinstance(value, float) and math.isnan(value)):  # what pandas puts where nothing stands
        return ()
    if not isinstance(value, list | tuple):
        raise InputError(f"{where} is {described(value)}; {EXPECTED}.")
    if not value:
        raise InputError(
            f"{where} is an empty list, which marks nothing; leave it out (null, an empty cell) to forget the whole "
            "answer, or remove the row to forget nothing of it."
        )
    return _joined(sorted(_span(where, item, answer) for item in value))


def _span(where: str, item: Any, answer: str) -> tuple[int, int]:
    item = _plain(item)
    if isinstance(item, Mapping) and {"start", "end"} <= set(item):
        item = (item["start"], item["end"])
    if not isinstance(item, list | tuple) or len(item) != 2 or not all(map(_is_whole, item)):
        raise InputError(f"{where} holds {_shown(item)}; {EXPECTED}.")
    start, end = map(int, item)
    if not 0 <= start < end:
        raise InputError(f"{where} holds [{start}, {end}]; expected a start of at least 0 and an end above the start.")
    if end > len(answer):
        raise InputError(
            f"{where} holds [{start}, {end}], and the answer has {len(answer)} characters; expected an end of at most "
            f"{len(answer)}."
        )
    return start, end


def _joined(spans: list[tuple[int, int]]) -> Spans:
    """Return sorted spans with those that overlap as one; spans that only touch stay two."""
    joined = spans[:1]
    for start, end in spans[1:]:
        first, last = joined[-1]
        if start < last:
            joined[-1] = (first, max(last, end))
        else:
            joined.append((start, end))
    return tuple(joined)


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _plain(value: Any) -> Any:
    """Return an array as the list that it holds: rows from pandas come with arrays."""
    return value.tolist() if hasattr(value, "tolist") else value


def _shown(item: Any) -> str:
    """Return an item for an error message; a list of numbers as it is, anything else by what it is."""
    if isinstance(item, list | tuple) and all(part is None or isinstance(part, int | float) for part in item):
        return str(list(item))
    return described(item)
