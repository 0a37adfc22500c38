"""The learning rate's course against transformers' schedules."""

import pytest
import torch
from transformers import get_scheduler

from amnestic.training.schedule import factor

KINDS = ["linear", "cosine", "constant", "constant_with_warmup"]


def reference(kind: str, total: int, warmup: int) -> list[float]:
    """Return the factors of ``transformers.get_scheduler`` for steps 0 to `total` - 1."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = get_scheduler(kind, optimizer, num_warmup_steps=warmup, num_training_steps=total)
    factors = []
    for _ in range(total):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return factors


@pytest.mark.parametrize(("total", "warmup"), [(20, 0), (20, 5), (20, 1), (7, 7), (1, 0), (9, 8), (5, 12)])
@pytest.mark.parametrize("kind", KINDS)
def test_course_is_that_of_transformers_one_step_ahead_in_the_warm_up(kind, total, warmup):
    found = [factor(kind, step, total, warmup) for step in range(total)]
    expected = reference(kind, total, warmup)
    if kind != "constant":
        ahead = reference(kind, max(total, warmup) + 2, warmup)[1:]
        expected = [ahead[step] if step < warmup else expected[step] for step in range(total)]
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_linear_by_hand():
    """Two steps of warm-up, then four steps down: 1/2, 1 | 1, 3/4, 1/2, 1/4."""
    assert [factor("linear", step, 6, 2) for step in range(6)] == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]


def test_cosine_by_hand():
    """Half a period over four steps: (1 + cos(k pi / 4)) / 2."""
    half = 2**0.5 / 4
    expected = [1.0, 0.5 + half, 0.5, 0.5 - half]
    assert [factor("cosine", step, 4, 0) for step in range(4)] == pytest.approx(expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("warmup", [0, 1, 3])
def test_every_step_moves_the_weights(kind, warmup):
    assert all(0 < factor(kind, step, 10, warmup) <= 1 for step in range(10))
