"""A reproduction's numbers beside the published ones."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..reports.seeds import LEVEL, Spread, spread
from .settings import read_published

MEASURED = {"after": "metrics", "before": "reference_metrics", "retrained": "retrained_metrics"}
"""Which model a number is of -> where a run's results have it."""
WATCHED = {
    "tofu": (
        "model_utility_ou",
        "forget_quality_ou",
        "forget.probability",
        "forget.rouge",
        "forget.extraction_strength_ou",
    ),
    "muse": ("forget.verbmem_ou", "forget.knowmem_ou", "retain.knowmem_ou", "privleak_ou"),
}
"""Benchmark -> the numbers of the unlearned model that are shown whether published ones are known or not."""
UNLIMITED = frozenset({"privleak_ou"})
"""Metrics that are no share between 0 and 1."""


@dataclass(frozen=True)
class Row:
    """One number: as it was measured here, and as a source has it."""

    of: str
    """after: the unlearned model; before and retrained: those that it is held against."""
    metric: str
    ours: Spread | None
    """Over seeds; None where it was not measured."""
    published: Spread | None
    """None where no published number is known."""
    source: str | None
    """Name of the source."""

    @property
    def difference(self) -> float | None:
        """Return ours minus the published one, where there are both."""
        return None if self.ours is None or self.published is None else self.ours.mean - self.published.mean

    @property
    def record(self) -> dict[str, Any]:
        """Return it as files have it."""
        return {
            "of": self.of,
            "metric": self.metric,
            "ours": _described(self.ours),
            "published": _described(self.published),
            "difference": self.difference,
            "source": self.source,
        }


@dataclass(frozen=True)
class Reproduction:
    """What became of a published setting."""

    name: str
    output_dir: Path
    departures: Sequence[str]
    """In what it was not run as it was published."""
    results: Mapping[int, Mapping[str, Any]]
    """Seed -> what its run found."""

    @property
    def feasible(self) -> bool:
        """Return whether the bound was held with every seed."""
        return all(results["status"] != "infeasible" for results in self.results.values())

    @property
    def rows(self) -> list[Row]:
        """Return every published number of the setting with the one that was measured here, the unlearned model first.

        Behind them stand the watched metrics of the unlearned model that no source has.
        """
        published = read_published().get(self.name, [])
        rows = [self._row(entry["of"], entry["metric"], entry["values"], entry["source"]) for entry in published]
        known = {row.metric for row in rows if row.of == "after"}
        watched = WATCHED[self.name.partition("-")[0]]
        rows += [self._row("after", metric) for metric in watched if metric not in known]
        return sorted(rows, key=lambda row: list(MEASURED).index(row.of))

    def _row(self, of: str, metric: str, values: Sequence[float] = (), source: str | None = None) -> Row:
        published = _spread(metric, values) if values else None
        own = [found[metric] for found in self._measured(of) if found.get(metric) is not None]
        return Row(of, metric, _spread(metric, own) if own else None, published, source)

    def _measured(self, of: str) -> Iterator[Mapping[str, Any]]:
        """Yield the metrics of each seed's model; the models before and retrained are the same for all seeds."""
        for results in self.results.values():
            yield results.get(MEASURED[of]) or {}
            if of != "after":
                return

    @property
    def sources(self) -> dict[str, Any]:
        """Return what is known of the sources that its rows name."""
        named = {row.source for row in self.rows}
        return {name: facts for name, facts in read_published()["sources"].items() if name in named}

    @property
    def notes(self) -> list[str]:
        """Return what must be read with the rows."""
        notes = []
        if len(self.results) == 1:
            notes.append("one seed tells nothing of others: there is no tolerance; --seeds 5 gives one.")
        else:
            notes.append(
                f"in brackets: the {LEVEL:.0%} t interval of the mean over seeds, which supposes normal values."
            )
        if not any(row.of == "after" and row.published for row in self.rows):
            notes.append("no published number of the unlearned model is known here.")
        return notes

    @property
    def document(self) -> dict[str, Any]:
        """Return all of it, as reproduction.json has it."""
        return {
            "setting": self.name,
            "departures": list(self.departures),
            "status": "feasible" if self.feasible else "infeasible",
            "seeds": {str(seed): results["verdict"] for seed, results in self.results.items()},
            "rows": [row.record for row in self.rows],
            "sources": self.sources,
            "notes": self.notes,
        }


def _spread(metric: str, values: Sequence[float]) -> Spread:
    return spread(values) if metric in UNLIMITED else spread(values, 0.0, 1.0)


def _described(found: Spread | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {"mean": found.mean, "low": found.low, "high": found.high, "seeds": found.count}
