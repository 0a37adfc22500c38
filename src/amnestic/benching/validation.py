"""The part of a benchmark on which learning rates and epochs are chosen: nothing of it is in the comparison.

An embedded benchmark makes it from a seed of its own: other people, forgotten by another model. Elsewhere rows to keep
are forgotten in the place of those to forget. They are rows that the model knows, that no metric of the comparison
reads, and that are not in the probe of its verdicts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..benchmarks.base import Benchmark, Embedded
from ..config import BenchConfig
from ..data.encode import Encoder, token_digests
from ..data.example import Example, content_digests
from ..data.records import is_among
from ..data.sources import rows_of
from ..errors import InputError
from ..probing import probe_places
from ..scratch import write_rows
from .jobs import Job
from .models import learning, opened, write_lessons
from .plan import Plan

SEED = 1_000_000
"""Seed of an embedded benchmark's validation part; those of a comparison stay below it."""
SHARE = 4
"""The rows that are forgotten are at most one in so many of the validation part."""
METRICS = ("probability", "token_probability")


@dataclass(frozen=True)
class Validation:
    """What the trials of all methods read."""

    options: Mapping[str, Any]
    """Options of ``amnestic unlearn``, in the place of those of the comparison."""
    description: str
    jobs: tuple[Job, ...] = ()
    """Runs that come before the first trial."""
    benchmark: Embedded | None = None
    """What these learn."""
    rows: Mapping[Path, Sequence[Any]] = field(default_factory=dict)
    """File -> the rows that it is to hold."""

    @classmethod
    def of(cls, plan: Plan) -> "Validation":
        """Choose the part, and write nothing; raises InputError where there are too few rows."""
        folder = plan.root / "tuning"
        common = {"metrics": METRICS, "retrained": None, "cache_dir": None}
        if isinstance(plan.benchmark, Embedded):
            own = opened(plan.config.bench.benchmark, SEED)
            models = folder / "models"
            jobs = tuple(learning(plan.config, own, models, SEED, ["full"]))
            data = {"benchmark": f"{plan.config.bench.benchmark}:{SEED}", "model": str(models / "full" / "model")}
            return cls(common | data, f"rows and a model of their own, from seed {SEED}", jobs, own)
        splits = dict(zip(("forget", "retain"), _rows(plan.benchmark, plan.config), strict=True))
        rows = {folder / "data" / f"{split}.jsonl": found for split, found in splits.items()}
        files = dict(zip(splits, map(str, rows), strict=True))
        forgotten, kept = map(len, splits.values())
        text = f"{forgotten} rows to keep, forgotten in the trials, and {kept} others that are kept"
        return cls(common | files | {"benchmark": None, "data": None}, text, rows=rows)

    def write(self) -> None:
        """Write what the trials, and the runs before them, read."""
        if self.benchmark is not None:
            write_lessons(self.jobs, self.benchmark)
        for path, rows in self.rows.items():
            write_rows(path, rows)


def _rows(benchmark: Benchmark, config: BenchConfig) -> tuple[list[Any], list[Any]]:
    """Return the rows that the trials forget, and those that they keep."""
    source = benchmark.training()["retain"]
    retain = source.read("retain", config.template)
    if any(example.kind == "text" for example in retain):
        return _pieces(benchmark, config, retain)
    wanted = len(benchmark.training()["forget"].read("forget", config.template))
    digests = content_digests(retain)
    used = np.zeros(len(retain), dtype=bool)
    used[probe_places(len(retain), config.probe)] = True
    for split, measured in benchmark.evaluation().items():
        used |= is_among(digests, content_digests(measured.read(split, config.template)))
    forgotten, kept = _shared_out(~is_among(digests, digests[used]), wanted, "rows")
    rows = [row.value for row in rows_of(source.name if source.rows is None else source.rows, "retain")]
    return [rows[place] for place in forgotten], [rows[place] for place in kept]


def _pieces(benchmark: Benchmark, config: BenchConfig, retain: Sequence[Example]) -> tuple[list[Any], list[Any]]:
    """Return the same of whole texts, which training, probe and metrics read in pieces of so many tokens."""
    encoder = _encoder(config)
    pieces = encoder.encode("retain", retain).examples
    forget = benchmark.training()["forget"].read("forget", config.template)
    digests = token_digests(pieces)
    used = np.zeros(len(pieces), dtype=bool)
    used[probe_places(len(pieces), config.probe)] = True
    for split, source in benchmark.evaluation().items():
        measured = source.read(split, config.template)
        if any(example.kind == "text" for example in measured):
            used |= is_among(digests, token_digests(encoder.encode(split, measured).examples))
    wanted = len(encoder.encode("forget", forget).examples)
    forgotten, kept = _shared_out(~is_among(digests, digests[used]), wanted, "pieces of texts")
    rows = [{config.template.text_column or "text": piece.prompt + piece.answer} for piece in pieces]
    return [rows[place] for place in forgotten], [rows[place] for place in kept]


def _encoder(config: BenchConfig) -> Encoder:
    """Return what makes tokens of texts as the runs do, with the model's tokenizer and its limit."""
    from ..model.source import read_config, read_tokenizer

    limit = getattr(read_config(config.model).get_text_config(), "max_position_embeddings", None)
    return Encoder(read_tokenizer(config.model), config.template, limit)


def _shared_out(is_free: np.ndarray, wanted: int, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of the last free rows, as many as are `wanted` and at most one in SHARE, and of the others."""
    free = np.flatnonzero(is_free)
    count = min(wanted, len(free) // SHARE)
    if count < 1:
        raise InputError(
            f"--trials chooses on {what} to keep that neither the probe nor a metric reads, and {len(free)} of "
            f"{len(is_free)} are left; lower --probe_size, or give --trials 0 and a file of --settings."
        )
    return free[-count:], free[:-count]
