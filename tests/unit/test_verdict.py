"""The sentence that a run ends with."""

import pytest

from amnestic.reports.verdict import verdict

BOUND = {"reached": 0.03, "value": 0.05, "upper_limit": 0.04, "whole_split": False}


def sentence(before: float, after: float, holds: bool = True, **bound: float) -> str:
    return verdict(BOUND | bound, holds, {"forget.probability": before}, {"forget.probability": after})


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
    assert sentence(0.999, 0.0013, holds=False, reached=reached, upper_limit=0.07).startswith(beginning)


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
