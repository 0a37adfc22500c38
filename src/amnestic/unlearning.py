"""Unlearning as a constrained problem: which rows train, which hold the bound, and the training itself."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from .config import UnlearnConfig
from .constraints.bound import CONFIDENCE, Bound, Probe, Reached, Sums
from .constraints.multiplier import Bounded
from .constraints.options import BoundOptions, MultiplierOptions
from .constraints.retention import NLL, Retention
from .data.batches import StepRows
from .data.encode import Encoded
from .errors import InputError, RunError
from .execution import Check, Execution, Measured, evenly
from .inputs import Inputs
from .methods.base import Method
from .model.load import checkpointed
from .training.candidates import Candidate, Candidates
from .training.checkpoint import read_state
from .training.loop import Loop, Plan
from .training.problem import Problem, forget_term, retain_term

PROBE_SEED = 0
"""The probe is the same for every seed of a run, so that runs are held to the same examples."""
HELD_OUT_FROM = 10
"""A retain split at least so many times as large as the probe holds the probe's rows out of training."""


@dataclass(frozen=True)
class Trained:
    """What training left behind."""

    kept: Candidate
    candidates: list[Candidate]
    multiplier: float
    """Its last value."""
    seconds: float
    """Of the steps alone."""
    resumed_after: list[int]
    """Steps after which the run was interrupted and went on."""


@dataclass(frozen=True)
class Unlearning:
    """One constrained problem on one model: minimize the forget loss while the retain loss stays within its bound."""

    config: UnlearnConfig
    method: Method
    problem: Problem
    control: Bounded
    inputs: Inputs
    forget: Sequence[Encoded]
    retain: Sequence[Encoded]
    """What training draws from."""
    probe: Sequence[Encoded]
    held_out: bool
    """Training never draws the probe's rows."""
    rows: StepRows
    plan: Plan

    @classmethod
    def of(cls, config: UnlearnConfig, inputs: Inputs, method: Method, batch_size: int) -> "Unlearning":
        """Set the problem up from what was read."""
        forget = inputs.splits["forget"].examples
        probe, retain = draw_probe(inputs.splits["retain"].examples, config.bound)
        training = config.training
        sizes = {"forget": len(forget), "retain": len(retain)}
        step_rows = StepRows(sizes, batch_size, training.seed, training.retain_per_forget)
        control = control_of(method, config.multiplier)
        terms = (forget_term(method), retain_term(Retention(NLL(), control)))
        problem = Problem(terms, inputs.loaded.model, inputs.loaded.vocabulary)
        held_out = len(retain) < len(inputs.splits["retain"].examples)
        plan = Plan.of(training, step_rows.steps_per_epoch)
        return cls(config, method, problem, control, inputs, forget, retain, probe, held_out, step_rows, plan)

    def resolved(self) -> UnlearnConfig:
        """Return the configuration with the bound and the multiplier that were chosen for what it left open."""
        names = ("initial", "rate", "warmup_epochs", "update")
        multiplier = MultiplierOptions(**{f"multiplier_{name}": getattr(self.control, name) for name in names})
        asked = Bound.of(self.config.bound)
        stated: dict[str, Any] = {asked.kind: asked.requested}
        bound = replace(self.config.bound, **stated)
        return replace(self.config, bound=bound, multiplier=multiplier)

    @property
    def measured(self) -> Measured:
        """Return the examples on which metrics are computed before and after."""
        return {"forget": evenly(self.forget, self.config.evaluation.eval_rows), "retain": self.probe}

    @property
    def check(self) -> Check:
        """Return the losses by which the saved model is checked: those of the probe."""
        return Check(self.problem, "retain", self.probe)

    def probe_losses(self, check: Callable[[], None] = lambda: None) -> Sums:
        """Return the retain loss of each probe example, of the model as it stands; `check` may interrupt."""
        size = self.config.evaluation.per_device_eval_batch_size
        return self.problem.measure("retain", self.probe, size, check)[1]

    def judge(self, execution: Execution) -> Probe:
        """Measure the model before unlearning, unless the run that is resumed has done so.

        Raises InputError for a bound that it does not hold today.
        """
        whole_split = len(self.probe) == len(self.inputs.splits["retain"].examples)
        reference = Sums.of(execution.recall("reference", lambda: self.probe_losses().record))
        judge = Probe(Bound.of(self.config.bound), reference, whole_split)
        if not math.isfinite(judge.reference.mean):
            raise InputError(
                f"the model's loss on the retain probe is {judge.reference.mean} before unlearning; its weights are "
                "broken, or out of range in this --dtype."
            )
        judge.bound.value(judge.reference.mean)
        return judge

    def facts(self, judge: Probe) -> dict[str, Any]:
        """Return what a user should see of the bound before training starts."""
        where = "held out of training" if self.held_out else "part of the training rows"
        if judge.whole_split:
            where = "the whole split"
        return {
            "bound": f"{judge.limit:.4g} nats a token (today {judge.reference.mean:.4g}; --{judge.bound.kind} "
            f"{judge.bound.requested:g})",
            "probe": f"{len(self.probe)} retain examples, {where}",
        }

    def train(self, execution: Execution, judge: Probe) -> Trained:
        """Take all steps, measure every candidate, and put the best one's weights back into the model."""
        multiplier = self.control.start(judge.limit, self.plan.steps_per_epoch, self.problem.model.device)
        checkpoints = execution.checkpoints()
        measure = partial(self._measure, execution.interruption.check)
        candidates = Candidates(self.inputs.loaded, judge, measure, execution.folder.checkpoints)
        checkpoints.candidates, checkpoints.candidate = lambda: candidates.states, candidates.path
        if execution.source is not None:
            states = read_state(execution.source)["candidates"]
            candidates.resume(states, execution.source / "candidate.safetensors")

        def candidate(step: int, epoch: float) -> None:
            if candidates.all and candidates.all[-1].step == step:
                return  # measured before the run was interrupted
            facts = candidates.add(step, epoch).record
            execution.folder.log({"candidate": True} | facts)
            execution.progress.candidate(facts)

        def complete(values: dict[str, Any]) -> dict[str, Any]:
            (value,) = values.pop("multipliers")
            return values | {"bound": judge.limit, "multiplier": value}

        record = execution.recorder(complete, self.plan)
        splits = {"forget": self.forget, "retain": self.retain}
        options = self.config.training
        loop = Loop(self.problem, splits, self.rows, self.plan, options, [multiplier], record, candidate, checkpoints)
        with checkpointed(self.inputs.loaded, options.gradient_checkpointing):
            seconds = loop.run()
        kept = candidates.restore()
        return Trained(kept, candidates.all, float(multiplier.value), seconds, checkpoints.resumed_after)

    def bound_facts(self, judge: Probe, reached: Reached) -> dict[str, Any]:
        """Return what results.json records of the bound."""
        return {
            "kind": judge.bound.kind,
            "requested": judge.bound.requested,
            "L_ref": judge.reference.mean,
            "value": judge.limit,
            "reached": reached.reached,
            "upper_limit": reached.upper_limit,
            "probe_size": len(self.probe),
            "held_out": self.held_out,
            "whole_split": judge.whole_split,
            "confidence": CONFIDENCE,
        }

    def multiplier_facts(self, last: float) -> dict[str, Any]:
        """Return what results.json records of the multiplier."""
        control = self.control
        names = ("initial", "rate", "warmup_epochs", "update")
        return {name: getattr(control, name) for name in names} | {"final": last}

    def _measure(self, check: Callable[[], None]) -> tuple[float, Sums]:
        """Return the forget loss on all forget rows, and the probe's losses, of the model as it stands."""
        size = self.config.evaluation.per_device_eval_batch_size
        forget_loss = self.problem.measure("forget", self.forget, size, check)[0].mean
        losses = self.probe_losses(check)
        if not np.isfinite([forget_loss, losses.mean]).all():
            raise RunError(
                f"the model's forget loss is {forget_loss:g} and its retain loss {losses.mean:g}, which are not both "
                "finite; lower --learning_rate, or use --dtype float32."
            )
        return forget_loss, losses


