"""Examples to tokens: the only place that decides which tokens are scored.

The whole conversation is tokenized once, as the tokenizer does it. A token belongs to the answer if it ends after the
answer starts; the closing end-of-sequence (or end-of-turn) token is scored too. ``T`` is the number of tokens.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from .dates import SHOWN, asks_for_today, with_date
from .example import Example
from .options import DataOptions
from .presets import PRESETS
from .quoting import quoted
from .records import DIGEST, Records, Rows, column

BATCH = 1024
"""Conversations that are handed to the tokenizer at once."""
BATCH_CHARACTERS = 2**21
"""Characters of them, unless one alone has more: their tokens and offsets are held as Python objects."""
LONGEST_CHARACTER = 4
"""Most tokens of one character: one for each byte of UTF-8."""
REPLACEMENT = "\ufffd"
"""What bytes that are no whole character decode to."""
MARK = "answer-0d1c7a52"
"""Stands in for an answer to find out what a chat template writes before and after one."""


@dataclass(frozen=True)
class Encoded:
    """The tokens of one example, or of one chunk of a corpus text."""

    id: str
    input_ids: np.ndarray
    """(T,) int64."""
    is_scored: np.ndarray
    """(T,) bool: the token is part of the answer. The position before it predicts it, so the first token never is."""
    prompt_length: int
    """Tokens that generation starts from, at least 1; of a corpus chunk, which has no prompt, its first half (but of a
    text that stays whole its first token)."""
    closes: bool
    """The last token is the closing end-of-sequence or end-of-turn token."""
    prompt: str
    answer: str
    is_span: np.ndarray | None = None
    """(T,) bool: the token overlaps a span that its row marks to be forgotten; None where the row marks none, and all
    that is scored is to be forgotten."""
    is_tail: bool = False
    """What was left of a corpus text behind its other chunks: it may be as short as a full stop, which many texts
    share."""

    @property
    def scored(self) -> int:
        """Return the number of scored tokens."""
        return int(self.is_scored.sum())

    @property
    def is_forgotten(self) -> np.ndarray:
        """Return (T,) bool: the token is scored, and to be forgotten if this is an example of the forget split."""
        is_forgotten: np.ndarray = self.is_scored if self.is_span is None else self.is_scored & self.is_span
        return is_forgotten

    @property
    def is_context(self) -> np.ndarray:
        """Return (T,) bool: the token is scored, and stands around the spans that its row marks."""
        is_context: np.ndarray = self.is_scored & ~self.is_forgotten
        return is_context


def _digest(encoded: Encoded) -> bytes:
    return hashlib.sha256(encoded.input_ids.tobytes()).digest()[: DIGEST.itemsize]


FACTS: dict[str, tuple[Any, Callable[[Encoded], Any]]] = {
    "length": (np.int32, lambda row: len(row.input_ids)),
    "scored": (np.int32, lambda row: row.scored),
    "highest": (np.int32, lambda row: row.input_ids.max()),
    "tokens": (DIGEST, _digest),
    "forgotten": (np.int32, lambda row: int(row.is_forgotten.sum())),
    "is_marked": (np.bool_, lambda row: row.is_span is not None),
    "is_tail": (np.bool_, lambda row: row.is_tail),
}
"""What stays at hand of each encoded example, however many there are: its type, and how it is found."""


def encoded_rows() -> Records[Encoded]:
    """Return an empty sequence for any number of encoded examples."""
    columns = [(name, kind) for name, (kind, _) in FACTS.items()]
    return Records(Encoded, columns, lambda row: tuple(find(row) for _, find in FACTS.values()))


def fact(examples: Iterable[Encoded], name: str) -> np.ndarray:
    """Return one of FACTS for each example, (B,); none is read where they lie in a file."""
    if isinstance(examples, Rows):
        return column(examples, name)
    kind, find = FACTS[name]
    return np.array([find(row) for row in examples], dtype=kind)


@dataclass
class Split:
    """The encoded examples of one split, and what did not fit."""

    name: str
    examples: Records[Encoded] = field(default_factory=encoded_rows)
    rows: int = 0
    """Rows of the source."""
    too_long: int = 0
    """Rows longer than the limit, whatever was done with them."""
    left_out: int = 0
    """Rows of which nothing is scored: dropped as too long, with a prompt that fills the limit, or with no token but
    the first and the closing one."""
    longest: int = 0
    """Tokens of the longest row before cutting."""
    lost_span_tokens: int = 0
    """Tokens in marked spans that nothing predicts: beyond the limit, or the first of a text or of a chunk."""

    @property
    def scored(self) -> int:
        """Return the number of scored tokens."""
        return int(self.examples.facts["scored"].sum(dtype=np.int64))

    @property
    def highest(self) -> int:
        """Return the largest token id."""
        return int(self.examples.facts["highest"].max())


@dataclass(frozen=True)
class Rendered:
    """The text of one conversation and where its answer stands, in characters."""

    text: str
    start: int
    end: int
    is_chat: bool
    """A chat template wrote the text, special tokens included; the tokenizer adds none."""

    def spans(self, example: Example) -> list[tuple[int, int]]:
        """Return the spans that the row marks as ranges of `text`; a template may have trimmed the answer's ends."""
        written = self.text[self.start : self.end]
        shift = self.start + _indent(written) - _indent(example.answer)
        return [(max(start + shift, self.start), min(end + shift, self.end)) for start, end in example.forget_spans]


