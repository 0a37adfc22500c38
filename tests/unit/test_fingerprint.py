"""Models that give other numbers have other fingerprints, though their weights are the same."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from amnestic.model.adapter import attach
from amnestic.model.fingerprint import fingerprint_of
from amnestic.model.load import Loaded, load
from amnestic.model.options import AdapterOptions, ModelOptions


@pytest.fixture
def loaded(tiny_model: Any) -> Callable[[], Loaded]:
    return lambda: load(ModelOptions(model=str(tiny_model()), device="cpu"))


def turn_otherwise(found: Loaded) -> None:
    found.model.config.rope_parameters["rope_theta"] = 500.0


def round_otherwise(found: Loaded) -> None:
    found.model.config.rms_norm_eps = 1e-2


def change_a_weight(found: Loaded) -> None:
    with torch.no_grad():
        next(found.model.parameters())[0, 0] += 1


def add_a_buffer(found: Loaded) -> None:
    found.model.register_buffer("shift", torch.ones(1))


def know_more_words(found: Loaded) -> None:
    found.tokenizer = ["word"] * 10


def attend_otherwise(found: Loaded) -> None:
    found.model.set_attn_implementation("eager")


def compute_in_half(found: Loaded) -> None:
    found.model.to(torch.bfloat16)


def test_the_same_model_has_the_same_fingerprint(loaded: Callable[[], Loaded], tmp_path: Any) -> None:
    """Wherever its files lie."""
    first = loaded()
    first.model.save_pretrained(tmp_path)
    first.tokenizer.save_pretrained(tmp_path)
    copy = load(ModelOptions(model=str(tmp_path), device="cpu"))
    assert fingerprint_of(first) == fingerprint_of(loaded()) == fingerprint_of(copy)


@pytest.mark.parametrize(
    "change",
    [
        turn_otherwise,
        round_otherwise,
        change_a_weight,
        add_a_buffer,
        know_more_words,
        attend_otherwise,
        compute_in_half,
    ],
)
def test_what_changes_numbers_changes_it(loaded: Callable[[], Loaded], change: Callable[[Loaded], None]) -> None:
    found = loaded()
    before = fingerprint_of(found)
    change(found)
    assert fingerprint_of(found) != before


def test_the_scale_of_an_adapter_changes_it(loaded: Callable[[], Loaded]) -> None:
    """Its factors being the same."""
    names = []
    for scale in (8, 16):
        found = loaded()
        attach(found.model, AdapterOptions(use_peft=True, lora_r=2, lora_alpha=scale), None, 0)
        names.append(fingerprint_of(found))
    assert names[0] != names[1]
