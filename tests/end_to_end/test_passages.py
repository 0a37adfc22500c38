"""``fiction:passages`` from training to forgetting: two small models, two methods, four requests one after another."""

import json
import math
from pathlib import Path

import pytest

from amnestic.benchmarks.passages import Passages
from amnestic.run import run_finetune
from amnestic.scratch import LESSONS, learning_of, write_inputs

BENCHMARK = "fiction:passages"
METRICS = "verbmem,knowmem"
OWN = {"pdu": {}, "npo": {"method_args": {"beta": 0.005}}}
"""Options of the methods: the ratio that NPO's beta weighs is of a whole passage, not of a short answer."""


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """The folder of the full and the retrained model, trained in less than a minute of one core together."""
    folder, passages = tmp_path_factory.mktemp("passages"), Passages()
    write_inputs(folder, passages)
    for name in LESSONS:
        run_finetune(learning_of(passages, folder, name, {"metrics": ["probability"]}))
    return folder


@pytest.fixture(scope="module")
def forgotten(command, models):
    """The full model after each method under the bound, beside both others."""
    common = {"model": models / "full" / "model", "retrained": models / "retrained" / "model", "benchmark": BENCHMARK}
    common |= {"keep": 0.98, "metrics": METRICS, "cache_dir": models / "cache"} | dict(Passages().unlearning)
    return {
        method: command("unlearn", common | own | {"method": method, "output_dir": models / method})
        for method, own in OWN.items()
    }


def test_the_full_model_recites_and_answers_what_the_retrained_one_cannot(forgotten):
    full, retrained = (forgotten["pdu"].results[f"{name}_metrics"] for name in ("reference", "retrained"))
    assert full["forget.verbmem"] > 0.9
    assert retrained["forget.verbmem"] < 0.4
    assert full["forget.knowmem"] > 0.9
    assert retrained["forget.knowmem"] < 0.4
    assert min(full["retain.knowmem"], retrained["retain.knowmem"]) > 0.9


@pytest.mark.parametrize("method", OWN)
def test_forgetting_reaches_the_retrained_model_within_the_bound(forgotten, method):
    results = forgotten[method].results
    assert (forgotten[method].status, results["status"]) == (0, "feasible")
    assert results["metrics"]["forget.verbmem"] <= results["retrained_metrics"]["forget.verbmem"]
    assert results["metrics"]["forget.knowmem"] <= results["retrained_metrics"]["forget.knowmem"]
    assert results["metrics"]["retain.knowmem"] > 0.7  # three quarters of the questions are about what the bound holds


def test_four_requests_keep_the_bound_of_the_first_model_and_the_first_stays_forgotten(command, models, forgotten):
    options = {"model": models / "full" / "model", "benchmark": BENCHMARK, "keep": 0.98, "metrics": "probability"}
    options |= {"cache_dir": models / "cache", "output_dir": models / "sequence", "keep_models": "last"}
    outcome = command("sequence", options)
    assert outcome.status == 0, outcome.err
    found = json.loads((models / "sequence" / "sequence.json").read_text(encoding="utf-8"))
    assert (found["status"], found["done"]) == ("feasible", 4)
    first, *reached = (point["value"] for point in found["held"]["retain"]["course"])
    assert first == pytest.approx(forgotten["pdu"].results["bound"]["L_ref"])
    assert found["held"]["retain"]["bound"] == pytest.approx(first - math.log(0.98))
    assert len(reached) == 4
    assert max(reached) <= found["held"]["retain"]["bound"]
    assert {request["state"] for request in found["requests"]} == {"stayed", "last"}
    measured = {"model": models / "sequence" / "requests" / "4-forget_4" / "model", "metrics": "verbmem"}
    fold = f"{BENCHMARK}:0:sust:forget_1"
    again = command("eval", measured | {"benchmark": fold, "output_dir": models / "again"}).results["metrics"]
    assert again["forget.verbmem"] <= forgotten["pdu"].results["retrained_metrics"]["forget.verbmem"]