@dataclass(frozen=True)
class Tokens:
    """The tokens of one whole conversation or text, before anything is cut."""

    ids: np.ndarray
    """(T,) int64."""
    first: int
    """Index of the answer's first token."""
    closes: bool
    """The last token closes the answer."""
    spans: np.ndarray | None = None
    """(S, T) bool: the token overlaps the span; None where the row marks none."""
    begins: int = 0
    """Of a corpus text 1 where the tokenizer put its beginning-of-sequence token in front: so do all its chunks."""

    @property
    def is_span(self) -> np.ndarray | None:
        """Return (T,) bool: the token overlaps a span; None where the row marks none."""
        return None if self.spans is None else np.logical_or.reduce(self.spans)


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
        if self.chat_template is None and (options.template_args or options.system_prompt is not None):
            raise InputError(f"{_asking_for_chat(options)} or give --chat_template FILE.")
        self.arguments = {key: _literal(value) for key, value in options.template_args.items()}
        self.closing = _closing_tokens(tokenizer)

    def encode(self, name: str, examples: Sequence[Example]) -> Split:
        """Return the split called `name`.

        Raises InputError where nothing is left to score, where rows are too long under ``too_long="error"``, and where
        messages meet a tokenizer without a chat template.
        """
        split = Split(name, rows=len(examples))
        for batch in _batches(examples):
            for example, encoded in self._tokens(batch):
                self._add(split, example, encoded)
        if split.too_long and self.options.too_long == "error":
            raise InputError(
                f"{split.too_long} of {split.rows} {name} rows are longer than {self.limit} tokens (the longest has "
                f"{split.longest}); raise --max_length where the model allows it, or give --too_long cut or drop."
            )
        if not split.examples:
            advice = "raise --max_length" if split.longest > self.limit else "give longer answers"
            raise InputError(
                f"no {name} row has a token to score within {self.limit} tokens (the longest row has {split.longest}); "
                f"{advice}."
            )
        return split

    def facts(self, example: Example) -> dict[str, Any]:
        """Return what a results file records of the template: kind, arguments, hash of the first rendered prompt."""
        kind = "text" if example.kind == "text" else "as it stands"
        if example.kind in ("question", "messages"):
            kind = "chat" if self.chat_template else "question"
        facts: dict[str, Any] = {"kind": kind, "first_prompt_sha256": self.prompt(example)["sha256"]}
        if kind == "chat":
            facts |= {"arguments": dict(self.arguments), "system_prompt": self.options.system_prompt}
            facts["template_sha256"] = hashlib.sha256(str(self.chat_template).encode()).hexdigest()
            if self.writes_date(example):
                facts["date"] = SHOWN
        if kind == "question":
            facts["arguments"] = {
                "question_template": self.options.question_template,
                "answer_template": self.options.answer_template,
            }
        return facts

    def prompt(self, example: Example) -> dict[str, str]:
        """Return the rendered prompt of `example`, up to its answer's first character: ``text``, and its ``sha256``."""
        rendered = self._render(example)
        text = rendered.text[: rendered.start]
        return {"text": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}

    def writes_date(self, example: Example) -> bool:
        """Return whether the prompt of `example` holds the pinned date.

        It does where the chat template asks for today's, and no argument (Llama 3's date_string) says another.
        """
        template = self.chat_template
        is_chat = example.kind in ("messages", "question")
        if template is None or not is_chat or not asks_for_today(template):
            return False
        turns = [*self._turns(example), {"role": "assistant", "content": example.answer}]
        try:
            return self._apply(turns, with_date(template, MARK)) != self._apply(turns)
        except InputError:  # it computes with the date, and a mark is none
            return True

    def preview(self, encoded: Encoded) -> list[tuple[str, bool]]:
        """Return the tokens of an example as text, each with whether it is scored: of a marked answer, in a span.

        The tokens of one character are one text.
        """
        return _whole_characters(self.tokenizer, encoded.input_ids.tolist(), encoded.is_forgotten.tolist())

    def _tokens(self, examples: Sequence[Example]) -> Iterator[tuple[Example, Tokens]]:
        """Yield each example with its tokens, in order."""
        rendered = [self._render(example) for example in examples]
        found: dict[int, Tokens] = {}
        for is_chat in (False, True):
            chosen = [i for i, item in enumerate(rendered) if item.is_chat == is_chat]
            if not chosen:
                continue
            batch = self.tokenizer(
                [rendered[i].text for i in chosen],
                add_special_tokens=not is_chat,
                return_offsets_mapping=True,
                return_attention_mask=False,
                verbose=False,
            )
            for i, ids, offsets in zip(chosen, batch["input_ids"], batch["offset_mapping"], strict=True):
                bounds = np.array(offsets, dtype=np.int64).reshape(-1, 2)
                tokens = self._close(examples[i], rendered[i], ids, bounds)
                found[i] = _with_spans(tokens, rendered[i].spans(examples[i]), bounds)
        for i, example in enumerate(examples):
            yield example, found[i]

    def _close(self, example: Example, rendered: Rendered, ids: list[int], offsets: np.ndarray) -> Tokens:
        """Find the answer's first token, and end the tokens with the one that closes the answer."""
        starts, ends = offsets[:, 0], offsets[:, 1]
        eos = self.tokenizer.eos_token_id
        if example.kind == "text":
            while ids and ids[-1] == eos and ends[len(ids) - 1] == 0:
                ids = ids[:-1]
            begins = int(bool(ids) and ids[0] == self.tokenizer.bos_token_id and ends[0] == 0)
            return Tokens(np.array(ids, dtype=np.int64), min(1, len(ids)), closes=False, begins=begins)
        first = int(np.argmax(ends > rendered.start)) if (ends > rendered.start).any() else len(ids)
        for index in range(first, len(ids)):
            if self._closes(ids[index], int(ends[index]), rendered.end):
                return Tokens(np.array(ids[: index + 1], dtype=np.int64), first, closes=True)
        if rendered.is_chat:  # what a template writes between turns belongs to no answer
            ids = ids[: first + int((starts[first:] < rendered.end).sum())]
        closed = ids + ([eos] if eos is not None else [])
        return Tokens(np.array(closed, dtype=np.int64), first, closes=eos is not None)

    def _closes(self, token: int, end: int, answer_end: int) -> bool:
        """Return whether a token, which ends at the character `end`, closes the answer that ends at `answer_end`.

        A token that the tokenizer added by itself ends at 0. An end-of-sequence that ends the answer itself counts too.
        """
        if end == answer_end:
            return bool(token == self.tokenizer.eos_token_id)
        return (end > answer_end or end == 0) and token in self.closing

    def _add(self, split: Split, example: Example, tokens: Tokens) -> None:
        ids, closes = tokens.ids, tokens.closes
        split.longest = max(split.longest, len(ids))
        if example.kind == "text" and not example.is_whole:
            chunks = list(self._chunks(example, tokens))
            self._count_lost(split, example, tokens, chunks)
            split.examples.extend(chunks)
            split.left_out += not chunks
            return
        is_too_long = len(ids) > self.limit
        split.too_long += is_too_long
        if is_too_long:
            ids, closes = ids[: self.limit], False
        first = max(tokens.first, 1)  # nothing predicts the first token
        if is_too_long and self.options.too_long == "drop":
            split.left_out += 1
            return
        is_scored = np.arange(len(ids)) >= first
        is_span = None if tokens.is_span is None else tokens.is_span[: len(ids)]
        prompt, answer = example.prompt_text, example.answer
        encoded = Encoded(example.id, ids, is_scored, first, closes, prompt, answer, is_span)
        self._count_lost(split, example, tokens, [encoded])
        if len(ids) - closes <= first:
            split.left_out += 1
            return
        split.examples.append(encoded)

    def _count_lost(self, split: Split, example: Example, tokens: Tokens, encoded: Sequence[Encoded]) -> None:
        """Count the marked tokens that are not scored in what became of the row.

        Raises InputError where this is the whole of a span.
        """
        if tokens.spans is None:
            return
        parts = [part.is_scored[tokens.begins :] for part in encoded]
        kept = np.concatenate([np.zeros(tokens.begins, dtype=bool), *parts])
        kept = np.pad(kept, (0, len(tokens.ids) - len(kept)))
        lost = ~(tokens.spans & kept).any(axis=1)
        if lost.any():
            span = list(example.forget_spans[int(lost.argmax())])
            raise InputError(
                f"{example.id}: the span {span} of its answer overlaps no scored token within {self.limit} "
                "tokens, so it cannot be forgotten; raise --max_length, or mark it otherwise."
            )
        split.lost_span_tokens += int((tokens.spans.any(axis=0) & ~kept).sum())

    def _chunks(self, example: Example, tokens: Tokens) -> Iterator[Encoded]:
        """Cut a corpus text into chunks, each of which begins as the text does."""
        head, body = np.split(tokens.ids, [tokens.begins])
        is_span = None if tokens.is_span is None else tokens.is_span[tokens.begins :]
        cuts = self._cuts(body, is_span, tokens.begins)
        for number, (start, end) in enumerate(pairwise(cuts)):
            chunk = np.concatenate([head, body[start:end]])
            if len(chunk) < 2:
                continue
            half = self._between_characters(chunk, 1, (len(chunk) + 1) // 2)
            name = example.id if len(cuts) == 2 else f"{example.id}.{number}"
            prompt, answer = (
                self.tokenizer.decode(part, skip_special_tokens=True) for part in (chunk[:half], chunk[half:])
            )
            part = None if is_span is None else np.pad(is_span[start:end], (tokens.begins, 0))
            is_tail = len(cuts) > 2 and number == len(cuts) - 2
            yield Encoded(name, chunk, np.arange(len(chunk)) > 0, half, False, prompt, answer, part, is_tail)

    def _cuts(self, ids: np.ndarray, is_span: np.ndarray | None, begins: int) -> list[int]:
        """Return where a text is cut: between characters, into chunks with room for the `begins` tokens in front.

        Where nothing stands in front of a chunk its first token is never scored: no cut is made in front of a token in
        a span, and a tail of one token, which nothing could predict, takes another from the chunk before.
        """
        size, least = self.limit - begins, 2 - begins
        unscored = None if begins else is_span
        cuts = [0]
        while cuts[-1] + size < len(ids):
            low = cuts[-1] + least
            cuts.append(_outside(unscored, low, self._between_characters(ids, low, cuts[-1] + size)))
        cuts.append(len(ids))
        if not begins and len(cuts) > 2 and cuts[-1] - cuts[-2] == 1 and self.limit > 2:
            cuts[-2] = _outside(unscored, cuts[-3] + least, cuts[-2] - 1)
        return cuts

    def _between_characters(self, ids: np.ndarray, low: int, cut: int) -> int:
        """Return the last place from `low` to `cut` at which no character's tokens are torn apart; else `cut`."""
        for place in range(cut, max(low - 1, cut - LONGEST_CHARACTER), -1):
            text = self.tokenizer.decode(ids[max(0, place - LONGEST_CHARACTER) : place])
            if not text.endswith(REPLACEMENT):
                return place
        return cut

    def _render(self, example: Example) -> Rendered:
        if example.kind == "text":
            return Rendered(example.answer, 0, len(example.answer), is_chat=False)
        if example.kind == "messages" or (example.kind == "question" and self.chat_template):
            return self._render_chat(example)
        prompt, answer, start = str(example.prompt), example.answer, 0
        if example.kind == "question":
            prompt = self.options.question_template.replace("{question}", prompt)
            start = self.options.answer_template.index("{answer}")
            answer = self.options.answer_template.replace("{answer}", answer)
        begin = len(prompt) + start
        return Rendered(prompt + answer, begin, begin + len(example.answer), is_chat=False)

    def _render_chat(self, example: Example) -> Rendered:
        if self.chat_template is None:
            raise InputError(
                f"{example.id} is a list of messages, and there is no chat template for it; give --chat_template FILE."
            )
        turns = self._turns(example)
        before, found, after = self._apply([*turns, {"role": "assistant", "content": MARK}]).rpartition(MARK)
        whole = self._apply([*turns, {"role": "assistant", "content": example.answer}])
        body = whole.removesuffix(after)
        start = _start(body, before, example.answer)
        if not found or start is None:
            raise InputError(
                f"the chat template does not write the answer of {example.id} as it stands; give another one."
            )
        return Rendered(whole, start, len(body), is_chat=True)

    def _turns(self, example: Example) -> list[dict[str, str]]:
        """Return the messages before the answer, the system's in front where one is given and the row has none."""
        prompt = example.prompt
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(turn) for turn in prompt]
        if self.options.system_prompt is not None and turns[0]["role"] != "system":
            turns.insert(0, {"role": "system", "content": self.options.system_prompt})
        return turns

    def _apply(self, messages: list[dict[str, str]], template: str | None = None) -> str:
        """Return a conversation as `template` writes it; without one, as the run's does, with the pinned date."""
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    messages,
                    chat_template=template or with_date(str(self.chat_template)),
                    tokenize=False,
                    add_generation_prompt=False,
                    **self.arguments,
                )
            )
        except Exception as error:  # templates raise whatever their author chose
            raise InputError(f"the chat template refused a conversation: {quoted(error)}.") from error


