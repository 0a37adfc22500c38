"""One forward pass: only scored positions reach the vocabulary projection, and only declared signals are computed.

``B`` rows, ``T`` positions, ``N`` scored positions, ``V`` vocabulary, ``D`` width.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..data.batches import Batch, Part
from .head import HEAD_SIGNALS


@dataclass(frozen=True)
class Needs:
    """Which signals of a forward pass somebody reads."""

    head: frozenset[str] = frozenset()
    """Names of head signals, each (N,): token_logp, margin, is_argmax, entropy."""

    def __post_init__(self) -> None:
        """Raise ValueError for a signal that does not exist."""
        if unknown := set(self.head) - set(HEAD_SIGNALS):
            raise ValueError(f"unknown head signals {sorted(unknown)}; known: {sorted(HEAD_SIGNALS)}")

    def __or__(self, other: "Needs") -> "Needs":
        """Return what serves both readers."""
        return Needs(head=self.head | other.head)


class Signals:
    """The declared signals of one split in a pass, as attributes, each (N,); reading any other is an error."""

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

    def only(self, needs: Needs) -> "Signals":
        """Return the part of these signals that `needs` declares."""
        return Signals({name: self.values[name] for name in needs.head}, self.row, self.answers)

    def of(self, part: Part) -> "Signals":
        """Return the signals of `part` alone, as if nothing else had been scored."""
        values = {name: value[part.index] for name, value in self.values.items()}
        return Signals(values, part.row, len(part.answers))


@dataclass(frozen=True)
class Form:
    """How a model's logits may be read; `form.examine` finds out."""

    selects: bool = True
    """The head is shown the scored positions alone; False: the plain form, which computes the logits of all."""


def read(
    model: Any, batch: Batch, needs: Mapping[str, Needs], vocabulary: int, form: Form | None = None
) -> dict[str, Signals]:
    """Return the signals that `needs` declares for each split of `batch`, from one forward pass of `model`.

    `vocabulary` is the number of rows of the head that the tokenizer knows; those beyond are left out of `margin`. A
    split that nobody needs has no signals.
    """
    logits = scored_logits(model, batch, form)
    found = {}
    for split, share in batch.shares.items():
        own, targets = logits, batch.targets
        if share.index is not None:
            own, targets = logits[share.index], targets[share.index]
        names = sorted(needs[split].head) if split in needs else []
        values = {name: HEAD_SIGNALS[name](own, targets, vocabulary) for name in names}
        found[split] = Signals(values, share.row, len(share.ids))
    return found


def scored_logits(model: Any, batch: Batch, form: Form | None = None) -> Tensor:
    """Return the logits of the positions that predict scored tokens, (N, V), read as `form` says."""
    if form is not None and not form.selects:
        return all_logits(model, batch)[batch.predicting]
    with _only_rows(model, batch.predicting):
        logits = all_logits(model, batch)
    if logits.shape[:2] == batch.input_ids.shape:  # never true of selected rows: the last position predicts nothing
        return logits[batch.predicting]  # the head was not called as a module
    return logits[0]


def all_logits(model: Any, batch: Batch) -> Tensor:
    """Return the logits of all positions, (B, T, V), from a pass without a mask and without a cache."""
    logits: Tensor = model(**batch.inputs, use_cache=False).logits
    return logits


@contextmanager
def _only_rows(model: Any, predicting: Tensor) -> Iterator[None]:
    """Let the head see the hidden rows of `predicting` alone: (B, T, D) becomes (1, N, D) on the way in."""

    def select(_: torch.nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (arguments[0][predicting].unsqueeze(0), *arguments[1:])

    hook = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        hook.remove()