def draw_probe(retain: Sequence[Encoded], options: BoundOptions) -> tuple[Sequence[Encoded], Sequence[Encoded]]:
    """Return (probe, rows that training draws from); the probe is held out where the split is large enough."""
    if len(retain) <= options.probe_size:
        return retain, retain
    chosen = np.random.default_rng(PROBE_SEED).choice(len(retain), options.probe_size, replace=False)
    probe = [retain[i] for i in sorted(chosen.tolist())]
    if options.train_on_probe or len(retain) < HELD_OUT_FROM * options.probe_size:
        return probe, retain
    held_out = {row.input_ids.tobytes() for row in probe}  # by content: a copy of a probe row is no row of training
    rest = [row for row in retain if row.input_ids.tobytes() not in held_out]
    enough = len(rest) >= HELD_OUT_FROM // 2 * options.probe_size  # not where most rows are copies
    return probe, rest if enough else retain


def control_of(method: Method, options: MultiplierOptions) -> Bounded:
    """Return the control of the multiplier: the method's own, with what the options give in its place."""
    published = method.retention[0].control if method.retention else None
    own = published if isinstance(published, Bounded) else Bounded()
    given = {name: getattr(options, f"multiplier_{name}") for name in ("initial", "rate", "warmup_epochs", "update")}
    return replace(own, **{name: value for name, value in given.items() if value is not None})
