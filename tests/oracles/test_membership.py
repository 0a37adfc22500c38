"""Membership attacks: scores by hand, areas against scikit-learn and a count of pairs, PrivLeak by hand."""

import math
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from amnestic.evaluation.collect import suite
from amnestic.evaluation.metric import METRICS, Contents, Measurement, UndefinedError
from amnestic.evaluation.metrics.membership import compressed, separation, standardised
from amnestic.evaluation.needs import GradientNorm, Likelihood, OfRetrained, why_missing

CONTENTS = Contents(
    {"forget": frozenset({"answer"}), "holdout": frozenset({"answer"}), "retain": frozenset({"answer"})}
)
ATTACKS = [name for name in METRICS.names() if name.startswith("mia.")]
SCORES = st.lists(st.sampled_from([0.0, 0.25, 1.0, 2.5, 7.0]), min_size=1, max_size=30)


def attack(name: str, **settings: Any) -> Any:
    return METRICS.get(name)(**settings)


# Areas


@given(SCORES, SCORES)
def test_the_area_is_the_share_of_pairs(members: list[float], others: list[float]) -> None:
    """P(member's score < non-member's) + P(equal) / 2, pair by pair, and scikit-learn's area of the negated scores."""
    pairs = [(a < b) + (a == b) / 2 for a in members for b in others]
    found = separation(np.array(members), np.array(others)).value
    assert found == pytest.approx(math.fsum(pairs) / len(pairs), abs=1e-12)
    labels = [1] * len(members) + [0] * len(others)
    assert found == pytest.approx(roc_auc_score(labels, [-score for score in members + others]), abs=1e-12)


@pytest.mark.parametrize(("sizes", "shift"), [((400, 400), 0.5), ((40, 400), -0.2), ((7, 3), 0)])
def test_the_area_is_scikit_learn_s(sizes: tuple[int, int], shift: float) -> None:
    random = np.random.default_rng(5)
    members, others = random.normal(0, 1, sizes[0]), random.normal(shift, 2, sizes[1])
    labels = np.repeat([0, 1], sizes)
    found = separation(members, others)
    assert found.value == pytest.approx(roc_auc_score(labels, np.concatenate([members, others])), abs=1e-12)
    assert found.per_example is members
    assert found.others["holdout"] is others
    assert found.interval is not None
    assert found.interval[0] < found.value < found.interval[1]


def test_areas_by_hand() -> None:
    """Members that are all below: 1; all above: 0; all equal: 1/2; infinite scores are ranked."""
    low, high = np.array([1.0, 2.0]), np.array([3.0, math.inf, math.inf])
    assert separation(low, high).value == 1
    assert separation(high, low).value == 0
    assert separation(low[:1].repeat(4), low[:1].repeat(3)).value == 1 / 2
    assert separation(high, high).value == 1 / 2


def test_a_score_that_is_no_number_is_told() -> None:
    with pytest.raises(UndefinedError, match="some examples have no score"):
        separation(np.array([1.0, math.nan]), np.array([1.0]))


# Scores


def test_scores_by_hand(table: Any) -> None:
    """log p of -1, -2, -6, -3, -4: the mean is -3.2, that of the lowest floor(0.4 * 5) = 2 is -5; one token is its own.

    zlib of "ab" takes 10 bytes: 2 of header, 4 of checksum, 4 of one literal block.
    """
    answers = table([-1, -2, -6, -3, -4], [-0.5], answers=["ab", ""])
    assert attack("mia.loss.auc").scores(answers) == pytest.approx([3.2, 0.5])
    assert attack("mia.zlib.auc").scores(answers) == pytest.approx([0.32, 0.5 / 8])
    assert attack("mia.min_k.auc").scores(answers) == pytest.approx([5, 0.5])
    assert attack("mia.min_k.auc", k=0.2).scores(answers) == pytest.approx([6, 0.5])
    assert attack("mia.min_k.auc", k=1.0).scores(answers) == pytest.approx([3.2, 0.5])
    assert attack("mia.min_k.auc", k=0.01).scores(answers) == pytest.approx([6, 0.5])


def test_texts_of_any_script_are_compressed() -> None:
    assert compressed("時計 ⏰") == len(zlib.compress("時計 ⏰".encode()))
    assert compressed("\ud800") == len(zlib.compress(b"\xed\xa0\x80")), "half a character, as some files hold"


@pytest.mark.parametrize(("k", "n", "count"), [(0.4, 5, 2), (0.4, 4, 1), (0.4, 1, 1), (0.29, 100, 29), (1.0, 7, 7)])
def test_the_number_of_tokens_that_min_k_reads(k: float, n: int, count: int) -> None:
    """floor(k n), at least 1, whatever the product is rounded to: 0.29 * 100 is 28.999999999999996."""
    assert attack("mia.min_k.auc", k=k).count(n) == count


