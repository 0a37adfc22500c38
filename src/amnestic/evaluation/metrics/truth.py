"""Metrics of how a true answer stands beside wrong ones of the same form: truth ratios, and what is made of them.

``B`` examples, ``R`` wrong answers of all of them. Losses are means over an answer's tokens, its end included.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..bootstrap import of_mean
from ..metric import Contents, Likelihoods, Measurement, Metric, UndefinedError, metric, whole_of
from ..needs import Likelihood, OfRetrained
from .likelihood import AMONG_WRONG, TOFU, LikelihoodMetric, has_paraphrases, has_wrong_answers

OF_TOFU = ("forget", "retain", *AMONG_WRONG)
P_VALUE = {"": "higher means harder to tell from the retrained model"}


def truth_ratio(right: np.ndarray, wrong: np.ndarray, example: np.ndarray) -> np.ndarray:
    """Return (B,) R = exp(-mean_i l(wrong_i)) / exp(-l(right)): the geometric mean of the wrong answers' P in front.

    From the losses of right (B,) and wrong (R,) answers, and the example of each wrong one. Infinite where the right
    answer alone has no probability, 0 where wrong ones alone have none. Raises UndefinedError where both have none.
    """
    means = np.bincount(example, weights=wrong, minlength=len(right)) / np.bincount(example, minlength=len(right))
    return _exponential(right, means)


def truth_ratio_arithmetic(right: np.ndarray, wrong: np.ndarray, example: np.ndarray) -> np.ndarray:
    """Return (B,) R with the arithmetic mean of the wrong answers' P; everything else is as in `truth_ratio`."""
    counts = np.bincount(example, minlength=len(right))
    lowest = np.full(len(right), np.inf)
    np.minimum.at(lowest, example, wrong)
    shift = np.where(np.isfinite(lowest), lowest, 0.0)  # the likeliest has P = 1, so that their sum cannot underflow
    total = np.bincount(example, weights=np.exp(shift[example] - wrong), minlength=len(right))
    with np.errstate(divide="ignore"):
        return _exponential(right, shift - np.log(total / counts))


