"""What ends an answer: some tokens, and some texts, which are found without decoding the answer at each step.

What a token's own text says is found once: whether it can complete a stop string. Only behind such a token is the tail
of the answer decoded, and only where the tail holds a stop string is the whole answer, which decides.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What stands in a text for bytes that are no whole character."""
AROUND = 4
"""Tokens of a tail besides those of a stop string: the first may lose its blank, and clean-up takes some away."""


class _Entry(NamedTuple):
    """What is known of one token of the vocabulary."""

    can_complete: bool
    """A stop string can end within its text."""
    is_visible: bool
    """It says anything, as special tokens do not."""
    is_whole: bool
    """It begins and ends where characters do."""


class StopStrings:
    """Texts of which the first that an answer contains ends it."""

    def __init__(self, tokenizer: Any = None, strings: Sequence[str] = ()) -> None:
        """Look for `strings` in what `tokenizer` makes of tokens, special ones left out; without strings, for nothing.

        Raises InputError for an empty one.
        """
        if not all(strings):
            raise InputError("a stop string is empty, and would end every answer; expected a text, or no stop string.")
        self.strings = tuple(strings)
        self._decode: Callable[..., str] = partial(tokenizer.decode, skip_special_tokens=True) if strings else str
        self._entries: dict[int, _Entry] = {}
        self._span = max((len(stop.encode()) for stop in strings), default=0) + AROUND

    def end_with(self, *parts: Sequence[int] | np.ndarray) -> bool:
        """Return whether the last token of an answer completes its first stop string; `parts` are its tokens."""
        if not self.strings or not self._entry(int(parts[-1][-1])).can_complete:
            return False
        tokens = [int(token) for part in parts for token in part]
        return self._hold(self._tail(tokens)) and self._hold(tokens)

    def _hold(self, tokens: list[int]) -> bool:
        text = self._decode(tokens)
        return any(stop in text for stop in self.strings)

    def _tail(self, tokens: list[int]) -> list[int]:
        """Return the last tokens, from where a character begins, that hold any stop string which the last completes.

        What can be seen of a token is one byte at least.
        """
        seen = 0
        for place in range(len(tokens) - 1, -1, -1):
            entry = self._entry(tokens[place])
            seen += entry.is_visible
            if seen >= self._span and entry.is_visible and entry.is_whole:
                return tokens[place:]
        return tokens

    def _entry(self, token: int) -> _Entry:
        if token not in self._entries:
            self._entries[token] = self._described(token)
        return self._entries[token]

    def _described(self, token: int) -> _Entry:
        """Describe a token by what it says behind itself: at the beginning of a text, some lose a blank."""
        alone, twice = self._decode([token]), self._decode([token, token])
        is_whole = UNFINISHED not in twice
        is_open = not twice.startswith(alone) or (not is_whole and not all(map(str.isascii, self.strings)))
        can_complete = is_open or any(_completes(twice[len(alone) :], stop) for stop in self.strings)
        return _Entry(can_complete, bool(twice), is_whole)


def _completes(text: str, stop: str) -> bool:
    """Return whether a stop string can end within `text`, whatever stands before it."""
    return stop in text or any(text.startswith(stop[cut:]) for cut in range(1, len(stop)))


@dataclass(frozen=True)
class Endings:
    """What ends an answer."""

    tokens: frozenset[int] = frozenset()
    """Each is left out of the answer that it ends."""
    strings: StopStrings = field(default_factory=StopStrings)
    """Each stands whole in the tokens of the answer that it ends, the last of which completes it."""

    def cut(self, tokens: list[int]) -> tuple[list[int], bool]:
        """Return an answer's tokens up to the first end, and whether there is one."""
        found, has_ended = until(tokens, self.tokens)
        for size in range(1, len(found) + 1):
            if self.strings.end_with(found[:size]):
                return found[:size], True
        return found, has_ended


def until(tokens: list[int], stops: frozenset[int]) -> tuple[list[int], bool]:
    """Return the tokens before the first of `stops`, and whether there is one."""
    end = next((i for i, token in enumerate(tokens) if token in stops), None)
    return (tokens, False) if end is None else (tokens[:end], True)
