"""The configuration of each command: dataclasses of options, as a flat mapping, as YAML and as command-line flags.

A key of the YAML file is the name of the flag. Defaults and descriptions stand in the dataclasses and nowhere else.
"""

import itertools
import math
import os
import textwrap
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from .benchmarks.options import (
    BenchEvaluation,
    BenchModel,
    BenchOptions,
    BenchTraining,
    ReproduceModel,
    ReproduceOptions,
)
from .config_file import read_yaml, yaml_text
from .constraints.options import BoundOptions, MultiplierOptions, ProbeOptions
from .data.options import (
    FURTHER,
    KEPT,
    DataOptions,
    EvalData,
    FinetuneData,
    UnlearnData,
    kept_sources,
    measured_sources,
)
from .data.presets import filled, without_template
from .data.quoting import REDACTED
from .docstrings import field_docstrings
from .ended_run import completed
from .errors import InputError, nearest
from .evaluation.options import EvaluationOptions, StandaloneEvaluation, UnlearnEvaluation
from .hub.options import HubOptions, UnlearnHub
from .methods.options import MethodOptions
from .model.options import AdapterOptions, FinetuneModel, ModelOptions, ShardingOptions
from .reports.files import plain, write_text
from .trackers.options import TrackingOptions
from .training.options import CheckpointOptions, FinetuneTraining, UnlearnTraining

__all__ = [
    "RIVALS",
    "BenchConfig",
    "DemoConfig",
    "EvalConfig",
    "FinetuneConfig",
    "Option",
    "ReproduceConfig",
    "RunOptions",
    "UnlearnConfig",
    "decisive",
    "disclosable",
    "from_mapping",
    "names",
    "options",
    "override",
    "read_yaml",
    "to_mapping",
    "write_yaml",
]

C = TypeVar("C")

RIVALS = (
    ("keep", "alpha", "bound", "retain_weight"),
    ("num_train_epochs", "max_steps"),
    ("warmup_epochs", "warmup_steps"),
)
"""Options of which one replaces the others."""
COMPANIONS = ("tokenizer", "model_revision")
"""Options that go with a model, so that another model does not have them."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where a run goes."""

    indifferent: ClassVar[frozenset[str]] = frozenset({"output_dir", "overwrite"})

    output_dir: str
    """The run folder."""
    overwrite: bool = False
    """Replace an earlier run in it."""
    redact: bool = False
    """Keep texts out of the run folder: hashes stand in for prompts and answers."""

    def __post_init__(self) -> None:
        """Raise InputError for values that no run could use."""
        if not self.output_dir:
            raise InputError("--output_dir is empty; expected the path of a folder.")
        if "\0" in self.output_dir:
            raise InputError(f"--output_dir is {self.output_dir!r}; no path holds the character NUL.")


@dataclass(frozen=True, kw_only=True)
class UnlearnConfig:
    """Everything that decides a run of ``amnestic unlearn``."""

    run: RunOptions
    model: ModelOptions
    data: UnlearnData
    method: MethodOptions = field(default_factory=MethodOptions)
    bound: BoundOptions = field(default_factory=BoundOptions)
    multiplier: MultiplierOptions = field(default_factory=MultiplierOptions)
    training: UnlearnTraining = field(default_factory=UnlearnTraining)
    adapter: AdapterOptions = field(default_factory=AdapterOptions)
    evaluation: UnlearnEvaluation = field(default_factory=UnlearnEvaluation)
    sharding: ShardingOptions = field(default_factory=ShardingOptions)
    checkpoints: CheckpointOptions = field(default_factory=CheckpointOptions)
    tracking: TrackingOptions = field(default_factory=TrackingOptions)
    hub: UnlearnHub = field(default_factory=UnlearnHub)


@dataclass(frozen=True, kw_only=True)
class ReproduceConfig(UnlearnConfig):
    """Everything that decides a reproduction with ``amnestic reproduce``: a run of unlearning, and how often it is."""

    reproduce: ReproduceOptions
    model: ReproduceModel = field(default_factory=ReproduceModel)

    @property
    def seeds(self) -> range:
        """Return the seeds of the runs."""
        return range(self.training.seed, self.training.seed + self.reproduce.seeds)


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Everything that decides a run of ``amnestic finetune``."""

    run: RunOptions
    model: FinetuneModel
    data: FinetuneData
    training: FinetuneTraining = field(default_factory=FinetuneTraining)
    adapter: AdapterOptions = field(default_factory=AdapterOptions)
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)
    sharding: ShardingOptions = field(default_factory=ShardingOptions)
    checkpoints: CheckpointOptions = field(default_factory=CheckpointOptions)
    tracking: TrackingOptions = field(default_factory=TrackingOptions)
    hub: HubOptions = field(default_factory=HubOptions)


COMPARISON = "amnestic-comparison"
"""Folder of ``amnestic compare`` where none is given."""


@dataclass(frozen=True, kw_only=True)
class EvalRun(RunOptions):
    """Where an evaluation goes."""

    output_dir: str = "amnestic-eval"
    """Folder of the evaluation; one that was interrupted in it goes on."""


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Everything that decides a run of ``amnestic eval``."""

    run: EvalRun = field(default_factory=EvalRun)
    model: ModelOptions
    data: EvalData
    evaluation: StandaloneEvaluation = field(default_factory=StandaloneEvaluation)
    sharding: ShardingOptions = field(default_factory=ShardingOptions)

    completed = staticmethod(completed)


