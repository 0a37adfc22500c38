"""The comparison of runs that ended: checked, then written as a leaderboard and its page."""

import os
from collections.abc import Sequence
from pathlib import Path

from .config import COMPARISON
from .errors import InputError, RunError
from .reports.comparability import differences
from .reports.entries import Entry
from .reports.leaderboard import FILES, Leaderboard, write_comparison

BENCH, RUNS = "bench.yaml", "runs"
"""What tells the folder of a bench, and where its runs are."""


def compare(
    runs: str | Path | Sequence[str | Path], *, output_dir: str | Path = COMPARISON, overwrite: bool = False
) -> Leaderboard:
    """Compare the run folders `runs`, and write leaderboard and page into `output_dir`; ``amnestic compare``.

    The folder of an ``amnestic bench`` stands for its runs that have ended. Raises InputError where a folder is no run
    of `unlearn` that ended, stands there twice, or was measured on other data or prompts than the first; RunError where
    the file system refuses.
    """
    given = [Path(run) for run in ([runs] if isinstance(runs, str | Path) else runs)]
    target = Path(output_dir)
    if not given:
        raise InputError("a comparison needs at least one run; give the folders of runs of unlearn.")
    folders = [folder for place in given for folder in _runs_in(place)]
    _refuse_twice(folders)
    _check_target(target, folders, overwrite)
    entries = [Entry.of(folder) for folder in folders]
    if sentences := differences(entries):
        raise InputError(sentences[0])
    return write_comparison(target, entries, _facts(entries) | _left_out(given))


def _runs_in(place: Path) -> list[Path]:
    """Return the runs that have ended in the folder of a bench, by name; any other folder as it is."""
    inside = _inside(place)
    if not inside:
        return [place]
    ended = [folder for folder in inside if (folder / "results.json").is_file()]
    if not ended:
        raise InputError(f"no run in {place / RUNS} has ended; go on with amnestic bench --config {place / BENCH}.")
    return ended


def _inside(place: Path) -> list[Path]:
    """Return the folders of all runs of a bench, by name; none where `place` is no such folder."""
    if not (place / BENCH).is_file():
        return []
    return sorted(folder for folder in (place / RUNS).glob("*") if folder.is_dir())


def _left_out(given: Sequence[Path]) -> dict[str, str]:
    """Return how many runs of the benches among `given` have not ended, as a fact."""
    left = [folder for place in given for folder in _inside(place) if not (folder / "results.json").is_file()]
    return {"Left out": f"{len(left)} of a bench's runs, which have not ended"} if left else {}


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
