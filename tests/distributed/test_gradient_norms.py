"""Gradient norms with several processes, each with all weights or a part of them: those of one process."""

from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

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
