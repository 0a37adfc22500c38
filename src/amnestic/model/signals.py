"""One forward pass: only scored positions reach the vocabulary projection, and only declared signals are computed.

``B`` rows, ``T`` positions, ``N`` scored positions, ``V`` vocabulary, ``D`` width.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..data.batches import Batch, Part
from .head import HEAD_SIGNALS, CrossEntropyTo, HeadNeed
from .layers import Projection, every_signal, signal
from .segments import segmented
from .sharding import is_sharded


@dataclass(frozen=True)
class Needs:
    """Which signals of a forward pass somebody reads, at the positions that predict scored tokens."""

    head: frozenset[HeadNeed] = frozenset()
    """Names of head signals: token_logp, margin, is_argmax, each (N,); moments, (N, 2); and at most one CrossEntropyTo,
    read as ``cross_entropy`` (N,)."""
    unshifted: frozenset[str] = frozenset()
    """Names of head signals one position later, where the scored token stands; read as ``unshifted_margin`` and so on."""
    hidden: frozenset[int] = frozenset()
    """Blocks whose output is read, ``hidden(l)``, (N, D); counted from 0, before any norm behind the block."""

    def __post_init__(self) -> None:
        """Raise ValueError for a signal that does not exist, and for two cross-entropies."""
        named = {need for need in self.head if isinstance(need, str)}
        if unknown := (named | self.unshifted) - set(HEAD_SIGNALS):
            raise ValueError(f"unknown head signals {sorted(unknown)}; known: {sorted(HEAD_SIGNALS)}")
        if len(self.head - named) > 1:
            raise ValueError("two cross-entropies were declared; expected at most one for each reader.")

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


def read(
    model: Any,
    batch: Batch,
    needs: Mapping[str, Needs],
    vocabulary: int,
    form: Form | None = None,
    references: Mapping[str, Projection] | None = None,
) -> dict[str, Signals]:
    """Return the signals that `needs` declares for each split of `batch`, from one forward pass of `model`.

    `vocabulary` is the number of rows of the head that the tokenizer knows; those beyond are left out of `margin`. A
    split that nobody needs has no signals. `references` are the reference's projections of each split's scored rows
    (`project`), for cross-entropies to it.
    """
    form, others = form or PLAIN, references or {}
    declared = {split: needs[split].head if split in needs else frozenset() for split in batch.shares}
    values: dict[str, dict[str, Tensor]] = {}

    def compute(head: Projection) -> None:
        for split, share in batch.shares.items():
            own, targets = head.take(share.index), share.of(batch.targets)
            values[split] = _values(own, targets, declared[split], vocabulary, others.get(split))

    if form.fuses:
        with _inside_head(model, batch, form, compute):
            logits = all_logits(model, batch)
        if is_sharded(model):
            _tie(values, logits)
    else:
        logits = scored_logits(model, batch, form)
        for split, share in batch.shares.items():
            own, targets = share.of(logits), share.of(batch.targets)
            other = others[split].logits() if split in others else None
            values[split] = {name_of(need): _plain(need, own, targets, vocabulary, other) for need in declared[split]}
    return {split: Signals(values[split], share.row, len(share.ids)) for split, share in batch.shares.items()}


def project(model: Any, batch: Batch, form: Form) -> dict[str, Projection]:
    """Return the head's projections of each split's scored rows of `batch`, without a graph; for a form that fuses."""
    found: dict[str, Projection] = {}

    def keep(head: Projection) -> None:
        for split, share in batch.shares.items():
            found[split] = head.take(share.index)

    with torch.no_grad(), _inside_head(model, batch, form, keep):
        all_logits(model, batch)
    return found


def scored_logits(model: Any, batch: Batch, form: Form | None = None) -> Tensor:
    """Return the logits of the positions that predict scored tokens, (N, V), read as `form` says."""
    if form is not None and not form.selects:
        return _flat(all_logits(model, batch))[batch.positions]
    with only_rows(model, batch.positions):
        logits = all_logits(model, batch)
    if logits.shape[:2] == batch.input_ids.shape:  # never true of selected rows: the last position predicts nothing
        return _flat(logits)[batch.positions]  # the head was not called as a module
    return logits[0]


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
    head: Projection, targets: Tensor, declared: frozenset[HeadNeed], vocabulary: int, reference: Projection | None
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
def _inside_head(model: Any, batch: Batch, form: Form, compute: Callable[[Projection], None]) -> Iterator[None]:
    """Let `compute` have the head's projection of the scored rows in place of what the head does with all rows.

    The module is called, so that its hooks run and its weights are there; it returns zeros, (1, N, 1).
    """
    head = model.get_output_embeddings()
    own = vars(head).get("forward")

    def forward(hidden: Tensor, *_: Any, **__: Any) -> Tensor:
        rows = _flat(hidden)[batch.positions]
        projection = projection_of(head, rows, form)
        if projection is None:
            raise TypeError(f"{type(head).__name__} is no linear head")
        compute(projection)
        return (rows[:, :1] * 0).unsqueeze(0)

    head.forward = forward
    try:
        yield
    finally:
        if own is None:
            del head.forward
        else:
            head.forward = own


@contextmanager
def only_rows(model: Any, positions: Tensor) -> Iterator[None]:
    """Let the head see the hidden rows of `positions` (N,) alone: (B, T, D) becomes (1, N, D) on the way in."""

    def select(_: torch.nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (_flat(arguments[0])[positions].unsqueeze(0), *arguments[1:])

    hook = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        hook.remove()