@dataclass(frozen=True, kw_only=True)
class BenchRun(RunOptions):
    """Where a comparison goes."""

    output_dir: str = "amnestic-bench"
    """Folder of the comparison; one that was interrupted in it goes on."""
    overwrite: bool = False
    """Replace the runs in it that had other options; those that had the same stay."""


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Everything that decides a comparison of ``amnestic bench``."""

    bench: BenchOptions
    run: BenchRun = field(default_factory=BenchRun)
    model: BenchModel = field(default_factory=BenchModel)
    template: DataOptions = field(default_factory=DataOptions)
    multiplier: MultiplierOptions = field(default_factory=MultiplierOptions)
    probe: ProbeOptions = field(default_factory=ProbeOptions)
    training: BenchTraining = field(default_factory=BenchTraining)
    adapter: AdapterOptions = field(default_factory=AdapterOptions)
    evaluation: BenchEvaluation = field(default_factory=BenchEvaluation)


@dataclass(frozen=True, kw_only=True)
class DemoConfig(RunOptions):
    """Everything that decides a run of ``amnestic demo``."""

    output_dir: str = "amnestic-demo"
    """Folder of the demonstration: data, models and report."""
    seed: int = 0
    """Seed of the invented people, of the models and of the data order."""
    keep: float = 0.98
    """Share of the probability per answer token to keep on the retain split, between 0 and 1."""

    def __post_init__(self) -> None:
        """Raise InputError for values that no run could use."""
        super().__post_init__()
        if not 0 < self.keep < 1:
            raise InputError(f"--keep is {self.keep}; expected a share between 0 and 1, such as 0.98.")
        if self.seed < 0:
            raise InputError(f"--seed is {self.seed}; expected a number of at least 0.")


@dataclass(frozen=True)
class Option:
    """One option, as the command line and the YAML file know it."""

    name: str
    annotation: Any
    default: Any
    """MISSING where a value is required."""
    group: str
    owner: Any
    """The dataclass that holds it."""

    @property
    def required(self) -> bool:
        """Return whether a configuration without it is an error."""
        return self.default is MISSING

    @property
    def help(self) -> str:
        """Return the docstring below the field, in one line."""
        return " ".join(field_docstrings(self.owner).get(self.name, "").split())


def options(config_class: Any) -> tuple[Option, ...]:
    """Return the options of a configuration, in the order of its groups.

    Within a group required ones come first, then those of the class itself before those that it inherits.
    """
    found: list[Option] = []
    for member, annotation in _fields(config_class):
        if is_dataclass(annotation):
            title = "Retention" if annotation is BoundOptions else member.name.capitalize()
            group = [_option(leaf, kind, title, annotation) for leaf, kind in _fields(annotation)]
            found += sorted(group, key=lambda option: (not option.required, _distance(annotation, option.name)))
        else:
            found.append(_option(member, annotation, "Run", config_class))
    return tuple(found)


def _distance(cls: Any, name: str) -> int:
    """Return how far above `cls` the class stands that declares the field `name`: 0 is itself."""
    return max(place for place, base in enumerate(cls.__mro__) if name in vars(base).get("__annotations__", {}))


def _fields(cls: Any) -> list[tuple[Field[Any], Any]]:
    hints = typing.get_type_hints(cls)
    return [(member, hints[member.name]) for member in fields(cls)]


def _option(member: Field[Any], annotation: Any, group: str, owner: Any) -> Option:
    default = member.default if member.default_factory is MISSING else member.default_factory()
    return Option(member.name, annotation, default, group, owner)


def to_mapping(config: Any) -> dict[str, Any]:
    """Return the options of `config` by name, flat."""
    flat: dict[str, Any] = {}
    for member in fields(config):
        value = getattr(config, member.name)
        flat |= to_mapping(value) if is_dataclass(value) else {member.name: value}
    return flat


def decisive(config: Any) -> dict[str, Any]:
    """Return the options of `config` that decide what a run computes: a resumed run must have the same.

    A class of options names those that do not in its class attribute `indifferent`: where files go, how a step is cut,
    and the names of models and data, whose contents are compared instead. Credentials are masked.
    """
    mapping = to_mapping(config)
    known = options(type(config))
    return plain({o.name: mapping[o.name] for o in known if o.name not in getattr(o.owner, "indifferent", ())})


def disclosable(config: Any) -> dict[str, Any]:
    """Return the options of `config` as they may be written: without credentials, or a redacted run's system prompt."""
    flat = to_mapping(config)
    if flat.get("redact") and flat.get("system_prompt") is not None:
        flat["system_prompt"] = REDACTED
    return plain(flat)


