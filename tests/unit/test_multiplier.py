"""The multiplier's dual step: exactly rate times (value - bound), never below 0."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from amnestic.constraints.multiplier import Bounded, Fixed
from amnestic.constraints.options import MultiplierOptions
from amnestic.constraints.retention import NLL, Retention
from amnestic.errors import InputError
from amnestic.methods.base import Method
from amnestic.methods.flattening import PDU
from amnestic.unlearning import control_of

LOSSES = st.lists(st.floats(0.0, 20.0), min_size=1, max_size=12)


def start(control: Bounded, bound: float, steps_per_epoch: int = 1):
    """Return the multiplier of a float64 problem, so that sums can be compared exactly."""
    multiplier = control.start(bound, steps_per_epoch)
    multiplier.value = multiplier.value.double()
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


@pytest.mark.parametrize("name", ["initial", "rate", "warmup_epochs"])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_options_refuse_what_no_run_could_use(name, value):
    with pytest.raises(
        InputError, match=rf"^--multiplier_{name} is {value}; expected a finite number of at least 0\.$"
    ):
        MultiplierOptions(**{f"multiplier_{name}": value})


class Weighted(Method):
    """A method that is published with a fixed weight."""

    retention = (Retention(NLL(), Fixed(0.5)),)

    def objective(self, model, reference):
        raise NotImplementedError


def test_control_is_the_methods_own():
    assert control_of(PDU(), MultiplierOptions()) == Bounded(rate=5.0, initial=100.0, warmup_epochs=5.0, update="step")


def test_control_of_a_method_with_a_fixed_weight_is_the_plain_multiplier():
    assert control_of(Weighted(), MultiplierOptions()) == Bounded()


@pytest.mark.parametrize(
    ("option", "value"), [("initial", 0.0), ("rate", 0.5), ("warmup_epochs", 0.0), ("update", "epoch")]
)
def test_an_option_replaces_one_field_of_the_control(option, value):
    expected = {"rate": 5.0, "initial": 100.0, "warmup_epochs": 5.0, "update": "step"} | {option: value}
    assert control_of(PDU(), MultiplierOptions(**{f"multiplier_{option}": value})) == Bounded(**expected)
