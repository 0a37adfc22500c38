"""Trackers: what they receive, and that none of them can stop a run, slow it, or hold it up."""

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import amnestic.trackers.tracking as tracking
from amnestic.errors import InputError
from amnestic.trackers.base import TRACKERS, TrackedRun, Tracker
from amnestic.trackers.options import TrackingOptions
from amnestic.trackers.tracking import Tracking, summary, trackers

RUN = TrackedRun("abc", "night", "shelf", Path("run"), {"learning_rate": 1e-5})
RESULTS = {
    "status": "feasible",
    "verdict": "Bound held.",
    "bound": {"kind": "keep", "value": 0.5, "upper_limit": None},
    "reference_metrics": {"forget.rouge": 0.9},
    "retrained_metrics": {"forget.rouge": 0.2},
    "metrics": {"forget.rouge": 0.3},
    "kept_step": 4,
    "training": {"steps": 6},
}


@dataclass
class Recorder(Tracker):
    """Keeps what it is told; fails, or waits, where it is told to."""

    name = "recorder"
    library = "json"
    requirement = "json"
    fails_in: str = ""
    error: BaseException = field(default_factory=lambda: RuntimeError("no\nroute to the server."))
    waits_in: str = ""
    told: list[Any] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)

    def start(self, run: TrackedRun) -> str:
        self._do("start", run)
        return "over there"

    def log(self, values: Any, step: int) -> None:
        self._do("log", values, step)

    def finish(self, summary: Any, exit_status: int) -> None:
        self._do("finish", summary, exit_status)

    def _do(self, what: str, *told: Any) -> None:
        if what == self.waits_in:
            self.release.wait()
        if what == self.fails_in:
            raise self.error
        self.told.append((what, *told))


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def follow(notes):
    """Make `Tracking` of recorders, every `logging_steps`th step; what waits is released at the end."""
    made: list[Recorder] = []

    def make(*recorders: Recorder, logging_dir: str | None = None, logging_steps: int = 1) -> Tracking:
        made.extend(recorders)
        return Tracking(recorders, notes.append, logging_dir, logging_steps)

    yield make
    for recorder in made:
        recorder.release.set()


def test_a_tracker_is_told_the_run_its_steps_its_candidates_and_its_end(follow, notes):
    recorder = Recorder()
    found = follow(recorder)
    found.open(RUN)
    found.step({"step": 1, "epoch": 0.5, "forget_loss": 3, "retain_loss": 0.25})
    found.candidate({"step": 2, "reached": 0.5, "upper_limit": None, "holds": True})
    found.close(RESULTS, 0)
    assert [call[0] for call in recorder.told] == ["start", "log", "log", "log", "log", "log", "finish"]
    assert recorder.told[1:] == [
        ("log", {"train/epoch": 0.5, "train/forget_loss": 3.0, "train/retain_loss": 0.25}, 1),
        ("log", {"candidate/reached": 0.5, "candidate/holds": 1.0}, 2),
        ("log", {"metrics/forget.rouge": 0.9}, 0),
        ("log", {"retrained/forget.rouge": 0.2}, 0),
        ("log", {"metrics/forget.rouge": 0.3}, 4),
        ("finish", {"status": "feasible", "verdict": "Bound held.", "bound/kind": "keep", "bound/value": 0.5}, 0),
    ]
    assert notes == ["recorder follows this run: over there"]


def test_a_run_without_a_bound_ends_at_its_last_step(follow):
    recorder = Recorder()
    found = follow(recorder)
    found.open(RUN)
    results = {"status": "done", "verdict": "Trained.", "metrics": {"data.rouge": 1}, "training": {"steps": 6}}
    found.close(results, 0)
    assert recorder.told[1:] == [
        ("log", {"metrics/data.rouge": 1.0}, 6),
        ("finish", {"status": "done", "verdict": "Trained."}, 0),
    ]


def test_only_finite_numbers_are_sent(follow):
    recorder = Recorder()
    found = follow(recorder)
    found.open(RUN)
    found.step({"step": 1, "a": "the answer", "b": None, "c": float("nan"), "d": [1], "e": 2})
    found.step({"step": 2, "a": "the answer"})
    found.close({}, 1)
    assert recorder.told[1:] == [("log", {"train/e": 2.0}, 1), ("finish", {}, 1)]


def test_steps_are_sent_as_often_as_they_are_logged(follow):
    recorder = Recorder()
    found = follow(recorder, logging_steps=3)
    found.open(RUN)
    for step in range(1, 8):
        found.step({"step": step, "loss": 1})
    found.close({}, 1)
    assert [call[2] for call in recorder.told if call[0] == "log"] == [3, 6]


@pytest.mark.parametrize(("logging_dir", "expected"), [(None, Path("run")), ("logs", Path("logs"))])
def test_files_go_to_the_run_folder_unless_told_otherwise(follow, logging_dir, expected):
    recorder = Recorder()
    found = follow(recorder, logging_dir=logging_dir)
    found.open(RUN)
    found.close({}, 0)
    (_, run), *_ = recorder.told
    assert run.folder == expected.absolute()
    assert (run.id, run.name, run.project, run.config) == (RUN.id, RUN.name, RUN.project, RUN.config)


def test_what_was_never_opened_is_told_nothing(follow):
    recorder = Recorder()
    found = follow(recorder)
    found.step({"step": 1, "loss": 1})
    found.candidate({"step": 1, "loss": 1})
    found.close(RESULTS, 0)
    assert recorder.told == []


