"""The keys and values of answers that are being written, each in a slot of its own, and attention to them.

Row i of every layer's buffer holds one answer from its first token on, at the places of its positions: nothing is
padded in front, windows are told by places alone, and a slot that becomes free is filled with any other answer. What
all answers begin with is held once, and slots hold what is behind it: the queries of all answers look at the beginning
in one product, and each at its own slot in another. ``B`` slots in use, ``P`` positions of the beginning, ``K`` of the
longest answer behind it, ``H`` heads, ``G`` of them for the heads of one key, ``D`` their width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, Cache

from .segments import causal, configured, refuse_other

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
        self.shared = 0
        """Positions of the beginning: those of slots come behind them."""
        self.attended: set[int] = set()
        """Identities of the modules that attended to slots."""
        self.windowed: set[int] = set()
        """Those of them that look at the last positions alone."""
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}
        """Layer -> keys and values, (slots, H, positions, D)."""
        self._beginning: dict[int, tuple[Tensor, Tensor]] = {}
        """Layer -> keys and values of what all answers begin with, (H, P, D), in float32 or wider."""
        self._seen: tuple[Tensor, Tensor] | None = None
        """Those of the layer that attends now."""
        self._room = (0, 0)
        """Slots and positions that the buffers have."""
        self._added: slice | None = None
        """The slots that are read in, in a pass over whole prompts; None: all of them go on by one token."""
        self._ends = torch.zeros(0, dtype=torch.long, device=device)
        self._rows = torch.zeros(0, dtype=torch.long, device=device)
        self._masks: dict[int | None, Tensor | None] = {}

    @property
    def token_bytes(self) -> int:
        """Return the bytes of one position of one answer, over all layers; known once something was read in."""
        pairs = [tensor for pair in self._layers.values() for tensor in pair]
        return sum(tensor.shape[1] * tensor.shape[3] * tensor.itemsize for tensor in pairs)

    def reserve(self, slots: int, positions: int) -> None:
        """Make the buffers large enough for so many slots and positions, one layer after the other.

        Positions come in blocks, as answers become longer: few end at their last, and untouched memory costs nothing.
        """
        if slots <= self._room[0] and positions <= self._room[1]:
            return
        self._room = (max(slots, len(self.lengths)), -(-max(positions, self._longest) // BLOCK) * BLOCK)
        for layer, (keys, values) in self._layers.items():
            self._layers[layer] = self._moved(keys), self._moved(values)

    def _moved(self, old: Tensor) -> Tensor:
        new = old.new_empty(self._room[0], old.shape[1], self._room[1], old.shape[3])
        used, filled = len(self.lengths), self._longest
        new[:used, :, :filled] = old[:used, :, :filled]
        new[:used, :, filled:] = 0
        return new

    @property
    def _longest(self) -> int:
        return max(self.lengths, default=0)

    @contextmanager
    def reading(self, lengths: Sequence[int]) -> Iterator[None]:
        """Let the pass in this context read in new answers of `lengths`, padded on the right, into further slots.

        It is given what stands behind the beginning.
        """
        first = len(self.lengths)
        self._added = slice(first, first + len(lengths))
        self._masks, self._seen = {}, None
        try:
            yield
        finally:
            self._added = None
        self.lengths += lengths

    def share(self) -> None:
        """Let all answers that are read in from here on begin with the only one that is in a slot, and free it."""
        (self.shared,) = self.lengths
        for layer, (keys, values) in self._layers.items():
            self._beginning[layer] = (
                _wide(keys[0, :, : self.shared].clone()),
                _wide(values[0, :, : self.shared].clone()),
            )
        self.lengths, self._layers, self._room = [], {}, (0, 0)

    @contextmanager
    def going_on(self) -> Iterator[Tensor]:
        """Let the pass in this context add one token to every slot in use; yields their positions, (B, 1)."""
        self.reserve(len(self.lengths), self._longest + 1)
        self._ends = torch.tensor(self.lengths, device=self.device)
        self._rows = torch.arange(len(self.lengths), device=self.device)
        self._masks = {}
        yield self.shared + self._ends.unsqueeze(1)
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
            for pair in self._layers.values():
                for tensor in pair:  # all that was ever filled: what is left behind an end must be numbers
                    tensor[to, :, : self._longest] = tensor[origin, :, : self._longest]
        self.lengths = [self.lengths[slot] for slot in order]
        return order

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Store what a layer computed, (B, H, T, D), and return what its queries look at behind the beginning."""
        self._seen = self._beginning.get(layer_idx)
        if layer_idx not in self._layers:
            shapes = [(self._room[0], new.shape[1], self._room[1], new.shape[3]) for new in (key_states, value_states)]
            self._layers[layer_idx] = key_states.new_empty(shapes[0]), value_states.new_empty(shapes[1])
        keys, values = self._layers[layer_idx]
        if self._added is not None:
            for tensor, new in ((keys, key_states), (values, value_states)):
                tensor[self._added, :, : new.shape[2]] = new
                tensor[self._added, :, new.shape[2] :] = 0  # where no number stood, none would come out of a mask
            return key_states, value_states
        keys[self._rows, :, self._ends] = key_states[:, :, 0]
        values[self._rows, :, self._ends] = value_states[:, :, 0]
        seen = (slice(len(self.lengths)), slice(None), slice(self._longest + 1))
        return keys[seen], values[seen]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the positions before this pass, of the longest answer in it."""
        return self.shared if self._added is not None else self.shared + self._longest

    @contextmanager
    def attending(self, model: Any) -> Iterator[None]:
        """Let `model` attend to these slots for as long as the context lasts, then as before."""
        AttentionInterface.register(NAME, self._attend)
        try:
            with configured(model, NAME):
                yield
        finally:
            AttentionInterface.register(NAME, refuse_other)  # the registry would keep the buffers

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
        window, cap, sinks = (settings.pop(name, None) for name in ("sliding_window", "softcap", "s_aux"))
        refuse_other(module, attention_mask, settings)
        self.attended.add(id(module))
        if window is not None:
            self.windowed.add(id(module))
        if self._seen is not None:
            _refuse_others(self._seen, (key, value))
        rows, heads, length, width = query.shape
        is_plain = self._seen is None and cap is None and sinks is None
        if is_plain and self._added is not None:
            return causal(query, key, value, scaling, window).transpose(1, 2).contiguous(), None
        mask = self._mask(window, query, key.shape[2] + (0 if self._seen is None else self.shared))
        if mask is not None and length > 1:
            mask = mask.repeat(1, 1, heads // key.shape[1], 1)
        grouped = query.reshape(rows, key.shape[1], -1, width)  # the queries of one key's heads together
        if is_plain:
            found = torch.nn.functional.scaled_dot_product_attention(grouped, key, value, attn_mask=mask, scale=scaling)
        else:
            scaled = grouped * (width**-0.5 if scaling is None else scaling)
            found = _bent(scaled, key, value, mask, cap=cap, sinks=sinks, beginning=self._seen)
        return found.reshape(rows, heads, length, -1).transpose(1, 2), None

    def _mask(self, window: int | None, query: Tensor, keys: int) -> Tensor | None:
        """Return what is added to scores, for each slot (B, 1, 1, K), or for all that are read in (1, 1, T, K).

        It is the same for all layers of one window. The queries of a slot are those of its last keys.
        """
        if window not in self._masks:
            shortest, longest = min(self.lengths, default=0), self._longest
            if self._added is not None:
                places = torch.arange(keys - query.shape[2], keys, device=self.device)
                self._masks[window] = _hidden(query, places, keys, window)[None, None]
            elif shortest == longest and (window is None or keys <= window):
                self._masks[window] = None
            else:
                self._masks[window] = _hidden(query, self.shared + self._ends, keys, window)[:, None, None]
        return self._masks[window]


def _hidden(query: Tensor, places: Tensor, keys: int, window: int | None) -> Tensor:
    """Return what hides from queries at `places` (P,) later keys, and those before a window: (P, keys)."""
    distance = places[:, None] - torch.arange(keys, device=places.device)
    is_hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
    return query.new_zeros(is_hidden.shape).masked_fill_(is_hidden, -torch.inf)


def _refuse_others(held: tuple[Tensor, Tensor], given: tuple[Tensor, Tensor]) -> None:
    """Raise TypeError where a layer attends to others than a cache holds of it, as those do that expand latents."""
    if any(one.shape[-1] != other.shape[-1] for one, other in zip(held, given, strict=True)):
        raise TypeError("it attends to other keys and values than it keeps")


def _bent(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    cap: float | None,
    sinks: Tensor | None,
    beginning: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """Return attention of queries (B, H, G, D) to keys (B, H, K, D) with scores capped, or beside a sink of each head.

    In front of the keys stand those of a `beginning` of all rows, (H, P, D), whose precision all is computed in: sums
    of two products are rounded once. What a sink attracts is lost. G are heads that share keys, or these times the
    positions of each.
    """
    dtype = value.dtype
    if beginning is not None:
        query, key, value = _wide(query), _wide(key), _wide(value)
    scores = query @ key.transpose(-1, -2)
    if beginning is not None:
        scores = torch.cat([_of_all(query, beginning[0].transpose(-1, -2)), scores], dim=-1)
    if cap is not None:
        scores = torch.tanh(scores / cap) * cap
    if mask is not None:
        scores = scores + mask
    if sinks is not None:
        own = sinks.reshape(1, key.shape[1], -1, 1).to(scores.dtype)
        own = own.repeat_interleave(scores.shape[2] // own.shape[2], dim=2)
        scores = torch.cat([scores, own.expand(len(scores), -1, -1, -1)], dim=-1)
    weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(value.dtype)
    shared = 0 if beginning is None else beginning[0].shape[1]
    found = weights[..., shared : shared + key.shape[2]] @ value
    return found if beginning is None else (found + _of_all(weights[..., :shared], beginning[1])).to(dtype)


def _of_all(rows: Tensor, shared: Tensor) -> Tensor:
    """Return the product of `rows` (B, H, G, N) with what they share, (H, N, M): one for all rows of a head."""
    found = rows.transpose(0, 1).flatten(1, 2) @ shared
    return found.view(len(shared), len(rows), -1, shared.shape[2]).transpose(0, 1)


def _wide(tensor: Tensor) -> Tensor:
    """Return a copy in float32 or wider, or the tensor itself where it is."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
