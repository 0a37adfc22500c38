"""95 % bootstrap intervals over examples: drawn with replacement, percentiles, always from the same seed.

The examples of a split are drawn once for whatever a number takes from them, so a ratio or a mean of several numbers
keeps their dependence. Equal numbers of examples get equal draws: two metrics of one split are paired.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

RESAMPLES = 1000
SEED = 0
LEVEL = 0.95
DRAWN_AT_ONCE = 4_000_000
"""Indices that memory holds; what is drawn does not depend on it."""

Interval = tuple[float, float] | None
Statistic = Callable[..., np.ndarray]
"""Arrays of indices (..., B), one for each split, to values (...,)."""


def interval(statistic: Statistic, *sizes: int) -> Interval:
    """Return the interval of a number made from examples of splits of the given sizes, each drawn by itself.

    None where a split has a single example, which says nothing of others, or where the number is not finite.
    """
    from scipy.stats import bootstrap

    if min(sizes) < 2 or not np.isfinite(statistic(*map(np.arange, sizes))):
        return None

    def reduced(*indices: np.ndarray, axis: int) -> Any:
        return statistic(*(np.moveaxis(index, axis, -1) for index in indices))

    with np.errstate(all="ignore"):
        found = bootstrap(
            tuple(np.arange(size) for size in sizes),
            reduced,
            n_resamples=RESAMPLES,
            batch=max(1, DRAWN_AT_ONCE // sum(sizes)),
            vectorized=True,
            confidence_level=LEVEL,
            method="percentile",
            rng=np.random.default_rng(SEED),
        ).confidence_interval
    low, high = float(found.low), float(found.high)
    return (low, high) if np.isfinite([low, high]).all() else None


def of_mean(values: np.ndarray) -> Interval:
    """Return the interval of the mean of `values` (B,)."""
    return interval(lambda index: values[index].mean(-1), len(values))


def of_ratio(numerators: np.ndarray, denominators: np.ndarray, scale: Statistic = lambda ratio: ratio) -> Interval:
    """Return the interval of scale(sum of numerators / sum of denominators), each (B,): a mean over tokens, say."""
    return interval(
        lambda index: scale(numerators[index].sum(-1) / denominators[index].sum(-1)),
        len(numerators),
    )
