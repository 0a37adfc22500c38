"""The folder of a run: opened once everything was checked, and never left half written."""

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    "tracking.json",
    "tensorboard",
    "wandb",
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
        _refuse_place(self.path)
        found = {item.name for item in self.path.iterdir()} if self.path.is_dir() else set()
        if found and not overwrite:
            raise InputError(f"--output_dir {path} is not empty; give another folder, or --overwrite an earlier run.")
        if strange := sorted(name for name in found if not _is_ours(name)):
            raise InputError(
                f"--output_dir {path} holds '{strange[0]}', which no run wrote; --overwrite replaces only earlier runs."
            )

    def refuse_inputs(self, files: Iterable[Path]) -> None:
        """Raise InputError where a file that the run reads lies in the folder: opening it would delete the file."""
        folder = self.path.resolve()
        for file in files:
            if file.resolve().is_relative_to(folder):
                raise InputError(f"--output_dir {self.path} holds {file}, which this run reads; give another folder.")

    def open(self) -> None:
        """Create the folder, or clear it of an earlier run; raises RunError where the file system refuses."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for item in list(self.path.iterdir()):
                if _is_ours(item.name):
                    _remove(item)
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


def _is_ours(name: str) -> bool:
    """Return whether a run wrote what has this name: one of CONTENTS, or what a killed run left of it."""
    return name in CONTENTS or any(name.startswith(f".{known}.") and name.endswith(".tmp") for known in CONTENTS)


def _refuse_place(path: Path) -> None:
    """Raise InputError where no folder can be made or written at `path`."""
    existing = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    if not existing.is_dir():
        raise InputError(f"--output_dir {path} lies below {existing}, which is a file; give another folder.")
    if not os.access(existing, os.R_OK | os.W_OK | os.X_OK):
        raise InputError(f"--output_dir {path} cannot be written: {existing} is read-only; give another folder.")


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
