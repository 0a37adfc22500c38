"""Unlearning as a constrained problem: which rows train, which hold the bound, and the training itself."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from .config import UnlearnConfig
from .constraints.bound import CONFIDENCE, Bound, Probe, Reached, Sums
from .constraints.multiplier import Bounded
from .constraints.options import BoundOptions, MultiplierOptions, ProbeOptions
from .constraints.retention import NLL, Retention
from .data.batches import StepRows
from .data.encode import Encoded, fact, token_digests
from .data.records import is_among, take
from .errors import InputError, RunError
from .execution import Check, Execution
from .inputs import Inputs
from .measuring import Measured, evenly
from .methods.base import Method
from .training.candidates import Candidate, Candidates
from .training.checkpoint import read_state
from .training.constraint import Constraint, losses_of
from .training.loop import Loop, Plan
from .training.problem import Problem, forget_term, retain_term

PROBE_SEED = 0
"""The probe is the same for every seed of a run, so that runs are held to the same examples."""
HELD_OUT_FROM = 10
"""A retain split at least so many times as large as the probe holds the probe's rows out of training."""

Probes = Mapping[str, Probe]
"""Name of a constraint -> where its bound is verified; the retain split first."""


@dataclass(frozen=True)
class Trained:
    """What training left behind."""

    kept: Candidate
    candidates: list[Candidate]
    multipliers: dict[str, float]
    """Name of a constraint -> the last value of its multiplier."""
    seconds: float
    """Of the steps alone."""
    resumed_after: list[int]
    """Steps after which the run was interrupted and went on."""


