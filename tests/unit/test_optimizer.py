"""The optimiser: float32 masters, clipping, weight decay, and the libraries that it may need."""

import gc
import math
import sys

import pytest
import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor._dtensor_spec import DTensorSpec, TensorMeta

from amnestic.errors import InputError
from amnestic.training.optimizer import Optimizer, check_library
from amnestic.training.options import TrainingOptions

STEPS, RATE = 130, 1e-5


def options(**changes) -> TrainingOptions:
    """Return plain descent without clipping or decay, with `changes`."""
    plain = {"optim": "sgd", "adam_beta1": 0.0, "weight_decay": 0.0, "max_grad_norm": 0.0, "learning_rate": 1.0}
    return TrainingOptions(**plain | changes)


def parameter(values, dtype=torch.float32) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype).requires_grad_()


def backward(tensor: torch.Tensor, gradient) -> None:
    """Let a backward pass leave `gradient` on `tensor`."""
    (tensor * torch.as_tensor(gradient, dtype=tensor.dtype)).sum().backward()


def as_bfloat16(value: float) -> float:
    """Return the nearest number of 8 significant bits, the even one of two."""
    fraction, exponent = math.frexp(value)
    return math.ldexp(round(fraction * 256), exponent - 8)


def travel(master_weights: bool, start: torch.Tensor, optim: str = "sgd") -> torch.Tensor:
    """Return how far bfloat16 weights get down in 130 steps of 1e-5 (also AdamW's, under a constant gradient of 1)."""
    weights = start.to(torch.bfloat16, copy=True).requires_grad_()
    optimizer = Optimizer([weights], options(optim=optim, learning_rate=RATE, master_weights=master_weights))
    for _ in range(STEPS):
        backward(weights, torch.ones_like(weights))
        optimizer.step()
    return start.to(torch.bfloat16).double() - weights.detach().double()


def test_small_updates_reach_bfloat16_weights_through_their_masters():
    """From 0.02 by 130 times 1e-5 to 0.0187, rounded to bfloat16 once, at the end."""
    start = as_bfloat16(0.02)
    assert start - travel(True, torch.tensor([0.02])).item() == as_bfloat16(start - STEPS * RATE)


def test_small_updates_are_lost_without_masters():
    """At 0.02 two neighbours are 2^-13 apart: a step of 1e-5 is rounded away. At 0.003 it is rounded up to 2^-16."""
    start = torch.tensor([0.02, -0.02, 0.003, 0.0005])
    expected = []
    for value in start.tolist():
        before = weight = as_bfloat16(value)
        for _ in range(STEPS):
            weight = as_bfloat16(weight - RATE)
        expected.append(before - weight)
    assert expected[:2] == [0.0, 0.0]
    assert expected[2] > 0
    assert travel(False, start).tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("optim", ["sgd", "adamw_torch"])
def test_weights_of_a_usual_model_travel_the_whole_way_only_with_masters(optim):
    """Weights of standard deviation 0.02: those below 2^-8 = 0.0039 move, P(|z| < 0.195) = 0.155 of them."""
    start = 0.02 * torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    whole = STEPS * RATE
    assert travel(True, start, optim).mean().item() == pytest.approx(whole, rel=0.01)
    assert 0.1 * whole < travel(False, start, optim).mean().item() < 0.2 * whole


@pytest.mark.parametrize(("master_weights", "expected"), [(True, -1.03125), (False, -1.0)])
def test_gradients_are_summed_in_float32_over_micro_batches(master_weights, expected):
    """1 + 16 times 2^-9 = 1.03125; in bfloat16 each 1 + 2^-9 is 1 again."""
    weight = parameter([0.0], torch.bfloat16)
    optimizer = Optimizer([weight], options(master_weights=master_weights))
    for gradient in [1.0, *[2.0**-9] * 16]:
        backward(weight, [gradient])
    norm = optimizer.step()
    assert weight.tolist() == [expected]
    assert norm.item() == -expected
    assert norm.dtype == (torch.float32 if master_weights else torch.bfloat16)


