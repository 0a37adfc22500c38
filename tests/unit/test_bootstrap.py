"""Bootstrap intervals: always the same, against the normal approximation and a loop of draws."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from amnestic.evaluation import bootstrap
from amnestic.evaluation.bootstrap import interval, of_mean, of_ratio


def drawn(size: int) -> np.ndarray:
    """The 1,000 draws of `size` examples that the seed gives, (1000, size)."""
    return np.random.default_rng(bootstrap.SEED).integers(0, size, (bootstrap.RESAMPLES, size))


def test_the_interval_of_a_mean_is_that_of_its_draws() -> None:
    """Draw by draw, then the 2.5th and the 97.5th percentile."""
    values = np.random.default_rng(1).random(37)
    means = [np.mean([values[i] for i in row]) for row in drawn(37).tolist()]
    assert of_mean(values) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])), rel=1e-12)


def test_the_interval_of_a_mean_is_about_the_normal_one() -> None:
    """400 values: 1.96 standard errors to either side, within a tenth of them."""
    values = np.random.default_rng(2).random(400)
    error = values.std() / math.sqrt(400)
    found = of_mean(values)
    assert found == pytest.approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.15 * error)


def test_numerators_and_denominators_are_drawn_together() -> None:
    """A ratio of 3 in each example is 3 in every draw; of 1/2 and 3/1 it is between them."""
    counts = np.array([1.0, 5, 2, 9])
    assert of_ratio(3 * counts, counts) == pytest.approx((3, 3))
    found = of_ratio(np.array([1.0, 3]), np.array([2.0, 1]), np.sqrt)
    assert found == pytest.approx((math.sqrt(1 / 2), math.sqrt(3)))


def test_two_splits_are_drawn_each_by_itself() -> None:
    """The difference of two means: the variances add up, as they would not where the same rows were drawn of both."""
    values = np.random.default_rng(3).random(300)
    low, high = interval(lambda i, j: values[i].mean(-1) - values[j].mean(-1), 300, 300) or (0, 0)
    assert high - low == pytest.approx(2 * 1.96 * values.std() * math.sqrt(2 / 300), rel=0.1)


@pytest.mark.parametrize("statistic", [of_mean, lambda values: of_ratio(values, values + 1)])
def test_one_example_has_no_interval(statistic: Callable[[np.ndarray], object]) -> None:
    assert statistic(np.array([0.5])) is None
    assert statistic(np.array([0.5, 0.5])) is not None


@pytest.mark.parametrize("odd", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_has_no_interval(odd: float) -> None:
    assert of_mean(np.array([1.0, odd, 2.0])) is None
    assert of_ratio(np.array([1.0, odd, 2.0]), np.ones(3)) is None


def test_the_same_values_have_the_same_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice, and whatever memory holds at once; equal values in another order have the same up to what was drawn."""
    values = np.random.default_rng(4).random(50)
    found = of_mean(values)
    assert of_mean(values) == found
    monkeypatch.setattr(bootstrap, "DRAWN_AT_ONCE", 333)
    assert of_mean(values) == pytest.approx(found, rel=1e-12)
