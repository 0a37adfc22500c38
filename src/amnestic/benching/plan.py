"""What a comparison consists of: methods under settings, with seeds and folds, and the runs that these become."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ..benchmarks.base import Benchmark, Embedded
from ..benchmarks.folds import Fold, chosen_folds
from ..benchmarks.options import ALL, FREE, BenchOptions
from ..config import (
    BenchConfig,
    BenchRun,
    UnlearnConfig,
    from_mapping,
    options,
    override,
    read_yaml,
    to_mapping,
)
from ..constraints.options import BoundOptions, MultiplierOptions
from ..defaults import configured
from ..errors import InputError, nearest
from ..methods.base import METHODS, Method, build
from ..methods.options import MethodOptions
from ..model.options import AdapterOptions
from ..retaining import will_be_bounded
from ..training.options import UnlearnTraining
from .jobs import Job

OWN = (MethodOptions, MultiplierOptions, UnlearnTraining, AdapterOptions)
"""What a method may have of its own; data, probe and metrics are the same for all, or nothing could be compared."""
MORE = ("retain_weight", "retention", "retention_layer", "refusals", "alternates_file")
"""Options of other classes that it may have as well."""
SHARED = ("method", "seed")
"""Options of OWN that are the comparison's all the same."""


@dataclass(frozen=True)
class Contestant:
    """A method under one setting."""

    method: str
    keep: float | None
    """Share of the probability to keep; None: the method as it was published."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Its own options of ``amnestic unlearn``."""

    @property
    def setting(self) -> str:
        """Return the setting as tables show it."""
        return "free" if self.keep is None else f"keep {self.keep:g}"

    @property
    def label(self) -> str:
        """Return what tells it from all others."""
        return f"{self.method} {self.setting}"

    @property
    def name(self) -> str:
        """Return the label as a file name."""
        return self.label.replace(" ", "-")


