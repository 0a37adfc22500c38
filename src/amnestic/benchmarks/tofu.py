"""TOFU, from a folder of its files or from the Hub, and whether they are what they claim."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ..data.example import Example
from ..data.files import is_readable
from ..data.options import DataOptions
from ..data.quoting import quoted
from ..data.rows import listing
from ..data.sources import HUB_ID, read_examples, rows_of, shared_rows
from ..errors import InputError, nearest
from .base import Benchmark, Source, benchmark, reaching_hub, refuse_lacking

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


@benchmark("tofu")
@dataclass(frozen=True, kw_only=True)
class Tofu(Benchmark):
    """Question and answer about 200 authors who do not exist, of whom 1, 5 or 10 % are to be forgotten.

    TOFU (Maini et al., 2024, arXiv:2401.06121). ``tofu:forget01``, ``tofu:forget05`` or ``tofu:forget10``, with the
    splits forget, retain, real_authors, world_facts, and holdout: as many rows as are forgotten, the last of retain90.
    """

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
        if not data.strip():
            raise InputError("--data is empty; expected the folder of TOFU's files, or a Hub data set owner/name.")
        if Path(data).is_file():
            raise InputError(f"{data} is a file; expected the folder of TOFU's files, such as {part}.json.")
        if not Path(data).is_dir() and (":" in data or not HUB_ID.fullmatch(data)):
            raise InputError(f"there is no folder {data}; expected that of TOFU's files, or a Hub data set owner/name.")
        return cls(split=part, data=data)

    def training(self) -> dict[str, Source]:
        """Return the forget and the retain rows."""
        return {"forget": self._source(self.split), "retain": self._source(self._retain)}

    def evaluation(self) -> dict[str, Source]:
        """Return the splits that are measured; there is no holdout where a folder has neither its file nor retain90."""
        names = {"forget": f"{self.split}_perturbed"} | {split: f"{split}_perturbed" for split in MEASURED}
        sources = {split: self._source(name) for split, name in names.items()}
        holdout = self._holdout(sources["forget"])
        return sources if holdout is None else sources | {"holdout": holdout}

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
        if self._is_local:
            return str(self._file(name) or f"the end of {self._file(HOLDOUT_OF)}")
        return f"{self.data}:{name}"

    @property
    def _is_local(self) -> bool:
        return Path(self.data).is_dir()

    def _inside(self) -> list[Path]:
        """Return what the folder holds, by name."""
        try:
            return sorted(Path(self.data).iterdir())
        except OSError as error:
            raise InputError(f"the folder {self.data} cannot be read ({error.strerror}).") from error

    def _source(self, name: str) -> Source:
        """Return the source of TOFU's split `name`; raises InputError where the folder has no file of it."""
        if not self._is_local:
            return Source(f"{self.data}:{name}:train")
        if (found := self._file(name)) is None:
            names = [f"{path.name}/" if path.is_dir() else path.name for path in self._inside()]
            raise InputError(
                f"the folder {self.data} has no file of the split {name} (found: {quoted(listing(names, most=24))}); "
                f"expected {name}.json, {name}.jsonl or {name}.parquet."
            )
        return Source(str(found))

    def _file(self, name: str) -> Path | None:
        """Return the one file, or folder of files, that is called `name` up to its suffix; None where there is none."""
        named = [path for path in self._inside() if path.name.partition(".")[0] == name]
        found = [path for path in named if path.is_dir() or is_readable(path)]
        if len(found) > 1:
            raise InputError(
                f"the folder {self.data} has {len(found)} files of the split {name} "
                f"({listing(path.name for path in found)}); expected one, so move the others away."
            )
        return found[0] if found else None

    def _holdout(self, forget: Source) -> Source | None:
        """Return the rows of the holdout's file, or those that it is made of."""
        if self._is_local and self._file(self._holdout_name) is not None:
            return self._source(self._holdout_name)
        if self._is_local and self._file(HOLDOUT_OF) is None:
            return None
        whole = self._source(HOLDOUT_OF)
        with reaching_hub():
            count = sum(1 for _ in rows_of(forget.name, "forget"))
            rows: list[Any] = [row.value for row in rows_of(whole.name, "holdout")]
        if len(rows) <= count:
            raise InputError(
                f"{whole.name} has {len(rows)} rows; expected more than {count}, the last of which are the holdout."
            )
        return Source(f"<the last {count} rows of {whole.name}>", rows[-count:])

    def _forgotten(self) -> Sequence[Example] | None:
        """Return the rows to be forgotten as the folder has them, None where it has not, or there is none."""
        if not self._is_local or (path := self._file(self.split)) is None:
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
