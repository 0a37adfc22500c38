"""TensorBoard: event files in the run folder."""

from collections.abc import Mapping
from typing import Any

from .base import TrackedRun, Tracker, tracker


@tracker("tensorboard")
class TensorBoard(Tracker):
    """Event files in tracking/tensorboard of the run folder: tensorboard --logdir FOLDER shows them."""

    library = "tensorboard"
    requirement = "amnestic[tensorboard]"

    def start(self, run: TrackedRun) -> str:
        """Open an event file; a resumed run adds one, which hides the steps that are taken again."""
        from torch.utils.tensorboard import SummaryWriter

        purge = run.steps_done + 1 if run.resumed else None
        folder = run.folder / "tensorboard"
        self._writer: Any = SummaryWriter(folder, purge_step=purge)
        rows = "\n".join(f"| {name} | {value} |" for name, value in run.config.items())
        self._writer.add_text("config", f"| option | value |\n| --- | --- |\n{rows}", run.steps_done)
        return f"tensorboard --logdir {folder}"

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Write scalars, and put them on the disk."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self, summary: Mapping[str, Any], exit_status: int) -> None:
        """Write the summary as a text, and close the file."""
        if summary:
            self._writer.add_text("summary", "\n".join(f"- {name}: {value}" for name, value in summary.items()))
        self._writer.close()
