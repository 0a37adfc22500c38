"""The public OpenUnlearning code's conventions, each by hand where it differs from ours."""

import math
from typing import Any

import numpy as np
import pytest

from amnestic.evaluation.metric import METRICS, Measurement

VARIANTS = [name for name in METRICS.names() if "_ou" in name]


def bits(text: str) -> list[bool]:
    return [letter == "1" for letter in text]


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_take_part_where_they_are_named(name: str) -> None:
    """Beside each stands ours, by the name without ``_ou``."""
    assert METRICS.get(name).on_request
    assert METRICS.get(name.replace("_ou", "")) is not METRICS.get(name)
    assert "OpenUnlearning" in METRICS.get(name).source


@pytest.mark.parametrize(
    ("hits", "theirs", "ours"),
    [
        ("11111", 1, 1),
        ("00000", 1 / 4, 0),  # of the first four none: 1/n'
        ("11100", 1 / 4, 0),  # the last of four is wrong
        ("00011", 1 / 4, 1 / 4),
        ("01111", 3 / 4, 3 / 4),
        ("01", 1, 0),  # one token, wrong: k stops at n' - 1 = 0
        ("11", 1, 1),
    ],
)
def test_extraction_strength_never_reaches_0(table: Any, hits: str, theirs: float, ours: float) -> None:
    """The last of the tokens is the closing one and left out; the loop over prefixes ends with n' - 1 tokens."""
    answers = table([-1.0] * len(hits), hits=[bits(hits)])
    assert METRICS.get("extraction_strength_ou")("forget").compute(answers=answers).value == pytest.approx(theirs)
    assert METRICS.get("extraction_strength")("forget").compute(answers=answers).value == pytest.approx(ours)


def test_the_last_scored_token_is_left_out_even_of_a_cut_answer(table: Any) -> None:
    """1 1 0 without an end: theirs reads 1 1, ours all three. Of one token theirs leaves nothing, which counts 0."""
    answers = table([-1.0] * 3, [-1.0], hits=[bits("110"), bits("1")], closes=[False, False])
    assert METRICS.get("extraction_strength_ou")("s").compute(answers=answers).per_example.tolist() == [1, 0]
    assert METRICS.get("extraction_strength")("s").compute(answers=answers).per_example.tolist() == [0, 1]


def test_min_k_leaves_the_last_token_out(table: Any) -> None:
    """log p of -1, -2, -6, -3, -9 without the last: int(0.4 * 4) = 1 token, -6; ours reads -9 and -6. 0 for one token.

    int(0.29 * 100) is 28 there, since the product is 28.999999999999996.
    """
    answers = table([-1, -2, -6, -3, -9], [-4.0])
    assert METRICS.get("mia.min_k_ou.auc")().scores(answers) == pytest.approx([6, 0])
    assert METRICS.get("mia.min_k.auc")().scores(answers) == pytest.approx([7.5, 4])
    assert METRICS.get("mia.min_k_ou.auc")(0.29).count(100) == 28


def test_min_k_plus_plus_leaves_the_last_token_out(table: Any) -> None:
    """Standardised with mean -1 and deviation 2: 0, -1/2, -1 and, left out, -4; int(0.4 * 3) = 1 of them is read."""
    answers = table([-1, -2, -3, -9], [-4.0], moments=[[-1.0, 5.0]] * 5)
    assert METRICS.get("mia.min_k_plus_plus_ou.auc")().scores(answers) == pytest.approx([1, 0])
    assert METRICS.get("mia.min_k_plus_plus.auc")().scores(answers) == pytest.approx([4, 1.5])


def test_privleak_divides_by_a_little_more() -> None:
    """1 - AUC of 0.1 against 0.5; and of 0.5 against 0, where ours has no value: 0.5 / 1e-10 in percent."""
    metric = METRICS.get("privleak_ou")()
    assert metric.compute(Measurement(0.9), Measurement(0.5)).value == pytest.approx(-40 / (0.5 + 1e-10), rel=1e-12)
    assert metric.compute(Measurement(0.5), Measurement(1.0)).value == pytest.approx(5e11, rel=1e-12)
    assert metric.needs()["model"].key == "mia.min_k_ou.auc"
    assert metric.needs()["retrained"].metric.key == "mia.min_k_ou.auc"


def test_truth_ratios_of_models_that_give_answers_almost_nothing(losses: Any) -> None:
    """P(right) = 1e-12, wrong ones 1e-12: R = 1 for us, and 1e-12 / (1e-12 + 1e-10) = 1/101 there."""
    far = -math.log(1e-12)
    right, wrong = losses([far, 0.0]), losses([far, far, 800.0], example=[0, 0, 1])
    theirs = METRICS.get("truth_ratio_ou")("forget").compute(right=right, wrong=wrong)
    nothing = math.exp(-800.0) / (1 + 1e-10)
    assert theirs.per_example == pytest.approx([1 / 101, nothing], rel=1e-9)
    assert theirs.value == pytest.approx((1 / 101 + nothing) / 2, rel=1e-9)
    kept = METRICS.get("truth_ratio_ou")("retain").compute(right=right, wrong=wrong)
    assert kept.value == pytest.approx((100 / 101 + 1) / 2, rel=1e-9)
    ours = METRICS.get("truth_ratio")("forget").compute(right=right, wrong=wrong)
    assert ours.per_example[0] == pytest.approx(1, rel=1e-9)


def test_a_truth_ratio_above_1_is_turned_round(losses: Any) -> None:
    """R = 1/2 / (1/4 + 1e-10), so 1 / (R + 1e-10)."""
    found = METRICS.get("truth_ratio_ou")("forget").compute(
        right=losses([math.log(4)]), wrong=losses([math.log(2)], example=[0])
    )
    ratio = 0.5 / (0.25 + 1e-10)
    assert found.value == pytest.approx(1 / (ratio + 1e-10), rel=1e-12)


def test_the_probability_among_wrong_answers_falls_to_0(losses: Any) -> None:
    """1/4 among 1/4 + 1/4 + 1e-10; and 1e-20 among 2e-20 + 1e-10, which is 1/2 for us."""
    far = -math.log(1e-20)
    read = {"answers": losses([math.log(4), far]), "wrong": losses([math.log(4), far], example=[0, 1])}
    theirs = METRICS.get("normalized_probability_ou")("real_authors").compute(**read)
    assert theirs.per_example == pytest.approx([0.25 / (0.5 + 1e-10), 1e-20 / (2e-20 + 1e-10)], rel=1e-9)
    ours = METRICS.get("normalized_probability")("real_authors").compute(**read)
    assert ours.per_example == pytest.approx([0.5, 0.5], rel=1e-9)


def test_what_is_made_of_variants_reads_variants() -> None:
    quality, utility = METRICS.get("forget_quality_ou")(), METRICS.get("model_utility_ou")()
    assert quality.needs()["model"].key == "forget.truth_ratio_ou"
    assert quality.needs()["retrained"].metric.key == "forget.truth_ratio_ou"
    ours = METRICS.get("model_utility")().needs()
    changed = {name: item.key for name, item in utility.needs().items() if item != ours[name]}
    assert changed == {
        "retain_truth_ratio": "retain.truth_ratio_ou",
        "real_authors_truth_ratio": "real_authors.truth_ratio_ou",
        "world_facts_truth_ratio": "world_facts.truth_ratio_ou",
        "real_authors_probability": "real_authors.normalized_probability_ou",
        "world_facts_probability": "world_facts.normalized_probability_ou",
    }
    values = np.array([0.5, 2.0])
    assert quality.compute(Measurement(0.5, values), Measurement(0.5, values)).value == 1
