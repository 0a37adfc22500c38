"""Benchmarks of whole texts, in the shape of MUSE: what is trained, and the rows of its criteria.

MUSE (Shi et al., 2024, arXiv:2407.06460). A configuration has splits of rows, by MUSE's names.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..data.example import Example
from ..data.quoting import quoted
from ..data.rows import Row as Placed
from ..data.rows import listing, reach
from ..errors import InputError
from ..evaluation.conditions import Continuing
from .base import Benchmark, Row, Source, made

RAW, VERBMEM, KNOWMEM, PRIVLEAK, SCAL, SUST, TRAIN = "raw", "verbmem", "knowmem", "privleak", "scal", "sust", "train"
"""Configurations."""
KEPT = ("retain1", "retain2")
"""Splits of what is not forgotten: what is held while forgetting, and what the questions are about."""
FOLDS = ("forget_1", "forget_2", "forget_3", "forget_4")
"""Splits of SCAL, each of which holds the one before, and of SUST, which have nothing in common."""
BETWEEN = "\n\n"
"""Stands between two texts where a corpus is trained as one."""
ASKED = Continuing(32, ("\n\n", "\nQuestion", "Question:"))
"""How MUSE continues a question."""
QUESTION, ANSWER = "Question: {question}\nAnswer:", " {answer}"
"""How MUSE asks. The blank is the answer's: whether it is a token of its own depends on what stands behind it, and a
prompt that ended with it where it is would tell a model how the true answer begins."""


@dataclass(frozen=True, kw_only=True)
class Corpus(Benchmark):
    """Texts to forget, with continuations to recite, questions to answer, and texts that nobody trained on.

    Measured splits: ``forget``, beginnings of forgotten passages with their continuations; ``retain``, questions about
    what is kept; ``holdout``, texts that nobody trained on; and for the metrics that name them ``forget_qa``, questions
    about what is forgotten, and ``forget_texts``, the members that the holdout is held against.
    """

    continuing: ClassVar[Mapping[str, Continuing]] = {"forget": Continuing(128), "forget_qa": ASKED, "retain": ASKED}
    auxiliary: ClassVar[frozenset[str]] = frozenset({"forget_qa", "forget_texts"})

    fold: tuple[str, str] = (RAW, "forget")
    """Configuration and split of the texts to be forgotten: all of them, or a fold."""

    @abstractmethod
    def source(self, config: str, split: str) -> Source:
        """Return the rows of a split; raises InputError where there are none."""

    @abstractmethod
    def fold_named(self, config: str, split: str) -> str:
        """Return the name, for `Benchmark.open`, of the benchmark in which this fold is to be forgotten."""

    def training(self) -> dict[str, Source]:
        """Return the texts to be forgotten, and those to be kept, each corpus as one text."""
        return {"forget": joined(self.source(*self.fold)), "retain": joined(self.source(RAW, KEPT[0]))}

    def lessons(self) -> dict[str, Source]:
        """Return all that its models know, each corpus as one text: every text of any fold is under ``forget``."""
        known = self.source(TRAIN, "forget") if self.has(TRAIN) else self.source(*self.fold)
        return {"forget": joined(known)} | {split: joined(self.source(RAW, split)) for split in KEPT}

    def has(self, config: str) -> bool:
        """Return whether there is this configuration."""
        return True

    def evaluation(self) -> dict[str, Source]:
        """Return the rows of the criteria, whichever fold is forgotten."""
        return {
            "forget": verbatim(self.source(VERBMEM, "forget")),
            "retain": asked(self.source(KNOWMEM, "retain_qa"), self.source(KNOWMEM, "retain_qa_icl")),
            "forget_qa": asked(self.source(KNOWMEM, "forget_qa"), self.source(KNOWMEM, "forget_qa_icl")),
            "forget_texts": texts(self.source(PRIVLEAK, "forget")),
            "holdout": texts(self.source(PRIVLEAK, "holdout")),
        }

    def folds(self, kind: str) -> Mapping[str, str]:
        """Return the folds of ``scal`` or ``sust``; raises InputError where one of them is missing."""
        if kind not in (SCAL, SUST):
            return super().folds(kind)
        for split in FOLDS:
            self.source(kind, split)
        return {split: self.fold_named(kind, split) for split in FOLDS}

    def requests(self) -> Mapping[str, str]:
        """Return the folds of ``sust``."""
        return self.folds(SUST)


def joined(source: Source) -> Source:
    """Return the texts of `source` as one, in their order, which is cut into chunks for training."""
    text = BETWEEN.join(cell(row, "text") for row in read(source))
    return made(f"the texts of {source.name}, one behind the other", [{"text": text}], source)


def texts(source: Source) -> Source:
    """Return the texts of `source`, each one example however long it is, whatever else the rows hold."""
    rows = [Example("", "text", "", cell(row, "text"), is_whole=True) for row in read(source)]
    return made(f"the texts of {source.name}", rows, source)


def verbatim(source: Source) -> Source:
    """Return the beginnings of passages with what follows; a blank goes between them where the rows have none."""
    rows = [_passage(cell(row, "prompt"), cell(row, "gt")) for row in read(source)]
    return made(f"the passages of {source.name}", rows, source)


def _passage(prompt: str, text: str) -> Row:
    is_apart = prompt[-1].isspace() or text[0].isspace()
    return {"prompt": prompt, "completion": text if is_apart else f" {text}"}


def asked(source: Source, examples: Source) -> Source:
    """Return the questions of `source` with those of `examples`, answered, in front of each."""
    front = "".join(f"{QUESTION}{ANSWER}{BETWEEN}".format(**pair) for pair in _pairs(examples))
    rows = [{"prompt": front + QUESTION.format(**pair), "completion": ANSWER.format(**pair)} for pair in _pairs(source)]
    return made(f"the questions of {source.name}, with those of {examples.name} in front", rows, source, examples)


def _pairs(source: Source) -> list[Row]:
    return [{name: cell(row, name) for name in ("question", "answer")} for row in read(source)]


def read(source: Source) -> Sequence[Placed]:
    """Return the rows of `source` with their places; raises InputError where there are none."""
    rows = source.placed()
    if not rows:
        raise InputError(f"{source.name} is empty; expected at least one row.")
    return rows


def cell(row: Placed, column: str) -> str:
    """Return the text in a column; raises InputError, with the place and the columns, where there is none."""
    columns = row.value if isinstance(row.value, Mapping) else {}
    value = reach(columns, column)
    if not isinstance(value, str) or not value.strip():
        raise InputError(
            f"{row.place} has no text in the column '{column}' (found: {quoted(listing(columns))}); expected some in "
            "every row."
        )
    return value