@dataclass(frozen=True)
class Unlearning:
    """One constrained problem on one model: minimize the forget loss while what is held stays within its bounds."""

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
    constraints: tuple[Constraint, ...]
    """In the order of the problem's terms behind the objective: the retain split, then what else is held."""
    rows: StepRows
    plan: Plan

    @classmethod
    def of(cls, config: UnlearnConfig, inputs: Inputs, method: Method, batch_size: int) -> "Unlearning":
        """Set the problem up from what was read."""
        forget = _to_train(inputs.splits["forget"].examples, config.bound.keep_context)
        probe, retain = draw_probe(inputs.splits["retain"].examples, config.bound)
        training = config.training
        sizes = {"forget": len(forget), "retain": len(retain)}
        step_rows = StepRows(sizes, batch_size, training.seed, training.retain_per_forget)
        control = control_of(method, config.multiplier)
        whole = len(probe) == len(inputs.splits["retain"].examples)
        constraints = [Constraint("retain", Retention(NLL(), control), probe, whole, "retain probe")]
        if config.bound.keep_context:
            around = Retention(NLL(), control, "forget", "context")
            constraints.append(Constraint("context", around, forget, True, "context of the spans"))
        terms = (forget_term(method), *(retain_term(constraint.retention) for constraint in constraints))
        loaded = inputs.loaded
        problem = Problem(terms, loaded.model, loaded.vocabulary, loaded.form)
        held_out = len(retain) < len(inputs.splits["retain"].examples)
        plan = Plan.of(training, step_rows.steps_per_epoch)
        held = tuple(constraints)
        return cls(config, method, problem, control, inputs, forget, retain, probe, held_out, held, step_rows, plan)

    def resolved(self) -> UnlearnConfig:
        """Return the configuration with the bound and the multiplier that were chosen for what it left open."""
        names = ("initial", "rate", "warmup_epochs", "update")
        multiplier = MultiplierOptions(**{f"multiplier_{name}": getattr(self.control, name) for name in names})
        asked = Bound.of(self.config.bound)
        stated: dict[str, Any] = {asked.kind: asked.requested}
        bound = replace(self.config.bound, **stated)
        return replace(self.config, bound=bound, multiplier=multiplier)

    def measured(self, notes: Mapping[str, str]) -> Measured:
        """Return the examples on which metrics are computed before and after; `notes` are those of a benchmark."""
        inputs = self.inputs
        if inputs.besides.splits:
            besides = {name: split.examples for name, split in inputs.besides.splits.items()}
            return Measured.of(inputs.encoder, inputs.besides.examples, besides, notes)
        forget = _to_train(self.forget, keep_context=False)  # a metric has nothing to say of a chunk without a span
        splits = {"forget": evenly(forget, self.config.evaluation.eval_rows), "retain": self.probe}
        return Measured.of(inputs.encoder, inputs.examples, splits, {})

    @property
    def check(self) -> Check:
        """Return the losses by which the saved model is checked: those of the probe."""
        return Check(self.problem, "retain", self.probe)

    def judge(self, execution: Execution) -> Probes:
        """Measure the model before unlearning, unless the run that is resumed has done so.

        Raises InputError for a bound that it does not hold today.
        """
        references = execution.recall("reference", self._references)
        probes = {}
        for constraint in self.constraints:
            reference = Sums.of(references[constraint.name])
            if not math.isfinite(reference.mean):
                raise InputError(
                    f"the model's loss on the {constraint.place} is {reference.mean} before unlearning; its weights "
                    "are broken, or out of range in this --dtype."
                )
            probe = Probe(Bound.of(self.config.bound), reference, constraint.is_whole)
            probe.bound.value(reference.mean, constraint.place)
            probes[constraint.name] = probe
        return probes

    def facts(self, probes: Probes) -> dict[str, Any]:
        """Return what a user should see of the bounds before training starts."""
        where = "held out of training" if self.held_out else "part of the training rows"
        if probes["retain"].whole_split:
            where = "the whole split"
        names = {"retain": "bound"}
        bounds = {
            names.get(name, f"bound of the {name}"): f"{probe.limit:.4g} nats a token (today "
            f"{probe.reference.mean:.4g}; --{probe.bound.kind} {probe.bound.requested:g})"
            for name, probe in probes.items()
        }
        return bounds | {"probe": f"{len(self.probe)} retain examples, {where}"}

    def train(self, execution: Execution, probes: Probes) -> Trained:
        """Take all steps, measure every candidate, and put the best one's weights back into the model."""
        starts = (self.plan.steps_per_epoch, self.problem.device)
        multipliers = {name: self.control.start(probe.limit, *starts) for name, probe in probes.items()}
        checkpoints = execution.checkpoints()
        measure = partial(self._measure, execution.interruption.check)
        candidates = Candidates(self.inputs.loaded, probes, measure, execution.folder.checkpoints)
        checkpoints.candidates, checkpoints.candidate = lambda: candidates.states, candidates.path
        if execution.source is not None:
            states = read_state(execution.source)["candidates"]
            candidates.resume(states, execution.source / "candidate")

        def candidate(step: int, epoch: float) -> None:
            if candidates.all and candidates.all[-1].step == step:
                return  # measured before the run was interrupted
            facts = candidates.add(step, epoch).record
            execution.folder.log({"candidate": True} | facts)
            execution.progress.candidate(facts)

        def complete(values: dict[str, Any]) -> dict[str, Any]:
            for (name, probe), value in zip(probes.items(), values.pop("multipliers"), strict=True):
                values |= {_called(name, "bound"): probe.limit, _called(name, "multiplier"): value}
            return values

        record = execution.recorder(complete, self.plan)
        splits = {"forget": self.forget, "retain": self.retain}
        options, moving = self.config.training, list(multipliers.values())
        loop = Loop(self.problem, splits, self.rows, self.plan, options, moving, record, candidate, checkpoints)
        loop.reaches_all = execution.reaches_all
        with execution.training(self.inputs.loaded):
            seconds = loop.run()
        kept = candidates.restore()
        last = {name: float(multiplier.value) for name, multiplier in multipliers.items()}
        return Trained(kept, candidates.all, last, seconds, checkpoints.resumed_after)

    def bound_facts(self, probes: Probes, reached: Mapping[str, Reached]) -> dict[str, dict[str, Any]]:
        """Return what results.json records of each bound, by the key that it stands under."""
        return {
            _called(constraint.name, "bound"): {
                "kind": probe.bound.kind,
                "requested": probe.bound.requested,
                "L_ref": probe.reference.mean,
                "value": probe.limit,
                "reached": reached[constraint.name].reached,
                "upper_limit": reached[constraint.name].upper_limit,
                "probe_size": len(probe.reference.counts),
                "held_out": self.held_out and not constraint.is_whole,
                "whole_split": probe.whole_split,
                "confidence": CONFIDENCE,
            }
            for constraint, probe in zip(self.constraints, probes.values(), strict=True)
        }

    def multiplier_facts(self, last: Mapping[str, float]) -> dict[str, Any]:
        """Return what results.json records of the multipliers, which differ in their last values alone."""
        names = ("initial", "rate", "warmup_epochs", "update")
        final = {_called(name, "final"): value for name, value in last.items()}
        return {name: getattr(self.control, name) for name in names} | final

    def _references(self) -> dict[str, dict[str, Any]]:
        """Return the losses of each constraint of the model as it stands, as JSON holds them."""
        splits = dict.fromkeys(constraint.retention.split for constraint in self.constraints)
        losses = losses_of(self.constraints, self._sums(splits))
        return {name: sums.record for name, sums in losses.items()}

    def _sums(self, splits: Iterable[str], check: Callable[[], None] = lambda: None) -> dict[str, list[Sums]]:
        """Return the sums of all terms on the forget rows and on the probe, as far as they are named."""
        examples, size = (
            {"forget": self.forget, "retain": self.probe},
            self.config.evaluation.per_device_eval_batch_size,
        )
        return {split: self.problem.measure(split, examples[split], size, check) for split in splits}

    def _measure(self, check: Callable[[], None]) -> tuple[float, dict[str, Sums]]:
        """Return the forget loss on all forget rows, and the losses of each constraint, of the model as it stands."""
        measured = self._sums(("forget", "retain"), check)
        forget_loss, losses = measured["forget"][0].mean, losses_of(self.constraints, measured)
        means = {"forget": forget_loss} | {name: sums.mean for name, sums in losses.items()}
        if not np.isfinite(list(means.values())).all():
            found = " and its ".join(f"{name} loss {mean:g}" for name, mean in means.items())
            raise RunError(
                f"the model's {found} are not all finite; lower --learning_rate, or use --dtype float32.",
                is_shared=True,
            )
        return forget_loss, losses


