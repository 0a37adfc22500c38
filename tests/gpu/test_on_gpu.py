"""What only a GPU can show; skipped without one."""

import numpy as np
import pytest
import torch

from amnestic.constraints.multiplier import Bounded
from amnestic.constraints.retention import NLL, Retention
from amnestic.data.batches import pack, pad
from amnestic.data.encode import Encoded
from amnestic.methods.flattening import PDU
from amnestic.model import layers
from amnestic.model.form import examine
from amnestic.model.layers import Projection
from amnestic.model.load import load
from amnestic.model.options import ModelOptions
from amnestic.model.segments import segmented
from amnestic.training.optimizer import Optimizer
from amnestic.training.options import TrainingOptions
from amnestic.training.problem import Problem, forget_term, retain_term
from amnestic.training.step import step

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def rows(split: str) -> list[Encoded]:
    return [
        Encoded(f"{split}:{n}", np.random.default_rng(n).integers(5, 300, size=n), np.arange(n) > 1, 1, False, "", "")
        for n in (6, 9, 5)
    ]


@pytest.mark.parametrize("is_packed", [False, True])
def test_the_host_never_waits_in_a_step(tiny_model, is_packed):
    loaded = load(ModelOptions(model=str(tiny_model()), dtype="bfloat16", device="cuda"))
    examine(loaded, rows("forget")[0])
    terms = (forget_term(PDU()), retain_term(Retention(NLL(), Bounded())))
    problem = Problem(terms, loaded.model, loaded.vocabulary, loaded.form)
    optimizer = Optimizer(loaded.model.parameters(), TrainingOptions(optim="adamw_torch_fused"))
    multiplier = Bounded().start(0.1, 1, "cuda")
    batches = [pad(split, rows(split)) for split in ("forget", "retain")]
    if is_packed:
        batches = [pack([(split, row) for split in ("forget", "retain") for row in rows(split)])]
    moved = [batch.to(torch.device("cuda")) for batch in batches]
    with segmented(loaded.model):
        step(problem, moved, [multiplier], optimizer)  # what is set up once may wait
        torch.cuda.set_sync_debug_mode("error")
        try:
            step(problem, moved, [multiplier], optimizer)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cap", [None, 5.0])
def test_the_kernel_finds_what_plain_torch_finds(dtype, cap):
    triton_margin = pytest.importorskip("amnestic.model.kernels.triton_margin")
    generator = torch.Generator(device="cuda").manual_seed(0)
    hidden = torch.randn(300, 256, device="cuda", generator=generator).to(dtype)
    weight = torch.randn(5003, 256, device="cuda", generator=generator).to(dtype)
    head = Projection(((hidden, weight),), None, 0.5, cap)
    found, expected = triton_margin.search(head, 4999), layers._search(head, 4999, 600)
    assert (found[1] == expected[1]).float().mean() > 0.99  # another order of additions may decide near ties
    torch.testing.assert_close(found[0], expected[0], rtol=2e-2, atol=2e-2)
    if cap is not None:
        torch.testing.assert_close(found[2], expected[2], rtol=2e-2, atol=2.0)
