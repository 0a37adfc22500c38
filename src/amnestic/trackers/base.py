"""What a tracker is: it receives the numbers of a run while the run goes on.

A tracker never receives a text: neither a prompt nor an answer nor a local path. What it raises, and how long it takes,
is the business of `Tracking`, which calls it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..registry import Registry

DEFAULT_PROJECT = "amnestic"
START_LIMIT = 90.0
"""Seconds that a tracker may take to start."""
FINISH_LIMIT = 60.0
"""Seconds that a tracker may take to finish, all that it has yet to send included."""


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker knows of a run before its first step."""

    id: str
    """The same for all trackers, and for a run that is resumed."""
    name: str
    project: str | None
    folder: Path
    """Below it a tracker may write files, in a folder of its own name; it need not exist."""
    config: Mapping[str, Any]
    """The options that may be sent: numbers, choices and names of the Hub."""
    steps_done: int = 0
    """Steps that were taken before; what was logged of later ones is taken again."""
    resumed: bool = False


class Tracker(ABC):
    """Shows the numbers of a run somewhere; its methods are called in order, in a thread of their own."""

    name: ClassVar[str]
    library: ClassVar[str]
    """The module that it imports."""
    requirement: ClassVar[str]
    """What ``pip install`` takes to bring the library."""

    @abstractmethod
    def start(self, run: TrackedRun) -> str:
        """Begin, or continue, a run; return where a user finds it."""

    @abstractmethod
    def log(self, values: Mapping[str, float], step: int) -> None:
        """Record numbers of the state after `step` optimiser steps; steps need not come in order."""

    @abstractmethod
    def finish(self, summary: Mapping[str, Any], exit_status: int) -> None:
        """End the run: `summary` has the status, the verdict and the bound, and is empty for a run that failed."""


TRACKERS: Registry[Tracker] = Registry("tracker", "amnestic.trackers")
tracker = TRACKERS.register