def _called(name: str, what: str) -> str:
    """Return the key of a fact about a constraint: that of the retain split stands under its plain name."""
    return what if name == "retain" else f"{name}_{what}"


def _to_train(forget: Sequence[Encoded], keep_context: bool) -> Sequence[Encoded]:
    """Return the forget rows that training draws: those with something to forget, or to hold.

    Raises InputError where there is nothing around a span that could be held.
    """
    if not keep_context:
        return take(forget, np.flatnonzero(fact(forget, "forgotten") > 0))
    if not fact(forget, "is_marked").any():
        raise InputError(
            "--keep_context holds what stands around the spans to forget, and no forget row marks one; mark spans in "
            "the column forget_spans, or leave --keep_context out."
        )
    if not (fact(forget, "scored") > fact(forget, "forgotten")).any():
        raise InputError(
            "--keep_context holds what stands around the spans to forget, and the spans leave nothing of any answer; "
            "leave it out."
        )
    return forget


def probe_places(rows: int, options: ProbeOptions) -> np.ndarray:
    """Return which of so many retain rows are the probe, in order."""
    size = min(rows, options.probe_size)
    return np.sort(np.random.default_rng(PROBE_SEED).choice(rows, size, replace=False))


def draw_probe(retain: Sequence[Encoded], options: BoundOptions) -> tuple[Sequence[Encoded], Sequence[Encoded]]:
    """Return (probe, rows that training draws from); the probe is held out where the split is large enough."""
    if len(retain) <= options.probe_size:
        return retain, retain
    probe = take(retain, probe_places(len(retain), options))
    if options.train_on_probe or len(retain) < HELD_OUT_FROM * options.probe_size:
        return probe, retain
    # by content: a copy of a probe row is no row of training
    held_out = is_among(token_digests(retain), token_digests(probe))
    rest = take(retain, np.flatnonzero(~held_out))
    enough = len(rest) >= HELD_OUT_FROM // 2 * options.probe_size  # not where most rows are copies
    return probe, rest if enough else retain


def control_of(method: Method, options: MultiplierOptions) -> Bounded:
    """Return the control of the multiplier: the method's own, with what the options give in its place."""
    published = method.retention[0].control if method.retention else None
    own = published if isinstance(published, Bounded) else Bounded()
    given = {name: getattr(options, f"multiplier_{name}") for name in ("initial", "rate", "warmup_epochs", "update")}
    return replace(own, **{name: value for name, value in given.items() if value is not None})
