"""The plots of a comparison: what is kept against what is forgotten, and the course of the runs of each row."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from .display import measured, visible
from .figures import KEPT, Figure
from .labels import Box, placed
from .panel import (
    BAD,
    BOUND,
    DASHED,
    FORGET,
    INK,
    MUTED,
    PAGE,
    RETAIN,
    WIDTH,
    Panel,
    Plot,
    Series,
    panel,
    thinned,
    tick,
)
from .plots import Records, series
from .rows import BEFORE, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE = 720
"""Width of the plot whose marks are named; they are numbered in the narrow one."""
LEAST = 1e-4
"""A logarithmic scale of what was forgotten ends here: below it nobody remembers more or less."""
LETTER, LINE = 7.2, 17.0
"""Width of a letter and height of a line, at most, in a plot's units; of numbers a little more, as the page sets them
larger in narrow windows."""
FAR = 22
"""From here on a line leads from a label to its mark."""
LEAD = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.7, "shrinkB": 5}
BY_POINTS: dict[str, Any] = {"xycoords": "figure points", "textcoords": "offset points"}
POINTS = 60_000
"""Points that all lines of a page may have together: some 20 bytes each."""


class Look(NamedTuple):
    """How a kind of mark is drawn, and what the legend says of it."""

    marker: str
    glyph: str
    colour: str
    is_filled: bool
    text: str


LOOKS = {
    "feasible": Look("o", "dot", RETAIN, True, "bound held"),
    "infeasible": Look("x", "cross", BAD, True, "bound missed, in one seed at least"),
    "unconstrained": Look("D", "diamond", FORGET, False, "free: no bound"),
}
BESIDE = {True: Look("s", "square", INK, False, "model before"), False: Look("^", "triangle", INK, True, "retrained")}


class Mark(NamedTuple):
    """A row in the plot of the trade-off."""

    number: int
    """As in the table; 0 for a model beside the runs."""
    row: Row
    forgotten: float
    kept: float

    @property
    def look(self) -> Look:
        """Return how it is drawn."""
        return LOOKS[self.row.state] if self.row.state else BESIDE[self.row.method == BEFORE]


def marks_of(rows: Sequence[Row], forgotten: str) -> list[Mark]:
    """Return the rows that have both coordinates; rows of runs are numbered from 1, whether they have them or not."""
    numbers = {id(row): number for number, row in enumerate((row for row in rows if row.entries), start=1)}
    return [
        Mark(numbers.get(id(row), 0), row, row.values[forgotten].mean, row.values[KEPT].mean)
        for row in rows
        if forgotten in row.values and KEPT in row.values
    ]


def front(marks: Iterable[Mark]) -> list[Mark]:
    """Return the marks of methods beyond which none both forgets and keeps more, from the most forgotten on."""
    best: list[Mark] = []
    for mark in sorted((mark for mark in marks if mark.number), key=lambda mark: (mark.forgotten, -mark.kept)):
        if not best or mark.kept > best[-1].kept:
            best.append(mark)
    return best


def tradeoff_plot(marks: Sequence[Mark], forgotten: Figure, title: str, is_wide: bool) -> Plot | None:
    """Return what rows kept over what they forgot, runs as small marks, means as labelled ones; None without any."""
    if not marks:
        return None
    width, height = (WIDE, 460) if is_wide else (WIDTH, 380)
    name = f"{title.lower().replace(' ', '-')}-{'wide' if is_wide else 'narrow'}"
    with panel(name, title, height=height, width=width) as drawing:
        axes = drawing.axes
        runs = [
            (entry.values[forgotten.key], entry.values[KEPT], LOOKS[entry.state])
            for mark in marks
            for entry in mark.row.entries
            if forgotten.key in entry.values and KEPT in entry.values
        ]
        axes.set_xlabel(forgotten.label)
        _scale(drawing, [mark.forgotten for mark in marks] + [x for x, _, _ in runs])
        _range(drawing, [mark.kept for mark in marks] + [y for _, y, _ in runs])
        _draw_front(drawing, front(marks))
        for number, (x, y, look) in enumerate(runs):
            axes.plot([_floor(axes, x)], [y], ls="", ms=3.5, gid=f"run-{number}", **_style(look))
        _draw_means(drawing, marks)
        _label(axes, marks, (width, height), is_wide)
        drawing.sentences = [_sentence(mark) for mark in marks]
    return drawing.plot()


def _style(look: Look) -> dict[str, Any]:
    filled = look.colour if look.is_filled else PAGE
    return {"marker": look.marker, "color": look.colour, "mfc": filled}


def _scale(drawing: Panel, places: Sequence[float]) -> None:
    """Set the scale of what was forgotten, logarithmic where it spans more than two decades."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes = drawing.axes
    if max(places) > 100 * max(min(places), LEAST / 10):
        low = max(min(place for place in places if place > 0), LEAST)
        drawing.unit = "log scale of what was forgotten"
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(numticks=6))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(low / 1.6, max(places) * 1.6)
    else:
        room = 0.08 * (max(places) - min(places) or 1.0)
        axes.set_xlim(min(places) - room, max(places) + room)
    axes.xaxis.set_major_formatter(lambda value, _: tick(value))


