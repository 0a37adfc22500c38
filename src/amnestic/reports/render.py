"""The report of a run: one page that needs nothing but itself.

Every text on it goes through Jinja's escaping and `display.visible`: what a model or a data set says can neither become
markup nor hide behind characters that nobody sees.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ..evaluation.explanation import known_split
from . import display, plots
from .examples import MODELS, Split, read_splits
from .files import read_jsonl, write_text
from .judged import Judged
from .panel import Plot
from .results import bounds_of, comparison, read_results

SHOWN_EXAMPLES = 10
LONGEST_PROMPT = 500
LONGEST_ANSWER = 600
LONGEST_TEXT = 1000
"""Characters of any other text, such as a note or a path."""


def render_report(run_dir: str | Path) -> Path:
    """Write ``report.html`` into a run folder, from all that stands in it, and return its path.

    What the folder lacks, the page leaves out and says so. Raises InputError where results.json is missing, or a file
    is broken.
    """
    run_dir = Path(run_dir)
    records = list(read_jsonl(run_dir / "train.jsonl")) if (run_dir / "train.jsonl").is_file() else []
    splits = read_splits(run_dir / "scores", SHOWN_EXAMPLES)
    path = run_dir / "report.html"
    write_text(path, page(read_results(run_dir), records, splits, Judged.at(run_dir)))
    return path


def page(
    results: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    splits: Sequence[Split],
    judged: Judged | None = None,
) -> str:
    """Return the page for `results`, the lines of train.jsonl, the examples to show, and what a judge gave them.

    Equal input, equal page.
    """
    template = template_environment().get_template("report.html.j2")
    return template.render(
        results=results,
        groups=[list(rows) for _, rows in groupby(comparison(results), key=lambda row: row.split)],
        models=[model for model in MODELS if _metrics(results, model)],
        bounds=_bounds(results),
        kept=[held.name for held in _held(results) if held.name != "context"] or ["retain"],
        plots=_plots(results, records),
        splits=splits,
        judged=judged,
        settings=_settings(results),
        longest_prompt=LONGEST_PROMPT,
        longest_answer=LONGEST_ANSWER,
    )


def _metrics(results: Mapping[str, Any], model: str) -> Mapping[str, float]:
    names = {"before": "reference_metrics", "retrained": "retrained_metrics", "after": "metrics"}
    return results.get(names[model]) or {}


def _plots(results: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> list[Plot]:
    steps = [record for record in records if not record.get("candidate")]
    course = plots.Course(
        candidates=results.get("candidates") or [record for record in records if record.get("candidate")],
        kept_step=results.get("kept_step"),
        warmup_epochs=(results.get("multiplier") or {}).get("warmup_epochs", 0.0),
    )
    bounds, held = bounds_of(results), _held(results)
    drawn = [
        plots.forget_plot(steps, course),
        *(plots.held_plot(steps, course, bounds.get(one.name, {}), one) for one in held),
        *(plots.multiplier_plot(steps, course, one) for one in held),
        plots.loss_plot(steps),
    ]
    return [plot for plot in drawn if plot]


def _held(results: Mapping[str, Any]) -> list[plots.Held]:
    """Return what the run keeps; the first one leads."""
    retentions: Mapping[str, Any] = results.get("retentions") or {"retain": {}, "context": {}}
    return [
        plots.Held(name, number == 0, "" if facts.get("loss") == "hidden" else "nats a token")
        for number, (name, facts) in enumerate(retentions.items())
    ]


def _bounds(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what the page says of each bound: its name, its facts, the loss, its unit, and its plot."""
    bounds = bounds_of(results)
    return [
        {
            "name": held.name,
            "facts": bounds[held.name],
            "loss": (results.get("retentions") or {}).get(held.name, {}).get("loss", "nll"),
            "unit": held.unit,
            "plot": plots.bound_plot(bounds[held.name], held),
        }
        for held in _held(results)
        if held.name in bounds
    ]


@cache
def template_environment() -> Environment:
    """Return what pages are made with: everything is escaped, and nothing is left out silently."""
    environment = Environment(
        loader=PackageLoader("amnestic.reports"),
        autoescape=True,
        finalize=partial(display.visible, limit=LONGEST_TEXT),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "measured": display.measured,
        "percent": display.percent,
        "pieces": display.pieces,
        "sentence": display.sentence,
        "exp": math.exp,
    }
    environment.globals |= {"model_labels": MODELS, "known_split": known_split}
    return environment


def _settings(results: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the run's settings and costs as titled lists of names and values, without the empty ones."""
    memory, difference = results.get("peak_memory_bytes"), results.get("reload_difference")
    model = {"source": results.get("model"), "reload_difference": difference}
    model["merge_difference"] = results.get("merge_difference")
    lists = {
        "Model": _pairs({name: value for name, value in model.items() if value is not None}),
        "Adapter": _pairs(results.get("adapter")),
        "Method": _pairs(results.get("method")),
        "Retention": _pairs(results.get("retentions")),
        "Multiplier": _pairs(results.get("multiplier")),
        "Training": _pairs(results.get("training")),
        "Template": _pairs(results.get("template")),
        "Seeds": _pairs(results.get("seeds")),
        "Time": [(name, display.duration(seconds)) for name, seconds in (results.get("timings") or {}).items()],
        "Memory": [("peak", display.size(memory))] if memory else [],
    }
    return [(title, pairs) for title, pairs in lists.items() if pairs]


def _pairs(mapping: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    return [(name, display.setting(value)) for name, value in _flat(mapping or {})]


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of a nested mapping with their dotted names."""
    for name, value in mapping.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
