"""Layers that never hold all logits give the values and gradients of the plain forms.

The reference multiplies everything out in float64 and differentiates by autograd.
"""

import sys
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from amnestic.model import head as plain
from amnestic.model import kernels, layers
from amnestic.model.head import HEAD_SIGNALS, CrossEntropyTo, Reference, WithoutTarget
from amnestic.model.kernels import choice
from amnestic.model.layers import Projection

WIDTH = 5
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 3e-2}
"""Largest difference, as a share of the largest value; bfloat16 rounds logits that differ by 1 in 128."""


def projection(
    rows: int,
    columns: int,
    *,
    seed: int = 0,
    has_bias: bool = True,
    scale: float = 1.0,
    cap: float | None = None,
    is_adapted: bool = False,
    dtype: torch.dtype = torch.float64,
) -> Projection:
    """A head of random weights on random rows, all of which want a gradient."""
    generator = torch.Generator().manual_seed(seed)
    make = partial(torch.randn, generator=generator, dtype=torch.float64)
    pairs = [(make(rows, WIDTH), make(columns, WIDTH))]
    if is_adapted:
        pairs.append((make(rows, 2), make(columns, 2)))
    bias = make(columns) if has_bias else None
    found = Projection(tuple(pairs), bias, scale, cap)
    return found.of([tensor.to(dtype).requires_grad_() for tensor in found.tensors])


def targets_of(head: Projection, seed: int = 1) -> Tensor:
    """A target for each row."""
    return torch.randint(head.vocabulary, (head.rows,), generator=torch.Generator().manual_seed(seed))


def full_logits(head: Projection) -> Tensor:
    """All logits, multiplied out."""
    logits = sum(hidden @ weight.T for hidden, weight in head.pairs)
    logits = (logits if head.bias is None else logits + head.bias) * head.scale
    return logits if head.cap is None else head.cap * torch.tanh(logits / head.cap)


def gradients(values: Tensor, head: Projection) -> list[Tensor]:
    """The gradients of a weighted sum of `values`, by each tensor of `head`; zeros for what it does not depend on."""
    weights = torch.linspace(-1.0, 2.0, values.numel(), dtype=values.dtype).view_as(values)
    found = torch.autograd.grad((values * weights).sum(), head.tensors, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for g, t in zip(found, head.tensors, strict=True)]


