"""What a metric can read: needs, equal ones being one, whoever declares them. How they are met: sweeps.py."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .metric import Contents, Metric

MORE = {
    "holdout": "--holdout FILE (amnestic eval)",
    "forget": "--forget FILE",
    "retain": "--retain FILE",
    "real_authors": "--benchmark tofu:forget10",
    "world_facts": "--benchmark tofu:forget10",
    "forget_qa": "--benchmark muse:books",
    "forget_texts": "--benchmark muse:books",
}
"""Split -> what supplies it."""
Reader = Literal["model", "reference"]


@dataclass(frozen=True)
class Likelihood:
    """Teacher-forced values of one kind of answers to the prompts of a split; read as `Likelihoods`."""

    split: str
    answer: str = "answer"
    """Or ``paraphrased_answer``, one a row; or ``perturbed_answer``, several wrong ones a row."""
    reader: Reader = "model"
    """The model, or the reference."""

    def missing(self, contents: Contents) -> str | None:
        """Return why it cannot be had: no such split, no such answers, or no reference."""
        if self.split not in contents.answers:
            return f"there are no {self.split} rows; give {MORE.get(self.split, 'them')}"
        if self.answer not in contents.answers[self.split]:
            return (
                f"not every {self.split} row has a {self.answer} within --max_length; give files with that column, as "
                "the *_perturbed files of TOFU have"
            )
        return None if self.reader == "model" else _no_reference(contents)


@dataclass(frozen=True)
class Generation:
    """Greedy answers to the prompts of a split; read as `Generations`."""

    split: str

    def missing(self, contents: Contents) -> str | None:
        """Return why it cannot be had: no such split."""
        return Likelihood(self.split).missing(contents)


@dataclass(frozen=True)
class GeneratedLikelihood:
    """Values of the generated answers of a split under the reference model, as `Likelihoods`; an empty one has none."""

    split: str

    def missing(self, contents: Contents) -> str | None:
        """Return why it cannot be had: no such split, or no reference."""
        return Likelihood(self.split, reader="reference").missing(contents)


@dataclass(frozen=True)
class GradientNorm:
    """Norm of the gradient of each true answer's mean loss in all trainable parameters; read as (B,) float64."""

    split: str

    def missing(self, contents: Contents) -> str | None:
        """Return why it cannot be had: no such split."""
        return Likelihood(self.split).missing(contents)


@dataclass(frozen=True)
class OfRetrained:
    """The measurement of the same metric of a model that never saw the forget split; read as `Measurement`."""

    metric: Metric
    instead: str = ""
    """What is given where there is no such model, as a clause."""

    def missing(self, contents: Contents) -> str | None:
        """Return why it cannot be had: no retrained model, or one that was not measured so."""
        if contents.retrained is None:
            reason = "there is no retrained model; give --retrained with its folder, or with that of its results"
            return f"{reason}; {self.instead}" if self.instead else reason
        if self.metric.key not in contents.retrained:
            return (
                f"the retrained model's results have no {self.metric.key}; measure it with the same data and --metrics"
            )
        return None


SweptNeed = Likelihood | Generation | GeneratedLikelihood | GradientNorm


def why_missing(metric: Metric, contents: Contents) -> str | None:
    """Return why `metric` cannot be computed of `contents`; None where it can."""
    reasons: Sequence[str | None] = [
        why_missing(need, contents) if isinstance(need, Metric) else need.missing(contents)
        for need in metric.needs().values()
    ]
    return next((reason for reason in reasons if reason is not None), None)


def _no_reference(contents: Contents) -> str | None:
    return (
        None
        if contents.has_reference
        else "there is no reference model; give --reference with its folder (amnestic eval)"
    )