@dataclass(frozen=True)
class Plan:
    """A comparison that was checked: every name is known, and every run has a configuration."""

    config: BenchConfig
    benchmark: Benchmark
    contestants: tuple[Contestant, ...]
    notes: tuple[str, ...] = ()
    folds: tuple[Fold, ...] = ()
    """What is forgotten, each by runs of its own; none: the benchmark's forget split."""

    @classmethod
    def of(cls, config: BenchConfig) -> "Plan":
        """Check everything that can be known before a run; raises InputError."""
        _see_working_directory()
        benchmark = Benchmark.open(config.bench.benchmark, config.bench.data)
        folds = chosen_folds(benchmark, config.bench.folds)
        _refuse_unfit(config, benchmark, folds)
        contestants, notes = _contestants(config)
        plan = cls(config, benchmark, contestants, notes, folds)
        for contestant in contestants:
            arguments = plan.unlearning(contestant, config.training.seed).method.method_args
            _built(contestant, arguments, config.bench.settings)
        return plan

    @property
    def root(self) -> Path:
        """Return the folder of the comparison."""
        return Path(self.config.run.output_dir)

    @property
    def seeds(self) -> range:
        """Return the seeds of the runs."""
        first = self.config.training.seed
        return range(first, first + self.config.bench.seeds)

    @property
    def forgotten(self) -> tuple[Fold | None, ...]:
        """Return the folds; None alone stands for the benchmark's forget split."""
        return self.folds or (None,)

    def benchmark_of(self, seed: int, fold: Fold | None = None) -> str:
        """Return the full name of the benchmark, or of one of its folds, that the runs with a seed read."""
        bench = self.config.bench
        name = f"{bench.benchmark}:{seed}" if isinstance(self.benchmark, Embedded) else bench.benchmark
        return name if fold is None else fold.of(Benchmark.open(name, bench.data))

    def models_of(self, seed: int, fold: Fold | None = None) -> Path:
        """Return the folder of the models that are trained with a seed, or of the one that never saw a fold."""
        folder = self.root / "models" / f"seed-{seed}"
        return folder if fold is None else folder / fold.name

    def _retrained_of(self, fold: Fold | None) -> str | None:
        """Return the retrained model that is given, or lies where the names of the benchmark, or fold, suggest.

        A fold that suggests the same model as the whole benchmark has none of its own: that one lacks other rows.
        """
        given, model = self.config.evaluation.retrained, self.config.model.model
        if given is not None or model is None:
            return given
        bench = self.config.bench
        name = self.benchmark_of(self.config.training.seed, fold)
        named = Benchmark.open(name, bench.data).retrained_of(model)
        if name != bench.benchmark and named == self.benchmark.retrained_of(model):
            return None
        return named if named is not None and Path(named).is_dir() else None

    def unlearning(self, contestant: Contestant, seed: int, fold: Fold | None = None) -> UnlearnConfig:
        """Return the configuration of one run; raises InputError for options that exclude each other."""
        own = to_mapping(self.config)
        unlike = (BenchOptions, BenchRun)
        common = {o.name: own[o.name] for o in options(BenchConfig) if o.owner not in unlike}
        decided = {
            "output_dir": str(self.root / "runs" / run_name(contestant, seed, fold)),
            "redact": self.config.run.redact,
            "method": contestant.method,
            "keep": FREE if contestant.keep is None else contestant.keep,
            "seed": seed,
            "cache_dir": self.config.evaluation.cache_dir or str(self.root / "cache"),
        }
        mapping = override(common | decided | self._data(seed, fold), contestant.options)
        try:
            return from_mapping(UnlearnConfig, mapping)
        except InputError as error:
            raise InputError(f"{_place(contestant, self.config.bench.settings)}: {error}") from error

    def _data(self, seed: int, fold: Fold | None) -> dict[str, Any]:
        """Return what is forgotten by which model, and beside which other one."""
        name = self.benchmark_of(seed, fold)
        if isinstance(self.benchmark, Embedded):
            full, retrained = self.models_of(seed) / "full", self.models_of(seed, fold) / "retrained"
            models = {"model": str(full / "model"), "retrained": str(retrained / "model")}
            return {"benchmark": name, "tokenizer": None, "model_revision": None, **models}
        model = {"model": self.config.model.model, "retrained": self._retrained_of(fold)}
        return {"benchmark": name, "data": self.config.bench.data, **model}

    def runs(self) -> Iterator["PlannedRun"]:
        """Yield all runs: every method once on every fold before any method twice."""
        for seed in self.seeds:
            for fold in self.forgotten:
                for contestant in self.contestants:
                    config = self.unlearning(contestant, seed, fold)
                    job = Job(run_name(contestant, seed, fold), config, self.root)
                    yield PlannedRun(contestant, seed, fold, job)


class PlannedRun(NamedTuple):
    """One run of a comparison, and what it is a run of."""

    contestant: Contestant
    seed: int
    fold: Fold | None
    job: Job


def run_name(contestant: Contestant, seed: int, fold: Fold | None) -> str:
    """Return the name of a run's folder."""
    parts = [contestant.name, *([] if fold is None else [fold.name]), f"seed-{seed}"]
    return "-".join(parts)


def bench_config(mapping: Mapping[str, Any], source: str = "") -> BenchConfig:
    """Return the configuration that a flat `mapping` describes, as `from_mapping` does.

    What it leaves open is the benchmark's own choice before it is that of ``amnestic unlearn``.
    """
    _see_working_directory()
    return configured(BenchConfig, mapping, source, "unlearning")


def _see_working_directory() -> None:
    """Let classes be imported that lie in the working directory, as the processes of the runs do (``python -m``)."""
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))


def _refuse_unfit(config: BenchConfig, benchmark: Benchmark, folds: Sequence[Fold]) -> None:
    """Raise InputError for options that make no sense together, or with the benchmark."""
    name = config.bench.benchmark
    if isinstance(benchmark, Embedded):
        kind, part = Benchmark.parted(name)
        if part:
            raise InputError(
                f"--benchmark is {name}, and each seed of the comparison makes its own rows; give --benchmark "
                f"{kind}, and --seed for the first of the seeds."
            )
        if config.evaluation.retrained is not None:
            raise InputError(f"the benchmark {name} trains its own retrained models; leave --retrained out.")
    elif config.model.model is None:
        raise InputError(f"--model is missing: the benchmark {name} needs a model that knows it.")
    if config.evaluation.retrained is not None and len(folds) > 1:
        raise InputError(
            f"--retrained names one model, and each of {len(folds)} folds needs one that never saw it; leave it out, "
            f"or give one fold, such as --folds {folds[0].kind}:{folds[0].name}."
        )
    if config.run.redact and config.template.system_prompt is not None:
        raise InputError(
            "--redact keeps --system_prompt out of all files, and the runs of a comparison read it from one; leave one "
            "of the two out."
        )


