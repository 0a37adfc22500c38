"""The training loop: rows to batches to steps, with a record a step and a candidate an epoch."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..constraints.multiplier import Multiplier
from ..data.batches import StepRows, micro_batches
from ..data.encode import Encoded
from ..errors import RunError
from .optimizer import Optimizer
from .options import TrainingOptions
from .problem import Problem
from .schedule import factor
from .step import step

PASS_COST = {"cpu": 128, "cuda": 1400}
"""What one more forward and backward pass costs, in positions: below that, a kernel launch waits for nothing."""


@dataclass(frozen=True)
class Plan:
    """How many steps a run takes."""

    steps: int
    steps_per_epoch: int
    warmup_steps: int

    @classmethod
    def of(cls, options: TrainingOptions, steps_per_epoch: int) -> "Plan":
        """Return the plan of `options`."""
        steps = options.max_steps or math.ceil(round(options.num_train_epochs * steps_per_epoch, 6))
        warmup = options.warmup_steps
        if warmup is None:
            warmup = min(round(options.warmup_epochs * steps_per_epoch), steps - 1)
        return cls(steps, steps_per_epoch, warmup)

    def is_candidate(self, done: int) -> bool:
        """Return whether an epoch, or the run, ends after `done` steps."""
        return done % self.steps_per_epoch == 0 or done == self.steps


@dataclass
class Loop:
    """Everything that a run of training holds on to."""

    problem: Problem
    splits: dict[str, Sequence[Encoded]]
    rows: StepRows
    plan: Plan
    options: TrainingOptions
    multipliers: Sequence[Multiplier]
    record: Callable[[dict[str, Any]], None]
    """Receives the values of a step, one step late, so that the device never waits for the host."""
    candidate: Callable[[int, float], None]
    """Called with (steps done, epochs done) after each epoch and after the last step."""

    @torch.enable_grad()  # also where a caller has switched gradients off
    def run(self) -> float:
        """Take all steps and return the seconds that they took, without the candidates' measurements.

        Raises RunError where a loss or a gradient is no finite number.
        """
        optimizer = Optimizer(self.problem.model.parameters(), self.options)
        pending: Callable[[], None] = _nothing
        training = 0.0
        for number in range(self.plan.steps):
            begin = time.perf_counter()
            rate = factor(self.options.lr_scheduler_type, number, self.plan.steps, self.plan.warmup_steps)
            optimizer.set_learning_rate(rate)
            sums, norm = step(self.problem, self.batches(number, optimizer.device), self.multipliers, optimizer)
            pending()
            values = torch.stack([*sums, norm, *(m.value for m in self.multipliers)])
            seconds = time.perf_counter() - begin
            training += seconds
            pending = self._later(number + 1, rate * self.options.learning_rate, values, seconds)
            if self.plan.is_candidate(number + 1):
                pending()
                pending = _nothing
                self.candidate(number + 1, (number + 1) / self.plan.steps_per_epoch)
        return training

    def batches(self, number: int, device: torch.device) -> list[Any]:
        """Return the batches of step `number` (counted from 0), on `device`."""
        cost = PASS_COST.get(device.type, PASS_COST["cuda"])
        rows = self.rows.rows(number)
        batches = micro_batches(self.splits, rows, self.options.per_device_train_batch_size, cost)
        return [batch.to(device) for batch in batches]

    def _later(self, done: int, rate: float, values: Tensor, seconds: float) -> Callable[[], None]:
        """Return a call that reads `values` back, checks them, and hands on the record."""

        def record() -> None:
            names = [f"{term.split}_loss" for term in self.problem.terms]
            *losses, norm = values[: len(names) + 1].tolist()
            if not all(map(math.isfinite, [*losses, norm])):
                found = ", ".join(f"{name} {value:g}" for name, value in zip(names, losses, strict=True))
                raise RunError(
                    f"step {done}: {found}, gradient norm {norm:g} are not all finite; lower --learning_rate, or use "
                    "--dtype float32."
                )
            multipliers = values[len(losses) + 1 :].tolist()
            self.record(
                {"step": done, "epoch": done / self.plan.steps_per_epoch, "learning_rate": rate}
                | dict(zip(names, losses, strict=True))
                | {"multipliers": multipliers, "grad_norm": norm, "seconds": seconds}
            )

        return record


def _nothing() -> None:
    return None
