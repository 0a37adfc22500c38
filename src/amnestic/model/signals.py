"""One forward pass: only scored positions reach the vocabulary projection, and only declared signals are computed.

``B`` rows, ``T`` positions, ``N`` scored positions, ``V`` vocabulary, ``D`` width.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..data.batches import Batch, Part
from .blocks import ending_at, outputs
from .head import HEAD_SIGNALS, CrossEntropyTo, HeadNeed
from .layers import Projection, every_signal, signal
from .segments import segmented
from .sharding import is_sharded


@dataclass(frozen=True)
class Needs:
    """Which signals of a forward pass somebody reads, at the positions that predict scored tokens."""

    head: frozenset[HeadNeed] = frozenset()
    """Names of head signals: token_logp, margin, is_argmax, each (N,); moments, (N, 2); and CrossEntropyTo, read as
    ``cross_entropy`` (N,), or as ``whole_cross_entropy`` over the whole vocabulary; at most one of each."""
    unshifted: frozenset[str] = frozenset()
    """Names of head signals one position later, where the scored token stands; read as ``unshifted_margin``, ..."""
    hidden: frozenset[int] = frozenset()
    """Blocks whose output is read, ``hidden(l)``, (N, D); counted from 0, before any norm behind the block."""

    def __post_init__(self) -> None:
        """Raise ValueError for a signal that does not exist, and for two cross-entropies of one name."""
        named = {need for need in self.head if isinstance(need, str)}
        if unknown := (named | self.unshifted) - set(HEAD_SIGNALS):
            raise ValueError(f"unknown head signals {sorted(unknown)}; known: {sorted(HEAD_SIGNALS)}")
        if len(set(map(name_of, self.head))) < len(self.head):
            raise ValueError("two cross-entropies of one name were declared; expected at most one.")

    def __or__(self, other: "Needs") -> "Needs":
        """Return what serves both readers."""
        return Needs(self.head | other.head, self.unshifted | other.unshifted, self.hidden | other.hidden)

    def __bool__(self) -> bool:
        """Return whether anything is read."""
        return bool(self.head or self.unshifted or self.hidden)

    @property
    def names(self) -> list[str]:
        """Return the attributes of `Signals` that they are read by."""
        at_head = [*map(name_of, self.head), *map(name_unshifted, self.unshifted)]
        return sorted(at_head) + [name_hidden(block) for block in sorted(self.hidden)]

    @property
    def projects(self) -> bool:
        """Return whether the reference's distribution over the vocabulary is read."""
        return any(isinstance(need, CrossEntropyTo) and need.target.needs_reference for need in self.head)

    @property
    def last_block(self) -> int | None:
        """Return the block behind which nothing is read; None where the head is."""
        return None if self.head or self.unshifted else max(self.hidden, default=0)


class Signals:
    """The declared signals of one split in a pass, as attributes, each (N,) or (N, D); any other is an error."""

    def __init__(self, values: dict[str, Tensor], row: Tensor, answers: int) -> None:
        """`row` (N,) is the answer that each scored token belongs to, of so many `answers`."""
        self.values = values
        self.row = row
        self.answers = answers

    def __getattr__(self, name: str) -> Tensor:
        """Return the signal `name`; raise AttributeError where the reader did not declare it."""
        values = self.__dict__.get("values", {})
        if name in values:
            return values[name]  # type: ignore[no-any-return]
        raise AttributeError(f"signal '{name}' was not declared; declared: {', '.join(sorted(values)) or 'none'}")

    def hidden(self, block: int) -> Tensor:
        """Return the output of a block, (N, D); raises AttributeError where the reader did not declare it."""
        found: Tensor = getattr(self, name_hidden(block))
        return found

    def only(self, needs: Needs) -> "Signals":
        """Return the part of these signals that `needs` declares."""
        return Signals({name: self.values[name] for name in needs.names}, self.row, self.answers)

    def of(self, part: Part) -> "Signals":
        """Return the signals of `part` alone, as if nothing else had been scored."""
        values = {name: value[part.index] for name, value in self.values.items()}
        return Signals(values, part.row, len(part.answers))


