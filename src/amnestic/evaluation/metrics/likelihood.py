"""Metrics of the probability of the true answer."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..metric import Likelihoods, Measurement, Metric, metric
from ..needs import Likelihood


@dataclass(frozen=True)
class LikelihoodMetric(Metric):
    """A metric that reads the teacher-forced values of the answers."""

    def needs(self) -> dict[str, Any]:
        """Return the one need: the likelihoods of the split's answers."""
        return {"answers": Likelihood(self.split)}


@metric("probability")
@dataclass(frozen=True)
class Probability(LikelihoodMetric):
    """Mean over examples of exp(mean log p of the answer's tokens) (TOFU, Maini et al., 2024, arXiv:2401.06121)."""

    def compute(self, answers: Likelihoods) -> Measurement:
        """Return the length-normalised probability; in [0, 1]."""
        values = np.array([np.exp(logp.mean()) for logp in answers.per_example(answers.logp)])
        return Measurement(float(values.mean()), values)


@metric("token_probability")
@dataclass(frozen=True)
class TokenProbability(LikelihoodMetric):
    """exp(mean log p over all answer tokens of the split): the geometric mean probability of a token."""

    def compute(self, answers: Likelihoods) -> Measurement:
        """Return the number that --keep speaks of; in [0, 1]."""
        return Measurement(float(np.exp(answers.logp.mean())))


@metric("margin")
@dataclass(frozen=True)
class Margin(LikelihoodMetric):
    """Mean over answer tokens of max z - mean z, the margin that pdu flattens (arXiv:2506.05314); 0 is uniform."""

    def compute(self, answers: Likelihoods) -> Measurement:
        """Return the mean margin, in logits."""
        values = np.array([margin.mean() for margin in answers.per_example(answers.margin)])
        return Measurement(float(answers.margin.mean()), values)


@metric("entropy")
@dataclass(frozen=True)
class Entropy(LikelihoodMetric):
    """Mean over answer tokens of the entropy of the model's next-token distribution, in nats."""

    def compute(self, answers: Likelihoods) -> Measurement:
        """Return the mean entropy; between 0 and the log of the vocabulary's size."""
        values = np.array([entropy.mean() for entropy in answers.per_example(answers.entropy)])
        return Measurement(float(answers.entropy.mean()), values)
