"""What a long operation tells whoever watches it; the default says nothing.

Only the command line prints; everything else reports to a `Progress`.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add the seconds of the context to those of `stage`, which is among them from its beginning."""
    begin = time.perf_counter()
    seconds.setdefault(stage, 0.0)
    yield
    seconds[stage] += time.perf_counter() - begin


class Progress:
    """A silent observer; subclass it to show a run."""

    def note(self, text: str) -> None:
        """Receive one sentence that the user should read."""

    def report(self, text: str) -> None:
        """Receive one line about a part of the work that has ended."""

    def quote(self, title: str, text: str) -> None:
        """Receive a text of several lines that the user should see whole, and what it is."""

    def preview(self, tokens: list[tuple[str, bool]]) -> None:
        """Receive one rendered example: its tokens as text, and whether each is scored; not of a redacted run."""

    def preview_spans(self, tokens: list[tuple[str, bool]]) -> None:
        """Receive, in place of `preview`, one with marked spans: its tokens, and whether each is to be forgotten."""
        self.preview(tokens)

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
        for name in vars(Progress):
            if not name.startswith("_"):
                setattr(self, name, partial(_each, [getattr(observer, name) for observer in observers]))


def _each(calls: Sequence[Callable[..., None]], *arguments: Any, **named: Any) -> None:
    for call in calls:
        call(*arguments, **named)
