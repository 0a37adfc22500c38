"""Metrics of generated text."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..metric import Generations, Measurement, Metric, metric
from ..needs import Generation


@metric("rouge")
@dataclass(frozen=True)
class Rouge(Metric):
    """ROUGE-L recall, with stemming, of the greedy answer against the true one; mean over examples.

    TOFU (Maini et al., 2024, arXiv:2401.06121).
    """

    def needs(self) -> dict[str, Any]:
        """Return the one need: greedy answers to the split's prompts."""
        return {"answers": Generation(self.split)}

    def compute(self, answers: Generations) -> Measurement:
        """Return the recall; in [0, 1]."""
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer(["rougeL"], use_stemmer=True)
        pairs = zip(answers.answers, answers.generated, strict=True)
        values = np.array([scorer.score(answer, text)["rougeL"].recall for answer, text in pairs])
        return Measurement(float(values.mean()), values)
