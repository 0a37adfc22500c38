"""Answers of a model, from the prompt's tokens as they stand in the whole conversation: greedy ones, and drawn ones."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import processes
from ..data.encode import Encoded
from .decoding import Begun, Counts, Decoding, Pick, likeliest
from .endings import Endings, StopStrings
from .load import Loaded
from .padded import decode_padded
from .sharding import forward_only
from .slot_fit import examine_decoding


@dataclass(frozen=True)
class Generated:
    """An answer of the model."""

    tokens: np.ndarray
    """(n,) int64, without the token that ends it; a stop string is in them whole, up to the token that completes it."""
    text: str
    """What they say in front of a stop string, without special tokens and outer spaces."""
    has_ended: bool
    """The model ended it by itself, within the tokens and the positions that it was given."""


@dataclass(frozen=True)
class Settings:
    """How long answers may be, and what is done at once."""

    max_new_tokens: int
    """The token that ends an answer is one of them."""
    batch_size: int
    """Most answers at once of a model that transformers' own loop decodes."""
    stops: Sequence[int] | None = None
    """Tokens that end an answer; None: those that `stops` finds for the examples."""
    counts: Counts = field(default_factory=Counts)
    """Is told what it took."""
    pick: Pick = likeliest
    """Says which token follows."""
    stop_strings: tuple[str, ...] = ()
    """Texts of which the first that an answer contains ends it."""


Keep = Callable[[dict[int, Generated]], None]
"""Is told the answers that were found since it was told last, by the index of their examples."""
PAUSE = 0.5
"""Seconds from one time that answers are told to the next, at least."""


def generate(
    loaded: Loaded,
    tokenizer: Any,
    examples: Sequence[Encoded],
    settings: Settings,
    agreed: Sequence[int] | None = None,
    keep: Keep = lambda found: None,
) -> list[Generated]:
    """Return the greedy continuation of each example's prompt, up to the first token or stop string that ends it.

    `agreed` says how many tokens of each true answer, from its first, are known to be greedy (`agreed_tokens`):
    decoding starts behind them, and not at all where they tell the whole. A text ends where the model knows no further
    position.

    Several processes share the work, and all return the whole. `keep` is told of every answer once, on each of them:
    soon after it was found, also where an error ends the work; of what others found at the end.
    """
    tokens = stops(loaded.model, tokenizer, examples) if settings.stops is None else settings.stops
    ends = _endings(tokenizer, tokens, settings)
    answers = _Answers(tokenizer, settings.stop_strings, keep)
    begun: list[Begun] = []
    for i, example in enumerate(examples):
        row, has_ended = _begin(loaded, i, example, agreed[i] if agreed is not None else 0, settings, ends)
        if row.most > 0 and not has_ended:
            begun.append(row)
        else:
            answers.finish(row, [], has_ended)
    with answers.told():
        if begun:
            with forward_only(loaded.model):
                _decode(loaded, begun, settings, ends, answers)
    return answers.gathered(len(examples))


def go_on(
    loaded: Loaded, tokenizer: Any, begun: Sequence[Begun], settings: Settings, ends: Sequence[int]
) -> list[Generated]:
    """Return what becomes of answers that are `begun`, whose indices count from 0, with what is known of them in front.

    Nothing of what is known ends them. Several processes share the work, and all return the whole.
    """
    endings = _endings(tokenizer, ends, settings)
    answers = _Answers(tokenizer, settings.stop_strings, lambda found: None)
    if begun:
        with answers.told(), forward_only(loaded.model):
            _decode(loaded, begun, settings, endings, answers)
    return answers.gathered(len(begun))


def agreed_tokens(example: Encoded, is_argmax: np.ndarray) -> int:
    """Return how many tokens behind the prompt are the likeliest one after the other, from the first on.

    `is_argmax` (N,) says it of each scored token, given what stands before it in the example.
    """
    is_greedy = np.zeros(len(example.input_ids), dtype=bool)
    is_greedy[example.is_scored] = is_argmax
    others = np.flatnonzero(~is_greedy[example.prompt_length :])
    return int(others[0]) if len(others) else len(example.input_ids) - example.prompt_length