@dataclass(frozen=True)
class Form:
    """How a model's logits may be read; `form.examine` finds out."""

    selects: bool = True
    """The head is shown the scored positions alone; False: the plain form, which computes the logits of all."""
    fuses: bool = False
    """Signals are computed inside the head, from hidden rows and weights (``model/layers.py``)."""
    scale: float = 1.0
    """What the model multiplies its head's values by."""
    cap: float | None = None
    """What it bounds them by: cap tanh(z / cap)."""
    packs: bool = False
    """Several examples may stand one behind the other in one row, without padding (`packing.examine_packing`)."""


PLAIN = Form()
"""Only scored rows reach the head, and their logits are stored: right for every head that is called as a module."""


def name_of(need: HeadNeed) -> str:
    """Return the attribute of `Signals` that a declared need is read by."""
    return need if isinstance(need, str) else need.name


def name_unshifted(need: str) -> str:
    """Return the attribute of `Signals` that a head signal one position later is read by."""
    return f"unshifted_{need}"


def name_hidden(block: int) -> str:
    """Return the name that the output of a block has among the values of `Signals`."""
    return f"hidden_{block}"


class Logits:
    """Logits that are there already, in the place of a head's projection; those of a head of an unknown kind."""

    def __init__(self, values: Tensor) -> None:
        """`values` are (N, V)."""
        self.values = values

    def take(self, index: Tensor | slice | None) -> "Logits":
        """Return those of some rows; None: of all."""
        return self if index is None else Logits(self.values[index])

    def logits(self) -> Tensor:
        """Return all of them, (N, V)."""
        return self.values


Distribution = Projection | Logits
"""What gives the logits of some scored rows, (N, V), when they are wanted."""


def read(
    model: Any,
    batch: Batch,
    needs: Mapping[str, Needs],
    vocabulary: int,
    form: Form | None = None,
    references: Mapping[str, Distribution] | None = None,
) -> dict[str, Signals]:
    """Return the signals that `needs` declares for each split of `batch`, from one forward pass of `model`.

    `vocabulary` is the number of rows of the head that the tokenizer knows; those beyond are left out of `margin`. A
    split that nobody needs has no signals. `references` are the reference's distributions at each split's scored
    tokens, for cross-entropies to it. Where nobody reads the head, it is not computed, nor is a block behind the last
    one that is read.
    """
    one = _Pass(model, batch, {split: needs.get(split, Needs()) for split in batch.shares}, form or PLAIN)
    return one.run(vocabulary, references or {})


def read_reference(
    model: Any, batch: Batch, needs: Mapping[str, Needs], vocabulary: int, form: Form | None, splits: Collection[str]
) -> tuple[dict[str, Signals], dict[str, Distribution]]:
    """Return what `read` does, and the distributions at the scored tokens of `splits`; one pass without a graph.

    A distribution holds the model's own weights: it is that of the moment in which it is asked.
    """
    declared = {split: needs.get(split, Needs()) for split in batch.shares}
    one = _Pass(model, batch, declared, form or PLAIN, frozenset(splits) & set(batch.shares))
    with torch.no_grad():
        signals = one.run(vocabulary, {})
    return signals, one.distributions


