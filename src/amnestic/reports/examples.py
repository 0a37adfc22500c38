"""The examples that a report shows: the same rows of a split under each model, side by side."""

import math
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import InputError
from ..evaluation.explanation import place_of

MODELS = {"before": "Before", "retrained": "Retrained", "after": "After"}
PARAGRAPH = "\n\n"
_COLUMNS = ("id", "model", "prompt", "answer", "generated", "probability", "rouge")


class Given(NamedTuple):
    """What one model makes of an example."""

    model: str
    label: str
    generated: str | None
    probability: float | None
    rouge: float | None
    is_verbatim: bool
    """Whether the generated answer is the true one, white space at the ends aside."""


class Shown(NamedTuple):
    """An example with the answers of all models that were measured on it."""

    id: str
    prompt: str
    answer: str
    given: tuple[Given, ...]


class Split(NamedTuple):
    """The shown examples of a split."""

    name: str
    examples: list[Shown]
    size: int
    """Examples of the split that were measured."""
    shared: str = ""
    """What stands in front of every question, and is left out of the prompts here: questions with their answers."""

    @property
    def is_generated(self) -> bool:
        """Return whether any answer was generated."""
        return any(given.generated is not None for example in self.examples for given in example.given)


def read_splits(folder: Path, most: int) -> list[Split]:
    """Return at most `most` examples of each ``<split>.parquet`` in `folder`, in the order of tables."""
    paths = sorted(folder.glob("*.parquet"), key=lambda path: place_of(path.stem))
    return [_split(path.stem, _read(path), most) for path in paths]


def _split(name: str, rows: Sequence[Mapping[str, Any]], most: int) -> Split:
    by_id: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        by_id.setdefault(str(row["id"]), {})[row["model"]] = row
    ids = evenly(list(by_id), most)
    shared = _shared([row.get("prompt") or "" for row in rows])
    return Split(name, [_shown(identifier, by_id[identifier], len(shared)) for identifier in ids], len(by_id), shared)


def _shared(prompts: Sequence[str]) -> str:
    """Return the paragraphs that all prompts begin with; nothing where one of them has no more than these."""
    first, last = min(prompts, default=""), max(prompts, default="")
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    shared = "".join(first[:same].rpartition(PARAGRAPH)[:2])
    return shared if len(first) > len(shared) else ""


def evenly(items: Sequence[str], most: int) -> list[str]:
    """Return at most `most` items, evenly spaced, the first always among them."""
    count = min(most, len(items))
    return [items[place * len(items) // count] for place in range(count)]


def _shown(identifier: str, by_model: Mapping[str, Mapping[str, Any]], begin: int) -> Shown:
    row = next(iter(by_model.values()))
    answer = row.get("answer") or ""
    given = tuple(_given(model, by_model[model], answer) for model in MODELS if model in by_model)
    return Shown(identifier, (row.get("prompt") or "")[begin:], answer, given)


def _given(model: str, row: Mapping[str, Any], answer: str) -> Given:
    generated = row.get("generated")
    is_verbatim = generated is not None and generated.strip() == answer.strip()
    return Given(
        model, MODELS[model], generated, _number(row.get("probability")), _number(row.get("rouge")), is_verbatim
    )


def _read(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file of scores; raises InputError where it cannot be read."""
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}.") from error
    missing = {"id", "model"} - set(table.column_names)
    if missing:
        raise InputError(f"{path} has no column '{min(missing)}'; expected the scores of a run.")
    rows: list[dict[str, Any]] = table.select([name for name in _COLUMNS if name in table.column_names]).to_pylist()
    return rows


def _number(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value
