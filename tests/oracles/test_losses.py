"""Losses and head signals against hand calculations and float64 loops over single numbers."""

import math

import pytest
import torch
from torch import Tensor

from amnestic import losses
from amnestic.model.head import HEAD_SIGNALS, CrossEntropyTo, Reference, is_argmax, margin, moments, token_logp

ROWS, VOCABULARY = 12, 97
TOLERANCE = {torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 2e-6, torch.float16: 2e-6}
"""Relative; logits in half precision are widened before anything is computed, so they are as good as float32."""


def random_logits(dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(ROWS, VOCABULARY, generator=generator, dtype=torch.float64)
    return logits.to(dtype).requires_grad_(), torch.randint(VOCABULARY, (ROWS,), generator=generator)


def no_targets(logits: Tensor) -> Tensor:
    return torch.zeros(len(logits), dtype=torch.int64)


def margin_loss(logits: Tensor, vocabulary: int) -> Tensor:
    return losses.flattening(margin(logits, no_targets(logits), vocabulary))


def margin_loop(row: list[float]) -> tuple[float, list[float]]:
    """Return the squared margin of one row of logits and its gradient, 2 m (1[first maximum] - 1/V)."""
    highest = max(range(len(row)), key=lambda k: (row[k], -k))
    m = row[highest] - math.fsum(row) / len(row)
    return m * m, [2 * m * ((k == highest) - 1 / len(row)) for k in range(len(row))]


def logp_loop(row: list[float]) -> list[float]:
    """Return the log-probabilities of the softmax of one row."""
    highest = max(row)
    total = highest + math.log(math.fsum(math.exp(z - highest) for z in row))
    return [z - total for z in row]


def test_margin_loss_by_hand() -> None:
    """Logits 1, 4, 2, 1: max 4, mean 2, loss 4; gradient 2 * 2 * ((0, 1, 0, 0) - 1/4) = (-1, 3, -1, -1)."""
    logits = torch.tensor([[1.0, 4.0, 2.0, 1.0]], requires_grad=True)
    loss = margin_loss(logits, 4)
    loss.sum().backward()
    assert loss.tolist() == [4.0]
    assert logits.grad.tolist() == [[-1.0, 3.0, -1.0, -1.0]]


def test_first_of_equal_maxima_takes_the_gradient() -> None:
    """Logits 3, 0, 3, 2: mean 2, margin 1; gradient 2 ((1, 0, 0, 0) - 1/4), whatever the order of the tied entries."""
    logits = torch.tensor([[3.0, 0.0, 3.0, 2.0], [0.0, 3.0, 2.0, 3.0]], requires_grad=True)
    margin_loss(logits, 4).sum().backward()
    assert logits.grad.tolist() == [[1.5, -0.5, -0.5, -0.5], [-0.5, 1.5, -0.5, -0.5]]


def test_rows_that_the_tokenizer_does_not_know_are_left_out_of_the_margin() -> None:
    """Of 5 rows the tokenizer knows 4: the fifth, the highest, neither counts nor moves."""
    logits = torch.tensor([[1.0, 4.0, 2.0, 1.0, 100.0]], requires_grad=True)
    loss = margin_loss(logits, 4)
    loss.sum().backward()
    assert loss.tolist() == [4.0]
    assert logits.grad.tolist() == [[-1.0, 3.0, -1.0, -1.0, 0.0]]


@pytest.mark.parametrize("value", [0.0, 1.5, -64.0])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_equal_logits_have_no_margin_and_no_gradient(dtype: torch.dtype, value: float) -> None:
    logits = torch.full((2, VOCABULARY), value, dtype=dtype, requires_grad=True)
    loss = margin_loss(logits, VOCABULARY)
    loss.sum().backward()
    assert loss.tolist() == [0.0, 0.0]
    assert not logits.grad.any()


@pytest.mark.parametrize("vocabulary", [VOCABULARY, 90])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_margin_loss_and_gradient_equal_a_loop(dtype: torch.dtype, vocabulary: int) -> None:
    logits, _ = random_logits(dtype)
    loss = margin_loss(logits, vocabulary)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert loss.dtype == wide
    expected = [margin_loop(row[:vocabulary]) for row in logits.double().tolist()]
    assert loss.tolist() == pytest.approx([value for value, _ in expected], rel=TOLERANCE[dtype])
    loss.sum().backward()
    gradient = torch.tensor([[*row, *[0.0] * (VOCABULARY - vocabulary)] for _, row in expected], dtype=torch.float64)
    # a gradient is rounded to the precision of the logits on its way out, by at most half a unit in the last place
    torch.testing.assert_close(
        logits.grad.double(), gradient, rtol=max(TOLERANCE[dtype], torch.finfo(dtype).eps / 2), atol=0
    )


def test_a_shift_of_all_logits_leaves_the_margin_loss_as_it_is() -> None:
    """(max z - mean z)^2 does not change when a constant is added to all logits."""
    logits, _ = random_logits(torch.float64)
    torch.testing.assert_close(margin_loss(logits + 7, VOCABULARY), margin_loss(logits, VOCABULARY), rtol=1e-12, atol=0)


@pytest.mark.parametrize("vocabulary", [VOCABULARY, 90])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_token_logp_equals_a_loop_over_the_full_softmax(dtype: torch.dtype, vocabulary: int) -> None:
    logits, targets = random_logits(dtype, seed=1)
    rows = [logp_loop(row) for row in logits.double().tolist()]
    expected = [row[target] for row, target in zip(rows, targets.tolist(), strict=True)]
    found = token_logp(logits, targets, vocabulary)
    assert found.tolist() == pytest.approx(expected, rel=TOLERANCE[dtype], abs=TOLERANCE[dtype])
    assert losses.nll(found).tolist() == pytest.approx([-p for p in expected], rel=TOLERANCE[dtype], abs=1e-6)


def test_token_logp_gradient_is_one_hot_minus_probabilities() -> None:
    logits, targets = random_logits(torch.float64, seed=2)
    token_logp(logits, targets, VOCABULARY).sum().backward()
    expected = [
        [(k == target) - math.exp(p) for k, p in enumerate(logp_loop(row))]
        for row, target in zip(logits.tolist(), targets.tolist(), strict=True)
    ]
    torch.testing.assert_close(logits.grad, torch.tensor(expected, dtype=torch.float64), rtol=1e-11, atol=1e-15)


def test_moments_by_hand() -> None:
    """Four equal logits: -log 4 and its square. Probabilities 3/4 and 1/4: log p is log 3 - log 4 or -log 4."""
    uniform = torch.full((1, 4), 2.0)
    uneven = torch.tensor([[math.log(3.0), 0.0]])
    log_4, log_3 = math.log(4), math.log(3)
    assert moments(uniform, no_targets(uniform), 4)[0].tolist() == pytest.approx([-log_4, log_4**2], rel=1e-6)
    second = 0.75 * (log_3 - log_4) ** 2 + 0.25 * log_4**2
    assert moments(uneven, no_targets(uneven), 2)[0].tolist() == pytest.approx([0.75 * log_3 - log_4, second], rel=1e-6)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_moments_equal_a_loop(dtype: torch.dtype) -> None:
    logits, targets = random_logits(dtype, seed=3)
    rows = [logp_loop(row) for row in logits.double().tolist()]
    expected = [[math.fsum(math.exp(p) * p**power for p in row) for power in (1, 2)] for row in rows]
    found = moments(logits, targets, 90)
    torch.testing.assert_close(
        found.double(), torch.tensor(expected, dtype=torch.float64), rtol=max(1e-12, TOLERANCE[dtype]), atol=0.0
    )


def test_argmax_is_the_first_of_equal_maxima() -> None:
    logits = torch.tensor([[3.0, 0.0, 3.0], [3.0, 0.0, 3.0], [0.0, 5.0, 1.0]])
    assert is_argmax(logits, torch.tensor([0, 2, 1]), 3).tolist() == [1.0, 0.0, 1.0]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", HEAD_SIGNALS)
def test_signals_are_float32_or_wider(name: str, dtype: torch.dtype) -> None:
    logits, targets = random_logits(dtype)
    found = HEAD_SIGNALS[name](logits, targets, VOCABULARY)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert found.shape == ((ROWS, 2) if name == "moments" else (ROWS,))


def test_sums_and_means_by_answer_by_hand() -> None:
    """Tokens 1, 10, 2, 20, 30 of answers 0, 1, 0, 1, 1; a gradient of 1 in a mean is 1/n in each of its n tokens."""
    values = torch.tensor([1.0, 10.0, 2.0, 20.0, 30.0], requires_grad=True)
    row = torch.tensor([0, 1, 0, 1, 1])
    assert losses.summed_by_answer(values, row, 2).tolist() == [3.0, 60.0]
    means = losses.mean_by_answer(values, row, 2)
    means.sum().backward()
    assert means.tolist() == [1.5, 20.0]
    assert values.grad.tolist() == pytest.approx([1 / 2, 1 / 3, 1 / 2, 1 / 3, 1 / 3], rel=1e-7)


def test_weights_of_tokens_by_hand() -> None:
    """p = 1/4: p^1.5 = 1/8 and (3/4)^2 = 9/16; both are constants, whatever the gradient of log p is."""
    logp = torch.tensor([math.log(0.25)], dtype=torch.float64, requires_grad=True)
    saturated, important = losses.saturation(logp, 1.5), losses.importance(logp, 2.0)
    assert [saturated.item(), important.item()] == pytest.approx([1 / 8, 9 / 16], rel=1e-12)
    assert not saturated.requires_grad
    assert not important.requires_grad


@pytest.mark.parametrize("lead", [-1e4, -80.0, 0.0, 80.0, 1e4])
def test_a_preference_is_exact_far_from_its_bend(lead: float) -> None:
    """-2/beta log sigma(beta x) is 2/beta log 2 at 0, goes to 0 on the right, and to -2 x on the left."""
    x = torch.tensor([lead], requires_grad=True)
    value = losses.preference(x, 0.5)
    value.backward()
    left, slope = {-1: (-2 * lead, -2.0), 0: (4 * math.log(2), -1.0), 1: (0.0, 0.0)}[(lead > 0) - (lead < 0)]
    assert value.item() == pytest.approx(left, rel=1e-6, abs=1e-16)
    assert x.grad.item() == pytest.approx(slope, rel=1e-6, abs=1e-16)


def test_the_divergence_is_0_of_equal_distributions_and_by_hand() -> None:
    """q = 3/4, 1/4 and p = 1/2, 1/2: KL(q || p) = 3/4 log 3/2 + 1/4 log 1/2."""
    q, p = torch.tensor([[0.75, 0.25]], dtype=torch.float64), torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    need = CrossEntropyTo(Reference(), whole=True)
    targets = torch.zeros(1, dtype=torch.int64)
    mean_logp = moments(q.log(), targets, 2)[:, 0]
    found = losses.divergence(need.plain(p.log(), targets, 2, q.log()), mean_logp)
    assert found.item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), rel=1e-12)
    same = losses.divergence(need.plain(q.log(), targets, 2, q.log()), mean_logp)
    assert same.item() == pytest.approx(0.0, abs=1e-15)


def test_distances_by_hand() -> None:
    """(1 - 0)^2, (2 - 4)^2, mean 5/2; one row for all stands for each; bfloat16 is widened before it is squared."""
    rows = torch.tensor([[1.0, 2.0], [0.0, 4.0]])
    other = torch.tensor([0.0, 4.0])
    assert losses.distance(rows, other).tolist() == [2.5, 0.0]
    assert losses.distance(rows, other.expand(2, 2)).tolist() == [2.5, 0.0]
    fine = torch.tensor([[1.0, 1.0078125]]).bfloat16()  # the square of the second is no bfloat16
    assert losses.distance(fine, torch.zeros(2).bfloat16()).tolist() == [(1.0 + 1.0078125**2) / 2]
