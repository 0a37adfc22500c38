"""``amnestic unlearn`` from its arguments to everything that it leaves behind."""

import hashlib
import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from amnestic.config import UnlearnConfig, from_mapping, read_yaml, to_mapping

RUN_FOLDER = [
    "config.yaml",
    "environment.json",
    "model",
    "report.html",
    "results.json",
    "scores",
    "train.jsonl",
]
METRICS = [
    "distinct_ngrams",
    "empty_answers",
    "entropy",
    "exact_memorization",
    "extraction_strength",
    "margin",
    "probability",
    "rouge",
    "token_probability",
    "truth_ratio",
    "truth_ratio_arithmetic",
    "unended_answers",
]
TEMPLATE = (
    "{% for message in messages %}<bos>{{ message['role'] }}\n{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}<eos>{% endif %}{% endfor %}"
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def pooled(tokens: list[dict[str, np.ndarray]], name: str) -> np.ndarray:
    return np.concatenate([answer[name] for answer in tokens])


def test_a_run_that_holds_its_bound_exits_0_and_says_so_first(unlearned):
    assert unlearned.status == 0
    assert unlearned.out.startswith("Bound held: retain loss ")
    assert unlearned.out.splitlines()[0] == unlearned.results["verdict"]
    assert unlearned.results["status"] == "feasible"
    assert "almost nothing" not in unlearned.results["verdict"]
    assert (
        unlearned.results["metrics"]["forget.probability"]
        < 0.2
        < unlearned.results["reference_metrics"]["forget.probability"]
    )


def test_the_run_folder_holds_what_a_run_is_and_nothing_else(unlearned):
    assert names(unlearned.folder) == RUN_FOLDER
    assert names(unlearned.folder / "scores") == ["forget.parquet", "retain.parquet"]
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= set(
        names(unlearned.folder / "model")
    )
    assert not [path for path in unlearned.folder.rglob("*") if "tmp" in path.name or "candidate" in path.name]


def test_the_saved_model_keeps_what_was_asked_by_a_plain_loop(people, unlearned, answers):
    results = unlearned.results
    by_id = {f"retain:{number}": row for number, row in enumerate(people.rows["retain"])}
    probe = [by_id[id] for id in results["probe_ids"]]
    assert len(probe) == results["bound"]["probe_size"] == 24
    before, after = (
        pooled(answers(folder, probe), "logp").mean() for folder in (people.model, unlearned.folder / "model")
    )
    assert np.exp(after) >= 0.95 * np.exp(before)
    assert results["metrics"]["retain.token_probability"] == pytest.approx(np.exp(after), rel=1e-5)
    assert results["reference_metrics"]["retain.token_probability"] == pytest.approx(np.exp(before), rel=1e-5)
    assert results["bound"]["L_ref"] == pytest.approx(-before, rel=1e-5)
    assert results["bound"]["value"] == pytest.approx(-before - np.log(0.95), rel=1e-5)
    assert results["bound"]["reached"] == pytest.approx(-after, rel=1e-5)


def test_the_saved_model_forgot_by_a_plain_loop(people, unlearned, answers):
    found = answers(unlearned.folder / "model", people.rows["forget"])
    probability = np.mean([np.exp(answer["logp"].mean()) for answer in found])
    assert unlearned.results["metrics"]["forget.probability"] == pytest.approx(probability, rel=1e-4)
    assert probability < 0.2
    kept = next(c for c in unlearned.results["candidates"] if c["step"] == unlearned.results["kept_step"])
    assert kept["forget_loss"] == pytest.approx(np.square(pooled(found, "margin")).mean(), rel=1e-4)


def test_the_log_has_a_record_a_step_and_a_candidate_an_epoch(unlearned):
    candidates = [record for record in unlearned.records if record.pop("candidate", False)]
    assert [step["step"] for step in unlearned.steps] == list(range(1, 25))
    assert [step["epoch"] for step in unlearned.steps] == [k / 2 for k in range(1, 25)]
    assert [candidate["step"] for candidate in candidates] == list(range(2, 25, 2))
    assert candidates == unlearned.results["candidates"]


def test_the_multiplier_follows_the_logged_losses(unlearned):
    """lambda_0 = 100 for 5 epochs of 2 steps, then lambda + 5 (L - bound) after each step, never below 0."""
    value, bound = 100.0, unlearned.results["bound"]["value"]
    for step in unlearned.steps:
        if step["step"] > 10:
            value = max(0.0, value + 5 * (step["retain_loss"] - bound))
        assert step["bound"] == bound
        assert step["multiplier"] == pytest.approx(value, rel=1e-5)
    assert unlearned.results["multiplier"]["final"] == pytest.approx(value, rel=1e-5)


def test_the_kept_candidate_forgot_most_of_those_that_hold_the_bound(unlearned):
    results = unlearned.results
    holding = [c for c in results["candidates"] if c["reached"] <= results["bound"]["value"]]
    assert 0 < len(holding) < len(results["candidates"])
    assert [c["holds"] for c in results["candidates"]] == [c in holding for c in results["candidates"]]
    assert results["kept_step"] == min(holding, key=lambda c: (c["forget_loss"], -c["step"]))["step"]
    assert results["bound"]["reached"] == min(holding, key=lambda c: c["forget_loss"])["reached"]


def test_the_results_hold_what_they_should(people, unlearned):
    results = unlearned.results
    flat = sorted(f"{split}.{metric}" for split in ("forget", "retain") for metric in METRICS)
    assert sorted(results["metrics"]) == sorted(results["reference_metrics"]) == flat
    assert results["bound"] | {"L_ref": 0, "value": 0, "reached": 0, "upper_limit": 0} == {
        "kind": "keep",
        "requested": 0.95,
        "L_ref": 0,
        "value": 0,
        "reached": 0,
        "upper_limit": 0,
        "probe_size": 24,
        "held_out": False,
        "whole_split": True,
        "confidence": 0.95,
    }
    assert results["seeds"] == {"training": 42, "probe": 0}
    assert set(results["timings"]) == {"load", "reference", "train", "save", "measure"}
    assert all(seconds > 0 for seconds in results["timings"].values())
    assert results["peak_memory_bytes"] > 1e7
    assert results["method"] == {"name": "pdu"}
    assert results["data"]["forget"]["examples"] == 12
    assert results["training"]["steps"] == 24
    assert results["reload_difference"] < 1e-6
    first = f"Question: {people.rows['forget'][0]['question']}\nAnswer: "
    assert results["template"]["first_prompt_sha256"] == hashlib.sha256(first.encode()).hexdigest()


def test_the_scores_are_those_of_each_example(people, unlearned, answers):
    found = answers(unlearned.folder / "model", people.rows["forget"])
    after = [row for row in unlearned.scores("forget") if row["model"] == "after"]
    assert [row["answer"] for row in after] == [row["answer"] for row in people.rows["forget"]]
    expected = [np.exp(answer["logp"].mean()) for answer in found]
    assert [row["probability"] for row in after] == pytest.approx(expected, rel=1e-4)
    before = [row for row in unlearned.scores("retain") if row["model"] == "before"]
    right = [row["generated"] == row["answer"] for row in before]
    assert np.mean(right) > 0.7
    assert np.mean([row["generated"] == row["answer"] for row in after]) == 0


def test_the_environment_names_files_versions_seeds_and_precision(people, unlearned):
    environment = unlearned.environment
    model = [path for path in people.model.iterdir() if path.name != "README.md"]
    read = [people.file("forget"), people.file("retain"), *model]
    hashes = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in read}
    assert environment["sha256"] == hashes
    assert environment["packages"]["torch"] == importlib.metadata.version("torch")
    assert environment["python"].startswith(".".join(map(str, sys.version_info[:3])))
    assert (environment["dtype"], environment["device"], environment["seed"]) == ("float32", "cpu", 42)


