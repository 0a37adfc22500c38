"""Where what is kept is verified: the probe of each split, its losses before the first step, and a candidate's."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .constraints.bound import Probe, Sums
from .constraints.multiplier import Bounded
from .constraints.options import BoundOptions, ProbeOptions
from .constraints.retention import Retention
from .data.encode import Encoded, token_digests
from .data.records import is_among, take
from .errors import InputError, RunError
from .training.candidates import LIKELIHOOD
from .training.constraint import Constraint, losses_of
from .training.problem import Problem, likelihood_term, retain_term

PROBE_SEED = 0
"""The probe is the same for every seed of a run, so that runs are held to the same examples."""
HELD_OUT_FROM = 10
"""A retain split at least so many times as large as the probe holds the probe's rows out of training."""

Probes = Mapping[str, Probe]
"""Name of a constraint -> where its bound is verified; the leading split first."""


@dataclass(frozen=True)
class Kept:
    """A split that is kept."""

    name: str
    probe: Sequence[Encoded]
    """On which it is measured."""
    training: Sequence[Encoded]
    """What training draws from, where it draws any."""
    size: int
    """Rows of the split."""

    @classmethod
    def of(cls, name: str, rows: Sequence[Encoded], options: BoundOptions) -> "Kept":
        """Draw the probe of a split."""
        probe, training = draw_probe(rows, options)
        return cls(name, probe, training, len(rows))

    @property
    def is_whole(self) -> bool:
        """Return whether the probe is the whole split."""
        return len(self.probe) == self.size

    @property
    def is_held_out(self) -> bool:
        """Return whether training never draws the probe's rows."""
        return len(self.training) < self.size

    @property
    def place(self) -> str:
        """Return a phrase that says what the probe is."""
        if self.is_whole:
            return "the whole split"
        return "held out of training" if self.is_held_out else "part of the training rows"


def probe_places(rows: int, options: ProbeOptions) -> np.ndarray:
    """Return which of so many rows of a split are its probe, in order."""
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


@dataclass(frozen=True)
class Probing:
    """Measures the losses of a problem on the forget rows, and on the examples that verify what is kept."""

    problem: Problem
    constraints: Sequence[Constraint]
    """In the order of the problem's terms behind the objective."""
    forget: Sequence[Encoded]
    batch_size: int
    ranks_by_likelihood: bool = False
    """Candidates are ranked by log p of what is to be forgotten (`Method.ranks_by_likelihood`)."""

    @property
    def bounded(self) -> list[Constraint]:
        """Return the constraints that have a bound."""
        return [constraint for constraint in self.constraints if constraint.bound is not None]

    def before(self) -> dict[str, dict[str, Any]]:
        """Return the losses of each bounded constraint before the first step, as JSON holds them.

        What is 0 then by its definition is not measured.
        """
        known = {c.name: sums for c in self.bounded if (sums := c.untouched) is not None}
        unknown = [constraint for constraint in self.bounded if constraint.name not in known]
        alone = plain(self.problem, [constraint.retention for constraint in unknown])
        measured = losses_of(unknown, self._sums(alone, unknown))
        return {constraint.name: (known | measured)[constraint.name].record for constraint in self.bounded}

    def judge(
        self, before: Mapping[str, Mapping[str, Any]], start: Mapping[str, Mapping[str, Any]] | None = None
    ) -> Probes:
        """Return the probes of the bounds, from what `before` returned; of another model, with that of the `start`.

        Raises InputError for a bound that the model, or that other one, does not hold today.
        """
        probes = {}
        for constraint in self.bounded:
            reference = Sums.of(before[constraint.name])
            if not math.isfinite(reference.mean):
                raise InputError(
                    f"the model's loss on the {constraint.place} is {reference.mean} before unlearning; its weights "
                    "are broken, or out of range in this --dtype."
                )
            own = None if start is None else Sums.of(start[constraint.name])
            probes[constraint.name] = replace(_probe(constraint, reference), start=own)
        return probes

    def candidate(self, check: Callable[[], None]) -> tuple[float, dict[str, Sums]]:
        """Return the forget loss on all forget rows, and the losses of each bounded constraint, of the model as it is.

        Among the latter is log p of what is to be forgotten, where candidates are ranked by it. `check` is called
        between passes, and may raise. Raises RunError where one of them is no finite number.
        """
        objective, *held = self.problem.terms
        ranking = [likelihood_term()] if self.ranks_by_likelihood else []
        problem = self.problem.of([objective, *ranking, *(held if self.bounded else [])])
        measured = self._sums(problem, self.bounded, check, with_forget=True)
        forget_loss, losses = measured["forget"][0].mean, losses_of(self.bounded, measured)
        if self.ranks_by_likelihood:
            losses[LIKELIHOOD] = measured["forget"][1]
        means = {"forget": forget_loss} | {name: sums.mean for name, sums in losses.items()}
        if not np.isfinite(list(means.values())).all():
            found = " and its ".join(f"{name} loss {mean:g}" for name, mean in means.items())
            raise RunError(
                f"the model's {found} are not all finite; lower --learning_rate, or use --dtype float32.",
                is_shared=True,
            )
        return forget_loss, losses

    def _sums(
        self,
        problem: Problem,
        constraints: Iterable[Constraint],
        check: Callable[[], None] = lambda: None,
        with_forget: bool = False,
    ) -> dict[str, list[Sums]]:
        """Return, by split, the sums of the terms of `problem` on those of `constraints`, and on the forget rows."""
        examples = {"forget": self.forget} if with_forget else {}
        examples |= {constraint.retention.split: constraint.examples for constraint in constraints}
        return {split: problem.measure(split, rows, self.batch_size, check) for split, rows in examples.items()}


def outside(name: str, probe: Probe) -> str:
    """Return a note where the model that a run starts from does not hold the bound of an earlier one; else nothing."""
    if probe.start is None or (today := probe.judge(probe.start)).holds:
        return ""
    limit = "" if probe.whole_split else f", at most {today.upper_limit:.4g} with 95 % confidence"
    return (
        f"the model that this run starts from is outside of the bound already: {name} loss {today.reached:.4g} nats a "
        f"token{limit}, bound {probe.limit:.4g}."
    )


def plain(problem: Problem, retentions: Sequence[Retention]) -> Problem:
    """Return a problem of `retentions` alone, which read nothing of a reference, on the same model."""
    return replace(problem.of([retain_term(retention) for retention in retentions]), reference=None, second=None)


def _probe(constraint: Constraint, reference: Sums) -> Probe:
    """Return the probe of a bounded constraint; raises InputError for a bound that cannot be held, or measured in."""
    if constraint.bound is None:
        raise ValueError(f"the retention {constraint.name} has no bound")
    probe = Probe(constraint.bound, reference, constraint.is_whole)
    limit = probe.bound.value(reference.mean, constraint.place)
    control = constraint.retention.control
    if isinstance(control, Bounded) and control.normalized and limit <= 0:
        raise InputError(
            f"the bound of the {constraint.place} is {limit:g} nats a token, and --multiplier_normalized divides by "
            "it; give --keep 0.98, or --no_multiplier_normalized."
        )
    return probe
