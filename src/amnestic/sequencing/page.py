"""What a sequence writes: sequence.json, sequence.md, and sequence.html, a page that needs nothing but itself."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..command_line import command_line
from ..config import options
from ..evaluation.explanation import describe
from ..reports.display import duration, measured
from ..reports.files import write_json, write_text
from ..reports.panel import FORGET, INK, PAGE, RETAIN, Panel, Plot, Series, panel
from ..reports.render import template_environment
from ..reports.tables import escaped
from .options import SequenceConfig
from .outcome import Met, Outcome, Point, Remembered

STEPS = "requests met"
"""What the plots run over: 0 is the first model."""
WHOLE = ("forget.verbmem", "forget.knowmem")
"""Figures of what a benchmark forgets as a whole, where it measures the same for every request."""
STATES = {
    "stayed": "stayed forgotten",
    "came back": "came back",
    "hardly forgotten": "hardly forgotten",
    "last": "the last one",
    "unknown": "not measured",
}


class Line(NamedTuple):
    """A request, as the table shows it."""

    met: Met
    rows: int
    held: str
    """Whether its bound was held, or "free"."""
    retained: str
    """The loss on what is kept first, or nothing."""
    limit: str
    memory: Remembered | None
    utility: str

    @property
    def state(self) -> str:
        """Return what became of the request, in words."""
        return STATES["unknown" if self.memory is None else self.memory.state]

    @property
    def figures(self) -> tuple[str, str, str]:
        """Return how well it was remembered before, after, and after the last request."""
        if self.memory is None:
            return (measured(None),) * 3
        return measured(self.memory.before), measured(self.memory.after), measured(self.memory.now)


def write_outcome(outcome: Outcome) -> None:
    """Write all that a sequence tells, each file whole or not at all."""
    folder = outcome.output_dir
    write_json(folder / "sequence.json", outcome.results | {"command_line": command(outcome)})
    write_text(folder / "sequence.md", markdown(outcome))
    write_text(folder / "sequence.html", page(outcome))


def lines(outcome: Outcome) -> list[Line]:
    """Return the rows of the table."""
    utility = outcome.utility
    found = []
    for one in outcome.met:
        facts: Any = next(iter(one.bounds.values()), None)
        holds = {"feasible": "held", "infeasible": "missed"}.get(one.results["status"], "free")
        retained = measured(None) if facts is None else measured(facts["reached"])
        limit = measured(None) if facts is None or facts["whole_split"] else measured(facts["upper_limit"])
        left = measured(None if utility is None else one.results["metrics"].get(utility))
        rows = outcome.plan.records[one.number - 1]["rows"]
        found.append(Line(one, rows, holds, retained, limit, outcome.remembered(one), left))
    return found


def facts_of(outcome: Outcome) -> dict[str, str]:
    """Return what stands on top: the model, the requests, the bound, and the command."""
    config, plan = outcome.plan.config, outcome.plan
    seconds = sum(sum((one.results.get("timings") or {}).values()) for one in outcome.met)
    bounds = [f"{name} loss at most {measured(bound)} nats a token" for name, (bound, _) in outcome.held.items()]
    return {
        "first model": config.model.model,
        **({"benchmark": config.data.benchmark} if config.data.benchmark is not None else {}),
        "requests met": f"{len(outcome.met)} of {len(plan.requests)}",
        outcome.bound_label: "; ".join(bounds) or "none",
        "method": outcome.met[-1].results["method"]["name"] if outcome.met else config.method.method,
        "time of the runs": duration(seconds),
        "command": command(outcome),
    }


def command(outcome: Outcome) -> str:
    """Return the command that makes the sequence; options as they are by default are left out."""
    usual = {option.name: option.default for option in options(SequenceConfig)}
    return command_line("sequence", outcome.plan.config, usual, ("overwrite", "system_prompt"))


def markdown(outcome: Outcome) -> str:
    """Return the verdict and the table as Markdown."""
    memory = _memory_label(outcome)
    heads = ["#", "request", "rows", "bound", "loss kept", "upper limit", f"{memory} before", "after", "after the last"]
    heads += ["became", _utility_label(outcome) or "utility"]
    table = [heads, ["---:", "---", "---:", "---", *["---:"] * 5, "---", "---:"]]
    for line in lines(outcome):
        own = [str(line.met.number), line.met.request.name, str(line.rows), line.held, line.retained, line.limit]
        table.append([*own, *line.figures, line.state, line.utility])
    facts = [f"- {name}: {escaped(fact)}" for name, fact in facts_of(outcome).items()]
    notes = [f"- {escaped(note)}" for note in outcome.plan.notes]
    rows = ["| " + " | ".join(escaped(cell) for cell in row) + " |" for row in table]
    parts = [["# Requests in sequence"], [escaped(outcome.verdict)], facts, rows, *([notes] if notes else [])]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def page(outcome: Outcome) -> str:
    """Return the page; equal input, equal page."""
    return (
        template_environment()
        .get_template("sequence.html.j2")
        .render(
            outcome=outcome,
            sentences=_sentences(outcome),
            facts=facts_of(outcome),
            lines=lines(outcome),
            plots=plots(outcome),
            memory=_memory_label(outcome),
            utility=_utility_label(outcome),
            is_redacted=any(one.results.get("redacted") for one in outcome.met),
        )
    )


def _sentences(outcome: Outcome) -> list[str]:
    """Return the verdict's first sentence, and the rest."""
    first, _, rest = outcome.verdict.partition(". ")
    return [f"{first}." if rest else first, rest] if rest else [first]