def _chat_template(tokenizer: Any, choice: str) -> str | None:
    if choice == "none":
        return None
    if choice == "auto":
        return tokenizer.get_chat_template() if tokenizer.chat_template else None
    path = Path(choice)
    if not path.is_file():
        raise InputError(f"--chat_template is {choice!r}, and there is no such file; expected auto, none or a file.")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"--chat_template {choice} cannot be read: {error}; expected a Jinja file in UTF-8."
        ) from error


def _asking_for_chat(options: DataOptions) -> str:
    """Return the beginning of a sentence about options that need a chat template."""
    if (preset := PRESETS.get(options.preset or "")) and preset.options["chat_template"] != "none":
        return f"--preset {options.preset} is for models with a chat template, and there is none; leave it out,"
    return "--template_args and --system_prompt are for chat templates, and there is none; leave them out,"


def _closing_tokens(tokenizer: Any) -> set[int]:
    """Return the tokens that can end a turn, marked as special or not: all that were added, but for whitespace.

    An end-of-turn token that is not the end-of-sequence often has no role that `all_special_ids` knows.
    """
    added = {token for token, entry in tokenizer.added_tokens_decoder.items() if entry.special or entry.content.strip()}
    closing = (set(tokenizer.all_special_ids) | added) - {tokenizer.unk_token_id}
    return closing if tokenizer.eos_token_id is None else closing | {tokenizer.eos_token_id}


