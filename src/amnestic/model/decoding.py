"""Decoding of many answers at once: each goes on until it ends by itself, and none waits for another.

Prompts are read in, like lengths together, into slots (`model/slots.py`); a beginning that all of them share is read
in once. Then all answers in slots go on by one token a pass. What has ended leaves its slot at once, and slots that
became free are filled again. ``B`` answers.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import processes
from .endings import Endings
from .load import Loaded
from .memory import free_memory
from .sharding import device_of, is_sharded
from .signals import only_rows
from .slots import Slots

MOST_ROWS = {"cpu": 256}
"""Answers at once, by the kind of device: more read so much of the slots that nothing is won, and padding grows."""
MORE_ROWS = 1024
"""The same for every other device."""
POSITIONS = {"cpu": 1024}
"""Positions of prompts that one pass reads in, padding included; a longer prompt stands alone."""
MORE_POSITIONS = 16384
"""The same for every other device."""
SCORES = 2**24
"""Scores that one head computes in such a pass, where what is read in stands behind what all share."""
FEW_POSITIONS = 1024
"""The same where the logits of all positions are computed."""
UNKNOWN_ROWS = 64
"""Answers at once where nobody tells how much memory is free."""
SHARE = 0.5
"""Of the memory that is free, what slots and logits may take."""
WIDEST = 8
"""Bytes of a logit, twice as many as it has: of float32, where they are looked at."""
REFILL = 4
"""Prompts are read in where at least one slot in so many is free."""


@dataclass(frozen=True)
class Begun:
    """A prompt, and what is known of the answer to it."""

    index: int
    """Of the example."""
    tokens: np.ndarray
    """(T,) int64: the prompt, and the first tokens of the greedy answer."""
    prompt_length: int
    """Tokens of the prompt."""
    most: int
    """Tokens that may follow."""

    @property
    def answer(self) -> np.ndarray:
        """Return what is known of the answer, (n,) int64."""
        return self.tokens[self.prompt_length :]

    @property
    def length(self) -> int:
        """Return the number of tokens that are known."""
        return len(self.tokens)

    @property
    def final(self) -> int:
        """Return the number of positions that it may take."""
        return len(self.tokens) + self.most


@dataclass
class Counts:
    """What decoding took, in this process."""

    prompts: int = 0
    """Answers that were not known from their drafts."""
    real: int = 0
    """Tokens that were read in: of prompts, and of what was known of their answers; what they share is told once."""
    read: int = 0
    """Positions that they took, padding included."""
    shared: int = 0
    """Those of them that stand for all prompts, which begin with them."""
    steps: int = 0
    """Passes that add a token to answers."""
    row_steps: int = 0
    """Answers in all these passes."""
    new_tokens: int = 0
    """Tokens that had to be found, those that end an answer included: the first of each comes from reading in."""

    def read_in(self, lengths: Sequence[int]) -> None:
        """Count a pass that reads in so many tokens each, padded to the longest."""
        self.prompts += len(lengths)
        self.real += sum(lengths)
        self.read += len(lengths) * max(lengths)

    def read_shared(self, length: int) -> None:
        """Count a pass that reads in what all prompts begin with."""
        self.shared += length
        self.real += length
        self.read += length

    @property
    def needed(self) -> int:
        """Return the row-steps without which the same answers cannot be had one token at a time."""
        return self.new_tokens - self.prompts


Pick = Callable[[Tensor, Sequence[Begun], Sequence[Sequence[int]]], list[int]]
"""Says which token follows in each of some answers: told their logits (B, V), and what was found of them so far."""


def likeliest(logits: Tensor, rows: Sequence[Begun], found: Sequence[Sequence[int]]) -> list[int]:
    """Return the likeliest token of each row: that of greedy decoding."""
    return logits.argmax(-1).tolist()


Finished = Callable[[Begun, list[int], bool], None]
"""Is told what followed an answer's known tokens, without a token that ended it, and whether something did."""


