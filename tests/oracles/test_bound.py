"""Bounds by hand, the upper limit against enumeration and a plain bootstrap, and the verdict that follows."""

import itertools
import math

import numpy as np
import pytest

from amnestic.constraints.bound import Bound, Probe, Reached, Sums, upper_limit
from amnestic.constraints.options import BoundOptions
from amnestic.errors import InputError


def sums(values: list[float], counts: list[int] | None = None) -> Sums:
    counts = [1] * len(values) if counts is None else counts
    return Sums(np.array(values, dtype=np.float64), np.array(counts, dtype=np.int64))


def measured(seed: int, examples: int = 120) -> tuple[Sums, Sums]:
    """Return (losses, reference): answers of 3 to 30 tokens whose losses differ far more than they rose."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(3, 31, examples)
    before = rng.gamma(1.0, 0.5, examples)
    after = before + rng.normal(0.02, 0.01, examples)
    return Sums(after * counts, counts), Sums(before * counts, counts)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, Bound("keep", 0.98)),
        ({"keep": 0.9}, Bound("keep", 0.9)),
        ({"alpha": 0.5}, Bound("alpha", 0.5)),
        ({"bound": 0.3}, Bound("bound", 0.3)),
    ],
)
def test_options_become_one_bound(options, expected):
    assert Bound.of(BoundOptions(**options)) == expected


def test_values_by_hand():
    """keep 1/2 allows log 2 more; alpha 1/2 half of the loss more; a bound stands as it is, today's loss included.

    keep speaks of exp(-L), the geometric mean probability of a token: exp(-(L + log 2)) is half of exp(-L).
    """
    assert Bound("keep", 0.5).value(0.25) == pytest.approx(0.25 + math.log(2), rel=1e-15)
    assert math.exp(-Bound("keep", 0.98).value(0.7)) == pytest.approx(0.98 * math.exp(-0.7), rel=1e-15)
    assert Bound("keep", 0.98).value(0.0) == pytest.approx(0.020202707, rel=1e-7)
    assert Bound("alpha", 0.5).value(0.2) == pytest.approx(0.3, rel=1e-15)
    assert Bound("bound", 0.3).value(0.2) == 0.3
    assert Bound("bound", 0.3).value(0.3) == 0.3


def test_bound_below_todays_loss_is_refused_with_the_measured_value():
    with pytest.raises(InputError) as caught:
        Bound("bound", 0.05).value(0.123456789)
    assert str(caught.value) == (
        "--bound is 0.05 nats a token, but the model's loss on the retain probe is 0.123457 before unlearning; "
        "expected a bound above that, or give --keep 0.98."
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"keep": 1.0}, "--keep is 1.0; expected a share between 0 and 1, such as 0.98."),
        ({"keep": 0.0}, "--keep is 0.0; expected a share between 0 and 1, such as 0.98."),
        ({"keep": 98.0}, "--keep is 98.0; expected a share between 0 and 1, such as 0.98."),
        ({"keep": math.nan}, "--keep is nan; expected a share between 0 and 1, such as 0.98."),
        ({"alpha": 0.0}, "--alpha is 0.0; expected a finite number above 0."),
        ({"alpha": math.inf}, "--alpha is inf; expected a finite number above 0."),
        ({"bound": -0.1}, "--bound is -0.1; expected finite nats a token, above 0."),
        ({"bound": math.inf}, "--bound is inf; expected finite nats a token, above 0."),
        ({"probe_size": 0}, "--probe_size is 0; expected at least 1 example."),
        ({"keep": 0.9, "bound": 0.3}, "--keep and --bound were given; expected one of --keep, --alpha, --bound."),
        ({"alpha": 0.9, "bound": 0.3}, "--alpha and --bound were given; expected one of --keep, --alpha, --bound."),
    ],
)
def test_options_that_no_run_could_use_are_refused(options, sentence):
    with pytest.raises(InputError) as caught:
        BoundOptions(**options)
    assert str(caught.value) == sentence


def test_mean_runs_over_tokens_not_over_examples():
    """Token losses 1 | 4, 4, 4: mean 13/4, where the mean of the examples' means would be 5/2."""
    found = sums([0.0, 0.0], [0, 0])
    found.add(np.array([1, 0, 1, 1]), np.array([4.0, 1.0, 4.0, 4.0]))
    assert found.sums.tolist() == [1.0, 12.0]
    assert found.counts.tolist() == [1, 3]
    assert found.mean == 3.25


def test_upper_limit_by_enumeration():
    """Three examples with losses 0, 0, 1 a token and 1, 1, 2 tokens: 27 equally likely resamples.

    With k copies of the third the mean is 2k / (3 + k): 0, 1/2, 4/5, 1 with 8, 12, 6, 1 of the 27 cases. At most 4/5 in
    26/27 = 0.963 of them and at most 1/2 in 0.741, so the 95 % quantile is 4/5.
    """
    values, counts = [0.0, 0.0, 2.0], [1, 1, 2]
    draws = [
        sum(values[i] for i in chosen) / sum(counts[i] for i in chosen)
        for chosen in itertools.product(range(3), repeat=3)
    ]
    assert np.quantile(draws, 0.95, method="inverted_cdf") == pytest.approx(0.8)
    assert upper_limit(sums(values, counts), None) == pytest.approx(0.8, rel=1e-15)