def from_mapping(config_class: type[C], mapping: Mapping[str, Any], source: str = "") -> C:
    """Return the configuration that a flat `mapping` describes; `source` names it in messages.

    Raises InputError for an unknown key, a value of the wrong type or a missing option.
    """
    mapping = filled(getattr(config_class, "completed", dict)(mapping))
    known = {option.name: option for option in options(config_class)}
    place = f" in {source}" if source else ""
    for key in mapping:
        if key not in known:
            raise InputError(f"unknown key '{key}'{place}{nearest(str(key), list(known)) or '.'}")
    missing = [f"--{name}" for name, option in known.items() if option.required and name not in mapping]
    for owner in dict.fromkeys(option.owner for option in known.values()):
        missing += owner.lacking(mapping) if hasattr(owner, "lacking") else []
    if missing:
        flags = ", ".join(missing)
        raise InputError(f"missing {flags}; expected on the command line or, without the dashes, in the --config file.")
    values = {key: _checked(known[key], value, place) for key, value in mapping.items()}
    return typing.cast(C, _build(config_class, values))


def _build(cls: Any, values: Mapping[str, Any]) -> Any:
    members = {}
    for member, annotation in _fields(cls):
        if is_dataclass(annotation):
            members[member.name] = _build(annotation, values)
        elif member.name in values:
            members[member.name] = values[member.name]
    return cls(**members)


def override(base: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the options in `given` in place of its own.

    An option that is not None also removes its rivals (`RIVALS`) from `base`, and a model what goes with it
    (`COMPANIONS`); mappings are merged key by key. A preset in `given` takes the place of what `base` says of the
    template.
    """
    if given.get("preset") is not None:
        base, given = without_template(base), filled(given)
    chosen = {key for key, value in given.items() if value is not None}
    replaced = {rival for rivals in RIVALS if chosen & set(rivals) for rival in rivals}
    replaced |= set(COMPANIONS) if given.get("model") not in (None, base.get("model")) else set()
    merged = {key: value for key, value in base.items() if key not in replaced}
    for key, value in given.items():
        both_map = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = {**merged[key], **value} if both_map else value
    return merged


def _checked(option: Option, value: Any, place: str) -> Any:
    try:
        reader = READERS.get(option.annotation)
        return _converted(value, option.annotation) if reader is None else reader(value)
    except TypeError as error:
        shown = textwrap.shorten(repr(value), 60)
        raise InputError(f"{option.name}{place} is {shown}; expected {error}.") from None


def _converted(value: Any, annotation: Any) -> Any:
    """Return `value` as the annotated type, or raise TypeError with what was expected."""
    kind, arguments = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if kind in (types.UnionType, typing.Union):
        return _optional(value, arguments)
    if kind is dict and isinstance(value, Mapping):
        return {_converted(key, str): _written(item) for key, item in value.items()}
    if kind is Literal and value in arguments:
        return value
    if kind is str and isinstance(value, str | os.PathLike):
        return os.fspath(value)
    if kind is bool and isinstance(value, bool):
        return value
    if kind is int and isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    if kind is float and isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise TypeError(_EXPECTED.get(kind) or "one of " + ", ".join(arguments))


def _optional(value: Any, annotations: Sequence[Any]) -> Any:
    """Return a value of the first of `annotations`, a word of the others, or None; raises TypeError as `_converted`."""
    words = [word for other in annotations[1:] for word in typing.get_args(other)]
    if value is None or (isinstance(value, str) and value in words):
        return value
    try:
        return _converted(value, annotations[0])
    except TypeError as error:
        raise TypeError(" or ".join((str(error), *words))) from None


def _written(value: Any) -> str:
    """Return the text of a value in a mapping, with numbers, true and false as YAML writes them."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, Real) else str(_converted(value, str))


def names(value: Any) -> tuple[str, ...]:
    """Return a list of names, also as one text with commas; ``none`` names nothing. Raises TypeError for others."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise TypeError(_EXPECTED[tuple])
    found = [name.strip() for text in texts for name in text.split(",")]
    return tuple(name for name in found if name not in ("", "none"))


READERS: dict[Any, Callable[[Any], Any]] = {tuple[str, ...]: names, KEPT: kept_sources, FURTHER: measured_sources}
"""Type of an option -> what reads its value in place of `_converted`."""

_EXPECTED = {
    str: "text (in quotes, where it looks like a number)",
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    dict: "a mapping of names to values",
    tuple: "names, in a list or with commas between them",
}


def write_yaml(config: Any, path: str | Path) -> None:
    """Write `config` so that ``--config`` with this file repeats it; raises RunError where the file system refuses.

    What may not be written has to be given again.
    """
    mapping = disclosable(config)
    parts = []
    for title, group in itertools.groupby(options(type(config)), key=lambda option: option.group):
        content = {option.name: mapping[option.name] for option in group}
        parts.append(f"# {title}\n{yaml_text(content)}")
    write_text(path, "\n".join(parts))
