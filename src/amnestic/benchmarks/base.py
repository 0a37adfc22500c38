"""What a benchmark gives a run: the sources of its splits, and what must be read with the numbers."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from ..data.example import Example, rows_with
from ..data.options import DataOptions
from ..data.records import Rows
from ..data.rows import Row as Placed
from ..data.sources import HubError, read_examples, rows_of, source_files
from ..errors import InputError
from ..evaluation.conditions import Conditions, Continuing
from ..registry import Registry

Row = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """Where the rows of one split come from."""

    name: str
    """A file, a folder or a Hub data set; of rows in memory what they are, in angle brackets, for results."""
    rows: Sequence[Any] | None = None
    """Rows in memory, mappings or examples, in the place of what `name` names."""
    made_from: tuple[str, ...] = ()
    """Names of the files, folders or Hub data sets that `rows` were made from."""

    @property
    def origins(self) -> tuple[str, ...]:
        """Return the names of what is read, or was: several of rows that were made from several."""
        return (self.name,) if self.rows is None else self.made_from

    @property
    def files(self) -> list[Path]:
        """Return the local files behind the rows; raises InputError for one that does not exist."""
        return [path for name in self.origins if not name.startswith("<") for path in source_files(name)]

    def read(self, split: str, options: DataOptions, alternates: bool = False) -> Rows[Example]:
        """Return the examples of the split called `split`, as `read_examples` does."""
        with reaching_hub():
            return read_examples(self.name if self.rows is None else self.rows, split, options, alternates)

    def placed(self) -> list[Placed]:
        """Return the rows as they were read, of any form, each with its place; raises InputError where that fails."""
        with reaching_hub():
            return list(rows_of(self.name if self.rows is None else self.rows, self.name))

    def values(self) -> list[Any]:
        """Return what `placed` returns, without the places."""
        return [row.value for row in self.placed()]


def made(what: str, rows: Sequence[Row] | Sequence[Example], *sources: Source) -> Source:
    """Return `rows` that were made from those of `sources`; `what` says how, for results."""
    return Source(f"<{what}>", rows, tuple(name for source in sources for name in source.origins))


@contextmanager
def reaching_hub() -> Iterator[None]:
    """Say what a user can do where the Hub does not give the data of a benchmark."""
    try:
        yield
    except HubError as error:
        raise InputError(
            f"{error.source} cannot be loaded from the Hub ({error.cause}); give the folder that holds the benchmark's "
            "files with --data FOLDER."
        ) from error


class Benchmark(ABC):
    """Named sources of rows; the dataclass fields are the settings.

    What is measured follows from the names of the splits and from the answers that their rows have: a metric says which
    it reads.
    """

    name: ClassVar[str]
    learning: ClassVar[Mapping[str, Any]] = {}
    """Options of ``amnestic finetune`` by which models learn it: those of its published models, where it has any."""
    continuing: ClassVar[Mapping[str, Continuing]] = {}
    """Split -> how its prompts are continued by the benchmark's definition; the others as the options say."""
    auxiliary: ClassVar[frozenset[str]] = frozenset()
    """Splits that only those metrics read which name them."""

    @staticmethod
    def open(name: str, data: str | None = None) -> "Benchmark":
        """Return the benchmark called `name`, ``tofu:forget10``: what follows its own name is for it to read.

        Of several that a name begins with the longest is meant: ``fiction:passages`` is not a part of ``fiction``.
        `data` is the place of its files, a folder or a Hub data set, where they are not at the usual one. Raises
        InputError for an unknown benchmark or part of one, and for a place that it cannot use.
        """
        kind, part = Benchmark.parted(name)
        return BENCHMARKS.get(kind).of(part, data)

    @staticmethod
    def parted(name: str) -> tuple[str, str]:
        """Return the benchmark's own name, or dotted path, in what `open` takes, and the part behind it."""
        known = [entry for entry in BENCHMARKS.names() if f"{name}:".startswith(f"{entry}:")]
        kind = max(known, key=len, default=name.partition(":")[0])
        return kind, name[len(kind) + 1 :]

    @classmethod
    @abstractmethod
    def of(cls, part: str, data: str | None) -> Self:
        """Return the benchmark that ``name:part`` names, "" for none, with its files at `data`; see `open`."""

    @abstractmethod
    def training(self) -> dict[str, Source]:
        """Return what unlearning reads: ``forget`` and ``retain``. Raises InputError for what is missing."""

    @abstractmethod
    def evaluation(self) -> dict[str, Source]:
        """Return what is measured, by the name of the split. Raises InputError for what is missing."""

    def lessons(self) -> dict[str, Source]:
        """Return what its models are trained on: under ``forget`` what the retrained model never sees.

        Raises InputError for what is missing.
        """
        return self.training()

    @property
    def unlearning(self) -> Mapping[str, Any]:
        """Return the options of ``amnestic unlearn`` that suit its models, where they differ from the usual ones."""
        return {}

    @property
    def notes(self) -> Mapping[str, str]:
        """Return split -> a sentence that must be read with whatever is measured on it."""
        return {}

    @property
    def conditions(self) -> Conditions:
        """Return what holds for its splits when they are measured."""
        return Conditions(self.notes, self.continuing, self.auxiliary)

    def folds(self, kind: str) -> Mapping[str, str]:
        """Return the folds of one kind in their order, ``scal``: growing forget sets.

        Name of the fold -> name of the benchmark, for `open`, whose forget split it is. Raises InputError where there
        are none of this kind.
        """
        raise InputError(f"the benchmark {self.name} has no folds of the kind '{kind}'; leave --folds out.")

    def requests(self) -> Mapping[str, str]:
        """Return the requests that arrive one after another, in their order, as `folds` returns folds.

        Raises InputError where there are none.
        """
        raise InputError(f"the benchmark {self.name} has no sequence of requests; name files of your own.")

    def retrained_of(self, model: str) -> str | None:
        """Return the name that the retrained model has by convention where the model before is called `model`."""
        return None

    def check(
        self, evaluation: Mapping[str, Sequence[Example]], training: Mapping[str, Sequence[Example]] | None = None
    ) -> list[str]:
        """Raise InputError where the examples that were read are not what the benchmark says; return notes about them.

        `evaluation` was read with its other answers; `training` is None where nothing is trained.
        """
        return []


