"""The primal-dual step on problems whose primal and dual solutions are known."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from amnestic.constraints.multiplier import Bounded, Fixed, Multiplier
from amnestic.training.optimizer import Optimizer
from amnestic.training.options import TrainingOptions
from amnestic.training.step import step

Term = Callable[[Tensor], Tensor]


class Toy:
    """An objective and its constraints as functions of one vector x, each counted once; a batch holds nothing."""

    def __init__(self, start: Sequence[float], *terms: Term) -> None:
        self.x = torch.tensor(start, dtype=torch.float64, requires_grad=True)
        self.terms = terms

    def counts(self, batch: None) -> list[int]:
        return [1] * len(self.terms)

    def values(self, batch: None) -> Tensor:
        return torch.stack([term(self.x) for term in self.terms])


class Regression:
    """Mean of (x - a)^2 over numbers a, and mean of b x over numbers b; a batch is a pair of lists."""

    def __init__(self) -> None:
        self.x = torch.zeros((), dtype=torch.float64, requires_grad=True)

    def counts(self, batch: tuple[list[float], list[float]]) -> list[int]:
        return [len(numbers) for numbers in batch]

    def values(self, batch: tuple[list[float], list[float]]) -> Tensor:
        a, b = (torch.tensor(numbers, dtype=torch.float64) for numbers in batch)
        return torch.stack([(self.x - a).square().sum(), (self.x * b).sum()])


class Readings(TorchDispatchMode):
    """Counts how often a tensor's value is read back to the host."""

    count = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*arguments, **(keywords or {}))


def descent(objective: Toy | Regression, learning_rate: float) -> Optimizer:
    """Return plain gradient descent."""
    options = TrainingOptions(
        optim="sgd", adam_beta1=0.0, weight_decay=0.0, max_grad_norm=0.0, learning_rate=learning_rate
    )
    return Optimizer([objective.x], options)


def test_scalar_problem_reaches_its_primal_and_dual_solution() -> None:
    """min (x - 3)^2 subject to x <= 1.

    The constraint is active, so x = 1; stationarity 2 (x - 3) + lambda = 0 gives lambda = 4.
    """
    toy = Toy([0.0], lambda x: (x[0] - 3) ** 2, lambda x: x[0])
    optimizer = descent(toy, 0.1)
    multiplier = Bounded(rate=0.5, initial=0.0).start(bound=1.0, steps_per_epoch=1)
    for _ in range(400):
        step(toy, [None], [multiplier], optimizer)
    assert toy.x.item() == pytest.approx(1.0, abs=1e-9)
    assert float(multiplier.value) == pytest.approx(4.0, abs=1e-9)


def test_slack_constraint_lets_the_multiplier_fall_to_zero() -> None:
    """min (x - 3)^2 subject to x <= 5: the unconstrained minimum x = 3 is feasible, so lambda = 0 (complementarity)."""
    toy = Toy([0.0], lambda x: (x[0] - 3) ** 2, lambda x: x[0])
    optimizer = descent(toy, 0.1)
    multiplier = Bounded(rate=0.5, initial=2.0).start(bound=5.0, steps_per_epoch=1)
    for _ in range(300):
        step(toy, [None], [multiplier], optimizer)
    assert toy.x.item() == pytest.approx(3.0, abs=1e-9)
    assert float(multiplier.value) == 0.0


