"""Options of reading and encoding data; nothing heavy is imported here."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from ..errors import InputError
from .quoting import REDACTED

KEPT = str | dict[str, str] | None
"""The type of --retain: a source of rows, or several by name; a retention each."""
FURTHER = dict[str, str] | None
"""The type of --measure: sources of rows by name, a split each."""
_NAME = re.compile(r"[A-Za-z0-9_]+")
RESERVED = frozenset({"forget", "holdout", "context", "alternate", "alternates", "data", "exclude"})
"""Names that something else has among the splits of a run, in its records or its results."""
TAKEN = RESERVED | {"retain", "mia"}
"""Names that what is measured besides cannot have."""


def kept_sources(value: Any) -> str | dict[str, str] | None:
    """Return what --retain names: one source, or several by name in the order of the retentions.

    `value` is a source, ``name=source``, a list of these, or a mapping. A text that is a file or a folder as it stands
    is one, whatever it holds; a source without a name is called ``retain``. Raises TypeError for other values,
    InputError for names that cannot be used.
    """
    if value is None:
        return None
    if isinstance(value, Mapping):
        pairs = [(str(name), source) for name, source in value.items()]
    else:
        pairs = [_named(text) for text in (value if isinstance(value, list | tuple) else [value])]
    if not pairs or not all(isinstance(source, str | os.PathLike) for _, source in pairs):
        raise TypeError("a file, name=FILE, a list of these, or a mapping of names to files")
    _refuse_names([name for name, _ in pairs], "--retain", "retention", RESERVED)
    found = {name: os.fspath(source) for name, source in pairs}
    return found["retain"] if [*found] == ["retain"] else found


def measured_sources(value: Any) -> dict[str, str] | None:
    """Return what --measure names, by name in its order; None where it names nothing.

    `value` is ``name=source``, a list of these, or a mapping. Raises TypeError for other values, InputError for names
    that cannot be used.
    """
    if not value:
        return None
    entries = [*value.items()] if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else [value]
    pairs = [named_source(entry, "") if isinstance(entry, str) else entry for entry in entries]
    if not all(isinstance(pair, tuple) and isinstance(pair[1], str | os.PathLike) for pair in pairs):
        raise TypeError("name=FILE, a list of these, or a mapping of names to files")
    names = [str(name) for name, _ in pairs]
    if "" in names:
        raise TypeError("a name for what is measured, as in name=FILE")
    _refuse_names(names, "--measure", "split", TAKEN)
    return {name: os.fspath(source) for name, (_, source) in zip(names, pairs, strict=True)}


def named_source(text: str, default: str) -> tuple[str, str]:
    """Return the name and the source in ``name=source``; a text that is a file, or names nothing, has the `default`."""
    name, equals, source = text.partition("=")
    return (name, source) if equals and _NAME.fullmatch(name) and not Path(text).exists() else (default, text)


def _named(text: Any) -> tuple[str, Any]:
    """Return the name and the source of one entry of --retain."""
    return named_source(text, "retain") if isinstance(text, str) else ("retain", text)


def _refuse_names(names: Iterable[str], flag: str, what: str, taken: frozenset[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InputError(
                f"two sources of {flag} are called '{name}'; expected {flag} NAME=FILE, each with its own name."
            )
        if not _NAME.fullmatch(name):
            raise InputError(f"{flag} names a {what} '{name}'; expected letters, digits and _ alone.")
        if name in taken:
            raise InputError(f"{flag} names a {what} '{name}', which a run calls something else; give another name.")
        seen.add(name)


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """How rows become tokens."""

    indifferent: ClassVar[frozenset[str]] = frozenset({"preset", "system_prompt"})

    question_column: str | None = None
    """Column of the question, rendered with the template; a.b is the column b within a [default: question]."""
    answer_column: str | None = None
    """Column of the answer to the question [default: answer]."""
    prompt_column: str | None = None
    """Column of a prompt that is used as it stands [default: prompt]."""
    completion_column: str | None = None
    """Column of what follows the prompt, as it stands [default: completion]."""
    messages_column: str | None = None
    """Column of a list of chat messages; the last assistant turn is scored [default: messages]."""
    text_column: str | None = None
    """Column of plain text, cut into chunks of --max_length [default: text]."""
    max_length: int = 2048
    """Longest example, in tokens; the model's own limit counts where it is lower."""
    too_long: Literal["cut", "drop", "error"] = "cut"
    """What happens to an answer beyond --max_length; the rows are counted and reported in any case."""
    preset: str | None = None
    """Named set of the five options below, for those that are not given: tofu-llama3, tofu-llama2, tofu-phi,
    tofu-stablelm or tofu-pythia, as TOFU's public models were trained [default: none]."""
    chat_template: str = "auto"
    """auto: the tokenizer's where it has one; none: the question template; or the path of a Jinja file."""
    template_args: dict[str, str] = field(default_factory=dict)
    """Arguments of the chat template, such as --template_args.date_string '10 Apr 2025' [default: none]."""
    system_prompt: str | None = None
    """System message in front of each question, for chat templates [default: none]."""
    question_template: str = "Question: {question}\nAnswer:"
    """Rendering of a question for models without a chat template."""
    answer_template: str = " {answer}"
    """Rendering of its answer."""

    def __post_init__(self) -> None:
        """Raise InputError for values that no run could use."""
        if self.system_prompt == REDACTED:
            raise InputError(
                f"--system_prompt is '{REDACTED}', which a redacted run writes in place of the text; give the text."
            )
        if self.max_length < 2:
            raise InputError(f"--max_length is {self.max_length}; expected at least 2 tokens.")
        for name, placeholder in (("question_template", "{question}"), ("answer_template", "{answer}")):
            if placeholder not in getattr(self, name):
                raise InputError(f"--{name} is {getattr(self, name)!r}; expected the placeholder {placeholder} in it.")


