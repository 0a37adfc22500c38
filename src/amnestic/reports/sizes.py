"""What runs measured over the size of what they were to forget: a plot a figure, a line a method and setting."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from .display import measured
from .figures import MEMORY, SECONDS, Figure
from .labels import Box, Label, drawn_at, write_labels
from .panel import BAD, DASHED, FORGET, INK, RETAIN, VARIABLES, Plot, panel
from .rows import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .leaderboard import Leaderboard

COLOURS = {"infeasible": BAD, "feasible": RETAIN, "unconstrained": FORGET}
"""State of a line's rows -> its colour, the worst first; that of a model beside them is the ink's."""
SIZE = "scored tokens to be forgotten"
DIGIT, LINE = 8.5, 15.0
"""Width of a digit and height of a line in a plot's units."""
ROOM = 0.25
"""Beside the last points, for numbers: a share of the plot's width."""


class Point(NamedTuple):
    """The mean of a row at the size of its fold."""

    tokens: float
    value: float


class Sweep(NamedTuple):
    """The rows of a method in one setting, from the smallest fold to the largest."""

    number: int
    """From 1 on, as the plots call it."""
    name: str
    rows: tuple[Row, ...]

    @property
    def colour(self) -> str:
        """Return its colour: of several states that of the worst."""
        states = {row.state for row in self.rows}
        return next((colour for state, colour in COLOURS.items() if state in states), INK)

    @property
    def variable(self) -> str:
        """Return the CSS variable of its colour."""
        return VARIABLES[self.colour]

    @property
    def is_bounded(self) -> bool | None:
        """Return whether its runs were held to a bound; None for a model beside them."""
        return any(row.is_bounded for row in self.rows) if any(row.entries for row in self.rows) else None


def sweeps_of(board: "Leaderboard") -> list[Sweep]:
    """Return the lines, in the order of the rows; none where all runs forgot the same."""
    if not board.folds:
        return []
    found: dict[str, list[Row]] = {}
    for row in board.rows:
        found.setdefault(f"{row.method}, {row.setting}" if row.setting else row.method, []).append(row)
    return [Sweep(number, name, tuple(rows)) for number, (name, rows) in enumerate(found.items(), start=1)]


def size_plots(board: "Leaderboard", sweeps: Sequence[Sweep]) -> Iterator[Plot]:
    """Yield a plot for each figure of the tables but costs, where a line has two points.

    Lines under a bound and without one have plots of their own, each beside the models that are in both.
    """
    sizes = _sizes(board)
    kinds = [kind for kind in (True, False) if any(sweep.is_bounded is kind for sweep in sweeps)]
    for figure in board.shown():
        if figure.key in (SECONDS, MEMORY):
            continue
        for kind in kinds:
            shown = [(sweep, _points(sweep, figure, sizes)) for sweep in sweeps if sweep.is_bounded in (kind, None)]
            lines = [(sweep, points) for sweep, points in shown if points]
            if any(len(points) > 1 for sweep, points in lines if sweep.is_bounded is kind):
                about = {True: ", under a bound", False: ", free"}[kind] if len(kinds) > 1 else ""
                yield _size_plot(figure, about, lines)


def _sizes(board: "Leaderboard") -> dict[str, float]:
    """Return the size of each fold, a mean over its rows."""
    found: dict[str, list[float]] = {}
    for row in board.rows:
        if row.fold is not None and row.forget_tokens is not None:
            found.setdefault(row.fold, []).append(row.forget_tokens)
    return {fold: sum(sizes) / len(sizes) for fold, sizes in found.items()}


def _points(sweep: Sweep, figure: Figure, sizes: Mapping[str, float]) -> list[Point]:
    """Return the points of a line; a model that is the same beside all folds has one for each."""
    points = []
    for row in sweep.rows:
        folds = sizes if row.fold is None else {row.fold}
        if (spread := row.values.get(figure.key)) is not None:
            points += [Point(sizes[fold], spread.mean) for fold in folds if fold in sizes]
    return sorted(points)


def _size_plot(figure: Figure, about: str, lines: Sequence[tuple[Sweep, list[Point]]]) -> Plot:
    name = re.sub("[^a-z0-9]+", "-", f"size {figure.key}{about}".lower())
    with panel(name, f"{figure.label}{about}", figure.direction, height=300) as drawing:
        drawing.axes.set_xlabel(SIZE)
        for sweep, points in lines:
            drawing.axes.plot(*zip(*points, strict=True), gid=f"sweep-{sweep.number}", **_style(sweep))
            drawing.values += [point.value for point in points]
            drawing.sentences.append(_sentence(sweep, points))
        drawing.scale()
        drawing.values.clear()  # the scale is chosen: numbers stand where it puts their lines
        _number(drawing.axes, lines)
    return drawing.plot()


def _style(sweep: Sweep) -> dict[str, Any]:
    if sweep.is_bounded is None:
        return {"color": INK, "linewidth": 1.0, "linestyle": DASHED}
    return {"color": sweep.colour, "linewidth": 1.4, "marker": "o", "markersize": 4}


def _sentence(sweep: Sweep, points: Sequence[Point]) -> str:
    told = ", ".join(f"{measured(point.value)} at {point.tokens:,.0f}" for point in points)
    return f"{sweep.number}, {sweep.name}: {told}."


def _number(axes: "Axes", lines: Sequence[tuple[Sweep, list[Point]]]) -> None:
    """Write its number at the end of each line, where there is room beside it."""
    low, high = axes.get_xlim()
    axes.set_xlim(low, high + ROOM * (high - low))
    axes.locator_params(axis="x", nbins=4)
    ends = drawn_at(axes, [points[-1] for _, points in lines])
    dots = drawn_at(axes, [point for _, points in lines for point in points])
    labels = [Label(str(sweep.number), sweep.colour, DIGIT * len(str(sweep.number)), LINE) for sweep, _ in lines]
    write_labels(axes, ends, labels, [Box.around(x, y, 6, 6) for x, y in dots])