def compare(head: Projection, found: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    """Hold values and all gradients against those of the plain form."""
    pairs = [(found, expected), *zip(gradients(found, head), gradients(expected, head), strict=True)]
    for one, other in pairs:
        assert one.shape == other.shape
        scale = float(other.detach().abs().max()) if other.numel() else 0.0
        torch.testing.assert_close(one.double(), other.double(), rtol=0.0, atol=tolerance * max(scale, 1e-3))


FORMS = {
    "plain": {},
    "without bias": {"has_bias": False},
    "scaled": {"scale": 0.0625},
    "capped": {"cap": 3.0},
    "scaled, then capped": {"scale": 0.5, "cap": 2.0, "has_bias": False},
    "adapted": {"is_adapted": True},
    "adapted and capped": {"is_adapted": True, "cap": 4.0},
}


@pytest.mark.parametrize("known", [23, 17, 1])
@pytest.mark.parametrize("form", FORMS)
def test_margin_is_the_plain_one(form: str, known: int) -> None:
    head = projection(7, 23, **FORMS[form])
    expected = plain.margin(full_logits(head), targets_of(head), known)
    for columns in (1, 7 * 8, 7 * 8 * 5, 2**20):  # 1, 1, 5 and all columns at a time
        compare(head, layers.margin(head, known, columns), expected)


@pytest.mark.parametrize("form", FORMS)
def test_token_logp_is_the_plain_one(form: str) -> None:
    head = projection(7, 23, **FORMS[form])
    targets = targets_of(head)
    expected = plain.token_logp(full_logits(head), targets, 17)
    for rows in (1, 23 * 8 * 3, 2**20):  # 1, 3 and all rows at a time
        for kept in (0, 23 * 8 * 4, 2**20):  # none, some and all of them stored
            compare(head, layers.token_logp(head, targets, rows, kept), expected)


CROSS_ENTROPIES = {
    "own without the target": CrossEntropyTo(WithoutTarget()),
    "own without the target, whole": CrossEntropyTo(WithoutTarget(), whole=True),
    "reference": CrossEntropyTo(Reference(), whole=True),
    "reference with a shift": CrossEntropyTo(Reference(shift=10.0)),
}


def cross_entropy_loop(need: CrossEntropyTo, logits: Tensor, targets: Tensor, known: int, other: Tensor) -> Tensor:
    """The cross-entropies, row by row; the target distribution is a constant."""
    rows = logits.shape[1] if need.whole else known
    values = []
    for row, target, reference in zip(logits, targets.tolist(), other, strict=True):
        aim = (row if isinstance(need.target, WithoutTarget) else reference)[:rows].detach().clone()
        if isinstance(need.target, WithoutTarget):
            aim = torch.cat([aim[:target], aim[target + 1 :]])
            logp = torch.log_softmax(row[:rows], dim=0)
            logp = torch.cat([logp[:target], logp[target + 1 :]])
        else:
            if target < rows:
                aim[target] -= need.target.shift
            logp = torch.log_softmax(row[:rows], dim=0)
        values.append(-(aim.exp() / aim.exp().sum() * logp).sum())
    return torch.stack(values)


@pytest.mark.parametrize("form", ["plain", "capped", "adapted"])
@pytest.mark.parametrize("name", CROSS_ENTROPIES)
def test_cross_entropy_is_that_of_a_loop(name: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference has a head and a width of its own."""
    need = CROSS_ENTROPIES[name]
    head, known = projection(6, 19, **FORMS[form]), 15
    reference = projection(6, 19, seed=9, scale=0.5)
    targets = targets_of(head) % known
    other = full_logits(reference)
    expected = cross_entropy_loop(need, full_logits(head), targets, known, other)
    given_plainly = need.plain(full_logits(head), targets, known, other)
    given_reference = reference if need.target.needs_reference else None
    compare(head, given_plainly, expected)
    for rows, kept in ((1, 0), (19 * 8 * 4, 0), (2**20, 0), (1, 2**20)):
        monkeypatch.setattr(layers, "KEPT", kept)
        found = layers.by_rows(need.plain, head, targets, known, given_reference, rows)
        compare(head, found, expected)
    assert all(tensor.grad is None for tensor in reference.tensors)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["moments", "token_logp", "margin"])
def test_any_plain_signal_can_be_read_some_rows_at_a_time(
    name: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "KEPT", 0)
    head = projection(6, 19, **FORMS[form])
    targets = targets_of(head)
    expected = HEAD_SIGNALS[name](full_logits(head), targets, 15)
    compare(head, layers.by_rows(HEAD_SIGNALS[name], head, targets, 15, rows=19 * 8 * 4), expected)


@pytest.mark.parametrize("kept", [0, 2**20])
def test_hits_are_weights_without_a_gradient_of_their_own(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss of the tokens that the model would write, from logits that are stored, and that are computed again."""
    monkeypatch.setattr(layers, "KEPT", kept)
    head = projection(7, 3)
    logits, targets = full_logits(head), targets_of(head)
    hits = layers.signal("is_argmax", head, targets, 3)
    expected = plain.is_argmax(logits, targets, 3)
    assert 0 < expected.sum() < 7
    compare(head, hits * layers.token_logp(head, targets), expected * plain.token_logp(logits, targets, 3))


def test_a_cross_entropy_to_a_reference_that_is_not_there_is_an_error() -> None:
    head = projection(2, 9)
    with pytest.raises(ValueError, match="read without the reference"):
        layers.signal(CrossEntropyTo(Reference()), head, targets_of(head), 9)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rows", [1, 19 * 8 * 4, 2**20])
def test_all_signals_of_one_pass_are_the_plain_ones(form: str, rows: int) -> None:
    head = projection(9, 19, **FORMS[form])
    targets = targets_of(head)
    found = layers.every_signal(head, targets, 15, rows)
    logits = full_logits(head).detach()
    assert found.keys() == HEAD_SIGNALS.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, HEAD_SIGNALS[name](logits, targets, 15), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("columns", [1, 8 * 2 * 2, 2**20])
def test_the_first_of_equal_maxima_takes_the_gradient(columns: int) -> None:
    """Columns 1 and 3 are equal, in one part or in two: the weights of column 1 alone are moved up."""
    weight = torch.tensor([[0.0], [2.0], [1.0], [2.0]], dtype=torch.float64, requires_grad=True)
    hidden = torch.ones(2, 1, dtype=torch.float64, requires_grad=True)
    layers.margin(Projection(((hidden, weight),)), 4, columns).sum().backward()
    assert weight.grad is not None
    assert weight.grad.squeeze(-1).tolist() == [-0.5, 1.5, -0.5, -0.5]


@given(st.integers(0, 6), st.integers(1, 12), st.integers(1, 400), st.sampled_from([*FORMS]), st.integers(0, 10**6))
@settings(max_examples=60)
def test_any_shape_and_any_part(rows: int, columns: int, part: int, form: str, seed: int) -> None:
    head = projection(rows, columns, seed=seed, **FORMS[form])
    targets = targets_of(head, seed)
    logits = full_logits(head)
    known = 1 + seed % columns
    compare(head, layers.margin(head, known, part), plain.margin(logits, targets, known), 1e-11)
    compare(head, layers.token_logp(head, targets, part, part), plain.token_logp(logits, targets, known), 1e-11)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("form", FORMS)
def test_in_every_precision(form: str, dtype: torch.dtype) -> None:
    """Against float64 from the same rounded weights. Near ties in bfloat16 may give another maximum: rows are few."""
    head = projection(5, 40, seed=3, dtype=dtype, **FORMS[form])
    exact = head.of([tensor.detach().double().requires_grad_() for tensor in head.tensors])
    targets = targets_of(head)
    for found, expected in (
        (layers.margin(head, 33, 64), plain.margin(full_logits(exact), targets, 33)),
        (layers.token_logp(head, targets, 200, 400), plain.token_logp(full_logits(exact), targets, 33)),
    ):
        scale = float(expected.detach().abs().max())
        torch.testing.assert_close(found.double(), expected, rtol=0.0, atol=TOLERANCE[dtype] * scale)
        assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        for one, other in zip(gradients(found, head), gradients(expected, exact), strict=True):
            assert one.dtype == dtype
            scale = float(other.detach().abs().max())
            torch.testing.assert_close(one.double(), other, rtol=0.0, atol=2 * TOLERANCE[dtype] * scale)


def test_masked_rows_of_the_vocabulary_have_no_part_in_the_moments() -> None:
    logits = torch.tensor([[1.0, -torch.inf, 2.0]], dtype=torch.float64)
    targets = torch.tensor([2])
    expected = plain.moments(logits[:, [0, 2]], targets, 2)
    torch.testing.assert_close(plain.moments(logits, targets, 3), expected)
    none = torch.zeros(1, 1, dtype=torch.float64)
    masked = Projection(((none, none.expand(3, 1)),), logits[0])
    torch.testing.assert_close(layers.every_signal(masked, targets, 3)["moments"], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])  # the interpreter takes bfloat16 for whole numbers
@pytest.mark.parametrize("cap", [None, 4.0])
def test_the_kernel_finds_what_plain_torch_finds(dtype: torch.dtype, cap: float | None) -> None:
    """In Triton's interpreter, where there is no GPU: 70 rows are two blocks, 5,003 columns 40 parts."""
    pytest.importorskip("triton", reason="Triton is not installed")
    from amnestic.model.kernels import triton_margin

    generator = torch.Generator().manual_seed(0)
    hidden = torch.randint(-3, 4, (70, 72), generator=generator).to(dtype)  # whole numbers: many maxima are equal
    weight = torch.randint(-1, 2, (5003, 72), generator=generator).to(dtype)
    bias = torch.randint(-2, 3, (5003,), generator=generator).to(dtype)
    head = Projection(((hidden, weight),), bias, 0.5, cap)
    assert triton_margin.is_served(head)
    found, expected = triton_margin.search(head, 4999), layers._search(head, 4999, 600)
    assert found[1].tolist() == expected[1].tolist()
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-5)
    if cap is not None:
        torch.testing.assert_close(found[2], expected[2], rtol=1e-3, atol=1e-2)


