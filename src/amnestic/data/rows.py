"""One row to an example: which columns it is read from, and what may stand in them."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from numbers import Real
from typing import Any, NamedTuple

from ..errors import InputError, nearest
from .example import Example, Messages
from .options import DataOptions
from .quoting import quoted

FORMS: dict[str, tuple[str, ...]] = {
    "messages": ("messages",),
    "question": ("question", "answer"),
    "prompt": ("prompt", "completion"),
    "text": ("text",),
}
"""Kind of example -> default names of the columns that it is read from; of several that fit, the first counts."""
ABSENT = object()
"""Stands for the value of a column that a row does not have."""


class Row(NamedTuple):
    """A row as it was read; whether it maps columns to values is for its reader to check."""

    place: str
    """Where it stands, for error messages: ``forget.jsonl, line 3``."""
    value: Any


@dataclass(frozen=True)
class Form:
    """What kind of example the rows of a source hold, and in which columns."""

    kind: str
    columns: tuple[str, ...]
    """In the order of `FORMS`; the last one holds the answer."""

    def example(self, id: str, row: Row) -> Example:
        """Return the row as an example.

        A prompt and a completion that are lists of messages, as in TRL's conversational data, make an example of kind
        "messages". Raises InputError for a missing column, an unusable value, an empty answer or an empty question.
        """
        cells = self._cells(row)
        is_pair_of_lists = self.kind == "prompt" and any(isinstance(value, list | tuple) for _, value in cells)
        if self.kind == "messages" or is_pair_of_lists:
            return Example(id, "messages", *_conversation(cells))
        texts = [text_of(*cell) for cell in cells]
        refuse_empty(cells[-1][0], texts[-1])
        if self.kind == "question":
            refuse_empty(cells[0][0], texts[0])
        return Example(id, self.kind, "" if len(texts) == 1 else texts[0], texts[-1])

    def _cells(self, row: Row) -> list[tuple[str, Any]]:
        """Return the place, as error messages name it, and the value of each column."""
        found = _columns(row)
        values = [reach(found, column) for column in self.columns]
        for column, value in zip(self.columns, values, strict=True):
            if value is ABSENT:
                raise InputError(
                    f"{row.place} has no column '{column}' (found: {quoted(listing(_names(found)))}); every row needs "
                    f"the columns that the first row is read from: {listing(self.columns)}."
                )
        return [(f"{row.place}: '{column}'", value) for column, value in zip(self.columns, values, strict=True)]


def form_of(row: Row, options: DataOptions) -> Form:
    """Return the form of a source whose first row is `row`: the columns that `options` name, or the first of `FORMS`.

    Raises InputError where no form fits, where a named column is missing, and where columns of two forms are named.
    """
    found = _columns(row)
    named = [kind for kind, names in FORMS.items() if any(_named(name, options) is not None for name in names)]
    if len(named) > 1:
        flags = [f"--{name}_column" for kind in named for name in FORMS[kind] if _named(name, options) is not None]
        raise InputError(f"{' and '.join(flags)} name columns of {len(named)} forms of rows; name those of one form.")
    if named:
        return _named_form(named[0], row.place, found, options)
    for kind, columns in FORMS.items():
        if all(column in found for column in columns):
            return Form(kind, columns)
    raise InputError(
        f"{row.place} has no usable columns (found: {quoted(listing(_names(found)))}); expected messages, question and "
        "answer, prompt and completion, or text, or columns named by --messages_column, --question_column and "
        "--answer_column, --prompt_column and --completion_column, or --text_column."
    )


def renewed(id: str, place: str, example: Example) -> Example:
    """Return an example that a caller made, under `id`, checked as a row of a file is.

    Raises InputError as `Form.example` does, and for an unknown kind.
    """
    if example.kind not in FORMS:
        raise InputError(f"{place} is an example of the kind {example.kind!r}; expected one of {listing(FORMS)}.")
    names = FORMS[example.kind]
    values: list[Any] = [example.prompt, example.answer]
    if example.kind == "messages":
        values = [[*example.prompt, {"role": "assistant", "content": example.answer}]]
    row = Row(place, dict(zip(names, values[-len(names) :], strict=True)))
    return replace(Form(example.kind, names).example(id, row), is_whole=example.is_whole)


def listing(names: Iterable[object], most: int = 12) -> str:
    """Return names for an error message, quoted and cut: a file without a header has sentences in their place."""
    texts = [str(name) for name in names]
    shown = [repr(text if len(text) <= 40 else f"{text[:40]}...") for text in texts[:most]]
    return ", ".join([*shown, "..."] if len(texts) > most else shown) or "none"


def _named(name: str, options: DataOptions) -> str | None:
    """Return the column that the options give for the default `name`, if they do."""
    column: str | None = getattr(options, f"{name}_column")
    return column


def _named_form(kind: str, place: str, found: Mapping[Any, Any], options: DataOptions) -> Form:
    """Return the form whose columns the options name; a column of a pair that they do not name keeps its default."""
    columns = {name: name if (column := _named(name, options)) is None else column for name in FORMS[kind]}
    for name, column in columns.items():
        if reach(found, column) is ABSENT:
            names = _names(found)
            advice = quoted(nearest(column, names), instead="") or "; name one of these."
            raise InputError(
                f"{place} has no column '{column}' for --{name}_column (found: {quoted(listing(names))}){advice}"
            )
    return Form(kind, tuple(columns.values()))


def reach(found: Mapping[Any, Any], column: str) -> Any:
    """Return the value of a column, or ABSENT; ``a.b`` without a column of that name is the column b within a."""
    if column in found:
        return found[column]
    outer, _, inner = column.partition(".")
    within = found.get(outer, ABSENT) if inner else ABSENT
    if within is None:  # a missing object has a missing value
        return None
    return reach(within, inner) if isinstance(within, Mapping) else ABSENT


def _names(found: Mapping[Any, Any]) -> list[str]:
    """Return the columns of a row, and those within columns that hold columns, as ``a.b``."""
    names = []
    for name, value in found.items():
        names.append(str(name))
        if isinstance(value, Mapping):
            names += [f"{name}.{inner}" for inner in value]
    return names


def _columns(row: Row) -> Mapping[Any, Any]:
    if not isinstance(row.value, Mapping):
        raise InputError(f"{row.place} is {described(row.value)}; expected an object that maps columns to values.")
    return row.value


def text_of(where: str, value: object) -> str:
    """Return a value as text: numbers as Python writes them."""
    if isinstance(value, Real | Decimal) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    if not isinstance(value, str):
        raise InputError(f"{where} is {described(value)}; expected text{_cure(value)}.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(value[error.start]):04x}"
        raise InputError(f"{where} has half of a surrogate pair, {half}, which is no character; remove it.") from error
    return value


def _cure(value: object) -> str:
    """Return what to do about a value that is no text, as the end of a sentence."""
    if is_missing(value):
        return ", so write some there, or remove the row"
    if isinstance(value, Mapping) and value:
        inner = next((name for name, cell in value.items() if isinstance(cell, str)), next(iter(value)))
        advice = f", which may stand within it: name a column such as ...{inner}"
        return quoted(advice, instead="") if isinstance(inner, str) else ""
    return ""


def is_missing(value: object) -> bool:
    """Return whether a value stands for an empty cell: None, NaN, or what pandas writes there."""
    is_nan = isinstance(value, Real | Decimal) and not isinstance(value, bool) and math.isnan(value)
    return value is None or is_nan or type(value).__name__ in ("NAType", "NaTType")


def refuse_empty(where: str, text: str) -> None:
    """Raise InputError for a text of nothing but white space."""
    if not text.strip():
        raise InputError(f"{where} is empty; write text there, or remove the row.")


def _conversation(cells: list[tuple[str, Any]]) -> tuple[Messages, str]:
    """Return what comes before the assistant's last turn, and its content; a cell is a place and a list of messages."""
    where, _ = cells[-1]
    *before, last = [_turns(*cell) for cell in cells]
    if before and len(last) != 1:
        raise InputError(f"{where} has {len(last)} messages; expected one, the assistant's.")
    turns = [turn for part in (*before, last) for turn in part]
    if all(turn["role"] != "assistant" for turn in last):
        raise InputError(f"{where} has no message with the role assistant; its last one is what is scored.")
    if turns[-1]["role"] != "assistant":
        raise InputError(
            f"{where} ends with a message of the role {quoted(turns[-1]['role'])}; expected the assistant's, so "
            "remove what stands after its last message."
        )
    if len(turns) == 1:
        raise InputError(f"{where} has nothing before the assistant's message; expected a message to answer.")
    refuse_empty(f"{where}: the assistant's last message", turns[-1]["content"])
    return tuple(turns[:-1]), turns[-1]["content"]


