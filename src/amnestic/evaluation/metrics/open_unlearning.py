"""The public OpenUnlearning code's conventions, for comparison with tables that were made with it.

As its repository has them (github.com/locuslab/open-unlearning, src/evals/metrics): each class differs from the one
that it is named after in what its docstring says, and takes part on request alone.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..bootstrap import of_mean
from ..metric import Generations, Likelihoods, Measurement, Metric, metric, whole_of
from ..needs import OfRetrained
from .likelihood import OPEN_UNLEARNING, LikelihoodMetric, NormalizedProbability, mean_over_examples
from .membership import MinKAttack, MinKPlusPlusAttack, PrivLeak, lowest_mean, relative
from .muse import KnowMem, VerbMem, mean_rouge_f1
from .truth import ForgetQuality, TruthRatio, truth_ratio, truthfulness
from .utility import ModelUtility

TINY = 1e-10
"""What the code adds to denominators."""


@metric("extraction_strength_ou")
@dataclass(frozen=True)
class OpenExtractionStrength(LikelihoodMetric):
    """Extraction strength that never reaches 0: 1/n' where the last token is wrong, as where it alone is right.

    The last scored token is left out even where the answer was cut and it is no end; nothing left gives 0.
    """

    label: ClassVar = "Extraction strength (OU)"
    formula: ClassVar = "mean of 1 - min(k, n' - 1)/n', k the shortest prefix after which argmax predicts the rest"
    source: ClassVar = OPEN_UNLEARNING
    is_share: ClassVar = True
    on_request: ClassVar = True
    place: ClassVar = 23

    def compute(self, answers: Likelihoods) -> Measurement:
        """Return the share; in [0, 1]."""
        return mean_over_examples(np.array([_strength(hits[:-1]) for hits in answers.per_example(answers.is_argmax)]))


def _strength(hits: np.ndarray) -> float:
    """Return 1 - k/n' of `hits` (n',) bool, k at most n' - 1; 0 for n' = 0."""
    if not len(hits):
        return 0.0
    wrong = np.flatnonzero(~hits)
    given = int(wrong[-1]) + 1 if len(wrong) else 0
    return 1 - min(given, len(hits) - 1) / len(hits)


@dataclass(frozen=True)
class WithoutLast(MinKAttack):
    """An attack of the Min-K family as OpenUnlearning reads it: without the last scored token of an answer."""

    def scores(self, answers: Likelihoods) -> np.ndarray:
        """Return the mean of the lowest values, negated; 0 where nothing is left."""
        rows = (own[:-1] for own in answers.per_example(self.values(answers)))
        return np.array([-lowest_mean(own, self.count(len(own))) if len(own) else 0.0 for own in rows])

    def count(self, n: int) -> int:
        """Return how many of n tokens are read, the product rounded down as it is."""
        return max(1, int(self.k * n))


@metric("mia.min_k_ou.auc")
@dataclass(frozen=True)
class OpenMinKAttack(WithoutLast):
    """Min-K% without an answer's last scored token, of max(1, int(k n)) tokens; 0 where nothing is left."""

    label: ClassVar = "Membership by Min-K% (OU), AUC"
    formula: ClassVar = "as mia.min_k.auc, without the last token of each answer"
    source: ClassVar = OPEN_UNLEARNING
    on_request: ClassVar = True
    place: ClassVar = 56


@metric("mia.min_k_plus_plus_ou.auc")
@dataclass(frozen=True)
class OpenMinKPlusPlusAttack(WithoutLast, MinKPlusPlusAttack):
    """Min-K%++ without an answer's last scored token, of max(1, int(k n)) tokens; 0 where nothing is left."""

    label: ClassVar = "Membership by Min-K%++ (OU), AUC"
    formula: ClassVar = "as mia.min_k_plus_plus.auc, without the last token of each answer"
    source: ClassVar = OPEN_UNLEARNING
    on_request: ClassVar = True
    place: ClassVar = 57


@metric("privleak_ou")
@dataclass(frozen=True)
class OpenPrivLeak(PrivLeak):
    """PrivLeak of mia.min_k_ou.auc, with 1e-10 added to the denominator."""

    label: ClassVar = "PrivLeak (OU), %"
    formula: ClassVar = "100 (A_model - A_retrained) / (A_retrained + 1e-10), A = 1 - mia.min_k_ou.auc"
    source: ClassVar = OPEN_UNLEARNING
    on_request: ClassVar = True
    place: ClassVar = 7

    def attack(self) -> MinKAttack:
        """Return the attack whose AUC is compared."""
        return OpenMinKAttack(members=self.members)

    def compute(self, model: Measurement, retrained: Measurement) -> Measurement:
        """Return the difference in percent; at least -100."""
        return relative(model, retrained.value, TINY)