@pytest.mark.parametrize("initial", [0.0, 3.0])
def test_quadratic_programme_reaches_its_kkt_point(initial: float) -> None:
    """min x^2 + x y + y^2 - 5 x - 4 y subject to x + y <= 2 and x - y <= 3.

    Without constraints the gradient (2x + y - 5, x + 2y - 4) vanishes at (2, 1), where x + y = 3 violates the first and
    x - y = 1 holds the second. With the first active and the second not: 2x + y - 5 + lambda = 0 and
    x + 2y - 4 + lambda = 0 give x - y = 1; with x + y = 2 that is x = 3/2, y = 1/2, lambda = 5 - 7/2 = 3/2. The second
    constraint is slack (1 < 3), so its multiplier is 0. The programme is strictly convex: this is the only KKT point.
    """
    toy = Toy(
        [4.0, -2.0],
        lambda x: x[0] ** 2 + x[0] * x[1] + x[1] ** 2 - 5 * x[0] - 4 * x[1],
        lambda x: x[0] + x[1],
        lambda x: x[0] - x[1],
    )
    optimizer = descent(toy, 0.1)
    control = Bounded(rate=0.2, initial=initial)
    multipliers = [control.start(bound, steps_per_epoch=1) for bound in (2.0, 3.0)]
    for _ in range(800):
        step(toy, [None], multipliers, optimizer)
    assert toy.x.tolist() == pytest.approx([1.5, 0.5], abs=1e-9)
    assert [float(m.value) for m in multipliers] == pytest.approx([1.5, 0.0], abs=1e-9)


def test_two_steps_by_hand() -> None:
    """The gradient takes the multiplier from before the step, the multiplier the loss from before the move.

    f = (x - 3)^2, g = x, bound 1, rate 1/2, learning rate 1/10, from x = 0 and lambda = 2. First step: gradient
    2 (0 - 3) + 2 = -4, so x = 0.4; lambda = 2 + (0 - 1)/2 = 1.5. Second: gradient 2 (0.4 - 3) + 1.5 = -3.7, so
    x = 0.77; lambda = 1.5 + (0.4 - 1)/2 = 1.2.
    """
    toy = Toy([0.0], lambda x: (x[0] - 3) ** 2, lambda x: x[0])
    optimizer = descent(toy, 0.1)
    multiplier = Bounded(rate=0.5, initial=2.0).start(bound=1.0, steps_per_epoch=1)
    means, norm, _ = step(toy, [None], [multiplier], optimizer)
    assert means.tolist() == [9.0, 0.0]
    assert norm.item() == pytest.approx(4.0)
    assert toy.x.item() == pytest.approx(0.4)
    assert float(multiplier.value) == pytest.approx(1.5)
    means, norm, _ = step(toy, [None], [multiplier], optimizer)
    assert means.tolist() == pytest.approx([2.6**2, 0.4])
    assert norm.item() == pytest.approx(3.7)
    assert toy.x.item() == pytest.approx(0.77)
    assert float(multiplier.value) == pytest.approx(1.2)


def test_gradients_do_not_leak_into_the_next_step() -> None:
    """With lambda 0 the step is gradient descent on (x - 3)^2: x - 3 shrinks by 1 - 2/10 a step."""
    toy = Toy([0.0], lambda x: (x[0] - 3) ** 2, lambda x: x[0])
    optimizer = descent(toy, 0.1)
    for count in range(1, 6):
        step(toy, [None], [Fixed(0.0).start(0.0, 1)], optimizer)
        assert toy.x.item() == pytest.approx(3 - 3 * 0.8**count)


@pytest.mark.parametrize(
    "batches",
    [
        [([1.0, 2.0, 6.0], [5.0, 7.0])],
        [([1.0, 2.0, 6.0], []), ([], [5.0, 7.0])],
        [([1.0], [5.0]), ([2.0, 6.0], [7.0])],
        [([6.0], []), ([2.0], [7.0]), ([], []), ([1.0], []), ([], [5.0])],
    ],
)
def test_means_run_over_the_whole_step_however_it_was_cut(batches: list[tuple[list[float], list[float]]]) -> None:
    """At x = 0: mean a^2 = 41/3 with gradient -2 mean a = -6; mean b x = 0 with gradient mean b = 6, times lambda 2."""
    problem = Regression()
    means, norm, _ = step(problem, batches, [Fixed(2.0).start(0.0, 1)], descent(problem, 1.0))
    assert means.tolist() == pytest.approx([41 / 3, 0.0], abs=1e-14)
    assert norm.item() == pytest.approx(6.0)
    assert problem.x.item() == pytest.approx(-(-6.0 + 2 * 6.0))


