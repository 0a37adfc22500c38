"""Unlearning as a constrained problem: which rows train, what is held and how, and the training itself."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from . import processes
from .alternatives import records, second_answers, unused_answers
from .config import UnlearnConfig
from .constraints.bound import CONFIDENCE, Bound, Probe, Reached
from .constraints.multiplier import Fixed, Multiplier
from .constraints.retention import NLL, Retention
from .data.batches import StepRows
from .data.encode import Encoded, fact
from .data.records import take
from .data.second_answers import files_of_answers
from .errors import InputError
from .evaluation.conditions import Conditions
from .execution import Check, Execution
from .inputs import Inputs, bound_model
from .measuring import Measured, evenly
from .methods.base import Method
from .model.blocks import count, moving
from .probing import Kept, Probes, Probing, outside, plain
from .retaining import fitted, is_bounded, names_of, refuse_unknown, resolved, retentions_of, unused
from .training.candidates import Candidate, Candidates
from .training.checkpoint import read_state
from .training.constraint import Constraint
from .training.loop import Loop, Plan
from .training.problem import Problem, forget_term, retain_term
from .training.remembered import Remembered, drawn


@dataclass(frozen=True)
class Trained:
    """What training left behind."""

    kept: Candidate
    candidates: list[Candidate]
    multipliers: dict[str, Multiplier]
    """Name of a bounded constraint -> its multiplier after the last step."""
    seconds: float
    """Of the steps alone."""
    resumed_after: list[int]
    """Steps after which the run was interrupted and went on."""


@dataclass(frozen=True)
class Unlearning:
    """One constrained problem on one model: minimize the forget loss while what is held stays within its bounds.

    A run without a bound has constraints of fixed weight, or none at all.
    """

    config: UnlearnConfig
    method: Method
    problem: Problem
    inputs: Inputs
    forget: Sequence[Encoded]
    kept: tuple[Kept, ...]
    """The splits that are kept; the first one leads: its facts stand under plain names."""
    constraints: tuple[Constraint, ...]
    """In the order of the problem's terms behind the objective: split by split, then what else is held."""
    rows: StepRows
    plan: Plan

    @classmethod
    def of(cls, config: UnlearnConfig, inputs: Inputs, method: Method, batch_size: int) -> "Unlearning":
        """Set the problem up from what was read."""
        loaded, training = inputs.loaded, config.training
        method = fitted(method, loaded.model, training.seed)
        forget = _to_train(inputs.splits["forget"].examples, config.bound.keep_context)
        rows = {name: split.examples for name, split in inputs.splits.items() if name != "forget"}
        kept = tuple(Kept.of(name, examples, config.bound) for name, examples in rows.items())
        constraints = _constraints(config, method, kept, forget, loaded.model)
        drawn = {constraint.retention.split for constraint in constraints}
        sizes = {"forget": len(forget)} | {split.name: len(split.training) for split in kept if split.name in drawn}
        step_rows = StepRows(sizes, batch_size, training.seed, training.retain_per_forget)
        held = [retain_term(constraint.retention, constraint.name) for constraint in constraints]
        terms = (forget_term(method), *held)
        problem = Problem(terms, loaded.model, loaded.vocabulary, loaded.form)
        if config.bound.bound_model is not None and not is_bounded(method, config.bound):
            raise InputError("--bound_model is where a bound starts from, and this run has none; give --keep as well.")
        if not is_bounded(method, config.bound) and (note := unused(config.multiplier)):
            loaded.notes.append(note)
        if note := unused_answers(method, config.data):
            loaded.notes.append(note)
        plan = Plan.of(training, step_rows.steps_per_epoch)
        return cls(config, method, problem, inputs, forget, kept, constraints, step_rows, plan)

    def answered(self, execution: Execution) -> "Unlearning":
        """Return the problem with the second answers that the method reads, made by the model as it stands."""
        if self.method.alternate is None:
            return self
        options, size = self.config.data, self.config.evaluation.per_device_eval_batch_size
        with processes.agreed():
            execution.folder.refuse_inputs(files_of_answers(options))
        execution.progress.start("second answers", len(self.forget))
        found = second_answers(
            self.method.alternate,
            self.inputs,
            self.forget,
            options,
            self.config.training.seed,
            recall=execution.recall_texts,
            batch_size=size,
        )
        second = {row.id: row for row in found}
        return replace(self, problem=replace(self.problem, second=second))

    def referred(self, execution: Execution) -> "Unlearning":
        """Return the problem with the reference that its terms read, of the model as it stands."""
        if not self.problem.demands:
            return self
        probes = {constraint.retention.split: constraint.examples for constraint in self.constraints}
        examples = drawn(self._drawn_from, self.rows, self.plan.steps, probes | {"forget": self.forget})
        remembered = Remembered(
            self.config.method.reference_mode,
            self.inputs.loaded.has_adapter,
            self.config.evaluation.per_device_eval_batch_size,
            execution.folder.checkpoints,
            execution.folder.is_written_here,
            None if execution.source is None else execution.source.parent,
        )

        def start(title: str, units: int) -> Callable[[int], None]:
            execution.progress.start(title, units)
            return execution.progress.advance

        problem = remembered.complete(self.problem, examples, execution.interruption.check, start)
        return replace(self, problem=problem)

    @property
    def _drawn_from(self) -> dict[str, Sequence[Encoded]]:
        """Return the examples that training draws from, by split."""
        return {"forget": self.forget} | {s.name: s.training for s in self.kept if s.name in self.rows.sizes}

    def resolved(self) -> UnlearnConfig:
        """Return the configuration with the method, the bound and the multiplier that it left open."""
        return resolved(self.config, self.method, self.constraints)

    @property
    def is_bounded(self) -> bool:
        """Return whether the run holds a bound."""
        return bool(self.probing.bounded)

    @property
    def alike(self) -> dict[str, str]:
        """Return the method that this one is the same as under the run's bound, as results.json records it."""
        other = self.method.same_when_bounded
        return {"same_when_bounded": other} if other is not None and self.is_bounded else {}

    @property
    def probing(self) -> Probing:
        """Return what measures the losses of candidates, and of the model before."""
        size = self.config.evaluation.per_device_eval_batch_size
        return Probing(self.problem, self.constraints, self.forget, size, self.method.ranks_by_likelihood)

    def measured(self, conditions: Conditions) -> Measured:
        """Return the examples on which metrics are computed before and after, under a benchmark's `conditions`."""
        inputs, most = self.inputs, self.config.evaluation.eval_rows
        further = {name: evenly(_marked(found.examples), most) for name, found in inputs.further.splits.items()}
        if inputs.besides.splits:
            besides = {name: split.examples for name, split in inputs.besides.splits.items()}
            examples = {**inputs.besides.examples, **inputs.further.examples}
            return Measured.of(inputs.encoder, examples, besides | further, conditions)
        splits = {"forget": evenly(_marked(self.forget), most)}
        splits |= {split.name: split.probe for split in self.kept}
        return Measured.of(inputs.encoder, {**inputs.examples, **inputs.further.examples}, splits | further)

    @property
    def check(self) -> Check:
        """Return the losses by which the saved model is checked: those of the leading probe, in nats a token."""
        lead = self.kept[0]
        return Check(plain(self.problem, [Retention(NLL(), Fixed(), lead.name)]), lead.name, lead.probe)

    def judge(self, execution: Execution) -> Probes:
        """Measure the model before unlearning, unless the run that is resumed has done so.

        Raises InputError for a bound that it does not hold today; where the bound starts from another model, that one.
        """
        name = self.config.bound.bound_model
        if name is None:
            return self.probing.judge(execution.recall("reference", self.probing.before))
        reference = execution.recall("reference", lambda: self._probing_of(name, execution).before())
        probes = self.probing.judge(reference, execution.recall("start", self.probing.before))
        self.inputs.loaded.notes += [note for held, probe in probes.items() if (note := outside(held, probe))]
        return probes

    def _probing_of(self, name: str, execution: Execution) -> Probing:
        """Return what measures the losses of the model that the bound starts from."""
        beside = bound_model(self.inputs, self.config.model, name, execution.given)
        with processes.agreed():
            execution.folder.refuse_inputs(beside.files)
        return replace(self.probing, problem=replace(self.problem, model=beside.model, form=beside.form))

    def facts(self, probes: Probes) -> dict[str, Any]:
        """Return what a user should see of the bounds, or of what stands in their place, before training starts."""
        held = {
            self._title(name): f"{probe.limit:.4g} nats a token ({_known(probe)}; "
            f"--{probe.bound.kind} {probe.bound.requested:g})"
            for name, probe in probes.items()
        }
        if not probes:
            weights = [f"{c.retention.loss.name} x {c.facts['weight']:g} on {c.name}" for c in self.constraints]
            held = {"bound": "none", "retention": ", ".join(weights) or f"none; {self.method.name} has none"}
        for split in self.kept:
            name = "probe" if split is self.kept[0] else f"probe of {split.name}"
            held[name] = f"{len(split.probe)} {split.name} examples, {split.place}"
        return held

    def write_answers(self, execution: Execution) -> None:
        """Keep the second answers in the run folder; a redacted run keeps no text."""
        if self.problem.second is not None and not execution.redaction.is_on:
            execution.folder.write_rows("alternatives.jsonl", records(list(self.problem.second.values())))

    def train(self, execution: Execution, probes: Probes) -> Trained:
        """Take all steps, measure every candidate, and put the best one's weights back into the model."""
        multipliers = self._multipliers(probes)
        checkpoints = execution.checkpoints()
        measure = partial(self.probing.candidate, execution.interruption.check)
        candidates = Candidates(self.inputs.loaded, probes, measure, execution.folder.checkpoints)
        checkpoints.candidates, checkpoints.candidate = lambda: candidates.states, candidates.path
        if execution.source is not None:
            states = read_state(execution.source)["candidates"]
            candidates.resume(states, execution.source / "candidate")

        def candidate(step: int, epoch: float) -> None:
            if candidates.all and candidates.all[-1].step == step:
                return  # measured before the run was interrupted
            if not probes and step < self.plan.steps:
                return  # nothing tells which of several to take: the last is what is published
            facts = candidates.add(step, epoch).record
            execution.folder.log({"candidate": True} | facts)
            execution.progress.candidate(facts)

        def complete(values: dict[str, Any]) -> dict[str, Any]:
            weights = dict(zip(multipliers, values.pop("multipliers"), strict=True))
            for name, probe in probes.items():
                values |= {self._called(name, "bound"): probe.limit, self._called(name, "multiplier"): weights[name]}
            return values

        record = execution.recorder(complete, self.plan)
        options, weights = self.config.training, list(multipliers.values())
        loop = Loop(
            self.problem, self._drawn_from, self.rows, self.plan, options, weights, record, candidate, checkpoints
        )
        loop.reaches_all = execution.reaches_all
        with moving(self.inputs.loaded.model, self.method.moves):
            with execution.training(self.inputs.loaded):
                seconds = loop.run()
            kept = candidates.restore()
        held = {name: multipliers[name] for name in probes}
        for name, multiplier in held.items():
            if note := multiplier.caution("" if name == self.kept[0].name else f" of {name}"):
                self.inputs.loaded.notes.append(note)
                execution.progress.note(note)
        return Trained(kept, candidates.all, held, seconds, checkpoints.resumed_after)

    def _multipliers(self, probes: Probes) -> dict[str, Multiplier]:
        """Return a new multiplier for each constraint, in their order."""
        starts = (self.plan.steps_per_epoch, self.problem.device)
        limits = {name: probe.limit for name, probe in probes.items()}
        return {c.name: c.retention.control.start(limits.get(c.name, 0.0), *starts) for c in self.constraints}

    def bound_facts(self, probes: Probes, reached: Mapping[str, Reached]) -> dict[str, dict[str, Any]]:
        """Return what results.json records of each bound, by the key that it stands under."""
        held_out = {split.name: split.is_held_out for split in self.kept}
        first = self.config.bound.bound_model
        return {
            self._called(name, "bound"): {
                "kind": probe.bound.kind,
                "requested": probe.bound.requested,
                "L_ref": probe.reference.mean,
                "value": probe.limit,
                "reached": reached[name].reached,
                "upper_limit": reached[name].upper_limit,
                "probe_size": len(probe.reference.counts),
                "held_out": held_out.get(name, False),
                "whole_split": probe.whole_split,
                "confidence": CONFIDENCE,
                **({} if probe.start is None else {"bound_model": first, "L_start": probe.start.mean}),
            }
            for name, probe in probes.items()
        }

    def multiplier_facts(self, multipliers: Mapping[str, Multiplier]) -> dict[str, dict[str, Any]]:
        """Return what results.json records of the multipliers, which differ in their ends alone; nothing of none."""
        if not multipliers:
            return {}
        ends = {self._called(name, key): end for name, own in multipliers.items() for key, end in own.ends.items()}
        return {"multiplier": vars(self.constraints[0].retention.control) | ends}

    @property
    def retention_facts(self) -> dict[str, dict[str, Any]]:
        """Return what results.json records of each retention, by name."""
        return {constraint.name: constraint.facts for constraint in self.constraints}

    def _called(self, name: str, what: str) -> str:
        """Return the key of a fact about a constraint: that of the leading split stands under its plain name."""
        return what if name == self.kept[0].name else f"{name}_{what}"

    def _title(self, name: str) -> str:
        return "bound" if name == self.kept[0].name else f"bound of {name}"


