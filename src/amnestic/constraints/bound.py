"""Bounds that people can state, and whether a model holds them.

A loss is the mean over the scored tokens of a probe of ``B`` examples, in nats a token.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from ..errors import InputError
from .options import BoundOptions

CONFIDENCE = 0.95
DRAWS = 10_000
DEFAULT_KEEP = 0.98


@dataclass(frozen=True)
class Bound:
    """How far the retain loss may rise, in one of three forms."""

    kind: Literal["keep", "alpha", "bound"]
    requested: float

    @classmethod
    def of(cls, options: BoundOptions, name: str = "retain") -> "Bound":
        """Return the bound that `options` ask for of the retention `name`; keep 0.98 where they ask for none."""
        if name in options.shares:
            return cls("keep", options.shares[name])
        if name in options.limits:
            return cls("bound", options.limits[name])
        if options.alpha is not None:
            return cls("alpha", options.alpha)
        if options.bound is not None:
            return cls("bound", options.bound)
        return cls("keep", DEFAULT_KEEP if options.keep in (None, "none") else float(options.keep))

    def value(self, reference: float, place: str = "retain probe") -> float:
        """Return the bound in nats a token, where the loss before unlearning is `reference` on the `place`.

        keep: reference - log(keep); alpha: (1 + alpha) reference (arXiv:2506.05314); bound: as it stands. Raises
        InputError for a bound that the model does not hold today.
        """
        if self.kind == "keep":
            return reference - math.log(self.requested)
        value = (1 + self.requested) * reference if self.kind == "alpha" else self.requested
        if self.kind == "bound" and value < reference:
            raise InputError(
                f"--bound is {value:g} nats a token, but the model's loss on the {place} is {reference:.6g} "
                "before unlearning; expected a bound above that, or give --keep 0.98."
            )
        return value


@dataclass(frozen=True)
class Sums:
    """A loss, summed over the units (scored tokens) of each of ``B`` examples."""

    sums: np.ndarray
    """(B,) float64."""
    counts: np.ndarray
    """(B,) int64, units."""

    @property
    def mean(self) -> float:
        """Return the mean over all units."""
        return float(self.sums.sum() / max(1, self.counts.sum()))

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Sums":
        """Return the sums that `record` describes."""
        return cls(np.array(record["sums"], dtype=np.float64), np.array(record["counts"], dtype=np.int64))

    @property
    def record(self) -> dict[str, Any]:
        """Return the sums as JSON holds them, exactly."""
        return {"sums": self.sums.tolist(), "counts": self.counts.tolist()}

    def of_some(self) -> "Sums":
        """Return the sums of the examples that have a unit."""
        has_some = self.counts > 0
        return self if has_some.all() else Sums(self.sums[has_some], self.counts[has_some])

    def add(self, example: np.ndarray, values: np.ndarray) -> None:
        """Add `values` (N,), one unit each, to their examples (N,)."""
        np.add.at(self.sums, example, values)
        np.add.at(self.counts, example, 1)


@dataclass(frozen=True)
class Reached:
    """What a model reaches on the probe, held against the bound."""

    reached: float
    upper_limit: float
    """One-sided 95 % upper limit of `reached`, by bootstrap over the probe's examples."""
    holds: bool
    violation: float
    """Nats a token by which the deciding figure exceeds the bound; negative where there is room."""

    @property
    def record(self) -> dict[str, Any]:
        """Return the fields as a record of a log."""
        return asdict(self)


@dataclass(frozen=True)
class Probe:
    """The examples on which the bound is verified, and the losses that they had before unlearning."""

    bound: Bound
    reference: Sums
    whole_split: bool
    """The probe is the whole split: its mean is the figure itself, not an estimate."""
    start: Sums | None = None
    """The losses of the model that the run started from, where `reference` has those of an earlier one."""

    @property
    def limit(self) -> float:
        """Return the bound in nats a token."""
        return self.bound.value(self.reference.mean)

    def judge(self, losses: Sums) -> Reached:
        """Return whether `losses` hold the bound: by their upper limit, or by their mean over a whole split."""
        upper = upper_limit(losses, None if self.bound.kind == "bound" else self.reference)
        decides = losses.mean if self.whole_split else upper
        return Reached(losses.mean, upper, decides <= self.limit, decides - self.limit)


def upper_limit(losses: Sums, reference: Sums | None, seed: int = 0) -> float:
    """Return the one-sided 95 % upper limit of the mean loss, by percentile bootstrap over examples.

    With `reference` the difference of the two means is resampled in pairs, and its limit added to the reference's mean:
    what both share cancels.
    """
    rng = np.random.default_rng(seed)
    size = len(losses.counts)
    means = np.empty(DRAWS)
    for first in range(0, DRAWS, 500):
        weights = rng.multinomial(size, np.full(size, 1 / size), size=500)
        tokens = weights @ losses.counts
        means[first : first + 500] = weights @ losses.sums / tokens
        if reference is not None:
            means[first : first + 500] -= weights @ reference.sums / tokens
    limit = float(np.quantile(means, CONFIDENCE))
    return limit if reference is None else reference.mean + limit
