"""The Lagrange multiplier: how hard the retention pulls, and how it learns that.

Algorithm 1 of Constrained Entropic Unlearning (2025, arXiv:2506.05314), dual step:
lambda <- max(0, lambda + rate (L - bound)), after a warm start with lambda fixed.
"""

import sys
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Fixed:
    """A weight that does not move."""

    weight: float = 1.0

    def start(self, bound: float, steps_per_epoch: int, device: torch.device | str = "cpu") -> "Multiplier":
        """Return the multiplier of a run; `bound` has no influence on it."""
        never = sys.maxsize  # a warm-up without end: an infinite bound times a rate of 0 would be no number
        return Multiplier(torch.tensor(float(self.weight), device=device), bound, 0.0, never, 1)


@dataclass(frozen=True)
class Bounded:
    """A multiplier that holds the retain loss at its bound."""

    rate: float = 1.0
    """Step size of the dual ascent, per nat of violation."""
    initial: float = 1.0
    warmup_epochs: float = 0.0
    """Epochs for which the multiplier stays at `initial`."""
    update: Literal["step", "epoch"] = "step"

    def start(self, bound: float, steps_per_epoch: int, device: torch.device | str = "cpu") -> "Multiplier":
        """Return the multiplier of a run with `bound` nats a token and so many optimiser steps an epoch."""
        period = steps_per_epoch if self.update == "epoch" else 1
        warmup_steps = round(self.warmup_epochs * steps_per_epoch)
        return Multiplier(torch.tensor(float(self.initial), device=device), bound, self.rate, warmup_steps, period)


@dataclass
class Multiplier:
    """The state of one multiplier; it moves once an optimiser step, or once an epoch from the mean of its steps."""

    value: Tensor
    """() on the device of the losses."""
    bound: float
    rate: float
    warmup_steps: int
    period: int
    """Optimiser steps between two updates."""
    steps: int = 0
    pending: Tensor | float = 0.0
    """Sum of the losses since the last update."""
    measured: Tensor | float = 0.0
    """Number of the steps that these losses are of."""

    def update(self, loss: Tensor, is_measured: Tensor | bool = True) -> None:
        """Take the dual step for the retain loss () of one optimiser step; nothing is read back to the host.

        A step without a token of what is held says nothing of its loss (`is_measured` () bool on the same device):
        it does not move the multiplier.
        """
        self.steps += 1
        self.pending = self.pending + loss.detach() * is_measured
        self.measured = self.measured + is_measured
        if self.steps % self.period:
            return
        if self.steps > self.warmup_steps:
            known = torch.as_tensor(self.measured, device=loss.device)
            residual = self.pending / known.clamp(min=1) - self.bound
            moved = (self.value + self.rate * residual).clamp(min=0)
            self.value = torch.where(known > 0, moved, self.value)
        self.pending = self.measured = 0.0
