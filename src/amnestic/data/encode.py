"""Examples to tokens: the only place that decides which tokens are scored.

The whole conversation is tokenized once, as the tokenizer does it. A token belongs to the answer if it ends after the
answer starts; the closing end-of-sequence (or end-of-turn) token is scored too. ``T`` is the number of tokens.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from .example import Example
from .options import DataOptions

BATCH = 1024
"""Conversations that are handed to the tokenizer at once."""


@dataclass(frozen=True)
class Encoded:
    """The tokens of one example, or of one chunk of a corpus text."""

    id: str
    input_ids: np.ndarray
    """(T,) int64."""
    is_scored: np.ndarray
    """(T,) bool: the token is part of the answer. The position before it predicts it, so the first token never is."""
    prompt_length: int
    """Tokens that generation starts from; of a corpus chunk, which has no prompt, its first half."""
    closes: bool
    """The last token is the closing end-of-sequence or end-of-turn token."""
    prompt: str
    answer: str

    @property
    def scored(self) -> int:
        """Return the number of scored tokens."""
        return int(self.is_scored.sum())


@dataclass
class Split:
    """The encoded examples of one split, and what did not fit."""

    name: str
    examples: list[Encoded] = field(default_factory=list)
    rows: int = 0
    """Rows of the source."""
    too_long: int = 0
    """Rows longer than the limit, whatever was done with them."""
    left_out: int = 0
    """Rows of which nothing is scored: dropped as too long, or with a prompt that fills the limit."""
    longest: int = 0
    """Tokens of the longest row before cutting."""

    @property
    def scored(self) -> int:
        """Return the number of scored tokens."""
        return sum(example.scored for example in self.examples)


@dataclass(frozen=True)
class Rendered:
    """The text of one conversation and where its answer stands, in characters."""

    text: str
    start: int
    end: int
    add_special_tokens: bool


class Encoder:
    """Turns examples into tokens with one tokenizer and one template."""

    def __init__(self, tokenizer: Any, options: DataOptions, model_limit: int | None = None) -> None:
        """`model_limit` is the number of positions that the model knows, where it has such a limit.

        Raises InputError for a tokenizer without character offsets, and for a template file that cannot be read.
        """
        if not tokenizer.is_fast:
            raise InputError(
                f"the tokenizer {type(tokenizer).__name__} gives no character offsets; expected a fast tokenizer "
                "(a folder with tokenizer.json)."
            )
        self.tokenizer = tokenizer
        self.options = options
        self.limit = min(options.max_length, model_limit or options.max_length)
        self.chat_template = _chat_template(tokenizer, options.chat_template)
        self.arguments = {key: _literal(value) for key, value in options.template_args.items()}
        self.closing = set(tokenizer.all_special_ids)

    def encode(self, name: str, examples: Sequence[Example]) -> Split:
        """Return the split called `name`.

        Raises InputError where nothing is left to score, where rows are too long under ``too_long="error"``, and where
        messages meet a tokenizer without a chat template.
        """
        split = Split(name, rows=len(examples))
        for first in range(0, len(examples), BATCH):
            for example, encoded in self._tokens(examples[first : first + BATCH]):
                self._add(split, example, encoded)
        if split.too_long and self.options.too_long == "error":
            raise InputError(
                f"{split.too_long} of {split.rows} {name} rows are longer than {self.limit} tokens (the longest has "
                f"{split.longest}); raise --max_length where the model allows it, or give --too_long cut or drop."
            )
        if not split.examples:
            raise InputError(
                f"no {name} row has an answer within {self.limit} tokens (the longest row has {split.longest}); "
                "raise --max_length."
            )
        return split

    def facts(self, example: Example) -> dict[str, Any]:
        """Return what a results file records of the template: kind, arguments, hash of the first rendered prompt."""
        rendered = self._render(example)
        prompt = rendered.text[: rendered.start]
        kind = "text" if example.kind == "text" else "as it stands"
        if example.kind in ("question", "messages"):
            kind = "chat" if self.chat_template else "question"
        facts: dict[str, Any] = {"kind": kind, "first_prompt_sha256": hashlib.sha256(prompt.encode()).hexdigest()}
        if kind == "chat":
            facts |= {"arguments": dict(self.arguments), "system_prompt": self.options.system_prompt}
            facts["template_sha256"] = hashlib.sha256(str(self.chat_template).encode()).hexdigest()
        if kind == "question":
            facts["arguments"] = {
                "question_template": self.options.question_template,
                "answer_template": self.options.answer_template,
            }
        return facts

    @property
    def writes_today(self) -> bool:
        """Return whether the chat template writes the current date unless an argument pins it."""
        return (
            self.chat_template is not None
            and "strftime_now" in self.chat_template
            and "date_string" not in self.arguments
        )

    def preview(self, encoded: Encoded) -> list[tuple[str, bool]]:
        """Return the tokens of an example as text, each with whether it is scored."""
        return [
            (self.tokenizer.decode([token]), bool(scored))
            for token, scored in zip(encoded.input_ids.tolist(), encoded.is_scored, strict=True)
        ]

    def _tokens(self, examples: Sequence[Example]) -> Iterator[tuple[Example, tuple[np.ndarray, int, bool]]]:
        """Yield (input_ids, index of the first answer token, closes) for each example."""
        rendered = [self._render(example) for example in examples]
        for special in (False, True):
            chosen = [i for i, item in enumerate(rendered) if item.add_special_tokens == special]
            if not chosen:
                continue
            batch = self.tokenizer(
                [rendered[i].text for i in chosen],
                add_special_tokens=special,
                return_offsets_mapping=True,
                return_attention_mask=False,
                verbose=False,
            )
            for i, ids, offsets in zip(chosen, batch["input_ids"], batch["offset_mapping"], strict=True):
                yield examples[i], self._close(examples[i], rendered[i], ids, offsets)

    def _close(
        self, example: Example, rendered: Rendered, ids: list[int], offsets: list[tuple[int, int]]
    ) -> tuple[np.ndarray, int, bool]:
        """Find the answer's first token, and end the tokens with the one that closes the answer."""
        ends = np.array([end for _, end in offsets], dtype=np.int64)
        eos = self.tokenizer.eos_token_id
        if example.kind == "text":
            while ids and ids[-1] == eos:
                ids = ids[:-1]
            return np.array(ids, dtype=np.int64), min(1, len(ids)), False
        first = int(np.argmax(ends > rendered.start)) if (ends > rendered.start).any() else len(ids)
        starts = np.array([start for start, _ in offsets], dtype=np.int64)
        inside = np.flatnonzero((starts < rendered.end) & (ends > rendered.start))
        last = int(inside[-1]) if len(inside) else first - 1
        for index in range(last + 1, len(ids)):
            if ids[index] in self.closing:
                return np.array(ids[: index + 1], dtype=np.int64), first, True
        closed = ids[: last + 1] + ([eos] if eos is not None else [])
        return np.array(closed, dtype=np.int64), first, eos is not None

    def _add(self, split: Split, example: Example, tokens: tuple[np.ndarray, int, bool]) -> None:
        ids, first, closes = tokens
        split.longest = max(split.longest, len(ids))
        if example.kind == "text":
            chunks = list(self._chunks(example, ids))
            split.examples.extend(chunks)
            split.left_out += not chunks
            return
        is_too_long = len(ids) > self.limit
        split.too_long += is_too_long
        if is_too_long:
            ids, closes = ids[: self.limit], False
        if len(ids) <= max(first, 1) or (is_too_long and self.options.too_long == "drop"):
            split.left_out += 1
            return
        is_scored = np.arange(len(ids)) >= max(first, 1)
        split.examples.append(Encoded(example.id, ids, is_scored, first, closes, example.prompt_text, example.answer))

    def _chunks(self, example: Example, ids: np.ndarray) -> Iterator[Encoded]:
        """Cut a corpus text; a tail of one token, which nothing could predict, takes another from the chunk before."""
        cuts = list(range(0, len(ids), self.limit)) + [len(ids)]
        if len(cuts) > 2 and cuts[-1] - cuts[-2] == 1 and self.limit > 2:
            cuts[-2] -= 1
        for number, (start, end) in enumerate(zip(cuts, cuts[1:], strict=False)):
            chunk = ids[start:end]
            if len(chunk) < 2:
                continue
            half = (len(chunk) + 1) // 2
            name = example.id if len(cuts) == 2 else f"{example.id}.{number}"
            prompt, answer = (self.tokenizer.decode(part, skip_special_tokens=True) for part in (chunk[:half], chunk[half:]))
            yield Encoded(name, chunk, np.arange(len(chunk)) > 0, half, False, prompt, answer)

    def _render(self, example: Example) -> Rendered:
        if example.kind == "text":
            return Rendered(example.answer, 0, len(example.answer), add_special_tokens=True)
        if example.kind == "messages" or (example.kind == "question" and self.chat_template):
            return self._render_chat(example)
        prompt, answer, start = str(example.prompt), example.answer, 0
        if example.kind == "question":
            prompt = self.options.question_template.replace("{question}", prompt)
            start = self.options.answer_template.index("{answer}")
            answer = self.options.answer_template.replace("{answer}", answer)
        else:
            start = len(answer) - len(answer.lstrip())
        begin = len(prompt) + start
        return Rendered(prompt + answer, begin, begin + len(example.answer.strip()), add_special_tokens=True)

    def _render_chat(self, example: Example) -> Rendered:
        if self.chat_template is None:
            raise InputError(
                f"{example.id} is a list of messages, but the tokenizer has no chat template; give --chat_template FILE."
            )
        prompt = example.prompt
        before = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(turn) for turn in prompt]
        if self.options.system_prompt is not None and before[0]["role"] != "system":
            before.insert(0, {"role": "system", "content": self.options.system_prompt})
        asked = self._apply(before, add_generation_prompt=True)
        whole = self._apply([*before, {"role": "assistant", "content": example.answer}], add_generation_prompt=False)
        answer = example.answer.strip()
        start = whole.find(answer, len(asked)) if whole.startswith(asked) else whole.rfind(answer)
        if start < 0:
            raise InputError(f"the chat template does not write the answer of {example.id} as it stands; give another one.")
        return Rendered(whole, start, start + len(answer), add_special_tokens=False)

    def _apply(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    messages,
                    chat_template=self.chat_template,
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                    **self.arguments,
                )
            )
        except Exception as error:  # templates raise whatever their author chose
            raise InputError(f"the chat template refused a conversation: {error}.") from error


def _chat_template(tokenizer: Any, choice: str) -> str | None:
    if choice == "none":
        return None
    if choice == "auto":
        return tokenizer.get_chat_template() if tokenizer.chat_template else None
    path = Path(choice)
    if not path.is_file():
        raise InputError(f"--chat_template is {choice!r}, and there is no such file; expected auto, none or a file.")
    return path.read_text(encoding="utf-8")


def _literal(value: str) -> str | bool:
    """Read true and false, which templates test as such (enable_thinking); everything else stays text."""
    return {"true": True, "false": False}.get(str(value).lower(), value)


def lengths(examples: Iterable[Encoded]) -> np.ndarray:
    """Return the number of tokens of each example, (B,)."""
    return np.array([len(example.input_ids) for example in examples], dtype=np.int64)
