"""One run of a comparison: an ordinary command of its own process, with a configuration, a log and a folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import FinetuneConfig, UnlearnConfig, from_mapping, read_yaml, write_yaml
from ..errors import InputError
from ..identity import changes, identity
from ..reports.files import read_json
from ..resuming import LATEST
from ..storage import remove


@dataclass(frozen=True)
class Job:
    """A run as it is asked for."""

    name: str
    config: UnlearnConfig | FinetuneConfig
    root: Path
    """The folder of the comparison."""

    @property
    def command(self) -> str:
        """Return the command that does it."""
        return "unlearn" if isinstance(self.config, UnlearnConfig) else "finetune"

    @property
    def folder(self) -> Path:
        """Return the run folder."""
        return Path(self.config.run.output_dir)

    @property
    def file(self) -> Path:
        """Return where its configuration is written for the process that does it."""
        return self.root / "plan" / f"{self.name}.yaml"

    @property
    def log(self) -> Path:
        """Return where all goes that the process says."""
        return self.root / "logs" / f"{self.name}.txt"

    @property
    def arguments(self) -> list[str]:
        """Return the arguments of ``amnestic``: the run goes on where it was interrupted, and starts anew elsewhere."""
        begin = ["--resume_from_checkpoint", LATEST] if self.config.training.is_resumable else ["--overwrite"]
        return [self.command, "--config", str(self.file), *begin, "--quiet"]

    @property
    def is_done(self) -> bool:
        """Return whether the run has ended with results."""
        return (self.folder / "results.json").is_file() and self.file.is_file()

    @property
    def is_current(self) -> bool:
        """Return whether it has, with the options that are asked for."""
        return self.is_done and not self.differences()

    @property
    def results(self) -> dict[str, Any]:
        """Return what the run found; raises InputError where it has not ended."""
        return read_json(self.folder / "results.json")

    def differences(self) -> list[str]:
        """Return in which options this run is not the one that was asked for in its folder before."""
        if not (self.folder.exists() and self.file.is_file()):
            return []
        earlier = from_mapping(type(self.config), read_yaml(self.file), str(self.file))
        return changes(identity(self.config), identity(earlier))

    def refuse_other(self) -> None:
        """Raise InputError where the folder holds a run with other options."""
        if found := self.differences():
            raise InputError(
                f"{self.folder} is a run with other options: {'; '.join(found)}; give --overwrite to run it again, or "
                "another --output_dir."
            )

    def prepare(self) -> None:
        """Write the configuration; a run with other options goes first."""
        if self.differences():
            remove(self.folder)
        for path in (self.file, self.log, self.folder):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_yaml(self.config, self.file)