@dataclass(frozen=True, kw_only=True)
class AlternatesOptions:
    """Where other answers to a row's prompt stand."""

    paraphrased_answer_column: str | None = None
    """Column of the right answer in other words [default: paraphrased_answer, where there is one]."""
    perturbed_answer_column: str | None = None
    """Column of a wrong answer, or of a list of them [default: perturbed_answer, where there is one]."""


@dataclass(frozen=True, kw_only=True)
class SecondAnswersOptions:
    """What a method that teaches another answer in the place of the true one takes for it."""

    alternate_answer_column: str | None = None
    """Column of the answer that dpo and altpo teach in the place of the true one; a row with null there gets one as the
    method makes it [default: alternate_answer, where there is one]."""
    alternates_file: str | None = None
    """File of these answers: JSON Lines with id (forget:0 is the first row) and answer, as alternatives.jsonl of a run
    folder; it must name every forget row [default: none]."""
    refusals: str | None = None
    """File of the refusals that dpo teaches, one a line; each row gets one of them by lot, for the whole run
    [default: a hundred that come with amnestic]."""

    def refuse_rival_answers(self) -> None:
        """Raise InputError where second answers are named in two ways."""
        if self.alternates_file is not None and self.alternate_answer_column is not None:
            raise InputError(
                "--alternates_file and --alternate_answer_column both say where second answers stand; give one of them."
            )


@dataclass(frozen=True, kw_only=True)
class BenchmarkOptions:
    """A benchmark in the place of files of one's own."""

    benchmark: str | None = None
    """A benchmark and its forget split, such as tofu:forget10 or muse:books, which brings all data [default: none]."""
    data: str | None = None
    """Folder of the benchmark's files, or another Hub data set of them [default: the usual one on the Hub]."""

    def refuse_rivals(self, *splits: str) -> bool:
        """Return whether files of one's own are given as `splits`; raise InputError where a benchmark is too."""
        given = [f"--{name}" for name in splits if getattr(self, name) is not None]
        if self.benchmark is not None and given:
            raise InputError(f"--benchmark brings its own data, and {given[0]} was given too; give one of the two.")
        if self.benchmark is None and self.data is not None and getattr(self, "run", None) is None:
            raise InputError("--data is the folder of a benchmark's files, and --benchmark was not given; give both.")
        return bool(given)

    @staticmethod
    def refuse_lacking(flags: Sequence[str]) -> None:
        """Raise InputError where files are missing that a benchmark would bring."""
        if flags:
            raise InputError(f"{' and '.join(flags)} are to be given, or a --benchmark, which brings both.")


@dataclass(frozen=True, kw_only=True)
class SpansOptions:
    """Which part of an answer is to be forgotten."""

    forget_spans_column: str | None = None
    """Column of the parts of an answer to forget, as pairs of characters [[start, end], ...]; a row with nothing there
    is forgotten whole [default: forget_spans, where there is one]."""


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """What is measured besides."""

    measure: dict[str, str] | None = None
    """Further rows that are measured and not trained on, as a split of this name, repeated as --measure NAME=FILE: in
    the forms of --forget, or a benchmark, whose forget split is meant [default: none]."""