def test_gradients_of_bfloat16_weights_are_not_kept_twice():
    weight = parameter([1.0, 2.0], torch.bfloat16)
    optimizer = Optimizer([weight], options())
    backward(weight, [1.0, 1.0])
    assert weight.grad is None
    assert [master.dtype for master in optimizer.masters] == [torch.float32]
    optimizer.step()
    assert optimizer.masters[0].grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wide_weights_are_their_own_masters(dtype):
    weight = parameter([1.0], dtype)
    assert Optimizer([weight], options()).masters[0] is weight


def test_a_model_can_be_trained_again():
    """The hooks of the first optimiser would otherwise take the gradients from the second."""
    weight = parameter([1.0], torch.bfloat16)
    for expected in (0.5, 0.0):
        optimizer = Optimizer([weight], options())
        backward(weight, [0.5])
        optimizer.step()
        assert weight.tolist() == [expected]
        del optimizer
        gc.collect()
    backward(weight, [0.25])
    assert weight.grad.tolist() == [0.25]


def test_gradients_from_before_do_not_count():
    weight = parameter([1.0])
    backward(weight, [8.0])
    optimizer = Optimizer([weight], options())
    backward(weight, [0.5])
    optimizer.step()
    assert weight.tolist() == [0.5]


@pytest.mark.parametrize(("most", "length"), [(1.0, 1.0), (10.0, 5.0), (0.0, 5.0)])
def test_clipping_by_hand(most, length):
    """A gradient (3, 4) over two tensors has norm 5, which is reported; it is cut to `most` (0: not cut)."""
    first, second = parameter([0.0]), parameter([[0.0]])
    optimizer = Optimizer([first, second], options(max_grad_norm=most))
    backward(first, [3.0])
    backward(second, [[4.0]])
    assert optimizer.step().item() == pytest.approx(5.0)
    assert [first.item(), second.item()] == pytest.approx([-0.6 * length, -0.8 * length], rel=1e-6)


def test_clipping_equals_torchs():
    generator = torch.Generator().manual_seed(0)
    shapes = [(5, 3), (7,), (2, 2, 2)]
    starts = [torch.randn(shape, generator=generator) for shape in shapes]
    gradients = [3 * torch.randn(shape, generator=generator) for shape in shapes]
    ours = [start.clone().requires_grad_() for start in starts]
    optimizer = Optimizer(ours, options(max_grad_norm=0.7, learning_rate=0.1))
    theirs = [start.clone().requires_grad_() for start in starts]
    for a, b, gradient in zip(ours, theirs, gradients, strict=True):
        a.grad, b.grad = gradient.clone(), gradient.clone()
    norm = torch.nn.utils.clip_grad_norm_(theirs, 0.7)
    torch.optim.SGD(theirs, lr=0.1).step()
    assert torch.equal(optimizer.step(), norm)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_masters_are_clipped_by_their_joint_norm():
    """Gradients 3 on a bfloat16 and 4 on a float32 weight: norm 5, cut to 1."""
    narrow, wide = parameter([0.0], torch.bfloat16), parameter([0.0])
    optimizer = Optimizer([narrow, wide], options(max_grad_norm=1.0))
    backward(narrow, [3.0])
    backward(wide, [4.0])
    assert optimizer.step().item() == pytest.approx(5.0)
    assert optimizer.masters[0].item() == pytest.approx(-0.6, rel=1e-6)
    assert wide.item() == pytest.approx(-0.8, rel=1e-6)


def test_weight_decay_is_for_matrices_alone():
    """Without a gradient AdamW shrinks a matrix by learning rate times decay = 5 %, and leaves biases and norms."""
    matrix, vector = parameter([[1.0, -2.0]]), parameter([1.0, -2.0])
    optimizer = Optimizer([matrix, vector], options(optim="adamw_torch", weight_decay=0.5, learning_rate=0.1))
    matrix.grad, vector.grad = torch.zeros_like(matrix), torch.zeros_like(vector)
    optimizer.step()
    assert matrix.tolist() == [pytest.approx([0.95, -1.9])]
    assert vector.tolist() == [1.0, -2.0]


