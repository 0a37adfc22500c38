"""The path of a comparison, top to bottom: check, train models, tune, run, and tell after every run."""

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from .. import launch
from ..benchmarks.base import Embedded
from ..config import BenchConfig, write_yaml
from ..errors import InputError, Interrupted, RunError
from ..progress import Progress
from ..reports.display import duration
from ..reports.leaderboard import write_comparison
from ..reports.places import alone, refuse_foreign
from ..resuming import going_on
from ..storage import remove
from .jobs import Job
from .lessons import Lesson, Place, lessons_of
from .models import write_lessons
from .outcome import Comparison
from .plan import Plan, bench_config
from .tuning import Trial, Tuning, best, refuse_untunable
from .validation import Validation
from .workers import Workers, usable_cores

CONFIG = "bench.yaml"
"""The file that tells the folder of a comparison from any other."""


def bench(
    benchmark: str, *, output_dir: str | Path = "amnestic-bench", progress: Progress | None = None, **options: Any
) -> Comparison:
    """Compare methods on `benchmark`, each a run of its own process; the same code as ``amnestic bench``.

    `options` are those of the command line (``methods=["npo", "pdu"]``, ``keep="0.98,none"``, ``seeds=3``, ...).
    Raises InputError before the first run, and RunError where none can be made; runs that fail are in the outcome.
    """
    return run_bench(bench_config({"benchmark": benchmark, "output_dir": output_dir} | options), progress)


def run_bench(config: BenchConfig, progress: Progress | None = None) -> Comparison:
    """Do what `config` says, as far as it is not done in its folder."""
    if launch.size() > 1:
        raise InputError("a comparison starts processes of its own; start it as amnestic bench, without a launcher.")
    plan = Plan.of(config)
    refuse_untunable(plan)
    refuse_foreign(plan.root, CONFIG, "comparison")
    benching = Benching(plan, progress or Progress())
    benching.refuse_other()
    if config.bench.plan:
        return benching.outcome
    with alone(plan.root), benching.interruptible():
        write_yaml(_repeatable(config), plan.root / CONFIG)
        return benching.run()