def before_stop(text: str, stop_strings: Sequence[str]) -> str:
    """Return the text in front of the first stop string that it contains, or all of it."""
    places = [place for stop in stop_strings if (place := text.find(stop)) >= 0]
    return text[: min(places, default=len(text))]


class _Answers:
    """What is found, in this process and then in all."""

    def __init__(self, tokenizer: Any, stop_strings: Sequence[str], keep: Keep) -> None:
        self._tokenizer = tokenizer
        self._strings = stop_strings
        self._keep = keep
        self._found: dict[int, Generated] = {}
        self._new: dict[int, Generated] = {}
        self._time = time.monotonic()

    def finish(self, row: Begun, new: list[int], has_ended: bool) -> None:
        """Take an answer: what was known of it, and what is new."""
        tokens = [*row.answer.tolist(), *new]
        text = before_stop(self._tokenizer.decode(tokens, skip_special_tokens=True), self._strings).strip()
        self._new[row.index] = Generated(np.array(tokens, dtype=np.int64), text, has_ended)
        if time.monotonic() - self._time > PAUSE:
            self._tell()

    @contextmanager
    def told(self) -> Iterator[None]:
        """Tell what was found in the context, however it ends."""
        try:
            yield
        finally:
            self._tell()

    def gathered(self, count: int) -> list[Generated]:
        """Return the answers of all processes, in the order of the examples."""
        for share in processes.gathered(self._found):
            self._new |= {index: answer for index, answer in share.items() if index not in self._found}
        self._tell()
        return [self._found[index] for index in range(count)]

    def _tell(self) -> None:
        new, self._new = self._new, {}
        self._found |= new
        if new:
            self._keep(new)
        self._time = time.monotonic()


def _begin(
    loaded: Loaded, index: int, example: Encoded, agreed: int, settings: Settings, ends: Endings
) -> tuple[Begun, bool]:
    """Return an answer as far as it is known, and whether it ends there."""
    start, limit = example.prompt_length, loaded.position_limit
    most = settings.max_new_tokens if limit is None else min(settings.max_new_tokens, limit + 1 - start)
    known, has_ended = ends.cut(example.input_ids[start : start + min(agreed, most)].tolist())
    tokens = example.input_ids[: start + len(known)].copy()
    return Begun(index, tokens, start, most - len(known)), has_ended


def _decode(loaded: Loaded, begun: Sequence[Begun], settings: Settings, ends: Endings, answers: _Answers) -> None:
    """Decode what is begun; every process names all of it, and keeps its own."""
    fit = examine_decoding(loaded, begun, loaded.position_limit or sys.maxsize)
    if fit.reason is not None:
        note = f"answers are decoded in padded batches, not all at once: {type(loaded.model).__name__} {fit.reason}."
        if len(begun) > settings.batch_size and note not in loaded.notes:
            loaded.notes.append(note)
        decode_padded(loaded, begun, settings.batch_size, ends, answers.finish, settings.counts, pick=settings.pick)
        return
    if fit.apart is not None:
        note = f"prompts that begin alike are read in whole, each: {type(loaded.model).__name__} {fit.apart}."
        if note not in loaded.notes:
            loaded.notes.append(note)
    own = sorted(begun, key=lambda row: row.length)[processes.rank() :: processes.count()]
    beginning = begun[0].tokens[: fit.shared]
    Decoding(loaded, ends, answers.finish, settings.counts, settings.pick, beginning).run(own, fit.token_bytes)


def _endings(tokenizer: Any, tokens: Sequence[int], settings: Settings) -> Endings:
    return Endings(frozenset(tokens), StopStrings(tokenizer, settings.stop_strings))


def stops(model: Any, tokenizer: Any, examples: Sequence[Encoded]) -> list[int]:
    """Return the tokens that end an answer: the tokenizer's, the model's, and those that close these examples."""
    found = {tokenizer.eos_token_id} | {int(example.input_ids[-1]) for example in examples if example.closes}
    configured = getattr(model.generation_config, "eos_token_id", None)
    found |= set(configured) if isinstance(configured, list) else {configured}
    return sorted(token for token in found if token is not None)
