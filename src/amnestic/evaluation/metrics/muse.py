"""The metrics of MUSE (Shi et al., 2024, arXiv:2407.06460) that read generated text; PrivLeak is in membership.py."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..metric import Contents, Generations, Measurement, Metric, metric
from ..needs import Generation
from .likelihood import mean_over_examples
from .text import TextMetric, rouge_f1

MUSE = "MUSE (Shi et al., 2024, arXiv:2407.06460)"
QUESTIONS = {"forget": "forget_qa"}
"""Split -> that of the questions about it, where these are another."""


def mean_rouge_f1(answers: Generations, stems: bool = False) -> Measurement:
    """Return the mean F1 of ROUGE-L of the generated answers against the true ones, of stemmed words or as they are."""
    pairs = zip(answers.answers, answers.generated, strict=True)
    return mean_over_examples(np.array([rouge_f1(answer, text, stems) for answer, text in pairs]))


@metric("verbmem")
@dataclass(frozen=True)
class VerbMem(TextMetric):
    """How much of a passage is recited behind its beginning: ROUGE-L F1 of the continuation; mean over passages.

    It takes part where the benchmark says how far passages are continued; the true text is cut at the same number of
    tokens.
    """

    label: ClassVar = "VerbMem"
    formula: ClassVar = "mean of 2PR / (P + R), P and R the shares of words in the longest common subsequence"
    source: ClassVar = MUSE
    is_share: ClassVar = True
    place: ClassVar = 24

    @classmethod
    def instances(cls, contents: Contents) -> Iterator[Metric]:
        """Yield one for each split of passages that go on."""
        for split in contents.measured:
            continuing = contents.conditions.continuing.get(split)
            if continuing is not None and continuing.goes_on:
                yield cls(split)

    def compute(self, answers: Generations) -> Measurement:
        """Return the F1; in [0, 1]."""
        return mean_rouge_f1(answers)


@metric("knowmem")
@dataclass(frozen=True)
class KnowMem(TextMetric):
    """What a model knows of the texts of a split: ROUGE-L F1 of its answers to questions; mean over questions.

    Questions about what is to be forgotten are rows of ``forget_qa``, and so are its values of examples. It takes part
    where the benchmark says which texts end an answer.
    """

    label: ClassVar = "KnowMem"
    formula: ClassVar = "as verbmem, of answers to questions"
    source: ClassVar = MUSE
    is_share: ClassVar = True
    place: ClassVar = 26

    @property
    def rows(self) -> str:
        """Return the split of the questions."""
        return QUESTIONS.get(self.split, self.split)

    @classmethod
    def instances(cls, contents: Contents) -> Iterator[Metric]:
        """Yield one for each split with questions whose answers end by themselves."""
        for split in contents.measured:
            item = cls(split)
            continuing = contents.conditions.continuing.get(item.rows)
            if continuing is not None and not continuing.goes_on:
                yield item

    def needs(self) -> dict[str, Generation]:
        """Return the one need: greedy answers to the questions."""
        return {"answers": Generation(self.rows)}

    def compute(self, answers: Generations) -> Measurement:
        """Return the F1; in [0, 1]."""
        return mean_rouge_f1(answers)
