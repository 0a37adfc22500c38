"""What would leave the machine, where to, and what it would cost: shown before anything is sent."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .answers import Answer
from .asking import Question
from .endpoint import Endpoint
from .options import SendingOptions

REPLY = 12
"""Tokens that a score takes in a reply, its name included."""
CHARACTERS = 4
"""Characters of a token, where there is no tokenizer to count by."""


@dataclass(frozen=True)
class Sending:
    """Everything that is to be sent."""

    endpoint: Endpoint
    key_env: str
    questions: Sequence[Question]
    answers: Sequence[Answer]
    """What the questions are about: several answers may be one question."""
    known: int
    """Prompts that earlier calls have answered."""
    tokenizer: Path | None
    options: SendingOptions

    @property
    def example(self) -> str:
        """Return the first prompt that would be sent, as it is sent."""
        return str(self.questions[0].request["messages"][0]["content"])

    @property
    def facts(self) -> dict[str, str]:
        """Return what a user should know before agreeing, by its name."""
        sent, counted_by = self._sent_tokens()
        received = sum(REPLY * len(question.criteria) for question in self.questions)
        splits = ", ".join(dict.fromkeys(answer.split for answer in self.answers))
        models = ", ".join(dict.fromkeys(answer.model for answer in self.answers))
        facts = {
            "prompts to send": f"{len(self.questions):,}" + (f" ({self.known:,} more are known)" if self.known else ""),
            "what they hold": f"columns prompt, answer and generated of the splits {splits} and the models {models}",
            "where to": f"{self.endpoint.address} ({self._place()})",
            "with the key": "none" if self.endpoint.key is None else f"in {self.key_env}",
            "tokens, about": f"{sent:,} to send, {received:,} to receive ({counted_by}; tries again come on top)",
        }
        return facts | self._cost(sent, received)

    def _place(self) -> str:
        if self.endpoint.is_local:
            return "this machine: nothing leaves it, unless what listens there passes it on"
        encrypted = "encrypted" if self.endpoint.url.scheme == "https" else "NOT ENCRYPTED"
        return f"another machine, {encrypted}"

    def _sent_tokens(self) -> tuple[int, str]:
        """Return the tokens of all prompts, and what they were counted by."""
        texts = [str(question.request["messages"][0]["content"]) for question in self.questions]
        if self.tokenizer is not None:
            from tokenizers import Tokenizer

            tokenizer = Tokenizer.from_file(str(self.tokenizer))
            tokenizer.no_truncation()  # its file may hold a limit, or a width to pad to
            tokenizer.no_padding()
            encoded = tokenizer.encode_batch(texts, add_special_tokens=False)
            return sum(map(len, encoded)), "counted by the run's tokenizer; the judge's own may differ"
        return sum(map(len, texts)) // CHARACTERS, f"estimated as characters / {CHARACTERS}"

    def _cost(self, sent: int, received: int) -> dict[str, str]:
        price_input, price_output = self.options.price_input, self.options.price_output
        if price_input is None or price_output is None:
            return {}
        cost = (sent * price_input + received * price_output) / 1e6
        return {"cost, about": f"{cost:.4g}, in the currency of the prices"}