def test_a_kernel_that_fails_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_failed", [])
    broken = SimpleNamespace(is_served=lambda head: 1 / 0)
    monkeypatch.setitem(sys.modules, "amnestic.model.kernels.triton_margin", broken)
    monkeypatch.setattr(kernels, "triton_margin", broken, raising=False)
    monkeypatch.setattr(layers, "by_triton", choice._try)
    head = projection(5, 9)
    expected = plain.margin(full_logits(head), targets_of(head), 9)
    with pytest.warns(UserWarning, match="failed, plain torch is used: ZeroDivisionError: division by zero"):
        compare(head, layers.margin(head, 9), expected)
    compare(head, layers.margin(head, 9), expected)


def test_what_is_frozen_gets_no_gradient() -> None:
    head = projection(4, 9)
    frozen = head.of([tensor.detach() for tensor in head.tensors])
    hidden = head.pairs[0][0].detach().requires_grad_()
    mixed = Projection(((hidden, frozen.pairs[0][1]),), frozen.bias)
    targets = targets_of(head)
    (layers.margin(mixed, 9).sum() + layers.token_logp(mixed, targets).sum()).backward()
    assert hidden.grad is not None
    assert [tensor.grad for tensor in frozen.tensors] == [None] * 3
    assert not layers.margin(frozen, 9).requires_grad


