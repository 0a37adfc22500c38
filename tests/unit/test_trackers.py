"""Each tracker against its library: TensorBoard's files are read back, wandb and trackio are stood in for.

The stand-ins take the arguments of wandb 0.31 and trackio 0.43 and no others, and say what they were told.
"""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from amnestic.trackers.base import FINISH_LIMIT, START_LIMIT, TRACKERS, TrackedRun

WANDB = """
calls = []

class Settings:
    def __init__(self, *, silent, console=None, save_code=None, disable_code=None, disable_git=None,
                 x_disable_meta=None, x_disable_machine_info=None, x_save_requirements=None, init_timeout=None,
                 finish_timeout=None):
        self.__dict__.update({name: value for name, value in locals().items() if name != "self"})

class Summary(dict):
    def update(self, values):
        calls.append(("summary", values))

class Run:
    offline = False
    url = "https://wandb.example/me/amnestic/runs/abc"
    summary = Summary()

    def __init__(self, dir):
        self.dir = str(dir) + "/wandb/run-abc/files"

    def define_metric(self, name, step_metric=None):
        calls.append(("define_metric", name, step_metric))

    def log(self, data, step=None, commit=None):
        calls.append(("log", data, step))

    def finish(self, exit_code=None, quiet=None):
        calls.append(("finish", exit_code))

def setup(settings=None):
    calls.append(("setup", settings.silent))

def init(entity=None, project=None, dir=None, id=None, name=None, notes=None, tags=None, config=None, mode=None,
         reinit=None, resume=None, save_code=None, settings=None):
    calls.append(("init", {name: value for name, value in locals().items() if value is not None}))
    return Run(dir)
"""
TRACKIO = """
calls = []

class Markdown:
    def __init__(self, text):
        self.text = text

class Run:
    def log(self, metrics, step=None):
        calls.append(("log", metrics, step))

    def finish(self):
        calls.append(("finish",))

def init(project, name=None, group=None, space_id=None, config=None, resume="never", settings=None, private=None,
         embed=True, auto_log_gpu=None, auto_log_cpu=None):
    calls.append(("init", {name: value for name, value in locals().items() if value is not None}))
    return Run()
"""
VARIABLES = ("WANDB_PROJECT", "WANDB_DIR", "WANDB_MODE", "TRACKIO_PROJECT", "TRACKIO_SPACE_ID")


