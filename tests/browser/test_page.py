"""The report in a real browser: offline, legible in every window and colour scheme, and deaf to what its texts try."""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

PWNED = "<script>window.pwned=1</script><img src=x onerror='window.pwned=2'><svg onload='window.pwned=3'>"
BREAKOUT = f"</bdi></dd></dl></style></title><h1>owned</h1>{PWNED}"
CONTROLS = "\x00\x07\x1b[31m red \x7f\x85\u2028\u200b"
BIDI = "\u202egnp.exe\u202c \u2067\u200f isolate \u2069 \u061c"
ARABIC = "من هو مؤلف كتاب «المدار» الذي نشر عام 1987؟"
HEBREW = "מי כתב את הספר?"
CHINESE = "谁写了《盐子午线》？伊内斯·马雷克在一九八七年写了这本书。" * 8
EMOJI = "👩🏽‍🚀🏳️‍🌈👨‍👩‍👧‍👦 1️⃣ e\u0301 " * 12
STACKED = "Z\u0336" + "a" + "\u0301\u0316" * 60 + " stacked"
LONG_WORD = "x" * 10_000
HOSTILE = [BREAKOUT, CONTROLS, BIDI, ARABIC, HEBREW, CHINESE, EMOJI, STACKED, LONG_WORD, " \t\n\n  \r\n"]
LONG_PATH = "/data/" + "a-very-long-folder-name_without_any_space" * 6 + "/checkpoint-final"

Results = Callable[..., dict[str, Any]]
Reports = Callable[[str], Path]


def feasible(results: Results) -> dict[str, Any]:
    return {"results": results()}


def infeasible(results: Results) -> dict[str, Any]:
    """Held on average, not with confidence; nothing to compare with."""
    bound = results()["bound"] | {"upper_limit": 0.0352, "held_out": False}
    verdict = "BOUND NOT HELD: held on average, not with 95 % confidence; forget probability 0.994 -> 0.9: almost nothing."
    found = results(status="infeasible", bound=bound, verdict=verdict, retrained_metrics=None)
    return {"results": found, "models": ("before", "after")}


def whole_split(results: Results) -> dict[str, Any]:
    """A tiny bound far above what was reached, stated as --alpha, on the whole retain split."""
    bound = {"kind": "alpha", "requested": 0.5, "value": 1.0841e-7, "L_ref": 7.2273e-8, "reached": 7.3e-8}
    found = results(bound=results()["bound"] | bound | {"whole_split": True, "upper_limit": None, "probe_size": 48})
    for candidate in found["candidates"]:
        candidate |= {"reached": 7.3e-8, "upper_limit": None}
    return {"results": found}


def far_missed(results: Results) -> dict[str, Any]:
    """The bound lies at the left edge of its plot, and the numbers have many digits."""
    bound = {"kind": "bound", "requested": 0.01, "value": 0.01, "L_ref": 0.009, "reached": 98_765.4, "upper_limit": 1e5}
    found = results(status="infeasible", bound=results()["bound"] | bound)
    found["metrics"] |= {"forget.margin": 123_456.7, "retain.margin": -98_765.4, "forget.entropy": 1.0e-12}
    return {"results": found}


def one_step(results: Results) -> dict[str, Any]:
    return {"results": results(steps=1), "steps": 1}


def long_run(results: Results) -> dict[str, Any]:
    return {"results": results(steps=2000), "steps": 2000}


def crowded(results: Results) -> dict[str, Any]:
    """Fifty more metrics, long names, many notes, long settings."""
    found = results(model=LONG_PATH, notes=[f"Note {n}: {LONG_PATH} holds {n} rows that were cut." for n in range(30)])
    names = [f"a_metric_of_ones_own_with_quite_a_long_name_{n}" for n in range(50)]
    for models in ("metrics", "reference_metrics", "retrained_metrics"):
        found[models] |= {f"forget.{name}": 1e-7 * (n + 1) for n, name in enumerate(names)}
    found["not_computed"] = {f"retain.{name}": f"the split {LONG_PATH} is plain text" for name in names[:3]}
    found["method"] = {"name": "mypackage.methods.AMethodOfOnesOwnWithALongName"} | dict.fromkeys(names[:5], LONG_PATH)
    for split in found["data"].values():
        split["source"] = LONG_PATH
    return {"results": found}


def hostile(results: Results) -> dict[str, Any]:
    """Each text that nobody checked tries to be more than text."""
    everything = " ".join(HOSTILE).replace("\x00", "")
    found = results(verdict=BREAKOUT + BIDI + STACKED, notes=HOSTILE, model=everything)
    found["not_computed"] = {text: text for text in HOSTILE}
    found["method"] = {"name": everything} | {f"{text} name": text for text in HOSTILE}
    found["template"]["arguments"] = {"question_template": everything}
    found["data"]["forget"]["source"] = everything
    found["metrics"] |= {f"forget.{BREAKOUT}": 0.5, f"{BIDI}.mine": 0.5}
    texts = [
        {"id": f"row-{place}-{text}", "prompt": text, "answer": text, "generated": text * 2}
        for place, text in enumerate(HOSTILE)
    ]
    return {"results": found, "texts": texts}


def bare(results: Results) -> dict[str, Any]:
    """No training record, no scores."""
    return {"results": results(candidates=None, kept_step=None), "steps": 0, "models": ()}


def training(results: Results) -> dict[str, Any]:
    """A run of plain training, which has neither bound nor verdict."""
    left_out = ("bound", "reference_metrics", "retrained_metrics", "multiplier", "candidates", "kept_step")
    found = results(command="finetune", status="done", verdict="Trained for 12 steps.", **dict.fromkeys(left_out))
    return {"results": found | {"metrics": {"data.probability": 0.994}}, "models": ("after",)}


REPORTS = (feasible, infeasible, whole_split, far_missed, one_step, long_run, crowded, hostile, bare, training)
NAMES = [make.__name__ for make in REPORTS]
SIZES = [320, 400, 1000, 1600]


@pytest.fixture(scope="module")
def reports(results: Results, write_report: Callable[..., Path]) -> Reports:
    """The path of the report called by its name, written when it is first asked for."""

    @cache
    def report(name: str) -> Path:
        make = next(make for make in REPORTS if make.__name__ == name)
        return write_report(**make(results))

    return report


@pytest.mark.parametrize("name", NAMES)
def test_each_report_is_legible_at_every_width_in_both_schemes(visit: Any, reports: Reports, name: str) -> None:
    visit.open(reports(name))
    found = {f"{width} {scheme}": visit.look(width, scheme).faults() for scheme in ("light", "dark") for width in SIZES}
    assert {place: faults for place, faults in found.items() if faults} == {}
    assert visit.requests == [reports(name).as_uri()]
    assert visit.complaints == []
