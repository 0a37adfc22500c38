"""A suite of metrics on one model: each distinct need is swept once, whoever reads it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..data.encode import Encoded
from .metric import METRICS, Measurement, Metric
from .needs import Generation, Need, Subject


@dataclass(frozen=True)
class Collected:
    """The tables of all sweeps, and what the metrics made of them."""

    tables: dict[Need, Any]
    measurements: dict[str, Measurement]
    """By ``split.metric``, the key in results.json."""

    @property
    def values(self) -> dict[str, float]:
        """Return the flat dictionary of results.json."""
        return {name: measurement.value for name, measurement in self.measurements.items()}

    def generated(self, split: str) -> list[str | None]:
        """Return the generated answer of each example of `split`."""
        table = self.tables[Generation(split)]
        return list(table.generated)


def suite(splits: Mapping[str, Sequence[Encoded]]) -> list[Metric]:
    """Return every registered metric on each of `splits` that its examples allow."""
    every = [METRICS.get(name) for name in METRICS.names()]
    return [cls(split) for split, examples in splits.items() for cls in every if cls.applies(examples)]


def distinct_needs(metrics: Sequence[Metric]) -> list[Need]:
    """Return what `metrics` read, each need once, in the order of first mention."""
    return list(dict.fromkeys(need for item in metrics for need in item.needs().values()))


def rows(subject: Subject, metrics: Sequence[Metric]) -> int:
    """Return how many rows the sweeps of `metrics` pass over."""
    return sum(len(subject.splits[need.split]) for need in distinct_needs(metrics))


def collect(subject: Subject, metrics: Sequence[Metric]) -> Collected:
    """Sweep every distinct need of `metrics` once, and compute them."""
    tables = {need: need.measure(subject) for need in distinct_needs(metrics)}
    measurements = {}
    for item in metrics:
        read = {argument: tables[need] for argument, need in item.needs().items()}
        measurements[f"{item.split}.{item.name}"] = item.compute(**read)
    return Collected(tables, measurements)