def _turns(where: str, value: object) -> list[dict[str, str]]:
    """Return a list of messages with nothing but role and content."""
    value = decoded(value) if isinstance(value, str) else value
    if not isinstance(value, list | tuple):
        raise InputError(f"{where} is {described(value)}; expected a list of messages with role and content.")
    return [_turn(f"{where}, message {number} (counted from 0)", message) for number, message in enumerate(value)]


def _turn(where: str, message: object) -> dict[str, str]:
    if not isinstance(message, Mapping):
        raise InputError(f"{where} is {described(message)}; expected an object with role and content.")
    lacking = [key for key in ("role", "content") if key not in message]
    if lacking:
        found = quoted(listing(message))
        raise InputError(f"{where} has no {lacking[0]} (found: {found}); expected role and content.")
    return {key: text_of(f"{where}: {key}", message[key]) for key in ("role", "content")}


def decoded(text: str) -> object:
    """Return what a string of JSON holds, since a cell of a CSV file is a string; other text stays as it is."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def described(value: object) -> str:
    """Return what a value is, in the words of JSON."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, Real | Decimal):
        return f"the number {quoted(value)}"
    if isinstance(value, str):
        return "text"
    if isinstance(value, list | tuple):
        return "a list"
    if is_missing(value):
        return f"missing ({type(value).__name__})"
    return "an object" if isinstance(value, Mapping) else f"of the type {type(value).__name__}"
