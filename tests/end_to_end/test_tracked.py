"""Runs that report to trackers, those of users too; and runs whose trackers fail."""

import json
import sys

import pytest

OWN = '''
"""Trackers as a user writes them: one class in one file."""

import json

from amnestic.trackers.base import Tracker


class Lines(Tracker):
    """Writes what it is told, a line a call."""

    library = "json"
    requirement = "json"

    def start(self, run):
        run.folder.mkdir(parents=True, exist_ok=True)
        self.file = run.folder / "lines.jsonl"
        facts = {"id": run.id, "name": run.name, "config": dict(run.config)}
        self._write(start=facts | {"resumed": run.resumed, "done": run.steps_done})
        return str(self.file)

    def log(self, values, step):
        self._write(values=dict(values), step=step)

    def finish(self, summary, exit_status):
        self._write(summary=dict(summary), exit_status=exit_status)

    def _write(self, **line):
        with self.file.open("a") as file:
            file.write(json.dumps(line) + "\\\\n")


class Broken(Lines):
    """Fails where its name says."""

    def start(self, run):
        raise OSError("no route to the tracker")


class BrokenLog(Lines):
    def log(self, values, step):
        raise ValueError("step 1 is behind step 2")


class BrokenEnd(Lines):
    def finish(self, summary, exit_status):
        raise SystemExit(1)
'''.replace("\\\\n", "\\n")


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of trackers that is no part of the package."""
    (tmp_path / "own_trackers.py").write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield "own_trackers"
    sys.modules.pop("own_trackers", None)


def lines(outcome) -> list[dict]:
    (path,) = outcome.folder.parent.rglob("lines.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_tracker_receives_what_the_run_folder_has(own, unlearn, tmp_path):
    outcome = unlearn(report_to=f"{own}.Lines", bound=9, logging_dir=tmp_path / "logs", run_name="night")
    assert outcome.status == 0
    assert f"follows this run: {tmp_path / 'logs' / 'lines.jsonl'}" in outcome.err
    found = [json.loads(line) for line in (tmp_path / "logs" / "lines.jsonl").read_text(encoding="utf-8").splitlines()]
    start, *logged, end = found
    assert start["start"]["name"] == "night"
    assert start["start"]["config"] | {"bound": 9.0, "max_steps": 2, "method": "pdu"} == start["start"]["config"]
    assert (
        start["start"]["id"] == json.loads((outcome.folder / "tracking" / "run.json").read_text(encoding="utf-8"))["id"]
    )
    expected = [
        ({f"train/{name}": value for name, value in step.items() if name != "step"}, step["step"])
        for step in outcome.steps
    ]
    assert [(line["values"], line["step"]) for line in logged[:2]] == expected
    (candidate,) = [record for record in outcome.records if "candidate" in record]
    assert logged[2]["step"] == candidate["step"] == 2
    assert logged[2]["values"]["candidate/reached"] == candidate["reached"]
    assert logged[3]["values"] == {
        f"metrics/{name}": value for name, value in outcome.results["reference_metrics"].items()
    }
    assert logged[4]["values"] == {f"metrics/{name}": value for name, value in outcome.results["metrics"].items()}
    assert (logged[3]["step"], logged[4]["step"]) == (0, outcome.results["kept_step"])
    assert end["exit_status"] == 0
    assert end["summary"]["verdict"] == outcome.results["verdict"]


def test_no_text_and_no_path_reaches_a_tracker(own, unlearn, people, as_file, tmp_path):
    rows = [row | {"answer": f"{row['answer']} Xylographic Quokka"} for row in people.rows["forget"]]
    forget = as_file(tmp_path / "jane-doe.jsonl", rows)
    template = "Xylographic Quokka: {question}\nAnswer:"
    options = {"forget": forget, "question_template": template, "output_dir": tmp_path / "jane-doe"}
    outcome = unlearn(report_to=f"{own}.Lines", bound=9, **options)
    assert outcome.status == 0
    told = json.dumps(lines(outcome))
    for private in ("Quokka", "jane-doe", str(people.folder), str(tmp_path), str(outcome.folder)):
        assert private not in told
    assert "Quokka" in (outcome.folder / "config.yaml").read_text(encoding="utf-8")


def test_a_missed_bound_is_told(own, unlearn):
    outcome = unlearn(report_to=f"{own}.Lines", alpha=1e-6, learning_rate=0.05)
    assert outcome.status == 3
    end = lines(outcome)[-1]
    assert (end["exit_status"], end["summary"]["status"]) == (3, "infeasible")


def test_a_failed_run_is_told(own, finetune):
    outcome = finetune(report_to=f"{own}.Lines", optim="sgd", learning_rate=1e38, max_grad_norm=0, warmup_steps=0)
    assert outcome.status == 1
    assert lines(outcome)[-1] == {"summary": {}, "exit_status": 1}


def test_an_interrupted_run_is_told(own, finetune, monkeypatch):
    import amnestic.training.loop as loop

    def stopped(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "step", stopped)
    outcome = finetune(report_to=f"{own}.Lines")
    assert outcome.status == 130
    assert lines(outcome)[-1] == {"summary": {}, "exit_status": 130}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Broken", "OSError: no route to the tracker"),
        ("BrokenLog", "ValueError: step 1 is behind step 2"),
        ("BrokenEnd", "SystemExit: 1"),
    ],
)
def test_a_tracker_that_fails_costs_one_note_and_no_weight(own, finetune, name, reason):
    outcome = finetune(report_to=f"{own}.{name}")
    assert outcome.status == 0
    said = [line for line in outcome.err.splitlines() if reason in line]
    assert said == [
        f"note: the tracker {own}.{name} failed: {reason}; it is switched off, and the run goes on without it."
    ]
    assert "Traceback" not in outcome.err
    assert outcome.digest == finetune().digest
    assert (outcome.folder / "results.json").is_file()


def test_several_trackers_are_independent(own, finetune):
    outcome = finetune(report_to=f"{own}.Broken,{own}.Lines")
    assert outcome.status == 0
    assert lines(outcome)[-1]["summary"]["status"] == "done"


def test_a_missing_library_costs_nothing(finetune, monkeypatch, tmp_path):
    import amnestic.trackers.tracking as tracking

    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda library: None)
    outcome = finetune(report_to="wandb", output_dir=tmp_path / "run")
    assert outcome.status == 2
    assert outcome.err == (
        "error: --report_to wandb needs wandb, which is not installed; pip install 'amnestic[wandb]'.\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_tracker_costs_nothing(finetune, tmp_path):
    outcome = finetune(report_to="wandbb", output_dir=tmp_path / "run")
    assert outcome.status == 2
    assert "unknown tracker 'wandbb'; did you mean 'wandb'?" in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_followed_unasked(finetune):
    outcome = finetune()
    assert "tracking" not in {path.name for path in outcome.folder.iterdir()}


def test_tensorboard_files_lie_in_the_run_folder_and_are_replaced_with_it(finetune, tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for _ in range(2):
        outcome = finetune("--overwrite", report_to="tensorboard", output_dir=tmp_path / "run")
        assert outcome.status == 0
    (file,) = (tmp_path / "run" / "tracking" / "tensorboard").iterdir()
    found = event_accumulator.EventAccumulator(str(file)).Reload().Scalars("train/loss")
    assert [event.step for event in found] == [1, 2]
    assert [event.value for event in found] == pytest.approx([step["loss"] for step in outcome.steps])
    config = (tmp_path / "run" / "config.yaml").read_text(encoding="utf-8")
    assert "report_to:\n- tensorboard\n" in config


def interrupting(monkeypatch, number):
    """Interrupt the training at its step `number`, counted from 1."""
    import amnestic.training.loop as loop

    def stopped(*arguments):
        calls.append(arguments)
        if len(calls) == number:
            raise KeyboardInterrupt
        return step(*arguments)

    calls: list = []
    step = loop.step
    monkeypatch.setattr(loop, "step", stopped)


def test_a_resumed_run_is_the_same_run_to_its_trackers(own, finetune, monkeypatch, tmp_path):
    options = {"report_to": f"{own}.Lines", "output_dir": tmp_path / "run", "max_steps": 6, "save_steps": 3}
    with monkeypatch.context() as patch:
        interrupting(patch, 6)
        assert finetune(**options).status == 130
    outcome = finetune(**options, resume_from_checkpoint="latest")
    assert outcome.status == 0
    first, second = [line["start"] for line in lines(outcome) if "start" in line]
    assert second["id"] == first["id"]
    assert (first["resumed"], first["done"]) == (False, 0)
    assert (second["resumed"], second["done"]) == (True, 3)
    steps = [
        line["step"] for line in lines(outcome) if any(name.startswith("train/") for name in line.get("values", ()))
    ]
    assert steps == [1, 2, 3, 4, 4, 5, 6]


def test_tensorboard_shows_each_step_of_a_resumed_run_once(finetune, monkeypatch, tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    options = {"report_to": "tensorboard", "output_dir": tmp_path / "run", "max_steps": 6, "save_steps": 3}
    with monkeypatch.context() as patch:
        interrupting(patch, 6)
        assert finetune(**options).status == 130
    outcome = finetune(**options, resume_from_checkpoint="latest")
    found = (
        event_accumulator.EventAccumulator(str(tmp_path / "run" / "tracking" / "tensorboard"))
        .Reload()
        .Scalars("train/loss")
    )
    assert [event.step for event in found] == [1, 2, 3, 4, 5, 6]
    assert [event.value for event in found] == pytest.approx([step["loss"] for step in outcome.steps])


def test_data_that_is_moved_away_during_the_run_stays_private(own, finetune, people, as_file, monkeypatch, tmp_path):
    """Its folder is named as a data set of the Hub could be."""
    import hashlib
    import shutil

    import amnestic.training.loop as loop

    def moving(*arguments):
        shutil.rmtree(tmp_path / "jane", ignore_errors=True)
        return step(*arguments)

    step = loop.step
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jane" / "doe").mkdir(parents=True)
    content = as_file(tmp_path / "jane" / "doe" / "rows.jsonl", people.rows["retain"]).read_bytes()
    monkeypatch.setattr(loop, "step", moving)
    outcome = finetune(data="jane/doe", report_to=f"{own}.Lines")
    assert outcome.status == 0
    card = (outcome.folder / "model" / "README.md").read_text(encoding="utf-8")
    assert hashlib.sha256(content).hexdigest() in card
    assert "jane" not in card + json.dumps(lines(outcome))


def test_a_card_is_written_for_every_model(unlearned, retrained):
    for outcome, title in ((unlearned, "# Unlearned model"), (retrained, "# Trained model")):
        card = (outcome.folder / "model" / "README.md").read_text(encoding="utf-8")
        assert f"\n{title}\n\n**{outcome.results['verdict']}**\n" in card
        assert str(outcome.folder) not in card
    assert "made from random weights" in card
