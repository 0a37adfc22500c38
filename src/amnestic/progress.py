"""What a long operation tells whoever watches it; the default says nothing.

Only the command line prints; everything else reports to a `Progress`.
"""

from collections.abc import Mapping
from typing import Any


class Progress:
    """A silent observer; subclass it to show a run."""

    def note(self, text: str) -> None:
        """Receive one sentence that the user should read."""

    def preview(self, tokens: list[tuple[str, bool]]) -> None:
        """Receive one rendered example: its tokens as text, and whether each is scored."""

    def plan(self, facts: Mapping[str, Any]) -> None:
        """Receive the numbers of examples, scored tokens and steps before training starts."""

    def start(self, title: str, total: int) -> None:
        """Begin a stage of `total` units; it replaces the stage before."""

    def advance(self, units: int = 1) -> None:
        """Report `units` more of the current stage as done."""

    def step(self, record: Mapping[str, Any]) -> None:
        """Receive the record of an optimiser step: ``step``, ``epoch``, ``forget_loss``, ``retain_loss``, ..."""

    def candidate(self, record: Mapping[str, Any]) -> None:
        """Receive the record of a measured candidate."""

    def stop(self) -> None:
        """End the current stage."""


class Observers(Progress):
    """Hands everything on to several observers, in their order."""

    def __init__(self, *observers: Progress) -> None:
        """Hand on to `observers`."""
        self.observers = observers

    def note(self, text: str) -> None:
        """Hand on a sentence."""
        for observer in self.observers:
            observer.note(text)

    def preview(self, tokens: list[tuple[str, bool]]) -> None:
        """Hand on a rendered example."""
        for observer in self.observers:
            observer.preview(tokens)

    def plan(self, facts: Mapping[str, Any]) -> None:
        """Hand on the numbers of the run."""
        for observer in self.observers:
            observer.plan(facts)

    def start(self, title: str, total: int) -> None:
        """Hand on that a stage begins."""
        for observer in self.observers:
            observer.start(title, total)

    def advance(self, units: int = 1) -> None:
        """Hand on that units are done."""
        for observer in self.observers:
            observer.advance(units)

    def step(self, record: Mapping[str, Any]) -> None:
        """Hand on the record of a step."""
        for observer in self.observers:
            observer.step(record)

    def candidate(self, record: Mapping[str, Any]) -> None:
        """Hand on the record of a candidate."""
        for observer in self.observers:
            observer.candidate(record)

    def stop(self) -> None:
        """Hand on that the stage ends."""
        for observer in self.observers:
            observer.stop()