class _Pass:
    """One forward pass, and what is taken from it."""

    def __init__(
        self,
        model: Any,
        batch: Batch,
        needs: Mapping[str, Needs],
        form: Form,
        projected: frozenset[str] = frozenset(),
    ) -> None:
        """`projected` are the splits whose distributions are kept."""
        self.model, self.batch, self.needs, self.form = model, batch, needs, form
        self.projected = projected
        self.distributions: dict[str, Distribution] = {}
        self.values: dict[str, dict[str, Tensor]] = {split: {} for split in batch.shares}
        later = [share.of(batch.positions) + 1 for split, share in batch.shares.items() if needs[split].unshifted]
        self.positions = torch.cat([batch.positions, *later]) if later else batch.positions

    def run(self, vocabulary: int, references: Mapping[str, Distribution]) -> dict[str, Signals]:
        """Return the declared signals of each split."""
        every = [need for need in self.needs.values() if need]
        hidden = frozenset(block for need in every for block in need.hidden)
        reads_head = bool(self.projected) or any(need.last_block is None for need in every)
        last = None if reads_head or not hidden else max(hidden)
        with outputs(self.model, hidden) as rows, ending_at(self.model, last):
            if last is not None:
                logits = self._without_head()
            elif self.form.fuses:
                logits = self._in_head(vocabulary, references)
            else:
                logits = self._behind_head(vocabulary, references)
        for split, share in self.batch.shares.items():
            at = share.of(self.batch.positions)
            for block in sorted(self.needs[split].hidden):
                self.values[split][name_hidden(block)] = _flat(rows[block])[at]
        if is_sharded(self.model) and (self.form.fuses or hidden):
            _tie(self.values, logits)
        shares = self.batch.shares.items()
        return {split: Signals(self.values[split], share.row, len(share.ids)) for split, share in shares}

    def _without_head(self) -> Tensor:
        with _replaced_head(self.model, lambda rows: rows[..., :1] * 0):
            return all_logits(self.model, self.batch)

    def _in_head(self, vocabulary: int, references: Mapping[str, Distribution]) -> Tensor:
        def compute(hidden: Tensor) -> Tensor:
            rows = _flat(hidden)[self.positions]
            head = projection_of(self.model.get_output_embeddings(), rows, self.form)
            if head is None:
                raise TypeError(f"{type(self.model.get_output_embeddings()).__name__} is no linear head")
            for split, targets, own, later in self._places():
                projected = head.take(own)
                if split in self.projected:
                    self.distributions[split] = projected
                needs = self.needs[split]
                self.values[split] |= _values(projected, targets, needs.head, vocabulary, references.get(split))
                if later is not None:
                    found = _values(head.take(later), targets, needs.unshifted, vocabulary, None)
                    self.values[split] |= {name_unshifted(name): value for name, value in found.items()}
            return (rows[:, :1] * 0).unsqueeze(0)

        with _replaced_head(self.model, compute):
            return all_logits(self.model, self.batch)

    def _behind_head(self, vocabulary: int, references: Mapping[str, Distribution]) -> Tensor:
        logits = scored_logits(self.model, self.batch, self.form, self.positions)
        for split, targets, own, later in self._places():
            rows = logits if own is None else logits[own]
            if split in self.projected:
                self.distributions[split] = Logits(rows)
            needs = self.needs[split]
            other = references[split].logits() if split in references else None
            for need in needs.head:
                self.values[split][name_of(need)] = _plain(need, rows, targets, vocabulary, other)
            for name in needs.unshifted if later is not None else ():
                self.values[split][name_unshifted(name)] = _plain(name, logits[later], targets, vocabulary, None)
        return logits

    def _places(self) -> Iterator[tuple[str, Tensor, Tensor | slice | None, slice | None]]:
        """Yield each split with its targets, and which of the head's rows predict them, and stand where they do."""
        count, end = len(self.batch.positions), len(self.batch.positions)
        for split, share in self.batch.shares.items():
            targets, later = share.of(self.batch.targets), None
            if self.needs[split].unshifted:
                later = slice(end, end + len(targets))
                end = later.stop
            own: Tensor | slice | None = share.index
            if own is None and len(self.positions) > count:
                own = slice(0, count)
            yield split, targets, own, later


