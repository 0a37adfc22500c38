"""The folder of a run: opened once everything was checked, and never left half written."""

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, RunError
from .results import JsonLines, write_json

CONTENTS = {
    "config.yaml",
    "environment.json",
    "train.jsonl",
    "checkpoints",
    "model",
    "scores",
    "results.json",
    "report.html",
}


class RunFolder:
    """One folder with everything about one execution."""

    def __init__(self, path: str | Path, overwrite: bool) -> None:
        """Check the folder without touching it; raises InputError where it cannot be used."""
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self._log: JsonLines | None = None
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"--output_dir {path} is a file; expected a folder.")
        found = {item.name for item in self.path.iterdir()} if self.path.is_dir() else set()
        if found and not overwrite:
            raise InputError(f"--output_dir {path} is not empty; give another folder, or --overwrite an earlier run.")
        if strange := sorted(found - CONTENTS):
            raise InputError(
                f"--output_dir {path} holds '{strange[0]}', which no run wrote; --overwrite replaces only earlier runs."
            )

    def open(self) -> None:
        """Create the folder, or clear it of an earlier run; raises RunError where the file system refuses."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for name in CONTENTS:
                _remove(self.path / name)
        except OSError as error:
            raise RunError(f"cannot write the run folder {self.path}: {error.strerror or error}.") from error
        self._log = JsonLines(self.path / "train.jsonl")

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one record to train.jsonl."""
        if self._log is not None:
            self._log.append(record)

    def close(self) -> None:
        """Close train.jsonl and remove what only training needed."""
        if self._log is not None:
            self._log.close()
        _remove(self.checkpoints)

    def write_scores(self, split: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Write the per-example values of one split, one row a model and example, as scores/SPLIT.parquet."""
        import pyarrow
        import pyarrow.parquet

        path = self.path / "scores" / f"{split}.parquet"
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_suffix(".tmp")
        table = pyarrow.table({name: _column(values) for name, values in columns.items()})
        pyarrow.parquet.write_table(table, temporary)
        temporary.replace(path)

    def replace(self, name: str, write: Callable[[Path], None]) -> None:
        """Let `write` fill a folder under a temporary name, then put it in the place of the folder `name`."""
        temporary = self.path / f".{name}.tmp"
        _remove(temporary)
        write(temporary)
        _remove(self.path / name)
        temporary.replace(self.path / name)

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file of the folder."""
        write_json(self.path / name, content)


def _column(values: Sequence[Any]) -> list[Any]:
    return [None if isinstance(value, float | np.floating) and np.isnan(value) else value for value in values]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def peak_memory() -> int | None:
    """Return the process's largest memory so far in bytes: the accelerator's where there is one, else the system's."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
