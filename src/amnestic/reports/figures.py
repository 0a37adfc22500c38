"""The figures of a leaderboard: which there are, what they mean, and what a run says of each.

What a metric means stands in its class; this module adds what a run says beside its metrics.
"""

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..evaluation.explanation import describe
from .display import duration, measured, percent, size
from .judged import HIGHEST, LOWEST, PREFIX, is_leading, named

KEPT = "retain_kept"
HELD_METRIC = "retain.token_probability"
"""The number that --keep speaks of."""
SECONDS, MEMORY = "training_seconds", "peak_memory_bytes"
PLAIN_FORGOTTEN, SPANS_FORGOTTEN, RECITED = "forget.probability", "forget.span_probability", "forget.verbmem"
KNOWN_KEPT = "retain.knowmem"
FORGOTTEN_AXIS = (SPANS_FORGOTTEN, RECITED, PLAIN_FORGOTTEN)
KEPT_AXIS = (KNOWN_KEPT, KEPT)
"""What the axes of the trade-off may show: the first that every run has measured."""
UTILITY = (KNOWN_KEPT, "model_utility", "retain.probability")
"""What was kept in the words of the benchmark: the first of them that is measured."""
PLAIN_TEXTS = ("forget.exact_memorization", "forget.rouge")
"""Beside what is recited of whole texts, they say the same once more."""
FORGETTING = (
    SPANS_FORGOTTEN,
    RECITED,
    "forget.knowmem",
    PLAIN_FORGOTTEN,
    "forget.extraction_strength",
    "forget.exact_memorization",
    "forget.truth_ratio",
    "forget_quality",
    "forget_quality_log10",
    "forget.rouge",
)
PRIVLEAK = "privleak"
MEMBERSHIP = re.compile(rf"mia\..+\.auc|{PRIVLEAK}")
MAIN_ATTACK = "mia.min_k.auc"
"""Which of the attacks on membership the tables show: the one that PrivLeak is made of."""

RANGES = {"forget_quality_log10": (-math.inf, 0.0)}
"""Key -> the least and the largest value that there can be, where the metric is no share."""


@dataclass(frozen=True)
class Figure:
    """One column of a leaderboard."""

    key: str
    """Of results.json where it is a metric."""
    label: str
    direction: str
    """What a change means, such as "lower means more forgotten"; nothing where nobody knows."""
    lowest: float = -math.inf
    highest: float = math.inf
    """Between the two lie all values that there can be."""
    is_shown: bool = True
    """The tables for people have the column; the files for programs have all of them."""
    written: Callable[[float], str] = measured
    """The value as people read it."""


def _bytes(count: float) -> str:
    return size(round(count))


COSTS = (
    Figure(SECONDS, "Training time", "lower means less time", lowest=0.0, written=duration),
    Figure(MEMORY, "Peak memory", "lower means less memory", lowest=0.0, written=_bytes),
)


def figures(keys: Iterable[str]) -> list[Figure]:
    """Return the columns for what the runs have values of, by `keys`; what nobody measured has none."""
    known = set(keys)
    utility = [key for key in UTILITY if key in known]
    attacks = sorted((key for key in known if MEMBERSHIP.fullmatch(key)), key=lambda key: describe(key).place)
    forgetting = [key for key in FORGETTING if key in known]
    doubled = PLAIN_TEXTS if RECITED in known else ()
    columns = [_metric(key, key not in doubled) for key in forgetting]
    columns += [_metric(key, key == utility[0]) for key in utility]
    if KEPT in known:
        direction = describe(HELD_METRIC).direction
        columns.append(Figure(KEPT, "Retention kept", direction, lowest=0.0, written=percent))
    main = MAIN_ATTACK if MAIN_ATTACK in known else next(iter(attacks), "")
    columns += [_metric(key, key in (main, PRIVLEAK)) for key in attacks]
    columns += [_judged(key) for key in sorted(known) if key.startswith(PREFIX)]
    return columns + [cost for cost in COSTS if cost.key in known]


def _judged(key: str) -> Figure:
    """Return the column of a judge's mean; tables for people have one a split."""
    split, label = named(key)
    return Figure(key, f"{label} (judge), {split}", "higher is better", LOWEST, HIGHEST, is_leading(key))


def _metric(key: str, is_shown: bool) -> Figure:
    known = describe(key)
    label = f"{known.label}, {known.split}" if known.split else known.label
    low, high = RANGES.get(key, (0.0, 1.0) if known.is_share else (-math.inf, math.inf))
    is_shown = is_shown and key != "forget_quality"  # its logarithm says the same, and can be averaged
    return Figure(key, label, known.direction, low, high, is_shown)


def axis(columns: Iterable[Figure], keys: Iterable[str], measured: Collection[Mapping[str, float]]) -> Figure | None:
    """Return the first of `keys` that all runs, whose values are `measured`, have, else the last; None without it."""
    known = {column.key: column for column in columns}
    *first, last = keys
    found = next((key for key in first if measured and all(key in values for values in measured)), last)
    return known.get(found)


def values_of(metrics: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """Return the figures of a model: its metrics, and what it kept of the model `before`, where both were measured."""
    known = dict(metrics)
    had, has = before.get(HELD_METRIC), metrics.get(HELD_METRIC)
    if had and has is not None:
        known[KEPT] = has / had
    return known


def costs_of(results: Mapping[str, Any]) -> dict[str, float]:
    """Return what a run took, as far as its results tell."""
    costs = {SECONDS: (results.get("training") or {}).get("seconds"), MEMORY: results.get("peak_memory_bytes")}
    return {key: float(value) for key, value in costs.items() if value is not None}


def missing_reason(key: str, results: Mapping[str, Any]) -> str:
    """Return why a run has no value of a figure, as a clause."""
    if key == KEPT:
        return f"{HELD_METRIC} was not measured both before and after"
    return str((results.get("not_computed") or {}).get(key) or "not measured")
