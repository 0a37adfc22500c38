"""The plot of a comparison's trade-off: what rows keep against what they forget."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from .display import measured, visible
from .figures import Figure
from .labels import Box, Label, drawn_at, write_labels
from .panel import BAD, DASHED, FORGET, INK, MUTED, PAGE, RETAIN, WIDTH, Panel, Plot, panel, tick
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
LONGEST = 24
"""Letters of a label."""
MOST_TOLD = 6
"""Marks that are told one by one to who listens to the page."""


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

    row: Row
    forgotten: float
    kept: float

    @property
    def look(self) -> Look:
        """Return how it is drawn."""
        return LOOKS[self.row.state] if self.row.state else BESIDE[self.row.method == BEFORE]


class Plane(NamedTuple):
    """What the plot holds against each other."""

    forgotten: Figure
    kept: Figure


def marks_of(rows: Sequence[Row], axes: Plane) -> list[Mark]:
    """Return the rows that have both coordinates."""
    forgotten, kept = (figure.key for figure in axes)
    return [
        Mark(row, row.values[forgotten].mean, row.values[kept].mean)
        for row in rows
        if forgotten in row.values and kept in row.values
    ]


def front(marks: Iterable[Mark]) -> list[Mark]:
    """Return the marks of methods beyond which none both forgets and keeps more, from the most forgotten on."""
    best: list[Mark] = []
    for mark in sorted((mark for mark in marks if mark.row.entries), key=lambda mark: (mark.forgotten, -mark.kept)):
        if not best or mark.kept > best[-1].kept:
            best.append(mark)
    return best


def tradeoff_plot(marks: Sequence[Mark], shown: Plane, name: str, title: str, is_wide: bool) -> Plot:
    """Return what rows kept over what they forgot, runs as small marks, means as labelled ones; at least one row."""
    width, height = (WIDE, 460) if is_wide else (WIDTH, 380)
    with panel(f"{name}-{'wide' if is_wide else 'narrow'}", title, height=height, top=30, width=width) as drawing:
        axes = drawing.axes
        runs = _runs(marks, shown)
        axes.set_xlabel(shown.forgotten.label)
        _scale(drawing, [mark.forgotten for mark in marks] + [x for x, _, _ in runs])
        _range(drawing, shown.kept.label, [mark.kept for mark in marks] + [y for _, y, _ in runs])
        _draw_front(drawing, front(marks))
        for number, (x, y, look) in enumerate(runs):
            axes.plot([_floor(axes, x)], [y], ls="", ms=3.5, gid=f"run-{number}", **_style(look))
        _draw_means(drawing, marks)
        _label(axes, marks, [(x, y) for x, y, _ in runs], is_wide)
        drawing.sentences = _sentences(marks)
    return drawing.plot()


def _runs(marks: Sequence[Mark], shown: Plane) -> list[tuple[float, float, Look]]:
    """Return the runs behind the means, as far as they have both coordinates."""
    forgotten, kept = (figure.key for figure in shown)
    entries = [entry for mark in marks for entry in mark.row.entries if {forgotten, kept} <= entry.values.keys()]
    return [(entry.values[forgotten], entry.values[kept], LOOKS[entry.state]) for entry in entries]


def _style(look: Look) -> dict[str, Any]:
    filled = look.colour if look.is_filled else PAGE
    return {"marker": look.marker, "color": look.colour, "mfc": filled}


def _scale(drawing: Panel, places: Sequence[float]) -> None:
    """Set the scale of what was forgotten, logarithmic where it spans more than two decades."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes = drawing.axes
    if max(places) > 100 * max(min(places), LEAST / 10):
        low = max(min(places), LEAST)
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


def _range(drawing: Panel, label: str, places: Sequence[float]) -> None:
    """Set the range of what was kept: from nothing, unless everything kept most of it."""
    low, high = min(places), max(places)
    start = 0.0 if low < 0.5 else low - 0.15 * (high - low or 0.1)
    drawing.axes.set_ylim(start - 0.04 * (high - start), high + 0.08 * (high - start))
    drawing.axes.text(0, 1.02, f"{label}, %", transform=drawing.axes.transAxes, color=MUTED, va="bottom")
    drawing.axes.locator_params(axis="y", nbins=6)
    drawing.axes.yaxis.set_major_formatter(lambda value, _: tick(round(100 * value, 4)))


def _draw_front(drawing: Panel, best: Sequence[Mark]) -> None:
    if len(best) > 1:
        places = [_floor(drawing.axes, mark.forgotten) for mark in best]
        kept = [mark.kept for mark in best]
        drawing.axes.plot(places, kept, color=MUTED, ls=DASHED, lw=1.4, drawstyle="steps-post", gid="front")
        drawing.explain("dashed", MUTED, "front: no method forgets more and keeps more")


def _draw_means(drawing: Panel, marks: Sequence[Mark]) -> None:
    for number, mark in enumerate(marks):
        place = _floor(drawing.axes, mark.forgotten)
        drawing.axes.plot([place], [mark.kept], ls="", ms=9, mew=2, zorder=4, gid=f"mean-{number}", **_style(mark.look))
    for look in dict.fromkeys(mark.look for mark in marks):
        drawing.explain(look.glyph, look.colour, look.text)
    drawing.explain("small", MUTED, "small: one run")


def _label(axes: "Axes", marks: Sequence[Mark], runs: Sequence[tuple[float, float]], is_wide: bool) -> None:
    """Write beside each mean what it is, with a line to the mark where the label had to move away."""
    points = _drawn_at(axes, [(mark.forgotten, mark.kept) for mark in marks])
    obstacles = [Box.around(x, y, 11, 11) for x, y in points]
    obstacles += [Box.around(x, y, 5, 5) for x, y in _drawn_at(axes, runs)]
    room = 1.0 if is_wide else 1.25
    labels = [Label(text, INK, LETTER * room * len(text) + 4, LINE * room) for text in _texts(marks, is_wide)]
    write_labels(axes, points, labels, obstacles)


def _drawn_at(axes: "Axes", places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return where values are drawn: those beyond a logarithmic scale at its end."""
    return drawn_at(axes, [(_floor(axes, x), y) for x, y in places])


def _texts(marks: Sequence[Mark], is_wide: bool) -> list[str]:
    """Return the labels: names, with their settings where two marks would bear the same, or the table's numbers."""
    names = [_short(mark.row.method) for mark in marks]
    alike = Counter((name, mark.look) for name, mark in zip(names, marks, strict=True))
    texts = []
    for name, mark in zip(names, marks, strict=True):
        if mark.row.number and not is_wide:
            texts.append(str(mark.row.number))
        else:
            texts.append(_cut(f"{name} {visible(mark.row.setting, 60)}" if alike[name, mark.look] > 1 else name))
    return texts


def _short(method: str) -> str:
    """Return a method's name; of a dotted path the class."""
    named = str(visible(method, 60))
    return named.rpartition(".")[2] or named


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _sentences(marks: Sequence[Mark]) -> list[str]:
    """Return what a listener is told of the plot: every mark of a few, of many the front alone."""
    if len(marks) <= MOST_TOLD:
        return [_sentence(mark) for mark in marks]
    best = "; ".join(str(visible(mark.row.name, 120)) for mark in front(marks))
    return [f"{len(marks)} means, whose numbers the leaderboard holds. From most forgotten to most kept: {best}."]


def _sentence(mark: Mark) -> str:
    held = f"; bound: {mark.row.held}" if mark.row.is_bounded else ""
    return f"{visible(mark.row.name, 120)}: forgotten {measured(mark.forgotten)}, kept {measured(mark.kept)}{held}."
