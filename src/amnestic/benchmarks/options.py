"""Options of comparing methods on a benchmark, and of reproducing a paper's runs; nothing heavy is imported here."""

from dataclasses import dataclass
from typing import ClassVar

from ..errors import InputError
from ..evaluation.options import UnlearnEvaluation
from ..model.options import ModelOptions
from ..training.options import UnlearnTraining

ALL = "all"
"""What stands for every method that takes part unless it is named."""
FREE = "none"
"""What stands in --keep for the runs without a bound."""


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What is compared, and how the work is shared out."""

    indifferent: ClassVar[frozenset[str]] = frozenset({"jobs", "plan"})

    benchmark: str
    """fiction or fiction:passages, whose models are trained here, or one whose model is given, as tofu:forget10."""
    data: str | None = None
    """Folder of the benchmark's files, or another Hub data set of them [default: the usual one on the Hub]."""
    methods: tuple[str, ...] = (ALL,)
    """Names of methods (amnestic list methods), or dotted paths of classes of your own, which the working directory may
    hold; all: every one of the list but variants of others."""
    keep: str = "0.98,none"
    """Shares of the probability per answer token to keep, with commas between them; none: each method as it was
    published, without a bound."""
    folds: tuple[str, ...] = ()
    """Forget sets of the benchmark, each forgotten by runs of its own: scal for all growing ones, or some of them, as
    scal:forget_1,scal:forget_3 [default: the benchmark's forget split alone]."""
    seeds: int = 3
    """Runs of each method and share: with the seeds --seed, --seed + 1, and so on."""
    settings: str | None = None
    """YAML file of a method's own options of amnestic unlearn, as 'npo: {learning_rate: 1e-4}'; 'npo keep 0.98:' or
    'npo free:' are for these runs alone [default: none]."""
    trials: int = 0
    """Runs by which learning rate and epochs of each method and share are chosen first, on rows that the comparison
    does not measure; needs optuna (pip install 'amnestic[bench]')."""
    jobs: int = 1
    """Runs at once; they share the processor's cores, and an accelerator's memory."""
    plan: bool = False
    """Print what would be run and what is done already, and stop."""

    def __post_init__(self) -> None:
        """Raise InputError for values that no comparison could use."""
        for name in ("seeds", "jobs"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name} is {getattr(self, name)}; expected at least 1.")
        if self.trials < 0:
            raise InputError(f"--trials is {self.trials}; expected at least 0.")
        if not self.methods:
            raise InputError(f"--methods names none; expected names with commas between them, or {ALL}.")
        if not self.shares:
            raise InputError("--keep is empty; expected shares between 0 and 1, such as 0.98, or none, with commas.")

    @property
    def shares(self) -> tuple[float | None, ...]:
        """Return the shares to keep, each once; None stands for runs without a bound."""
        return tuple(dict.fromkeys(_share(text.strip()) for text in self.keep.split(",") if text.strip()))


def _share(text: str) -> float | None:
    """Return a share of --keep; raises InputError for what is none."""
    if text == FREE:
        return None
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise InputError(f"--keep holds {text}; expected shares between 0 and 1, such as 0.98, or {FREE}, with commas.")
    return share


@dataclass(frozen=True, kw_only=True)
class BenchModel(ModelOptions):
    """Which model forgets."""

    model: str | None = None  # type: ignore[assignment]
    """Hub id or local folder of the model that knows the benchmark; for one whose models are trained from scratch,
    that whose shape and tokenizer they have [default: a small Llama for these]."""


@dataclass(frozen=True, kw_only=True)
class BenchTraining(UnlearnTraining):
    """How every method trains, unless --settings or --trials say otherwise for one of them."""

    seed: int = 0
    """First of the --seeds: of the data order, and of an embedded benchmark's rows and models."""


@dataclass(frozen=True, kw_only=True)
class BenchEvaluation(UnlearnEvaluation):
    """How every run is measured."""

    retrained: str | None = None
    """Hub id or folder of a model that never saw the forget split [default: the folder beside --model that the
    benchmark's names suggest, where there is one; embedded benchmarks train their own]."""
    cache_dir: str | None = None
    """Folder that keeps what models gave of each row, so that a model which several runs measure is measured once
    [default: the folder cache in --output_dir]."""


@dataclass(frozen=True, kw_only=True)
class ReproduceOptions:
    """Which published run is repeated."""

    indifferent: ClassVar[frozenset[str]] = frozenset({"seeds"})

    name: str
    """Name of a published setting; without it all of them are listed."""
    seeds: int = 1
    """Runs: with the seeds --seed, --seed + 1, and so on, each in a folder of its own."""

    def __post_init__(self) -> None:
        """Raise InputError for values that no reproduction could use."""
        if self.seeds < 1:
            raise InputError(f"--seeds is {self.seeds}; expected at least 1.")


@dataclass(frozen=True, kw_only=True)
class ReproduceModel(ModelOptions):
    """Which model forgets."""

    model: str | None = None  # type: ignore[assignment]
    """Hub id or local folder of another model than the published one, such as a small one to try a setting with
    [default: the published one]."""
