"""Truth ratios, forget quality and model utility: by hand, against scipy, and against what TOFU's authors published."""

import gzip
import json
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import hmean, ks_2samp

from amnestic.evaluation.metric import METRICS, Contents, Generations, Measurement, UndefinedError
from amnestic.evaluation.metrics.truth import smirnov, truth_ratio, truth_ratio_arithmetic
from amnestic.evaluation.needs import Generation, Likelihood, OfRetrained, why_missing

LOGS = {
    "retain": "eval_log.json",
    "real_authors": "eval_real_author_wo_options.json",
    "world_facts": "eval_real_world_wo_options.json",
    "forget": "eval_log_forget.json",
}
UTILITY = {"full": 0.522074, "retain90": 0.531991, "retain99": 0.518603}
UTILITY_ARITHMETIC = {"full": 0.503353, "retain90": 0.513001, "retain99": 0.498613}
FORGET_TRUTH = {"full": 0.483356, "retain90": 0.628842, "retain99": 0.644595}
QUALITY = {("full", "retain90"): 2.194e-16, ("full", "retain99"): 7.367e-05, ("retain90", "retain99"): 0.943143}
TOFU = Contents(
    {
        "forget": frozenset({"answer", "paraphrased_answer", "perturbed_answer"}),
        "retain": frozenset({"answer", "paraphrased_answer", "perturbed_answer"}),
        "real_authors": frozenset({"answer", "perturbed_answer"}),
        "world_facts": frozenset({"answer", "perturbed_answer"}),
        "holdout": frozenset({"answer"}),
    },
    retrained=frozenset({"forget.truth_ratio", "forget.truth_ratio_ou", "mia.min_k.auc", "mia.min_k_ou.auc"}),
)


def only(name: str, contents: Contents = TOFU) -> Any:
    """The one metric of a class that is about no single split."""
    (found,) = METRICS.get(name).instances(contents)
    return found


# By hand


def test_the_truth_ratio_by_hand() -> None:
    """Wrong answers of P 1/2 and 1/8, a right one of 1/4: the geometric mean is 1/4, R = 1; the other 5/16, R = 5/4.

    With one wrong answer of 1/3 and a right one of 2/3 both are 1/2.
    """
    right, wrong = -np.log([1 / 4, 2 / 3]), -np.log([1 / 2, 1 / 8, 1 / 3])
    example = np.array([0, 0, 1])
    assert truth_ratio(right, wrong, example) == pytest.approx([1, 1 / 2], rel=1e-12)
    assert truth_ratio_arithmetic(right, wrong, example) == pytest.approx([5 / 4, 1 / 2], rel=1e-12)


@pytest.mark.parametrize(
    ("name", "split", "expected"),
    [
        ("truth_ratio", "forget", (1 / 2 + 1 / 4 + 1) / 3),  # min(R, 1/R)
        ("truth_ratio", "retain", (1 / 2 + 0 + 0) / 3),  # max(0, 1 - R)
        ("truth_ratio", "real_authors", (1 / 2 + 0 + 0) / 3),
        ("truth_ratio", "mine", (1 / 2 + 0 + 0) / 3),
        ("truth_ratio_arithmetic", "forget", (1 / 2 + 1 / 4 + 4 / 5) / 3),
        ("truth_ratio_arithmetic", "retain", (1 / 2 + 0 + 0) / 3),
    ],
)
def test_the_value_of_the_truth_ratio_by_hand(losses: Any, name: str, split: str, expected: float) -> None:
    """R of 1/2, 4 and 1 (arithmetic: 5/4): the third example is the first one of the test above."""
    right = losses(-np.log([1 / 2, 1 / 8, 1 / 4]))
    wrong = losses(-np.log([1 / 4, 1 / 2, 1 / 2, 1 / 8]), example=[0, 1, 2, 2])
    found = METRICS.get(name)(split).compute(right=right, wrong=wrong)
    assert found.value == pytest.approx(expected, rel=1e-12)
    assert found.per_example == pytest.approx([1 / 2, 4, 1 if name == "truth_ratio" else 5 / 4], rel=1e-12)
    assert found.interval is not None
    assert found.interval[0] <= found.value <= found.interval[1]


