"""The Lagrange multiplier: how hard the retention pulls, and how it learns that.

Algorithm 1 of Constrained Entropic Unlearning (2025, arXiv:2506.05314), dual step:
lambda <- max(0, lambda + rate (L - bound)), after a warm start with lambda fixed; and what may stand in its place.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ..errors import InputError

STEEPEST = 1.0
"""Largest exponent of one multiplicative step: the residual of a single batch changes the multiplier by a factor e."""
SMALLEST = 1e-3
"""A multiplicative step stops at this share of the initial value: from 0 it could not rise again."""
LARGEST = 1e12
"""And here without a cap: its exponential growth would overflow, where the bound cannot be held at all."""


@dataclass(frozen=True)
class Fixed:
    """A weight that does not move."""

    weight: float = 1.0

    def start(self, bound: float, steps_per_epoch: int, device: torch.device | str = "cpu") -> "Multiplier":
        """Return the multiplier of a run; `bound` has no influence on it."""
        never = sys.maxsize  # a warm-up without end: an infinite bound times a rate of 0 would be no number
        return Multiplier(torch.tensor(float(self.weight), device=device), bound, Bounded(0.0), never, 1)


@dataclass(frozen=True)
class Bounded:
    """A multiplier that holds the retain loss L at its bound, by the residual r = L - bound.

    Raises InputError for values that contradict each other.
    """

    rate: float = 1.0
    """Step size, per unit of the residual."""
    initial: float = 1.0
    warmup_epochs: float = 0.0
    """Epochs for which the multiplier stays at `initial`."""
    update: Literal["step", "epoch"] = "step"
    kind: Literal["ascent", "multiplicative"] = "ascent"
    """lambda <- max(0, lambda + rate r), or lambda <- lambda exp(rate r) with an exponent of at most `STEEPEST`."""
    normalized: bool = False
    """Divide the residual by the bound: the same rate then fits losses of any size."""
    proportional: float = 0.0
    """Share of the residual itself in the weight, max(0, lambda + proportional r): with the ascent's sum of residuals a
    PI controller, which overshoots less (Stooke et al., 2020, arXiv:2007.03964)."""
    cap: float | None = None
    """Largest weight; None: there is none."""

    def __post_init__(self) -> None:
        """Refuse values with which the multiplier could not do what they say."""
        if self.kind == "multiplicative" and self.initial <= 0:
            raise InputError(
                f"--multiplier_initial is {self.initial:g}; expected a number above 0, since a multiplicative step "
                "multiplies it."
            )
        if self.kind == "multiplicative" and self.proportional:
            raise InputError(
                f"--multiplier_proportional is {self.proportional:g}, and goes with the ascent alone; give "
                "--multiplier_kind ascent, or leave it out."
            )
        if self.cap is not None and self.initial > self.cap:
            raise InputError(
                f"--multiplier_initial is {self.initial:g}, above --multiplier_cap {self.cap:g}; expected at most that."
            )

    def start(self, bound: float, steps_per_epoch: int, device: torch.device | str = "cpu") -> "Multiplier":
        """Return the multiplier of a run with `bound` nats a token and so many optimiser steps an epoch."""
        period = steps_per_epoch if self.update == "epoch" else 1
        warmup_steps = round(self.warmup_epochs * steps_per_epoch)
        return Multiplier(torch.tensor(float(self.initial), device=device), bound, self, warmup_steps, period)

    def moved(self, integral: Tensor, residual: Tensor) -> Tensor:
        """Return what becomes of `integral` (), lambda without its proportional part, before the cap."""
        if self.kind == "ascent":
            return (integral + self.rate * residual).clamp(min=0)
        exponent = (self.rate * residual).clamp(-STEEPEST, STEEPEST)
        return (integral * exponent.exp()).clamp(SMALLEST * self.initial, LARGEST)


@dataclass
class Multiplier:
    """The state of one multiplier; it moves once an optimiser step, or once an epoch from the mean of its steps.

    Nothing is read back to the host while it moves.
    """

    value: Tensor
    """() on the device of the losses: the weight of the retain loss in the next step."""
    bound: float
    control: Bounded
    warmup_steps: int
    period: int
    """Optimiser steps between two updates."""
    steps: int = 0
    pending: Tensor | float = 0.0
    """Sum of the losses since the last update."""
    measured: Tensor | float = 0.0
    """Number of the steps that these losses are of."""
    integral: Tensor = field(init=False)
    """() what the residuals add up to: `value` without its proportional part."""
    is_capped: Tensor = field(init=False)
    """() bool: `value` would be larger without the cap."""
    capped: Tensor = field(init=False)
    """() int64: steps after the warm start behind which it was."""

    def __post_init__(self) -> None:
        """Begin at the value, uncapped."""
        self.integral = self.value.clone()  # files of tensors hold none that share memory
        self.is_capped = torch.zeros((), dtype=torch.bool, device=self.value.device)
        self.capped = torch.zeros((), dtype=torch.int64, device=self.value.device)

    def update(self, loss: Tensor, is_measured: Tensor | bool = True) -> None:
        """Take the dual step for the retain loss () of one optimiser step.

        A step without a token of what is held says nothing of its loss (`is_measured` () bool on the same device):
        it does not move the multiplier.
        """
        self.steps += 1
        self.pending = self.pending + loss.detach() * is_measured
        self.measured = self.measured + is_measured
        if self.steps % self.period == 0:
            if self.is_moving:
                self._move(torch.as_tensor(self.measured, device=loss.device))
            self.pending = self.measured = 0.0
        if self.is_moving:
            self.capped = self.capped + self.is_capped

    @property
    def is_moving(self) -> bool:
        """Return whether the warm start is over."""
        return self.steps > self.warmup_steps

    @property
    def cap_binds(self) -> tuple[int, int]:
        """Return in how many steps after the warm start the cap held the value, and of how many; waits for a device."""
        return int(self.capped), max(0, self.steps - self.warmup_steps)

    @property
    def ends(self) -> dict[str, float]:
        """Return what results.json records of the end of a run; waits for a device."""
        held, steps = self.cap_binds
        binds = {} if self.control.cap is None else {"cap_binds": held / max(1, steps)}
        return {"final": float(self.value)} | binds

    def caution(self, of: str = "") -> str:
        """Return a note for the user where the cap held it, with `of` behind the word multiplier; else nothing."""
        held, steps = self.cap_binds
        if not held or self.control.cap is None:
            return ""
        return (
            f"the cap of {self.control.cap:g} held the multiplier{of} in {held} of {steps} steps: the bound asked for "
            "more than it may pull; raise --multiplier_cap."
        )

    @property
    def state(self) -> dict[str, Tensor]:
        """Return all that moves on the device, by name, for a checkpoint; `steps` is the host's."""
        names = ("value", "pending", "measured", "integral", "is_capped", "capped")
        return {name: value for name in names if isinstance(value := getattr(self, name), Tensor)}

    def restore(self, state: Mapping[str, Tensor], steps: int) -> None:
        """Take up the `state` after so many steps."""
        for name, value in state.items():
            setattr(self, name, value.to(self.value.device))
        self.steps = steps

    def _move(self, known: Tensor) -> None:
        """Move by the mean of what is pending, of `known` () steps; not at all where that is none."""
        residual = self.pending / known.clamp(min=1) - self.bound
        if self.control.normalized:
            residual = residual / self.bound
        free = self.control.moved(self.integral, residual)
        integral = free if self.control.cap is None else free.clamp(max=self.control.cap)
        pull = self.control.proportional * residual
        wanted = (free + pull).clamp(min=0)
        value = (integral + pull).clamp(min=0, max=self.control.cap)
        is_known = known > 0
        self.integral = torch.where(is_known, integral, self.integral)
        self.value = torch.where(is_known, value, self.value)
        self.is_capped = torch.where(is_known, wanted > value, self.is_capped)
