"""``amnestic finetune``: target models, retrained models, from weights and from scratch."""

import hashlib

import numpy as np
import pytest
import torch
from transformers import AutoConfig

RUN_FOLDER = ["config.yaml", "environment.json", "model", "results.json", "scores", "train.jsonl"]


def probability(tokens) -> float:
    """Return the mean over answers of exp(mean log p of the answer's tokens)."""
    return float(np.mean([np.exp(answer["logp"].mean()) for answer in tokens]))


def test_a_model_is_trained_from_scratch_until_it_knows_its_data(people, answers):
    assert probability(answers(people.model, people.rows["full"])) > 0.9
    shape = AutoConfig.from_pretrained(people.start).to_dict()
    trained = AutoConfig.from_pretrained(people.model).to_dict()
    assert {key for key in shape if shape[key] != trained[key]} <= {"_name_or_path", "dtype", "transformers_version"}
    assert sorted(path.name for path in people.model.parent.iterdir()) == RUN_FOLDER


def test_a_random_model_does_not_depend_on_what_was_drawn_before(people, finetune):
    options = {"model": people.start, "from_scratch": True}
    first = finetune(**options)
    torch.rand(7)
    assert finetune(**options).digest == first.digest
    assert finetune(**options, seed=7).digest != first.digest


def test_a_retrained_model_never_saw_what_was_excluded(people, retrained, answers):
    assert retrained.status == 0
    assert retrained.results["data"]["data"]["rows"] == 24
    assert probability(answers(retrained.folder / "model", people.rows["retain"])) > 0.9
    assert probability(answers(retrained.folder / "model", people.rows["forget"])) < 0.5
    for name in ("full", "forget"):
        path = people.file(name)
        assert retrained.environment["sha256"][str(path)] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_excluding_equals_training_on_the_rest(people, finetune):
    excluded = finetune(data=people.file("full"), exclude=people.file("forget"))
    assert excluded.digest == finetune(data=people.file("retain")).digest
    assert excluded.digest != finetune(data=people.file("full")).digest


def test_a_model_learns_on(people, finetune, as_file, answers):
    rows = people.rows["holdout"]
    data = as_file(people.folder / "holdout.jsonl", rows)
    outcome = finetune(data=data, num_train_epochs=8, max_steps=None, learning_rate=3e-3)
    assert outcome.status == 0
    after = probability(answers(outcome.folder / "model", rows))
    assert after > probability(answers(people.model, rows)) + 0.1
    assert outcome.results["metrics"]["data.probability"] == pytest.approx(after, rel=1e-4)
    assert outcome.out.startswith(f"Trained for 24 steps; probability of an answer {after:.3g}.\n")
    assert [step["step"] for step in outcome.steps] == list(range(1, 25))
    assert outcome.results["status"] == "done"


def test_the_first_loss_is_the_mean_over_the_step_s_tokens(people, finetune, answers):
    """A step of all 24 rows, so that their order does not matter."""
    outcome = finetune(max_steps=1, per_device_train_batch_size=8, gradient_accumulation_steps=3)
    logp = np.concatenate([answer["logp"] for answer in answers(people.model, people.rows["retain"])])
    assert outcome.steps[0]["loss"] == pytest.approx(-logp.mean(), rel=1e-5)


def test_excluding_rows_that_are_not_there_is_refused(people, finetune, tmp_path):
    outcome = finetune(data=people.file("retain"), exclude=people.file("forget"), output_dir=tmp_path / "run")
    assert outcome.status == 2
    assert outcome.err.startswith(f"error: none of the 12 rows of --exclude {people.file('forget')} stands in the data")
    assert list(tmp_path.iterdir()) == []
    outcome = finetune(data=people.file("forget"), exclude=people.file("full"), output_dir=tmp_path / "run")
    assert outcome.status == 2
    assert outcome.err == f"error: --exclude {people.file('full')} leaves no row of the data.\n"
    assert list(tmp_path.iterdir()) == []