def _contestants(config: BenchConfig) -> tuple[tuple[Contestant, ...], tuple[str, ...]]:
    """Return every method under every setting that it has, and notes about those that it has not."""
    file = config.bench.settings
    own = {} if file is None else read_yaml(file)
    found, notes, known = [], [], set()
    for method in _methods(config.bench.methods):
        for keep in config.bench.shares:
            label = Contestant(method, keep).label
            known |= {method, label}
            contestant = Contestant(method, keep, override(_settings(own, method, file), _settings(own, label, file)))
            if keep is None and not _has_free_form(contestant, file):
                notes.append(f"{method} was published with a bound: there is no run of it without one.")
            else:
                found.append(contestant)
    if strange := [str(key) for key in own if key not in known]:
        raise InputError(
            f"{file} has options of '{strange[0]}', which takes no part"
            f"{nearest(strange[0], sorted(known)) or '.'} Expected: {', '.join(sorted(known))}."
        )
    if not found:
        raise InputError(f"nothing is left to run: {' '.join(notes)} Give a share with --keep, such as 0.98.")
    return tuple(found), tuple(notes)


def _methods(named: Sequence[str]) -> list[str]:
    """Return the methods that take part, each once; raises InputError for one that nobody knows."""
    found: list[str] = []
    for name in named:
        if name != ALL and "." in name and not all(part.isidentifier() for part in name.split(".")):
            raise InputError(f"--methods names '{name}'; expected names, or dotted paths of classes.")
        found += _all_methods() if name == ALL else [name]
    for name in found:
        if not issubclass(METHODS.get(name), Method):
            raise InputError(f"method '{name}' is no subclass of amnestic.methods.base.Method.")
    return list(dict.fromkeys(found))


def _all_methods() -> list[str]:
    return [name for name in METHODS.names() if METHODS.get(name).in_all]


def _has_free_form(contestant: Contestant, file: str | None) -> bool:
    """Return whether the method can run without a bound: as it was published, or with a weight of its own."""
    if "retain_weight" in contestant.options:
        return True
    arguments = {key: str(value) for key, value in (contestant.options.get("method_args") or {}).items()}
    return not will_be_bounded(_built(contestant, arguments, file), BoundOptions())


def _built(contestant: Contestant, arguments: Mapping[str, str], file: str | None) -> Method:
    """Return the method with hyper-parameters from `file`; raises InputError, which names it, for what cannot be."""
    try:
        return build(contestant.method, arguments)
    except InputError as error:
        raise InputError(f"{_place(contestant, file)}: {error}") from error


def _place(contestant: Contestant, file: str | None) -> str:
    """Return what an error in the options of a contestant begins with: whose they are, and the file with its own."""
    return contestant.label if file is None or not contestant.options else f"{contestant.label} in {file}"


def _settings(own: Mapping[str, Any], key: str, file: str | None) -> dict[str, Any]:
    """Return the options that a settings file gives to a method, or to one setting of it, checked by name."""
    values = own.get(key) or {}
    if not isinstance(values, Mapping):
        raise InputError(
            f"{file} has a {type(values).__name__} for '{key}'; expected options, one 'option: value' each."
        )
    known = [o.name for o in options(UnlearnConfig) if (o.owner in OWN or o.name in MORE) and o.name not in SHARED]
    for name in values:
        if name not in known:
            close = nearest(str(name), known) or "."
            raise InputError(f"{file} gives '{key}' the option '{name}', which is not a method's own{close}")
    if not isinstance(arguments := values.get("method_args") or {}, Mapping):
        raise InputError(
            f"{file} gives '{key}' the method_args {arguments!r}; expected a mapping, such as {{beta: 0.1}}."
        )
    return dict(values)
