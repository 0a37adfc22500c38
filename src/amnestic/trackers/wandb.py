"""Weights & Biases: a run on its server, or offline in the run folder."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .base import DEFAULT_PROJECT, FINISH_LIMIT, START_LIMIT, TrackedRun, Tracker, tracker


@tracker("wandb")
class WeightsAndBiases(Tracker):
    """A run of Weights & Biases; WANDB_MODE=offline keeps it in the run folder, for wandb sync."""

    library = "wandb"
    requirement = "amnestic[wandb]"

    def start(self, run: TrackedRun) -> str:
        """Begin a run, or continue the one with the same id; raises where nobody is logged in."""
        import wandb

        # Its own records of the process are off: the terminal shows an example, the command line local paths.
        settings = wandb.Settings(
            silent=True,
            console="off",
            save_code=False,
            disable_code=True,
            disable_git=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
            init_timeout=START_LIMIT,
            finish_timeout=FINISH_LIMIT,
        )
        # where nobody is logged in it would ask at the terminal, and wait for an answer; so it raises
        wandb.setup(wandb.Settings(silent=True))
        folder = Path(os.environ.get("WANDB_DIR") or run.folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._run: Any = wandb.init(
            project=run.project or os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT,
            name=run.name,
            id=run.id,
            resume="allow",
            reinit="create_new",
            dir=folder,
            config=dict(run.config),
            settings=settings,
        )
        # steps are values of their own: wandb drops what comes with a step below its latest
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        return f"wandb sync {Path(self._run.dir).parent}" if self._run.offline else str(self._run.url)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send numbers."""
        self._run.log({**values, "step": step})

    def finish(self, summary: Mapping[str, Any], exit_status: int) -> None:
        """Send the summary, and wait for what is not yet sent."""
        self._run.summary.update(dict(summary))
        self._run.finish(exit_code=exit_status)
