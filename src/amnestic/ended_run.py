"""A run of ``amnestic unlearn`` that ended, as its folder tells it: what an evaluation of its model takes from it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from .config_file import read_yaml
from .data.options import AlternatesOptions, DataOptions, SpansOptions
from .data.presets import without_template
from .errors import InputError
from .reports.files import read_json

SAME = frozenset(
    {"forget", "dtype", "redact", "per_device_eval_batch_size", "eval_rows", "max_new_tokens", "metrics"}
    | {leaf.name for kind in (DataOptions, SpansOptions, AlternatesOptions) for leaf in fields(kind)}
)
"""Options that an evaluation of the run's model has as the run had them."""


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

    @property
    def kept(self) -> dict[str, str | None]:
        """Return the splits that the run kept, the leading one first, each with its source; None: a benchmark's."""
        named = self.config.get("retain")
        return dict(named) if isinstance(named, dict) else {"retain": named}

    def options(self, benchmark: str | None) -> dict[str, Any]:
        """Return the options of an evaluation that are as the run had them.

        With a `benchmark` to be measured on, the run's files are not; the benchmark's folder is, where it was the same.
        """
        found = {name: value for name, value in self.config.items() if name in SAME} | {"model": str(self.model)}
        if benchmark is None:
            named = self.config.get("retain")
            return found | {"retain": None if isinstance(named, dict) else named}
        found["forget"] = None
        return found | ({"data": self.config.get("data")} if self.config.get("benchmark") == benchmark else {})


def completed(mapping: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return options of an evaluation with those of the run that they name, for the ones that are not among them.

    Raises InputError for a folder that is no run, and for another model than the run's.
    """
    name = mapping.get("run")
    if not isinstance(name, str | os.PathLike):
        return mapping
    run = EndedRun.at(name)
    if mapping.get("model") not in (None, str(run.model)):
        raise InputError(f"--run {run.folder} brings its model, and --model was given too; give one of the two.")
    own = run.options(mapping.get("benchmark"))
    return {**(own if mapping.get("preset") is None else without_template(own)), **mapping}
