"""Metrics of generated text.

Words are what stands between white space, but for ROUGE, which has its own: runs of a-z and 0-9, in lower case.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from ..metric import Contents, Generations, Likelihoods, Measurement, Metric, UndefinedError, metric
from ..needs import GeneratedLikelihood, Generation
from .likelihood import TOFU, mean_over_examples, mean_over_tokens

SAME = {"": "closer to before means kept"}


@dataclass(frozen=True)
class TextMetric(Metric):
    """A metric that reads the greedy answers to the prompts of one split."""

    split: str

    @classmethod
    def instances(cls, contents: Contents) -> Iterator[Metric]:
        """Yield one for each split but the holdout, which is there to be scored."""
        yield from (cls(split) for split in contents.measured if split != "holdout")

    def needs(self) -> dict[str, Any]:
        """Return the one need: greedy answers to the split's prompts."""
        return {"answers": Generation(self.split)}


@metric("rouge")
@dataclass(frozen=True)
class Rouge(TextMetric):
    """ROUGE-L recall of the greedy answer against the true one, with stemming; mean over examples."""

    label: ClassVar = "ROUGE-L recall"
    formula: ClassVar = "mean of (words of the longest common subsequence) / (words of the true answer)"
    source: ClassVar = f"Lin, 2004, as rouge-score computes it; {TOFU}"
    is_share: ClassVar = True
    place: ClassVar = 18

    def compute(self, answers: Generations) -> Measurement:
        """Return the recall; in [0, 1]."""
        pairs = zip(answers.answers, answers.generated, strict=True)
        return mean_over_examples(np.array([rouge_recall(answer, text) for answer, text in pairs]))


def rouge_recall(answer: str, text: str) -> float:
    """Return what rouge-score gives as recall of ``rougeL`` with its stemmer; 0 where either has no word.

    Its words are read with its own code, each distinct one stemmed once; the length of the longest common subsequence
    comes without the table, so the value is the same.
    """
    target, words = _stemmed(answer), _stemmed(text)
    return common_subsequence(target, words) / len(target) if target and words else 0.0


def rouge_f1(answer: str, text: str, stems: bool = False) -> float:
    """Return what rouge-score gives as F1 of ``rougeL``, with its stemmer or without; 0 where no word is in common."""
    target, words = (_stemmed(part) if stems else _tokenizer(False).tokenize(part) for part in (answer, text))
    common = common_subsequence(target, words)
    if not common:
        return 0.0
    precision, recall = common / len(words), common / len(target)
    return 2 * precision * recall / (precision + recall)


def _stemmed(text: str) -> list[str]:
    return [stem for word in _tokenizer(False).tokenize(text) for stem in _stems(word)]


@lru_cache(maxsize=1 << 16)
def _stems(word: str) -> Sequence[str]:
    return tuple(_tokenizer(True).tokenize(word))


@lru_cache
def _tokenizer(use_stemmer: bool) -> Any:
    from rouge_score.tokenizers import DefaultTokenizer

    return DefaultTokenizer(use_stemmer)


def common_subsequence(target: Sequence[str], words: Sequence[str]) -> int:
    """Return the length of the longest common subsequence of two lists of words.

    Bit i of `row` is 0 where the table's row for the words so far rises at target word i; one addition moves on by a
    word (Hyyrö, 2004, "Bit-parallel LCS-length computation revisited").
    """
    places: dict[str, int] = {}
    for i, word in enumerate(target):
        places[word] = places.get(word, 0) | 1 << i
    every = row = (1 << len(target)) - 1
    for word in words:
        matches = row & places.get(word, 0)
        row = (row + matches | row - matches) & every
    return len(target) - row.bit_count()