def _memory_label(outcome: Outcome) -> str:
    """Return what the table calls the figure that tells how well requests are remembered."""
    known = [found.metric for one in outcome.met if (found := outcome.remembered(one)) is not None]
    labels = dict.fromkeys(describe(f"request.{metric}").label for metric in known)
    return " or ".join(labels) or "Memory"


def _utility_label(outcome: Outcome) -> str:
    """Return what the table calls what the model can still do; nothing where that was not measured."""
    if (key := outcome.utility) is None:
        return ""
    known = describe(key)
    return f"{known.label}, {known.split}" if known.split else known.label


def plots(outcome: Outcome) -> list[Plot]:
    """Return what the page draws over the requests."""
    held = [_held_plot(name, bound, points) for name, (bound, points) in outcome.held.items()]
    memory = _memory_plot(outcome)
    keys = [] if outcome.utility is None else [outcome.utility]
    keys += WHOLE if outcome.is_alike("forget") else ()
    courses = [_course_plot(key, points) for key in keys if (points := list(outcome.course(key)))]
    return [*held, *([] if memory is None else [memory]), *courses]


def _held_plot(name: str, bound: float, points: Sequence[Point]) -> Plot:
    """Return a loss that is held over the requests, against the bound of the first model."""
    with panel(f"held-{name}", f"{name.replace('_', ' ').capitalize()} loss", "nats a token") as drawing:
        _over(drawing, points)
        limited = [point for point in points if point.upper_limit is not None]
        marks = Series([point.done for point in limited], [point.value for point in limited])
        ends = Series(marks.steps, [point.upper_limit or 0.0 for point in limited])
        drawing.bound(bound)
        drawing.limits(marks, ends, RETAIN)
        _draw(drawing, points, RETAIN, "after each request" + (", with its upper limit" if limited else ""))
    return drawing.plot()


def _memory_plot(outcome: Outcome) -> Plot | None:
    """Return how well each request was remembered before its own run, after it, and after each later one."""
    known = [(one, memory) for one in outcome.met if (memory := outcome.remembered(one)) is not None]
    if not known:
        return None
    with panel("memory", "What is remembered of each request", _memory_label(outcome), top=22) as drawing:
        _over(drawing, [point for _, memory in known for point in memory.course])
        drawing.explain("ring", FORGET, "before its own run")
        drawing.explain("dot", FORGET, "after it, and after each later one")
        for one, memory in known:
            values = [point.value for point in memory.course]
            places = [point.done for point in memory.course]
            drawing.values += values
            drawing.axes.plot(places, values, color=FORGET, lw=1.4, gid=f"request-{one.number}")
            drawing.axes.plot(places[1:], values[1:], "o", ms=5, color=FORGET, gid=f"met-{one.number}")
            drawing.axes.plot(places[:1], values[:1], "o", ms=6, mew=1.6, color=FORGET, mfc=PAGE, zorder=4)
            offset: dict[str, Any] = {"xytext": (0, 7), "textcoords": "offset points", "ha": "center", "color": INK}
            drawing.axes.annotate(str(one.number), (places[0], values[0]), **offset)
            drawing.sentences.append(
                f"Request {one.number}: {measured(memory.before)} before, {measured(memory.after)} after, "
                f"{measured(memory.now)} after the last."
            )
    return drawing.plot()


def _course_plot(key: str, points: Sequence[Point]) -> Plot:
    """Return a metric over the requests."""
    known = describe(key)
    title = f"{known.label}, {known.split}" if known.split else known.label
    colour = FORGET if known.split == "forget" else RETAIN
    with panel(f"course-{key.replace('.', '-').replace('_', '-')}", title) as drawing:
        _over(drawing, points)
        _draw(drawing, points, colour, "before, and after each request")
    return drawing.plot()


def _over(drawing: Panel, points: Sequence[Point]) -> None:
    """Let a plot run over the requests that were met, from the first model on."""
    most = max(point.done for point in points)
    drawing.axes.set_xlabel(STEPS)
    drawing.axes.set_xlim(-0.3, most + 0.3)
    every = max(1, -(-most // 8))
    drawing.axes.set_xticks(range(0, most + 1, every))


def _draw(drawing: Panel, points: Sequence[Point], colour: str, text: str) -> None:
    places, values = [point.done for point in points], [point.value for point in points]
    drawing.axes.plot(places, values, "o-", ms=5, color=colour, gid="line")
    drawing.explain("dot", colour, text, values)
    drawing.sentences.append(f"{measured(values[0])} at first, {measured(values[-1])} after {points[-1].done}.")
