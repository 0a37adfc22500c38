"""Metrics of the spans that rows mark to be forgotten; an answer without a span has no value."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np

from ..metric import Contents, Likelihoods, Measurement, Metric, metric
from .likelihood import LikelihoodMetric, mean_over_examples


@dataclass(frozen=True)
class SpanMetric(LikelihoodMetric):
    """A metric of the tokens that overlap marked spans; it takes part where any is marked."""

    source: ClassVar = "amnestic"
    is_share: ClassVar = True

    @classmethod
    def instances(cls, contents: Contents) -> Iterator[Metric]:
        """Yield one for each split that marks a span."""
        yield from (cls(split) for split in contents.measured if "span" in contents.answers[split])


@metric("span_probability")
@dataclass(frozen=True)
class SpanProbability(SpanMetric):
    """Length-normalised probability of the tokens that overlap a marked span, given the true text.

    Mean over answers with marked spans.
    """

    label: ClassVar = "Probability of a marked span"
    formula: ClassVar = "mean of exp(mean of log p over an answer's marked tokens)"
    place: ClassVar = 8

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

    label: ClassVar = "Marked spans reproduced"
    formula: ClassVar = "mean of (spans of which argmax predicts every token) / (spans)"
    place: ClassVar = 9

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
    return mean_over_examples(found, answers.sums(marks) > 0)
