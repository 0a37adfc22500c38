"""A folder of one's own in the place of a benchmark: what to forget, what to keep, and folds and requests of it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ..data.example import Example
from ..data.files import is_readable
from ..data.options import RESERVED
from ..data.rows import listing
from ..data.sources import shared_rows
from ..errors import InputError, nearest
from .base import Benchmark, Source, benchmark
from .folder import Folder, place_of

FOLDERS = ("scal", "sust")
"""Folders of files to forget: growing ones, and requests that arrive one after another."""
NAME = re.compile(r"[A-Za-z0-9_]+")
TAKEN = RESERVED - {"forget", "holdout"}
"""Names that mean something else in a run's records."""


@benchmark("files")
@dataclass(frozen=True, kw_only=True)
class Files(Benchmark):
    """Files of one's own: forget and retain, perhaps holdout, and any others, which are measured under their names.

    ``files`` with ``--data FOLDER``; a file in its folder ``scal`` or ``sust`` takes the place of forget in
    ``files:scal:NAME``.
    """

    data: str
    """The folder."""
    fold: tuple[str, str] | None = None
    """Folder and name of the file to forget, where it is not forget."""

    @classmethod
    def of(cls, part: str, data: str | None) -> Self:
        """Return the benchmark; raises InputError without a folder, and for a fold that the folder does not have."""
        if data is None:
            raise InputError(f"the benchmark {cls.name} has no files; give the folder that holds yours with --data.")
        if not Folder(place_of(data, "your", "forget.jsonl")).exists:
            raise InputError(f"there is no folder {data}; expected that of your files.")
        if not part:
            return cls(data=data)
        kind, _, name = part.partition(":")
        known = cls(data=data).folds(kind)
        if name not in known:
            raise InputError(
                f"the folder {Path(data) / kind} has no file of the name '{name}'{nearest(name, list(known)) or '.'}"
                f" Known: {listing(known)}."
            )
        return cls(data=data, fold=(kind, name))

    def training(self) -> dict[str, Source]:
        """Return the rows to forget, and those to keep."""
        return {"forget": self._forget, "retain": self._folder.source("retain")}

    def evaluation(self) -> dict[str, Source]:
        """Return the same, and every other file of the folder."""
        others = sorted({_split(path) for path in self._files(self._folder)} - {"forget", "retain"})
        for name in others:
            _refuse_name(self.data, name)
        return self.training() | {name: self._folder.source(name) for name in others}

    def folds(self, kind: str) -> Mapping[str, str]:
        """Return the files of the folder ``scal`` or ``sust``, in the order of their names."""
        if kind not in FOLDERS:
            return super().folds(kind)
        inner = self._folder.part(kind, f"files such as {kind}/forget_1.jsonl")
        names = dict.fromkeys(_split(path) for path in self._files(inner))
        if not names:
            raise InputError(f"the folder {inner.path} has no file that can be read (found: {inner.found}).")
        return {name: f"{self.name}:{kind}:{name}" for name in names}

    def requests(self) -> Mapping[str, str]:
        """Return the files of the folder ``sust``."""
        return self.folds("sust")

    def check(
        self, evaluation: Mapping[str, Sequence[Example]], training: Mapping[str, Sequence[Example]] | None = None
    ) -> list[str]:
        """Raise InputError where rows of the holdout are to be forgotten."""
        holdout = evaluation.get("holdout", [])
        if shared := shared_rows(holdout, evaluation["forget"]):
            raise InputError(
                f"{shared} of {len(holdout)} rows of {self._folder.file('holdout')} stand in {self._forget.name} too; "
                "expected rows that are not to be forgotten."
            )
        return []

    @property
    def _folder(self) -> Folder:
        return Folder(self.data)

    @property
    def _forget(self) -> Source:
        if self.fold is None:
            return self._folder.source("forget")
        kind, name = self.fold
        return Folder(str(Path(self.data) / kind)).source(name)

    @staticmethod
    def _files(folder: Folder) -> list[Path]:
        return [path for path in folder.inside() if path.is_file() and is_readable(path) and path.name[0] != "."]


def _split(path: Path) -> str:
    return path.name.partition(".")[0]


def _refuse_name(folder: str, name: str) -> None:
    """Raise InputError for the name of a file that cannot be that of a split."""
    if not NAME.fullmatch(name) or name in TAKEN:
        raise InputError(
            f"the folder {folder} has a file '{name}', which cannot name what is measured; expected letters, digits "
            f"and _ alone, and none of {listing(sorted(TAKEN))}, so rename it or move it away."
        )
