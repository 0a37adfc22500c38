"""What a sequence has found so far: which requests held the bound, and whether what was forgotten stayed forgotten."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ..reports.results import bounds_of
from .plan import Plan
from .requests import Request

SCHEMA = 1
"""Counts the incompatible changes of sequence.json."""
MEMORY = ("verbmem", "span_probability", "probability")
"""What tells how well a request is remembered: the first of them that was measured of it."""
UTILITY = ("model_utility", "retain.knowmem", "retain.probability")
"""What tells what the model can still do, likewise."""
HARDLY = 0.9
"""A request is hardly forgotten where more than this share of its figure is left behind its own run."""
BACK = 0.1
"""It has come back where more than this share of what had gone is there again."""
NOTHING = 0.01
"""A figure below is that of a request which is not known, whatever share of an even smaller one it is."""
MOST_TOLD = 5
"""Requests of a kind that a sentence names."""
State = Literal["stayed", "came back", "hardly forgotten", "last", "unknown"]


class Point(NamedTuple):
    """A figure after so many requests."""

    done: int
    value: float
    upper_limit: float | None = None


@dataclass(frozen=True)
class Met:
    """A request whose run has ended."""

    number: int
    """Counted from 1."""
    request: Request
    folder: Path
    results: Mapping[str, Any]

    @property
    def bounds(self) -> dict[str, Any]:
        """Return the facts of each bound by the name of what is held."""
        return bounds_of(self.results)


@dataclass(frozen=True)
class Remembered:
    """How well a request was remembered over time, by one figure."""

    metric: str
    course: tuple[Point, ...]
    """Before its own run, after it, and after each later one."""

    @property
    def before(self) -> float:
        """Return the figure before the request was met."""
        return self.course[0].value

    @property
    def after(self) -> float:
        """Return the figure after its own run."""
        return self.course[1].value

    @property
    def now(self) -> float:
        """Return the figure after the last run."""
        return self.course[-1].value

    @property
    def regained(self) -> float | None:
        """Return the share of what had gone that is there again; None where nothing had gone."""
        return (self.now - self.after) / (self.before - self.after) if self.before > self.after else None

    @property
    def state(self) -> State:
        """Return what became of the request."""
        if self.after >= NOTHING and self.after > HARDLY * self.before:
            return "hardly forgotten"
        if len(self.course) < 3:
            return "last"
        gone = max(self.before - self.after, 0.0)
        return "came back" if self.now >= NOTHING and self.now - self.after > BACK * gone else "stayed"


@dataclass
class Outcome:
    """A sequence, which may not have ended."""

    plan: Plan
    met: list[Met] = field(default_factory=list)

    @property
    def output_dir(self) -> Path:
        """Return the folder of the sequence."""
        return self.plan.root

    @property
    def feasible(self) -> bool:
        """Return whether every request held every bound (True of a sequence that had none)."""
        return self.status != "infeasible"

    @property
    def status(self) -> Literal["feasible", "infeasible", "unconstrained"]:
        """Return what holds for all requests that were met."""
        if any(one.results["status"] == "infeasible" for one in self.met):
            return "infeasible"
        return "feasible" if any(one.bounds for one in self.met) else "unconstrained"

    def remembered(self, one: Met) -> Remembered | None:
        """Return how well a request was remembered over time; None where nothing tells."""
        for metric in MEMORY:
            course = tuple(self.course(f"{one.request.name}.{metric}", one.number))
            if len(course) == len(self.met) - one.number + 2:
                return Remembered(metric, course)
        return None

    def course(self, key: str, first: int = 1) -> Iterator[Point]:
        """Yield a metric before the request `first`, after it, and after each later one, as far as it was measured."""
        for one in self.met[first - 1 :]:
            if one.number == first and key in (before := one.results.get("reference_metrics") or {}):
                yield Point(first - 1, before[key])
            if key in (after := one.results["metrics"]):
                yield Point(one.number, after[key])

    def is_alike(self, split: str) -> bool:
        """Return whether all runs measured the same rows of a split, so that its figures are one course."""
        facts = [(one.results.get("measured_on") or {}).get(split, {}) for one in self.met]
        contents = {found.get("content") for found in facts}
        return len(contents) == 1 and None not in contents

    @property
    def held(self) -> dict[str, tuple[float, list[Point]]]:
        """Return what is held -> its bound, and its loss before the first request and after each."""
        found: dict[str, tuple[float, list[Point]]] = {}
        for one in self.met:
            for name, facts in one.bounds.items():
                first = Point(0, facts.get("L_start", facts["L_ref"]))  # the bound may be that of another model
                _, points = found.setdefault(name, (facts["value"], [first]))
                limit = None if facts["whole_split"] else facts["upper_limit"]
                points.append(Point(one.number, facts["reached"], limit))
        return found

    @property
    def bound_label(self) -> str:
        """Return what the bound is called: whose it is, unless the user named another model for it."""
        is_other = self.plan.config.bound.bound_model is not None or self.plan.given.bound_model is not None
        return "bound" if is_other else "bound of the first model"

    @property
    def utility(self) -> str | None:
        """Return the key of what tells what the model can still do."""
        known = self.met[0].results["metrics"] if self.met else {}
        return next((key for key in UTILITY if key in known), None)

    @property
    def verdict(self) -> str:
        """Return the sentence that is read first: which bounds held, then what stayed forgotten."""
        if not self.met:
            return "No request was met yet."
        left = len(self.plan.requests) - len(self.met)
        rest = f" {_counted(left)} {'is' if left == 1 else 'are'} still to be met." if left else ""
        return f"{_of_bounds(self)} {_of_memory(self)}{rest}"

    @property
    def results(self) -> dict[str, Any]:
        """Return the content of sequence.json."""
        utility = self.utility
        return {
            "schema": SCHEMA,
            "command": "sequence",
            "status": self.status,
            "verdict": self.verdict,
            "model": self.plan.config.model.model,
            **({"benchmark": named} if (named := self.plan.config.data.benchmark) is not None else {}),
            "asked": len(self.plan.requests),
            "done": len(self.met),
            "requests": [self._record(one) for one in self.met],
            "held": {
                name: {"bound": bound, "course": [_point(point) for point in points]}
                for name, (bound, points) in self.held.items()
            },
            **({} if utility is None else {"utility": {utility: [_point(point) for point in self.course(utility)]}}),
            "notes": list(self.plan.notes),
        }

    def _record(self, one: Met) -> dict[str, Any]:
        memory = self.remembered(one)
        facts = self.plan.records[one.number - 1]
        return {
            "number": one.number,
            "name": one.request.name,
            "source": one.request.source,
            "rows": facts["rows"],
            "folder": one.folder.relative_to(self.plan.root).as_posix(),
            "status": one.results["status"],
            "verdict": one.results["verdict"],
            "bounds": one.bounds,
            "memory": None if memory is None else {memory.metric: [_point(point) for point in memory.course]},
            "state": "unknown" if memory is None else memory.state,
            "regained": None if memory is None else memory.regained,
            "seconds": sum((one.results.get("timings") or {}).values()),
        }


def _point(point: Point) -> dict[str, float]:
    return {name: value for name, value in point._asdict().items() if value is not None}


def _of_bounds(outcome: Outcome) -> str:
    """Return which requests held the bound."""
    met, label = outcome.met, outcome.bound_label
    if outcome.status == "unconstrained":
        return "No bound was asked for."
    missed = [one for one in met if one.results["status"] == "infeasible"]
    if missed:
        names = _listed([one.request.name for one in missed], ", ")
        farthest = max(missed, key=lambda one: _excess(_worst(one)))
        return (
            f"{label.upper()} MISSED after {len(missed)} of {_counted(len(met))}: {names}. Farthest after "
            f"{farthest.request.name}: {_told(_worst(farthest))}."
        )
    which = "after the one request" if len(met) == 1 else f"after each of {len(met)} requests"
    last = ", ".join(_told((name, facts)) for name, facts in met[-1].bounds.items())
    return f"{label.capitalize()} held {which}: {last}{' after the last' if len(met) > 1 else ''}."


def _worst(one: Met) -> tuple[str, Mapping[str, Any]]:
    """Return the bound that a request exceeds by most, or holds most narrowly."""
    return max(one.bounds.items(), key=_excess)


def _excess(held: tuple[str, Mapping[str, Any]]) -> float:
    """Return by how much the figure that decides exceeds a bound."""
    facts = held[1]
    return float(facts["reached"] if facts["whole_split"] else facts["upper_limit"]) - float(facts["value"])


def _told(held: tuple[str, Mapping[str, Any]]) -> str:
    name, facts = held
    limit = "" if facts["whole_split"] else f", at most {facts['upper_limit']:.4g} with 95 % confidence"
    return f"{name} loss {facts['reached']:.4g} nats a token{limit}, bound {facts['value']:.4g}"


def _of_memory(outcome: Outcome) -> str:
    """Return whether what was forgotten stayed forgotten."""
    told: dict[str, list[str]] = {}
    for one in outcome.met:
        memory = outcome.remembered(one)
        state = "unknown" if memory is None else memory.state
        words = one.request.name if memory is None else f"{one.request.name} {_changes(memory)}"
        told.setdefault(state, []).append(words)
    heads = {
        "came back": "CAME BACK",
        "hardly forgotten": "Hardly forgotten",
        "stayed": "Stayed forgotten",
        "last": "Forgotten last",
        "unknown": "Not measured",
    }
    return " ".join(f"{head}: {_listed(told[state], '; ')}." for state, head in heads.items() if state in told)


def _listed(items: Sequence[str], between: str) -> str:
    """Return the first few items, and how many there are besides."""
    more = len(items) - MOST_TOLD
    return between.join([*items[:MOST_TOLD], *([f"{more} more"] if more > 0 else [])])


def _changes(memory: Remembered) -> str:
    own = f"{memory.metric} {memory.before:.3g} -> {memory.after:.3g}"
    return own if len(memory.course) < 3 else f"{own}, {memory.now:.3g} after the last"


def _counted(count: int) -> str:
    return f"{count} request{'' if count == 1 else 's'}"
