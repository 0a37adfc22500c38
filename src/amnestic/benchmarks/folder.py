"""A folder of a benchmark's files, each called as its split is."""

import re
from dataclasses import dataclass
from pathlib import Path

from ..data.files import is_readable
from ..data.quoting import quoted
from ..data.rows import listing
from ..data.sources import HUB_ID
from ..errors import InputError
from .base import Source

SHARD = r"(-00000-of-00001)?"
"""What the Hub appends to the name of a split that is one file."""


@dataclass(frozen=True)
class Folder:
    """Files, or folders of files, with the names of splits up to their suffixes."""

    path: str
    """As the user wrote it."""

    @property
    def exists(self) -> bool:
        """Return whether there is such a folder."""
        return Path(self.path).is_dir()

    def inside(self) -> list[Path]:
        """Return what the folder holds, by name; raises InputError where it cannot be read."""
        try:
            return sorted(Path(self.path).iterdir())
        except OSError as error:
            raise InputError(f"the folder {self.path} cannot be read ({error.strerror}).") from error

    @property
    def found(self) -> str:
        """Return what the folder holds as part of a message."""
        return quoted(listing((f"{path.name}/" if path.is_dir() else path.name for path in self.inside()), most=24))

    def file(self, split: str) -> Path | None:
        """Return the one file, or folder of files, of a split; None where there is none.

        Raises InputError where there are several.
        """
        pattern = re.compile(rf"{re.escape(split)}{SHARD}")
        named = [path for path in self.inside() if pattern.fullmatch(path.name.partition(".")[0])]
        found = [path for path in named if path.is_dir() or is_readable(path)]
        if len(found) > 1:
            raise InputError(
                f"the folder {self.path} has {len(found)} files of the split {split} "
                f"({listing(path.name for path in found)}); expected one, so move the others away."
            )
        return found[0] if found else None

    def source(self, split: str) -> Source:
        """Return the rows of a split; raises InputError where the folder has no file of it."""
        if (found := self.file(split)) is None:
            raise InputError(
                f"the folder {self.path} has no file of the split {split} (found: {self.found}); expected "
                f"{split}.json, {split}.jsonl or {split}.parquet."
            )
        return Source(str(found))

    def part(self, name: str, expected: str) -> "Folder":
        """Return the folder inside that is called `name`; raises InputError, with what was `expected`, without one."""
        inner = Folder(str(Path(self.path) / name))
        if not inner.exists:
            raise InputError(f"the folder {self.path} has no folder {name} (found: {self.found}); expected {expected}.")
        return inner


def place_of(data: str, owner: str, example: str) -> str:
    """Return the place of a benchmark's files, which a user named: a folder, or a data set of the Hub.

    `owner` is whose files these are, and `example` one of them, for the InputError that a place raises which cannot be
    used.
    """
    if not data.strip():
        raise InputError(f"--data is empty; expected the folder of {owner} files, or a Hub data set owner/name.")
    if Path(data).is_file():
        raise InputError(f"{data} is a file; expected the folder of {owner} files, such as {example}.")
    if not Path(data).is_dir() and (":" in data or not HUB_ID.fullmatch(data)):
        raise InputError(f"there is no folder {data}; expected that of {owner} files, or a Hub data set owner/name.")
    return data
