"""Options of requests that arrive one after another; nothing heavy is imported here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from ..config import RunOptions
from ..constraints.options import BoundOptions, MultiplierOptions
from ..data.options import (
    AlternatesOptions,
    BenchmarkOptions,
    DataOptions,
    MeasureOptions,
    SecondAnswersOptions,
    SpansOptions,
)
from ..errors import InputError
from ..evaluation.options import EvaluationOptions
from ..methods.options import MethodOptions
from ..model.options import AdapterOptions, ModelOptions, ShardingOptions
from ..trackers.options import TrackingOptions
from ..training.options import CheckpointOptions, UnlearnTraining


@dataclass(frozen=True, kw_only=True)
class SequenceRun(RunOptions):
    """Where a sequence goes."""

    output_dir: str = "amnestic-sequence"
    """Folder of the sequence; one that was interrupted in it goes on, and requests that are new are added to it."""
    overwrite: bool = False
    """Start the sequence in it anew."""


@dataclass(frozen=True, kw_only=True)
class SequenceData(
    BenchmarkOptions, MeasureOptions, SpansOptions, SecondAnswersOptions, AlternatesOptions, DataOptions
):
    """What is to be forgotten, in which order, and what is kept."""

    indifferent: ClassVar[frozenset[str]] = DataOptions.indifferent | {
        *("requests", "keep_models", "retain", "benchmark", "data", "measure", "refusals")
    }

    requests: tuple[str, ...] = ()
    """What to forget, in the order of arrival: files with commas between them, as FILE or NAME=FILE, or one folder
    whose files arrive in the order of their names; of a benchmark the names of its requests [default: all of them]."""
    retain: str | dict[str, str] | None = None
    """What to keep throughout: a file, a folder, or a Hub data set; repeated as --retain NAME=FILE, a retention each
    [default: the benchmark's]."""
    keep_models: Literal["all", "last"] = "all"
    """Whether the model of a request stays once the next request is done."""

    def __post_init__(self) -> None:
        """Raise InputError for values that no sequence could use."""
        super().__post_init__()
        self.refuse_rivals("retain")
        if self.alternates_file is not None:
            raise InputError(
                "--alternates_file names the rows of one request; give second answers in a column of each file "
                "(--alternate_answer_column)."
            )
        self.refuse_lacking(self.lacking(vars(self)))

    @staticmethod
    def lacking(given: Mapping[str, Any]) -> list[str]:
        """Return the flags without which the options `given` are no sequence: requests and retain, or a benchmark."""
        if given.get("benchmark") is not None:
            return []
        return [f"--{name}" for name in ("requests", "retain") if not given.get(name)]


@dataclass(frozen=True, kw_only=True)
class SequenceEvaluation(EvaluationOptions):
    """How the model is measured before the first request and after each."""

    cache_dir: str | None = None
    """Folder that keeps what models gave of each row, so that a model which two requests measure is measured once
    [default: the folder cache in --output_dir]."""


@dataclass(frozen=True, kw_only=True)
class SequenceConfig:
    """Everything that decides a sequence of ``amnestic sequence``."""

    run: SequenceRun = field(default_factory=SequenceRun)
    model: ModelOptions
    data: SequenceData
    method: MethodOptions = field(default_factory=MethodOptions)
    bound: BoundOptions = field(default_factory=BoundOptions)
    multiplier: MultiplierOptions = field(default_factory=MultiplierOptions)
    training: UnlearnTraining = field(default_factory=UnlearnTraining)
    adapter: AdapterOptions = field(default_factory=AdapterOptions)
    evaluation: SequenceEvaluation = field(default_factory=SequenceEvaluation)
    sharding: ShardingOptions = field(default_factory=ShardingOptions)
    checkpoints: CheckpointOptions = field(default_factory=CheckpointOptions)
    tracking: TrackingOptions = field(default_factory=TrackingOptions)
