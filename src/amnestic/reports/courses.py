"""The course of the runs of a row: what they held, what they forgot, and the multiplier, over their steps."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from .display import measured
from .entries import Entry
from .files import read_jsonl
from .panel import BOUND, DASHED, FORGET, INK, RETAIN, Panel, Plot, Series, panel, thinned
from .plots import Records, series
from .rows import Row

POINTS = 60_000
"""Points that all lines of a page may have together: some 20 bytes each."""
LEAST_POINTS, MOST_POINTS = 20, 300
"""Of a line: fewer show no course, and more cannot be told apart in a small plot."""


class Curve(NamedTuple):
    """What one plot of a course shows, by its names in train.jsonl."""

    key: str
    title: str
    unit: str
    colour: str
    bound: str | None = None


HELD_LOSS = "retain_loss"
"""Stands for the loss of whatever leads, which has the name of its retention in front."""
CURVES = (
    Curve(HELD_LOSS, "Retain loss", "nats a token", RETAIN, "bound"),
    Curve("forget_loss", "Forget loss", "", FORGET),
    Curve("multiplier", "Multiplier", "", INK),
)


class Course(NamedTuple):
    """What one run of a row recorded."""

    seed: int
    held: str
    """The retention whose bound and multiplier lead."""
    steps: Records

    def line(self, curve: Curve) -> Series:
        """Return the values of a curve over the steps."""
        return series(self.steps, f"{self.held}_loss" if curve.key == HELD_LOSS else curve.key)


def course_plots(rows: Sequence[Row]) -> Iterator[tuple[Row, list[Plot]]]:
    """Yield each row of runs with its curves, a line a run; what nobody recorded has no plot.

    Raises InputError where a run's train.jsonl is broken.
    """
    recorded = [(row, [_course(entry) for entry in row.entries]) for row in rows if row.entries]
    count = len(CURVES) * sum(bool(course.steps) for _, courses in recorded for course in courses)
    most = min(max(POINTS // max(count, 1), LEAST_POINTS), MOST_POINTS)
    for row, courses in recorded:
        drawn = (_course_plot(row.number, curve, courses, most) for curve in CURVES)
        yield row, [plot for plot in drawn if plot]


def _course(entry: Entry) -> Course:
    path = entry.folder / "train.jsonl"
    records = list(read_jsonl(path)) if path.is_file() else []
    leading = next(iter((entry.results or {}).get("retentions") or ()), "retain")
    return Course(entry.seed, leading, [record for record in records if not record.get("candidate")])


def _course_plot(number: int, curve: Curve, courses: Sequence[Course], most: int) -> Plot | None:
    found = [(course, course.line(curve)) for course in courses]
    lines = [(course, line) for course, line in found if line.values]
    if not lines:
        return None
    with panel(f"{curve.key}-{number}".replace("_", "-"), curve.title, curve.unit, height=190) as drawing:
        for place, (course, line) in enumerate(lines):
            drawing.axes.plot(*thinned(line, most), gid=f"{place}-line", **_line_style(curve, place, line))
            drawing.sentences.append(f"Seed {course.seed}: {measured(line.values[-1])} at step {line.steps[-1]:.0f}.")
        values = [value for _, line in lines for value in line.values]
        drawing.explain("line", curve.colour, _counted(len(lines)), values)
        if curve.bound:
            _draw_bounds(drawing, [series(course.steps, curve.bound) for course, _ in lines])
    return drawing.plot()


def _line_style(curve: Curve, place: int, line: Series) -> dict[str, Any]:
    """Return how a run's line is drawn: those of two seeds that lie on each other are told apart by their gaps."""
    gaps = "-" if place % 2 == 0 else (0, (4, 1.5))
    return {"color": curve.colour, "linewidth": 1.2, "linestyle": gaps, "marker": "o" if len(line.values) == 1 else ""}


def _counted(seeds: int) -> str:
    return "one seed" if seeds == 1 else f"{seeds} seeds"


def _draw_bounds(drawing: Panel, bounds: Sequence[Series]) -> None:
    """Draw the bound of each seed, once where they are the same."""
    values = sorted({bound.values[-1] for bound in bounds if bound.values})
    for number, value in enumerate(values):
        drawing.axes.axhline(value, color=BOUND, linestyle=DASHED, linewidth=1.2, gid=f"{number}-bound")
    if values:
        ends = " to ".join(dict.fromkeys(measured(value) for value in (values[0], values[-1])))
        drawing.explain("dashed", BOUND, f"bound {ends}", values)
