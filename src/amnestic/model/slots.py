"""The keys and values of answers that are being written, each in a slot of its own, and attention to them.

Row i of every layer's buffer holds one answer from its first token on, at the places of its positions: nothing is
padded in front, windows are told by places alone, and a slot that becomes free is filled with any other answer. ``B``
slots in use, ``K`` positions of the longest of them, ``H`` heads, ``D`` their width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, Cache

from .segments import _causal, _refuse_other, configured

NAME = "amnestic_slots"
"""What attention to slots is registered as while answers are decoded; no mask is registered, so that none is built."""
BLOCK = 64
"""Positions by which buffers grow."""


class Slots(Cache):
    """Keys and values of all layers; the slots in use are the first ones, in the order of `lengths`."""

    def __init__(self, device: torch.device) -> None:
        """Hold no slot yet, on `device`."""
        super().__init__(layers=[])
        self.device = device
        self.lengths: list[int] = []
        """Positions that are filled, of each slot in use."""
        self.attended: set[int] = set()
        """Identities of the modules that attended to slots."""
        self.windowed: set[int] = set()
        """Those of them that look at the last positions alone."""
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}
        """Layer -> keys and values, (slots, H, positions, D)."""
        self._room = (0, 0)
        """Slots and positions that the buffers have."""
        self._added: slice | None = None
        """The slots that are read in, in a pass over whole prompts; None: all of them go on by one token."""
        self._places = torch.zeros(0, dtype=torch.long, device=device)
        self._rows = torch.zeros(0, dtype=torch.long, device=device)
        self._masks: dict[int | None, Tensor | None] = {}

    @property
    def token_bytes(self) -> int:
        """Return the bytes of one position of one answer, over all layers; known once something was read in."""
        pairs = [tensor for pair in self._layers.values() for tensor in pair]
        return sum(tensor.shape[1] * tensor.shape[3] * tensor.itemsize for tensor in pairs)

    def reserve(self, slots: int, positions: int) -> None:
        """Make the buffers large enough for so many slots and positions, one layer after the other."""
        room = (slots, -(-positions // BLOCK) * BLOCK)
        if room[0] <= self._room[0] and room[1] <= self._room[1] <= 2 * room[1]:
            return
        self._room = (max(slots, len(self.lengths)), max(room[1], self._longest))
        for layer, pair in self._layers.items():
            self._layers[layer] = self._moved(pair[0]), self._moved(pair[1])

    def _moved(self, old: Tensor) -> Tensor:
        new = old.new_zeros(self._room[0], old.shape[1], self._room[1], old.shape[3])
        held = (slice(len(self.lengths)), slice(None), slice(self._longest))
        new[held] = old[held]
        return new

    @property
    def _longest(self) -> int:
        return max(self.lengths, default=0)

    @contextmanager
    def reading(self, lengths: Sequence[int]) -> Iterator[None]:
        """Let the pass in this context read in new answers of `lengths`, padded on the right, into further slots."""
        first = len(self.lengths)
        self._added = slice(first, first + len(lengths))
        try:
            yield
        finally:
            self._added = None
        self.lengths += lengths

    @contextmanager
    def going_on(self) -> Iterator[Tensor]:
        """Let the pass in this context add one token to every slot in use; yields their positions, (B, 1)."""
        self._places = torch.tensor(self.lengths, device=self.device)
        self._rows = torch.arange(len(self.lengths), device=self.device)
        self._masks = {}
        yield self._places.unsqueeze(1)
        self.lengths = [length + 1 for length in self.lengths]

    def drop(self, finished: Sequence[int]) -> list[int]:
        """Free slots, and put the last ones in use into their places; returns what was where, for each slot in use.

        What is moved is as much as was freed, so that slots are freed as soon as they can be.
        """
        gone = {*finished}
        left = len(self.lengths) - len(gone)
        holes = sorted(slot for slot in gone if slot < left)
        movers = [slot for slot in range(left, len(self.lengths)) if slot not in gone]
        order = [*range(left)]
        for hole, mover in zip(holes, movers, strict=True):
            order[hole] = mover
        if holes:
            to, origin = (torch.tensor(places, device=self.device) for places in (holes, movers))
            longest = max(self.lengths[mover] for mover in movers)
            for pair in self._layers.values():
                for tensor in pair:
                    tensor[to, :, :longest] = tensor[origin, :, :longest]
        self.lengths = [self.lengths[slot] for slot in order]
        return order

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Store what a layer computed, (B, H, T, D), and return what its queries look at."""
        if layer_idx not in self._layers:
            shapes = [(self._room[0], new.shape[1], self._room[1], new.shape[3]) for new in (key_states, value_states)]
            self._layers[layer_idx] = key_states.new_zeros(shapes[0]), value_states.new_zeros(shapes[1])
        keys, values = self._layers[layer_idx]
        if self._added is not None:
            for tensor, new in ((keys, key_states), (values, value_states)):
                tensor[self._added, :, : new.shape[2]] = new
                tensor[self._added, :, new.shape[2] :] = 0  # what was no number would stay none behind a mask
            return key_states, value_states
        keys[self._rows, :, self._places] = key_states[:, :, 0]
        values[self._rows, :, self._places] = value_states[:, :, 0]
        seen = (slice(len(self.lengths)), slice(None), slice(self._longest + 1))
        return keys[seen], values[seen]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the positions before this pass, of the longest answer."""
        return 0 if self._added is not None else self._longest

    @contextmanager
    def attending(self, model: Any) -> Iterator[None]:
        """Let `model` attend to these slots for as long as the context lasts, then as before."""
        AttentionInterface.register(NAME, self._attend)
        with configured(model, NAME):
            yield

    def _attend(
        self,
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        **settings: Any,
    ) -> tuple[Tensor, None]:
        """Return attention, (B, T, H, D), of queries (B, H, T, D) to what `update` returned; there is no dropout."""
        _refuse_other(module, attention_mask, settings)
        window = settings.get("sliding_window")
        self.attended.add(id(module))
        if window is not None:
            self.windowed.add(id(module))
        if self._added is not None:
            return _causal(query, key, value, scaling, window).transpose(1, 2).contiguous(), None
        rows, heads = query.shape[:2]
        found = torch.nn.functional.scaled_dot_product_attention(
            query.reshape(rows, key.shape[1], heads // key.shape[1], query.shape[3]),  # those of one key together
            key,
            value,
            attn_mask=self._mask(window, query.dtype),
            scale=scaling,
        )
        return found.reshape(rows, 1, heads, value.shape[3]), None

    def _mask(self, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """Return what is added to the scores of each slot, (B, 1, 1, K); the same for all layers of one window."""
        if window not in self._masks:
            shortest, longest = min(self.lengths), self._longest
            is_whole = shortest == longest and (window is None or longest < window)
            self._masks[window] = None if is_whole else self._hidden(window, dtype)
        return self._masks[window]

    def _hidden(self, window: int | None, dtype: torch.dtype) -> Tensor:
        distance = self._places[:, None] - torch.arange(self._longest + 1, device=self.device)
        is_hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
        mask = torch.zeros(is_hidden.shape, dtype=dtype, device=self.device).masked_fill_(is_hidden, -torch.inf)
        return mask[:, None, None]