def test_the_configuration_is_whole_and_resolved(unlearned, people):
    config = to_mapping(from_mapping(UnlearnConfig, read_yaml(unlearned.folder / "config.yaml")))
    assert config["model"] == str(people.model)
    assert (config["keep"], config["num_train_epochs"], config["weight_decay"]) == (0.95, 12.0, 0.01)


def test_the_configuration_repeats_the_run_bit_for_bit(unlearned, command, tmp_path):
    again = command("unlearn", {"config": unlearned.folder / "config.yaml", "output_dir": tmp_path / "other"})
    assert again.status == 0
    assert again.digest == unlearned.digest
    for name in ("metrics", "reference_metrics", "bound", "candidates", "kept_step", "multiplier", "verdict"):
        assert again.results[name] == unlearned.results[name]
    timeless = [[{**record, "seconds": 0} for record in run.records] for run in (again, unlearned)]
    assert timeless[0] == timeless[1]


def test_the_report_opens_with_the_verdict_and_needs_nothing_else(people, unlearned):
    page = (unlearned.folder / "report.html").read_text(encoding="utf-8")
    assert unlearned.results["verdict"].split(":")[0] in page
    assert "<svg" in page
    assert " src=" not in page.replace(' src="data:', "")
    assert sum(row["question"] in page for row in people.rows["forget"]) >= 10