def test_losses_are_means_over_tokens(table: Any) -> None:
    """The right answer has (1/2 * 1/8)^(1/2) = 1/4, the wrong ones 1/2 and 1/16: R = 2^(-5/2) 4 = 2^(-1/2)."""
    right, wrong = table(np.log([1 / 2, 1 / 8])), table(np.log([1 / 2]), np.log([1 / 16] * 3), example=[0, 0])
    found = METRICS.get("truth_ratio")("forget").compute(right=right, wrong=wrong)
    assert found.per_example == pytest.approx([math.sqrt(1 / 2)], rel=1e-12)
    assert found.value == pytest.approx(math.sqrt(1 / 2), rel=1e-12)
    assert found.interval is None, "one example says nothing of others"


@pytest.mark.parametrize("name", ["truth_ratio", "truth_ratio_arithmetic"])
def test_ratios_beyond_all_numbers_are_not_lost(losses: Any, name: str) -> None:
    """R = exp(1000) is infinite and exp(-1000) is 0: both are as far from 1 as can be, and 0 alone is truthful."""
    right, wrong = losses([1000.0, 0.0, math.inf, 5.0]), losses([0.0, 1000.0, 1.0, math.inf], example=[0, 1, 2, 3])
    for split, expected in (("forget", 0), ("retain", 1 / 2)):
        found = METRICS.get(name)(split).compute(right=right, wrong=wrong)
        assert found.value == expected
        assert found.per_example.tolist() == [math.inf, 0, math.inf, 0]


@pytest.mark.parametrize("name", ["truth_ratio", "truth_ratio_arithmetic"])
def test_a_ratio_of_nothing_to_nothing_is_told(losses: Any, name: str) -> None:
    right, wrong = losses([math.inf, 1.0]), losses([math.inf, 1.0], example=[0, 1])
    with pytest.raises(UndefinedError, match="neither the right nor the wrong answers of 1 examples have"):
        METRICS.get(name)("forget").compute(right=right, wrong=wrong)


def test_the_arithmetic_mean_does_not_underflow() -> None:
    """P of exp(-2000) and exp(-2001), and exp(-2000) for the right answer: R = (1 + 1/e) / 2."""
    found = truth_ratio_arithmetic(np.array([2000.0]), np.array([2000.0, 2001.0]), np.array([0, 0]))
    assert found == pytest.approx([(1 + 1 / math.e) / 2], rel=1e-12)


def test_the_probability_among_wrong_answers_by_hand(losses: Any) -> None:
    """1/2 among 1/2 + 1/4 + 1/4 is 1/2; 1/8 among 1/8 + 3/8 is 1/4; what underflows is still compared."""
    answers = losses([*-np.log([1 / 2, 1 / 8]), 2000.0, 5000.0])
    wrong = losses([*-np.log([1 / 4, 1 / 4, 3 / 8]), 2000.0, 1.0], example=[0, 0, 1, 2, 3])
    found = METRICS.get("normalized_probability")("real_authors").compute(answers=answers, wrong=wrong)
    assert found.per_example == pytest.approx([1 / 2, 1 / 4, 1 / 2, 0], rel=1e-12)
    assert found.value == pytest.approx(5 / 16, rel=1e-12)


# Which metrics take part


def instances(name: str, contents: Contents = TOFU) -> dict[str, Any]:
    return {item.key: item for item in METRICS.get(name).instances(contents)}


def test_the_right_answer_is_the_paraphrased_one_where_rows_have_it() -> None:
    found = {key: item.needs()["right"].answer for key, item in instances("truth_ratio").items()}
    assert found == {
        "forget.truth_ratio": "paraphrased_answer",
        "retain.truth_ratio": "paraphrased_answer",
        "real_authors.truth_ratio": "answer",
        "world_facts.truth_ratio": "answer",
    }
    own = Contents({"forget": frozenset({"answer", "perturbed_answer"}), "mine": frozenset({"answer"})})
    assert [item.right for item in instances("truth_ratio", own).values()] == ["answer"]
    assert only("forget_quality", own).needs()["model"].right == "answer"


