"""The example: what a row of data means, before any tokenizer has seen it."""

import hashlib
import json
from dataclasses import dataclass

Messages = tuple[dict[str, str], ...]
Spans = tuple[tuple[int, int], ...]


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

    @property
    def fingerprint(self) -> str:
        """Return a hash of prompt and answer, without outer white space: equal for equal content in any file or row.

        What is marked in the answer is left out: a marked answer and the same answer unmarked are one content.
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
