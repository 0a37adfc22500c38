"""Other answers to the prompts of a split: paraphrases of the right ones, wrong ones, and what a method may teach.

``B`` examples, ``R`` rows, each an example with one of its other answers.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import InputError
from .encode import Encoded, Encoder
from .example import ALTERNATES, SECOND, Example, example_rows, rows_with
from .options import DataOptions, SecondAnswersOptions
from .quoting import quoted
from .records import take
from .rows import ABSENT, Row, decoded, described, is_missing, reach, refuse_empty, text_of

SEVERAL = ("perturbed_answer",)
"""Kinds of which a row may have several."""


@dataclass(frozen=True)
class Alternates:
    """The rows of one kind of answers, encoded as the true answers are."""

    rows: Sequence[Encoded]
    """R of them; the id of each is its example's."""
    example: np.ndarray
    """(R,) int64: the example that each row answers, in rising order."""
    too_long: int = 0
    """Rows that were cut at the limit."""


def with_alternates(example: Example, row: Row, options: DataOptions) -> Example:
    """Return `example`, which was read from `row`, with the other answers that the row has.

    A row without a column, or with null in it, has no answers of that kind; nor has a corpus text, which answers
    nothing. Raises InputError, with the place of the row, for an empty list, for an empty answer, and for what is no
    text.
    """
    if example.kind == "text":
        return example
    found = {kind: _answers(row, kind, alternates_column(options, kind)) for kind in _read(options)}
    return replace(example, alternates={kind: answers for kind, answers in found.items() if answers})


def _read(options: DataOptions) -> tuple[str, ...]:
    """Return the kinds of other answers that are read: the one to teach only where something may be taught."""
    return (*ALTERNATES, SECOND) if isinstance(options, SecondAnswersOptions) else ALTERNATES


def alternates_column(options: DataOptions, kind: str) -> str:
    """Return the column that answers of `kind` are read from."""
    named: str | None = getattr(options, f"{kind}_column", None)
    return kind if named is None else named


def refuse_absent(examples: Mapping[str, Sequence[Example]], options: DataOptions) -> None:
    """Raise InputError where no row of any split has the column that an option names for other answers."""
    for kind in _read(options):
        named = getattr(options, f"{kind}_column", None)
        if named is not None and not any(rows_with(rows, kind).any() for rows in examples.values()):
            raise InputError(
                f"no row of {', '.join(examples)} has an answer in the column '{named}' that --{kind}_column names; "
                "check the name."
            )


def alternates_of(encoder: Encoder, examples: Sequence[Example], encoded: Sequence[Encoded]) -> dict[str, Alternates]:
    """Return the other answers to the prompts of `encoded`, by kind: the kinds that every one of its examples has.

    `examples` hold those that `encoded` was made from, found by their ids; an example without tokens to score is in
    neither. Each answer takes the place of the true one: same template, same closing token. Raises InputError where
    nothing of an answer is left to score within the limit; a kind with answers that are to be dropped is left out.
    """
    kinds = [kind for kind in ALTERNATES if rows_with(examples, kind).any()]
    if not kinds:
        return {}
    places = {row.id: place for place, row in enumerate(encoded)}
    found = {places[example.id]: number for number, example in enumerate(examples) if example.id in places}
    if len(found) != len(places):  # chunks of corpus texts have ids of their own, and no other answers
        return {}
    chosen = take(examples, [found[place] for place in range(len(encoded))])
    found_kinds = {kind: _encoded(encoder, kind, chosen) for kind in kinds if rows_with(chosen, kind).all()}
    return {kind: rows for kind, rows in found_kinds.items() if rows is not None}


def _encoded(encoder: Encoder, kind: str, examples: Sequence[Example]) -> Alternates | None:
    """Return the answers of one kind; None where some are too long, and what is too long is to be dropped."""
    given, counts = example_rows(), []
    for example in examples:
        answers = example.alternates[kind]
        given.extend(replace(example, answer=answer, forget_spans=(), alternates={}) for answer in answers)
        counts.append(len(answers))
    drops = encoder.options.too_long == "drop"
    try:
        split = encoder.encode(kind, given)
    except InputError:
        if drops:  # all of them
            return None
        raise
    if split.left_out and drops:
        return None
    if split.left_out:
        lacking = Counter(example.id for example in given) - Counter(row.id for row in split.examples)
        cause = f"too long, with more than {encoder.limit} tokens" if split.too_long else "without a token to score"
        raise InputError(
            f"{split.left_out} of {len(given)} answers of the kind {kind} are {cause} (the first is one of "
            f"{next(iter(lacking))}), and an example cannot be measured without; raise --max_length, or give "
            "--too_long cut where the prompts are shorter."
        )
    return Alternates(split.examples, np.repeat(np.arange(len(counts)), counts), split.too_long)


def _answers(row: Row, kind: str, column: str) -> tuple[str, ...]:
    """Return the answers of `kind` that a row has: none, one, or those of a list."""
    if isinstance(row.value, Example):
        value: Any = row.value.alternates.get(kind)
    else:
        value = reach(row.value, column)
    value = value.tolist() if hasattr(value, "tolist") else value  # rows from pandas come with arrays
    if value is ABSENT or is_missing(value):
        return ()
    return tuple(_checked(f"{row.place}: '{quoted(column)}'", value, kind))


def _checked(where: str, value: Any, kind: str) -> Iterator[str]:
    """Yield the answers that `value` is, or raise InputError, which begins with `where`."""
    if isinstance(value, str) and kind in SEVERAL and isinstance(listed := decoded(value), list):
        value = listed  # a cell of a CSV file
    if not isinstance(value, list | tuple):
        value = [value]
    elif kind not in SEVERAL and len(value) != 1:
        raise InputError(f"{where} is {described(value)} of {len(value)}; expected one text.")
    if not value:
        raise InputError(f"{where} is an empty list; expected at least one answer, or null for none.")
    for number, answer in enumerate(value):
        place = where if len(value) == 1 else f"{where}, answer {number} (counted from 0)"
        text = text_of(place, answer)
        refuse_empty(place, text)
        yield text
