"""The example: what a row of data means, before any tokenizer has seen it."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .records import DIGEST, Records, Rows, column

Messages = tuple[dict[str, str], ...]
Spans = tuple[tuple[int, int], ...]
ALTERNATES = ("paraphrased_answer", "perturbed_answer")
"""The kinds of other answers that models are measured with: the right one in other words, and wrong ones."""
SECOND = "alternate_answer"
"""The kind of the one answer that a method may teach in the place of the true one."""


@dataclass(frozen=True)
class Example:
    """One row: a prompt and the answer that is scored.

    `prompt` is one of: a question for the template (`kind` "question"), text used as it stands ("prompt"), chat
    messages before the answer ("messages"), or the empty string ("text": the whole answer is a corpus text, later cut
    into chunks).
    """

    id: str
    """``split:row``, rows counted from 0 in the order of the source."""
    kind: str
    prompt: str | Messages
    answer: str
    forget_spans: Spans = ()
    """The parts of the answer to be forgotten, as ranges of its characters ``[start, end)``; none: all of it."""
    alternates: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    """Kind, one of `ALTERNATES` or `SECOND` -> other answers to the prompt, at least one; a kind that the row lacks is
    left out."""
    is_whole: bool = False
    """Of a corpus text: it stays one example, cut where it is too long; its parts would be members of their own."""

    @property
    def fingerprint(self) -> str:
        """Return a hash of prompt and answer, without outer white space: equal for equal content in any file or row.

        What is marked in the answer is left out, and so are other answers: with or without them it is one content.
        """
        prompt = self.prompt.strip() if isinstance(self.prompt, str) else self.prompt
        content = json.dumps([self.kind, prompt, self.answer.strip()], ensure_ascii=True)
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def prompt_text(self) -> str:
        """Return the prompt as one readable string, for reports."""
        if isinstance(self.prompt, str):
            return self.prompt
        return "\n".join(f"{message['role']}: {message['content']}" for message in self.prompt)


def example_rows() -> Records[Example]:
    """Return an empty sequence for any number of examples; a digest of the content of each stays at hand."""
    columns = [("content", DIGEST), ("is_marked", np.bool_), *((kind, np.bool_) for kind in (*ALTERNATES, SECOND))]
    return Records(Example, columns, _facts)


def _facts(example: Example) -> tuple[Any, ...]:
    return _digest(example), bool(example.forget_spans), *(kind in example.alternates for kind in (*ALTERNATES, SECOND))


def content_digests(examples: Iterable[Example]) -> np.ndarray:
    """Return a hash of each example's content, (B,) of 16 bytes: equal where the fingerprints are."""
    if isinstance(examples, Rows):
        return column(examples, "content")
    return np.array([_digest(example) for example in examples], dtype=DIGEST)


def marked_rows(examples: Iterable[Example]) -> np.ndarray:
    """Return the numbers of the examples that mark a span."""
    if isinstance(examples, Rows):
        return np.flatnonzero(column(examples, "is_marked"))
    return np.flatnonzero([bool(example.forget_spans) for example in examples])


def rows_with(examples: Iterable[Example], kind: str) -> np.ndarray:
    """Return for each example whether it has other answers of `kind`, (B,) bool."""
    if isinstance(examples, Rows):
        return column(examples, kind)
    return np.array([kind in example.alternates for example in examples], dtype=np.bool_)


def _digest(example: Example) -> bytes:
    return bytes.fromhex(example.fingerprint)[: DIGEST.itemsize]
