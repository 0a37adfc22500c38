"""What runs measured over the size of what they were to forget: a plot a figure, a line a method and setting."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from .display import measured
from .figures import MEMORY, SECONDS, Figure
from .labels import Box, placed
from .panel import BAD, DASHED, FORGET, INK, RETAIN, VARIABLES, Panel, Plot, panel
from .rows import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .leaderboard import Leaderboard

COLOURS = {"feasible": RETAIN, "infeasible": BAD, "unconstrained": FORGET}
"""State of a line's rows, the worst of them -> its colour; that of a model beside them is the ink's."""
SIZE = "scored tokens to be forgotten"
DIGIT, LINE = 8.0, 15.0
"""Width of a digit and height of a line in a plot's units."""


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
        return next(
            (colour for state in ("infeasible", *COLOURS) if state in states for colour in [COLOURS[state]]), INK
        )

    @property
    def variable(self) -> str:
        """Return the CSS variable of its colour."""
        return VARIABLES[self.colour]

    @property
    def is_dashed(self) -> bool:
        """Return whether no run is behind it: it is a model beside the runs."""
        return not any(row.entries for row in self.rows)


def sweeps_of(board: "Leaderboard") -> list[Sweep]:
    """Return the lines, in the order of the rows; none where all runs forgot the same."""
    if not board.folds:
        return []
    found: dict[str, list[Row]] = {}
    for row in board.rows:
        found.setdefault(f"{row.method}, {row.setting}" if row.setting else row.method, []).append(row)
    return [Sweep(number, name, tuple(rows)) for number, (name, rows) in enumerate(found.items(), start=1)]


def size_plots(board: "Leaderboard", sweeps: Sequence[Sweep]) -> Iterator[Plot]:
    """Yield a plot for each figure of the tables but costs, where a line has two points."""
    sizes = _sizes(board)
    for figure in board.shown():
        lines = [(sweep, _points(sweep, figure, sizes)) for sweep in sweeps]
        if figure.key not in (SECONDS, MEMORY) and any(len(points) > 1 for _, points in lines):
            yield _size_plot(figure, [(sweep, points) for sweep, points in lines if points])


def _sizes(board: "Leaderboard") -> dict[str, float]:
    """Return the size of each fold, a mean over its rows."""
    found: dict[str, list[float]] = {}
    for row in board.rows:
        if row.fold is not None and row.forget_tokens is not None:
            found.setdefault(row.fold, []).append(row.forget_tokens)
    return {fold: sum(sizes) / len(sizes) for fold, sizes in found.items()}


def _points(sweep: Sweep, figure: Figure, sizes: dict[str, float]) -> list[Point]:
    """Return the points of a line; a model that is the same beside all folds has one for each."""
    points = []
    for row in sweep.rows:
        folds = sizes if row.fold is None else {row.fold}
        if (spread := row.values.get(figure.key)) is not None:
            points += [Point(sizes[fold], spread.mean) for fold in folds if fold in sizes]
    return sorted(points)


def _size_plot(figure: Figure, lines: Sequence[tuple[Sweep, list[Point]]]) -> Plot:
    name = f"size-{figure.key}".replace("_", "-").replace(".", "-")
    with panel(name, figure.label, figure.direction, height=232) as drawing:
        drawing.axes.set_xlabel(SIZE)
        for sweep, points in lines:
            drawing.axes.plot(*zip(*points, strict=True), gid=f"sweep-{sweep.number}", **_style(sweep))
            drawing.values += [point.value for point in points]
            drawing.sentences.append(_sentence(sweep, points))
        drawing.scale()
        _number(drawing, lines)
    return drawing.plot()


def _style(sweep: Sweep) -> dict[str, Any]:
    if sweep.is_dashed:
        return {"color": INK, "linewidth": 1.0, "linestyle": DASHED}
    return {"color": sweep.colour, "linewidth": 1.4, "marker": "o", "markersize": 4}


def _sentence(sweep: Sweep, points: Sequence[Point]) -> str:
    told = ", ".join(f"{measured(point.value)} at {point.tokens:,.0f}" for point in points)
    return f"{sweep.number}, {sweep.name}: {told}."


def _number(drawing: Panel, lines: Sequence[tuple[Sweep, list[Point]]]) -> None:
    """Write its number at the end of each line, where there is room beside it."""
    axes = drawing.axes
    low, high = axes.get_xlim()
    axes.set_xlim(low, high + 0.16 * (high - low))
    ends = _drawn_at(axes, [points[-1] for _, points in lines])
    dots = _drawn_at(axes, [point for _, points in lines for point in points])
    left, bottom, right, top = (float(end) * _scale_of(axes) for end in axes.bbox.extents)
    sizes = [(DIGIT * len(str(sweep.number)), LINE) for sweep, _ in lines]
    obstacles = [Box.around(x, y, 6, 6) for x, y in dots]
    centres = placed(ends, sizes, Box(left, bottom, right + 14, top), obstacles)
    for (sweep, _), (x, y), centre in zip(lines, ends, centres, strict=True):
        shift = (centre[0] - x, centre[1] - y)
        axes.annotate(
            str(sweep.number),
            (x, y),
            shift,
            xycoords="figure points",
            textcoords="offset points",
            ha="center",
            va="center",
            color=sweep.colour,
        )


def _drawn_at(axes: "Axes", points: Sequence[Point]) -> list[tuple[float, float]]:
    """Return where points are drawn, in the units of the plot's SVG from its lower left corner."""
    return [(float(x) * _scale_of(axes), float(y) * _scale_of(axes)) for x, y in axes.transData.transform(points)]


def _scale_of(axes: "Axes") -> float:
    """Return how many units of the plot's SVG one pixel of the figure is."""
    return 72 / float(axes.figure.dpi)
