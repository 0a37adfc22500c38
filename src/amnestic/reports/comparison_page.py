"""The page of a comparison: one file that needs nothing but itself, and reads as a plain page without its script."""

import base64
import hashlib
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple

from . import display
from .courses import course_plots
from .figures import Figure
from .panel import Plot
from .render import template_environment
from .rows import Row
from .seeds import Spread
from .sizes import size_plots, sweeps_of
from .tables import failure, readings
from .tradeoff import Plane, marks_of, tradeoff_plot

if TYPE_CHECKING:
    from .leaderboard import Leaderboard


class Cell(NamedTuple):
    """A row's value of one figure, as the page shows it."""

    figure: Figure
    spread: Spread | None
    reason: str
    """Why there is none."""

    @property
    def mean(self) -> str:
        """Return the mean as people read it."""
        return display.NOTHING if self.spread is None else self.figure.written(self.spread.mean)

    @property
    def interval(self) -> str:
        """Return the ends of the interval; nothing where there is none."""
        if self.spread is None or self.spread.low is None or self.spread.high is None:
            return ""
        low, high = self.figure.written(self.spread.low), self.figure.written(self.spread.high)
        return "" if low == high else f"{low} to {high}"


def render_comparison(board: "Leaderboard") -> str:
    """Return the page; equal input, equal page. Raises InputError where a run's train.jsonl is broken."""
    template = template_environment().get_template("comparison.html.j2")
    sweeps = sweeps_of(board)
    return template.render(
        board=board,
        columns=board.shown(),
        lines=[(row, _cells(row, board.shown())) for row in board.rows],
        tradeoffs=list(_tradeoffs(board)),
        sweeps=sweeps,
        sizes=list(size_plots(board, sweeps)),
        courses=list(course_plots(board.rows)),
        failures=[failure(entry) for entry in board.entries if entry.results is None],
        missed=[entry.name for entry in board.entries if entry.state == "infeasible"],
        readings=readings(board),
        is_redacted=any((entry.results or {}).get("redacted") for entry in board.entries),
        has_seeds=any(spread.low is not None for row in board.rows for spread in row.values.values()),
        script=script(),
        script_hash=script_hash(),
    )


def _tradeoffs(board: "Leaderboard") -> Iterator[dict[str, Plot]]:
    """Yield the plot of all rows, then of the bounded ones, which lie close together where free ones kept less.

    Rows of one fold stand beside each other alone.
    """
    forgotten, kept = board.axes
    if forgotten is None or kept is None:
        return
    plane = Plane(forgotten, kept)
    for place, fold in enumerate(board.folds or (None,)):
        marks = marks_of([row for row in board.rows if row.fold in (None, fold)], plane)
        about = "" if fold is None else f", {display.visible(fold, 60)}"
        titles = {"Retention against forgetting": marks}
        bounded = [mark for mark in marks if mark.row.is_bounded or not mark.row.entries]
        if bounded != marks and any(mark.row.entries for mark in bounded):
            titles["The same under a bound"] = bounded
        for title, shown in titles.items():
            name = f"{title.lower().replace(' ', '-')}-{place}"
            if shown:
                yield {
                    form: tradeoff_plot(shown, plane, name, title + about, form == "wide")
                    for form in ("wide", "narrow")
                }


@cache
def script() -> str:
    """Return the only script that the page's policy lets run: it sorts the table."""
    return (files("amnestic.reports") / "templates" / "sort.js").read_text("utf-8")


def script_hash() -> str:
    """Return the hash by which the page's policy knows the script."""
    return base64.b64encode(hashlib.sha256(script().encode("utf-8")).digest()).decode("ascii")


def _cells(row: Row, columns: Sequence[Figure]) -> list[Cell]:
    return [Cell(column, row.values.get(column.key), row.missing.get(column.key, "")) for column in columns]
