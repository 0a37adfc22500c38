"""What a judge found of a run, read from its judge.json: for the run's page, and for comparisons of runs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from ..errors import InputError
from ..evaluation.explanation import known_split
from .files import read_json

FILE = "judge.json"
PREFIX = "judge."
"""Begins the keys of a judge's means beside those of results.json."""
LEADING = {"forget": "knowledge_removal", "retain": "retention"}
"""Split, or what it is a part of -> the criterion that says the most."""
LOWEST, HIGHEST = 0, 10


class Cell(NamedTuple):
    """The mean of one criterion and model, with its interval where there is one."""

    mean: float
    interval: Sequence[float] | None


class Criterion(NamedTuple):
    """One row of a table: what each model was given."""

    split: str
    label: str
    cells: list[Cell | None]


@dataclass(frozen=True)
class Judged:
    """The means of a judge, as judge.json has them."""

    content: Mapping[str, Any]

    @classmethod
    def at(cls, folder: Path) -> Self | None:
        """Return what stands in a run folder, if it was judged; raises InputError where the file is damaged."""
        path = folder / FILE
        if not path.is_file():
            return None
        content = read_json(path)
        if not _is_sound(content):
            raise InputError(f"{path} is damaged; judge the run again, which costs nothing where replies were kept.")
        return cls(content)

    @property
    def models(self) -> list[str]:
        """Return the models that were judged."""
        return list(self.content["models"])

    @property
    def without_scores(self) -> int:
        """Return how many answers have no scores."""
        found = [found["unanswered"] for found in self.content["models"].values()]
        return sum(sum(reasons.values()) for unanswered in found for reasons in unanswered.values())

    @property
    def manner(self) -> dict[str, Any]:
        """Return what must be the same where scores of two runs stand beside each other."""
        hashes = {split: prompt["sha256"] for split, prompt in self.content["prompts"].items()}
        named = {name: self.content.get(name) for name in ("judge_model", "served_models", "request")}
        return named | {"prompts": hashes}

    def means(self, model: str) -> dict[str, float]:
        """Return the means of one model, by keys that say that a judge gave them."""
        found = self.content["models"].get(model, {"metrics": {}})["metrics"]
        return {f"{PREFIX}{key}": value for key, value in found.items()}

    @property
    def criteria(self) -> list[Criterion]:
        """Return the rows of a table, with a cell for each model."""
        models = list(self.content["models"].values())
        keys = dict.fromkeys(key for found in models for key in found["metrics"])
        return [Criterion(*named(key), [_cell(found, key) for found in models]) for key in keys]


def is_leading(key: str) -> bool:
    """Return whether a criterion's key, with the prefix or without, is that of the one that says the most."""
    split, _, criterion = key.removeprefix(PREFIX).rpartition(".")
    return LEADING.get(known_split(split)) == criterion


def named(key: str) -> tuple[str, str]:
    """Return the split and the words of a criterion's key, with the prefix or without."""
    split, _, criterion = key.removeprefix(PREFIX).rpartition(".")
    return split, criterion.replace("_", " ").capitalize()


def _cell(found: Mapping[str, Any], key: str) -> Cell | None:
    mean = found["metrics"].get(key)
    return None if mean is None else Cell(mean, found["intervals"].get(key))


def _is_sound(content: Mapping[str, Any]) -> bool:
    try:
        models = content["models"].values()
        numbers = [value for found in models for value in found["metrics"].values()]
        numbers += [value for found in models for pair in found["intervals"].values() for value in pair]
        counts = [n for found in models for reasons in found["unanswered"].values() for n in reasons.values()]
        hashes = [prompt["sha256"] for prompt in content["prompts"].values()]
        return (
            all(isinstance(value, int | float) and math.isfinite(value) for value in numbers)
            and all(isinstance(count, int) for count in counts)
            and all(isinstance(text, str) for text in [*hashes, content["judge_model"]])
        )
    except (KeyError, TypeError, AttributeError):
        return False