@pytest.fixture
def run(tmp_path) -> TrackedRun:
    return TrackedRun("abc", "night", None, tmp_path / "run" / "files", {"learning_rate": 1e-5, "model": "me/x"})


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """Put a module of this name and content in a library's place, and return it."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)

    def put(name: str, content: str) -> Any:
        (tmp_path / "libraries").mkdir()
        (tmp_path / "libraries" / f"{name}.py").write_text(content, encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path / "libraries")
        monkeypatch.delitem(sys.modules, name, raising=False)
        module = importlib.import_module(name)
        monkeypatch.setitem(sys.modules, name, module)
        return module

    return put


def replaced(run: TrackedRun, **changes: Any) -> TrackedRun:
    return TrackedRun(**(vars(run) | changes))


def test_wandb_is_told_everything_and_nothing_of_its_own(run, stand_in):
    wandb = stand_in("wandb", WANDB)
    found = TRACKERS.get("wandb")()
    assert found.start(run) == "https://wandb.example/me/amnestic/runs/abc"
    found.log({"train/forget_loss": 2.0}, 3)
    found.finish({"status": "infeasible"}, 3)
    setup, (_, init), *others = wandb.calls
    assert setup == ("setup", True)
    settings = vars(init.pop("settings"))
    assert init == {
        "project": "amnestic",
        "dir": run.folder,
        "id": "abc",
        "name": "night",
        "config": {"learning_rate": 1e-5, "model": "me/x"},
        "reinit": "create_new",
        "resume": "allow",
    }
    assert others == [
        ("define_metric", "step", None),
        ("define_metric", "*", "step"),
        ("log", {"train/forget_loss": 2.0, "step": 3}, None),
        ("summary", {"status": "infeasible"}),
        ("finish", 3),
    ]
    # the terminal, the command line, the source, the machine and the installed packages are none of its business
    assert (settings["console"], settings["silent"]) == ("off", True)
    assert (settings["save_code"], settings["disable_code"], settings["disable_git"]) == (False, True, True)
    assert (settings["x_disable_meta"], settings["x_disable_machine_info"]) == (True, True)
    assert settings["x_save_requirements"] is False
    assert (settings["init_timeout"], settings["finish_timeout"]) == (START_LIMIT, FINISH_LIMIT)


def test_wandb_writes_into_the_run_folder_and_nowhere_else(run, stand_in, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    stand_in("wandb", WANDB)
    TRACKERS.get("wandb")().start(run)
    assert run.folder.is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["libraries", "run"]


def test_wandb_offline_says_how_to_send_it_later(run, stand_in, monkeypatch):
    wandb = stand_in("wandb", WANDB)
    monkeypatch.setattr(wandb.Run, "offline", True)
    assert TRACKERS.get("wandb")().start(run) == f"wandb sync {run.folder}/wandb/run-abc"


@pytest.mark.parametrize(
    ("name", "content", "variable"), [("wandb", WANDB, "WANDB_PROJECT"), ("trackio", TRACKIO, "TRACKIO_PROJECT")]
)
def test_the_project_is_the_options_the_environments_or_ours(run, stand_in, monkeypatch, name, content, variable):
    module = stand_in(name, content)
    monkeypatch.setenv(variable, "theirs")
    TRACKERS.get(name)().start(run)
    TRACKERS.get(name)().start(replaced(run, project="mine"))
    assert [call[1]["project"] for call in module.calls if call[0] == "init"] == ["theirs", "mine"]


def test_wandb_files_go_where_its_variable_says(run, stand_in, monkeypatch, tmp_path):
    wandb = stand_in("wandb", WANDB)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "elsewhere"))
    TRACKERS.get("wandb")().start(run)
    assert wandb.calls[1][1]["dir"] == tmp_path / "elsewhere"


@pytest.mark.parametrize(("resumed", "word"), [(False, "never"), (True, "allow")])
def test_trackio_is_told_everything(run, stand_in, resumed, word):
    trackio = stand_in("trackio", TRACKIO)
    found = TRACKERS.get("trackio")()
    assert found.start(replaced(run, resumed=resumed)) == "trackio show --project amnestic"
    found.log({"train/forget_loss": 2.0}, 3)
    found.log({"metrics/forget.rouge": 0.5}, 0)
    found.finish({"status": "feasible", "verdict": "Bound held."}, 0)
    (_, init), first, second, (_, summary, last), finish = trackio.calls
    assert init == {
        "project": "amnestic",
        "name": "night-abc",
        "config": {"learning_rate": 1e-5, "model": "me/x"},
        "resume": word,
        "private": True,
        "embed": False,
    }
    assert first == ("log", {"train/forget_loss": 2.0}, 3)
    assert second == ("log", {"metrics/forget.rouge": 0.5}, 0)
    assert (summary["summary"].text, last) == ("- status: feasible\n- verdict: Bound held.", 3)
    assert finish == ("finish",)


def test_trackio_ends_a_failed_run_without_a_summary(run, stand_in):
    trackio = stand_in("trackio", TRACKIO)
    found = TRACKERS.get("trackio")()
    found.start(run)
    found.finish({}, 1)
    assert [call[0] for call in trackio.calls] == ["init", "finish"]


def read_back(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder)).Reload()


def scalars(found: Any, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in found.Scalars(name)]


def text(found: Any, name: str) -> str:
    (event,) = found.Tensors(f"{name}/text_summary")
    return event.tensor_proto.string_val[0].decode()


def test_tensorboard_reads_back_what_was_logged(run):
    pytest.importorskip("tensorboard")
    found = TRACKERS.get("tensorboard")()
    assert found.start(run) == f"tensorboard --logdir {run.folder / 'tensorboard'}"
    found.log({"train/forget_loss": 2.0, "train/retain_loss": 0.5}, 1)
    found.log({"train/forget_loss": 1.5}, 2)
    found.log({"metrics/forget.rouge": 0.25}, 0)
    assert scalars(read_back(run.folder / "tensorboard"), "train/forget_loss") == [
        (1, 2.0),
        (2, 1.5),
    ]  # before it is closed
    found.finish({"status": "feasible", "verdict": "Bound held."}, 0)
    written = read_back(run.folder / "tensorboard")
    assert scalars(written, "train/retain_loss") == [(1, 0.5)]
    assert scalars(written, "metrics/forget.rouge") == [(0, 0.25)]
    assert text(written, "config").splitlines()[2:] == ["| learning_rate | 1e-05 |", "| model | me/x |"]
    assert text(written, "summary") == "- status: feasible\n- verdict: Bound held."


def test_tensorboard_hides_the_steps_that_are_taken_again(run):
    pytest.importorskip("tensorboard")
    first, second = TRACKERS.get("tensorboard")(), TRACKERS.get("tensorboard")()
    first.start(run)
    for step in (1, 2, 3, 4):
        first.log({"train/forget_loss": 10.0 + step}, step)
    first.finish({}, 130)
    second.start(replaced(run, steps_done=2, resumed=True))
    for step in (3, 4, 5):
        second.log({"train/forget_loss": 20.0 + step}, step)
    second.finish({}, 0)
    expected = [(1, 11.0), (2, 12.0), (3, 23.0), (4, 24.0), (5, 25.0)]
    assert scalars(read_back(run.folder / "tensorboard"), "train/forget_loss") == expected
