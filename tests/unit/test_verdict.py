"""The sentence that a run ends with."""

import pytest

from amnestic.evaluating import verdict as verdict_of_evaluation
from amnestic.reports.verdict import verdict

BOUND = {"reached": 0.03, "value": 0.05, "upper_limit": 0.04, "whole_split": False}


def told(before: dict[str, float], after: dict[str, float], kept: tuple[str, ...] = ("retain",), **facts) -> str:
    return verdict({"reference_metrics": before, "metrics": after} | facts, kept)


def sentence(before: float, after: float, **bound: float) -> str:
    return told({"forget.probability": before}, {"forget.probability": after}, bound=BOUND | bound)


def of_spans(before: float, after: float) -> str:
    """The end of the sentence where spans are marked, in answers that are otherwise half kept."""
    values = [
        {"forget.probability": whole, "forget.span_probability": span} for whole, span in ((0.9, before), (0.5, after))
    ]
    return told(*values, bound=BOUND).partition("; ")[2]


def of_context(retain: tuple[float, float], context: float) -> str:
    """The beginning of the sentence where the context of spans is held too, by a bound of 0.2."""
    reached, upper = retain
    bounds = {
        "bound": BOUND | {"reached": reached, "upper_limit": upper},
        "context_bound": BOUND | {"reached": context, "upper_limit": 9.0, "value": 0.2, "whole_split": True},
    }
    values = {"forget.probability": 0.9}
    return told(values, values, **bounds).partition("; forget")[0]


def test_a_held_bound_says_what_was_measured_and_what_was_forgotten():
    assert sentence(0.999, 0.0013) == (
        "Bound held: retain loss 0.03 nats a token, at most 0.04 with 95 % confidence, bound 0.05; "
        "forget probability 0.999 -> 0.0013."
    )


def test_a_whole_split_has_no_upper_limit():
    assert "at most" not in sentence(0.999, 0.0013, whole_split=True)


@pytest.mark.parametrize(
    ("reached", "beginning"), [(0.06, "BOUND MISSED: "), (0.05, "BOUND NOT HELD: held on average, not with 95 % ")]
)
def test_a_missed_bound_comes_first(reached, beginning):
    assert sentence(0.999, 0.0013, reached=reached, upper_limit=0.07).startswith(beginning)


def test_where_spans_are_marked_these_are_what_was_forgotten():
    assert of_spans(0.999, 0.0013) == "forget span probability 0.999 -> 0.0013 (whole answers 0.9 -> 0.5)."
    assert of_spans(0.999, 0.99).endswith("(whole answers 0.9 -> 0.5): almost nothing was forgotten.")
    assert of_spans(0.1, 0.2).endswith(": the spans became more likely.")
    assert ": the model hardly knew these spans before (is the template" in of_spans(0.009, 0.001)


def of_passages(before: float, after: float) -> str:
    """The end of the sentence where passages are recited, which have 0.9 and then 0.05."""
    values = [
        {"forget.probability": known, "forget.verbmem": recited} for known, recited in ((0.9, before), (0.05, after))
    ]
    return told(*values, bound=BOUND).partition("; ")[2]


def test_where_passages_are_recited_that_is_what_was_forgotten():
    assert of_passages(0.98, 0.21) == "forget VerbMem 0.98 -> 0.21 (probability 0.9 -> 0.05)."
    assert of_passages(0.98, 0.95).endswith("(probability 0.9 -> 0.05): almost nothing was forgotten.")
    assert of_passages(0.3, 0.4).endswith(": the passages are recited more.")
    assert ": the model hardly knew these passages before" in of_passages(0.0, 0.0)


@pytest.mark.parametrize(
    ("retain", "context", "begin"),
    [
        (
            (0.03, 0.04),
            0.2,
            (
                "Bounds held: retain loss 0.03 nats a token, at most 0.04 with 95 % confidence, bound 0.05, held; "
                "context loss 0.2 nats a token, bound 0.2, held"
            ),
        ),
        (
            (0.03, 0.04),
            0.21,
            (
                "BOUND MISSED: retain loss 0.03 nats a token, at most 0.04 with 95 % confidence, bound 0.05, held; "
                "context loss 0.21 nats a token, bound 0.2, not held"
            ),
        ),
        (
            (0.03, 0.06),
            0.1,
            (
                "BOUND NOT HELD: held on average, not with 95 % confidence (retain loss 0.03 nats a token, at most "
                "0.06 with 95 % confidence, bound 0.05, not held; context loss 0.1 nats a token, bound 0.2, held)"
            ),
        ),
    ],
)
def test_all_bounds_must_hold(retain, context, begin):
    assert of_context(retain, context) == begin


@pytest.mark.parametrize(
    ("before", "after", "end"),
    [
        (0.999, 0.998, ": almost nothing was forgotten."),
        (0.9, 0.6, ": little was forgotten."),
        (0.9, 0.44, "0.9 -> 0.44."),
        (0.04, 0.06, ": the answers became more likely."),
        (
            0.009,
            0.001,
            ": the model hardly knew these answers before (is the template the one that it was trained with?).",
        ),
        (0.0, 0.0, "(is the template the one that it was trained with?)."),
    ],
)
def test_feasible_alone_is_no_success(before, after, end):
    assert sentence(before, after).endswith(end)


def test_a_cap_that_held_the_multiplier_is_told_where_the_bound_is_missed():
    """Of two multipliers the one that was held more often is told of."""
    values = {"forget.probability": 0.9}
    multiplier = {"cap": 50.0, "cap_binds": 0.25, "general_cap_binds": 0.5}
    missed = told(values, values, bound=BOUND | {"reached": 0.06, "upper_limit": 0.07}, multiplier=multiplier)
    assert "bound 0.05; the cap of 50 held the multiplier in 50 % of the steps; forget" in missed
    assert "cap" not in told(values, values, bound=BOUND, multiplier=multiplier)


def test_several_retentions_are_told_by_name_and_in_their_units():
    values = {"forget.probability": 0.9}
    facts = {"retentions": {"general": {"loss": "kl"}, "lang": {"loss": "hidden"}}, "bound": BOUND, "lang_bound": BOUND}
    assert told(values, values, **facts).startswith(
        "Bounds held: general divergence 0.03 nats a token, at most 0.04 with 95 % confidence, bound 0.05, held; "
        "lang hidden distance 0.03, at most 0.04 with 95 % confidence, bound 0.05, held; "
    )


def test_without_a_bound_what_was_kept_is_told_of_each_split():
    before = {"forget.probability": 0.9, "retain.token_probability": 0.97, "lang.probability": 0.5}
    after = {"forget.probability": 0.3, "retain.token_probability": 0.61, "lang.probability": 0.25}
    assert told(before, after, ("retain", "lang")) == (
        "No bound was asked for: retain token probability 0.97 -> 0.61; lang probability 0.5 -> 0.25; "
        "forget probability 0.9 -> 0.3."
    )


def test_an_evaluation_names_what_its_benchmark_is_about():
    values = {"retain.knowmem": 0.5, "forget.verbmem": 0.98, "privleak": -57.25, "forget.knowmem": 0.125}
    assert verdict_of_evaluation(values, "muse:books") == (
        "Measured on muse:books: forget VerbMem 0.98, forget KnowMem 0.125, retain KnowMem 0.5, PrivLeak -57.2."
    )
    assert verdict_of_evaluation({"mine": 1.0}, None) == "Measured: 1 number."
