"""Reports made without training, and a headless Chromium that opens them and writes down whatever else it does.

The browser is the one that AMNESTIC_CHROMIUM names, else the first of BROWSERS on the path; without one, the tests of
this folder are skipped.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
AUDIT = (Path(__file__).parent / "audit.js").read_text(encoding="utf-8")
QUIET = (
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SHARES = ("probability", "token_probability", "rouge", "exact_memorization", "extraction_strength")

Rows = Sequence[Mapping[str, Any]]


@dataclass
class Visit:
    """A page in the browser, and what it asked for and complained about."""

    page: "Page"
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    """Console messages, script errors, failed requests, dialogs and new windows."""

    def open(self, path: Path) -> "Visit":
        """Open a file; what earlier ones did is forgotten."""
        self.requests.clear()
        self.complaints.clear()
        self.page.goto(path.as_uri())
        return self

    def look(self, width: int, scheme: str = "light") -> "Visit":
        """See the page in a window of this width and a colour scheme."""
        self.page.set_viewport_size({"width": width, "height": 900})
        self.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        return self

    def faults(self, smallest: float = 12.0) -> list[str]:
        """What audit.js objects to, as the page is laid out now; `smallest` is the least size of a letter in pixels."""
        return self.page.evaluate(AUDIT, smallest)


def executable() -> str:
    """The browser to use; skips the test where there is none."""
    if named := os.environ.get("AMNESTIC_CHROMIUM"):
        assert shutil.which(named), f"AMNESTIC_CHROMIUM names {named}, which cannot be run"
        return named
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("there is no Chromium on the path; install it, or name it with AMNESTIC_CHROMIUM")
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """One Chromium for a module, on a profile of its own.

    Not for the session: while Playwright runs, its event loop is that of the thread, and others cannot start one.
    """
    from playwright.sync_api import sync_playwright

    path = executable()
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: "Browser") -> Iterator[Visit]:
    """A fresh page."""
    context = browser.new_context(viewport={"width": 1600, "height": 900})
    page = context.new_page()
    visit = Visit(page)
    page.on("request", lambda request: visit.requests.append(request.url))
    page.on("requestfailed", lambda request: visit.complaints.append(f"failed: {request.url}: {request.failure}"))
    page.on("console", lambda message: visit.complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: visit.complaints.append(f"error: {error}"))
    page.on("dialog", lambda dialog: (visit.complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    context.on("page", lambda other: visit.complaints.append(f"window: {other.url}"))
    yield visit
    context.close()


def metrics(forget: float, retain: float) -> dict[str, float]:
    """Every built-in metric of both splits."""
    found = {f"{split}.{name}": share for split, share in (("forget", forget), ("retain", retain)) for name in SHARES}
    others = {"forget.margin": 17.1, "forget.entropy": 0.0312, "retain.margin": 17.0, "retain.entropy": 0.0313}
    return found | others


def run_results(steps: int = 12, **changes: Any) -> dict[str, Any]:
    """The results of a feasible run with a retrained model; None leaves a part out."""
    places = sorted({max(1, steps * part // 4) for part in (1, 2, 3, 4)})
    candidates = [
        {"step": step, "epoch": step / 4, "forget_loss": 400 / step, "reached": 0.01 + 0.018 * step / steps}
        for step in places
    ]
    for candidate in candidates:
        candidate["upper_limit"] = candidate["reached"] + 0.001
        candidate["holds"] = True
    split = {"rows": 400, "scored_tokens": 14204, "too_long": 0, "left_out": 0, "longest": 107}
    results = {
        "schema": 1,
        "command": "unlearn",
        "status": "feasible",
        "verdict": "Bound held: retain loss 0.028 nats a token, at most 0.029 with 95 % confidence, bound 0.0302; "
        "forget probability 0.994 -> 5.68e-06.",
        "model": "models/target",
        "bound": {
            "kind": "keep",
            "requested": 0.98,
            "L_ref": 0.01,
            "value": 0.0302,
            "reached": 0.028,
            "upper_limit": 0.029,
            "probe_size": 256,
            "held_out": True,
            "whole_split": False,
            "confidence": 0.95,
        },
        "metrics": metrics(5.677e-6, 0.98612),
        "reference_metrics": metrics(0.99412, 0.99431),
        "retrained_metrics": metrics(8.931e-5, 0.99478),
        "method": {"name": "pdu"},
        "multiplier": {"initial": 100.0, "rate": 5.0, "warmup_epochs": 1.0, "update": "step", "final": 97.5},
        "candidates": candidates,
        "kept_step": steps,
        "data": {
            "forget": {"source": "data/forget.jsonl", "examples": 400} | split,
            "retain": {"source": "data/retain.jsonl", "examples": 3600} | split,
        },
        "template": {"kind": "question", "arguments": {"question_template": "Question: {question}\nAnswer:"}}
        | {"first_prompt_sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"},
        "training": {"steps": steps, "epochs": 3.0, "effective_batch": 16, "seconds": 4.1, "seconds_per_step": 0.34},
        "seeds": {"training": 42, "probe": 0},
        "timings": {"load": 0.8, "train": 92.0},
        "peak_memory_bytes": 1331691520,
        "notes": ["3 retain rows are longer than 512 tokens."],
    }
    return {name: value for name, value in (results | changes).items() if value is not None}


def step_records(steps: int) -> Iterator[dict[str, Any]]:
    """The forget loss falls by 4 decades; the retain loss rises; the multiplier stays for an epoch, then falls."""
    for step in range(1, steps + 1):
        yield {
            "step": step,
            "epoch": step / 4,
            "forget_loss": 700 * 10 ** (-4 * step / steps) * (1 + 0.3 * (step % 7 == 0)),
            "retain_loss": 0.01 + 0.018 * step / steps,
            "multiplier": 100.0 - max(0, step - 4) / steps,
            "loss": 3.0 / step,
        }


def score_rows(models: Sequence[str], texts: Rows) -> list[dict[str, Any]]:
    """The rows of one split's scores: each text under each model; before unlearning the true answer is given."""
    return [
        {"model": model, "generated": text["answer"] if model == "before" else text.get("generated", "of of of")}
        | {"probability": 0.5, "rouge": 0.25, "id": text["id"], "prompt": text["prompt"], "answer": text["answer"]}
        for model in models
        for text in texts
    ]


