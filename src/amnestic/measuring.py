"""Measuring one model: what it is measured on, and what is kept of the outcome."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from .data.alternates import Alternates, alternates_of
from .data.encode import Encoded, Encoder
from .data.example import Example
from .data.records import take
from .evaluation.collect import Collected, Suite, suite
from .evaluation.conditions import Conditions, Continuing
from .evaluation.metric import Measurement
from .evaluation.metrics.membership import MEMBERS
from .evaluation.metrics.muse import QUESTIONS
from .evaluation.options import EvaluationOptions
from .evaluation.store import Store
from .evaluation.subject import Subject
from .evaluation.sweeps import row_key
from .model.fingerprint import fingerprint_of
from .model.load import Loaded


@dataclass(frozen=True)
class Measured:
    """The examples that a model is measured on."""

    splits: Mapping[str, Sequence[Encoded]]
    alternates: Mapping[str, Mapping[str, Alternates]] = field(default_factory=dict)
    """Split -> kind of other answers -> their rows."""
    conditions: Conditions = field(default_factory=Conditions)
    """What a benchmark says of the splits."""
    template: Mapping[str, Any] = field(default_factory=dict)
    """How prompts were rendered, and the first one of each split, as results.json has it."""

    @classmethod
    def of(
        cls,
        encoder: Encoder,
        examples: Mapping[str, Sequence[Example]],
        splits: Mapping[str, Sequence[Encoded]],
        conditions: Conditions | None = None,
    ) -> "Measured":
        """Return `splits` with all other answers to their prompts; `examples` are what they were encoded from.

        Passages of which `conditions` say how far they are continued are cut there: nothing behind it is measured.
        """
        conditions = conditions or Conditions()
        splits = {name: cut_passages(encoder, rows, conditions.continuing.get(name)) for name, rows in splits.items()}
        chosen = {name: _sources(examples[name], rows) for name, rows in splits.items()}
        alternates = {name: alternates_of(encoder, chosen[name], rows) for name, rows in splits.items()}
        first = {name: rows[0] for name, rows in chosen.items()}
        template = {
            "template": encoder.facts(next(iter(first.values()))),
            "prompts": {name: encoder.prompt(example) for name, example in first.items()},
        }
        return cls(splits, alternates, conditions, template)

    @property
    def fingerprint(self) -> str:
        """Return a hash of all splits: equal where two models are measured on the same."""
        return hashlib.blake2b(json.dumps(self.facts).encode(), digest_size=16).hexdigest()

    @property
    def facts(self) -> dict[str, dict[str, Any]]:
        """Return, by split, what tells whether two models were measured on the same."""
        return {name: self._facts(name, rows) for name, rows in self.splits.items()}

    def _facts(self, name: str, rows: Sequence[Encoded]) -> dict[str, Any]:
        every = {"answer": rows} | {kind: found.rows for kind, found in self.alternates.get(name, {}).items()}
        content, tokens = hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)
        for kind, answers in every.items():
            for row in answers:
                content.update(json.dumps([kind, row.prompt, row.answer]).encode())
                tokens.update(row_key(row))
        return {
            "examples": len(rows),
            "answers": {kind: len(answers) for kind, answers in every.items()},
            "content": content.hexdigest(),
            "tokens": tokens.hexdigest(),
        }


def _sources(examples: Sequence[Example], rows: Sequence[Encoded]) -> Sequence[Example]:
    """Return the examples that `rows` were encoded from, each once; a chunk's id is its example's and a number."""
    names = dict.fromkeys(row.id.partition(".")[0] for row in rows)
    numbers = [int(name.rpartition(":")[2]) for name in names]
    size = len(examples)
    if all(n < size and examples[n].id == name for n, name in zip(numbers, names, strict=True)):
        return take(examples, numbers)  # nothing was left out: none of a million other rows need be read
    places = {example.id: place for place, example in enumerate(examples)}
    return take(examples, [places[name] for name in names])


def cut_passages(encoder: Encoder, rows: Sequence[Encoded], continuing: Continuing | None) -> Sequence[Encoded]:
    """Return `rows`, where they are passages that go on with no more of each than may be generated."""
    if continuing is None or not continuing.goes_on:
        return rows
    return [_cut(encoder, row, row.prompt_length + continuing.max_new_tokens) for row in rows]


def _cut(encoder: Encoder, row: Encoded, length: int) -> Encoded:
    """Return the first tokens of `row`, so many; their answer is what they say behind the prompt."""
    if len(row.input_ids) <= length:
        return row
    ids = row.input_ids[:length]
    answer = str(encoder.tokenizer.decode(ids[row.prompt_length :], skip_special_tokens=True)).strip()
    is_span = None if row.is_span is None else row.is_span[:length]
    return replace(row, input_ids=ids, is_scored=row.is_scored[:length], closes=False, answer=answer, is_span=is_span)


@dataclass(frozen=True)
class Recorded:
    """What was measured of one model, as the run folder keeps it."""

    values: dict[str, float]
    """By the key in results.json."""
    columns: dict[str, dict[str, list[Any]]]
    """Split -> column of its scores -> one value an example."""
    intervals: dict[str, list[float]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    """Key -> a sentence that must be read with the value."""
    not_computed: dict[str, str] = field(default_factory=dict)
    """Key -> why there is no value, and what would supply it."""
    work: dict[str, int] = field(default_factory=dict)
    """What the model was made to do (`Collected.work`)."""
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, collected: Collected, asked: Suite, measured: Measured) -> "Recorded":
        """Return what the run folder keeps of `collected`."""
        found = collected.measurements
        return cls(
            {key: measurement.value for key, measurement in found.items()},
            {split: scores(split, rows, collected, asked) for split, rows in measured.splits.items()},
            {key: list(m.interval) for key, m in found.items() if m.interval is not None},
            {key: m.note for key, m in found.items() if m.note is not None},
            asked.not_computed | collected.undefined,
            collected.work,
            collected.seconds,
        )

    @property
    def facts(self) -> dict[str, Any]:
        """Return what results.json says of the model."""
        more = {"intervals": self.intervals, "metric_notes": self.notes, "not_computed": self.not_computed}
        return {"metrics": self.values} | {name: value for name, value in more.items() if value}

    @property
    def measurements(self) -> dict[str, Measurement]:
        """Return what was measured, with the values of each example where they were kept."""
        return {key: Measurement(value, self._per_example(key)) for key, value in self.values.items()}

    def _per_example(self, key: str) -> np.ndarray | None:
        split, _, metric = key.partition(".")
        places = [(split, metric), (QUESTIONS.get(split, split), metric), *((table, key) for table in MEMBERS)]
        values = next(
            (self.columns[table][name] for table, name in places if name in self.columns.get(table, {})), None
        )
        if values is None:
            return None
        return np.array([np.nan if value is None else value for value in values], dtype=float)


def scores(split: str, examples: Sequence[Encoded], collected: Collected, asked: Suite) -> dict[str, list[Any]]:
    """Return the columns of the per-example values of one model on one split: one value an example.

    A column is called after its metric, and stands with the split that `Metric.rows` names; what a number reads of
    further splits stands with these, under its key.
    """
    columns: dict[str, list[Any]] = {
        "id": [example.id for example in examples],
        "prompt": [example.prompt for example in examples],
        "answer": [example.answer for example in examples],
        "generated": collected.generated(split, len(examples)),
    }
    for item in asked.metrics:
        if (found := collected.measurements.get(item.key)) is None:
            continue
        if item.rows == split and found.per_example is not None:
            columns[item.name] = found.per_example.tolist()
        elif split in found.others:
            columns[item.key] = found.others[split].tolist()
    return columns


def joined(split: str, recorded: Mapping[str, Recorded]) -> dict[str, list[Any]]:
    """Return the columns of one split with one row for each model and example."""
    parts = {model: found.columns[split] for model, found in recorded.items() if split in found.columns}
    rows = {model: len(columns["id"]) for model, columns in parts.items()}
    names = list(dict.fromkeys(name for columns in parts.values() for name in columns))
    table: dict[str, list[Any]] = {"id": [], "model": [model for model, count in rows.items() for _ in range(count)]}
    for name in names:
        table[name] = [v for model, columns in parts.items() for v in columns.get(name, [None] * rows[model])]
    return table


T = TypeVar("T")


def evenly(examples: Sequence[T], most: int) -> Sequence[T]:
    """Return at most `most` of `examples`, evenly spaced."""
    if len(examples) <= most:
        return examples
    return take(examples, np.linspace(0, len(examples) - 1, most).round().astype(int))


@dataclass(frozen=True)
class Measuring:
    """How models are measured, and beside which others."""

    options: EvaluationOptions
    measured: Measured
    store: Store | None = None
    """What outlives the measurement; None: nothing does."""
    reference: Loaded | None = None
    retrained: Mapping[str, Measurement] | None = None
    _names: dict[int, str] = field(default_factory=dict)

    def subject(self, loaded: Loaded, advance: Callable[[int], None] = lambda positions: None) -> Subject:
        """Return `loaded` as metrics see it."""
        names = ("model", "reference")
        if self.store is not None:
            names = (self._name(loaded), self._name(self.reference) if self.reference else "")
        return Subject(
            loaded,
            self.measured.splits,
            self.options,
            self.measured.alternates,
            self.reference,
            self.retrained,
            self.measured.conditions,
            Store() if self.store is None else self.store,
            names,
            advance=advance,
        )

    def anew(self) -> "Measuring":
        """Return the same for models whose weights may have changed since others were measured."""
        return replace(self, _names={})

    def _name(self, loaded: Loaded) -> str:
        """Return what stands for a model; hashing all of its weights is done once, by all processes together."""
        if id(loaded) not in self._names:
            self._names[id(loaded)] = fingerprint_of(loaded)
        return self._names[id(loaded)]

    def suite(self, loaded: Loaded) -> Suite:
        """Return the metrics of `loaded` that the options ask for; raises InputError for one that nobody knows."""
        return suite(self.subject(loaded).contents, self.options.metrics)
