"""The optimisation problem: terms over splits, counted from labels and summed over batches.

``K`` terms; the first is the objective, the others are retentions with a multiplier each.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from .. import processes
from ..constraints.bound import Sums
from ..constraints.retention import NLL, Retention
from ..data.batches import SECOND, Batch, Joint, Part, Share, turns
from ..data.encode import Encoded
from ..errors import RunError
from ..methods.base import Method, Passes
from ..model.reference import Demand, Reference, Seen
from ..model.sharding import device_of, forward_only
from ..model.signals import Form, Needs, Signals, read

Loss = Callable[[Sequence[Signals], Sequence[Signals]], Tensor]
"""From the signals of the model and those of the reference, each of the answers and, if read, of second answers."""


@dataclass(frozen=True)
class Term:
    """A loss over one split: its mean over all scored tokens, or over all answers."""

    split: str
    unit: Literal["token", "answer"]
    needs: Needs
    loss: Loss
    part: Literal["whole", "forgotten", "context"] = "whole"
    """Which scored tokens of the split it reads: all, those to be forgotten, or those around what is to be."""
    reference_needs: Needs = field(default_factory=Needs)
    reads_second: bool = False
    """It reads a second answer to each prompt as well."""
    skips_first: bool = False
    """The first token that it would read of each answer counts for nothing; of values one a token."""
    label: str = ""
    """What its loss is called, where that is not what `name` would be."""

    @property
    def name(self) -> str:
        """Return what its loss is called: the split, or the part that it reads of what is to be forgotten."""
        return self.label or ("context" if self.part == "context" else self.split)

    @property
    def splits(self) -> tuple[str, ...]:
        """Return the splits whose signals it reads."""
        return (self.split, SECOND) if self.reads_second else (self.split,)

    @property
    def demand(self) -> Demand:
        """Return what it reads of the reference, on each of its splits."""
        return Demand(self.reference_needs, self.needs.projects)

    def count(self, batch: Batch) -> int:
        """Return the number of units of `batch` that the mean runs over."""
        share = batch.shares.get(self.split)
        if share is None or self._is_absent(share):
            return 0
        tokens, answers = self._sizes(share)
        if self.unit == "answer":
            return answers
        return tokens - answers if self.skips_first else tokens

    def owners(self, batch: Batch) -> Tensor:
        """Return the answer of its split's share that each value belongs to, (N,) or (B,)."""
        share = batch.shares.get(self.split)
        if share is None or self._is_absent(share):
            return batch.targets[:0]
        if part := share.parts.get(self.part):
            return share.row[part.index] if self.unit == "token" else part.answers
        return share.row if self.unit == "token" else torch.arange(len(share.ids), device=share.row.device)

    def is_unit(self, batch: Batch) -> Tensor:
        """Return for each value whether it counts, (N,) or (B,) bool."""
        owners = self.owners(batch)
        is_unit = torch.ones_like(owners, dtype=torch.bool)
        if self.skips_first:
            is_unit[:1] = False
            is_unit[1:] = owners[1:] == owners[:-1]
        return is_unit

    def values(self, signals: Mapping[str, Signals], seen: Seen, batch: Batch) -> Tensor:
        """Return the loss of each unit, (N,) or (B,), from the signals of `batch` by split; 0 for what is no unit.

        Raises RunError where the loss has another shape: its sum would be a step of another size.
        """
        if not self.count(batch):  # a method need not know what to make of nothing
            return _nothing(signals, batch, len(self.owners(batch)))
        parts = {split: batch.shares[split].parts.get(self.part) for split in self.splits}
        own = _chosen(signals, self.needs, parts)
        reference = _chosen(seen.signals, self.reference_needs, parts)
        values = self.loss(own, reference)
        self._refuse_shape(values, self._sizes(batch.shares[self.split]))
        return torch.where(self.is_unit(batch), values, 0.0) if self.skips_first else values

    def _sizes(self, share: Share) -> tuple[int, int]:
        """Return the numbers of tokens and of answers that it reads of a share: N and B."""
        part = share.parts.get(self.part)
        return (len(share.row), len(share.ids)) if part is None else (len(part.row), len(part.answers))

    def _refuse_shape(self, values: object, sizes: tuple[int, int]) -> None:
        """Raise RunError where a loss did not return one value a unit."""
        expected = (sizes[self.unit == "answer"],)
        shape = tuple(values.shape) if isinstance(values, Tensor) else None
        if shape != expected:
            found = type(values).__name__ if shape is None else f"values of shape {shape}"
            raise RunError(
                f"the loss on the {self.split} split returned {found}; expected shape {expected}, one value for each "
                f"{self.unit}: return them unreduced, or set the class's unit."
            )

    def _is_absent(self, share: Share) -> bool:
        """Return whether no answer of the share can have the part: only where something is marked, is a context."""
        return self.part == "context" and not share.parts


def _chosen(found: Mapping[str, Signals], needs: Needs, parts: Mapping[str, Part | None]) -> list[Signals]:
    """Return the signals that `needs` declares, of the chosen part of each split."""
    own = [(found[split].only(needs), part) for split, part in parts.items()]
    return [signals if part is None else signals.of(part) for signals, part in own]