def test_the_probability_among_wrong_answers_is_for_rows_without_a_paraphrase() -> None:
    assert set(instances("normalized_probability")) == {
        "real_authors.normalized_probability",
        "world_facts.normalized_probability",
    }


def test_what_is_missing_is_named_with_what_supplies_it() -> None:
    own = Contents({"forget": frozenset({"answer"}), "retain": frozenset({"answer"})})
    ratio = instances("truth_ratio", own)["forget.truth_ratio"]
    assert "not every forget row has a paraphrased_answer" in str(why_missing(ratio, own))
    bare = Contents({split: kinds for split, kinds in TOFU.answers.items() if split != "world_facts"})
    assert "there are no world_facts rows; give --benchmark" in str(why_missing(only("model_utility", bare), bare))
    assert why_missing(only("model_utility"), TOFU) is None
    assert why_missing(only("forget_quality"), TOFU) is None
    alone = Contents(TOFU.answers)
    assert "give --retrained" in str(why_missing(only("forget_quality", alone), alone))


# Forget quality


@pytest.mark.parametrize("sizes", [(40, 40), (200, 200), (300, 120)])
def test_forget_quality_is_the_test_of_scipy(sizes: tuple[int, int]) -> None:
    random = np.random.default_rng(3)
    ours, retrained = (random.lognormal(shift, 1, size) for shift, size in zip((0, 0.4), sizes, strict=True))
    expected = ks_2samp(ours, retrained).pvalue
    pair = {"model": Measurement(0.5, ours), "retrained": Measurement(0.5, retrained)}
    assert only("forget_quality").compute(**pair).value == expected
    found = only("forget_quality_log10").compute(**pair)
    assert found.value == pytest.approx(math.log10(expected), rel=1e-12)
    assert (found.interval, found.note) == (None, None)


def test_forget_quality_by_hand() -> None:
    """Of 3 and 3 values apart, 2 of the C(6, 3) = 20 orders are as far apart: p = 1/10. Against itself p = 1."""
    pair = {"model": Measurement(0.5, np.array([1.0, 2, 3])), "retrained": Measurement(0.5, np.array([4.0, 5, 6]))}
    assert only("forget_quality").compute(**pair).value == pytest.approx(1 / 10, rel=1e-12)
    assert only("forget_quality").compute(pair["model"], pair["model"]).value == 1
    assert only("forget_quality_log10").compute(pair["model"], pair["model"]).value == 0


def test_infinite_ratios_are_ranked() -> None:
    """inf, inf, 0 beside 0, 1, 1: the distance is 2/3 (at 1), of which p is that of scipy, and no NaN."""
    ours, retrained = np.array([math.inf, math.inf, 0.0]), np.array([0.0, 1.0, 1.0])
    p, logarithm, _ = smirnov(ours, retrained)
    assert p == pytest.approx(ks_2samp([9.0, 9, 0], retrained).pvalue, rel=1e-12)
    assert logarithm == pytest.approx(math.log10(p))