def test_term_without_units_in_a_step_is_zero_and_moves_nothing() -> None:
    problem = Regression()
    means, *_ = step(problem, [([2.0], [])], [Fixed(3.0).start(0.0, 1)], descent(problem, 0.5))
    assert means.tolist() == [4.0, 0.0]
    assert problem.x.item() == pytest.approx(2.0)


def test_step_without_constraints_is_descent() -> None:
    toy = Toy([0.0], lambda x: (x[0] - 3) ** 2)
    means, norm, _ = step(toy, [None], [], descent(toy, 0.25))
    assert (means.tolist(), norm.item(), toy.x.item()) == ([9.0], 6.0, 1.5)


@pytest.mark.parametrize(("epochs", "warm_steps"), [(0.0, 0), (1.0, 4), (1.5, 6), (2.0, 8)])
def test_warm_start_keeps_the_multiplier_for_exactly_its_steps(epochs: float, warm_steps: int) -> None:
    """A constraint g = x with x far above its bound raises lambda at every step in which it may move."""
    toy = Toy([50.0], lambda x: 0.0 * x[0], lambda x: x[0])
    optimizer = descent(toy, 1e-3)
    multiplier = Bounded(rate=0.25, initial=2.0, warmup_epochs=epochs).start(bound=1.0, steps_per_epoch=4)
    values = []
    for _ in range(12):
        step(toy, [None], [multiplier], optimizer)
        values.append(float(multiplier.value))
    assert values[:warm_steps] == [2.0] * warm_steps
    moves = [later - before for before, later in zip([2.0, *values[warm_steps:]], values[warm_steps:], strict=False)]
    assert len(moves) == 12 - warm_steps
    assert all(11.0 < move < 12.3 for move in moves)  # rate times (nearly 50 - 1)


def test_primal_step_uses_the_multiplier_during_the_warm_start() -> None:
    toy = Toy([0.0], lambda x: 0.0 * x[0], lambda x: x[0])
    optimizer = descent(toy, 0.5)
    multiplier = Bounded(rate=1.0, initial=3.0, warmup_epochs=2.0).start(bound=-1.0, steps_per_epoch=1)
    step(toy, [None], [multiplier], optimizer)
    assert toy.x.item() == -1.5
    assert float(multiplier.value) == 3.0


def test_update_by_epoch_takes_the_mean_of_the_epochs_steps() -> None:
    """x falls by learning rate times lambda = 1/4 a step: values 4, 3.75, 3.5 | 3.25, 2.5, 1.75 | ...

    With bound 1 and rate 2 the first epoch of three gives lambda = 1 + 2 (3.75 - 1) = 6.5. The second starts at
    4 - 3/4 = 3.25 and falls by 6.5/4 = 1.625 a step: mean 3.25 - 1.625 = 1.625, so lambda = 6.5 + 2 (0.625) = 7.75.
    """
    toy = Toy([4.0], lambda x: 0.0 * x[0], lambda x: x[0])
    optimizer = descent(toy, 0.25)
    multiplier = Bounded(rate=2.0, initial=1.0, update="epoch").start(bound=1.0, steps_per_epoch=3)
    values = []
    for _ in range(6):
        step(toy, [None], [multiplier], optimizer)
        values.append(float(multiplier.value))
    assert values == pytest.approx([1.0, 1.0, 6.5, 6.5, 6.5, 7.75])


@pytest.mark.parametrize("update", ["step", "epoch"])
def test_nothing_is_read_back_to_the_host(update: str) -> None:
    toy = Toy([0.0, 1.0], lambda x: (x - 3).square().sum(), lambda x: x.sum())
    optimizer = descent(toy, 0.1)
    multipliers: list[Multiplier] = [Bounded(initial=2.0, update=update).start(1.0, steps_per_epoch=2)]
    with Readings() as readings:
        for _ in range(3):
            step(toy, [None, None], multipliers, optimizer)
    assert readings.count == 0
    with Readings() as readings:  # the counter itself can tell
        toy.x.sum().item()
    assert readings.count == 1
