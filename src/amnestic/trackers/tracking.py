"""Hands the numbers of a run to its trackers, none of which can stop it, slow it, or hold it up at its end.

Each tracker lives in a thread of its own that takes its calls in order. Where it raises, or takes too long, it is
switched off with one note, and the run goes on.
"""

import importlib.util
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from queue import Full, Queue
from threading import Event, Thread
from typing import Any

from ..errors import InputError
from ..progress import Progress
from .base import FINISH_LIMIT, START_LIMIT, TRACKERS, TrackedRun, Tracker
from .options import TrackingOptions

BACKLOG = 10_000
"""Most calls that wait for a tracker; one that falls further behind is switched off."""


def trackers(options: TrackingOptions) -> list[Tracker]:
    """Return the trackers that `options` name; raises InputError for an unknown one, or without its library."""
    found = []
    for name in options.report_to:
        cls = TRACKERS.get(name)
        if not issubclass(cls, Tracker):
            raise InputError(
                f"tracker '{name}' is {cls.__name__}; expected a subclass of amnestic.trackers.base.Tracker."
            )
        if not _is_installed(cls.library):
            raise InputError(
                f"--report_to {name} needs {cls.library}, which is not installed; pip install '{cls.requirement}'."
            )
        found.append(cls())
    return found


def _is_installed(library: str) -> bool:
    """Return whether `library` can be imported; a bare folder of its name, such as wandb leaves behind, cannot."""
    spec = importlib.util.find_spec(library)
    return spec is not None and spec.origin is not None


class Tracking(Progress):
    """The trackers of one run: an observer of its steps and candidates."""

    def __init__(
        self, trackers: Sequence[Tracker], note: Callable[[str], None], logging_dir: str | None, logging_steps: int
    ) -> None:
        """`note` receives a sentence for the user; every `logging_steps`th step is handed on."""
        self._channels = [_Channel(tracker, note) for tracker in trackers]
        self._note = note
        self._logging_dir = logging_dir
        self._logging_steps = logging_steps
        self._is_open = False

    @property
    def is_used(self) -> bool:
        """Return whether there is any tracker."""
        return bool(self._channels)

    def open(self, run: TrackedRun) -> None:
        """Start all trackers, and wait for them; those that fail, or are not ready in time, are switched off.

        Files go below `run.folder`, unless another folder was asked for.
        """
        self._is_open = True
        folder = Path(self._logging_dir or run.folder).absolute()
        for channel in self._channels:
            channel.start(replace(run, folder=folder))
        self._wait(START_LIMIT, "did not start")
        for channel in self._channels:
            if channel.place:
                self._note(f"{channel.name} follows this run: {channel.place}")

    def step(self, record: Mapping[str, Any]) -> None:
        """Hand on the record of an optimiser step."""
        if self._is_open and record["step"] % self._logging_steps == 0:
            self._log("train", record, record["step"])

    def candidate(self, record: Mapping[str, Any]) -> None:
        """Hand on the record of a measured candidate."""
        if self._is_open:
            self._log("candidate", record, record["step"])

    def close(self, results: Mapping[str, Any], exit_status: int) -> None:
        """Hand on what the run found, nothing where it failed, and end all trackers within a limit of time.

        Ctrl-C ends the waiting and nothing else: the run itself is over.
        """
        if not self._is_open:
            return
        self._is_open = False
        if results:
            self._results(results)
        for channel in self._channels:
            channel.send(channel.tracker.finish, summary(results), exit_status)
        try:
            self._wait(FINISH_LIMIT, "did not finish")
        except KeyboardInterrupt:
            self._note("interrupted: the trackers were not waited for, and may lack what was not yet sent.")

    def _results(self, results: Mapping[str, Any]) -> None:
        """Metrics are one series each: before at step 0, after at the step whose weights were kept."""
        last = results.get("kept_step", results["training"]["steps"])
        self._log("metrics", results.get("reference_metrics") or {}, 0)
        self._log("retrained", results.get("retrained_metrics") or {}, 0)
        self._log("metrics", results["metrics"], last)

    def _log(self, group: str, record: Mapping[str, Any], step: int) -> None:
        values = {
            f"{group}/{name}": float(value)
            for name, value in record.items()
            if name != "step" and isinstance(value, int | float) and math.isfinite(value)
        }
        for channel in self._channels if values else ():
            channel.send(channel.tracker.log, values, step)

    def _wait(self, limit: float, failure: str) -> None:
        deadline = time.monotonic() + limit
        for channel in self._channels:
            channel.wait(deadline - time.monotonic(), f"{failure} within {limit:g} seconds")


def summary(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of `results` that says how the run ended: status, verdict, and the numbers of the bound."""
    if not results:
        return {}
    bounds = {key: facts for key, facts in results.items() if key.endswith("bound") and facts}
    numbers = {f"{key}/{name}": value for key, facts in bounds.items() for name, value in facts.items()}
    ends = {"status": results["status"], "verdict": results["verdict"]}
    return ends | {name: value for name, value in numbers.items() if value is not None}


class _Channel:
    """The way to one tracker: calls go through a queue to a thread, which the process does not wait for at its end."""

    def __init__(self, tracker: Tracker, note: Callable[[str], None]) -> None:
        self.tracker = tracker
        self.place = ""
        self._note = note
        self._calls: Queue[tuple[Callable[..., Any], tuple[Any, ...], Event]] = Queue(BACKLOG)
        self._failure = ""
        self._last = Event()
        self._last.set()
        self._is_on = True

    @property
    def name(self) -> str:
        return self.tracker.name

    def start(self, run: TrackedRun) -> None:
        Thread(target=self._work, name=f"tracker {self.name}", daemon=True).start()
        self.send(self._start, run)

    def send(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Let the thread call `function` after all that was sent before."""
        self._report()
        if not self._is_on:
            return
        self._last = Event()
        try:
            self._calls.put_nowait((function, arguments, self._last))
        except Full:
            self._switch_off(f"is {BACKLOG} calls behind")

    def wait(self, seconds: float, failure: str) -> None:
        """Wait for all that was sent; switch the tracker off with `failure` where it takes longer than `seconds`."""
        is_done = not self._is_on or self._last.wait(max(seconds, 0))
        self._report()
        if not is_done and self._is_on:
            self._switch_off(failure)

    def _start(self, run: TrackedRun) -> None:
        self.place = self.tracker.start(run)

    def _work(self) -> None:
        while True:
            function, arguments, done = self._calls.get()
            try:
                if self._is_on and not self._failure:
                    function(*arguments)
            except BaseException as error:  # some libraries end the process where they fail
                self._failure = f"failed: {_reason(error)}"
            finally:
                done.set()

    def _report(self) -> None:
        if self._failure and self._is_on:
            self._switch_off(self._failure)

    def _switch_off(self, reason: str) -> None:
        self._is_on = False
        self.place = ""
        self._note(f"the tracker {self.name} {reason.rstrip('.')}; it is switched off, and the run goes on without it.")


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