def scored_logits(model: Any, batch: Batch, form: Form | None = None, positions: Tensor | None = None) -> Tensor:
    """Return the logits of the positions that predict scored tokens, or of `positions`, (N, V), read as `form` says."""
    at = batch.positions if positions is None else positions
    if form is not None and not form.selects:
        return _flat(all_logits(model, batch))[at]
    with only_rows(model, at) as calls:
        logits = all_logits(model, batch)
    return logits[0] if calls else _flat(logits)[at]  # a head that is not called as a module saw all rows


def all_logits(model: Any, batch: Batch) -> Tensor:
    """Return the logits of all positions, (B, T, V), from a pass without a mask and without a cache."""
    with segmented(model, batch.is_packed):
        logits: Tensor = model(**batch.inputs, use_cache=False).logits
    return logits


def projection_of(head: Any, hidden: Tensor, form: Form) -> Projection | None:
    """Return what the module `head` does to `hidden` (N, D), not yet computed; None for a head of another kind.

    Known are torch's linear layer, and one with adapters around it (LoRA).
    """
    if type(head).forward is torch.nn.Linear.forward:
        return Projection(((hidden, head.weight),), head.bias, form.scale, form.cap)
    base: Any = getattr(head, "base_layer", None)
    if type(base).forward is not torch.nn.Linear.forward or not hasattr(head, "lora_A") or head.merged:
        return None
    pairs = [(hidden, base.weight)]
    for name in () if head.disable_adapters else head.active_adapters:
        if name in head.lora_A:
            down, up = head.lora_A[name].weight, head.lora_B[name].weight
            rows = torch.nn.functional.linear(hidden.to(down.dtype), down) * head.scaling[name]
            pairs.append((rows, up))
    return Projection(tuple(pairs), base.bias, form.scale, form.cap)


def _values(
    head: Projection, targets: Tensor, declared: frozenset[HeadNeed], vocabulary: int, reference: Distribution | None
) -> dict[str, Tensor]:
    """Return the declared signals of the rows of `head`; without a graph those of the plain kind all at once."""
    found: dict[str, Tensor] = {}
    if not head.needs_gradient and len(declared & set(HEAD_SIGNALS)) > 1:
        found = every_signal(head, targets, vocabulary)
    for need in sorted(declared, key=name_of):
        if name_of(need) not in found:
            found[name_of(need)] = signal(need, head, targets, vocabulary, reference)
    return {name_of(need): found[name_of(need)] for need in declared}


def _plain(need: HeadNeed, logits: Tensor, targets: Tensor, vocabulary: int, reference: Tensor | None) -> Tensor:
    if isinstance(need, CrossEntropyTo):
        return need.plain(logits, targets, vocabulary, reference)
    return HEAD_SIGNALS[need](logits, targets, vocabulary)


def _tie(values: dict[str, dict[str, Tensor]], logits: Tensor) -> None:
    """Let the signals hang on what the model returned, where a sharded model begins its backward pass."""
    for found in values.values():
        for name, value in found.items():
            found[name] = value + logits.sum().to(value.dtype) * 0


def _flat(logits: Tensor) -> Tensor:
    return logits.flatten(0, 1)


@contextmanager
def _replaced_head(model: Any, compute: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let `compute` stand in the place of what the head does with hidden rows (B, T, D).

    The module is called, so that its hooks run and its weights are there.
    """
    head = model.get_output_embeddings()
    own = vars(head).get("forward")

    def forward(hidden: Tensor, *_: Any, **__: Any) -> Tensor:
        return compute(hidden)

    head.forward = forward
    try:
        yield
    finally:
        if own is None:
            del head.forward
        else:
            head.forward = own


@contextmanager
def only_rows(model: Any, positions: Tensor) -> Iterator[list[None]]:
    """Let the head see the hidden rows of `positions` (N,) alone: (B, T, D) becomes (1, N, D) on the way in.

    Yields a list that has one entry for each time that this was done.
    """
    calls: list[None] = []

    def select(_: torch.nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        calls.append(None)
        return (_flat(arguments[0])[positions].unsqueeze(0), *arguments[1:])

    hook = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield calls
    finally:
        hook.remove()
