"""The choice of a contestant's learning rate and number of epochs, by a stated number of trials on the validation part.

The sampler is seeded and told the values of earlier trials again, so a tuning that is interrupted goes on as if it had
not been: the record of trials, one JSON line each, is all that it keeps.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..benchmarks.base import Embedded
from ..config import UnlearnConfig, from_mapping, override, to_mapping
from ..errors import InputError
from ..reports.files import JsonLines, read_jsonl
from ..storage import remove
from .jobs import Job
from .plan import Contestant, Plan
from .validation import SEED, Validation

RATES = 8.0
"""The learning rate is looked for from a so-manieth of what is given to so many times as much."""
EPOCHS = (0.25, 2.0)
"""The same of the number of epochs."""
STARTUP = 5
"""Trials that are drawn at random before the sampler reads earlier ones."""


@dataclass(frozen=True)
class Trial:
    """One choice, and how good it was."""

    number: int
    options: Mapping[str, Any]
    value: float | None
    """The smaller the better (`judged`); None: the run failed."""
    facts: Mapping[str, Any]
    """What was measured on the validation part, or the error."""

    @property
    def description(self) -> str:
        """Return the choice in words."""
        options = f"learning_rate {self.options['learning_rate']:.3g}, {self.options['num_train_epochs']} epochs"
        return f"{options} (trial {self.number}: {self.value:.4g})" if self.value is not None else options

    @property
    def record(self) -> dict[str, Any]:
        """Return the trial as JSON."""
        return {"trial": self.number, **self.options, "value": self.value, **self.facts}


@dataclass(frozen=True)
class Tuning:
    """The trials of one contestant."""

    plan: Plan
    contestant: Contestant
    validation: Validation

    @property
    def file(self) -> Path:
        """Return where the trials are recorded."""
        return self.plan.root / "tuning" / f"{self.contestant.name}.jsonl"

    @cached_property
    def base(self) -> UnlearnConfig:
        """Return the run that the first trial is, and that the others change."""
        usual = to_mapping(self.plan.unlearning(self.contestant, self.plan.seeds[0]))
        folder = {"output_dir": str(self.plan.root / "tuning" / self.contestant.name)}
        return from_mapping(UnlearnConfig, usual | dict(self.validation.options) | folder)

    def trials(self, run: Callable[[Job], str | None], told: Callable[[Trial], None]) -> list[Trial]:
        """Make all trials, each after those before it, and return them; those that are recorded are not made again.

        `run` does a run and returns why it failed, or None; `told` hears of each new trial.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        sampler = optuna.samplers.TPESampler(seed=self.plan.seeds[0], n_startup_trials=STARTUP)
        study = optuna.create_study(sampler=sampler)
        space = self._space()
        study.enqueue_trial(self._first(space))
        known, found = self._recorded(), list[Trial]()
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with JsonLines(self.file) as file:
            for number in range(self.plan.config.bench.trials):
                asked = study.ask(space)
                trial = known.get(number)
                if trial is None or trial.options != asked.params:
                    known = {}  # what was recorded behind another choice was chosen for another reason
                    trial = self._made(number, asked.params, run)
                    file.append(self._asked | trial.record)
                    told(trial)
                failed = optuna.trial.TrialState.FAIL
                study.tell(asked, trial.value, state=failed if trial.value is None else None)
                found.append(trial)
        return found

    def _space(self) -> dict[str, Any]:
        from optuna.distributions import FloatDistribution, IntDistribution

        rate, epochs = self.base.training.learning_rate, self.base.training.num_train_epochs
        fewest = max(1, math.floor(EPOCHS[0] * epochs))
        most = max(fewest + 1, math.ceil(EPOCHS[1] * epochs))
        return {
            "learning_rate": FloatDistribution(rate / RATES, rate * RATES, log=True),
            "num_train_epochs": IntDistribution(fewest, most, log=True),
        }

    def _first(self, space: Mapping[str, Any]) -> dict[str, Any]:
        """Return the choice that was given: no tuning ends with a worse one by its own measure."""
        epochs = min(max(round(self.base.training.num_train_epochs), 1), space["num_train_epochs"].high)
        return {"learning_rate": self.base.training.learning_rate, "num_train_epochs": epochs}

    @cached_property
    def _asked(self) -> dict[str, Any]:
        """Return what tells these trials from those of a comparison with other options."""
        unlike = ("output_dir", "overwrite", "cache_dir")
        mapping = {name: value for name, value in to_mapping(self.base).items() if name not in unlike}
        return {"options": json.loads(json.dumps(mapping))}

    def _recorded(self) -> dict[int, Trial]:
        """Return the trials that were made with the same options before."""
        lines = read_jsonl(self.file) if self.file.exists() else iter(())
        found = {}
        for line in lines:
            if line.pop("options", None) == self._asked["options"]:
                number, value = line.pop("trial"), line.pop("value")
                chosen = {name: line.pop(name) for name in ("learning_rate", "num_train_epochs")}
                found[number] = Trial(number, chosen, value, line)
        return found

    def _made(self, number: int, chosen: Mapping[str, Any], run: Callable[[Job], str | None]) -> Trial:
        folder = Path(self.base.run.output_dir) / f"trial-{number}"
        mapping = override(to_mapping(self.base), {**chosen, "output_dir": str(folder)})
        job = Job(f"tuning-{self.contestant.name}-trial-{number}", from_mapping(UnlearnConfig, mapping), self.plan.root)
        if error := run(job):
            return Trial(number, dict(chosen), None, {"error": error})
        results = job.results
        remove(folder / "model")  # its numbers are what is left of a trial
        metrics = ("forget.probability", "retain.token_probability")
        facts = {"status": results["status"]} | {name: results["metrics"][name] for name in metrics}
        return Trial(number, dict(chosen), judged(results), facts)