def test_paired_upper_limit_by_enumeration():
    """Before 3, 7, 5 and after 3, 7, 7 (tokens 1, 1, 2): the rises are 0, 0, 2, those of the test above.

    So the limit is the reference's mean 15/4 plus 4/5, however far apart the examples are.
    """
    after, before = sums([3.0, 7.0, 7.0], [1, 1, 2]), sums([3.0, 7.0, 5.0], [1, 1, 2])
    assert upper_limit(after, before) == pytest.approx(15 / 4 + 0.8, rel=1e-15)


def resampled(seed: int, counts: np.ndarray, *values: np.ndarray) -> np.ndarray:
    """Return 10,000 bootstrap means of the first of `values`, less those of the others; examples are drawn singly."""
    drawn = np.random.default_rng([1, seed]).integers(0, len(counts), (10_000, len(counts)))
    first, *others = [value[drawn].sum(axis=1) / counts[drawn].sum(axis=1) for value in values]
    return first - sum(others)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_limits_agree_with_drawing_examples_one_by_one(seed):
    """The 95 % quantile of R draws has a standard error of 0.021 s for R = 10,000 and a spread of s; allowed: 0.1 s."""
    losses, reference = measured(seed)
    alone = resampled(seed, losses.counts, losses.sums)
    assert upper_limit(losses, None) == pytest.approx(np.quantile(alone, 0.95), abs=0.1 * alone.std())
    paired = resampled(seed, losses.counts, losses.sums, reference.sums)
    high = reference.mean + np.quantile(paired, 0.95)
    assert upper_limit(losses, reference) == pytest.approx(high, abs=0.1 * paired.std())
    assert paired.std() < alone.std() / 20  # what both share cancels


def test_limit_is_the_same_each_time_and_lies_above_the_mean():
    losses, _ = measured(5)
    assert upper_limit(losses, None) == upper_limit(losses, None)
    assert losses.mean < upper_limit(losses, None) < losses.mean + 0.2


@pytest.mark.parametrize("values", [[0.7], [0.7, 0.7, 0.7]])
def test_without_variation_the_limit_is_the_mean(values):
    """One example, or examples that are all alike: every resample has the same mean."""
    assert upper_limit(sums(values), None) == pytest.approx(0.7, rel=1e-15)
    assert upper_limit(sums(values), sums([0.2] * len(values))) == pytest.approx(0.7, rel=1e-15)


def test_unchanged_losses_hold_a_paired_bound_exactly():
    _, reference = measured(3)
    reached = Probe(Bound("keep", 0.98), reference, whole_split=False).judge(reference)
    assert reached.upper_limit == reached.reached == reference.mean
    assert reached.holds
    assert reached.violation == pytest.approx(math.log(0.98), rel=1e-12)


@pytest.mark.parametrize("bound", [Bound("keep", 0.9), Bound("alpha", 0.2)])
def test_keep_and_alpha_are_judged_in_pairs(bound):
    losses, reference = measured(4)
    reached = Probe(bound, reference, whole_split=False).judge(losses)
    assert reached.upper_limit == upper_limit(losses, reference)
    assert reached.violation == reached.upper_limit - bound.value(reference.mean)


def test_nats_a_token_are_judged_without_the_reference():
    losses, reference = measured(4)
    reached = Probe(Bound("bound", 0.9), reference, whole_split=False).judge(losses)
    assert reached.upper_limit == upper_limit(losses, None)


def test_held_on_average_but_not_with_confidence_is_not_held():
    """Losses 0 and 1 in equal parts: mean 1/2; a bound of 0.52 is above it, and below the limit (spread 1/20 or so)."""
    losses = sums([0.0, 1.0] * 50)
    probe = Probe(Bound("bound", 0.52), sums([0.0] * 100), whole_split=False)
    reached = probe.judge(losses)
    assert reached.reached == 0.5
    assert reached.upper_limit == pytest.approx(0.5 + 1.645 * 0.05, abs=0.01)
    assert not reached.holds
    assert reached.violation == reached.upper_limit - 0.52


def test_over_a_whole_split_the_mean_decides():
    losses, reference = sums([0.0, 1.0] * 50), sums([0.0] * 100)
    reached = Probe(Bound("bound", 0.52), reference, whole_split=True).judge(losses)
    assert reached.holds
    assert reached.violation == pytest.approx(-0.02)
    assert reached.upper_limit > 0.52
    reached = Probe(Bound("bound", 0.49), reference, whole_split=True).judge(losses)
    assert not reached.holds
    assert reached.violation == pytest.approx(0.01)


def test_loss_at_the_bound_holds_it():
    reached = Probe(Bound("bound", 0.5), sums([0.5]), whole_split=False).judge(sums([0.5]))
    assert reached.holds
    assert reached.violation == 0.0


def test_losses_that_are_no_numbers_hold_nothing():
    probe = Probe(Bound("bound", 0.5), sums([0.1, 0.2]), whole_split=True)
    assert not probe.judge(sums([math.nan, 0.1])).holds


def test_record_keeps_every_field():
    assert Reached(0.1, 0.2, True, -0.3).record == {
        "reached": 0.1,
        "upper_limit": 0.2,
        "holds": True,
        "violation": -0.3,
    }
