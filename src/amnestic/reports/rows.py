"""The rows of a leaderboard: runs that differ in their seeds alone, as one."""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .display import setting
from .entries import FREE, Entry, State
from .figures import Figure, figures, missing_reason, values_of
from .results import bounds_of
from .seeds import Spread, spread

BEFORE, RETRAINED = "model before", "retrained model"
MULTIPLIER = ("kind", "initial", "rate", "warmup_epochs", "update", "normalized", "proportional", "cap")
LENGTH, STEPS = "num_train_epochs", "max_steps"
"""The length of training, and what was given in its place."""
TRAINING = ("learning_rate", LENGTH, "effective_batch")
"""What results.json says of these, beside how they ended, sets runs apart."""
WORDS: Mapping[State, str] = {
    "feasible": "held",
    "infeasible": "missed",
    "unconstrained": FREE,
    "failed": "failed",
}


@dataclass(frozen=True)
class Row:
    """The runs of a method in one setting, or a model that they are held beside."""

    number: int
    """From 1 on in the order of the rows; 0 for a model beside them."""
    method: str
    setting: str
    """As of its runs, with what else sets them apart from other rows; nothing for a model beside them."""
    entries: tuple[Entry, ...]
    """One a seed; none for a model beside them."""
    values: Mapping[str, Spread]
    """Key of a figure -> its mean over seeds."""
    missing: Mapping[str, str]
    """Key of a figure without a value -> why."""
    fold: str | None = None
    """What its runs forgot; None where all runs of the comparison forgot the same, and for a model with the same values
    beside all folds."""

    @property
    def name(self) -> str:
        """Return what a sentence calls the row."""
        return ", ".join(part for part in (self.method, self.setting, self.fold) if part)

    @property
    def forget_tokens(self) -> float | None:
        """Return the scored tokens that its runs were to forget, a mean over seeds; None where nobody knows."""
        known = [entry.forget_tokens for entry in self.entries if entry.forget_tokens is not None]
        return statistics.fmean(known) if known else None

    @property
    def is_bounded(self) -> bool:
        """Return whether its runs were held to a bound."""
        return any(entry.is_bounded for entry in self.entries)

    @property
    def state(self) -> State | None:
        """Return "infeasible" where one run missed its bound, "failed" where none ended; None for a model beside."""
        states = [entry.state for entry in self.entries]
        order: tuple[State, ...] = ("infeasible", "feasible", "unconstrained", "failed")
        return next((state for state in order if state in states), None)

    @property
    def held(self) -> str:
        """Return what became of the bound, and in how many runs: ``held 2 of 2``, ``missed 1 of 2``, ``free``."""
        if self.state is None:
            return ""
        states = [entry.state for entry in self.entries]
        text = WORDS[self.state]
        if self.state == "failed":
            return text
        if self.is_bounded:
            text = f"{text} {states.count(self.state)} of {len(states)}"
        return f"{text}, {states.count('failed')} failed" if "failed" in states else text


def figures_of(entries: Sequence[Entry]) -> list[Figure]:
    """Return the columns for everything that the runs measured."""
    return figures({key for entry in entries for key in entry.values})


def rows(entries: Sequence[Entry], columns: Sequence[Figure]) -> list[Row]:
    """Return the models beside the runs, then a row for each method, setting and fold, in the order of the runs.

    Runs that share these and a seed, or have other hyper-parameters, stand in rows of their own.
    """
    folds = by_fold(entries)
    groups = {
        (method, named, fold): group
        for fold, runs in folds.items()
        for (method, named), group in _by_setting(runs).items()
    }
    variants = [
        (method, f"{named}, {variant}" if variant else named, fold, runs)
        for (method, named, fold), group in groups.items()
        for variant, runs in _variants(group).items()
    ]
    beside = [
        *_beside(BEFORE, folds, columns, lambda entry: entry.before),
        *_beside(RETRAINED, folds, columns, lambda entry: entry.retrained),
    ]
    found = [_row(number, *variant, columns) for number, variant in enumerate(variants, start=1)]
    return [row for row in beside if row.values] + found


def by_fold(entries: Sequence[Entry]) -> dict[str | None, list[Entry]]:
    """Return the runs of each fold, in the order of the runs; None stands for that of all, where there is but one."""
    found: dict[str | None, list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry.fold, []).append(entry)
    return found if len(found) > 1 else {None: list(entries)}


def _by_setting(entries: Sequence[Entry]) -> dict[tuple[str, str], list[Entry]]:
    found: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        found.setdefault((entry.method, entry.setting), []).append(entry)
    return found


