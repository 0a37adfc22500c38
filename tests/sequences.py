"""Sequences for tests, as they stand once runs have ended: nothing is trained, and nothing is read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from amnestic.config import from_mapping
from amnestic.inputs import Given
from amnestic.sequencing.options import SequenceConfig
from amnestic.sequencing.outcome import Met, Outcome
from amnestic.sequencing.plan import Plan
from amnestic.sequencing.requests import Request


def bound(reached: float, value: float, upper: float | None = None) -> dict[str, Any]:
    """What results.json tells of a bound, of a whole split unless there is an upper limit."""
    facts: dict[str, Any] = {"L_ref": 0.1, "value": value, "reached": reached, "upper_limit": upper or reached}
    return {"whole_split": upper is None, **facts}


def run_of(
    number: int,
    name: str,
    course: Mapping[str, tuple[float, float]],
    status: str = "feasible",
    held: tuple[float, ...] | None = (0.2, 0.5),
) -> Met:
    """A met request: `course` is what is remembered of each request up to it, before and after."""
    before, after = ({f"{key}.probability": values[place] for key, values in course.items()} for place in (0, 1))
    results: dict[str, Any] = {"status": status, "verdict": "v.", "timings": {"train": 1.0}, "method": {"name": "pdu"}}
    results |= {
        "metrics": after | {"retain.probability": 0.9},
        "reference_metrics": before | {"retain.probability": 0.8},
    }
    own = {} if held is None else {"retentions": {"retain": {}}, "bound": bound(*held)}
    return Met(number, Request(name, f"{name}.jsonl"), Path("out") / "requests" / f"{number}-{name}", results | own)


def outcome_of(*met: Met, asked: Sequence[str] | None = None, **options: Any) -> Outcome:
    """A sequence of these, or of all that are asked for; what belongs to it is one note."""
    names = [one.request.name for one in met] if asked is None else asked
    config = from_mapping(
        SequenceConfig, {"model": "m", "requests": names, "retain": "r", "output_dir": "out"} | options
    )
    records = tuple({"name": name, "rows": 2} for name in names)
    requests = tuple(Request(name, name) for name in names)
    return Outcome(Plan(config, Given(), requests, records, {}, ("a | note",), True), list(met))