def test_learning_rate_is_a_share_of_its_peak():
    weight = parameter([0.0])
    optimizer = Optimizer([weight], options(learning_rate=0.5))
    moved = []
    for share in (1.0, 0.25, 0.0):
        optimizer.set_learning_rate(share)
        before = weight.item()
        backward(weight, [2.0])
        optimizer.step()
        moved.append(before - weight.item())
    assert moved == [1.0, 0.25, 0.0]


def test_frozen_parameters_are_left_out():
    frozen, free = torch.ones(2), parameter([1.0])
    optimizer = Optimizer([frozen, free], options())
    assert optimizer.parameters == [free]
    with pytest.raises(InputError, match=r"^no parameter of the model is trainable\.$"):
        Optimizer([frozen], options())


def test_momentum_of_sgd_is_the_first_beta():
    """Two equal gradients 1 with momentum 1/2: the second step is 1 + 1/2."""
    weight = parameter([0.0])
    optimizer = Optimizer([weight], options(adam_beta1=0.5))
    for expected in (-1.0, -2.5):
        backward(weight, [1.0])
        optimizer.step()
        assert weight.item() == expected


def adamw(start: list[float], gradients: list[list[float]], rate: float) -> list[float]:
    """Return AdamW's result, written out: betas 0.9 and 0.99, epsilon 1e-8, no decay."""
    values, m, v = list(start), [0.0] * len(start), [0.0] * len(start)
    for step, gradient in enumerate(gradients, start=1):
        for i, g in enumerate(gradient):
            m[i], v[i] = 0.9 * m[i] + 0.1 * g, 0.99 * v[i] + 0.01 * g * g
            values[i] -= rate * (m[i] / (1 - 0.9**step)) / (math.sqrt(v[i] / (1 - 0.99**step)) + 1e-8)
    return values


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU:UserWarning")
@pytest.mark.parametrize("name", ["adamw_torch", "adamw_torch_fused", "paged_adamw_32bit"])
def test_every_adamw_takes_the_steps_of_the_formula(name):
    if name.startswith("paged"):
        pytest.importorskip("bitsandbytes")
    start, gradients = [0.5, -0.25, 1.0], [[1.0, -2.0, 0.5], [0.5, 4.0, 0.5], [-1.0, 1.0, 0.25]]
    weight = parameter(start)
    optimizer = Optimizer([weight], options(optim=name, adam_beta1=0.9, adam_beta2=0.99, learning_rate=0.1))
    for gradient in gradients:
        backward(weight, gradient)
        optimizer.step()
    assert weight.tolist() == pytest.approx(adamw(start, gradients, 0.1), rel=1e-5)


@pytest.mark.parametrize("name", ["paged_adamw_32bit", "paged_adamw_8bit"])
def test_missing_library_is_named_with_its_installation(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    sentence = rf"^--optim {name} needs bitsandbytes; install it with: pip install 'amnestic\[bitsandbytes\]'\.$"
    with pytest.raises(InputError, match=sentence):
        check_library(options(optim=name))
    with pytest.raises(InputError, match=sentence):
        Optimizer([parameter([1.0])], options(optim=name))
    check_library(options(optim="adamw_torch"))


def test_weights_kept_in_the_hosts_memory_are_moved_for_the_device_that_computes():
    """As --fsdp_offload_params leaves them on a GPU: losses and batches are there, and the weights here."""
    mesh = DeviceMesh("cuda", [0], _init_backend=False, _rank=0)
    local = torch.ones(4, 3)
    spec = DTensorSpec(mesh, (Shard(0),), tensor_meta=TensorMeta(local.shape, local.stride(), local.dtype))
    offloaded = torch.nn.Parameter(DTensor(local, spec, requires_grad=True))
    assert offloaded.device.type == "cpu"
    assert Optimizer([offloaded], options()).device.type == "cuda"
