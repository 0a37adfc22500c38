"""The optimisation problem: terms over splits, counted from labels and summed over batches.

``K`` terms; the first is the objective, the others are retentions with a multiplier each.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from .. import processes
from ..constraints.bound import Sums
from ..constraints.retention import Retention
from ..data.batches import Batch, Share, turns
from ..data.encode import Encoded
from ..methods.base import Method, Passes
from ..model.sharding import device_of, forward_only
from ..model.signals import Form, Needs, Signals, read


@dataclass(frozen=True)
class Term:
    """A loss over one split: its mean over all scored tokens, or over all answers."""

    split: str
    unit: Literal["token", "answer"]
    needs: Needs
    loss: Callable[[Signals], Tensor]
    part: Literal["whole", "forgotten", "context"] = "whole"
    """Which scored tokens of the split it reads: all, those to be forgotten, or those around what is to be."""

    @property
    def name(self) -> str:
        """Return what its loss is called: the split, or the part that it reads of what is to be forgotten."""
        return "context" if self.part == "context" else self.split

    def count(self, batch: Batch) -> int:
        """Return the number of units of `batch` that the mean runs over."""
        return len(self.owners(batch))

    def owners(self, batch: Batch) -> Tensor:
        """Return the answer of its split's share that each unit belongs to, (N,) or (B,)."""
        share = batch.shares.get(self.split)
        if share is None or self._is_absent(share):
            return batch.targets[:0]
        if part := share.parts.get(self.part):
            return share.row[part.index] if self.unit == "token" else part.answers
        return share.row if self.unit == "token" else torch.arange(len(share.ids), device=share.row.device)

    def values(self, signals: Mapping[str, Signals], batch: Batch) -> Tensor:
        """Return the loss of each unit, (N,) or (B,), from the signals of `batch` by split."""
        if not self.count(batch):  # a method need not know what to make of nothing
            return _nothing(signals, batch)
        part = batch.shares[self.split].parts.get(self.part)
        own = signals[self.split].only(self.needs)
        return self.loss(own if part is None else own.of(part))

    def _is_absent(self, share: Share) -> bool:
        """Return whether no answer of the share can have the part: only where something is marked, is a context."""
        return self.part == "context" and not share.parts


def _nothing(signals: Mapping[str, Signals], batch: Batch) -> Tensor:
    """Return no value, in the precision of the signals."""
    dtypes = [value.dtype for found in signals.values() for value in found.values.values()]
    return torch.zeros(0, device=batch.targets.device, dtype=dtypes[0] if dtypes else None)


class Objective(Protocol):
    """What a step needs to know of a problem: counts from labels, and sums of loss values."""

    def counts(self, batch: Any) -> list[int]:
        """Return how many units each term has in `batch`, K numbers, without a forward pass."""
        ...

    def values(self, batch: Any) -> Tensor:
        """Return the sum of each term's values over `batch`, (K,), with a graph."""
        ...


@dataclass(frozen=True)
class Problem:
    """Terms, evaluated on a model."""

    terms: tuple[Term, ...]
    model: Any
    vocabulary: int
    """Vocabulary rows that the tokenizer knows."""
    form: Form | None = None
    """How the model's logits may be read (`Loaded.form`)."""

    def counts(self, batch: Batch) -> list[int]:
        """Return how many units each term has in `batch`, K numbers."""
        return [term.count(batch) for term in self.terms]

    def values(self, batch: Batch) -> Tensor:
        """Return the sum of each term over `batch`, (K,), from one forward pass; 0 for terms without a unit in it.

        There is always a graph: a process without rows takes part in what the others communicate in a backward pass.
        """
        signals = self._read(batch)
        sums = torch.stack([term.values(signals, batch).sum() for term in self.terms])
        if sums.requires_grad:
            return sums
        return sums + sum(value.sum() for found in signals.values() for value in found.values.values()) * 0

    def unreduced(self, batch: Batch) -> list[Tensor]:
        """Return each term's values over `batch`, (N,) or (B,); empty for terms that have no unit in it."""
        signals = self._read(batch)
        return [term.values(signals, batch) for term in self.terms]

    def _read(self, batch: Batch) -> dict[str, Signals]:
        needs: dict[str, Needs] = {}
        for term in self.terms:
            needs[term.split] = needs.get(term.split, Needs()) | term.needs
        return read(self.model, batch, needs, self.vocabulary, self.form)

    def measure(
        self, split: str, examples: Sequence[Encoded], batch_size: int, check: Callable[[], None] = lambda: None
    ) -> list[Sums]:
        """Return, for each term, its values summed over each of `examples` as rows of `split`; without gradients.

        Several processes share the work, and all return the whole. `check` is called between batches, and may raise:
        nothing is left half done.
        """
        found = []
        packs = self.form is not None and self.form.packs
        for _, chosen, made in turns(split, examples, batch_size, packs):
            check()
            batch = made.to(self.device)
            with forward_only(self.model):
                values = self.unreduced(batch)
            if chosen is not None:
                owners = [np.array(chosen)[term.owners(batch).cpu().numpy()] for term in self.terms]
                found.append((owners, [value.cpu().double().numpy() for value in values]))
        sums = [Sums(np.zeros(len(examples)), np.zeros(len(examples), dtype=np.int64)) for _ in self.terms]
        for owners, arrays in (batch for share in processes.gathered(found) for batch in share):
            for total, owner, array in zip(sums, owners, arrays, strict=True):
                total.add(owner, array)
        return sums

    @property
    def device(self) -> torch.device:
        """Return the device that the model computes on."""
        return device_of(self.model)


def forget_term(method: Method) -> Term:
    """Return the term of a method: its objective on what is to be forgotten of the forget split."""
    return Term("forget", method.unit, method.needs, lambda signals: method.objective(Passes(signals)), "forgotten")


def retain_term(retention: Retention) -> Term:
    """Return the term of a retention: its loss, a mean over scored tokens."""
    return Term(retention.split, "token", retention.loss.needs, retention.loss.values, retention.part)