def _with_spans(tokens: Tokens, spans: Sequence[tuple[int, int]], offsets: np.ndarray) -> Tokens:
    """Return `tokens` with the spans, which are ranges of the text that `offsets` (T, 2) are into."""
    if not spans:
        return tokens
    found = np.zeros((len(spans), len(tokens.ids)), dtype=bool)
    count = min(len(offsets), len(tokens.ids))  # a token that closes the answer may have been added
    for overlaps, (start, end) in zip(found, spans, strict=True):
        if start < end:  # else the template trimmed it away
            overlaps[:count] = (offsets[:count, 0] < end) & (offsets[:count, 1] > start)
    return replace(tokens, spans=found)


def _outside(is_span: np.ndarray | None, low: int, cut: int) -> int:
    """Return the last index from `low` to `cut` whose token is in no span; `cut` where there is none."""
    if is_span is None or not is_span[cut]:
        return cut
    free = np.flatnonzero(~is_span[low:cut])
    return low + int(free[-1]) if len(free) else cut


def _indent(text: str) -> int:
    """Return the number of white-space characters that `text` begins with."""
    return len(text) - len(text.lstrip())


def span_facts(examples: Sequence[Encoded]) -> dict[str, int]:
    """Return how many examples have a marked span, and how many tokens these are; nothing where none is marked."""
    if not (is_marked := fact(examples, "is_marked")).any():
        return {}
    found = fact(examples, "forgotten")[is_marked]
    return {"span_examples": int((found > 0).sum()), "span_tokens": int(found.sum(dtype=np.int64))}