def _exponential(right: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Return exp(right - wrong), each a loss (B,); raises UndefinedError where both are infinite."""
    if undefined := int((np.isposinf(right) & np.isposinf(wrong)).sum()):
        raise UndefinedError(f"neither the right nor the wrong answers of {undefined} examples have any probability")
    with np.errstate(over="ignore"):
        ratios: np.ndarray = np.exp(right - wrong)
    return ratios


def closeness(ratios: np.ndarray) -> np.ndarray:
    """Return min(R, 1/R) of each R (B,): 1 where right and wrong answers are as likely as each other."""
    with np.errstate(divide="ignore"):
        closest: np.ndarray = np.minimum(ratios, 1 / ratios)
    return closest


def truthfulness(ratios: np.ndarray) -> np.ndarray:
    """Return max(0, 1 - R) of each R (B,): 1 where wrong answers have no probability beside the right one."""
    truthful: np.ndarray = np.maximum(0.0, 1 - ratios)
    return truthful


@metric("truth_ratio")
@dataclass(frozen=True)
class TruthRatio(LikelihoodMetric):
    """How wrong answers stand beside a right one; values of examples are R itself, which forget quality reads.

    The right answer is the paraphrased one where the split's rows have one, else the true answer.
    """

    label: ClassVar = "Truth ratio"
    formula: ClassVar = (
        "R = exp(-mean_i l(wrong_i)) / P(right); mean of min(R, 1/R) on forget, mean of max(0, 1 - R) on other splits"
    )
    directions: ClassVar = {"": "higher means more kept", "forget": "higher means more forgotten"}
    targets: ClassVar = {"": "what the model had before", "forget": "1; what a retrained model has is enough"}
    source: ClassVar = TOFU
    is_share: ClassVar = True
    place: ClassVar = 16

    right: str = "paraphrased_answer"
    """The kind of answers that stand for the truth: ``paraphrased_answer`` or ``answer``."""

    @classmethod
    def instances(cls, contents: Contents) -> Iterator[Metric]:
        """Yield one for each split of which somebody would look for it."""
        for split in contents.measured:
            if is_judged_by_wrong_answers(contents, split):
                yield cls(split, right_answer(contents, split))

    def needs(self) -> dict[str, Any]:
        """Return the right answers and the wrong ones."""
        return {"right": Likelihood(self.split, self.right), "wrong": Likelihood(self.split, "perturbed_answer")}

    def compute(self, right: Likelihoods, wrong: Likelihoods) -> Measurement:
        """Return the mean, in [0, 1], and R of each example."""
        ratios = self.ratios(right, wrong)
        values = closeness(ratios) if whole_of(self.split) == "forget" else truthfulness(ratios)
        return Measurement(float(values.mean()), ratios, interval=of_mean(values))

    def ratios(self, right: Likelihoods, wrong: Likelihoods) -> np.ndarray:
        """Return R of each example, (B,)."""
        return truth_ratio(right.losses, wrong.losses, wrong.example)


def is_judged_by_wrong_answers(contents: Contents, split: str) -> bool:
    """Return whether somebody would look for what wrong answers tell: of rows that have them, and of TOFU's splits.

    Splits of these names in a benchmark of whole texts are not TOFU's.
    """
    return has_wrong_answers(contents, split) or (split in OF_TOFU and not contents.conditions.has_passages)


def right_answer(contents: Contents, split: str) -> str:
    """Return the kind of answers that stand for the truth in `split`.

    That is what TOFU's rows of this split have, where these have no wrong answers.
    """
    if has_paraphrases(contents, split):
        return "paraphrased_answer"
    return "answer" if has_wrong_answers(contents, split) or split in AMONG_WRONG else "paraphrased_answer"


@metric("truth_ratio_arithmetic")
@dataclass(frozen=True)
class TruthRatioArithmetic(TruthRatio):
    """The truth ratio as the first TOFU code takes it inside model utility: from the mean of wrong answers' P.

    Values of examples are R.
    """

    label: ClassVar = "Truth ratio, arithmetic mean"
    formula: ClassVar = "R = mean_i P(wrong_i) / P(right); then as truth_ratio"
    source: ClassVar = "the code of TOFU, get_model_utility (github.com/locuslab/tofu)"
    place: ClassVar = 17

    def ratios(self, right: Likelihoods, wrong: Likelihoods) -> np.ndarray:
        """Return R of each example, (B,)."""
        return truth_ratio_arithmetic(right.losses, wrong.losses, wrong.example)


def smirnov(ours: np.ndarray, retrained: np.ndarray) -> tuple[float, float, bool]:
    """Return p of the two-sample Kolmogorov-Smirnov test of two samples, its log10, and whether that is exact.

    p falls to 0 below some 1e-308. Its logarithm then comes from the exact distribution, where the samples have one
    size; where not, it is that of the smallest normal number, which p is below.
    """
    from scipy.stats import ks_2samp

    found = ks_2samp(ours, retrained)
    p = float(found.pvalue)
    tiny = float(np.finfo(float).tiny)
    if p >= tiny:
        return p, math.log10(p), True
    if len(ours) != len(retrained):
        return p, math.log10(tiny), False
    return p, _log10_of_tail(len(ours), round(float(found.statistic) * len(ours))), True


def _log10_of_tail(n: int, height: int) -> float:
    """Return log10 of the probability that a path of n steps up and n down, in random order, gets `height` from 0.

    2 sum_k (-1)^(k-1) C(2n, n - k height) / C(2n, n) (Gnedenko and Korolyuk, 1951), as the first term times the rest;
    `height` is at least 1.
    """

    def log_choose(k: int) -> float:
        return math.lgamma(2 * n + 1) - math.lgamma(k + 1) - math.lgamma(2 * n - k + 1)

    first = log_choose(n - height)
    terms = range(1, n // height + 1)
    rest = math.fsum((-1) ** (k - 1) * math.exp(log_choose(n - k * height) - first) for k in terms)
    return (math.log(2 * rest) + first - log_choose(n)) / math.log(10)


@metric("forget_quality")
@dataclass(frozen=True)
class ForgetQuality(Metric):
    """Whether the forget set's truth ratios R can be told from those of a model that never saw it: a p-value.

    It has no interval: a p-value is itself a statement about drawing other examples, and drawing from those at hand
    with replacement makes ties, which the test takes for differences.
    """

    label: ClassVar = "Forget quality (p)"
    formula: ClassVar = "p of the two-sample Kolmogorov-Smirnov test of R, model against retrained model"
    directions: ClassVar = P_VALUE
    targets: ClassVar = {"": "1; above 0.05 the two cannot be told apart with 95 % confidence"}
    source: ClassVar = TOFU
    is_share: ClassVar = True
    place: ClassVar = 1

    right: str = "paraphrased_answer"
    """The kind of answers that stand for the truth: ``paraphrased_answer`` or ``answer``."""

    @classmethod
    def instances(cls, contents: Contents) -> Iterator[Metric]:
        """Yield the metric where there is a forget split of questions."""
        if "forget" in contents.answers and is_judged_by_wrong_answers(contents, "forget"):
            yield cls(right_answer(contents, "forget"))

    def needs(self) -> dict[str, Any]:
        """Return the truth ratios of both models."""
        ratios = TruthRatio("forget", self.right)
        return {"model": ratios, "retrained": OfRetrained(ratios)}

    def compute(self, model: Measurement, retrained: Measurement) -> Measurement:
        """Return p; in [0, 1]. It falls to 0 where it is below what a number can hold, and says so."""
        p, logarithm, _ = smirnov(*_ratios(model, retrained))
        return Measurement(
            p, note=None if p else f"p is too small for a number: about 1e{math.floor(logarithm)} or less"
        )


@metric("forget_quality_log10")
@dataclass(frozen=True)
class ForgetQualityLog10(ForgetQuality):
    """The logarithm of forget quality, in which models that are far from forgetting differ; no interval, as there."""

    label: ClassVar = "Forget quality (log10 p)"
    formula: ClassVar = "log10 of forget_quality"
    targets: ClassVar = {"": "0; above -1.3 the two cannot be told apart with 95 % confidence"}
    is_share: ClassVar = False
    place: ClassVar = 2

    def compute(self, model: Measurement, retrained: Measurement) -> Measurement:
        """Return log10 p, at most 0; exact where p itself falls to 0, or else with a note."""
        _, logarithm, is_exact = smirnov(*_ratios(model, retrained))
        note = "p is too small for a number; its logarithm is at most this"
        return Measurement(logarithm, note=None if is_exact else note)


def _ratios(model: Measurement, retrained: Measurement) -> tuple[np.ndarray, np.ndarray]:
    if model.per_example is None or retrained.per_example is None:
        raise UndefinedError("the retrained model's results hold no truth ratios of examples; measure it again")
    if np.isnan(model.per_example).any() or np.isnan(retrained.per_example).any():
        raise UndefinedError("some examples have no truth ratio that is a number")
    return model.per_example, retrained.per_example