def test_standardised_tokens_by_hand(table: Any) -> None:
    """p = 1/2, 1/4, 1/4: log p has the mean -3/2 log 2 and the variance (log 2)^2 / 4; so +1 for the first, -1 else.

    A distribution that is certain has no variance: it is taken as 1e-6, its standard deviation as 1e-3.
    """
    two = math.log(2)
    moments = [[-1.5 * two, 2.5 * two**2]] * 2 + [[-0.002, 0.000004]]
    answers = table([-two, -2 * two], [-0.001], moments=moments)
    assert standardised(answers) == pytest.approx([1, -1, 1], rel=1e-9)
    found = attack("mia.min_k_plus_plus.auc", k=0.5).scores(answers)
    assert found == pytest.approx([1, -1], rel=1e-9)


def test_min_k_plus_plus_against_a_loop_over_all_logits(table: Any) -> None:
    """Random logits of 17 tokens: log p, its mean and its standard deviation under p, one number at a time."""
    random = np.random.default_rng(11)
    counts, logp, moments, expected = [5, 1, 12, 3], [], [], []
    for count in counts:
        scores = []
        row = []
        for logits in random.normal(0, 3, (count, 17)).tolist():
            total = math.log(math.fsum(map(math.exp, logits)))
            known = [value - total for value in logits]
            mean = math.fsum(math.exp(value) * value for value in known)
            deviation = math.sqrt(max(math.fsum(math.exp(value) * (value - mean) ** 2 for value in known), 1e-6))
            scores.append((known[4] - mean) / deviation)
            row.append(known[4])
            moments.append([mean, math.fsum(math.exp(value) * value**2 for value in known)])
        lowest = sorted(scores)[: max(1, math.floor(0.4 * count))]
        expected.append(-math.fsum(lowest) / len(lowest))
        logp.append(row)
    found = attack("mia.min_k_plus_plus.auc").scores(table(*logp, moments=moments))
    assert found == pytest.approx(expected, rel=1e-9)


# Attacks


@pytest.mark.parametrize("name", ["mia.loss.auc", "mia.zlib.auc", "mia.min_k.auc", "mia.min_k_ou.auc"])
def test_an_attack_compares_its_scores(table: Any, name: str) -> None:
    """Three members and two others of which one is better known than the worst member: 5 of 6 pairs."""
    members = table([-0.1, -0.2], [-0.2, -0.3], [-3, -2], answers=["abc"] * 3)
    others = table([-1, -2], [-5, -4], answers=["abc"] * 2)
    found = attack(name).compute(members=members, non_members=others)
    assert found.value == pytest.approx(5 / 6)
    assert found.per_example == pytest.approx(attack(name).scores(members))
    assert found.others["holdout"] == pytest.approx(attack(name).scores(others))


def test_the_gradient_norm_and_the_reference_by_hand(losses: Any) -> None:
    """Norms 1 and 4 of members, 2 and 3 of others: 2 of 4 pairs.

    Losses of members fell by 3 and 1, those of others by 2 and 0: 3 - 2, 3 - 0 and 1 - 0, so 3 of 4.
    """
    found = attack("mia.grad_norm.auc").compute(members=np.array([1.0, 4]), non_members=np.array([2.0, 3]))
    assert found.value == 1 / 2
    tables = {
        "members": losses([1.0, 2]),
        "members_before": losses([4.0, 3]),
        "non_members": losses([0.5, 9]),
        "non_members_before": losses([2.5, 9]),
    }
    found = attack("mia.reference.auc").compute(**tables)
    assert found.value == 3 / 4
    assert found.per_example == pytest.approx([-3, -1])
    assert found.others["holdout"] == pytest.approx([-2, 0])


@pytest.mark.parametrize("name", [*ATTACKS, "privleak"])
def test_members_are_the_forget_texts_where_there_are_any(name: str) -> None:
    """The key stays; so does what is compared with the retrained model."""
    contents = replace(CONTENTS, answers={**CONTENTS.answers, "forget_texts": frozenset({"answer"})})
    found = next(iter(METRICS.get(name).instances(contents)))
    assert found.key == name
    assert found.members == "forget_texts"
    read = found.attack() if name == "privleak" else found
    assert read.rows == "forget_texts"
    assert {need.split for need in read.needs().values()} == {"forget_texts", "holdout"}


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_read_forget_and_holdout(name: str) -> None:
    """Without a holdout the reason says so; without a forget split nobody looks for an attack."""
    (found,) = METRICS.get(name).instances(CONTENTS)
    assert found.key == name
    assert {need.split for need in found.needs().values()} == {"forget", "holdout"}
    bare = Contents({"forget": frozenset({"answer"})}, has_reference=True)
    assert "give --holdout" in str(why_missing(found, bare))
    assert list(METRICS.get(name).instances(Contents({"data": frozenset({"answer"})}))) == []