@dataclass(frozen=True, kw_only=True)
class UnlearnData(BenchmarkOptions, MeasureOptions, SpansOptions, SecondAnswersOptions, AlternatesOptions, DataOptions):
    """What to forget and what to keep."""

    indifferent: ClassVar[frozenset[str]] = DataOptions.indifferent | {
        *("forget", "retain", "benchmark", "data", "measure", "alternates_file", "refusals")
    }

    forget: str | None = None
    """What to forget: a JSON, JSONL, CSV or Parquet file, a folder of them, or a Hub data set
    owner/name[:config[:split]] [default: the benchmark's]."""
    retain: str | dict[str, str] | None = None
    """What to keep, in the same forms; repeated as --retain NAME=FILE, a retention each, the first of which leads
    [default: the benchmark's]."""

    def __post_init__(self) -> None:
        """Raise InputError for values that no run could use."""
        super().__post_init__()
        self.refuse_rivals("forget", "retain")
        self.refuse_rival_answers()
        if both := sorted(self.sources.keys() & (self.measure or {}).keys()):
            raise InputError(f"--retain and --measure both name '{both[0]}'; give one of them another name.")
        self.refuse_lacking(self.lacking(vars(self)))

    @staticmethod
    def lacking(given: Mapping[str, Any]) -> list[str]:
        """Return the flags without which the options `given` are no configuration: both files, or a benchmark."""
        if given.get("benchmark") is not None:
            return []
        return [f"--{name}" for name in ("forget", "retain") if given.get(name) is None]

    @property
    def sources(self) -> dict[str, str]:
        """Return the files of one's own, by split."""
        kept = self.retain if isinstance(self.retain, dict) else {"retain": self.retain}
        named = {"forget": self.forget} | kept
        return {name: source for name, source in named.items() if source is not None}


@dataclass(frozen=True, kw_only=True)
class EvalData(BenchmarkOptions, SpansOptions, AlternatesOptions, DataOptions):
    """What a model is measured on."""

    indifferent: ClassVar[frozenset[str]] = DataOptions.indifferent | {
        *("run", "forget", "retain", "holdout", "benchmark", "data")
    }

    run: str | None = None
    """The folder of a run of unlearn: its model is measured on the run's own forget rows and retain probe, and held
    against what the run said; the other options are the run's unless they are given [default: none]."""
    forget: str | None = None
    """What should be forgotten: a JSON, JSONL, CSV or Parquet file, a folder of them, or a Hub data set
    owner/name[:config[:split]] [default: the benchmark's]."""
    retain: str | None = None
    """What should be kept, in the same forms [default: the benchmark's]."""
    holdout: str | None = None
    """What no model was trained on, in the same forms: membership attacks compare the forget rows with it
    [default: the benchmark's]."""

    def __post_init__(self) -> None:
        """Raise InputError for values that no run could use."""
        super().__post_init__()
        has_files = self.refuse_rivals("forget", "retain", "holdout")
        if not has_files and self.benchmark is None and self.run is None:
            raise InputError(
                "nothing to measure on was given; expected --benchmark, such as tofu:forget10, files (--forget, "
                "--retain, --holdout), or the folder of a run (--run)."
            )


@dataclass(frozen=True, kw_only=True)
class FinetuneData(DataOptions):
    """What to learn."""

    indifferent: ClassVar[frozenset[str]] = DataOptions.indifferent | {
        *("data", "exclude", "benchmark", "without_forget")
    }

    data: str | None = None
    """What to learn: a JSON, JSONL, CSV or Parquet file, a folder of them, or a Hub data set
    owner/name[:config[:split]]; with --benchmark the folder of its files, or another Hub data set of them
    [default: the benchmark's]."""
    exclude: str | None = None
    """Rows to leave out of --data, in the same forms, so that a retrained model never sees them [default: none]."""
    benchmark: str | None = None
    """A benchmark and its forget split, such as tofu:forget10, whose target model is trained: on all that its models
    know, with the options by which its authors trained theirs, for those that are not given [default: none]."""
    without_forget: bool = False
    """Leave what is to be forgotten out of --benchmark: the retrained model."""

    def __post_init__(self) -> None:
        """Raise InputError for values that no run could use."""
        super().__post_init__()
        if lacking := self.lacking(vars(self)):
            raise InputError(f"{lacking[0]} is to be given, or a --benchmark, which brings its own.")
        if self.benchmark is not None and self.exclude is not None:
            raise InputError(
                "--exclude leaves rows out of files, and --benchmark brings its own; give --without_forget instead."
            )
        if self.benchmark is None and self.without_forget:
            raise InputError(
                "--without_forget leaves out what a --benchmark is to forget, and none was given; of files, --exclude "
                "leaves rows out."
            )

    @staticmethod
    def lacking(given: Mapping[str, Any]) -> list[str]:
        """Return the flags without which the options `given` are no configuration: the data, or a benchmark."""
        return ["--data"] if given.get("data") is None and given.get("benchmark") is None else []
