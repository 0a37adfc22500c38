"""The multiplier's dual step: exactly rate times (value - bound), never below 0."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor

from amnestic.constraints.multiplier import Bounded, Fixed
from amnestic.constraints.options import MultiplierOptions
from amnestic.constraints.retention import NLL, Retention
from amnestic.errors import InputError
from amnestic.methods.base import Method
from amnestic.methods.flattening import PDU
from amnestic.model.signals import Needs
from amnestic.retaining import control_of

LOSSES = st.lists(st.floats(0.0, 20.0), min_size=1, max_size=12)


def start(control: Bounded, bound: float, steps_per_epoch: int = 1):
    """Return the multiplier of a float64 problem, so that sums can be compared exactly."""
    multiplier = control.start(bound, steps_per_epoch)
    multiplier.value, multiplier.integral = multiplier.value.double(), multiplier.integral.double()
    return multiplier


@given(LOSSES, st.floats(0.0, 10.0), st.floats(0.0, 5.0), st.floats(0.0, 200.0))
def test_each_step_moves_by_rate_times_residual_and_stops_at_zero(losses, rate, bound, initial):
    multiplier = start(Bounded(rate=rate, initial=initial), bound)
    expected = multiplier.value.item()
    for loss in losses:
        multiplier.update(torch.tensor(loss, dtype=torch.float64))
        expected = max(0.0, expected + rate * (loss - bound))
        assert multiplier.value.item() == pytest.approx(expected, rel=1e-14, abs=1e-14)


@given(LOSSES, st.integers(1, 4), st.integers(0, 12))
def test_update_by_epoch_moves_at_the_end_of_whole_epochs_after_the_warm_start(losses, period, warm):
    multiplier = start(Bounded(rate=0.5, initial=3.0, warmup_epochs=warm / period, update="epoch"), 1.0, period)
    expected = 3.0
    for done, loss in enumerate(losses, start=1):
        multiplier.update(torch.tensor(loss, dtype=torch.float64))
        if done % period == 0 and done > warm:
            expected = max(0.0, expected + 0.5 * (sum(losses[done - period : done]) / period - 1.0))
        assert multiplier.value.item() == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("period", [1, 3])
def test_a_step_without_a_token_of_what_is_held_does_not_move_it(period):
    """By hand: of three steps the second has none; an epoch's mean is that of the two others, (2 + 6) / 2."""
    update = "epoch" if period == 3 else "step"
    multiplier = start(Bounded(rate=0.5, initial=3.0, update=update), 1.0, period)
    found = []
    for loss, is_measured in ((2.0, True), (0.0, False), (6.0, True)):
        multiplier.update(torch.tensor(loss, dtype=torch.float64), torch.tensor(is_measured))
        found.append(multiplier.value.item())
    assert found == ([3.5, 3.5, 6.0] if period == 1 else [3.0, 3.0, 4.5])


def test_an_epoch_without_a_token_of_what_is_held_does_not_move_it():
    multiplier = start(Bounded(rate=0.5, initial=3.0, update="epoch"), 1.0, 2)
    for _ in range(2):
        multiplier.update(torch.tensor(0.0, dtype=torch.float64), torch.tensor(False))
    assert multiplier.value.item() == 3.0


