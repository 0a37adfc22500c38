"""The GPU's kernel for rows of various lengths against the processor's way, in float64; skipped without a GPU."""

from types import SimpleNamespace

import pytest
import torch

from amnestic.data.batches import HOST_BOUNDARIES
from amnestic.model.segments import attend

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

TOLERANCE = {torch.bfloat16: 3e-2, torch.float16: 4e-3, torch.float32: 1e-4}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("shared", [1, 4])
def test_attention_and_its_gradients_are_those_of_the_processor(dtype, window, shared):
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, 8, 60, 64), (1, 8 // shared, 60, 64), (1, 8 // shared, 60, 64)]
    exact = [torch.randn(shape, generator=generator).to(dtype).double() for shape in shapes]
    weights = torch.randn(1, 60, 8, 64, generator=generator)
    boundaries = torch.tensor([0, 30, 40, 50, 57, 60], dtype=torch.int32)
    found = []
    for device, kind in (("cpu", torch.float64), ("cuda", dtype)):
        heads = [tensor.to(device, kind).requires_grad_() for tensor in exact]
        settings = {"cu_seq_lens_q": boundaries.to(device), HOST_BOUNDARIES: boundaries, "max_length_q": 30}
        output, _ = attend(SimpleNamespace(), *heads, None, scaling=0.125, sliding_window=window, **settings)
        gradients = torch.autograd.grad((output * weights.to(device, kind)).sum(), heads)
        found.append([tensor.double().cpu() for tensor in (output.detach(), *gradients)])
    for expected, own in zip(*found, strict=True):
        assert (own - expected).abs().max() <= TOLERANCE[dtype] * expected.abs().max()
