"""The training loop: rows to batches to steps, with a record a step and a candidate an epoch."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .. import processes
from ..constraints.multiplier import Multiplier
from ..data.batches import Batch, StepRows, micro_batches
from ..data.cuts import Budget, most_tokens
from ..data.encode import Encoded
from ..errors import RunError
from ..interruption import Requested
from ..model.reading import read_parameters
from .checkpoint import Checkpoints, Training, found_in
from .gradients import watch_first_step
from .optimizer import Optimizer
from .options import TrainingOptions
from .problem import Problem
from .randomness import seeded
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
    splits: Mapping[str, Sequence[Encoded]]
    rows: StepRows
    plan: Plan
    options: TrainingOptions
    multipliers: Sequence[Multiplier]
    record: Callable[[dict[str, Any]], None]
    """Receives the values of a step, one step late, so that the device never waits for the host."""
    candidate: Callable[[int, float], None]
    """Called with (steps done, epochs done) after each epoch and after the last step."""

    checkpoints: Checkpoints | None = None
    """Where the run's state is written, and read from where it goes on; none: the run starts anew, and writes none."""
    reaches_all: bool = False
    """A parameter that reads text, and has no gradient in the first step, is an error."""

    @torch.enable_grad()  # also where a caller has switched gradients off
    def run(self) -> float:
        """Take all steps and return the seconds that they took, without the candidates' measurements.

        Raises RunError where a loss or a gradient is no finite number, KeyboardInterrupt where somebody asked for it;
        the state is in a checkpoint then.
        """
        with seeded(self.options.seed), self._interruption():
            optimizer = Optimizer(self.problem.model.parameters(), self.options)
            if self.reaches_all:
                watch_first_step(optimizer, read_parameters(self.problem.model))
            training = Training(self.problem.model, optimizer, self.multipliers)
            if self.checkpoints is not None:
                self.checkpoints.restore(training)
            if training.step and self.plan.is_candidate(training.step):
                self._measure(training)
            self._train(training)
        self._stop_if_asked()
        return training.seconds

    def _interruption(self) -> AbstractContextManager[None]:
        """Return a context within which a request to stop waits until the state is whole."""
        return nullcontext() if self.checkpoints is None else self.checkpoints.interruption.deferred()

    def _train(self, training: Training) -> None:
        pending: Callable[[], None] = _nothing
        while training.step < self.plan.steps:
            begin = time.perf_counter()
            rate = factor(self.options.lr_scheduler_type, training.step, self.plan.steps, self.plan.warmup_steps)
            training.optimizer.set_learning_rate(rate)
            watched = _Watched(self.problem)
            batches = self.batches(training.step, training.optimizer.device)
            taken = step(watched, batches, self.multipliers, training.optimizer)
            training.step += 1
            pending()
            values = torch.stack([*taken.losses, taken.norm, *(m.value for m in self.multipliers), *taken.units])
            seconds = time.perf_counter() - begin
            training.seconds += seconds
            pending = self._later(training.step, rate * self.options.learning_rate, values, seconds, watched)
            self._agree()
            if self.plan.is_candidate(training.step) or self._is_interrupted() or self._is_due(training):
                pending()
                pending = _nothing
                self._settle(training)

    def _agree(self) -> None:
        """Let all processes answer alike where any of them was asked to stop."""
        if self.checkpoints is not None:
            self.checkpoints.interruption.agree()

    def _is_due(self, training: Training) -> bool:
        is_last = training.step == self.plan.steps
        return self.checkpoints is not None and self.checkpoints.is_due(training.step, is_last)

    def _settle(self, training: Training) -> None:
        """Measure the candidate and write the checkpoint that are due after a step, and stop where somebody asked."""
        if self.plan.is_candidate(training.step) and not self._is_interrupted():
            self._measure(training)
        if self._is_due(training):
            self._write(training)
        self._stop_if_asked()

    def _is_interrupted(self) -> bool:
        return self.checkpoints is not None and self.checkpoints.interruption.is_requested

    def _stop_if_asked(self) -> None:
        if self.checkpoints is not None:
            self.checkpoints.interruption.check()

    def _measure(self, training: Training) -> None:
        """Measure the candidate; where that is interrupted, the state from before it is written all the same."""
        try:
            self.candidate(training.step, training.step / self.plan.steps_per_epoch)
        except Requested:  # not a second signal, which may come where weights are half put back
            if self._is_due(training):
                self._write(training)
            raise

    def _write(self, training: Training) -> None:
        if self.checkpoints is not None:
            self.checkpoints.write(training, training.step == self.plan.steps)

    def batches(self, number: int, device: torch.device) -> list[Any]:
        """Return this process's batches of step `number` (counted from 0), on `device`."""
        cost = PASS_COST.get(device.type, PASS_COST["cuda"])
        budget = replace(self._budget, pass_cost=cost)
        share = (processes.rank(), processes.count())
        rows = self.rows.rows(number)
        made = micro_batches(self.splits, rows, budget, share, self.problem.joint)
        return [batch.to(device) for batch in made]

    @cached_property
    def _budget(self) -> Budget:
        """Return what a pass may hold: what the options say, or what the stated number of the longest rows takes."""
        form, options = self.problem.form, self.options
        most = options.max_tokens_per_batch
        if most is None:
            most = most_tokens(self.splits.values(), options.per_device_train_batch_size)
        return Budget(most, packs=form is not None and form.packs)

    def _later(self, done: int, rate: float, values: Tensor, seconds: float, watched: "_Watched") -> Callable[[], None]:
        """Return a call that reads `values` back, checks them, and hands on the record."""

        def record() -> None:
            names = [f"{term.name}_loss" for term in self.problem.terms]
            found, terms = values.tolist(), len(names)
            losses, norm, multipliers, units = found[:terms], found[terms], found[terms + 1 : -terms], found[-terms:]
            if not all(map(math.isfinite, [*losses, norm])):
                named = ", ".join(f"{name} {value:g}" for name, value in zip(names, losses, strict=True))
                raise RunError(
                    f"step {done}: {named}, gradient norm {norm:g} are not all finite, in "
                    f"{_named(watched.culprits())}; lower --learning_rate, or use --dtype float32."
                    f"{self._last_checkpoint()}",
                    is_shared=True,
                )
            measured = [loss if count else None for loss, count in zip(losses, units, strict=True)]
            self.record(
                {"step": done, "epoch": done / self.plan.steps_per_epoch, "learning_rate": rate}
                | dict(zip(names, measured, strict=True))
                | {"multipliers": multipliers, "grad_norm": norm, "seconds": seconds}
            )

        return record

    def _last_checkpoint(self) -> str:
        """Return a sentence that names the newest checkpoint, if the run has one."""
        found = found_in(self.checkpoints.folder) if self.checkpoints is not None else []
        return f" The last good checkpoint is {found[0]}; with other options the run starts anew." if found else ""


class _Watched:
    """A problem that remembers what each batch of a step gave, to name the examples that gave no number."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.seen: list[tuple[Batch, Tensor]] = []

    def counts(self, batch: Batch) -> list[int]:
        return self.problem.counts(batch)

    def values(self, batch: Batch) -> Tensor:
        values = self.problem.values(batch)
        self.seen.append((batch, values.detach()))
        return values

    def culprits(self) -> list[str]:
        """Return the ids of the batches whose sums are not finite; of all batches, where only the gradient is not.

        Those of all processes, on all.
        """
        own = [(bool(values.isfinite().all()), batch.ids) for batch, values in self.seen]
        every = [batch for share in processes.gathered(own) for batch in share]
        broken = [ids for is_finite, ids in every if not is_finite]
        return [id for ids in broken or [ids for _, ids in every] for id in ids]


def _named(ids: Sequence[str], most: int = 8) -> str:
    """Return ids for an error message, the first ones of many."""
    rest = f" and {len(ids) - most} more" if len(ids) > most else ""
    return f"example{'s' if len(ids) > 1 else ''} {', '.join(ids[:most])}{rest}"


def _nothing() -> None:
    return None