def test_some_attacks_are_for_those_who_ask() -> None:
    asked = {name for name in ATTACKS if METRICS.get(name).on_request}
    assert asked == {"mia.grad_norm.auc", "mia.min_k_ou.auc", "mia.min_k_plus_plus_ou.auc"}
    assert attack("mia.grad_norm.auc").needs()["members"] == GradientNorm("forget")
    reference = Likelihood("forget", reader="reference")
    assert attack("mia.reference.auc").needs()["members_before"] == reference
    assert "there is no reference" in str(why_missing(attack("mia.reference.auc"), CONTENTS))


# PrivLeak


@pytest.mark.parametrize(
    ("model", "retrained", "expected"), [(0.9, 0.5, -80), (0.5, 0.5, 0), (0.25, 0.5, 50), (1, 0.75, -100)]
)
def test_privleak_by_hand(model: float, retrained: float, expected: float) -> None:
    """1 - AUC of 0.1 against 0.5: 100 (0.1 - 0.5) / 0.5 = -80, under-unlearned. The interval turns round."""
    found = attack("privleak").compute(
        model=Measurement(model, interval=(model - 0.1, model + 0.05)), retrained=Measurement(retrained)
    )
    assert found.value == pytest.approx(expected)
    scale = 100 / (1 - retrained)
    assert found.interval == pytest.approx((expected - 0.05 * scale, expected + 0.1 * scale))


def test_privleak_reads_both_models() -> None:
    needs = attack("privleak").needs()
    instead = "the raw AUC, mia.min_k.auc, is given instead"
    assert needs == {"model": attack("mia.min_k.auc"), "retrained": OfRetrained(attack("mia.min_k.auc"), instead)}
    assert attack("privleak").key == "privleak"
    reason = str(why_missing(attack("privleak"), CONTENTS))
    assert reason.startswith("there is no retrained model; give --retrained")
    assert reason.endswith(instead)
    bare = Contents({"forget": frozenset({"answer"})})
    assert "instead" not in str(why_missing(attack("privleak"), bare)), "without a holdout there is no AUC either"


@pytest.mark.parametrize("name", ["privleak", "privleak_ou"])
def test_the_raw_auc_stands_in_for_privleak(name: str) -> None:
    """Whoever asks for PrivLeak alone has the AUC where there is no retrained model, and nothing more beside one."""
    alone = suite(CONTENTS, [name])
    raw = attack(name).attack().key
    assert [item.key for item in alone.metrics] == [raw]
    assert f"the raw AUC, {raw}, is given instead" in alone.not_computed[name]
    assert [item.key for item in suite(replace(CONTENTS, retrained=frozenset({raw})), [name]).metrics] == [name]


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ([0.0, 0.1, 0.2, 0.3], -100),  # all members below all others, as of an unchanged model: (0.5 - 1) / 0.5
        ([0.0, 0.1, 0.2, 4.0], -50),  # 12 of 16 pairs
        ([1.0, 2.0, 2.0, 3.0], 0),  # the retrained model's own scores
        ([4.0, 0.0, 5.0, 6.0], 50),  # 4 of 16 pairs
        ([7.0, 8.0, 9.0, 9.0], 100),  # all members above all others
    ],
)
def test_privleak_of_constructed_areas(members: list[float], expected: float) -> None:
    """Beside a retrained model that cannot tell its own 1, 2, 2, 3 from others: an AUC of 1/2.

    Below 0 the members still look seen, above they stand out as unseen; the retrained model itself is at exactly 0.
    """
    others = np.array([1.0, 2.0, 2.0, 3.0])
    retrained = separation(others.copy(), others)
    assert retrained.value == 1 / 2
    found = attack("privleak").compute(model=separation(np.array(members), others), retrained=retrained)
    assert found.value == pytest.approx(expected, abs=0)


@pytest.mark.parametrize("area", [0.05, 0.3, 0.5, 0.731, 0.99])
def test_privleak_of_the_retrained_model_is_exactly_0(area: float) -> None:
    """Whatever its area; an unchanged model that tells members with an area of 0.999 is strongly negative beside it."""
    assert attack("privleak").compute(model=Measurement(area), retrained=Measurement(area)).value == 0
    unchanged = attack("privleak").compute(model=Measurement(0.999), retrained=Measurement(area))
    assert unchanged.value == pytest.approx(100 * (0.001 / (1 - area) - 1), rel=1e-9)
    assert unchanged.value < -85


def test_privleak_beside_a_model_that_tells_every_row_has_no_value() -> None:
    with pytest.raises(UndefinedError, match=r"its mia\.min_k\.auc is 1"):
        attack("privleak").compute(model=Measurement(0.5), retrained=Measurement(1.0))