@metric("normalized_probability_ou")
@dataclass(frozen=True)
class OpenNormalizedProbability(NormalizedProbability):
    """Probability among wrong answers with 1e-10 added to the denominator: 0 where no answer has any probability."""

    label: ClassVar = "Probability among wrong answers (OU)"
    formula: ClassVar = "mean of P(a) / (P(a) + sum_i P(wrong_i) + 1e-10)"
    source: ClassVar = OPEN_UNLEARNING
    on_request: ClassVar = True
    place: ClassVar = 13

    def compute(self, answers: Likelihoods, wrong: Likelihoods) -> Measurement:
        """Return the share; in [0, 1]."""
        right = np.exp(-answers.losses)
        others = np.bincount(wrong.example, weights=np.exp(-wrong.losses), minlength=len(right))
        return mean_over_examples(right / (right + others + TINY))


@metric("truth_ratio_ou")
@dataclass(frozen=True)
class OpenTruthRatio(TruthRatio):
    """Truth ratio with 1e-10 added to P(right), and to R in 1/R: another number where a model gives answers less."""

    label: ClassVar = "Truth ratio (OU)"
    formula: ClassVar = "R = exp(-mean_i l(wrong_i)) / (P(right) + 1e-10); min(R, 1/(R + 1e-10)) on forget"
    source: ClassVar = OPEN_UNLEARNING
    on_request: ClassVar = True
    place: ClassVar = 19

    def compute(self, right: Likelihoods, wrong: Likelihoods) -> Measurement:
        """Return the mean, in [0, 1], and R of each example."""
        ratios = self.ratios(right, wrong)
        closest = np.minimum(ratios, 1 / (ratios + TINY))
        values = closest if whole_of(self.split) == "forget" else truthfulness(ratios)
        return Measurement(float(values.mean()), ratios, interval=of_mean(values))

    def ratios(self, right: Likelihoods, wrong: Likelihoods) -> np.ndarray:
        """Return R of each example, (B,)."""
        nothing = np.zeros_like(right.losses)
        means = truth_ratio(nothing, wrong.losses, wrong.example)
        ratios: np.ndarray = means / (np.exp(-right.losses) + TINY)
        return ratios


@metric("forget_quality_ou")
@dataclass(frozen=True)
class OpenForgetQuality(ForgetQuality):
    """Forget quality of the values of truth_ratio_ou; no interval, as there."""

    label: ClassVar = "Forget quality (OU, p)"
    formula: ClassVar = "as forget_quality, of truth_ratio_ou"
    source: ClassVar = OPEN_UNLEARNING
    on_request: ClassVar = True
    place: ClassVar = 5

    def needs(self) -> dict[str, Any]:
        """Return the truth ratios of both models."""
        ratios = OpenTruthRatio("forget", self.right)
        return {"model": ratios, "retrained": OfRetrained(ratios)}


@metric("model_utility_ou")
@dataclass(frozen=True)
class OpenModelUtility(ModelUtility):
    """Model utility of normalized_probability_ou and truth_ratio_ou."""

    label: ClassVar = "Model utility (OU)"
    formula: ClassVar = "as model_utility, of normalized_probability_ou and truth_ratio_ou"
    source: ClassVar = OPEN_UNLEARNING
    on_request: ClassVar = True
    place: ClassVar = 6

    def share(self, split: str) -> Metric:
        """Return the probability among wrong answers."""
        return OpenNormalizedProbability(split)

    def ratio(self, split: str, right: str) -> Metric:
        """Return the truth ratio."""
        return OpenTruthRatio(split, right)


@metric("verbmem_ou")
@dataclass(frozen=True)
class OpenVerbMem(VerbMem):
    """VerbMem with stemmed words."""

    label: ClassVar = "VerbMem (OU)"
    formula: ClassVar = "as verbmem, of stemmed words"
    source: ClassVar = OPEN_UNLEARNING
    on_request: ClassVar = True
    place: ClassVar = 25

    def compute(self, answers: Generations) -> Measurement:
        """Return the F1; in [0, 1]."""
        return mean_rouge_f1(answers, stems=True)


@metric("knowmem_ou")
@dataclass(frozen=True)
class OpenKnowMem(KnowMem):
    """KnowMem with stemmed words."""

    label: ClassVar = "KnowMem (OU)"
    formula: ClassVar = "as knowmem, of stemmed words"
    source: ClassVar = OPEN_UNLEARNING
    on_request: ClassVar = True
    place: ClassVar = 27

    def compute(self, answers: Generations) -> Measurement:
        """Return the F1; in [0, 1]."""
        return mean_rouge_f1(answers, stems=True)