def test_what_is_shown_while_it_runs(people, unlearned):
    row = people.rows["forget"][0]
    assert f"Question: {row['question']}\nAnswer:[[ {row['answer']}<eos>]]" in unlearned.err
    scored = unlearned.results["data"]["forget"]["scored_tokens"]
    assert f"12 examples, {scored} scored tokens" in unlearned.err
    assert "24, 2 an epoch" in unlearned.err
    assert "24 retain examples, the whole split" in unlearned.err
    assert unlearned.err.count("bound held") >= 1


def test_the_module_runs_in_a_process_of_its_own(people, as_flags, tmp_path):
    options = {"model": people.model, "forget": people.file("forget"), "retain": people.file("retain"), "max_steps": 1}
    arguments = ["unlearn", *as_flags(options | {"output_dir": tmp_path / "run", "max_new_tokens": 2, "bound": 9})]
    command = [sys.executable, "-W", "error::ResourceWarning", "-m", "amnestic", *arguments]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    results = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    assert process.returncode == 0
    assert process.stdout.startswith(f"{results['verdict']}\n")
    assert "Traceback" not in process.stderr
    assert names(tmp_path / "run") == RUN_FOLDER
    environment = json.loads((tmp_path / "run" / "environment.json").read_text(encoding="utf-8"))
    assert environment["command"][1:] == arguments


def test_json_is_the_results_and_quiet_is_the_verdict_alone(unlearn):
    outcome = unlearn("--json", bound=9)
    assert json.loads(outcome.out) == outcome.results
    outcome = unlearn("--quiet", bound=9)
    assert (outcome.out, outcome.err) == (outcome.results["verdict"] + "\n", "")


def test_a_missed_bound_exits_3_says_so_first_and_writes_the_model_all_the_same(people, unlearn, answers):
    """Nothing holds the retain loss: it rises from epoch to epoch, and the first candidate is the nearest miss."""
    options = {"keep": 0.999, "multiplier_initial": 0, "multiplier_rate": 0, "learning_rate": 2e-3, "max_steps": 4}
    outcome = unlearn(**options, per_device_train_batch_size=12)
    results = outcome.results
    assert outcome.status == 3
    assert outcome.out.startswith("BOUND MISSED: ")
    assert (results["status"], results["verdict"]) == ("infeasible", outcome.out.splitlines()[0])
    assert not any(candidate["holds"] for candidate in results["candidates"])
    assert results["kept_step"] == min(results["candidates"], key=lambda c: c["reached"])["step"] == 1
    after = pooled(answers(outcome.folder / "model", people.rows["retain"]), "logp").mean()
    assert -after == pytest.approx(results["bound"]["reached"], rel=1e-5)
    assert -after > results["bound"]["value"]
    assert "BOUND MISSED" in (outcome.folder / "report.html").read_text(encoding="utf-8")


def test_a_probe_that_holds_on_average_alone_is_infeasible(unlearn):
    """Of a probe of 4 rows the mean holds and the upper limit does not: the bound lies between the two."""
    first = unlearn(probe_size=4, bound=9, learning_rate=1e-2, max_steps=1)
    found = first.results["bound"]
    assert found["reached"] < found["upper_limit"]
    between = (found["reached"] + found["upper_limit"]) / 2
    outcome = unlearn(probe_size=4, bound=between, learning_rate=1e-2, max_steps=1)
    assert outcome.status == 3
    assert outcome.out.startswith("BOUND NOT HELD: held on average, not with 95 % confidence")