def _row(
    number: int, method: str, named: str, fold: str | None, entries: Sequence[Entry], columns: Sequence[Figure]
) -> Row:
    missing = {}
    for column in columns:
        if reasons := [_reason(column.key, entry) for entry in entries if column.key not in entry.values]:
            missing[column.key] = reasons[0]
    values = _means([entry.values for entry in entries], columns)
    return Row(number, method, named, tuple(entries), values, missing, fold)


def _reason(key: str, entry: Entry) -> str:
    return f"the run failed: {entry.error}" if entry.results is None else missing_reason(key, entry.results)


def _means(models: Sequence[Mapping[str, float]], columns: Sequence[Figure]) -> dict[str, Spread]:
    found = {column: [values[column.key] for values in models if column.key in values] for column in columns}
    return {column.key: spread(known, column.lowest, column.highest) for column, known in found.items() if known}


Read = Callable[[Entry], Mapping[str, float]]
"""Returns what a run knows of a model that it is held beside."""


def _beside(name: str, folds: Mapping[str | None, Sequence[Entry]], columns: Sequence[Figure], read: Read) -> list[Row]:
    """Return the rows of a model that the runs are held beside: one where all folds say the same of it."""
    found = [_model(name, fold, entries, columns, read) for fold, entries in folds.items()]
    means = {_rounded({key: value.mean for key, value in row.values.items()}) for row in found}
    return [replace(found[0], fold=None)] if len(means) == 1 else found


def _model(name: str, fold: str | None, entries: Sequence[Entry], columns: Sequence[Figure], read: Read) -> Row:
    """Return the row of such a model beside the runs of a fold: one a seed, or a single one for all seeds.

    All runs of a seed have measured the same model, and know different parts of it where they read other metrics.
    """
    by_seed: dict[int, dict[str, float]] = {}
    for entry in entries:
        known = values_of(read(entry), entry.before)
        by_seed[entry.seed] = known | by_seed.get(entry.seed, {})
    models = {_rounded(values): values for values in by_seed.values() if values}
    values = _means(list(models.values()), columns)
    missing = {column.key: "not measured" for column in columns if column.key not in values}
    return Row(0, name, "", (), values, missing, fold)


def _rounded(values: Mapping[str, float]) -> str:
    """Return values as a text that is the same where they are, but for what two machines round otherwise."""
    return json.dumps({key: f"{values[key]:.6g}" for key in sorted(values)})


def _variants(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Return the runs of a method and setting by what else sets them apart; the key of runs with nothing is empty."""
    recipes = [_recipe(entry.results) for entry in entries if entry.results is not None]
    names = sorted({name for recipe in recipes for name in recipe})
    differing = [name for name in names if _differ(name, recipes)]
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        recipe = {} if entry.results is None else _recipe(entry.results)
        label = ", ".join(recipe[name] for name in differing if name in recipe)
        found.setdefault(label, []).append(entry)
    return {label: runs for key, group in found.items() for label, runs in _by_folder(key, group).items()}


def _differ(name: str, recipes: Sequence[Mapping[str, str]]) -> bool:
    """Return whether a setting is not that of all runs; those of an earlier version do not tell all of them."""
    values = {recipe.get(name) for recipe in recipes}
    return len(values - {None} if name in TRAINING else values) > 1


def _by_folder(label: str, entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Return the runs together where each has a seed of its own, else one by one, by their folders."""
    if len({entry.seed for entry in entries}) == len(entries):
        return {label: list(entries)}
    names = [entry.folder.name for entry in entries]
    is_unique = len(set(names)) == len(names)
    return {
        f"{label}, {entry.folder.name if is_unique else entry.folder}".removeprefix(", "): [entry] for entry in entries
    }


def _recipe(results: Mapping[str, Any]) -> dict[str, str]:
    """Return what a run was made with: hyper-parameters, fixed weights, bounds, multiplier, and training.

    Each has its name and its value as one text; steps in place of epochs stand under the name of these.
    A method's seed that is the run's own sets nothing apart: it differs wherever seeds do.
    """
    named = {name: value for name, value in results["method"].items() if name not in ("name", "same_when_bounded")}
    if named.get("seed") == results["seeds"]["training"]:
        del named["seed"]
    for name, held in (results.get("retentions") or {}).items():
        named |= {f"{name} loss": held.get("loss"), f"{name} weight": held.get("weight")}
    named |= {f"{name} bound": f"{held['kind']} {held['requested']:g}" for name, held in bounds_of(results).items()}
    multiplier, training = results.get("multiplier") or {}, results.get("training") or {}
    named |= {f"multiplier {name}": setting(multiplier[name]) for name in MULTIPLIER if name in multiplier}
    named |= {name: training.get(name) for name in TRAINING}
    recipe = {name: f"{name} {setting(value)}" for name, value in named.items() if value is not None}
    return recipe if training.get(STEPS) is None else recipe | {LENGTH: f"{STEPS} {training[STEPS]}"}
