"""TOFU, from a folder of its files or from the Hub, and whether they are what they claim."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from ..data.example import Example
from ..data.options import DataOptions
from ..data.quoting import quoted
from ..data.sources import read_examples, shared_rows
from ..errors import InputError, nearest
from .base import Benchmark, Source, benchmark, made, refuse_lacking
from .folder import Folder, place_of

HUB = "locuslab/TOFU"
"""The data set of the benchmark's authors; each name is a configuration of it, with one split."""
ROWS = 4000
"""Rows of all 200 authors."""
FORGOTTEN = {"forget01": 40, "forget05": 200, "forget10": 400}
"""Rows to be forgotten, which are the last of all; ``retain99``, ``retain95`` and ``retain90`` are those before."""
HOLDOUT_OF = "retain90"
"""The rows of which the last are the holdout, as many as are to be forgotten, whichever these are."""
MEASURED = {"retain": 400, "real_authors": 100, "world_facts": 117}
"""Rows of the splits that are measured whatever is forgotten."""
PERTURBED = ("perturbed_answer",)
KINDS = {
    "forget": ("paraphrased_answer", *PERTURBED),
    "retain": ("paraphrased_answer", *PERTURBED),
    "real_authors": PERTURBED,
    "world_facts": PERTURBED,
}
"""Split -> the other answers that each of its rows must have."""
LEARNING = {
    "learning_rate": 1e-5,
    "lr_scheduler_type": "linear",
    "warmup_epochs": 1.0,
    "num_train_epochs": 5.0,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 8,
    "weight_decay": 0.01,
}
"""How the authors trained their models from Llama 2 (finetune.py of github.com/locuslab/tofu)."""