def judged(results: Mapping[str, Any]) -> float:
    """Return how bad a run is, the smaller the better.

    Under a bound that held: the forget probability, at most 1; under one that did not: 1 and the nats a token beyond
    it. Without a bound: 1 less the harmonic mean of the shares forgotten and kept, so that neither a model that forgot
    nothing nor one that kept nothing is better than 1.
    """
    after, before = results["metrics"], results["reference_metrics"]
    if "bound" not in results:
        forgotten = 1 - _share(after["forget.probability"], before["forget.probability"])
        kept = _share(after["retain.token_probability"], before["retain.token_probability"])
        return 1 - (2 * forgotten * kept / (forgotten + kept) if forgotten + kept else 0.0)
    if results["status"] == "feasible":
        return float(after["forget.probability"])
    bound = results["bound"]
    decides = bound["reached"] if bound["whole_split"] else bound["upper_limit"]
    return float(1 + max(0.0, decides - bound["value"]))


def _share(after: float, before: float) -> float:
    """Return what is left of a value, at most all of it."""
    return min(1.0, after / before) if before > 0 else 1.0


def best(trials: Sequence[Trial]) -> Trial | None:
    """Return the trial with the smallest value, the earliest of equals; None where all failed."""
    whole = [trial for trial in trials if trial.value is not None]
    return min(whole, key=lambda trial: (trial.value, trial.number), default=None)


def refuse_untunable(plan: Plan) -> None:
    """Raise InputError where trials are asked for that cannot be made."""
    config = plan.config
    if not config.bench.trials:
        return
    if find_spec("optuna") is None:
        raise InputError("--trials needs optuna, which is not installed; run pip install 'amnestic[bench]'.")
    for contestant in plan.contestants:
        if plan.unlearning(contestant, plan.seeds[0]).training.max_steps is not None:
            raise InputError(f"{contestant.label}: --trials chooses the number of epochs; leave --max_steps out.")
    if config.template.too_long == "drop":
        raise InputError("--trials counts rows before any is left out; give another --too_long than drop.")
    if config.run.redact and not isinstance(plan.benchmark, Embedded):
        raise InputError("--redact keeps texts out of the folder, and --trials writes rows to it; leave one out.")
    if plan.seeds[-1] >= SEED:
        raise InputError(f"--trials keeps the seed {SEED} for itself; give a smaller --seed.")
