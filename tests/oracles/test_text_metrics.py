"""Metrics of generated text: by hand, and ROUGE against rouge-score to the last digit."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from amnestic.evaluation.metric import METRICS, Contents, Generations, UndefinedError
from amnestic.evaluation.metrics.text import common_subsequence, rouge_recall
from amnestic.evaluation.needs import GeneratedLikelihood, Generation, why_missing

WORDS = (
    "Ida Marek's novels were written, WRITING and re-written; 1987 1,987 running ran runs national nationality "
    "über naïve 時計 o'clock x xy xyz ties tied skies generously generate ... -- e.g. U.S.A. ___ \u0130stanbul"
)
TEXTS = st.lists(st.sampled_from(WORDS.split()), max_size=25).map(" ".join)


def generations(*texts: str, has_ended: bool = True) -> Generations:
    ended = np.full(len(texts), has_ended)
    return Generations(list(texts), ["the true answer"] * len(texts), np.array([len(t.split()) for t in texts]), ended)


def compute(name: str, answers: Any, **settings: Any) -> Any:
    return METRICS.get(name)("forget", **settings).compute(answers=answers)


# ROUGE


@given(TEXTS, TEXTS)
def test_rouge_is_rouge_score_s_to_the_last_digit(answer: str, text: str) -> None:
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    assert rouge_recall(answer, text) == scorer.score(answer, text)["rougeL"].recall


@given(st.text(max_size=40), st.text(max_size=40))
def test_rouge_of_any_characters_is_rouge_score_s(answer: str, text: str) -> None:
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    assert rouge_recall(answer, text) == scorer.score(answer, text)["rougeL"].recall


@given(st.lists(st.sampled_from("abcd"), max_size=40), st.lists(st.sampled_from("abcd"), max_size=40))
def test_the_common_subsequence_is_that_of_the_table(target: list[str], words: list[str]) -> None:
    """Cell by cell: one more than the diagonal where words agree, else the larger neighbour."""
    row = [0] * (len(words) + 1)
    for own in target:
        above = row
        row = [0]
        for j, word in enumerate(words):
            row.append(above[j] + 1 if own == word else max(above[j + 1], row[j]))
    assert common_subsequence(target, words) == row[-1]


# Distinct n-grams


@pytest.mark.parametrize(
    ("text", "n", "share"),
    [
        ("a b c d", 2, 1),
        ("a b a b a", 2, 2 / 4),  # ab ba ab ba
        ("the the the the the the", 2, 1 / 5),
        ("a b a c", 1, 3 / 4),
        ("a b c a b c d", 3, 4 / 5),  # abc bca cab abc bcd
        ("A a", 1, 1),  # words are compared as they stand
    ],
)
def test_distinct_ngrams_by_hand(text: str, n: int, share: float) -> None:
    found = compute("distinct_ngrams", generations(text, "x"), n=n)
    assert found.per_example[0] == pytest.approx(share)


def test_answers_without_an_ngram_have_no_share() -> None:
    """1/2 and 1; two answers of one word and of none are left out of the mean: 3/4."""
    found = compute("distinct_ngrams", generations("a b a b a", "one", "", "a b c"))
    assert found.per_example == pytest.approx([1 / 2, np.nan, np.nan, 1], nan_ok=True)
    assert found.value == pytest.approx(3 / 4)
    with pytest.raises(UndefinedError, match="no generated answer has 2 words"):
        compute("distinct_ngrams", generations("one", ""))


# Answers that say nothing, or too much


def test_empty_answers_by_hand() -> None:
    """Nothing, and white space alone, are empty; a full stop is not: 2 of 4."""
    found = compute("empty_answers", generations("", " \n\t", ".", "Ida"))
    assert found.value == 1 / 2
    assert found.per_example.tolist() == [1, 1, 0, 0]
    assert found.interval is not None


def test_unended_answers_by_hand() -> None:
    answers = Generations(["a", "b", "c"], ["a", "b", "c"], np.ones(3, int), np.array([True, False, True]))
    found = compute("unended_answers", answers)
    assert found.value == pytest.approx(1 / 3)
    assert found.per_example.tolist() == [0, 1, 0]
    assert compute("unended_answers", generations("a", "b")).value == 0


# Perplexity


def test_the_perplexity_of_answers_by_hand(table: Any) -> None:
    """Tokens of p 1/2 and 1/8, and of 1/2: (2 * 8 * 2)^(1/3) over all tokens; 4 and 2 of two; the empty one has none.

    It is left out of what is drawn as well: where the first is drawn twice, the perplexity is 4.
    """
    half, eighth = math.log(1 / 2), math.log(1 / 8)
    found = compute("generated_perplexity", table([half, eighth], [], [half]))
    assert found.value == pytest.approx(32 ** (1 / 3), rel=1e-12)
    assert found.per_example == pytest.approx([4, math.nan, 2], rel=1e-12, nan_ok=True)
    assert found.interval == pytest.approx((2, 4), rel=1e-9)
    with pytest.raises(UndefinedError, match="every generated answer is empty"):
        compute("generated_perplexity", table([], []))


# Which take part


@pytest.mark.parametrize(
    "name", ["rouge", "distinct_ngrams", "empty_answers", "unended_answers", "generated_perplexity"]
)
def test_nothing_is_generated_for_the_holdout(name: str) -> None:
    contents = Contents({split: frozenset({"answer"}) for split in ("forget", "holdout", "retain", "mine")})
    assert [item.key for item in METRICS.get(name).instances(contents)] == [
        f"{split}.{name}" for split in ("forget", "retain", "mine")
    ]


def test_what_generated_text_is_read_of() -> None:
    bare = Contents({"forget": frozenset({"answer"})})
    perplexity = METRICS.get("generated_perplexity")("forget")
    assert perplexity.needs() == {"answers": GeneratedLikelihood("forget")}
    assert "give --reference" in str(why_missing(perplexity, bare))
    assert METRICS.get("distinct_ngrams")("forget").needs() == {"answers": Generation("forget")}
