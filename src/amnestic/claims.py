"""What a run said of its model on its retain probe, and whether the saved model still says so."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from .benchmarks.base import Benchmark, Source
from .constraints.retention import NLL
from .data.encode import Encoded, Split, fact
from .data.example import Example
from .data.options import EvalData
from .data.records import take
from .ended_run import EndedRun
from .errors import InputError, RunError
from .inputs import Given
from .measuring import evenly
from .model.fidelity import RELOAD_TOLERANCE
from .reports.environment import file_hashes
from .reports.results import SCHEMA

PER_TOKEN = "token_probability"
"""The metric that --keep speaks of; -log of it is the loss that bounds are stated in."""
IN_MEMORY = "<"
"""What the names of rows in memory begin with."""


@dataclass(frozen=True)
class Claim:
    """The outcome of a run of unlearning, to be recomputed on the very rows that it was measured on."""

    run: EndedRun

    @classmethod
    def of(cls, data: EvalData) -> Self | None:
        """Return the claim of the run that `data` names; None without one, and where a benchmark is measured.

        Raises InputError for a folder that is no run that ended, or of another version.
        """
        if data.run is None or data.benchmark is not None:
            return None
        run = EndedRun.at(data.run)
        if (found := run.results.get("schema")) != SCHEMA:
            raise InputError(f"--run {run.folder} has results of schema {found!r}; this version reads schema {SCHEMA}.")
        return cls(run)

    @property
    def kept(self) -> list[str]:
        """Return the splits that the run kept; the facts of the first one stand under plain names."""
        return [*self.run.kept]

    def sources(self, data: EvalData, given: Given) -> dict[str, Source]:
        """Return where the run's rows are read from; `data` may say where those of forget and of the leading split are.

        Raises InputError for rows that were in memory then, and are not `given` now.
        """
        named = {"forget": data.forget} | self.run.kept
        named |= {} if data.retain is None else {self.kept[0]: data.retain}
        found: dict[str, Source] = {}
        if (benchmark := self.run.config.get("benchmark")) is not None:
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
        files = [path for source in sources.values() for path in source.files]
        known = set(self.run.environment["sha256"].values())
        for path, digest in file_hashes(files).items():
            if digest not in known:
                raise InputError(
                    f"{path} has changed since the run in {self.run.folder} read it, so its probe cannot be told; give "
                    "the file as it was, with --forget or --retain where it is elsewhere now."
                )

    def chosen(self, split: str, examples: Sequence[Example]) -> Sequence[Example]:
        """Return the examples of a split that have to be encoded: of one that was kept, those of its probe.

        Raises InputError where the split has other rows than the run read.
        """
        rows = self.run.results["data"].get(split, {}).get("rows")
        if rows is not None and rows != len(examples):
            raise InputError(
                f"the {split} split has {len(examples)} rows, and had {rows} in the run in {self.run.folder}; give the "
                "same data."
            )
        if split not in self.kept:
            return examples
        names = {name.partition(".")[0] for name in self._probe(split)}  # chunks of texts have ids of their own
        return take(examples, [place for place, example in enumerate(examples) if example.id in names])

    def rows(self, splits: Mapping[str, Split], most: int) -> dict[str, Sequence[Encoded]]:
        """Return the rows that the run measured: of a split that was kept its probe, of others at most `most`.

        Raises InputError where a row of a probe is not there.
        """
        return {
            name: self._probed(name, split.examples) if name in self.kept else evenly(_forgotten(split.examples), most)
            for name, split in splits.items()
        }

    def _probed(self, split: str, rows: Sequence[Encoded]) -> Sequence[Encoded]:
        places = {row.id: place for place, row in enumerate(rows)}
        probe = self._probe(split)
        if lacking := [name for name in probe if name not in places]:
            raise InputError(
                f"{len(lacking)} of {len(probe)} rows of the probe of {self.run.folder} are not there (the first is "
                f"{lacking[0]}); give the data, --max_length and template of the run."
            )
        return take(rows, [places[name] for name in probe])

    def _probe(self, split: str) -> list[str]:
        """Return the ids of a split's probe."""
        return [name for name in self.run.results["probe_ids"] if name.rpartition(":")[0] == split]

    def facts(self, metrics: Mapping[str, float], dtype: str) -> dict[str, Any]:
        """Return what results.json says of the claim, from what was measured in the precision `dtype`.

        Facts of the leading split stand under plain names, those of others under their names in ``further``. Raises
        RunError where the model gives no finite probability.
        """
        if lacking := [split for split in self.kept if f"{split}.{PER_TOKEN}" not in metrics]:
            raise RunError(
                f"the model in {self.run.model} gives no finite probability on the {lacking[0]} probe; its weights are "
                "broken, so make the run again."
            )
        lead, *others = (self._facts(split, metrics[f"{split}.{PER_TOKEN}"], dtype) for split in self.kept)
        found = {"run": str(self.run.folder), "status": self.run.results["status"]} | lead
        return found | ({"further": {facts["split"]: facts for facts in others}} if others else {})

    def _facts(self, split: str, probability: float, dtype: str) -> dict[str, Any]:
        loss, bound = loss_of(probability), self._bound(split)
        claimed, before = self._loss(split, "reached", "metrics"), self._loss(split, "L_ref", "reference_metrics")
        found: dict[str, Any] = {"split": split, "probe_size": len(self._probe(split)), "loss": loss}
        if claimed is not None:
            tolerance = RELOAD_TOLERANCE[dtype]
            agrees = abs(loss - claimed) <= tolerance
            found |= {"claimed_loss": claimed, "tolerance": tolerance, "agrees": agrees}
        if before is not None:
            found |= {"loss_before": before, "kept": math.exp(before - loss)}
        return found if bound is None else found | {"bound": bound["value"]}

    def _bound(self, split: str) -> Mapping[str, Any] | None:
        """Return the bound of a split in nats a token; None where it has none, or one of another loss."""
        key = "bound" if split == self.kept[0] else f"{split}_bound"
        loss = self.run.results.get("retentions", {}).get(split, {}).get("loss", NLL.name)
        return self.run.results.get(key) if loss == NLL.name else None

    def _loss(self, split: str, of_bound: str, of_metrics: str) -> float | None:
        """Return a loss that the run told of a split's probe, in nats a token; None where it told none.

        Without such a bound a run tells the probability, but where a benchmark's rows stood in the place of the probe.
        """
        if (bound := self._bound(split)) is not None:
            return float(bound[of_bound])
        if self.run.results.get("benchmark") is not None:
            return None
        value = self.run.results.get(of_metrics, {}).get(f"{split}.{PER_TOKEN}")
        return None if value is None else loss_of(value)


def sentence(facts: Mapping[str, Any]) -> str:
    """Return what a user should read first: whether the saved model is the one that the run told of."""
    every = [facts, *facts.get("further", {}).values()]
    return " ".join(_sentence(found) for found in sorted(every, key=lambda found: found.get("agrees", True)))


def _sentence(facts: Mapping[str, Any]) -> str:
    where = f"on the {facts['probe_size']} {facts['split']} rows of its probe"
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
    """Return the rows with something to forget: a metric has nothing to say of a chunk without a marked span."""
    return take(rows, np.flatnonzero(fact(rows, "forgotten") > 0))
