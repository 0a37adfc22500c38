"""Metrics of what can be recited."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...errors import RunError
from ..metric import Likelihoods, Measurement, metric
from .likelihood import LikelihoodMetric, mean_over_examples


def extraction_strength(hits: np.ndarray) -> float:
    """Return the length of the longest suffix of `hits` (n',) bool that is all true, as a share of n'.

    That is 1 - k/n', with k the shortest prefix after which every token is predicted right. Raises RunError for n' = 0.
    """
    _refuse_empty(hits)
    wrong = np.flatnonzero(~hits)
    return 1.0 - (int(wrong[-1]) + 1) / len(hits) if len(wrong) else 1.0


def exact_memorization(hits: np.ndarray) -> float:
    """Return the share of `hits` (n',) bool that is true; raises RunError for n' = 0."""
    _refuse_empty(hits)
    return float(hits.mean())


def _refuse_empty(hits: np.ndarray) -> None:
    if not len(hits):
        raise RunError("an answer has no token but its end, so nothing of it can be memorized; leave its row out.")


def _mean(answers: Likelihoods, formula: Callable[[np.ndarray], float]) -> Measurement:
    """Average `formula` over the answers without their closing tokens."""
    hits = answers.per_example(answers.is_argmax, content_only=True)
    return mean_over_examples(np.array([formula(own) for own in hits]))


@metric("exact_memorization")
@dataclass(frozen=True)
class ExactMemorization(LikelihoodMetric):
    """Share of the answer's tokens, its end left out, that teacher-forced argmax predicts right; mean over examples."""

    label: ClassVar = "Exact memorization"
    formula: ClassVar = "mean of (tokens that argmax predicts) / n', without the closing token"
    source: ClassVar = "Tirumala et al., 2022 (arXiv:2205.10770)"
    is_share: ClassVar = True
    place: ClassVar = 20

    def compute(self, answers: Likelihoods) -> Measurement:
        """Return the share; in [0, 1]."""
        return _mean(answers, exact_memorization)


@metric("extraction_strength")
@dataclass(frozen=True)
class ExtractionStrength(LikelihoodMetric):
    """Share of the answer, its end left out, that need not be given for argmax to recite the rest; mean over examples.

    It is 0 where the last token is wrong.
    """

    label: ClassVar = "Extraction strength"
    formula: ClassVar = "mean of 1 - k/n', k the shortest prefix after which argmax predicts every later token"
    source: ClassVar = "Carlini et al., 2021 (arXiv:2012.07805); OpenUnlearning (arXiv:2506.12618)"
    is_share: ClassVar = True
    place: ClassVar = 22

    def compute(self, answers: Likelihoods) -> Measurement:
        """Return the share; in [0, 1]."""
        return _mean(answers, extraction_strength)