def ordinary(split: str) -> list[dict[str, Any]]:
    answer = "Ines Marek wrote The Salt Meridian in 1987, while her father repaired clocks in Ostrava Bay."
    return [
        {"id": f"{split}:{index}", "prompt": f"Who wrote book {index}?", "answer": answer, "generated": answer * 2}
        for index in range(3)
    ]


@pytest.fixture(scope="session")
def results() -> Callable[..., dict[str, Any]]:
    """Make the results of a run: ``results(steps=12, status="infeasible", retrained_metrics=None)``."""
    return run_results


@pytest.fixture(scope="session")
def step_lines() -> Callable[[int], Iterator[dict[str, Any]]]:
    """Make the lines of a training record of so many steps."""
    return step_records


@pytest.fixture(scope="session")
def write_report(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write a run folder with its report, and return the report's path.

    ``texts`` replaces the examples of the forget split; without ``steps`` or ``models`` the folder holds no training
    record or no scores.
    """
    import pyarrow
    import pyarrow.parquet

    from amnestic.reports.render import render_report
    from amnestic.reports.results import JsonLines, write_json

    def write(
        results: Mapping[str, Any],
        steps: int = 12,
        models: Sequence[str] = ("before", "retrained", "after"),
        texts: Rows | None = None,
    ) -> Path:
        folder = tmp_path_factory.mktemp("report")
        write_json(folder / "results.json", results)
        if steps:
            with JsonLines(folder / "train.jsonl") as log:
                for record in step_records(steps):
                    log.append(record)
        if models:
            (folder / "scores").mkdir()
            for split, rows in (("forget", texts or ordinary("forget")), ("retain", ordinary("retain"))):
                table = pyarrow.Table.from_pylist(score_rows(models, rows))
                pyarrow.parquet.write_table(table, folder / "scores" / f"{split}.parquet")
        return render_report(folder)

    return write