def _constraints(
    config: UnlearnConfig, method: Method, kept: Sequence[Kept], forget: Sequence[Encoded], model: Any
) -> tuple[Constraint, ...]:
    """Return what is held, of each split alike, and of the answers to be forgotten what stands around their spans."""
    options = config.bound
    refuse_unknown(options, [split.name for split in kept])
    chosen = retentions_of(method, options, config.multiplier, lambda: count(model))
    found = [(replace(one, split=split.name), split) for split in kept for one in chosen]
    names = names_of([retention for retention, _ in found])
    bound = partial(Bound.of, options) if is_bounded(method, options) else lambda name: None
    constraints = [
        Constraint(name, retention, bound(name), split.probe, split.is_whole, f"{split.name} probe")
        for name, (retention, split) in zip(names, found, strict=True)
    ]
    if options.keep_context:
        around = replace(chosen[0], split="forget", part="context")
        constraints.append(Constraint("context", around, bound("context"), forget, True, "context of the spans"))
    return tuple(constraints)


def _known(probe: Probe) -> str:
    """Return what is known of the loss on a probe before the first step."""
    if probe.start is None:
        return f"today {probe.reference.mean:.4g}"
    return f"of the bound's model {probe.reference.mean:.4g}, today {probe.start.mean:.4g}"


def _marked(rows: Sequence[Encoded]) -> Sequence[Encoded]:
    """Return the rows with something to forget: a metric has nothing to say of a chunk without a marked span."""
    return take(rows, np.flatnonzero(fact(rows, "forgotten") > 0))


def _to_train(forget: Sequence[Encoded], keep_context: bool) -> Sequence[Encoded]:
    """Return the forget rows that training draws: those with something to forget, or to hold.

    Raises InputError where there is nothing around a span that could be held.
    """
    if not keep_context:
        return _marked(forget)
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