def test_zero_is_left_again_once_the_constraint_is_violated():
    multiplier = start(Bounded(rate=2.0, initial=1.0), 1.0)
    values = []
    for loss in (0.0, 0.0, 1.5, 1.0):
        multiplier.update(torch.tensor(loss))
        values.append(multiplier.value.item())
    assert values == [0.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize("bound", [0.0, 1.5, math.inf])
def test_fixed_weight_does_not_move(bound):
    multiplier = Fixed(2).start(bound, steps_per_epoch=3)
    for _ in range(7):
        multiplier.update(torch.tensor(9.0))
    assert multiplier.value.item() == 2.0
    assert multiplier.value.is_floating_point()


def test_no_graph_is_kept_over_the_steps():
    loss = torch.ones((), requires_grad=True)
    multiplier = Bounded(update="epoch").start(0.5, steps_per_epoch=3)
    for _ in range(2):
        multiplier.update(loss * 2)
    assert not multiplier.pending.requires_grad
    multiplier.update(loss * 2)
    assert not multiplier.value.requires_grad


def moves(control: Bounded, losses: list[float | None], bound: float = 2.0, steps_per_epoch: int = 1) -> list[float]:
    """Return the weight behind each step; a loss of None is that of a step without a token of what is held."""
    multiplier = start(control, bound, steps_per_epoch)
    found = []
    for loss in losses:
        multiplier.update(torch.tensor(loss or 0.0, dtype=torch.float64), torch.tensor(loss is not None))
        found.append(multiplier.value.item())
    return found


def test_a_multiplicative_step_by_hand():
    """The bound is 2: residuals 1/2, -1 and none; the weight is 3 e^(0.4 / 2), then that times e^-0.4, then stays."""
    control = Bounded(rate=0.4, initial=3.0, kind="multiplicative")
    expected = [3 * math.exp(0.2), 3 * math.exp(-0.2), 3 * math.exp(-0.2)]
    assert moves(control, [2.5, 1.0, None]) == pytest.approx(expected, rel=1e-14)


def test_one_multiplicative_step_is_at_most_a_factor_e_and_stops_short_of_zero():
    """Residuals of 98 and -2 times a rate of 5: exponents of 490 and -10, each cut to 1; then down to 3 / 1000."""
    control = Bounded(rate=5.0, initial=3.0, kind="multiplicative")
    found = moves(control, [100.0, 100.0, *[0.0] * 9, 100.0])
    assert found[:3] == pytest.approx([3 * math.e, 3 * math.e**2, 3 * math.e], rel=1e-14)
    assert found[-2:] == pytest.approx([3e-3, 3e-3 * math.e], rel=1e-14)


def test_a_multiplicative_weight_stays_finite_for_ever():
    control = Bounded(rate=5.0, initial=3.0, kind="multiplicative")
    assert moves(control, [100.0] * 60)[-1] == 1e12


def test_a_normalized_residual_is_in_units_of_the_bound():
    """The bound is 2: a loss of 5 is 3/2 of it too much, one of 1 half of it too little."""
    assert moves(Bounded(rate=2.0, initial=1.0, normalized=True), [5.0, 1.0]) == [4.0, 3.0]
    assert moves(Bounded(rate=2.0, initial=1.0), [5.0, 1.0]) == [7.0, 5.0]


def test_proportional_control_adds_the_latest_residual_by_hand():
    """Integral 1 + 0.5 r: 1.5, then 0.5, 0, 0 and 0.5, where the bound is 2. To it is added 2 r, and never below 0."""
    control = Bounded(rate=0.5, initial=1.0, proportional=2.0)
    assert moves(control, [3.0, 0.0, 0.0, None, 3.0]) == [1.5 + 2.0, 0.0, 0.0, 0.0, 0.5 + 2.0]


def test_the_warm_start_holds_the_weight_whatever_moves_it():
    """Two epochs of two steps: the fifth step is the first to move it, by its own residual alone."""
    for control, moved in (
        (Bounded(rate=0.5, initial=1.0, warmup_epochs=2.0, proportional=1.0), 1.0 + 0.5 + 1.0),
        (Bounded(rate=0.5, initial=1.0, warmup_epochs=2.0, kind="multiplicative"), math.exp(0.5)),
    ):
        assert moves(control, [9.0, 9.0, 9.0, 9.0, 3.0], steps_per_epoch=2) == pytest.approx([1.0] * 4 + [moved])


def test_an_epochs_update_is_by_the_mean_of_its_steps_whatever_moves_it():
    """Losses 2 and 4, mean residual 1; then one of two steps is measured, with a residual of -1."""
    losses = [2.0, 4.0, None, 1.0]
    found = moves(Bounded(rate=0.5, initial=1.0, proportional=1.0, update="epoch"), losses, steps_per_epoch=2)
    assert found == [1.0, 1.5 + 1.0, 2.5, 1.0 - 1.0]
    found = moves(Bounded(rate=0.5, kind="multiplicative", update="epoch"), losses, steps_per_epoch=2)
    assert found == pytest.approx([1.0, math.exp(0.5), math.exp(0.5), 1.0])


def test_a_cap_holds_the_weight_and_counts_the_steps_in_which_it_did():
    """Rate 1, cap 3, warm for one step. Residuals 1, 1, 1, none, -1, 1: the weights would be 2, 3, 4, 4, 2, 3."""
    multiplier = start(Bounded(rate=1.0, initial=1.0, cap=3.0, warmup_epochs=1.0), 2.0)
    found = []
    for loss in (9.0, 3.0, 3.0, 3.0, None, 1.0, 3.0):
        multiplier.update(torch.tensor(loss or 0.0, dtype=torch.float64), torch.tensor(loss is not None))
        found.append((multiplier.value.item(), int(multiplier.capped)))
    assert found == [(1.0, 0), (2.0, 0), (3.0, 0), (3.0, 1), (3.0, 2), (2.0, 2), (3.0, 2)]
    assert multiplier.ends == {"final": 3.0, "cap_binds": pytest.approx(2 / 6)}
    assert multiplier.caution(" of general") == (
        "the cap of 3 held the multiplier of general in 2 of 6 steps: the bound asked for more than it may pull; raise "
        "--multiplier_cap."
    )


def test_a_cap_holds_both_parts_of_the_weight():
    """Rate 1, proportional 2, cap 3: 2 + 2 is cut to 3; the integral 3 is at its own cap, and 3 - 2 is below it."""
    multiplier = start(Bounded(rate=1.0, initial=1.0, cap=3.0, proportional=2.0), 2.0)
    found = []
    for loss in (3.0, 3.5, 1.0):
        multiplier.update(torch.tensor(loss, dtype=torch.float64))
        found.append((multiplier.integral.item(), multiplier.value.item(), int(multiplier.capped)))
    assert found == [(2.0, 3.0, 1), (3.0, 3.0, 2), (2.0, 0.0, 2)]


def test_without_a_cap_there_is_nothing_to_say_of_it():
    multiplier = start(Bounded(), 0.0)
    multiplier.update(torch.tensor(9.0, dtype=torch.float64))
    assert (multiplier.ends, multiplier.caution()) == ({"final": 10.0}, "")


KINDS = {
    "ascent": Bounded(rate=0.2, initial=1.0),
    "normalized": Bounded(rate=0.2, initial=1.0, normalized=True),
    "multiplicative": Bounded(rate=0.1, initial=1.0, kind="multiplicative", normalized=True),
    "proportional": Bounded(rate=0.2, initial=1.0, proportional=1.0),
    "capped": Bounded(rate=0.2, initial=1.0, cap=6.0),
    "by epoch": Bounded(rate=0.2, initial=1.0, update="epoch"),
}


def solve(control: Bounded, bound: float, steps: int = 800) -> tuple[Tensor, float]:
    """Minimize x^2 + y^2 where (x - 3)^2 + (y - 4)^2 <= `bound`; return the point and the weight at the end."""
    point, centre = torch.zeros(2, dtype=torch.float64), torch.tensor([3.0, 4.0], dtype=torch.float64)
    multiplier = start(control, bound, steps_per_epoch=2)
    for _ in range(steps):
        residual = point - centre
        gradient = 2 * point + multiplier.value * 2 * residual
        multiplier.update(residual.square().sum())
        point = point - 0.1 * gradient / (1 + multiplier.value)
    return point, multiplier.value.item()


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_finds_the_primal_and_the_dual_solution(kind):
    """The centre is 5 away from the least of the objective, and the circle around it has the radius 1.

    So the least within is 4/5 of the centre, where 2 p + lambda 2 (p - c) = 0 says lambda = 4/5 : 1/5 = 4.
    """
    point, dual = solve(KINDS[kind], 1.0)
    assert point.tolist() == pytest.approx([2.4, 3.2], abs=1e-3)
    assert dual == pytest.approx(4.0, abs=2e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_lets_go_of_a_bound_that_does_not_bind(kind):
    """A radius of 6 holds the least of the objective: it is found, with a dual of 0, or next to it."""
    point, dual = solve(KINDS[kind], 36.0)
    assert point.tolist() == pytest.approx([0.0, 0.0], abs=5e-3)
    assert dual == pytest.approx(0.0, abs=1e-3)


def test_a_cap_below_the_dual_solution_is_reached_and_told():
    """With a weight of 1 the least of the sum is half of the centre: the bound asks for 4, and does not get it."""
    control = Bounded(rate=0.2, initial=0.5, cap=1.0)
    point, dual = solve(control, 1.0)
    assert (point.tolist(), dual) == (pytest.approx([1.5, 2.0], abs=1e-6), 1.0)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"kind": "multiplicative", "initial": 0.0},
            "--multiplier_initial is 0; expected a number above 0, since a multiplicative step multiplies it.",
        ),
        (
            {"kind": "multiplicative", "proportional": 1.0},
            (
                "--multiplier_proportional is 1, and goes with the ascent alone; give --multiplier_kind ascent, or "
                "leave it out."
            ),
        ),
        ({"cap": 0.5}, "--multiplier_initial is 1, above --multiplier_cap 0.5; expected at most that."),
    ],
)
def test_values_that_contradict_each_other_are_refused(values, sentence):
    with pytest.raises(InputError) as caught:
        Bounded(**values)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("kind", KINDS)
