"""The leaderboard of several runs: what each method forgot, what it kept, and whether its bound was held."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..storage import writing
from . import tables
from .comparability import caveats, differences
from .comparison_page import render_comparison
from .entries import Entry, State
from .figures import FORGOTTEN_AXIS, KEPT_AXIS, Figure, axis
from .files import write_json, write_text
from .rows import Row, by_fold, figures_of, rows
from .seeds import LEVEL

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["FILES", "Entry", "Leaderboard", "Row", "write_comparison"]

SCHEMA = 1
FILES = ("leaderboard.md", "leaderboard.csv", "runs.csv", "leaderboard.json", "report.html")
"""What `write_comparison` writes."""


@dataclass(frozen=True)
class Leaderboard:
    """Runs as rows, one for each method, setting and fold, with means and intervals over seeds."""

    entries: tuple[Entry, ...]
    columns: tuple[Figure, ...]
    rows: tuple[Row, ...]
    """The model before and the retrained one, as far as they were measured, then the methods."""
    notes: tuple[str, ...]
    """Sentences that must be read with the numbers."""
    facts: Mapping[str, str]
    """What stands on top: benchmark, model, command, ..."""

    @classmethod
    def of(cls, entries: Sequence[Entry], facts: Mapping[str, str]) -> "Leaderboard":
        """Return the leaderboard of at least one run; what cannot be compared is said in its notes."""
        columns = figures_of(entries)
        notes = [*_of_differences(entries), *caveats(entries), _of_intervals(entries)]
        return cls(tuple(entries), tuple(columns), tuple(rows(entries, columns)), tuple(notes), dict(facts))

    @property
    def status(self) -> State:
        """Return the worst that can be said of a run: it missed its bound, it failed, it held it, it had none."""
        states = {entry.state for entry in self.entries}
        order: tuple[State, ...] = ("infeasible", "failed", "feasible", "unconstrained")
        return next(state for state in order if state in states)

    @property
    def verdict(self) -> str:
        """Return the sentences in one text."""
        return " ".join(self.sentences)

    @property
    def sentences(self) -> list[str]:
        """Return how the runs ended, and which bounds were held, the bad news first."""
        states = [entry.state for entry in self.entries]
        held, missed, failed, free = (
            states.count(state) for state in ("feasible", "infeasible", "failed", "unconstrained")
        )
        sentences = []
        if missed:
            sentences.append(f"The bound was missed in {missed} of {_counted(held + missed, 'bounded run')}.")
        if failed:
            sentences.append(f"{failed} of {_counted(len(states), 'run')} failed.")
        if held and not missed:
            sentences.append(f"The bound was held in {_all_of(held)}.")
        if free:
            sentences.append(
                f"{_counted(free, 'run')} had no bound: nothing held what {'it' if free == 1 else 'they'} kept."
            )
        return sentences

    @property
    def folds(self) -> list[str]:
        """Return the folds where there are several, in the order of the runs; none where all runs forgot the same."""
        return [fold for fold in by_fold(self.entries) if fold is not None]

    @property
    def axes(self) -> tuple[Figure | None, Figure | None]:
        """Return what stands for all that was forgotten, and for all that was kept."""
        measured = [entry.values for entry in self.entries if entry.results is not None]
        return axis(self.columns, FORGOTTEN_AXIS, measured), axis(self.columns, KEPT_AXIS, measured)

    def shown(self) -> list[Figure]:
        """Return the columns of the tables for people."""
        return [column for column in self.columns if column.is_shown]

    def table(self) -> "Table":
        """Return the leaderboard for a terminal of 80 columns."""
        return tables.terminal(self)

    @property
    def records(self) -> list[dict[str, Any]]:
        """Return the rows as JSON holds them, with their runs, and why values are missing."""
        return tables.records(self)

    @property
    def document(self) -> dict[str, Any]:
        """Return the content of leaderboard.json."""
        columns = [{"key": item.key, "label": item.label, "direction": item.direction} for item in self.columns]
        return {
            "schema": SCHEMA,
            "verdict": self.verdict,
            "facts": dict(self.facts),
            "notes": list(self.notes),
            "level": LEVEL,
            "folds": self.folds,
            "columns": columns,
            "rows": self.records,
        }


def write_comparison(folder: Path, entries: Sequence[Entry], facts: Mapping[str, str]) -> Leaderboard:
    """Write `FILES` into `folder`, which is made where it is missing, and return the leaderboard in them.

    `facts` stand on top: label -> text. Raises RunError where the file system refuses.
    """
    board = Leaderboard.of(entries, facts)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "leaderboard.md", tables.markdown(board))
    write_text(folder / "leaderboard.csv", tables.csv_of_rows(board))
    write_text(folder / "runs.csv", tables.csv_of_runs(board))
    write_json(folder / "leaderboard.json", board.document)
    write_text(folder / "report.html", render_comparison(board))
    return board


def _of_differences(entries: Sequence[Entry]) -> list[str]:
    """Return what the first run that cannot be compared differs in, and how many others there are."""
    first, *others = differences(entries) or [""]
    if not first:
        return []
    return [f"{first} The same can be said of {_counted(len(others), 'further run')}." if others else first]


def _of_intervals(entries: Sequence[Entry]) -> str:
    seeds = len({entry.seed for entry in entries})
    if seeds == 1:
        return "One seed: nothing tells how far another one would lie, so no mean has an interval."
    return (
        f"Intervals are {LEVEL:.0%} t intervals over seeds, cut to the range that a value can have; "
        "they say nothing of what all seeds share."
    ).replace("%", " %")


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _all_of(count: int) -> str:
    return {1: "the one bounded run", 2: "both bounded runs"}.get(count, f"all {count} bounded runs")
