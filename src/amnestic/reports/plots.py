"""The plots of a run: what each of them shows."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from .display import measured
from .panel import BOUND, DASHED, FORGET, INK, PAGE, RETAIN, SHADE, Plot, Series, panel

Records = Sequence[Mapping[str, Any]]


class Course(NamedTuple):
    """What the plots over optimiser steps show beside their lines."""

    candidates: Records = ()
    kept_step: int | None = None
    warmup_epochs: float = 0.0


class Held(NamedTuple):
    """What a run keeps, as its plots name it."""

    name: str
    """The retention's name: its loss stands under ``NAME_loss`` in a step's record."""
    leads: bool = True
    """Its other figures stand under plain names, and not under ``NAME_bound``, ``NAME_multiplier``."""
    unit: str = "nats a token"

    def key(self, what: str) -> str:
        """Return the key of one of its figures in records and results."""
        return what if self.leads else f"{self.name}_{what}"

    @property
    def anchor(self) -> str:
        """Return what its plots' names on the page begin with; nothing for those of the leading one."""
        return "" if self.leads else f"{self.name}-"


LEADING = Held("retain")


def bound_plot(bound: Mapping[str, Any], held: Held = LEADING) -> Plot:
    """Return the losses before and after, with the upper limit, against the bound."""
    before, reached, limit = bound["L_ref"], bound["reached"], bound["value"]
    upper = None if bound.get("whole_split") else bound.get("upper_limit")
    points = [before, reached, limit, *([] if upper is None else [upper])]
    room = 0.16 * (max(points) - min(points) or 1.0)
    low, high = min(points) - room, max(points) + room
    title = "Loss on the context" if held.name == "context" else f"Loss on the {held.name} probe"
    with panel(f"{held.anchor}bound", title, held.unit, height=150, top=28) as drawing:
        axes = drawing.axes
        # where the bound starts from another model than the run did, its loss is that one's
        first = "first" if "L_start" in bound else "before"
        axes.set(xlim=(low, high), ylim=(-0.6, 1.6), yticks=[1, 0], yticklabels=[first, "after"], xlabel="")
        axes.tick_params(axis="y", labelcolor=INK)
        axes.grid(visible=False)
        axes.axvspan(low, limit, color=SHADE, gid="allowed")
        axes.axvline(limit, color=BOUND, linestyle=DASHED, gid="bound")
        axes.text(limit, 1.7, f"bound {measured(limit)}", ha=_side(limit, low, high), va="bottom", color=INK)
        axes.plot([before], [1], "o", ms=8.5, mew=1.8, color=RETAIN, mfc=PAGE, gid="before")
        if upper is not None:
            axes.plot([reached, upper], [0, 0], color=RETAIN, linewidth=2.4, gid="interval")
            axes.plot([upper], [0], "|", ms=13, mew=2.4, color=RETAIN, gid="upper-limit")
        axes.plot([reached], [0], "o", ms=8.5, color=RETAIN, gid="after")
        until = "" if upper is None else f", upper limit {measured(upper)}"
        drawing.sentences.append(
            f"{first.capitalize()} {measured(before)}, after {measured(reached)}{until}, bound {measured(limit)}."
        )
    return drawing.plot()


def _side(place: float, low: float, high: float) -> Literal["left", "center", "right"]:
    """Return on which side of `place` a text starts, so that it stays within a plot from `low` to `high`."""
    share = (place - low) / (high - low)
    if share < 1 / 3:
        return "left"
    return "right" if share > 2 / 3 else "center"


def forget_plot(steps: Records, course: Course) -> Plot | None:
    """Return the forget loss over optimiser steps, with the candidates' values; None without records."""
    line, candidates = series(steps, "forget_loss"), series(course.candidates, "forget_loss")
    if not line.values and not candidates.values:
        return None
    with panel("forget-loss", "Forget loss") as drawing:
        drawing.line(line, FORGET)
        drawing.candidates(candidates, course.kept_step, FORGET, "candidate, on the forget rows")
        drawing.written(course.kept_step)
    return drawing.plot()


def held_plot(steps: Records, course: Course, bound: Mapping[str, Any], held: Held = LEADING) -> Plot | None:
    """Return a loss that is kept over optimiser steps, against its bound, with the candidates' values and limits.

    `bound` may be empty; limits are left out where it is verified on all examples, since nothing depends on them, and
    of all but the leading split, whose alone are recorded.
    """
    name = held.name
    line, candidates = series(steps, f"{name}_loss"), series(course.candidates, held.key("reached"))
    if not line.values and not candidates.values:
        return None
    with panel(f"{name}-loss", f"{name.replace('_', ' ').capitalize()} loss", held.unit) as drawing:
        drawing.line(line, RETAIN)
        drawing.bound(bound.get("value"))
        explanation = "candidate, on all of the context" if name == "context" else "candidate, on the whole split"
        if not bound.get("whole_split") and name != "context":
            explanation = "candidate, on the probe"
            if held.leads:
                drawing.limits(candidates, series(course.candidates, "upper_limit"), RETAIN)
                explanation += ", with its upper limit"
        drawing.candidates(candidates, course.kept_step, RETAIN, explanation)
        drawing.written(course.kept_step)
    return drawing.plot()


def multiplier_plot(steps: Records, course: Course, held: Held = LEADING) -> Plot | None:
    """Return a multiplier over optimiser steps, with its warm start shaded; None without records."""
    line = series(steps, held.key("multiplier"))
    if not line.values:
        return None
    warm = [record["step"] for record in steps if record.get("epoch", math.inf) <= course.warmup_epochs]
    of = f" of the {held.name}" if held.name == "context" else f" of {held.name}"
    with panel(f"{held.anchor}multiplier", f"Multiplier{'' if held.leads else of}") as drawing:
        drawing.line(line, INK)
        if warm:
            drawing.warm_start(line.steps[0], max(warm))
        drawing.written(course.kept_step)
    return drawing.plot()


def loss_plot(steps: Records) -> Plot | None:
    """Return the loss of plain training over optimiser steps; None without records."""
    line = series(steps, "loss")
    if not line.values:
        return None
    with panel("loss", "Loss", "nats a token") as drawing:
        drawing.line(line, RETAIN)
    return drawing.plot()


def series(records: Records, name: str) -> Series:
    """Return the finite values called `name` in the order of their steps; of a step taken twice, the later record."""
    by_step = {record["step"]: record.get(name) for record in records}
    points = sorted((step, value) for step, value in by_step.items() if value is not None and math.isfinite(value))
    return Series([step for step, _ in points], [value for _, value in points])
