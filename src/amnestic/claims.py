"""What a run said of its model on its retain probe, and whether the saved model still says so."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from .benchmarks.base import Benchmark, Source
from .data.encode import Encoded, Split, fact
from .data.example import Example
from .data.options import EvalData
from .data.records import take
from .ended_run import EndedRun
from .errors import InputError
from .inputs import Given, files_behind
from .measuring import evenly
from .model.fidelity import RELOAD_TOLERANCE
from .reports.environment import file_hashes

KEPT = "token_probability"
"""The metric that --keep speaks of; -log of it is the loss that bounds are stated in."""
IN_MEMORY = "<"
"""What the names of rows in memory begin with."""


@dataclass(frozen=True)
class Claim:
    """The outcome of a run of unlearning, to be recomputed on the very rows that it was measured on."""

    run: EndedRun

    @classmethod
    def of(cls, data: EvalData) -> Self | None:
        """Return the claim of the run that `data` names; None without one, and where a benchmark is measured."""
        return None if data.run is None or data.benchmark is not None else cls(EndedRun.at(data.run))

    def sources(self, data: EvalData, given: Given) -> dict[str, Source]:
        """Return where the run's forget and retain rows are read from; `data` may say where they are now.

        Raises InputError for rows that were in memory then, and are not `given` now.
        """
        named = {"forget": data.forget, "retain": data.retain}
        benchmark = self.run.config.get("benchmark")
        found: dict[str, Source] = {}
        if benchmark is not None:
            found = Benchmark.open(benchmark, data.data or self.run.config.get("data")).training()
        found |= {split: Source(name) for split, name in named.items() if name is not None}
        for split, source in found.items():
            if source.rows is None and source.name.startswith(IN_MEMORY) and split not in given.data:
                raise InputError(
                    f"the {split} rows of the run in {self.run.folder} were in memory; give them again with --{split}."
                )
        return found

    def refuse_changed(self, sources: Mapping[str, Source]) -> None:
        """Raise InputError where a file that `sources` are read from is none that the run read."""
        files = [path for source in sources.values() for path in files_behind(source.name)]
        known = set(self.run.environment["sha256"].values())
        for path, digest in file_hashes(files).items():
            if digest not in known:
                raise InputError(
                    f"{path} has changed since the run in {self.run.folder} read it, so its probe cannot be told; give "
                    "the file as it was, with --forget or --retain where it is elsewhere now."
                )

    def chosen(self, split: str, examples: Sequence[Example]) -> Sequence[Example]:
        """Return the examples of a split that have to be encoded: of the retain split those of the probe.

        Raises InputError where the split has other rows than the run read.
        """
        rows = self.run.results["data"].get(split, {}).get("rows")
        if rows is not None and rows != len(examples):
            raise InputError(
                f"the {split} split has {len(examples)} rows, and had {rows} in the run in {self.run.folder}; give the "
                "same data."
            )
        if split != "retain":
            return examples
        names = {name.partition(".")[0] for name in self.run.results["probe_ids"]}
        places = [place for place, example in enumerate(examples) if example.id in names]
        return take(examples, places)

    def rows(self, splits: Mapping[str, Split], most: int) -> dict[str, Sequence[Encoded]]:
        """Return the rows that the run measured: of the forget split at most `most`, of the retain split the probe.

        Raises InputError where a row of the probe is not there.
        """
        found = {name: evenly(_forgotten(split.examples), most) for name, split in splits.items()}
        places = {row.id: place for place, row in enumerate(splits["retain"].examples)}
        probe = self.run.results["probe_ids"]
        if lacking := [name for name in probe if name not in places]:
            raise InputError(
                f"{len(lacking)} of {len(probe)} rows of the probe of {self.run.folder} are not there (the first is "
                f"{lacking[0]}); give the data, --max_length and template of the run."
            )
        return found | {"retain": take(splits["retain"].examples, [places[name] for name in probe])}

    def facts(self, metrics: Mapping[str, float], dtype: str) -> dict[str, Any]:
        """Return what results.json says of the claim, from what was measured in the precision `dtype`."""
        loss = loss_of(metrics[f"retain.{KEPT}"])
        claimed, before = self._loss("reached", "metrics"), self._loss("L_ref", "reference_metrics")
        found: dict[str, Any] = {"run": str(self.run.folder), "status": self.run.results["status"]}
        found |= {"probe_size": len(self.run.results["probe_ids"]), "loss": loss}
        if claimed is not None:
            tolerance = RELOAD_TOLERANCE[dtype]
            agrees = abs(loss - claimed) <= tolerance
            found |= {"claimed_loss": claimed, "tolerance": tolerance, "agrees": agrees}
        if before is not None:
            found |= {"loss_before": before, "kept": math.exp(before - loss)}
        bound = self.run.results.get("bound")
        return found if bound is None else found | {"bound": bound["value"]}

    def _loss(self, of_bound: str, of_metrics: str) -> float | None:
        """Return a loss that the run told of its probe, in nats a token; None where it told none.

        A run without a bound tells the probability, but where a benchmark's rows stood in the place of the probe.
        """
        results = self.run.results
        if "bound" in results:
            return float(results["bound"][of_bound])
        if results.get("benchmark") is not None:
            return None
        value = results.get(of_metrics, {}).get(f"retain.{KEPT}")
        return None if value is None else loss_of(value)


def sentence(facts: Mapping[str, Any]) -> str:
    """Return what a user should read first: whether the saved model is the one that the run told of."""
    where = f"on the {facts['probe_size']} rows of its probe"
    loss = f"{facts['loss']:.4g} nats a token"
    bound = f" (the bound is {facts['bound']:.4g})" if "bound" in facts else ""
    kept = ""
    if "kept" in facts:
        kept = f", so that {100 * facts['kept']:.2f} % of the original probability per token is kept"
    if "claimed_loss" not in facts:
        return f"The run said nothing {where}; recomputed {loss}{bound}{kept}."
    if facts["agrees"]:
        return f"The run said {facts['claimed_loss']:.4g} {where}; recomputed {loss}{bound}{kept}."
    return (
        f"THE SAVED MODEL IS NOT WHAT THE RUN TOLD OF: the run said {facts['claimed_loss']:.4g} {where}, recomputed "
        f"{loss}{bound}, more than the tolerance of {facts['tolerance']:g} apart{kept}."
    )


def loss_of(probability: float) -> float:
    """Return nats a token; of a probability too small for a number, those of the smallest number."""
    return -math.log(max(probability, sys.float_info.min))


def _forgotten(rows: Sequence[Encoded]) -> Sequence[Encoded]:
    """Return the rows with something to forget, or all of a split in which nothing is marked."""
    return take(rows, np.flatnonzero(fact(rows, "forgotten") > 0))
