"""Model utility: what is left of the rest, as one number."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..bootstrap import interval
from ..metric import Contents, Measurement, Metric, UndefinedError, metric
from .likelihood import AMONG_WRONG, TOFU, NormalizedProbability, Probability
from .text import Rouge
from .truth import TruthRatio, TruthRatioArithmetic, is_judged_by_wrong_answers, right_answer, truthfulness

KEPT = ("retain", *AMONG_WRONG)


def harmonic_mean(values: np.ndarray) -> Any:
    """Return the harmonic mean over the last axis of `values`, each at least 0; 0 where any is 0."""
    with np.errstate(divide="ignore"):
        return values.shape[-1] / (1 / values).sum(-1)


@metric("model_utility")
@dataclass(frozen=True)
class ModelUtility(Metric):
    """Probability, ROUGE-L recall and truth ratio on retain rows, real authors and world facts, as a harmonic mean.

    0 if any of the nine is 0. The probability is that among wrong answers on real authors and world facts.
    """

    label: ClassVar = "Model utility"
    formula: ClassVar = "harmonic mean of nine: probability, rouge, truth_ratio on retain, real_authors, world_facts"
    directions: ClassVar = {"": "higher means more kept"}
    targets: ClassVar = {"": "what the model had before"}
    source: ClassVar = TOFU
    is_share: ClassVar = True
    place: ClassVar = 0

    right: tuple[str, ...] = ("paraphrased_answer", "answer", "answer")
    """The kind of answers that stand for the truth on each of the three splits."""

    @classmethod
    def instances(cls, contents: Contents) -> Iterator[Metric]:
        """Yield the metric where there is something that was to be kept."""
        if "retain" in contents.answers and is_judged_by_wrong_answers(contents, "retain"):
            yield cls(tuple(right_answer(contents, split) for split in KEPT))

    def needs(self) -> dict[str, Any]:
        """Return the nine metrics, as ``split_part``."""
        needs: dict[str, Any] = {}
        for split, right in zip(KEPT, self.right, strict=True):
            needs[f"{split}_probability"] = Probability(split) if split == "retain" else self.share(split)
            needs[f"{split}_rouge"] = Rouge(split)
            needs[f"{split}_truth_ratio"] = self.ratio(split, right)
        return needs

    def share(self, split: str) -> Metric:
        """Return the probability among wrong answers."""
        return NormalizedProbability(split)

    def ratio(self, split: str, right: str) -> Metric:
        """Return the truth ratio."""
        return TruthRatio(split, right)

    def compute(self, **parts: Measurement) -> Measurement:
        """Return the harmonic mean; in [0, 1]. Examples of a split are drawn together for its three numbers."""
        value = float(harmonic_mean(np.array([part.value for part in parts.values()])))
        values = _of_examples(parts)

        def resampled(*indices: np.ndarray) -> np.ndarray:
            chosen = zip(values, indices, strict=True)
            means = [own[:, index].mean(-1) for own, index in chosen]  # (3, ...) for each split
            return np.asarray(harmonic_mean(np.moveaxis(np.concatenate(means), 0, -1)))

        return Measurement(value, interval=interval(resampled, *(own.shape[1] for own in values)))


def _of_examples(parts: Mapping[str, Measurement]) -> list[np.ndarray]:
    """Return, for each split, what its examples give to the three numbers: (3, B)."""
    arrays = []
    for split in KEPT:
        found = [parts[f"{split}_{name}"].per_example for name in ("probability", "rouge", "truth_ratio")]
        if any(values is None for values in found):
            raise UndefinedError(f"values of the single {split} examples are missing")
        probability, rouge, ratios = (np.asarray(values) for values in found)
        arrays.append(np.stack([probability, rouge, truthfulness(ratios)]))
    return arrays


@metric("model_utility_arithmetic")
@dataclass(frozen=True)
class ModelUtilityArithmetic(ModelUtility):
    """Model utility with the truth ratio of the first TOFU code, which averages the wrong answers' probabilities."""

    label: ClassVar = "Model utility, arithmetic mean"
    formula: ClassVar = "as model_utility, with truth_ratio_arithmetic"
    source: ClassVar = "the code of TOFU, get_model_utility (github.com/locuslab/tofu)"
    place: ClassVar = 3

    def ratio(self, split: str, right: str) -> Metric:
        """Return the truth ratio."""
        return TruthRatioArithmetic(split, right)