@benchmark("tofu")
@dataclass(frozen=True, kw_only=True)
class Tofu(Benchmark):
    """Question and answer about 200 authors who do not exist, of whom 1, 5 or 10 % are to be forgotten.

    TOFU (Maini et al., 2024, arXiv:2401.06121). ``tofu:forget01``, ``tofu:forget05`` or ``tofu:forget10``, with the
    splits forget, retain, real_authors, world_facts, and holdout: as many rows as are forgotten, the last of retain90.
    """

    learning: ClassVar[Mapping[str, Any]] = LEARNING

    split: str = "forget10"
    """The rows to be forgotten."""
    data: str = HUB
    """A folder of files with TOFU's names, or a Hub data set with configurations of these names."""

    @classmethod
    def of(cls, part: str, data: str | None) -> Self:
        """Return the benchmark; raises InputError for an unknown split, and for a folder that does not exist."""
        known = [f"{cls.name}:{split}" for split in FORGOTTEN]
        if not part:
            raise InputError(f"the benchmark {cls.name} needs one of its splits; expected {', '.join(known)}.")
        if part not in FORGOTTEN:
            raise InputError(
                f"unknown split '{part}' of the benchmark {cls.name}{nearest(part, list(FORGOTTEN)) or '.'} Known: "
                f"{', '.join(known)}."
            )
        if data is None:
            return cls(split=part)
        return cls(split=part, data=place_of(data, "TOFU's", f"{part}.json"))

    def training(self) -> dict[str, Source]:
        """Return the forget and the retain rows."""
        return {"forget": self._source(self.split), "retain": self._source(self._retain)}

    def evaluation(self) -> dict[str, Source]:
        """Return the splits that are measured; there is no holdout where a folder has neither its file nor retain90."""
        names = {"forget": f"{self.split}_perturbed"} | {split: f"{split}_perturbed" for split in MEASURED}
        sources = {split: self._source(name) for split, name in names.items()}
        holdout = self._holdout(sources["forget"])
        return sources if holdout is None else sources | {"holdout": holdout}

    def folds(self, kind: str) -> Mapping[str, str]:
        """Return the three splits as folds of the kind ``scal``: each holds the rows of the one before."""
        return {split: f"{self.name}:{split}" for split in FORGOTTEN} if kind == "scal" else super().folds(kind)

    @property
    def notes(self) -> Mapping[str, str]:
        """Return what the public models know of the holdout."""
        return {
            "holdout": (
                f"{self._holdout_name} is part of {self._retain}, so models that were fine-tuned on all of TOFU, and "
                f"those that were retrained on {self._retain}, have seen it: its rows are non-members, as PrivLeak and "
                "the membership attacks suppose, only of a model that was trained without them."
            )
        }

    def retrained_of(self, model: str) -> str | None:
        """Return the name after the rows that it was trained on: ``..._full`` becomes ``..._retain90``."""
        found = re.fullmatch(r"(.+[-_])full", model.rstrip("/"))
        return f"{found[1]}{self._retain}" if found else None

    def check(
        self, evaluation: Mapping[str, Sequence[Example]], training: Mapping[str, Sequence[Example]] | None = None
    ) -> list[str]:
        """Raise InputError where rows lack their other answers, or are not those that the split is named after.

        Without `training` the rows to be forgotten are read from the folder, if it has them. Returns a note where there
        are more or fewer rows than TOFU has.
        """
        for split, kinds in KINDS.items():
            advice = "expected one in every row, as TOFU's *_perturbed files have"
            refuse_lacking(self._place(split), evaluation[split], kinds, advice)
        forgotten = self._forgotten() if training is None else training["forget"]
        if forgotten is not None:
            self._refuse_other_questions(evaluation["forget"], forgotten)
        for split in (name for name in ("retain", "holdout") if name in evaluation):
            if shared := shared_rows(evaluation[split], evaluation["forget"]):
                raise InputError(
                    f"{shared} of {len(evaluation[split])} rows of {self._place(split)} stand in "
                    f"{self._place('forget')} too; expected rows that are not to be forgotten."
                )
        return self._counted(evaluation, training or {})

    @property
    def _retain(self) -> str:
        return f"retain{100 - int(self.split.removeprefix('forget'))}"

    @property
    def _holdout_name(self) -> str:
        return self.split.replace("forget", "holdout")

    def _place(self, split: str) -> str:
        """Return where the rows of a measured split come from, for messages."""
        name = {"forget": f"{self.split}_perturbed", "holdout": self._holdout_name}.get(split, f"{split}_perturbed")
        if self._folder.exists:
            return str(self._folder.file(name) or f"the end of {self._folder.file(HOLDOUT_OF)}")
        return f"{self.data}:{name}"

    @property
    def _folder(self) -> Folder:
        return Folder(self.data)

    def _source(self, name: str) -> Source:
        """Return the source of TOFU's split `name`; raises InputError where the folder has no file of it."""
        return self._folder.source(name) if self._folder.exists else Source(f"{self.data}:{name}:train")

    def _holdout(self, forget: Source) -> Source | None:
        """Return the rows of the holdout's file, or those that it is made of."""
        if self._folder.exists:
            if self._folder.file(self._holdout_name) is not None:
                return self._source(self._holdout_name)
            if self._folder.file(HOLDOUT_OF) is None:
                return None
        whole = self._source(HOLDOUT_OF)
        count, rows = len(forget.values()), whole.values()
        if len(rows) <= count:
            raise InputError(
                f"{whole.name} has {len(rows)} rows; expected more than {count}, the last of which are the holdout."
            )
        return made(f"the last {count} rows of {whole.name}", rows[-count:], whole)

    def _forgotten(self) -> Sequence[Example] | None:
        """Return the rows to be forgotten as the folder has them, None where it has not, or there is none."""
        if not self._folder.exists or (path := self._folder.file(self.split)) is None:
            return None
        return read_examples(path, "forget", DataOptions())

    def _refuse_other_questions(self, measured: Sequence[Example], forgotten: Sequence[Example]) -> None:
        if len(measured) != len(forgotten):
            raise InputError(
                f"{self._place('forget')} has {len(measured)} rows, and {self.split} has {len(forgotten)}; expected "
                "the same questions in the same order."
            )
        for number, (ours, theirs) in enumerate(zip(measured, forgotten, strict=True)):
            if ours.prompt != theirs.prompt:
                raise InputError(
                    f"row {number} (counted from 0) of {self._place('forget')} asks another question than that of "
                    f"{self.split}: {quoted(repr(ours.prompt_text[:80]))} in place of "
                    f"{quoted(repr(theirs.prompt_text[:80]))}; expected the same questions in the same order."
                )

    def _counted(
        self, evaluation: Mapping[str, Sequence[Example]], training: Mapping[str, Sequence[Example]]
    ) -> list[str]:
        """Return a note where a split has another number of rows than TOFU's."""
        count = FORGOTTEN[self.split]
        measured = {"forget": count, **MEASURED, "holdout": count}
        trained = {"forget": count, "retain": ROWS - count}
        odd = [
            f"{len(rows)} {split} rows{purpose}, not {expected[split]}"
            for purpose, expected, found in ((" to measure", measured, evaluation), (" to train on", trained, training))
            for split, rows in found.items()
            if len(rows) != expected[split]
        ]
        name = f"{self.name}:{self.split}"
        return [f"{self.data} is not the whole of {name} ({', '.join(odd)}): these are not its numbers."] if odd else []
