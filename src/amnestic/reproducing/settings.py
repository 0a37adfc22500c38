"""The published settings: a YAML file of options each, found in a checkout and in an installed package."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..benchmarks.base import Benchmark
from ..config import UnlearnConfig, from_mapping, override, read_yaml
from ..errors import InputError, nearest
from .demand import Demand, Shape

PLACES = (Path(__file__).parents[1] / "configs" / "paper", Path(__file__).parents[3] / "configs" / "paper")
"""Where the files are: in an installed package, and in a checkout."""
BENCHMARKS = ("tofu-*", "muse-*")
"""What the names of settings look like; the folder holds other files too."""


@dataclass(frozen=True)
class Setting:
    """One run that was published: a model, what it forgets, and every option."""

    name: str
    options: Mapping[str, Any]
    """Those of ``amnestic unlearn``; what is not among them keeps its default."""

    @cached_property
    def config(self) -> UnlearnConfig:
        """Return the run as it was published."""
        return from_mapping(UnlearnConfig, override(self.options, {"output_dir": self.name}), self.name)

    @property
    def batch(self) -> int:
        """Return the rows of each split in an optimiser step."""
        training = self.config.training
        return training.per_device_train_batch_size * training.gradient_accumulation_steps

    @property
    def retrained(self) -> str | None:
        """Return the public model that never saw the forget rows, where the benchmark's names lead to one."""
        return Benchmark.open(self.options["benchmark"]).retrained_of(self.options["model"])

    @property
    def demand(self) -> Demand:
        """Return what it needs of a machine."""
        return Demand.of(self.config, shape_of(self.config.model.model))

    @property
    def facts(self) -> dict[str, Any]:
        """Return what a list says of it: its options, and what it needs."""
        models = [self.config.model.model] + ([] if self.retrained is None else [self.retrained])
        return {"options": dict(self.options), "models": models, **self.demand.facts(len(models))}


def settings() -> list[Setting]:
    """Return all of them, by name."""
    paths = sorted(path for pattern in BENCHMARKS for path in _folder().glob(f"{pattern}.yaml"))
    return [Setting(path.stem, read_yaml(path)) for path in paths]


def find(name: str) -> Setting:
    """Return the setting called `name`; raises InputError for an unknown name."""
    known = {setting.name: setting for setting in settings()}
    if name not in known:
        close = nearest(name, list(known)) or "."
        raise InputError(f"unknown setting '{name}'{close} amnestic reproduce, without a name, lists all.")
    return known[name]


def shape_of(model: str) -> Shape:
    """Return the shape of a public target model; raises InputError for one that no setting names."""
    for label, facts in read_yaml(_folder() / "models.yaml").items():
        if model in facts.pop("targets"):
            facts.pop("source")
            return Shape(label=label, **facts)
    raise InputError(f"the shape of {model} is not known; expected a model of models.yaml.")


def read_published() -> dict[str, Any]:
    """Return the file of published numbers."""
    return read_yaml(_folder() / "published.yaml")


def _folder() -> Path:
    for place in PLACES:
        if place.is_dir():
            return place
    raise InputError(f"{PLACES[0]} is missing, which holds the published settings; install amnestic again.")