def test_a_probe_is_held_out_of_training_where_the_split_is_large_enough(people, unlearn):
    """24 rows are at least 10 times 2: rows of the probe may be anything, and the weights are the same."""
    outcome = unlearn(probe_size=2, bound=9)
    assert outcome.results["bound"]["held_out"]
    assert "2 retain examples, held out of training" in outcome.err
    probe = {int(id.removeprefix("retain:")) for id in outcome.results["probe_ids"]}
    rows = [row | {"answer": "Nothing."} if i in probe else row for i, row in enumerate(people.rows["retain"])]
    changed = outcome.folder.parent / "changed.jsonl"
    changed.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    other = unlearn(probe_size=2, bound=99, retain=changed)
    assert other.digest == outcome.digest
    assert other.results["bound"]["L_ref"] > outcome.results["bound"]["L_ref"]


def test_a_feasible_run_that_forgot_nothing_says_so(unlearn):
    outcome = unlearn(keep=0.5, learning_rate=1e-7, max_steps=1)
    assert outcome.status == 0
    assert outcome.out.splitlines()[0].endswith(": almost nothing was forgotten.")


def test_results_do_not_depend_on_how_a_step_is_cut(unlearn):
    options = {"bound": 9, "max_steps": 4, "retain_per_forget": 2, "optim": "sgd"}
    whole = unlearn(per_device_train_batch_size=8, gradient_accumulation_steps=1, **options)
    cut = unlearn(per_device_train_batch_size=2, gradient_accumulation_steps=4, **options)
    for name in ("forget_loss", "retain_loss", "multiplier", "grad_norm"):
        assert [step[name] for step in cut.steps] == pytest.approx([step[name] for step in whole.steps], rel=1e-4)
    weights = cut.weights
    for name, value in whole.weights.items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def bfloat16(people, tmp_path_factory):
    """The people's model in bfloat16, with a chat template and a generation configuration of its own."""
    folder = tmp_path_factory.mktemp("bfloat16")
    tokenizer = AutoTokenizer.from_pretrained(people.model)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(people.model, dtype=torch.bfloat16)
    model.generation_config.update(do_sample=True, temperature=0.7, max_new_tokens=11)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_a_model_comes_back_as_it_came(unlearn, bfloat16, dtype):
    outcome = unlearn(model=bfloat16, bound=9, dtype=dtype, chat_template="none")
    folder = outcome.folder / "model"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    assert {value.dtype for value in outcome.weights.values()} == {torch.bfloat16}
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert "lm_head.weight" not in outcome.weights
    came, saved = (GenerationConfig.from_pretrained(path).to_dict() for path in (bfloat16, folder))
    assert saved == came
    assert (saved["do_sample"], saved["temperature"], saved["max_new_tokens"]) == (True, 0.7, 11)
    assert tokenizer.chat_template == TEMPLATE
    assert (folder / "tokenizer.json").read_text() == (bfloat16 / "tokenizer.json").read_text()
    before, after = (json.loads((path / "config.json").read_text(encoding="utf-8")) for path in (bfloat16, folder))
    assert after == before
    if dtype == "float32":
        assert outcome.environment["dtype"] == "float32"


def test_master_weights_keep_what_bfloat16_would_round_away(unlearn, bfloat16):
    """Sixteen steps of at most 1e-5: bfloat16 rounds them away at weights above 0.01, float32 copies add them up."""
    options = {"model": bfloat16, "bound": 9, "dtype": "bfloat16", "chat_template": "none", "learning_rate": 1e-5}
    options |= {"max_steps": 16, "warmup_steps": 0, "weight_decay": 0}
    came = load_file(bfloat16 / "model.safetensors")
    moved = []
    for master_weights in (True, False):
        outcome = unlearn(**options, master_weights=master_weights)
        assert outcome.environment["dtype"] == "bfloat16"
        moved.append(sum(int((value != came[name]).sum()) for name, value in outcome.weights.items()))
    assert moved[0] > 2 * moved[1]


def test_weights_that_did_not_change_are_an_error(unlearn, bfloat16):
    outcome = unlearn(model=bfloat16, bound=9, learning_rate=1e-12, chat_template="none")
    assert outcome.status == 1
    last = outcome.err.splitlines()[-1]
    assert last.startswith("error: no weight changed: at --learning_rate 1e-12 every update was lost to rounding in bf")
    assert "results.json" not in names(outcome.folder)
    assert names(outcome.folder) == ["checkpoints", "config.yaml", "environment.json", "train.jsonl"]