@metric("distinct_ngrams")
@dataclass(frozen=True)
class DistinctNgrams(TextMetric):
    """Share of a greedy answer's n-grams that are distinct; mean over the answers that have any.

    Text that repeats itself has few: one word over and over 1 / (number of n-grams).
    """

    label: ClassVar = "Distinct n-grams"
    formula: ClassVar = "mean of (distinct n-grams of words) / (n-grams of words), of each generated answer"
    directions: ClassVar = {"": "lower means more repetition"}
    targets: ClassVar = {"": "what the model had before"}
    source: ClassVar = (
        "1 - seq-rep-n of Welleck et al., 2019 (arXiv:1908.04319); n = 2 as in Li et al., 2016 (arXiv:1510.03055)"
    )
    is_share: ClassVar = True
    place: ClassVar = 60

    n: int = 2
    """Words of an n-gram; answers of TOFU's authors and facts are too short for more."""

    def compute(self, answers: Generations) -> Measurement:
        """Return the share; in (0, 1]. Raises UndefinedError where no answer has n words."""
        shares = np.array([distinct_share(text.split(), self.n) for text in answers.generated])
        has_ngram = ~np.isnan(shares)
        if not has_ngram.any():
            raise UndefinedError(f"no generated answer has {self.n} words")
        return mean_over_examples(shares, has_ngram)


def distinct_share(words: Sequence[str], n: int) -> float:
    """Return the share of the n-grams of `words` that are distinct; NaN where there is none."""
    ngrams = list(zip(*(words[start:] for start in range(n)), strict=False))
    return len(set(ngrams)) / len(ngrams) if ngrams else float("nan")


@metric("empty_answers")
@dataclass(frozen=True)
class EmptyAnswers(TextMetric):
    """Share of greedy answers without any text: the model ends at once, or writes white space alone."""

    label: ClassVar = "Empty answers"
    formula: ClassVar = "share of generated answers that are empty but for white space"
    directions: ClassVar = {"": "higher means less to read"}
    targets: ClassVar = {"": "0, or what the model had before"}
    source: ClassVar = "amnestic"
    is_share: ClassVar = True
    place: ClassVar = 62

    def compute(self, answers: Generations) -> Measurement:
        """Return the share; in [0, 1]."""
        return mean_over_examples(np.array([float(not text.strip()) for text in answers.generated]))


@metric("unended_answers")
@dataclass(frozen=True)
class UnendedAnswers(TextMetric):
    """Share of greedy answers that the model does not end within the tokens that it is given.

    These are --max_new_tokens, or what the benchmark says of the split, whose stop strings end an answer too.
    """

    label: ClassVar = "Answers that never end"
    formula: ClassVar = "share of generated answers without an end: a token or a stop string"
    directions: ClassVar = {"": "higher means more that goes on and on"}
    targets: ClassVar = {"": "0, or what the model had before"}
    source: ClassVar = "amnestic"
    is_share: ClassVar = True
    place: ClassVar = 63

    def compute(self, answers: Generations) -> Measurement:
        """Return the share; in [0, 1]."""
        return mean_over_examples((~answers.has_ended).astype(float))


@metric("generated_perplexity")
@dataclass(frozen=True)
class GeneratedPerplexity(TextMetric):
    """Perplexity of the greedy answers under the reference model, which takes broken text for unlikely.

    Fluent repetition is likely too: read it beside distinct_ngrams. Values of examples are their own perplexities.
    """

    label: ClassVar = "Perplexity of answers"
    formula: ClassVar = "exp(mean of -log p over all generated tokens, under the reference)"
    directions: ClassVar = {"": "higher means less like the reference's language"}
    targets: ClassVar = {"": "what the model had before"}
    source: ClassVar = "Jelinek et al., 1977"
    place: ClassVar = 64

    def needs(self) -> dict[str, Any]:
        """Return the one need: the reference's likelihoods of the generated answers."""
        return {"answers": GeneratedLikelihood(self.split)}

    def compute(self, answers: Likelihoods) -> Measurement:
        """Return the perplexity; at least 1. Raises UndefinedError where every answer is empty."""
        if not len(answers.logp):
            raise UndefinedError("every generated answer is empty")
        return mean_over_tokens(answers, answers.logp, lambda mean: np.exp(-mean))