@pytest.mark.parametrize("place", ["start", "log", "finish"])
def test_a_tracker_that_fails_is_one_note_and_the_others_go_on(follow, notes, place):
    broken, sound = Recorder(fails_in=place), Recorder()
    found = follow(broken, sound)
    found.open(RUN)
    for step in (1, 2, 3):
        found.step({"step": step, "loss": 1})
    found.close(RESULTS, 0)
    failures = [note for note in notes if "failed" in note]
    said = "the tracker recorder failed: RuntimeError: no route to the server; it is switched off, and the run goes on"
    assert failures == [f"{said} without it."]
    assert [call[0] for call in sound.told] == ["start", *["log"] * 6, "finish"]


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), MemoryError(), ImportError("protobuf")])
def test_no_exception_of_a_tracker_gets_through(follow, notes, error):
    found = follow(Recorder(fails_in="start", error=error))
    found.open(RUN)
    found.close(RESULTS, 0)
    assert len(notes) == 1
    assert type(error).__name__ in notes[0]


@pytest.mark.parametrize(
    ("place", "limit"), [("start", "START_LIMIT"), ("log", "FINISH_LIMIT"), ("finish", "FINISH_LIMIT")]
)
def test_a_tracker_that_hangs_is_left_behind(follow, notes, monkeypatch, place, limit):
    monkeypatch.setattr(tracking, limit, 0.02)
    hanging, sound = Recorder(waits_in=place), Recorder()
    found = follow(sound, hanging)
    found.open(RUN)
    found.step({"step": 1, "loss": 1})
    found.close(RESULTS, 0)
    what = "did not start" if place == "start" else "did not finish"
    said = f"the tracker recorder {what} within 0.02 seconds; it is switched off, and the run goes on without it."
    assert notes.count(said) == 1
    assert [note for note in notes if "switched off" in note] == [said]
    assert sound.told[-1][0] == "finish"


def test_what_a_tracker_left_behind_says_later_changes_nothing(follow, notes, monkeypatch):
    monkeypatch.setattr(tracking, "START_LIMIT", 0.02)
    late = Recorder(waits_in="start", fails_in="start")
    found = follow(late)
    found.open(RUN)
    said = list(notes)
    late.release.set()
    found.step({"step": 1, "loss": 1})
    found.close(RESULTS, 0)
    assert notes == said
    assert late.told == []


def test_a_tracker_that_cannot_keep_up_is_switched_off(follow, notes, monkeypatch):
    monkeypatch.setattr(tracking, "BACKLOG", 3)
    slow = Recorder(waits_in="log")
    found = follow(slow)
    found.open(RUN)
    for step in range(1, 20):
        found.step({"step": step, "loss": 1})
    assert notes[1:] == ["the tracker recorder is 3 calls behind; it is switched off, and the run goes on without it."]


def test_ctrl_c_ends_the_waiting_alone(follow, notes, monkeypatch):
    recorder = Recorder(waits_in="finish")
    found = follow(recorder)
    found.open(RUN)

    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(found, "_wait", interrupted)
    found.close(RESULTS, 0)
    assert notes[1:] == ["interrupted: the trackers were not waited for, and may lack what was not yet sent."]


def test_a_summary_has_every_bound():
    found = summary(RESULTS | {"context_bound": {"value": 0.25, "upper_limit": None}})
    assert {name: value for name, value in found.items() if "/" in name} == {
        "bound/kind": "keep",
        "bound/value": 0.5,
        "context_bound/value": 0.25,
    }


def test_a_summary_of_a_failed_run_is_empty():
    assert summary({}) == {}


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_a_missing_library_is_found_before_the_run(monkeypatch, name):
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda library: None)
    expected = f"--report_to {name} needs {name}, which is not installed; pip install 'amnestic\\[{name}\\]'."
    with pytest.raises(InputError, match=expected):
        trackers(TrackingOptions(report_to=(name,)))


def test_a_folder_of_the_librarys_name_is_no_library(monkeypatch, tmp_path):
    """What wandb leaves behind in a folder looks like a package where the folder is on the path."""
    (tmp_path / "amnestic_no_such_library").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(TRACKERS.get("wandb"), "library", "amnestic_no_such_library")
    with pytest.raises(InputError, match="is not installed"):
        trackers(TrackingOptions(report_to=("wandb",)))


def test_an_unknown_tracker_is_told_the_nearest():
    with pytest.raises(InputError, match="unknown tracker 'tensorbord'; did you mean 'tensorboard'"):
        trackers(TrackingOptions(report_to=("tensorbord",)))


def test_a_class_that_is_no_tracker_is_refused():
    with pytest.raises(InputError, match=r"tracker 'collections.Counter' is Counter; expected a subclass"):
        trackers(TrackingOptions(report_to=("collections.Counter",)))


def test_a_tracker_named_twice_is_refused():
    with pytest.raises(InputError, match="--report_to names wandb twice"):
        TrackingOptions(report_to=("wandb", "tensorboard", "wandb"))


@pytest.mark.parametrize("name", ["run_name", "project", "logging_dir"])
def test_empty_names_are_refused(name):
    with pytest.raises(InputError, match=f"--{name} is empty"):
        TrackingOptions(**{name: ""})


@pytest.mark.parametrize("name", TRACKERS.names())
def test_every_tracker_says_what_it_needs(name):
    cls = TRACKERS.get(name)
    assert cls.library
    assert cls.requirement == f"amnestic[{name}]"
    assert cls.__doc__
