"""``amnestic eval --run``: what a run said of its model, recomputed on the very rows that it measured."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import amnestic

PROBE = 8
PARTS = (("near", 0), ("far", 12))
"""Name of a split -> its first row of those to be kept."""


@pytest.fixture(scope="module")
def run(unlearn):
    """A run whose probe is some of its retain rows, of which it measures some forget rows."""
    return unlearn(probe_size=PROBE, eval_rows=5, keep=0.9)


@pytest.fixture(scope="module")
def again(run, command, tmp_path_factory):
    return command("eval", {"run": run.folder, "output_dir": tmp_path_factory.mktemp("again") / "eval"})


def copied(run: Any, folder: Path) -> Path:
    return Path(shutil.copytree(run.folder, folder / "copy"))


def rewritten(path: Path, change: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture
def recomputed(command, tmp_path):
    def evaluated(folder: Path, *more: str, **options: Any) -> Any:
        return command("eval", {"run": folder, "output_dir": tmp_path / "eval"} | options, *more)

    return evaluated


def test_the_saved_model_keeps_what_the_run_said(people, answers, run, again):
    """The share of the probability per token that is kept, from transformers alone on the rows of the probe."""
    ids = run.results["probe_ids"]
    assert len(ids) == PROBE
    rows = [people.rows["retain"][int(name.partition(":")[2])] for name in ids]
    losses = [
        -np.concatenate([row["logp"] for row in answers(folder, rows)]).mean()
        for folder in (people.model, run.folder / "model")
    ]
    found = again.results["recomputed"]
    assert found["loss"] == pytest.approx(losses[1], abs=1e-5)
    assert found["kept"] == pytest.approx(math.exp(losses[0] - losses[1]), abs=1e-5)
    assert found["claimed_loss"] == run.results["bound"]["reached"]
    assert found["bound"] == run.results["bound"]["value"]
    assert (found["agrees"], found["probe_size"], found["status"]) == (True, PROBE, run.results["status"])
    claimed, recomputed = f"{found['claimed_loss']:.4g}", f"{found['loss']:.4g}"
    said = f"The run said {claimed} on the 8 retain rows of its probe; recomputed {recomputed} nats"
    assert again.results["verdict"].startswith(said)
    assert said in " ".join(again.out.split())


def test_it_measures_the_rows_that_the_run_measured(run, again):
    for split in ("forget", "retain"):
        own = [row["id"] for row in run.scores(split) if row["model"] == "after"]
        assert [row["id"] for row in again.scores(split)] == own
    assert [row["id"] for row in again.scores("retain")] == run.results["probe_ids"]
    shared = run.results["metrics"].keys() & again.results["metrics"].keys()
    assert {"forget.probability", "forget.rouge", "retain.token_probability"} <= shared
    for key in shared:
        assert again.results["metrics"][key] == pytest.approx(run.results["metrics"][key], abs=1e-5)


def test_its_options_are_those_of_the_run(run, again, command, tmp_path):
    """And the configuration that it writes repeats it."""
    run_options, own = (yaml.safe_load((found.folder / "config.yaml").read_text()) for found in (run, again))
    for name in ("max_new_tokens", "eval_rows", "forget", "retain", "question_template", "max_length"):
        assert own[name] == run_options[name]
    assert own["model"] == str(run.folder / "model")
    repeated = command("eval", {"config": again.folder / "config.yaml", "output_dir": tmp_path / "repeated"})
    assert repeated.results["recomputed"] == again.results["recomputed"]


def test_given_options_come_before_those_of_the_run(run, recomputed, people, tmp_path):
    moved = Path(shutil.copy(people.file("retain"), tmp_path / "elsewhere.jsonl"))
    found = recomputed(run.folder, retain=moved, eval_rows=3)
    assert found.results["recomputed"]["agrees"]
    assert len(found.scores("forget")) == 3
    assert found.results["data"]["retain"]["source"] == str(moved)


def test_another_model_than_the_run_told_of_is_said_first(run, recomputed, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = copied(run, tmp_path)
    path = folder / "model" / "model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"model.norm.weight": tensors["model.norm.weight"] * 0.9}, path, {"format": "pt"})
    found = recomputed(folder)
    assert found.status == 0
    assert not found.results["recomputed"]["agrees"]
    assert found.results["verdict"].startswith("THE SAVED MODEL IS NOT WHAT THE RUN TOLD OF: the run said ")


@pytest.mark.parametrize("merge", [False, True])
def test_adapters_are_measured_on_their_base_model(unlearn, recomputed, merge):
    pytest.importorskip("peft")
    found = recomputed(unlearn(use_peft=True, merge=merge, lora_r=2, probe_size=PROBE).folder)
    assert found.results["recomputed"]["agrees"]


def test_redacted_runs_stay_redacted(unlearn, recomputed, people):
    found = recomputed(unlearn(redact=True, probe_size=PROBE).folder)
    assert found.results["recomputed"]["agrees"]
    assert found.results["redacted"]
    answer = people.rows["retain"][0]["answer"]
    assert all(answer not in path.read_text() for path in found.folder.glob("*.json"))


def test_of_a_benchmark_the_probe_is_measured_unless_the_benchmark_is_given_again(unlearn, command, tmp_path):
    run = unlearn(forget=None, retain=None, benchmark="fiction", probe_size=PROBE, keep=0.5, metrics="probability")
    probe = command("eval", {"run": run.folder, "output_dir": tmp_path / "probe"})
    assert probe.results["recomputed"]["agrees"]
    assert [row["id"] for row in probe.scores("retain")] == run.results["probe_ids"]
    whole = command("eval", {"run": run.folder, "benchmark": "fiction", "output_dir": tmp_path / "whole"})
    assert "recomputed" not in whole.results
    assert whole.results["metrics"] == pytest.approx(run.results["metrics"], abs=1e-5)


def test_a_run_without_a_bound_is_held_against_what_it_measured(unlearn, recomputed):
    """It told the probability per token, of which the loss is the negative logarithm."""
    run = unlearn(method="simnpo", probe_size=PROBE)
    assert "bound" not in run.results
    found = recomputed(run.folder).results["recomputed"]
    before, after = (run.results[name]["retain.token_probability"] for name in ("reference_metrics", "metrics"))
    assert found["status"] == "unconstrained"
    assert found["agrees"]
    assert found["claimed_loss"] == pytest.approx(-math.log(after))
    assert found["kept"] == pytest.approx(after / before, abs=1e-5)


def test_a_bound_on_another_loss_is_not_taken_for_one_in_nats_a_token(run, recomputed, tmp_path):
    """What the run told then is the probability per token."""
    folder = copied(run, tmp_path)
    rewritten(folder / "results.json", lambda content: content["retentions"]["retain"].update(loss="kl"))
    rewritten(folder / "results.json", lambda content: content["bound"].update(reached=0.5, L_ref=0.0))
    found = recomputed(folder).results["recomputed"]
    assert found["claimed_loss"] == pytest.approx(-math.log(run.results["metrics"]["retain.token_probability"]))
    assert found["agrees"]
    assert "bound" not in found


def test_each_split_that_was_kept_is_recomputed(people, unlearn, recomputed, as_file, tmp_path):
    """Here some of the people are kept under one bound, and some under another; their probes are told apart."""
    sources = {name: as_file(tmp_path / f"{name}.jsonl", people.rows["retain"][place:][:10]) for name, place in PARTS}
    more = [part for name, path in sources.items() for part in ("--retain", f"{name}={path}")]
    run = unlearn(*more, retain=None, probe_size=PROBE, keep=0.5)
    found = recomputed(run.folder, retain=sources["near"])
    assert {path.stem for path in (found.folder / "scores").iterdir()} == {"forget", "near", "far"}
    facts = found.results["recomputed"]
    assert facts["split"] == "near"
    assert facts["agrees"]
    assert facts["further"]["far"]["agrees"]
    assert facts["further"]["far"]["bound"] == run.results["far_bound"]["value"]
    for name, _ in PARTS:
        assert [row["id"] for row in found.scores(name)] == [
            row["id"] for row in run.scores(name) if row["model"] == "after"
        ]


def test_python_evaluates_a_run_too(run, again, tmp_path):
    found = amnestic.evaluate(run=run.folder, output_dir=tmp_path / "eval")
    assert found.results["recomputed"] == again.results["recomputed"]


def test_rows_in_memory_are_given_again(people, tmp_path):
    options = {"max_steps": 1, "learning_rate": 1e-3, "max_new_tokens": 2, "probe_size": PROBE}
    amnestic.unlearn(
        people.model, forget=people.rows["forget"], retain=people.rows["retain"], output_dir=tmp_path / "run", **options
    )
    with pytest.raises(amnestic.InputError, match=r"the forget rows of the run in .* were in memory; give them again"):
        amnestic.evaluate(run=tmp_path / "run", output_dir=tmp_path / "eval")
    rows = {"forget": people.rows["forget"], "retain": people.rows["retain"]}
    found = amnestic.evaluate(run=tmp_path / "run", output_dir=tmp_path / "eval", **rows)
    assert found.results["recomputed"]["agrees"]
    with pytest.raises(amnestic.InputError, match="the retain split has 23 rows, and had 24 in the run"):
        amnestic.evaluate(
            run=tmp_path / "run", output_dir=tmp_path / "other", **rows | {"retain": people.rows["retain"][1:]}
        )


class TestRefused:
    """Each in one sentence, before anything is written."""

    def refusal(self, found: Any) -> str:
        assert found.status == 2
        assert found.err.count("\n") == 1
        assert not found.folder.exists()
        return found.err

    def test_no_run(self, recomputed, tmp_path):
        assert "is no run folder" in self.refusal(recomputed(tmp_path))
        assert "is no run folder" in self.refusal(recomputed(tmp_path / "nowhere"))

    def test_a_run_that_did_not_end(self, run, recomputed, tmp_path):
        folder = copied(run, tmp_path)
        (folder / "results.json").unlink()
        assert "has not ended" in self.refusal(recomputed(folder))

    def test_a_run_of_finetune(self, people, recomputed):
        told = self.refusal(recomputed(people.folder / "target"))
        assert "was written by amnestic finetune; expected a run of unlearn" in told

    def test_a_damaged_one(self, run, recomputed, tmp_path):
        folder = copied(run, tmp_path)
        rewritten(folder / "results.json", lambda content: content.pop("probe_ids"))
        assert "has no sound 'probe_ids'" in self.refusal(recomputed(folder))

    def test_one_of_another_version(self, run, recomputed, tmp_path):
        folder = copied(run, tmp_path)
        rewritten(folder / "results.json", lambda content: content.update(schema=0))
        assert "has results of schema 0; this version reads schema 1" in self.refusal(recomputed(folder))

    def test_one_without_its_model(self, run, recomputed, tmp_path):
        folder = copied(run, tmp_path)
        shutil.rmtree(folder / "model")
        assert "has no folder 'model'" in self.refusal(recomputed(folder))

    def test_a_model_besides(self, run, recomputed, people):
        assert "brings its model" in self.refusal(recomputed(run.folder, model=people.model))

    def test_data_that_has_changed(self, run, recomputed, people, tmp_path):
        changed = tmp_path / "retain.jsonl"
        changed.write_text(people.file("retain").read_text(encoding="utf-8") + "\n", encoding="utf-8")
        told = self.refusal(recomputed(run.folder, retain=changed))
        assert f"{changed} has changed since the run" in told

    def test_a_probe_that_is_not_there(self, run, recomputed, tmp_path):
        folder = copied(run, tmp_path)
        rewritten(folder / "results.json", lambda content: content["probe_ids"].append("retain:99"))
        assert "1 of 9 rows of the probe" in self.refusal(recomputed(folder))
