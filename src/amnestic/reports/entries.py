"""One run of a comparison, read from its folder."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from ..errors import InputError
from .figures import costs_of, values_of
from .judged import Judged
from .results import bounds_of, read_results

FREE = "free"
"""The setting of a run without a bound."""
State = Literal["feasible", "infeasible", "unconstrained", "failed"]
STARTED = ("train.jsonl", "checkpoints")
"""What stands in the folder of a run that did not end."""


@dataclass(frozen=True)
class Entry:
    """One run of a comparison."""

    method: str
    """Its name, or its dotted path."""
    setting: str
    """``free``, or the bound as it was stated: ``keep 0.98``, ``alpha 0.5``, ``bound 0.3``."""
    seed: int
    folder: Path
    results: Mapping[str, Any] | None
    """None where the run failed."""
    error: str | None = None
    """One sentence, where it failed."""
    fold: str | None = None
    """The fold of the benchmark that it forgot; None where the benchmark has none."""

    @classmethod
    def of(cls, folder: Path) -> "Entry":
        """Return the run of unlearn that ended in `folder`; raises InputError where there is none."""
        if not folder.is_dir():
            raise InputError(f"there is no folder {folder}; expected the folder of a run of unlearn.")
        if not (folder / "results.json").exists() and any((folder / name).exists() for name in STARTED):
            raise InputError(
                f"the run in {folder} has not ended; go on with it by --resume_from_checkpoint latest, or leave it out."
            )
        results = read_results(folder)
        if results.get("command") != "unlearn":
            raise InputError(f"{folder} is a run of {results.get('command')!r}; a comparison takes runs of unlearn.")
        _refuse_damaged(folder, results)
        method, seed, fold = results["method"]["name"], results["seeds"]["training"], results.get("fold")
        return cls(method, setting_of(results), seed, folder, results, fold=fold)

    @property
    def name(self) -> str:
        """Return what tells it from the other runs."""
        parts = [self.method, self.setting, self.fold, f"seed {self.seed}"]
        return ", ".join(part for part in parts if part)

    @property
    def forget_tokens(self) -> int | None:
        """Return the scored tokens that were to be forgotten; None where nobody knows."""
        found = ((self.results or {}).get("data") or {}).get("forget") or {}
        return found.get("scored_tokens")

    @property
    def state(self) -> State:
        """Return how the run ended."""
        return "failed" if self.results is None else self.results["status"]

    @property
    def is_bounded(self) -> bool:
        """Return whether the run was held to a bound."""
        return self.setting != FREE

    @property
    def before(self) -> Mapping[str, float]:
        """Return the metrics of the model that the run started from; empty where none were measured."""
        return ((self.results or {}).get("reference_metrics") or {}) | self._judged_of("before")

    @property
    def retrained(self) -> Mapping[str, float]:
        """Return the metrics of the model that never saw the forget split; empty where none were measured."""
        return ((self.results or {}).get("retrained_metrics") or {}) | self._judged_of("retrained")

    @cached_property
    def judged(self) -> Judged | None:
        """Return what a judge gave the run's answers; raises InputError where that is damaged."""
        return None if self.results is None else Judged.at(self.folder)

    def _judged_of(self, model: str) -> dict[str, float]:
        return {} if self.judged is None else self.judged.means(model)

    @cached_property
    def values(self) -> dict[str, float]:
        """Return the run's figures by their keys; none where it failed."""
        if self.results is None:
            return {}
        return values_of(self.results["metrics"], self.before) | self._judged_of("after") | costs_of(self.results)


def setting_of(results: Mapping[str, Any]) -> str:
    """Return how retention was held, as tables name it: ``free``, ``keep 0.98``."""
    bound = results.get("bound")
    return FREE if not bound else f"{bound['kind']} {bound['requested']:g}"


def _refuse_damaged(folder: Path, results: Mapping[str, Any]) -> None:
    """Raise InputError for results that lack what every run of unlearn writes."""
    method, seeds, bounds = results.get("method"), results.get("seeds"), bounds_of(results)
    is_sound = {
        "status": results.get("status") in ("feasible", "infeasible", "unconstrained"),
        "method": isinstance(method, dict) and isinstance(method.get("name"), str),
        "seeds": isinstance(seeds, dict) and isinstance(seeds.get("training"), int),
        "bound": all(isinstance(held, dict) and {"kind", "requested"} <= held.keys() for held in bounds.values()),
        "retentions": all(isinstance(held, dict) for held in (results.get("retentions") or {}).values()),
        "fold": isinstance(results.get("fold"), str | None),
        "metrics": _holds_numbers(results.get("metrics")),
    }
    is_sound |= {name: _holds_numbers(results.get(name) or {}) for name in ("reference_metrics", "retrained_metrics")}
    if wrong := [name for name, sound in is_sound.items() if not sound]:
        raise InputError(f"{folder} is damaged: its results.json has no sound '{wrong[0]}'; run it again.")


def _holds_numbers(found: Any) -> bool:
    return isinstance(found, dict) and all(
        isinstance(value, int | float) and math.isfinite(value) for value in found.values()
    )
