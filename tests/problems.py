"""Small complete problems for any method: rows, second answers, the reference, and a step on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from amnestic import processes
from amnestic.constraints.multiplier import Bounded, Fixed
from amnestic.constraints.retention import NLL, Retention
from amnestic.data.batches import Joint, micro_batches
from amnestic.data.cuts import Budget
from amnestic.data.encode import Encoded
from amnestic.methods.base import Method, build
from amnestic.model import blocks
from amnestic.model.load import Loaded
from amnestic.training.optimizer import Optimizer
from amnestic.training.options import TrainingOptions
from amnestic.training.problem import Problem, forget_term, retain_term
from amnestic.training.remembered import Remembered
from amnestic.training.step import Taken, step

FORGET, RETAIN = ((9, 4), (6, 3), (12, 10), (7, 1)), ((8, 5), (10, 2), (5, 3))
"""Tokens of each row, and its first scored one."""
SECOND_SIZES = (4, 2, 3, 5)
"""Tokens of second answers."""


def rows(split: str, highest: int = 300) -> list[Encoded]:
    """Return the rows of a split, all of different lengths."""
    generator = np.random.default_rng(len(split))
    sizes = FORGET if split == "forget" else RETAIN
    return [_row(f"{split}:{i}", generator.integers(5, highest, n), first) for i, (n, first) in enumerate(sizes)]


def _row(name: str, tokens: np.ndarray, first: int) -> Encoded:
    return Encoded(name, tokens, np.arange(len(tokens)) >= first, first, False, "question", "answer")


def seconds(forget: Sequence[Encoded], highest: int = 300) -> dict[str, Encoded]:
    """Return a second answer to the prompt of each row."""
    generator = np.random.default_rng(7)
    found = {}
    for row, size in zip(forget, SECOND_SIZES, strict=True):
        first = int(row.is_scored.argmax())
        tokens = np.concatenate([row.input_ids[:first], generator.integers(5, highest, size)])
        found[row.id] = _row(row.id, tokens, first)
    return found


@dataclass(frozen=True)
class Case:
    """A problem on a model, as a run would set it up."""

    loaded: Loaded
    method: Method
    retentions: tuple[Retention, ...] = (Retention(NLL(), Bounded(rate=2.0, initial=3.0)),)
    bound: float = 0.25

    @classmethod
    def of(cls, loaded: Loaded, name: str, *controls: Any) -> "Case":
        """Return the case of a method with a retention of each control; with its published ones where none is given."""
        method = build(name, {}).fitted(blocks.count(loaded.model), seed=3)
        held = tuple(Retention(NLL(), control) for control in controls)
        return cls(loaded, method, held or method.retention)

    @cached_property
    def rows(self) -> dict[str, list[Encoded]]:
        """Return the rows of both splits."""
        return {split: rows(split) for split in ("forget", "retain")}

    def problem(self, folder: Path, mode: Any = "cached") -> Problem:
        """Return the problem with the reference of the model as it stands."""
        second = seconds(self.rows["forget"]) if self.method.alternate else None
        terms = (forget_term(self.method), *map(retain_term, self.retentions))
        found = Problem(terms, self.loaded.model, self.loaded.vocabulary, self.loaded.form, second=second)
        how = Remembered(mode, self.loaded.has_adapter, 2, folder, is_written_here=processes.is_first())
        return how.complete(found, self.rows)

    def batches(self, budget: Budget, joint: Joint, share: tuple[int, int] = (0, 1)) -> list[Any]:
        """Return the batches of a step that reads all rows, or a process's share of them."""
        numbers = {split: np.arange(len(found)) for split, found in self.rows.items()}
        return micro_batches(self.rows, numbers, budget, share, joint)

    def taken(self, problem: Problem, batches: Sequence[Any], rate: float = 1.0) -> tuple[Taken, list[float]]:
        """Take a step of plain descent, and return what it found and the multipliers after it."""
        options = TrainingOptions(optim="sgd", adam_beta1=0, weight_decay=0, max_grad_norm=0, learning_rate=rate)
        multipliers = [held.control.start(self.bound, 1) for held in self.retentions]
        with blocks.moving(self.loaded.model, self.method.moves):
            optimizer = Optimizer(self.loaded.model.parameters(), options)
            found = step(problem, batches, multipliers, optimizer)
        return found, [float(multiplier.value) for multiplier in multipliers]

    def gradients(self, problem: Problem, batches: Sequence[Any]) -> tuple[dict[str, torch.Tensor], Taken, list[float]]:
        """Return the gradient of a step, by the name of the parameter, and what `taken` does; undo the step."""
        before = self.weights()
        found, multipliers = self.taken(problem, batches)
        with torch.no_grad():
            moved = {name: before[name] - value for name, value in self.weights().items()}
            for name, value in self.loaded.model.named_parameters():
                value.copy_(before[name])
        return moved, found, multipliers

    def weights(self) -> dict[str, torch.Tensor]:
        """Return a copy of all parameters."""
        return {name: value.detach().clone() for name, value in self.loaded.model.named_parameters()}


CONTROLS: Mapping[str, tuple[Any, ...]] = {
    "none": (),
    "Fixed": (Fixed(1.0),),
    "Bounded": (Bounded(rate=2.0, initial=3.0),),
}
"""How retention is held: as published, by a fixed weight, by a bound."""


def packed(loaded: Loaded, packs: bool) -> Loaded:
    """Return the model with rows packed, or padded."""
    return replace(loaded, form=replace(loaded.form, packs=packs))