def _nothing(signals: Mapping[str, Signals], batch: Batch, size: int) -> Tensor:
    """Return values that say nothing, in the precision of the signals."""
    dtypes = [value.dtype for found in signals.values() for value in found.values.values()]
    return torch.zeros(size, device=batch.targets.device, dtype=dtypes[0] if dtypes else None)


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
    reference: Reference | None = None
    """The model as it was; None where no term reads it."""
    second: Mapping[str, Encoded] | None = None
    """Id of a forget example -> its second answer; None where no term reads it."""

    @property
    def joint(self) -> Joint:
        """Return which rows may, and which must, share a pass: those of which the same blocks are read, may."""
        last: dict[int | None, set[str]] = {}
        for split, needs in self._needs(self.terms).items():
            if split != SECOND:
                last.setdefault(needs.last_block, set()).add(split)
        return Joint(self.second, [frozenset(splits) for splits in last.values()])

    @property
    def demands(self) -> dict[str, Demand]:
        """Return what is read of the reference, by split."""
        found: dict[str, Demand] = {}
        for term in self.terms:
            for split in term.splits if term.demand else ():
                found[split] = found.get(split, Demand()) | term.demand
        return found

    def of(self, terms: Sequence[Term]) -> "Problem":
        """Return the same problem with these terms alone."""
        return replace(self, terms=tuple(terms))

    def counts(self, batch: Batch) -> list[int]:
        """Return how many units each term has in `batch`, K numbers."""
        return [term.count(batch) for term in self.terms]

    def values(self, batch: Batch) -> Tensor:
        """Return the sum of each term over `batch`, (K,), from one forward pass; 0 for terms without a unit in it.

        There is always a graph: a process without rows takes part in what the others communicate in a backward pass.
        """
        signals, seen = self._read(batch)
        sums = torch.stack([term.values(signals, seen, batch).sum() for term in self.terms])
        if sums.requires_grad:
            return sums
        return sums + sum(value.sum() for found in signals.values() for value in found.values.values()) * 0

    def unreduced(self, batch: Batch) -> list[tuple[Tensor, Tensor]]:
        """Return each term's values over `batch`, (N,) or (B,), and the answer that each belongs to.

        Empty for terms that have no unit in it.
        """
        signals, seen = self._read(batch)
        found = [(term.values(signals, seen, batch), term.owners(batch), term.is_unit(batch)) for term in self.terms]
        return [(values[is_unit], owners[is_unit]) for values, owners, is_unit in found]

    def _read(self, batch: Batch) -> tuple[dict[str, Signals], Seen]:
        seen = Seen({}, {}) if self.reference is None else self.reference.of(batch)
        empty = {split: Signals({}, share.row, len(share.ids)) for split, share in batch.shares.items()}
        needs = self._needs(self.terms)
        signals = read(self.model, batch, needs, self.vocabulary, self.form, seen.distributions)
        return signals, Seen(empty | dict(seen.signals), seen.distributions)

    @staticmethod
    def _needs(terms: Sequence[Term]) -> dict[str, Needs]:
        needs: dict[str, Needs] = {}
        for term in terms:
            for split in term.splits:
                needs[split] = needs.get(split, Needs()) | term.needs
        return needs

    def measure(
        self, split: str, examples: Sequence[Encoded], batch_size: int, check: Callable[[], None] = lambda: None
    ) -> list[Sums]:
        """Return, for each term, its values summed over each of `examples` as rows of `split`; without gradients.

        Several processes share the work, and all return the whole. `check` is called between batches, and may raise:
        nothing is left half done.
        """
        found = []
        packs = self.form is not None and self.form.packs
        second = self.second if any(SECOND in term.splits for term in self.terms) else None
        for _, chosen, made in turns(split, examples, batch_size, packs, second):
            check()
            batch = made.to(self.device)
            with forward_only(self.model):
                values = self.unreduced(batch)
            if chosen is not None:
                owners = [np.array(chosen)[own.cpu().numpy()] for _, own in values]
                found.append((owners, [value.cpu().double().numpy() for value, _ in values]))
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
    return Term(
        "forget",
        method.unit,
        method.needs,
        lambda model, reference: method.objective(Passes(*model), Passes(*reference)),
        "forgotten",
        method.reference_needs,
        reads_second=method.alternate is not None,
        skips_first=method.skips_first,
    )


def likelihood_term() -> Term:
    """Return log p of what is to be forgotten, as a term that is measured and not trained."""
    return Term("forget", "token", NLL.needs, lambda model, _: model[0].token_logp, "forgotten")


def retain_term(retention: Retention, label: str = "") -> Term:
    """Return the term of a retention, a mean over scored tokens; `label` tells it from others of its split."""
    loss = retention.loss
    return Term(
        retention.split,
        "token",
        loss.needs,
        lambda model, reference: loss.values(model[0], reference[0]),
        retention.part,
        loss.reference_needs,
        label=label,
    )