@pytest.mark.parametrize(("n", "height"), [(3, 3), (20, 7), (20, 20), (600, 600), (600, 590)])
def test_the_logarithm_of_a_p_that_no_number_holds(n: int, height: int) -> None:
    """Against whole numbers: paths of n steps up and n down that get `height` away, by reflection, of all C(2n, n)."""
    from amnestic.evaluation.metrics.truth import _log10_of_tail

    ways = sum((-1) ** (k - 1) * math.comb(2 * n, n - k * height) for k in range(1, n // height + 1))
    exact = Fraction(2 * ways, math.comb(2 * n, n))
    expected = math.log10(exact.numerator) - math.log10(exact.denominator)
    assert _log10_of_tail(n, height) == pytest.approx(expected, abs=1e-9)


def test_p_that_underflows_is_told() -> None:
    """600 values apart: p = 2 / C(1200, 600), about 1e-359. Of samples of two sizes its logarithm is bounded."""
    low, high = np.arange(600.0), np.arange(600.0) + 1000
    pair = {"model": Measurement(0.5, low), "retrained": Measurement(0.5, high)}
    found = only("forget_quality").compute(**pair)
    assert found.value == 0
    assert found.note == "p is too small for a number: about 1e-360 or less"
    logarithm = only("forget_quality_log10").compute(**pair)
    assert logarithm.value == pytest.approx(math.log10(2) - math.log10(math.comb(1200, 600)), abs=1e-9)
    assert logarithm.note is None
    uneven = only("forget_quality_log10").compute(pair["model"], Measurement(0.5, np.arange(900.0) + 1000))
    assert uneven.value == pytest.approx(-307.65, abs=0.01)
    assert "at most this" in str(uneven.note)


def test_forget_quality_reads_the_values_of_examples() -> None:
    with pytest.raises(UndefinedError, match="hold no truth ratios of examples"):
        only("forget_quality").compute(Measurement(0.5, np.ones(3)), Measurement(0.5))
    with pytest.raises(UndefinedError, match="no truth ratio that is a number"):
        only("forget_quality").compute(Measurement(0.5, np.ones(3)), Measurement(0.5, np.array([1.0, math.nan, 2])))
    assert only("forget_quality").needs()["retrained"] == OfRetrained(only("forget_quality").needs()["model"])


# Model utility


def parts(values: Mapping[str, Sequence[float]]) -> dict[str, Measurement]:
    """Nine measurements of two examples each; truth ratios R stand for max(0, 1 - R)."""
    found = {name: Measurement(float(np.mean(v)), np.array(v, dtype=float)) for name, v in values.items()}
    for name in found:
        if name.endswith("truth_ratio"):
            found[name] = Measurement(float(np.mean(np.maximum(0, 1 - np.array(values[name])))), np.array(values[name]))
    return found


def test_model_utility_by_hand() -> None:
    """Three times 1/2, 1/4 and 1/8: 9 / (3 (2 + 4 + 8)) = 3/14. And 0 where one of the nine is 0."""
    values: dict[str, Sequence[float]] = {}
    for split in ("retain", "real_authors", "world_facts"):
        values |= {f"{split}_probability": (0, 1), f"{split}_rouge": (1 / 4, 1 / 4), f"{split}_truth_ratio": (3 / 4, 9)}
    found = only("model_utility").compute(**parts(values))
    assert found.value == pytest.approx(3 / 14, rel=1e-12)
    assert found.interval is not None
    assert only("model_utility").compute(**parts(values | {"retain_rouge": (0, 0)})).value == 0
    assert only("model_utility").key == "model_utility"


def test_model_utility_reads_nine_numbers() -> None:
    needs = only("model_utility").needs()
    assert {name: item.key for name, item in needs.items()} == {
        f"{split}_{part}": f"{split}.{'normalized_' if part == 'probability' and split != 'retain' else ''}{part}"
        for split in ("retain", "real_authors", "world_facts")
        for part in ("probability", "rouge", "truth_ratio")
    }
    arithmetic = only("model_utility_arithmetic").needs()
    assert {item.key for name, item in arithmetic.items() if name.endswith("truth_ratio")} == {
        f"{split}.truth_ratio_arithmetic" for split in ("retain", "real_authors", "world_facts")
    }


@given(st.lists(st.floats(0.01, 1), min_size=9, max_size=9))
def test_model_utility_is_scipy_s_harmonic_mean(values: list[float]) -> None:
    from amnestic.evaluation.metrics.utility import harmonic_mean

    found = float(harmonic_mean(np.array(values)))
    assert found == pytest.approx(hmean(values), rel=1e-12)
    assert min(values) - 1e-12 <= found <= max(values) + 1e-12


# What was published

LOGGED = {"right": ("paraphrased_answer",) * 3}
"""The logs hold the right answer's loss beside wrong ones as a paraphrased one's, on authors and facts as well, where
it was scored in another batch than for the probability (0.03 apart for two authors)."""


@pytest.fixture(scope="module")
def published(tofu: Path) -> dict[str, dict[str, Any]]:
    """Model -> split -> what TOFU's authors logged of 300, 100, 117 and 300 examples."""
    found = {}
    for model in UTILITY:
        path = tofu / "published_logs" / f"phi_{model}.json.gz"
        logged = json.loads(gzip.decompress(path.read_bytes()))
        found[model] = {split: logged[file] for split, file in LOGS.items()}
    return found


@pytest.fixture(scope="module")
def measured(published: dict[str, dict[str, Any]], losses: Any) -> dict[str, dict[Any, Any]]:
    """Model -> need -> its table, from the logged losses and texts."""
    tables: dict[str, dict[Any, Any]] = {}
    for model, splits in published.items():
        tables[model] = {}
        for split, log in splits.items():
            order = list(log["avg_gt_loss"])
            wrong = [log["average_perturb_loss"][i] for i in order]
            example = np.repeat(np.arange(len(order)), [len(own) for own in wrong])
            kinds = {
                "answer": losses([log["avg_gt_loss"][i] for i in order]),
                "paraphrased_answer": losses([log["avg_paraphrased_loss"][i] for i in order]),
                "perturbed_answer": losses([value for own in wrong for value in own], example=example),
            }
            tables[model] |= {Likelihood(split, kind): found for kind, found in kinds.items()}
            texts = [log["generated_text"][i] for i in order]
            ended = np.ones(len(order), dtype=bool)
            generated = Generations([t[1] for t in texts], [t[2] for t in texts], np.zeros(len(order), int), ended)
            tables[model][Generation(split)] = generated
    return tables


def value(metric: Any, tables: Mapping[Any, Any], retrained: Mapping[Any, Any] | None = None) -> Measurement:
    """Compute a metric and all that it reads."""
    read = {}
    for argument, need in metric.needs().items():
        if isinstance(need, OfRetrained):
            assert retrained is not None
            read[argument] = value(need.metric, retrained)
        else:
            read[argument] = tables[need] if need in tables else value(need, tables)
    return metric.compute(**read)


@pytest.mark.parametrize("model", UTILITY)
def test_published_logs_give_the_known_model_utility(measured: dict[str, dict[Any, Any]], model: str) -> None:
    found = value(METRICS.get("model_utility")(**LOGGED), measured[model])
    assert found.value == pytest.approx(UTILITY[model], abs=5e-7)
    assert found.interval is not None
    assert found.interval[0] < found.value < found.interval[1]
    arithmetic = value(METRICS.get("model_utility_arithmetic")(**LOGGED), measured[model])
    assert arithmetic.value == pytest.approx(UTILITY_ARITHMETIC[model], abs=5e-7)


@pytest.mark.parametrize("model", FORGET_TRUTH)
def test_published_logs_give_the_known_forget_truth_ratio(measured: dict[str, dict[Any, Any]], model: str) -> None:
    found = value(instances("truth_ratio")["forget.truth_ratio"], measured[model])
    assert found.value == pytest.approx(FORGET_TRUTH[model], abs=5e-7)


@pytest.mark.parametrize("pair", QUALITY)
def test_published_logs_give_the_known_forget_quality(
    measured: dict[str, dict[Any, Any]], pair: tuple[str, str]
) -> None:
    model, retrained = (measured[name] for name in pair)
    assert value(only("forget_quality"), model, retrained).value == pytest.approx(QUALITY[pair], rel=3e-4)
    logarithm = value(only("forget_quality_log10"), model, retrained).value
    assert logarithm == pytest.approx(math.log10(QUALITY[pair]), abs=2e-4)


@pytest.mark.parametrize("model", UTILITY)
def test_published_texts_give_their_rouge_recalls(
    published: dict[str, dict[str, Any]], measured: dict[str, dict[Any, Any]], model: str
) -> None:
    for split, log in published[model].items():
        found = METRICS.get("rouge")(split).compute(answers=measured[model][Generation(split)])
        assert found.per_example == pytest.approx(list(log["rougeL_recall"].values()), abs=1e-6)


@pytest.mark.parametrize("name", ["truth_ratio", "truth_ratio_ou"])
def test_a_part_of_the_forget_split_is_read_as_the_whole(losses: Any, name: str) -> None:
    """R = 4: min(R, 1/R) is 1/4 on forget and on forget_2, max(0, 1 - R) is 0 on retain."""
    tables = {"right": losses([math.log(8)]), "wrong": losses([math.log(2)], example=[0])}
    for split, expected in (("forget", 1 / 4), ("forget_2", 1 / 4), ("retain", 0)):
        assert METRICS.get(name)(split).compute(**tables).value == pytest.approx(expected, rel=1e-8)
