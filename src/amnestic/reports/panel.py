"""One plot while it is drawn with matplotlib, and its SVG as an element of a page.

matplotlib draws in stand-in colours; each is then replaced by a CSS variable, so that the plot follows the page.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, NamedTuple

from .display import measured, superscript

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, RULE, FORGET, RETAIN, BOUND, SHADE, PAGE, BAD = (f"#0{digit}0{digit}0{digit}" for digit in range(1, 10))
VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    RULE: "--rule",
    FORGET: "--forget",
    RETAIN: "--retain",
    BOUND: "--bound",
    SHADE: "--shade",
    PAGE: "--page",
    BAD: "--bad",
}
DASHED = (0, (5, 3))
WIDTH = 360
"""Width of a plot in the units of its SVG, in which text is 12.5 high."""
STEPS = "optimiser step"
MARGINS = {"left": 62, "right": 16, "bottom": 44}
MOST_POINTS = 1000
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "amnestic",
    "path.simplify": False,
    "font.size": 12.5,
    "lines.linewidth": 1.6,
    "axes.edgecolor": RULE,
    "axes.facecolor": "none",
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.xmargin": 0.03,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0,
}


class Series(NamedTuple):
    """Values over optimiser steps."""

    steps: list[float]
    values: list[float]


class Key(NamedTuple):
    """One entry of a plot's legend, which the page sets as text."""

    glyph: str
    variable: str
    """CSS variable of its colour."""
    text: str


class Plot(NamedTuple):
    """A drawn plot and the words around it."""

    name: str
    title: str
    unit: str
    svg: str
    key: tuple[Key, ...]
    caption: str


class Panel:
    """One plot while it is drawn: its axes, the entries of its legend, and the values that its scale must hold."""

    def __init__(self, axes: "Axes", name: str, title: str, unit: str) -> None:
        """Draw on `axes`; `name` is unique on the page."""
        self.axes, self.name, self.title, self.unit = axes, name, title, unit
        self.key: list[Key] = []
        self.values: list[float] = []
        self.sentences: list[str] = []
        self.svg = ""

    def line(self, line: Series, colour: str) -> None:
        """Draw a value over steps."""
        if not line.values:
            return
        marker = "o" if len(line.values) == 1 else ""
        self.axes.plot(*thinned(line), color=colour, marker=marker, gid="line")
        self.explain("line", colour, STEPS, line.values)
        for place in (0, -1)[: len(line.values)]:
            self.sentences.append(f"{measured(line.values[place])} at step {line.steps[place]:.0f}.")

    def candidates(self, marks: Series, written: int | None, colour: str, text: str) -> None:
        """Draw the candidates' values, and fill the one whose weights were written."""
        if not marks.values:
            return
        self.axes.plot(*marks, "o", ms=6, mew=1.5, color=colour, mfc=PAGE, gid="candidates", zorder=3)
        self.explain("ring", colour, text, marks.values)
        for step, value in zip(*marks, strict=True):
            if step == written:
                self.axes.plot([step], [value], "o", ms=7, color=colour, gid="written-candidate", zorder=4)
                self.sentences.append(f"Written: {measured(value)} (step\u00a0{step}).")

    def limits(self, marks: Series, limits: Series, colour: str) -> None:
        """Draw a whisker from each candidate's value to its upper limit, where all candidates have one."""
        if marks.values and marks.steps == limits.steps:
            self.axes.vlines(marks.steps, marks.values, limits.values, color=colour, linewidth=1.5, gid="limits")
            self.axes.plot(*limits, "_", ms=7, mew=1.5, color=colour, gid="limit-ends")
            self.values += limits.values

    def bound(self, bound: float | None) -> None:
        """Draw the bound as a dashed line."""
        if bound is not None:
            self.axes.axhline(bound, color=BOUND, linestyle=DASHED, gid="bound")
            self.explain("dashed", BOUND, f"bound {measured(bound)}", [bound])

    def written(self, step: int | None) -> None:
        """Mark the step whose weights were written."""
        if step is not None:
            self.axes.axvline(step, color=MUTED, linewidth=1, zorder=1, gid="written")
            self.explain("upright", MUTED, f"written: step {step}")

    def warm_start(self, first: float, last: float) -> None:
        """Shade the steps during which the multiplier stays as it is."""
        self.axes.axvspan(first, last, color=SHADE, zorder=0, gid="warm-start")
        self.explain("shade", SHADE, f"warm start, to step {last:.0f}")

    def scale(self) -> None:
        """Choose the scale of the values: logarithmic where they span more than two decades."""
        from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

        if not self.values:
            return
        low, high = min(self.values), max(self.values)
        if low > 0 and high > 100 * low:
            self.axes.set_yscale("log")
            self.axes.yaxis.set_major_locator(LogLocator(numticks=6))
            self.axes.yaxis.set_minor_locator(NullLocator())
            self.unit = f"{self.unit}, log scale".removeprefix(", ")
        else:
            self.axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
            if 0 <= low < high / 2:
                self.axes.set_ylim(bottom=0)
        self.axes.yaxis.set_major_formatter(lambda value, _: tick(value))

    def plot(self) -> Plot:
        """Return the finished plot."""
        return Plot(self.name, self.title, self.unit, self.svg, tuple(self.key), " ".join(self.sentences))

    def explain(self, glyph: str, colour: str, text: str, values: list[float] | None = None) -> None:
        """Add an entry to the legend, and `values` to those that the scale must hold."""
        self.key.append(Key(glyph, VARIABLES[colour], text))
        self.values += values or []


