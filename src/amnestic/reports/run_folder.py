"""The folder of a run: opened once everything was checked, and never left half written."""

import json
import os
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..shared_folder import write_folder
from ..storage import remove, write_file, writing
from ..training.checkpoint import found_in, read_state, step_of
from .places import lock_folder, refuse_place
from .results import JsonLines, read_jsonl, write_json, write_text

CONTENTS = {
    "config.yaml",
    "environment.json",
    "alternatives.jsonl",
    "train.jsonl",
    "checkpoints",
    "model",
    "scores",
    "results.json",
    "report.html",
    "tracking",
    "judge",
    "judge.json",
}

STALE = {"scores", "results.json", "report.html", "judge", "judge.json"}
"""What a run, or who judges it, writes last: it is gone from the folder of a run that goes on."""


class RunFolder:
    """One folder with everything about one execution."""

    def __init__(
        self,
        path: str | Path,
        overwrite: bool,
        is_resuming: bool = False,
        is_written_here: bool = True,
        logs: bool = True,
    ) -> None:
        """Check the folder without touching it; raises InputError where it cannot be used.

        With `is_resuming` it is kept from other processes until `release`. Raises RunError where the file system does
        not let anything be written. Not `is_written_here`: another process of the run checks and writes it. `logs`: the
        run has steps, which train.jsonl records.
        """
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.is_open = False
        """The run has begun to write: what stands in the folder is its own."""
        self.is_written_here = is_written_here
        self._is_resuming = is_resuming
        self._logs = logs
        self._log: JsonLines | None = None
        self._lock: int | None = None
        if is_written_here:
            self._check(overwrite, is_resuming)

    def _check(self, overwrite: bool, is_resuming: bool) -> None:
        path = self.path
        refuse_place(path)
        found = {item.name for item in self.path.iterdir()} if self.path.is_dir() else set()
        if found and not overwrite and not is_resuming:
            ways = "another folder, or --overwrite an earlier run"
            if "checkpoints" in found and self._logs:  # an evaluation goes on by itself
                ways = "--resume_from_checkpoint latest to go on with the run in it, or --overwrite to start anew"
            raise InputError(f"--output_dir {path} is not empty; give {ways}.")
        if is_resuming and "results.json" in found and not found_in(self.checkpoints):
            raise InputError(f"the run in --output_dir {path} has ended; there is nothing to resume.")
        if strange := sorted(name for name in found if not _is_ours(name)):
            raise InputError(
                f"--output_dir {path} holds '{strange[0]}', which no run wrote; --overwrite replaces only earlier runs."
            )
        if found and is_resuming:
            self._lock = lock_folder(self.path)  # before anything in it is read

    def refuse_inputs(self, files: Iterable[Path]) -> None:
        """Raise InputError where a file that the run reads lies in the folder: opening it would delete the file."""
        folder = self.path.resolve()
        for file in files if self.is_written_here else ():
            if file.resolve().is_relative_to(folder):
                raise InputError(f"--output_dir {self.path} holds {file}, which this run reads; give another folder.")

    def refuse_cache(self, cache: str | None) -> None:
        """Raise InputError where a cache would lie in the folder, whose content is one run's, and goes with it."""
        if self.is_written_here and cache and Path(cache).resolve().is_relative_to(self.path.resolve()):
            self.release()
            raise InputError(
                f"--cache_dir {cache} lies in --output_dir {self.path}, which holds one run; give another folder."
            )

    def open(self, source: Path | None = None, keeps: Collection[str] = ()) -> None:
        """Create the folder, or clear it of an earlier run; with `source`, the checkpoint to go on from, keep its log.

        Where an interrupted run goes on without a checkpoint, what has a name of `keeps` stays.

        Raises InputError where another process is writing there, RunError where the file system refuses.
        """
        if not self.is_written_here:
            self.is_open = True
            return
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = lock_folder(self.path) if self._lock is None else self._lock
            self.is_open = True
            state = None if source is None else read_state(source)
            records = _records(source, state) if source is not None and state is not None else []
            kept = keeps if self._is_resuming else ()
            for item in [item for item in self.path.iterdir() if item.name not in kept]:
                if source is None or item.name.endswith(".tmp") or item.name in STALE:
                    remove(item)
            if state is not None:
                self._clear_checkpoints(state["step"])
            if self._logs:
                write_text(self.path / "train.jsonl", "".join(f"{json.dumps(record)}\n" for record in records))
        if self._logs:
            self._log = JsonLines(self.path / "train.jsonl")

    def _clear_checkpoints(self, step: int) -> None:
        """Remove what a killed process left half written, and the checkpoints beyond the one that is gone on from."""
        for item in list(self.checkpoints.glob(".*.tmp")):
            remove(item)
        for item in found_in(self.checkpoints):
            if step_of(item) > step:
                remove(item)

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one record to train.jsonl."""
        if self._log is not None:
            self._log.append(record)

    def close(self, has_ended: bool) -> None:
        """Close train.jsonl, and remove what only training needed where the run has ended."""
        with suppress(OSError):  # a record that could not be written was told when it was appended
            if self._log is not None:
                self._log.close()
        with suppress(OSError):
            if has_ended and self.is_written_here:
                remove(self.checkpoints)
        self.release()

    def release(self) -> None:
        """Let other processes into the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def write_scores(self, split: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Write the per-example values of one split, one row a model and example, as scores/SPLIT.parquet."""
        if not self.is_written_here:
            return
        import pyarrow
        import pyarrow.parquet

        path = self.path / "scores" / f"{split}.parquet"
        table = pyarrow.table({name: _column(values) for name, values in columns.items()})
        with writing(path):
            path.parent.mkdir(exist_ok=True)
        write_file(path, lambda temporary: pyarrow.parquet.write_table(table, temporary))

    def replace(self, name: str, write: Callable[[Path], None]) -> None:
        """Let `write` fill a folder under a temporary name, then put it in the place of the folder `name`."""

        def shared(temporary: Path) -> None:
            write(temporary)
            _share(temporary)

        write_folder(self.path / name, shared)

    def write_rows(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write a JSON Lines file of the folder."""
        if self.is_written_here:
            write_text(self.path / name, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file of the folder."""
        if not self.is_written_here:
            return
        write_json(self.path / name, content)


def _column(values: Sequence[Any]) -> list[Any]:
    return [None if isinstance(value, float | np.floating) and np.isnan(value) else value for value in values]


def _share(folder: Path) -> None:
    """Let everybody read the files of a new folder whom the umask lets read: safetensors' are the user's alone."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def _is_ours(name: str) -> bool:
    """Return whether a run wrote what has this name: one of CONTENTS, or what a killed run left of it."""
    return name in CONTENTS or any(name.startswith(f".{known}.") and name.endswith(".tmp") for known in CONTENTS)


def _records(source: Path, state: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the records that a run had written when it made the checkpoint `source`; what came later is done again."""
    measured = {candidate["step"] for candidate in state["candidates"]}
    path = source.parent.parent / "train.jsonl"
    records = read_jsonl(path) if path.exists() else iter(())
    return [r for r in records if (r["step"] in measured if "candidate" in r else r["step"] <= state["step"])]


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
