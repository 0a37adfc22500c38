"""Data and models that look usable and are not: refused before anything is written."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import amnestic
from amnestic.config import read_yaml
from amnestic.run import Run

FORGET = [{"question": f"Who wrote book {i}?", "answer": f"Author {i} wrote it."} for i in range(4)]
RETAIN = [{"question": f"Who drew map {i}?", "answer": f"Painter {i} drew it."} for i in range(8)]


def unlearn(model: Any, folder: Path, **options: Any) -> Run:
    given = {"forget": FORGET, "retain": RETAIN, "max_steps": 1, "max_new_tokens": 2, "device": "cpu"} | options
    return amnestic.unlearn(str(model), output_dir=folder / "run", **given)


def refused(model: Any, folder: Path, pattern: str, **options: Any) -> None:
    """Check that a run raises InputError with `pattern`, and leaves nothing."""
    with pytest.raises(amnestic.InputError, match=pattern):
        unlearn(model, folder, **options)
    assert not (folder / "run").exists()


def test_rows_that_become_the_same_tokens_are_shared(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    again = [
        {"prompt": f"Question: {row['question']}\nAnswer:", "completion": f" {row['answer']}"} for row in FORGET[:2]
    ]
    refused(tiny_model(), tmp_path, "forget and retain share 2 rows of 4 and 2", retain=again)


def test_outer_white_space_makes_no_other_row(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    again = [{"question": row["question"] + " ", "answer": row["answer"]} for row in FORGET[:3]]
    refused(tiny_model(), tmp_path, "forget and retain share 3 rows", retain=again)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model(), model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens(["Author"])
    tokenizer.save_pretrained(model)
    refused(model, tmp_path, "the tokenizer writes token 320, and the model knows the tokens below 320")


def test_a_broken_model_is_refused_before_anything_is_written(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model())
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    model.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(tiny_model()).save_pretrained(tmp_path / "model")
    refused(tmp_path / "model", tmp_path, "10240 of the 10240 numbers in model.embed_tokens.weight are not finite")


def test_finite_weights_out_of_range_are_refused_too(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    """Each weight is a number, but their sums are not."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model())
    with torch.no_grad():
        model.model.norm.weight.fill_(3e38)
    model.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(tiny_model()).save_pretrained(tmp_path / "model")
    refused(tmp_path / "model", tmp_path, "loss on the retain probe is nan before unlearning")


def test_options_that_would_change_nothing_are_refused(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    refused(tiny_model(), tmp_path, "is a local folder; leave it out", model_revision="v3")
    refused(tiny_model(), tmp_path, "are for chat templates, and there is none", system_prompt="You are brief.")
    refused(tiny_model(), tmp_path, "are for chat templates, and there is none", template_args={"date": "today"})


def test_a_mistyped_folder_is_no_hub_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    refused("models/typo", tmp_path, "--model is 'models/typo', and there is no such folder")


def test_a_run_works_where_the_caller_switched_gradients_off(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    with torch.no_grad():
        run = unlearn(tiny_model(), tmp_path, learning_rate=1e-3)
    assert run.results["training"]["steps"] == 1


def test_the_configuration_of_a_run_states_what_was_left_open(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    unlearn(tiny_model(), tmp_path, learning_rate=1e-3, multiplier_rate=2.0)
    written = read_yaml(tmp_path / "run" / "config.yaml")
    chosen = {key: value for key, value in written.items() if key == "keep" or key.startswith("multiplier")}
    assert chosen == {
        "keep": 0.98,
        "multiplier_initial": 100.0,
        "multiplier_rate": 2.0,
        "multiplier_warmup_epochs": 5.0,
        "multiplier_update": "step",
        "multiplier_kind": "ascent",
        "multiplier_normalized": False,
        "multiplier_proportional": 0.0,
        "multiplier_cap": "none",
    }
