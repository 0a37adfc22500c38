"""A run of ``amnestic unlearn`` that ended, as its folder tells it: what an evaluation of its model takes from it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from .config_file import read_yaml
from .errors import InputError
from .reports.files import read_json

SAME_NAMED = (
    "forget",
    "retain",
    "dtype",
    "redact",
    "per_device_eval_batch_size",
    "eval_rows",
    "max_new_tokens",
    "metrics",
)
"""Options besides those of rows and templates that an evaluation of the run's model has as the run had them."""


@dataclass(frozen=True)
class EndedRun:
    """The folder of a run, and what its files say."""

    folder: Path
    config: Mapping[str, Any]
    """The run's resolved options, by name."""
    results: Mapping[str, Any]
    environment: Mapping[str, Any]

    @classmethod
    def at(cls, name: str | os.PathLike[str]) -> Self:
        """Return the run in the folder called `name`.

        Raises InputError where there is none, where it has not ended, and where another command wrote it.
        """
        folder = Path(name)
        if not (folder / "config.yaml").is_file():
            raise InputError(f"--run {folder} is no run folder: it has no config.yaml; give the folder of a run.")
        if not (folder / "results.json").is_file():
            raise InputError(
                f"the run in --run {folder} has not ended: it has no results.json; let it end first (amnestic unlearn "
                f"--config {folder / 'config.yaml'} --resume_from_checkpoint latest)."
            )
        results = read_json(folder / "results.json")
        if (command := results.get("command")) != "unlearn":
            raise InputError(
                f"--run {folder} was written by amnestic {command}; expected a run of unlearn, so give a model with "
                "--model, and what to measure it on."
            )
        run = cls(folder, read_yaml(folder / "config.yaml"), results, read_json(folder / "environment.json"))
        run._refuse_damaged()
        return run

    def _refuse_damaged(self) -> None:
        kinds: dict[str, type] = {"probe_ids": list, "metrics": dict, "data": dict}
        if wrong := [name for name, kind in kinds.items() if not isinstance(self.results.get(name), kind)]:
            raise InputError(
                f"--run {self.folder} is damaged: its results.json has no sound '{wrong[0]}'; make the run again."
            )
        if not isinstance(self.environment.get("sha256"), dict):
            raise InputError(f"--run {self.folder} is damaged: its environment.json has no sound 'sha256'.")
        if not self.model.is_dir():
            raise InputError(f"--run {self.folder} has no folder 'model'; expected the model that the run wrote.")

    @property
    def model(self) -> Path:
        """Return the folder of the model that the run wrote."""
        return self.folder / "model"

    def options(self, of_rows: frozenset[str], benchmark: str | None) -> dict[str, Any]:
        """Return the options of an evaluation that are as the run had them: `of_rows`, and SAME_NAMED.

        With a `benchmark` to be measured on, the run's files are not; the benchmark's folder is, where it was the same.
        """
        names = [name for name in (*SAME_NAMED, *sorted(of_rows)) if name in self.config]
        found = {name: self.config[name] for name in names} | {"model": str(self.model)}
        if benchmark is None:
            return found
        found |= {"forget": None, "retain": None}
        return found | ({"data": self.config.get("data")} if self.config.get("benchmark") == benchmark else {})