def test_the_gradient_of_narrow_weights_is_one_tensor_of_their_size() -> None:
    """In bfloat16: five rows share a maximum, and what they bring is added up before it is rounded."""
    weight = torch.zeros(600, 4).index_fill_(0, torch.tensor([7]), 1.0).bfloat16().requires_grad_()
    hidden = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(5, 1).bfloat16().requires_grad_()
    change = torch.tensor([1.0, 2.0**-9, 2.0**-9, 2.0**-9, 2.0**-9])  # lost one by one, since 1 + 2**-9 is 1
    with Largest((5, 600)) as watched:  # the logits, all of them in one part
        (layers.margin(Projection(((hidden, weight),)), 600) * change).sum().backward()
    assert watched.found <= weight.numel()
    assert weight.grad is not None
    total = 1 + 4 * 2.0**-9
    assert weight.grad[7, 0].item() == torch.tensor(total - total / 600).bfloat16().item()
    assert weight.grad[8].tolist() == pytest.approx([-total / 600, 0.0, 0.0, 0.0], rel=1e-2)


def test_a_second_backward_pass_gives_the_same() -> None:
    """The stored logits are written over by the first."""
    head = projection(6, 11)
    loss = layers.token_logp(head, targets_of(head)).sum()
    first, second = (torch.autograd.grad(loss, head.tensors, retain_graph=True) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-14)


class Largest(TorchDispatchMode):
    """Watches how many numbers the largest new tensor holds, but for those of given shapes."""

    def __init__(self, *but: tuple[int, ...]) -> None:
        super().__init__()
        self.but, self.found = but, 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        result = function(*arguments, **(named or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor) and tuple(tensor.shape) not in self.but:
                self.found = max(self.found, tensor.numel())
        return result


ROWS, COLUMNS = 64, 1000


@pytest.mark.parametrize(
    ("layer", "limit"),
    [
        (lambda head, targets: layers.margin(head, COLUMNS, 8 * ROWS * 50), ROWS * 50),
        (lambda head, targets: layers.token_logp(head, targets, 8 * COLUMNS * 4, 0), COLUMNS * 4),
        (
            lambda head, targets: layers.by_rows(plain.moments, head, targets, COLUMNS, rows=8 * COLUMNS * 4),
            COLUMNS * 4,
        ),
    ],
    ids=["margin", "token_logp", "by_rows"],
)
def test_the_logits_never_exist_at_once(
    layer: Callable[..., Tensor], limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward and backward hold one part of them; the gradient of the weights is no logit."""
    monkeypatch.setattr(layers, "KEPT", 0)
    head = projection(ROWS, COLUMNS, has_bias=False)
    with Largest((COLUMNS, WIDTH), (WIDTH, COLUMNS)) as watched:
        layer(head, targets_of(head)).sum().backward()
    assert 0 < watched.found <= limit
    with Largest() as plain_form:
        plain.margin(full_logits(head), targets_of(head), COLUMNS).sum().backward()
    assert plain_form.found == ROWS * COLUMNS


def test_the_margin_multiplies_with_the_vocabulary_once() -> None:
    """Forward: 2 N V D, and the mean row's 2 N D. Backward: nothing of the vocabulary's size, but for 2 N D."""
    head = projection(ROWS, COLUMNS)
    product = 2 * ROWS * COLUMNS * WIDTH
    with FlopCounterMode(display=False) as forward:
        loss = layers.margin(head, COLUMNS).sum()
    assert product <= forward.get_total_flops() <= product + 4 * ROWS * WIDTH
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    assert backward.get_total_flops() <= 4 * ROWS * WIDTH
    with FlopCounterMode(display=False) as plain_form:
        plain.margin(full_logits(head), targets_of(head), COLUMNS).sum().backward()
    assert plain_form.get_total_flops() == 3 * product


def test_token_logp_multiplies_no_more_than_the_plain_form_where_it_keeps_the_logits() -> None:
    head = projection(ROWS, COLUMNS)
    product = 2 * ROWS * COLUMNS * WIDTH
    for kept, products in ((2**30, 3), (0, 4)):
        with FlopCounterMode(display=False) as counted:
            layers.token_logp(head, targets_of(head), kept=kept).sum().backward()
        assert counted.get_total_flops() == products * product
