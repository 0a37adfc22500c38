"""The comparison of runs that ended: checked, then written as a leaderboard and its page."""

import os
from collections.abc import Sequence
from pathlib import Path

from .errors import InputError, RunError
from .reports.comparability import differences
from .reports.entries import Entry
from .reports.leaderboard import FILES, Leaderboard, write_comparison


def compare(runs: Sequence[str | Path], *, output_dir: str | Path, overwrite: bool = False) -> Leaderboard:
    """Compare the run folders `runs`, and write leaderboard and page into `output_dir`; ``amnestic compare``.

    Raises InputError where a folder is no run of `unlearn` that ended, stands there twice, or was measured on other
    data or prompts than the first; RunError where the file system refuses.
    """
    folders = [Path(run) for run in ([runs] if isinstance(runs, str) else runs)]
    target = Path(output_dir)
    if not folders:
        raise InputError("a comparison needs at least one run; give the folders of runs of unlearn.")
    _refuse_twice(folders)
    _check_target(target, folders, overwrite)
    entries = [Entry.of(folder) for folder in folders]
    if sentences := differences(entries):
        raise InputError(sentences[0])
    return write_comparison(target, entries, _facts(entries))


def _refuse_twice(folders: Sequence[Path]) -> None:
    seen: dict[Path, Path] = {}
    for folder in folders:
        earlier = seen.setdefault(folder.resolve(), folder)
        if earlier is not folder:
            raise InputError(f"{folder} is the same run as {earlier}; give each run once.")


def _check_target(target: Path, folders: Sequence[Path], overwrite: bool) -> None:
    """Raise InputError where the output would stand in the place of something else, RunError where none may be."""
    existing = next(place for place in (target.absolute(), *target.absolute().parents) if place.exists())
    if not existing.is_dir():
        raise InputError(f"--output_dir {target} is, or lies below, the file {existing}; expected a folder.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise RunError(f"--output_dir {target} cannot be written: {existing} is read-only; give another folder.")
    if target.resolve() in {folder.resolve() for folder in folders}:
        raise InputError(f"--output_dir {target} is one of the runs; give a folder of its own.")
    found = sorted(item.name for item in target.iterdir()) if target.is_dir() else []
    if strange := [name for name in found if name not in FILES]:
        raise InputError(f"--output_dir {target} holds '{strange[0]}', which no comparison wrote; give another folder.")
    if found and not overwrite:
        raise InputError(
            f"--output_dir {target} is not empty; give another folder, or --overwrite the comparison in it."
        )


def _facts(entries: Sequence[Entry]) -> dict[str, str]:
    """Return what stands on top of the comparison."""
    facts = {"Runs": str(len(entries))}
    for label, name in (("Benchmark", "benchmark"), ("Model", "model")):
        if known := sorted({str(value) for entry in entries if (value := (entry.results or {}).get(name))}):
            facts[label] = ", ".join(known)
    return facts | {"Seeds": ", ".join(map(str, sorted({entry.seed for entry in entries})))}
