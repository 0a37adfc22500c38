"""Metrics of what can be recited."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...errors import RunError
from ..metric import Likelihoods, Measurement, metric
from .likelihood import LikelihoodMetric


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
    values = np.array([formula(hits) for hits in answers.per_example(answers.is_argmax, content_only=True)])
    return Measurement(float(values.mean()), values)


@metric("exact_memorization")
@dataclass(frozen=True)
class ExactMemorization(LikelihoodMetric):
    """Share of the answer's tokens, its end left out, that teacher-forced argmax predicts right; mean over examples."""

    def compute(self, answers: Likelihoods) -> Measurement:
        """Return the share; in [0, 1]."""
        return _mean(answers, exact_memorization)


@metric("extraction_strength")
@dataclass(frozen=True)
class ExtractionStrength(LikelihoodMetric):
    """1 - k/n', with k the shortest answer prefix after which argmax predicts every later token; mean over examples.

    As OpenUnlearning defines it (arXiv:2506.12618), with two departures: the end of the answer is left out of n', and
    the value is 0 where the last token is wrong (there: 1/n').
    """

    def compute(self, answers: Likelihoods) -> Measurement:
        """Return the share of the answer that need not be given; in [0, 1]."""
        return _mean(answers, extraction_strength)
