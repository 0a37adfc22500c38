"""What a comparison has found so far: its runs, how they ended, and what stands on top of its leaderboard."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..benchmarks.base import Embedded
from ..benchmarks.folds import Fold
from ..command_line import command_line
from ..config import to_mapping
from ..reports.display import duration
from ..reports.files import write_json
from ..reports.leaderboard import Entry, Leaderboard
from .jobs import Job
from .plan import Plan, PlannedRun, bench_config
from .tuning import Trial, best

TRIALS = "tuning.json"


@dataclass
class Comparison:
    """A comparison, which may not have ended."""

    plan: Plan
    leaderboard: Leaderboard | None = None
    """None until a run has ended."""
    trials: Mapping[str, Sequence[Trial]] = field(default_factory=dict)
    """Contestant -> its trials."""
    validation: str = ""
    """What they were judged on."""
    _runs: dict[str, PlannedRun] = field(default_factory=dict)
    _ended: dict[str, Entry] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """List the runs."""
        self._list_runs()

    def _list_runs(self) -> None:
        self._runs = {run.job.name: run for run in self.plan.runs()}

    @property
    def output_dir(self) -> Path:
        """Return the folder of the comparison."""
        return self.plan.root

    @property
    def jobs(self) -> list[Job]:
        """Return all runs, in their order."""
        return [run.job for run in self._runs.values()]

    def of(self, seed: int, fold: Fold | None = None) -> list[Job]:
        """Return the runs with one seed, of one fold where it is given."""
        return [run.job for run in self._runs.values() if run.seed == seed and fold in (None, run.fold)]

    def place_of(self, job: Job) -> tuple[int, Fold | None]:
        """Return the seed and the fold of a run."""
        return self._runs[job.name].seed, self._runs[job.name].fold

    @property
    def entries(self) -> list[Entry]:
        """Return the runs that have ended, in the order of the plan."""
        return [self._ended[name] for name in self._runs if name in self._ended]

    @property
    def failed(self) -> list[Entry]:
        """Return the runs that failed."""
        return [entry for entry in self.entries if entry.results is None]

    @property
    def planned(self) -> dict[str, str]:
        """Return every run with whether it is done; trials change what a run is, so that none is known to be."""
        left = "to do" if not self.plan.config.bench.trials else "to do after tuning"
        return {name: "done" if run.job.is_current else left for name, run in self._runs.items()}

    def tune(self, trials: Mapping[str, Sequence[Trial]], validation: str) -> None:
        """Give every contestant the options of the best of its trials, for all seeds and folds."""
        contestants = []
        for contestant in self.plan.contestants:
            chosen = best(trials[contestant.name])
            own = dict(contestant.options) | ({} if chosen is None else dict(chosen.options))
            contestants.append(replace(contestant, options=own))
        self.plan = replace(self.plan, contestants=tuple(contestants))
        self.trials, self.validation = trials, validation
        self._list_runs()

    def end(self, job: Job, error: str | None = None) -> None:
        """Receive that a run has ended, or why it failed."""
        contestant, seed, fold, _ = self._runs[job.name]
        results = job.results if error is None else None
        named = None if fold is None else fold.name
        self._ended[job.name] = Entry(contestant.method, contestant.setting, seed, job.folder, results, error, named)

    @property
    def facts(self) -> dict[str, str]:
        """Return what stands on top of the leaderboard."""
        config, bench = self.plan.config, self.plan.config.bench
        is_own = isinstance(self.plan.benchmark, Embedded)
        seconds = sum(sum((entry.results or {}).get("timings", {}).values()) for entry in self.entries)
        facts = {
            "benchmark": bench.benchmark,
            "model": "trained from scratch for each seed" if is_own else str(config.model.model),
            **({"folds": ", ".join(fold.name for fold in self.plan.folds)} if self.plan.folds else {}),
            "seeds": ", ".join(map(str, self.plan.seeds)),
            "runs": f"{len(self.entries)} of {len(self._runs)}"
            + (f", {len(self.failed)} failed" if self.failed else ""),
            "time of these runs": duration(seconds),
            "command": self.command,
        }
        if self.trials:
            once = ", once for all folds" if self.plan.folds else ""
            facts["tuning"] = f"{bench.trials} trials of each method and setting{once}, on {self.validation} ({TRIALS})"
            facts |= {f"tuned {name}": _told(found) for name, found in self.trials.items()}
        return facts

    @property
    def command(self) -> str:
        """Return the command that makes the comparison."""
        config = self.plan.config
        usual = to_mapping(bench_config({"benchmark": config.bench.benchmark, "data": config.bench.data}))
        return command_line("bench", config, usual, ("plan", "overwrite"))

    def write_trials(self) -> None:
        """Write all trials beside the leaderboard."""
        if not self.trials:
            return
        found = {name: [trial.record for trial in trials] for name, trials in self.trials.items()}
        chosen = {name: dict(trial.options) for name, trials in self.trials.items() if (trial := best(trials))}
        content = {"validation": self.validation, "budget": self.plan.config.bench.trials}
        write_json(self.output_dir / TRIALS, content | {"chosen": chosen, "trials": found})


def _told(trials: Sequence[Trial]) -> str:
    chosen = best(trials)
    return "every trial failed: run as it was given" if chosen is None else chosen.description
