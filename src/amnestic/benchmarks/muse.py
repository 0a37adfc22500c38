"""MUSE, from a folder of its files or from the Hub, and whether they are what they claim."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from ..data.example import Example
from ..data.rows import listing
from ..errors import InputError, nearest
from .base import Source, benchmark
from .corpus import FOLDS, PRIVLEAK, RAW, SCAL, SUST, VERBMEM, Corpus
from .folder import Folder, place_of

HUB = {"books": "muse-bench/MUSE-Books", "news": "muse-bench/MUSE-News"}
"""Corpus -> the data set of the benchmark's authors, whose configurations have these names."""
WITH_FOLDS = "news"
"""The one corpus that has folds there."""
MEASURED = 100
"""Rows of each split that is measured."""
LEARNING = {
    "learning_rate": 1e-5,
    "lr_scheduler_type": "constant",
    "num_train_epochs": 5.0,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 8,
    "weight_decay": 0.0,
}
"""How the authors trained their models."""
UNLEARNING = LEARNING | {"num_train_epochs": 10.0}
"""How they unlearn (baselines/scripts of github.com/jaechan-repo/muse_bench: eight processes, four examples each)."""
TARGET = re.compile(r"(.+[-_])target")


@benchmark("muse")
@dataclass(frozen=True, kw_only=True)
class Muse(Corpus):
    """Books and news, of which some texts are to be forgotten: what is recited, what is known, who was a member.

    MUSE (Shi et al., 2024, arXiv:2407.06460). ``muse:books`` or ``muse:news``, with the splits forget (passages to
    recite), retain and forget_qa (questions), forget_texts and holdout; ``muse:news:scal:forget_3`` and
    ``muse:news:sust:forget_2`` forget one of the folds, and measure the same.
    """

    learning: ClassVar[Mapping[str, Any]] = LEARNING

    corpus: str = "news"
    """``books`` or ``news``."""
    data: str = HUB["news"]
    """A folder with a folder of files for each configuration, or a Hub data set with configurations of these names."""

    @classmethod
    def of(cls, part: str, data: str | None) -> Self:
        """Return the benchmark; raises InputError for an unknown corpus or fold, and for a folder that is not there."""
        corpus, *fold = part.split(":")
        known = [f"{cls.name}:{name}" for name in HUB]
        if not part:
            raise InputError(f"the benchmark {cls.name} needs one of its corpora; expected {', '.join(known)}.")
        if corpus not in HUB:
            raise InputError(
                f"unknown corpus '{corpus}' of the benchmark {cls.name}{nearest(corpus, list(HUB)) or '.'} Known: "
                f"{', '.join(known)}."
            )
        place = HUB[corpus] if data is None else place_of(data, "MUSE's", "raw/forget.jsonl")
        return cls(corpus=corpus, data=place, fold=_fold(f"{cls.name}:{corpus}", fold))

    def source(self, config: str, split: str) -> Source:
        """Return the rows of a split; raises InputError where the folder, or the Hub, has none."""
        if self._folder.exists:
            return self._folder.part(config, f"files such as {config}/{split}.jsonl").source(split)
        if config in (SCAL, SUST) and self.data == HUB[self.corpus] and self.corpus != WITH_FOLDS:
            raise InputError(
                f"{self.data} has no folds; expected {self.name}:{WITH_FOLDS}, or --data with a folder that holds "
                f"{config}/{split}.jsonl."
            )
        return Source(f"{self.data}:{config}:{split}")

    def has(self, config: str) -> bool:
        """Return whether there is this configuration; a folder may lack some."""
        return not self._folder.exists or (Path(self.data) / config).is_dir()

    def fold_named(self, config: str, split: str) -> str:
        """Return ``muse:news:scal:forget_3``."""
        return f"{self.name}:{self.corpus}:{config}:{split}"

    @property
    def unlearning(self) -> Mapping[str, Any]:
        """Return the authors' settings: some 32 chunks a step, at a constant rate."""
        return UNLEARNING

    def retrained_of(self, model: str) -> str | None:
        """Return the name beside that of the model which knows all: ``..._target`` becomes ``..._retrain``."""
        found = TARGET.fullmatch(model.rstrip("/"))
        return f"{found[1]}retrain" if found else None

    def check(
        self, evaluation: Mapping[str, Sequence[Example]], training: Mapping[str, Sequence[Example]] | None = None
    ) -> list[str]:
        """Raise InputError where a text of the holdout is to be forgotten; return notes about what is odd."""
        self._refuse_members(evaluation["holdout"], evaluation["forget_texts"], self._place(PRIVLEAK, "forget"))
        notes = []
        if training is not None:
            self._refuse_members(evaluation["holdout"], training["forget"], self._place(*self.fold))
            notes += self._unrelated(evaluation["forget"], training["forget"])
        if odd := [f"{len(rows)} {split} rows" for split, rows in evaluation.items() if len(rows) != MEASURED]:
            notes.append(
                f"{self.data} is not the whole of {self.name}:{self.corpus} ({', '.join(odd)} to measure, not "
                f"{MEASURED}): these are not its numbers."
            )
        return notes

    def _unrelated(self, passages: Sequence[Example], forgotten: Sequence[Example]) -> list[str]:
        """Return a note where no passage stands in the texts to be forgotten, as in the later folds of ``sust``."""
        texts = [_plain(example.answer) for example in forgotten]
        if any(_plain(row.prompt_text) in text for row in passages for text in texts):
            return []
        recited, place = self._place(VERBMEM, "forget"), self._place(*self.fold)
        return [f"no passage of {recited} stands in {place}: what is measured as forgotten is not what is forgotten."]

    def _refuse_members(self, holdout: Sequence[Example], members: Sequence[Example], place: str) -> None:
        """Raise InputError where texts of the holdout stand in those of `members`, which `place` names."""
        texts = [example.answer for example in members]
        found = [number for number, row in enumerate(holdout) if any(row.answer.strip() in text for text in texts)]
        if found:
            raise InputError(
                f"{len(found)} of {len(holdout)} rows of {self._place(PRIVLEAK, 'holdout')} stand in {place} too "
                f"(the first is row {found[0]}, counted from 0); expected texts that are not to be forgotten."
            )

    def _place(self, config: str, split: str) -> str:
        return self.source(config, split).name

    @property
    def _folder(self) -> Folder:
        return Folder(self.data)


def _plain(text: str) -> str:
    """Return a text with single blanks: what a tokenizer decoded may have others than the corpus."""
    return " ".join(text.split())


def _fold(owner: str, parts: Sequence[str]) -> tuple[str, str]:
    """Return configuration and split of what ``owner:scal:forget_3`` forgets; raises InputError for no such fold."""
    if not parts:
        return RAW, "forget"
    if len(parts) == 2 and parts[0] in (SCAL, SUST) and parts[1] in FOLDS:
        return parts[0], parts[1]
    raise InputError(
        f"the benchmark {owner} has no fold '{':'.join(parts)}'; expected {SCAL} or {SUST} with one of "
        f"{listing(FOLDS)}, such as {owner}:{SCAL}:{FOLDS[0]}."
    )