class Benching:
    """One execution of a comparison."""

    def __init__(self, plan: Plan, progress: Progress) -> None:
        """Choose what is left to do, and write nothing; raises InputError where trials have no rows."""
        self.plan = plan
        self.progress = progress
        bench = plan.config.bench
        trains = isinstance(plan.benchmark, Embedded)
        # threads that wait for a busy core cost models this small more than they bring
        is_small = trains and plan.config.model.model is None
        self.workers = Workers(bench.jobs, 1 if is_small else max(1, usable_cores() // bench.jobs))
        self.validation = Validation.of(plan) if bench.trials else None
        self.lessons = [lesson for seed in plan.seeds for lesson in lessons_of(plan, seed)] if trains else []
        self.outcome = Comparison(plan)
        self.broken: dict[Place, str] = {}
        """Place of a lesson -> why its models are not there."""

    def refuse_other(self) -> None:
        """Raise InputError where a run that is asked for stands in the folder with other options.

        With ``--overwrite`` it is run again. What trials are still to choose options for is not looked at.
        """
        if self.plan.config.run.overwrite:
            return
        models = [job for lesson in self.lessons for job in lesson.jobs]
        before = [] if self.validation is None else self.validation.jobs
        for job in (*models, *before, *([] if self.validation else self.outcome.jobs)):
            job.refuse_other()

    def run(self) -> Comparison:
        """Train models, tune, run everything that is not done, and write the leaderboard after each run."""
        for note in self.plan.notes:
            self.progress.note(note)
        self._train()
        if self.validation is not None:
            self._tune(self.validation)
            if not self.plan.config.run.overwrite:
                for job in self.outcome.jobs:
                    job.refuse_other()
        self._unlearn()
        self.progress.stop()
        return self.outcome

    def _train(self) -> None:
        """Train the models of the seeds with runs to do, and that of the trials; what replaced ones led to goes."""
        needed = [lesson for lesson in self.lessons if self._is_needed(lesson)]
        for lesson in needed:
            if any(job.differences() for job in lesson.jobs):
                for job in self.outcome.of(*lesson.place):
                    remove(job.folder)
            write_lessons(lesson.jobs, lesson.benchmark)
        places = {job.name: lesson.place for lesson in needed for job in lesson.jobs}
        jobs = [job for lesson in needed for job in lesson.jobs]
        if self.validation is not None:
            if any(job.differences() for job in self.validation.jobs):
                remove(self.plan.root / "tuning")
            self.validation.write()
            jobs += self.validation.jobs
        with closing(self._ended("train models", jobs)) as ended:
            for job, error in ended:
                if error is not None and job.name not in places:
                    raise RunError(f"the model of the trials could not be trained: {error}")
                if error is not None:
                    self.broken[places[job.name]] = f"its model '{job.folder.name}' could not be trained: {error}"

    def _is_needed(self, lesson: Lesson) -> bool:
        return self.validation is not None or not all(job.is_current for job in self.outcome.of(*lesson.place))

    def _broken(self, job: Job) -> str | None:
        """Return why a run lacks a model that it reads: that of its seed, or that of its fold."""
        seed, fold = self.outcome.place_of(job)
        return self.broken.get((seed, None)) or self.broken.get((seed, fold))

    def _tune(self, validation: Validation) -> None:
        """Choose what each contestant is run with, by as many trials for each."""
        tunings = [Tuning(self.plan, contestant, validation) for contestant in self.plan.contestants]
        self.progress.start("tune", len(tunings) * self.plan.config.bench.trials)
        do = partial(Tuning.trials, run=self.workers.run, told=lambda trial: self.progress.advance())
        tuned: dict[str, Sequence[Trial]] = {}
        with closing(self.workers.each(do, tunings)) as ended:
            for tuning, trials in ended:
                tuned[tuning.contestant.name] = trials
                chosen = best(trials)
                found = "every trial failed; it is run as it was given" if chosen is None else chosen.description
                self.progress.report(f"{tuning.contestant.label}: {found}")
        self.progress.stop()
        self.outcome.tune(tuned, validation.description)

    def _unlearn(self) -> None:
        """Do every run that is left, and write the leaderboard after each."""
        left = []
        for job in self.outcome.jobs:
            if job.is_current:
                self.outcome.end(job)
            elif error := self._broken(job):
                self.outcome.end(job, error)
            else:
                left.append(job)
        if len(left) < len(self.outcome.jobs):
            self.progress.note(
                f"{len(self.outcome.jobs) - len(left)} of {len(self.outcome.jobs)} runs need no running."
            )
        with closing(self._ended("unlearn", left)) as ended:
            for job, error in ended:
                self.outcome.end(job, error)
                self._write()
        self._write()

    def _ended(self, title: str, jobs: Sequence[Job]) -> Generator[tuple[Job, str | None]]:
        """Do `jobs`, and yield each with why it failed, or None, in the order in which they end.

        To be closed: what is interrupted between two of them must not leave processes behind.
        """
        left = [job for job in jobs if not job.is_current]
        if not left:
            return
        self.progress.start(title, len(left))
        begin = time.monotonic()
        with closing(self.workers.each(self.workers.run, left)) as ended:
            for number, (job, error) in enumerate(ended, start=1):
                yield job, error
                rest = (time.monotonic() - begin) / number * (len(left) - number)
                text = f"failed: {error}" if error is not None else str(job.results["verdict"])
                about = f"; about {duration(rest)} left" if rest else ""
                self.progress.report(f"{job.name}: {text} ({number} of {len(left)}{about})")
                self.progress.advance()

    def _write(self) -> None:
        self.outcome.leaderboard = write_comparison(self.plan.root, self.outcome.entries, self.outcome.facts)
        self.outcome.write_trials()

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Say how the comparison goes on where it is interrupted; raises Interrupted once its processes have ended."""
        try:
            yield
        except KeyboardInterrupt as error:
            if self.outcome.entries:
                self._write()
            again = going_on("bench", self.plan.root / CONFIG, self.plan.config)
            done = f"{len(self.outcome.entries)} of {len(self.outcome.jobs)} runs are done and kept"
            raise Interrupted(f"interrupted. {done}; go on with: {again}") from error


def _repeatable(config: BenchConfig) -> BenchConfig:
    """Return what goes on with the comparison: it must not silently replace runs, or stop at its plan."""
    return replace(config, run=replace(config.run, overwrite=False), bench=replace(config.bench, plan=False))
