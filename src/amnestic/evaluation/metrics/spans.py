"""Metrics of the spans that rows mark to be forgotten; an answer without a span has no value."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ...data.encode import Encoded, fact
from ..metric import Likelihoods, Measurement, metric
from .likelihood import LikelihoodMetric


@dataclass(frozen=True)
class SpanMetric(LikelihoodMetric):
    """A metric of the tokens that overlap marked spans; it takes part where any is marked."""

    @classmethod
    def applies(cls, examples: Sequence[Encoded]) -> bool:
        """Return whether any of `examples` has a token in a span."""
        return bool((fact(examples, "is_marked") & (fact(examples, "forgotten") > 0)).any())


@metric("span_probability")
@dataclass(frozen=True)
class SpanProbability(SpanMetric):
    """Mean over answers with marked spans of exp(mean log p of the tokens that overlap a span, given the true text)."""

    def compute(self, answers: Likelihoods) -> Measurement:
        """Return the length-normalised probability; in [0, 1]."""
        return _mean(answers, answers.logp, lambda logp, is_span: float(np.exp(logp[is_span].mean())))


@metric("span_reproduction")
@dataclass(frozen=True)
class SpanReproduction(SpanMetric):
    """Share of an answer's marked spans that greedy decoding writes token for token, given the true text up to each.

    Mean over answers with marked spans. A span is here a run of tokens that overlap what is marked: spans without a
    token between them are one. Read off the argmax at each of its tokens, given the true text before: a greedy
    continuation of as many tokens is the span if and only if each of them is the argmax.
    """

    def compute(self, answers: Likelihoods) -> Measurement:
        """Return the share; in [0, 1]."""
        return _mean(answers, answers.is_argmax, _reproduced)


def _reproduced(hits: np.ndarray, is_span: np.ndarray) -> float:
    """Return the share of the runs of `is_span` (n,) in which all of `hits` (n,) are true."""
    edges = np.flatnonzero(np.diff(is_span, prepend=False, append=False))
    runs = list(pairwise(edges))[::2]
    return float(np.mean([hits[start:end].all() for start, end in runs]))


def _mean(answers: Likelihoods, values: np.ndarray, formula: Callable[[np.ndarray, np.ndarray], float]) -> Measurement:
    """Average `formula` of values and marks over the answers that have a marked token; the others are NaN."""
    marks = np.zeros(len(values), dtype=bool) if answers.is_span is None else answers.is_span
    pairs = zip(answers.per_example(values), answers.per_example(marks), strict=True)
    found = np.array([formula(own, is_span) if is_span.any() else np.nan for own, is_span in pairs])
    return Measurement(float(np.nanmean(found)), found)
