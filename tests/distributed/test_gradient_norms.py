"""Gradient norms with several processes, each with all weights or a part of them: those of one process."""

from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, MixtralConfig, MixtralForCausalLM

from amnestic.data.encode import Encoded
from amnestic.model import gradient_norms as module
from amnestic.model.form import examine
from amnestic.model.gradient_norms import gradient_norms
from amnestic.model.load import load, spread
from amnestic.model.options import ModelOptions, ShardingOptions


def rows(count: int) -> list[Encoded]:
    random = np.random.default_rng(4)
    lengths = random.integers(4, 30, size=count)
    return [
        Encoded(f"r:{i}", random.integers(5, 300, size=n), np.arange(n) >= 2, 2, False, "", "")
        for i, n in enumerate(lengths)
    ]


def measured(model: str, is_sharded: bool, is_alone: bool) -> dict[str, Any]:
    """The norms of one row and of seven, from passes that rows share or from one for each, and what is left behind."""
    loaded = load(ModelOptions(model=model, dtype="float32"), on_host=True)
    if is_sharded:
        spread(loaded, ShardingOptions(fsdp=True), torch.device("cpu"))
    done: list[int] = []
    examine(loaded, rows(1)[0])
    kept = next(loaded.model.parameters())
    kept.grad = kept.detach().clone()
    collected: list[int] = []
    hook = kept.register_post_accumulate_grad_hook(lambda _: collected.append(1))
    ways = {True: module._one_by_one, False: gradient_norms}
    with patch.object(module, "TOKENS", 60):
        found = [ways[is_alone](loaded, rows(count), done.append) for count in (1, 7)]
    others = [name for name, p in loaded.model.named_parameters() if p.grad is not None and p is not kept]
    is_as_before = bool(torch.equal(kept.grad, kept.detach()))
    hook.remove()
    return {
        "norms": np.concatenate(found),
        "done": sum(done),
        "notes": loaded.notes,
        "left": others + ["changed"] * (not is_as_before) + ["told"] * len(collected),
    }


def norms_of_experts(model: str, is_sharded: bool) -> tuple[list[float], list[str]]:
    loaded = load(ModelOptions(model=model, dtype="float32"), on_host=True)
    if is_sharded:
        spread(loaded, ShardingOptions(fsdp=True), torch.device("cpu"))
    examine(loaded, rows(1)[0])
    return gradient_norms(loaded, rows(3)).tolist(), loaded.notes


def test_rows_that_cannot_share_a_pass_in_a_sharded_model(pool, tiny_model, tmp_path):
    """That is only known in the midst of a pass, which ends all the same: the model is of use afterwards."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = MixtralConfig(vocab_size=320, num_local_experts=4, num_key_value_heads=2, initializer_range=0.2, **sizes)
    MixtralForCausalLM(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_model()).save_pretrained(tmp_path)
    expected, notes = norms_of_experts(str(tmp_path), False)
    assert notes[0].startswith("MixtralForCausalLM: each example's gradient takes a pass of its own, since Mixtral")
    for found, told in pool.run(norms_of_experts, str(tmp_path), True):
        np.testing.assert_allclose(found, expected, rtol=1e-4)
        assert told == notes


@pytest.mark.parametrize("is_alone", [False, True], ids=["together", "alone"])
@pytest.mark.parametrize("is_sharded", [False, True], ids=["whole", "sharded"])
def test_two_processes_give_the_norms_of_one(pool, tiny_model, is_sharded, is_alone):
    """One row leaves a process without any; a caller's gradients and the hooks of an optimiser see nothing of it."""
    model = str(tiny_model())
    expected = measured(model, False, False)["norms"]
    assert len(set(expected.tolist())) == 8
    for found in pool.run(measured, model, is_sharded, is_alone):
        np.testing.assert_allclose(found["norms"], expected, rtol=2e-5)
        assert (found["done"], found["notes"], found["left"]) == (8, [], [])