def _whole_characters(tokenizer: Any, tokens: list[int], marks: list[bool]) -> list[tuple[str, bool]]:
    """Return what each token adds to the text, with its mark; the tokens of one character, bytes of it, are one text.

    A token is read behind the one before it: alone, it may lose the blank that it begins with.
    """
    found: list[tuple[str, bool]] = []
    before, done = 0, 0
    for end in range(1, len(tokens) + 1):
        text = tokenizer.decode(tokens[before:end])
        if text.endswith(REPLACEMENT) and end - done < LONGEST_CHARACTER and end < len(tokens):
            continue
        shown = text[len(tokenizer.decode(tokens[before:done])) :]
        found.append((shown, any(marks[done:end])))
        before, done = done, end
    return found


def _start(body: str, before: str, answer: str) -> int | None:
    """Return where the answer, which the template may have trimmed, begins: it stands at the end of `body`.

    `before` is what the template writes before another answer; where it differs (a template that reads the answer's
    reasoning out of it), the answer must stand at the end all the same.
    """
    if body.startswith(before) and body[len(before) :].strip() == answer.strip():
        return len(before)
    trimmed, wanted = body.rstrip(), answer.strip()
    return len(trimmed) - len(wanted) if trimmed.endswith(wanted) else None


def _literal(value: str) -> str | bool:
    """Read true and false, which templates test as such (enable_thinking); everything else stays text."""
    return {"true": True, "false": False}.get(str(value).lower(), value)


def lengths(examples: Iterable[Encoded]) -> np.ndarray:
    """Return the number of tokens of each example, (B,)."""
    return fact(examples, "length").astype(np.int64)


def token_digests(examples: Iterable[Encoded]) -> np.ndarray:
    """Return a hash of the tokens of each example, (B,) of 16 bytes: equal for equal tokens."""
    return fact(examples, "tokens")


def whole_digests(examples: Iterable[Encoded]) -> np.ndarray:
    """Return `token_digests` of the examples that are no tails."""
    digests: np.ndarray = fact(examples, "tokens")[~fact(examples, "is_tail")]
    return digests


def _batches(examples: Iterable[Example]) -> Iterator[list[Example]]:
    """Yield examples in lists of at most BATCH, and of at most BATCH_CHARACTERS unless one alone has more."""
    batch: list[Example] = []
    characters = 0
    for example in examples:
        size = len(example.prompt_text) + len(example.answer)
        if batch and (len(batch) == BATCH or characters + size > BATCH_CHARACTERS):
            yield batch
            batch, characters = [], 0
        batch.append(example)
        characters += size
    if batch:
        yield batch
