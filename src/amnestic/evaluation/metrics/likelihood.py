"""Metrics of the probability of the true answer."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..bootstrap import of_mean, of_ratio
from ..metric import Contents, Likelihoods, Measurement, Metric, metric
from ..needs import Likelihood

TOFU = "TOFU (Maini et al., 2024, arXiv:2401.06121)"
OPEN_UNLEARNING = "the public OpenUnlearning code (arXiv:2506.12618)"
AMONG_WRONG = ("real_authors", "world_facts")
"""Splits of TOFU whose questions have wrong answers and no paraphrased one."""
FLATNESS_TARGETS = {"": "none; it shows what a method that flattens has done", "retain": "what the model had before"}


@dataclass(frozen=True)
class LikelihoodMetric(Metric):
    """A metric that reads the teacher-forced values of the answers of one split."""

    split: str

    def needs(self) -> dict[str, Any]:
        """Return the one need: the likelihoods of the split's answers."""
        return {"answers": Likelihood(self.split)}


def mean_over_examples(values: np.ndarray, counted: np.ndarray | None = None) -> Measurement:
    """Return the mean of `values` (B,) with its interval; of those examples alone that are `counted` (B,) bool.

    What is NaN elsewhere makes the mean NaN: nothing is left out silently.
    """
    known = values if counted is None else values[counted]
    return Measurement(float(known.mean()), values, interval=of_mean(known))


def mean_over_tokens(
    table: Likelihoods, values: np.ndarray, scale: Callable[[Any], Any] = lambda mean: mean
) -> Measurement:
    """Return `scale` of the mean of `values` (N,) over all tokens, with that of each row, and its interval."""
    sums, counts = table.sums(values), table.counts
    with np.errstate(invalid="ignore"):
        per_row = scale(sums / counts)
    read = counts > 0
    return Measurement(float(scale(values.mean())), per_row, interval=of_ratio(sums[read], counts[read], scale))


@metric("probability")
@dataclass(frozen=True)
class Probability(LikelihoodMetric):
    """Length-normalised probability of the true answer, its closing token included; mean over examples."""

    label: ClassVar = "Probability of an answer"
    formula: ClassVar = "mean of P = exp(-l)"
    source: ClassVar = TOFU
    is_share: ClassVar = True
    place: ClassVar = 10

    def compute(self, answers: Likelihoods) -> Measurement:
        """Return the length-normalised probability; in [0, 1]."""
        return mean_over_examples(np.exp(-answers.losses))


@metric("token_probability")
@dataclass(frozen=True)
class TokenProbability(LikelihoodMetric):
    """Geometric mean probability of an answer token of the split: the number that --keep speaks of."""

    label: ClassVar = "Probability per answer token"
    formula: ClassVar = "exp(mean of log p over all answer tokens)"
    source: ClassVar = "amnestic"
    is_share: ClassVar = True
    place: ClassVar = 14

    def compute(self, answers: Likelihoods) -> Measurement:
        """Return the probability; in [0, 1]. An example's own is its `probability`."""
        found = mean_over_tokens(answers, answers.logp, np.exp)
        return Measurement(found.value, interval=found.interval)


@metric("margin")
@dataclass(frozen=True)
class Margin(LikelihoodMetric):
    """Margin of the largest logit, which pdu flattens; mean over answer tokens, 0 is uniform."""

    label: ClassVar = "Logit margin"
    formula: ClassVar = "mean of max z - mean z over answer tokens"
    directions: ClassVar = {"": "lower means flatter", "retain": "closer to before means kept"}
    targets: ClassVar = FLATNESS_TARGETS
    source: ClassVar = "Constrained Entropic Unlearning (arXiv:2506.05314)"
    place: ClassVar = 80

    def compute(self, answers: Likelihoods) -> Measurement:
        """Return the mean margin, in logits."""
        return mean_over_tokens(answers, answers.margin)


@metric("entropy")
@dataclass(frozen=True)
class Entropy(LikelihoodMetric):
    """Entropy of the model's next-token distribution, in nats; mean over answer tokens."""

    label: ClassVar = "Entropy, nats"
    formula: ClassVar = "mean of -sum p log p over answer tokens"
    directions: ClassVar = {"": "higher means flatter", "retain": "closer to before means kept"}
    targets: ClassVar = FLATNESS_TARGETS
    source: ClassVar = "Shannon, 1948"
    place: ClassVar = 82

    def compute(self, answers: Likelihoods) -> Measurement:
        """Return the mean entropy; between 0 and the log of the vocabulary's size."""
        return mean_over_tokens(answers, answers.entropy)


def has_wrong_answers(contents: Contents, split: str) -> bool:
    """Return whether every row of `split` has wrong answers."""
    return "perturbed_answer" in contents.answers.get(split, ())


def has_paraphrases(contents: Contents, split: str) -> bool:
    """Return whether every row of `split` has a paraphrased answer."""
    return "paraphrased_answer" in contents.answers.get(split, ())


@metric("normalized_probability")
@dataclass(frozen=True)
class NormalizedProbability(LikelihoodMetric):
    """Probability of the true answer among itself and the wrong ones; mean over examples.

    On splits whose rows have wrong answers and no paraphrased one.
    """

    label: ClassVar = "Probability among wrong answers"
    formula: ClassVar = "mean of P(a) / (P(a) + sum_i P(wrong_i))"
    source: ClassVar = TOFU
    is_share: ClassVar = True
    place: ClassVar = 12

    @classmethod
    def instances(cls, contents: Contents) -> Iterator[Metric]:
        """Yield one for each split of questions with wrong answers alone."""
        for split in contents.measured:
            if (split in AMONG_WRONG or has_wrong_answers(contents, split)) and not has_paraphrases(contents, split):
                yield cls(split)

    def needs(self) -> dict[str, Any]:
        """Return the true answers and the wrong ones."""
        return {"answers": Likelihood(self.split), "wrong": Likelihood(self.split, "perturbed_answer")}

    def compute(self, answers: Likelihoods, wrong: Likelihoods) -> Measurement:
        """Return the share; in [0, 1]."""
        return mean_over_examples(normalized(answers.losses, wrong.losses, wrong.example))


def normalized(right: np.ndarray, wrong: np.ndarray, example: np.ndarray) -> np.ndarray:
    """Return (B,) P(right) / (P(right) + sum of P(wrong)), from losses (B,), (R,) and the example of each wrong one.

    As 1 / (1 + sum exp(l_right - l_wrong)), which does not underflow.
    """
    with np.errstate(over="ignore"):
        odds = np.bincount(example, weights=np.exp(right[example] - wrong), minlength=len(right))
    return 1 / (1 + odds)