@contextmanager
def panel(
    name: str, title: str, unit: str = "", height: int = 232, top: int = 12, width: int = WIDTH
) -> Iterator[Panel]:
    """Yield a panel to draw on, which holds the SVG afterwards. No setting of matplotlib's outlives it."""
    import matplotlib.style
    from matplotlib.figure import Figure

    left, bottom = MARGINS["left"] / width, MARGINS["bottom"] / height
    box = (left, bottom, 1 - left - MARGINS["right"] / width, 1 - bottom - top / height)
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(width / 72, height / 72), facecolor="none")
        axes = figure.add_axes(box, xlabel=STEPS)
        axes.xaxis.set_major_formatter(lambda value, _: tick(value))
        axes.locator_params(axis="x", nbins=6)
        drawing = Panel(axes, name, title, unit)
        yield drawing
        drawing.scale()
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None, "Type": None, "Format": None})
    drawing.svg = _inline(drawn.getvalue(), drawing)


def _inline(svg: str, drawing: Panel) -> str:
    """Return matplotlib's file as an element of a page: ids of its own, the page's colours and fonts, a description.

    Inline SVG shares its ids and its style sheets with the whole page.
    """
    title, description = escape(drawing.title), escape(" ".join(drawing.sentences))
    prefix = f"plot-{drawing.name}-"
    view_box = re.search(r'viewBox="[^"]*"', svg)
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|font-family: [^;\"]*;? ?", "", body, flags=re.DOTALL)
    body = body.replace(' id="', f' id="{prefix}').replace('xlink:href="#', f'href="#{prefix}')
    body = body.replace("url(#", f"url(#{prefix}")
    for stand_in, variable in VARIABLES.items():
        body = body.replace(stand_in, f"var({variable})")
    words = f'<title id="{prefix}title">{title}</title><desc id="{prefix}words">{description}</desc>'
    labels = f'role="img" aria-labelledby="{prefix}title {prefix}words"'
    return f"<svg {view_box[0] if view_box else ''} {labels}>{words}{body}"


def thinned(line: Series, most: int = MOST_POINTS) -> Series:
    """Return at most `most` points: the lowest and the highest of each of equally long stretches."""
    count = len(line.values)
    if count <= most:
        return line
    stretches = most // 2
    kept: set[int] = set()
    for stretch in range(stretches):
        places = range(stretch * count // stretches, (stretch + 1) * count // stretches)
        kept |= {min(places, key=line.values.__getitem__), max(places, key=line.values.__getitem__)}
    return Series([line.steps[place] for place in sorted(kept)], [line.values[place] for place in sorted(kept)])


def tick(value: float) -> str:
    """Return the label of a tick: 0.25, 4000, 10⁻⁴."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.10g}".replace("-", "\u2212")
    digits, _, exponent = f"{value:.2e}".partition("e")
    digits = digits.rstrip("0").rstrip(".")
    return ("" if digits == "1" else f"{digits}·".replace("-", "\u2212")) + f"10{superscript(int(exponent))}"
