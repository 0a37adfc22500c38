"""What a metric is: a declaration of what it reads, and a pure function of the tables that were read.

``N`` scored tokens of the ``B`` examples of a split.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..data.encode import Encoded
from ..registry import Registry


@dataclass(frozen=True)
class Likelihoods:
    """Teacher-forced values of each scored token of a split, example after example."""

    logp: np.ndarray
    """(N,) float64, natural log-probability of the token."""
    is_argmax: np.ndarray
    """(N,) bool."""
    margin: np.ndarray
    """(N,) float64, max z - mean z at the predicting position."""
    entropy: np.ndarray
    """(N,) float64, nats."""
    counts: np.ndarray
    """(B,) int64, scored tokens of each example."""
    closes: np.ndarray
    """(B,) bool: the example's last scored token is its closing end-of-sequence."""
    is_span: np.ndarray | None = None
    """(N,) bool: the token overlaps a span that its row marks; None where no row of the split marks any."""

    def per_example(self, values: np.ndarray, content_only: bool = False) -> Iterator[np.ndarray]:
        """Yield the part of `values` (N,) of each example; with `content_only` without its closing token."""
        ends = np.cumsum(self.counts)
        for end, count, closes in zip(ends, self.counts, self.closes, strict=True):
            yield values[end - count : end - (1 if content_only and closes else 0)]


@dataclass(frozen=True)
class Generations:
    """Greedy continuations of a split, and the true answers."""

    generated: list[str]
    answers: list[str]


@dataclass(frozen=True)
class Measurement:
    """A metric's value, with its per-example values where it has such, (B,)."""

    value: float
    per_example: np.ndarray | None = None


@dataclass(frozen=True)
class Metric(ABC):
    """A number about one model on one split; the fields of a subclass are its settings."""

    split: str

    name: ClassVar[str]

    @classmethod
    def applies(cls, examples: Sequence[Encoded]) -> bool:
        """Return whether the metric can be computed on `examples`; where it cannot, it is not part of a suite."""
        return True

    @abstractmethod
    def needs(self) -> dict[str, Any]:
        """Return what the metric reads: an argument of `compute` -> a need (see evaluation/needs.py)."""

    @abstractmethod
    def compute(self, *args: Any, **kwargs: Any) -> Measurement:
        """Return the measurement from the tables of `needs`, given by name; numpy only."""


METRICS: Registry[Metric] = Registry("metric", "amnestic.evaluation.metrics")
metric = METRICS.register