@dataclass
class Decoding:
    """Answers that are being decoded by one model."""

    loaded: Loaded
    ends: Endings
    finished: Finished
    counts: Counts
    pick: Pick = likeliest
    beginning: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """(P,) int64: tokens that all answers begin with, and go on behind."""
    slots: Slots = field(init=False)
    rows: list[Begun] = field(default_factory=list)
    """The answers in slots, in their order."""
    found: list[list[int]] = field(default_factory=list)
    """What followed each of them."""
    pending: deque[Begun] = field(default_factory=deque)
    """The longest first, so that a long one is not begun last, and those in slots are of like lengths."""
    _fills: bool = False
    """Free slots are being filled."""

    def __post_init__(self) -> None:
        """Take the device of the model."""
        self.device = device_of(self.loaded.model)
        self.slots = Slots(self.device)

    def run(self, begun: Sequence[Begun], token_bytes: int) -> None:
        """Decode all answers that are begun; a slot takes so many bytes a position.

        A model that is spread over processes makes as many passes on each, until all are done.
        """
        self.pending.extend(sorted(begun, key=lambda row: -row.length))
        most, together = self._rows_at_once(token_bytes), is_sharded(self.loaded.model)
        while _is_left(bool(self.rows or self.pending), together):
            try:
                self._pass(most)
            except torch.OutOfMemoryError:
                if together or most == 1:  # others would wait for passes that are not made again
                    raise
                most = max(1, min(most, len(self.rows) or most) // 2)
            else:
                continue
            self._begin_again()  # outside the handler, whose traceback holds on to tensors

    def _pass(self, most: int) -> None:
        """Read in prompts where enough of `most` slots are free, or else go on by a token."""
        with self.slots.attending(self.loaded.model):
            if not self.pending or len(self.rows) >= most:
                self._fills = False
            elif len(self.rows) <= most - max(1, most // REFILL):
                self._fills = True
            if self._fills and self.slots.shared < len(self.beginning):
                self.read_beginning()
            elif self._fills:
                self._read(most)
            elif self.rows:
                self._step()
            else:
                self._idle()

    def _begin_again(self) -> None:
        """Give up all slots; what was found is read in again."""
        for row, found in zip(reversed(self.rows), reversed(self.found), strict=True):
            tokens = np.append(row.tokens, np.array(found, dtype=np.int64))
            self.pending.appendleft(replace(row, tokens=tokens, most=row.most - len(found)))
        self.rows, self.found, self.slots = [], [], Slots(self.device)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _rows_at_once(self, token_bytes: int) -> int:
        """Return how many of the pending answers have room at once, should each become as long as it may."""
        most, free = MOST_ROWS.get(self.device.type, MORE_ROWS), free_memory(self.device)
        if free is None or not self.pending:
            return UNKNOWN_ROWS
        slot = (max(row.final for row in self.pending) - len(self.beginning)) * token_bytes
        logits = WIDEST * len(self.loaded.model.get_output_embeddings().weight)
        return max(1, min(most, int(free * SHARE) // (slot + logits)))

    def _read(self, most: int) -> None:
        """Read in the next prompts, as many as one pass takes, up to `most` answers at once."""
        limit = POSITIONS.get(self.device.type, MORE_POSITIONS) if self.loaded.form.selects else FEW_POSITIONS
        chosen: list[Begun] = []
        longest, shared = 0, self.slots.shared
        for row in islice(self.pending, most - len(self.rows)):
            longest = max(longest, row.length - shared)
            positions = longest * (len(chosen) + 1)
            if chosen and (positions > limit or (shared and positions * (shared + longest) > SCORES)):
                break
            chosen.append(row)
        self.slots.reserve(min(most, len(self.rows) + len(self.pending)), longest)
        logits = self.read_in(chosen)
        for row in chosen:
            self.pending.popleft()
            self.rows.append(row)
            self.found.append([])
        self._take(logits, range(len(self.rows) - len(chosen), len(self.rows)))

    def read_beginning(self) -> None:
        """Read in what all answers begin with."""
        self._read_tokens([self.beginning])
        self.slots.share()
        self.counts.read_shared(len(self.beginning))

    def read_in(self, chosen: Sequence[Begun]) -> Tensor:
        """Read answers into further slots, but for what they share; returns the logits behind each, (B, V)."""
        tokens = [row.tokens[self.slots.shared :] for row in chosen]
        logits = self._read_tokens(tokens)
        self.counts.read_in([len(own) for own in tokens])
        return logits

    def _read_tokens(self, tokens: Sequence[np.ndarray]) -> Tensor:
        """Read tokens into further slots, behind what is shared; returns the logits behind each of them, (B, V)."""
        lengths, shared = [len(own) for own in tokens], self.slots.shared
        longest = max(lengths)
        self.slots.reserve(len(self.slots.lengths) + len(tokens), longest)
        ids = np.stack([np.pad(own, (0, longest - len(own)), mode="edge") for own in tokens])
        last = torch.arange(len(tokens)) * longest + torch.tensor(lengths) - 1
        places = torch.arange(shared, shared + longest).expand(len(tokens), -1)
        with self.slots.reading(lengths):
            return self._forward(torch.from_numpy(ids), places, last)

    def _step(self) -> None:
        self.counts.steps += 1
        self.counts.row_steps += len(self.rows)
        self._take(self.go_on([row[-1] for row in self.found]), range(len(self.rows)))

    def go_on(self, tokens: Sequence[int]) -> Tensor:
        """Add one token to each slot in use; returns the logits behind it, (B, V)."""
        with self.slots.going_on() as places:
            return self._forward(torch.tensor(tokens)[:, None], places, torch.arange(len(tokens)))

    def _idle(self) -> None:
        """Make a pass for the others' sake."""
        token = torch.zeros((1, 1), dtype=torch.long, device=self.device)
        with self.slots.reading([1]):
            self.loaded.model(input_ids=token, use_cache=False)
        self.slots.drop([len(self.slots.lengths) - 1])

    def _forward(self, ids: Tensor, places: Tensor, last: Tensor) -> Tensor:
        """Return the logits (B, V) of the positions `last` (B,) of all positions of `ids` (B, T), which go to slots."""
        inputs = {"input_ids": ids.to(self.device), "position_ids": places.to(self.device)}
        return self.logits({**inputs, "past_key_values": self.slots, "use_cache": True}, last)

    def logits(self, inputs: dict[str, Any], last: Tensor) -> Tensor:
        """Return the logits of the positions `last` (B,) of all, (B, V); no others reach the head where that is right.

        Of one position a row there is nothing to select.
        """
        model, last = self.loaded.model, last.to(self.device)
        if inputs["input_ids"].shape[1] > 1 and self.loaded.form.selects:
            with only_rows(model, last):
                logits = model(**inputs).logits
            if logits.shape[:2] == (1, len(last)):
                return logits[0]  # type: ignore[no-any-return]
        else:
            logits = model(**inputs).logits
        return logits.flatten(0, 1)[last]  # type: ignore[no-any-return]

    def _take(self, logits: Tensor, slots: range) -> None:
        """Let the answers in `slots` go on by the token that is picked, and free those that end with it."""
        ended: list[int] = []
        within = slice(slots.start, slots.stop)
        tokens = self.pick(logits, self.rows[within], self.found[within])
        for slot, token in zip(slots, tokens, strict=True):
            self.counts.new_tokens += 1
            row, found = self.rows[slot], self.found[slot]
            has_ended = token in self.ends.tokens
            if not has_ended:
                found.append(token)
                has_ended = self.ends.strings.end_with(row.answer, found)
            if has_ended or len(found) == row.most:
                ended.append(slot)
                self.finished(row, found, has_ended)
        if ended:
            order = self.slots.drop(ended)
            self.rows = [self.rows[slot] for slot in order]
            self.found = [self.found[slot] for slot in order]


def _is_left(has_work: bool, together: bool) -> bool:
    """Return whether anything is left to do: here, or anywhere where all processes make their passes `together`."""
    return has_work if not together else any(processes.gathered(has_work))
