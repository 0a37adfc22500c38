"""What a metric is: a declaration of what it reads, and a pure function of the tables that were read.

``R`` rows (an example with one of its answers), ``N`` scored tokens of all of them, ``B`` examples of a split.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

import numpy as np

from ..registry import Registry
from .conditions import Conditions

KNOWLEDGE = MappingProxyType(
    {
        "forget": "lower means more forgotten",
        "retain": "higher means more kept",
        "real_authors": "higher means more kept",
        "world_facts": "higher means more kept",
        "data": "higher means more learned",
    }
)
"""Split -> what a value means that rises with what the model knows."""
UNTOUCHED = MappingProxyType(
    {
        "forget": "what a retrained model has",
        "retain": "what the model had before",
        "real_authors": "what the model had before",
        "world_facts": "what the model had before",
        "holdout": "what the model had before",
        "data": "none; as much as was to be learned",
    }
)
"""Split -> the best value, where it is that of another model."""
PART = re.compile(r"(?P<whole>\w+?)_(?:(?P<number>\d+)|qa|texts)")


def whole_of(split: str) -> str:
    """Return the split that `split` is a part of, whose meaning it has: ``forget`` for ``forget_2`` or ``forget_qa``.

    Any other split is its own.
    """
    found = PART.fullmatch(split)
    return found["whole"] if found and found["whole"] in KNOWLEDGE else split


class UndefinedError(ValueError):
    """The formula of a metric has no value for what was measured; the text is the reason, as a clause."""


@dataclass(frozen=True)
class Likelihoods:
    """Teacher-forced values of each scored token of some rows, row after row."""

    logp: np.ndarray
    """(N,) float64, natural log-probability of the token."""
    is_argmax: np.ndarray
    """(N,) bool."""
    margin: np.ndarray
    """(N,) float64, max z - mean z at the predicting position."""
    moments: np.ndarray
    """(N, 2) float64, mean and mean square of log p under the model's own next-token distribution."""
    counts: np.ndarray
    """(R,) int64, scored tokens of each row."""
    closes: np.ndarray
    """(R,) bool: the row's last scored token is its closing end-of-sequence."""
    example: np.ndarray
    """(R,) int64: the example of the split that the row answers; rising, and 0, 1, ... for the true answers."""
    answers: Sequence[str]
    """(R,) the answer of each row, as text; of a corpus text, which has no prompt, the whole of it."""
    is_span: np.ndarray | None = None
    """(N,) bool: the token overlaps a span that its row marks; None where no row of the split marks any."""

    @property
    def entropy(self) -> np.ndarray:
        """Return (N,) float64, nats: the entropy of the model's next-token distribution."""
        entropy: np.ndarray = -self.moments[:, 0]
        return entropy

    def per_example(self, values: np.ndarray, content_only: bool = False) -> Iterator[np.ndarray]:
        """Yield the part of `values` (N, ...) of each row; with `content_only` without its closing token."""
        ends = np.cumsum(self.counts)
        for end, count, closes in zip(ends, self.counts, self.closes, strict=True):
            yield values[end - count : end - (1 if content_only and closes else 0)]

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Return (R,) float64, the sum of `values` (N,) over each row; 0 for a row without a token."""
        rows = np.repeat(np.arange(len(self.counts)), self.counts)
        return np.bincount(rows, weights=values, minlength=len(self.counts))

    @property
    def losses(self) -> np.ndarray:
        """Return (R,) float64, nats a token: the mean of -log p of each row, its closing token included.

        NaN for a row without a token.
        """
        with np.errstate(invalid="ignore"):
            losses: np.ndarray = -self.sums(self.logp) / self.counts
        return losses


@dataclass(frozen=True)
class Generations:
    """Greedy continuations of a split's prompts, and the true answers, each (B,)."""

    generated: list[str]
    answers: list[str]
    tokens: np.ndarray
    """(B,) int64, generated tokens, that which ends the answer left out; those of a stop string are among them."""
    has_ended: np.ndarray
    """(B,) bool: the model ended its answer by itself, within the tokens that it was given."""
    token_ids: Sequence[np.ndarray] = ()
    """(B,) the generated tokens."""


