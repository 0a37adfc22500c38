"""Statistics over the seeds of one method: a mean, and how far the mean of other seeds may lie from it."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.95


@dataclass(frozen=True)
class Spread:
    """The mean over seeds with its interval."""

    mean: float
    low: float | None
    """Lower end of the two-sided t interval at `LEVEL`; None for a single value, which says nothing of others."""
    high: float | None
    count: int
    """Values that the mean is of."""


def spread(values: Sequence[float], lowest: float = -math.inf, highest: float = math.inf) -> Spread:
    """Return the mean of at least one value with its t interval, cut to the range that a value can have at all.

    The interval treats values as draws of a normal distribution: of two seeds it is 12.7 standard errors to each side.
    """
    mean, count = statistics.fmean(values), len(values)
    if count < 2:
        return Spread(mean, None, None, count)
    reach = _quantile(count - 1) * statistics.stdev(values) / math.sqrt(count)
    return Spread(mean, max(mean - reach, lowest), min(mean + reach, highest), count)


def _quantile(freedom: int) -> float:
    """Return the quantile of Student's t distribution that leaves half of 1 - `LEVEL` above it."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + LEVEL) / 2))