@dataclass(frozen=True)
class Capacity:
    """What the small models of an embedded benchmark can hold."""

    vocabulary: int = 768
    """Tokens of the tokenizer."""
    positions: int = 256
    """Tokens of the longest text."""


class Embedded(Benchmark):
    """A benchmark that makes its rows from a seed, which is its part: ``fiction:3``.

    Its models are trained from scratch, so that forget quality is against true retraining.
    """

    capacity: ClassVar[Capacity] = Capacity()

    @abstractmethod
    def splits(self) -> dict[str, list[Row]]:
        """Return all rows: ``full``, of which ``forget`` and ``retain`` are the parts, and what else is measured."""

    def lessons(self) -> dict[str, Source]:
        """Return the parts of ``full``, in its order."""
        splits = self.splits()
        return {split: Source(f"<{split} of {self.name}>", splits[split]) for split in ("retain", "forget")}


BENCHMARKS: Registry[Benchmark] = Registry("benchmark", "amnestic.benchmarks")
benchmark = BENCHMARKS.register


def refuse_lacking(place: str, examples: Sequence[Example], kinds: Sequence[str], advice: str) -> None:
    """Raise InputError where a row of `place` has no other answers of one of `kinds`."""
    for kind in kinds:
        has = rows_with(examples, kind)
        if not has.all():
            raise InputError(
                f"{len(has) - int(has.sum())} of {len(has)} rows of {place} have no '{kind}' (the first is row "
                f"{int(has.argmin())}, counted from 0); {advice}."
            )