@dataclass(frozen=True)
class Measurement:
    """A metric's value, with what else is known of it."""

    value: float
    per_example: np.ndarray | None = None
    """(B,) float64, where the metric has a value for each example; NaN where one has none. Examples of the metric's
    split, or of `Metric.rows`."""
    others: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Split -> (B,) float64: values of the examples of further splits that the value comes from."""
    interval: tuple[float, float] | None = None
    """95 % bootstrap interval, over examples."""
    note: str | None = None
    """A sentence that must be read with the value."""


class Need(Protocol):
    """Something that a model is read for; two equal needs are one. What there is of them: needs.py."""

    def missing(self, contents: "Contents") -> str | None:
        """Return why it cannot be had of `contents`, and what would supply it, as a clause; None where it can."""
        ...


@dataclass(frozen=True)
class Contents:
    """What there is to read: it decides which metrics a suite has, and why others are not computed."""

    answers: Mapping[str, frozenset[str]]
    """Split -> the kinds of answers that its rows have: ``answer``; ``paraphrased_answer`` and ``perturbed_answer``
    where every row has them; ``span`` where rows mark spans."""
    has_reference: bool = False
    """A reference model is at hand."""
    retrained: frozenset[str] | None = None
    """Keys of the retrained model's measurements with per-example values; None: there is no such model."""
    conditions: Conditions = field(default_factory=Conditions)
    """What a benchmark says of the splits."""

    @property
    def measured(self) -> list[str]:
        """Return the splits of which somebody would look for every number: all but the auxiliary ones."""
        return [split for split in self.answers if split not in self.conditions.auxiliary]


@dataclass(frozen=True)
class Metric(ABC):
    """A number about one model; the fields of a subclass are its settings, `split` first where it is about one."""

    name: ClassVar[str]
    on_request: ClassVar[bool] = False
    """The metric takes part only where it is named: it costs more than a forward pass, or is another convention."""

    label: ClassVar[str] = ""
    """A short name for people; nothing: the metric's name."""
    formula: ClassVar[str] = ""
    """With l the mean of -log p over an answer's tokens, and P = exp(-l)."""
    directions: ClassVar[Mapping[str, str]] = KNOWLEDGE
    """Split -> what a change means, such as "lower means more forgotten"; "" for every other split, and for none. Parts
    have the meaning of their whole (`whole_of`)."""
    targets: ClassVar[Mapping[str, str]] = UNTOUCHED
    """Split -> the best value; "" for every other split, and for none."""
    source: ClassVar[str] = ""
    """Where the definition comes from."""
    is_share: ClassVar[bool] = False
    """The value lies between 0 and 1."""
    place: ClassVar[int] = 100
    """Where tables list the metric: lower ones first."""

    @property
    def key(self) -> str:
        """Return the key of results.json: ``split.metric``, or the metric's name."""
        split = getattr(self, "split", "")
        return f"{split}.{self.name}" if split else self.name

    @property
    def rows(self) -> str:
        """Return the split whose examples the values of `Measurement.per_example` are of; "" where there is none."""
        return str(getattr(self, "split", ""))

    @classmethod
    def instances(cls, contents: Contents) -> Iterator["Metric"]:
        """Yield the metrics of this class that somebody would look for in `contents`; computable or not.

        By default one for each split, or the only one of a class without a split.
        """
        if any(item.name == "split" for item in fields(cls)):
            yield from (cls(split) for split in contents.measured)  # type: ignore[call-arg]
        else:
            yield cls()

    @abstractmethod
    def needs(self) -> Mapping[str, "Need | Metric"]:
        """Return what the metric reads: an argument of `compute` -> a need, or another metric's measurement."""

    @abstractmethod
    def compute(self, *args: Any, **kwargs: Any) -> Measurement:
        """Return the measurement from the tables and measurements of `needs`, given by name; numpy only."""


METRICS: Registry[Metric] = Registry("metric", "amnestic.evaluation.metrics")
metric = METRICS.register
