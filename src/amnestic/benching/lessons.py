"""Which models a comparison on an embedded benchmark needs: for each seed, and for each fold, those of its own."""

from dataclasses import dataclass

from ..benchmarks.base import Benchmark, Embedded
from ..benchmarks.folds import Fold
from ..errors import InputError
from .jobs import Job
from .models import learning, opened
from .plan import Plan

Place = tuple[int, Fold | None]
"""The seed and the fold whose runs read a model; None: those of all folds."""


@dataclass(frozen=True)
class Lesson:
    """Models that learn parts of one benchmark."""

    place: Place
    benchmark: Embedded
    jobs: list[Job]


def lessons_of(plan: Plan, seed: int) -> list[Lesson]:
    """Return what is trained for a seed: the model that knows everything, and one that never saw what is forgotten.

    That one is another for each fold, for a model that lacks other texts is no reference for its runs.
    """
    whole = opened(plan.config.bench.benchmark, seed)
    if not plan.folds:
        return [Lesson((seed, None), whole, learning(plan.config, whole, plan.models_of(seed), seed))]
    lessons = [Lesson((seed, None), whole, learning(plan.config, whole, plan.models_of(seed), seed, ["full"]))]
    for fold in plan.folds:
        part = _fold_of(plan, seed, fold, whole)
        jobs = learning(plan.config, part, plan.models_of(seed, fold), seed, ["retrained"])
        lessons.append(Lesson((seed, fold), part, jobs))
    return lessons


def _fold_of(plan: Plan, seed: int, fold: Fold, whole: Embedded) -> Embedded:
    """Return the benchmark of a fold; raises InputError where its models would not learn the rows of the others."""
    name = plan.benchmark_of(seed, fold)
    part = Benchmark.open(name)
    if not isinstance(part, Embedded) or part.splits()["full"] != whole.splits()["full"]:
        raise InputError(
            f"the benchmark {name} has other rows in all than {whole.name}, of which it is a fold; expected a part of "
            "the same rows to be forgotten."
        )
    return part