def _floor(axes: "Axes", place: float) -> float:
    """Return where a value is drawn: at the end of a logarithmic scale where it lies beyond it."""
    return max(place, LEAST) if axes.get_xscale() == "log" else place


def _range(drawing: Panel, places: Sequence[float]) -> None:
    """Set the range of what was kept: from nothing, unless everything kept most of it."""
    low, high = min(places), max(*places, 1.0)
    start = 0.0 if low < 0.5 else low - 0.15 * (high - low or 0.1)
    drawing.axes.set_ylim(start - 0.04 * (high - start), high + 0.08 * (high - start))
    drawing.axes.set_ylabel("Retention kept, %")
    drawing.axes.locator_params(axis="y", nbins=6)
    drawing.axes.yaxis.set_major_formatter(lambda value, _: tick(round(100 * value, 4)))


def _draw_front(drawing: Panel, best: Sequence[Mark]) -> None:
    if len(best) > 1:
        places = [_floor(drawing.axes, mark.forgotten) for mark in best]
        kept = [mark.kept for mark in best]
        drawing.axes.plot(places, kept, color=MUTED, ls=DASHED, lw=1.4, drawstyle="steps-post", gid="front")
        drawing.explain("dashed", MUTED, "front: no method forgets and keeps more")


def _draw_means(drawing: Panel, marks: Sequence[Mark]) -> None:
    for number, mark in enumerate(marks):
        place = _floor(drawing.axes, mark.forgotten)
        drawing.axes.plot([place], [mark.kept], ls="", ms=9, mew=2, zorder=4, gid=f"mean-{number}", **_style(mark.look))
    for look in dict.fromkeys(mark.look for mark in marks):
        drawing.explain(look.glyph, look.colour, look.text)
    drawing.explain("small", MUTED, "small: one run")


def _label(axes: "Axes", marks: Sequence[Mark], size: tuple[int, int], is_wide: bool) -> None:
    """Write beside each mean what it is, with a line to the mark where the label had to move away."""
    figure_width, figure_height = size
    box = axes.get_position()
    frame = Box(box.x0 * figure_width, box.y0 * figure_height, box.x1 * figure_width, box.y1 * figure_height)
    scale = 72 / axes.figure.dpi
    found = axes.transData.transform([(_floor(axes, mark.forgotten), mark.kept) for mark in marks])
    points = [(float(x) * scale, float(y) * scale) for x, y in found]
    texts = [_text(mark, is_wide) for mark in marks]
    room = 1.0 if is_wide else 1.25
    sizes = [(LETTER * room * len(text) + 4, LINE * room) for text in texts]
    centres = placed(points, sizes, frame, [Box.around(x, y, 11, 11) for x, y in points])
    for number, ((x, y), centre, text, (width, _)) in enumerate(zip(points, centres, texts, sizes, strict=True)):
        shift = (centre[0] - x, centre[1] - y)
        if max(abs(shift[0]) - width / 2, abs(shift[1])) > FAR:
            axes.annotate("", (x, y), shift, zorder=2, gid=f"lead-{number}", arrowprops=LEAD, **BY_POINTS)
        axes.annotate(text, (x, y), shift, ha="center", va="center", color=INK, zorder=5, **BY_POINTS)


def _text(mark: Mark, is_wide: bool) -> str:
    if not is_wide and mark.number:
        return str(mark.number)
    named = str(visible(mark.row.method, 60))
    short = named.rpartition(".")[2] or named  # of a dotted path, the class
    return short if len(short) <= 24 else f"{short[:23]}…"


def _sentence(mark: Mark) -> str:
    held = f"; bound: {mark.row.held}" if mark.row.is_bounded else ""
    return f"{visible(mark.row.name, 120)}: forgotten {measured(mark.forgotten)}, kept {measured(mark.kept)}{held}."


class Curve(NamedTuple):
    """What one plot of a course shows, by its names in train.jsonl."""

    key: str
    title: str
    unit: str
    colour: str
    bound: str | None = None


CURVES = (
    Curve("retain_loss", "Retain loss", "nats a token", RETAIN, "bound"),
    Curve("forget_loss", "Forget loss", "", FORGET),
    Curve("multiplier", "Multiplier", "", INK),
)


class Course(NamedTuple):
    """What one run of a row recorded."""

    seed: int
    steps: Records


def course_plots(number: int, courses: Sequence[Course], most: int) -> list[Plot]:
    """Return the curves of row `number`, a line a run of at most `most` points; what nobody recorded has no plot."""
    drawn = (_course_plot(number, curve, courses, most) for curve in CURVES)
    return [plot for plot in drawn if plot]


def _course_plot(number: int, curve: Curve, courses: Sequence[Course], most: int) -> Plot | None:
    found = [(course, series(course.steps, curve.key)) for course in courses]
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
