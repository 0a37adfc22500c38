"""The runs of a reproduction, one a seed: which are done, and how one that is not begins."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..config import ReproduceConfig, UnlearnConfig
from ..identity import identity
from ..reports.files import read_json, write_json
from ..resuming import LATEST
from ..storage import writing


def shared(config: UnlearnConfig) -> dict[str, Any]:
    """Return what the runs in one folder have in common: all that decides a result but the seed, as JSON holds it."""
    return {name: value for name, value in identity(config).items() if name != "seed"}


@dataclass(frozen=True)
class SeedRun:
    """One run as it is asked for."""

    config: UnlearnConfig
    root: Path
    """The folder of the reproduction."""

    @classmethod
    def of(cls, config: ReproduceConfig, seed: int) -> "SeedRun":
        """Return the run with one seed."""
        root = Path(config.run.output_dir)
        parts = {member.name: getattr(config, member.name) for member in fields(UnlearnConfig)}
        parts["run"] = replace(config.run, output_dir=str(root / f"seed-{seed}"))
        parts["training"] = replace(config.training, seed=seed)
        return cls(UnlearnConfig(**parts), root)

    @property
    def folder(self) -> Path:
        """Return the run folder."""
        return Path(self.config.run.output_dir)

    @property
    def file(self) -> Path:
        """Return where it is written what was asked for: a run with other options is none of this reproduction."""
        return self.root / "plan" / f"{self.folder.name}.json"

    @property
    def is_done(self) -> bool:
        """Return whether it has ended with results, and need not be done again."""
        return not self.config.run.overwrite and self._is_this and (self.folder / "results.json").is_file()

    @property
    def results(self) -> dict[str, Any]:
        """Return what it found when it was done."""
        return read_json(self.folder / "results.json")

    @property
    def beginning(self) -> UnlearnConfig:
        """Return the configuration that goes on where the run was interrupted, or else starts it anew."""
        config = self.config
        if config.run.overwrite or not self.folder.exists():
            return config
        if not (self._is_this and config.training.is_resumable):
            return replace(config, run=replace(config.run, overwrite=True))
        return replace(config, checkpoints=replace(config.checkpoints, resume_from_checkpoint=LATEST))

    def record(self) -> None:
        """Write what is asked for."""
        with writing(self.file):
            self.file.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.file, shared(self.config))

    @property
    def _is_this(self) -> bool:
        return self.file.is_file() and read_json(self.file) == shared(self.config)