def test_a_multiplier_goes_on_from_its_state(kind):
    """Seven steps, or three, a file, and four: the same to the last bit."""
    losses = [torch.tensor(loss) for loss in (3.0, 5.0, 0.5, 9.0, 1.0, 4.0, 2.5)]
    control = replace(KINDS[kind], cap=2.0)
    whole, first, second = (control.start(2.0, 2) for _ in range(3))
    for loss in losses:
        whole.update(loss, torch.tensor(True))
    for loss in losses[:3]:
        first.update(loss, torch.tensor(True))
    second.restore(load(save(first.state)), first.steps)
    for loss in losses[3:]:
        second.update(loss, torch.tensor(True))
    assert second.steps == whole.steps
    assert second.state.keys() == whole.state.keys()
    assert all(torch.equal(second.state[name], value) for name, value in whole.state.items())
    assert second.ends == whole.ends


@pytest.mark.parametrize("name", ["initial", "rate", "warmup_epochs"])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_options_refuse_what_no_run_could_use(name, value):
    with pytest.raises(
        InputError, match=rf"^--multiplier_{name} is {value}; expected a finite number of at least 0\.$"
    ):
        MultiplierOptions(**{f"multiplier_{name}": value})


class Weighted(Method):
    """A method that is published with a fixed weight, and has a multiplier of its own under a bound."""

    needs = Needs()
    retention = (Retention(NLL(), Fixed(0.5)),)
    bounded = Bounded(rate=0.1, initial=2.0, kind="multiplicative", normalized=True, cap=50.0)

    def objective(self, model, reference):
        raise NotImplementedError


def test_control_is_the_methods_own():
    assert control_of(PDU(), MultiplierOptions()) == Bounded(rate=5.0, initial=100.0, warmup_epochs=5.0, update="step")


def test_control_of_a_method_with_a_fixed_weight_is_its_own_for_bounds():
    assert control_of(Weighted(), MultiplierOptions()) == Weighted.bounded
    assert control_of(Weighted(), MultiplierOptions(multiplier_cap="none")) == replace(Weighted.bounded, cap=None)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("initial", 0.0),
        ("rate", 0.5),
        ("warmup_epochs", 0.0),
        ("update", "epoch"),
        ("kind", "multiplicative"),
        ("normalized", True),
        ("proportional", 0.25),
        ("cap", 300.0),
    ],
)
def test_an_option_replaces_one_field_of_the_control(option, value):
    expected = {"rate": 5.0, "initial": 100.0, "warmup_epochs": 5.0, "update": "step"} | {option: value}
    assert control_of(PDU(), MultiplierOptions(**{f"multiplier_{option}": value})) == Bounded(**expected)
