"""One row to an example: which columns it is read from, and what may stand in them."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from typing import Any, NamedTuple

from ..errors import InputError, nearest
from .example import Example, Messages
from .options import DataOptions

FORMS: dict[str, tuple[str, ...]] = {
    "messages": ("messages",),
    "question": ("question", "answer"),
    "prompt": ("prompt", "completion"),
    "text": ("text",),
}
"""Kind of example -> what it is read from, and the default names of these columns; where several fit, the first counts."""


class Row(NamedTuple):
    """A row as it was read; whether it is a mapping of columns to values is for its reader to check."""

    place: str
    """Where it stands, for error messages: ``forget.jsonl, line 3``."""
    value: Any


@dataclass(frozen=True)
class Form:
    """What kind of example the rows of a source hold, and in which columns."""

    kind: str
    columns: tuple[str, ...]
    """Named in the order of `FORMS`; the last one holds the answer."""

    def example(self, id: str, row: Row) -> Example:
        """Return the row as an example.

        Raises InputError for a missing column, an unusable value, and an empty question or answer.
        """
        place, values = row.place, [self._value(row, column) for column in self.columns]
        kind, prompt, answer = self.kind, *self._contents(place, values)
        if not answer.strip():
            raise InputError(f"{place}: '{self.columns[-1]}' holds an empty {_scored(kind)}; fill it, or remove the row.")
        if kind == "question" and not str(prompt).strip():
            raise InputError(f"{place}: '{self.columns[0]}' is empty; fill it, or remove the row.")
        return Example(id, kind if isinstance(prompt, str) else "messages", prompt, answer)

    def _value(self, row: Row, column: str) -> Any:
        columns = _columns(row)
        if column not in columns:
            raise InputError(
                f"{row.place} has no column '{column}' (found: {listing(list(columns))}); every row needs the columns "
                "that the first one is read from."
            )
        return columns[column]

    def _contents(self, place: str, values: list[Any]) -> tuple[str | Messages, str]:
        """Return prompt and answer."""
        if self.kind == "messages":
            return _conversation(place, self.columns[0], _decoded(place, self.columns[0], values[0]))
        if self.kind == "prompt" and any(isinstance(value, list | tuple) for value in values):
            return self._dialogue(place, values)
        prompt, answer = ["", *(_text(place, *pair) for pair in zip(self.columns, values, strict=True))][-2:]
        return prompt, answer

    def _dialogue(self, place: str, values: list[Any]) -> tuple[Messages, str]:
        """Return prompt and answer of a pair of lists of messages, the conversational form of TRL's data sets."""
        prompt, completion = (_turns(place, *pair) for pair in zip(self.columns, values, strict=True))
        if len(completion) != 1:
            raise InputError(f"{place}: '{self.columns[1]}' has {len(completion)} messages; expected one, the assistant's.")
        return _split(place, self.columns[1], [*prompt, *completion])
