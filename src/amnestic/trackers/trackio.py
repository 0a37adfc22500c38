"""Trackio: a local database that ``trackio show`` draws, or a private Space of the Hub."""

import os
from collections.abc import Mapping
from typing import Any

from .base import DEFAULT_PROJECT, TrackedRun, Tracker, tracker


@tracker("trackio")
class Trackio(Tracker):
    """A run of Trackio: trackio show draws it; TRACKIO_SPACE_ID keeps it in a Space, which is created private."""

    library = "trackio"
    requirement = "amnestic[trackio]"

    def start(self, run: TrackedRun) -> str:
        """Begin a run, or continue the one with the same name."""
        import trackio

        project = run.project or os.environ.get("TRACKIO_PROJECT") or DEFAULT_PROJECT
        self._run: Any = trackio.init(
            project=project,
            name=f"{run.name}-{run.id}",  # a run is found again by its name
            resume="allow" if run.resumed else "never",
            private=True,
            embed=False,
            config=dict(run.config),
        )
        self._last = run.steps_done
        return f"trackio show --project {project}"

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Record numbers."""
        self._last = max(self._last, step)
        self._run.log(dict(values), step=step)

    def finish(self, summary: Mapping[str, Any], exit_status: int) -> None:
        """Record the summary as a text at the last step, and wait for what is not yet written."""
        import trackio

        if summary:
            text = "\n".join(f"- {name}: {value}" for name, value in summary.items())
            self._run.log({"summary": trackio.Markdown(text)}, step=self._last)
        self._run.finish()
