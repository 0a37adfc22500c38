"""``amnestic demo`` on a handful of people and a few epochs: all of its parts, none of its waiting."""

import functools
import json

import pytest

from amnestic import demo, scratch
from amnestic.benchmarks import fiction
from amnestic.benchmarks.fiction import Fiction


@pytest.fixture(scope="module")
def small():
    """Six people, two questions about each, and as many epochs as it takes to change a model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "Fiction", functools.partial(Fiction, people=6, questions=2, forget_share=1 / 3))
        patch.setattr(Fiction, "learning", Fiction.learning | {"num_train_epochs": 8.0})
        patch.setattr(fiction, "UNLEARNING", fiction.UNLEARNING | {"num_train_epochs": 3.0})
        yield


@pytest.fixture(scope="module")
def finished(small, command, tmp_path_factory):
    return command("demo", {"output_dir": tmp_path_factory.mktemp("demo") / "run", "keep": 0.9, "seed": 3}, "--json")


@pytest.fixture(scope="module")
def unlearned(finished):
    """The results of the last of the demonstration's three runs."""
    assert finished.status in (0, 3), finished.err
    return json.loads((finished.folder / "unlearned" / "results.json").read_text(encoding="utf-8"))


def test_the_folder_holds_the_data_and_the_three_models(finished):
    folder = finished.folder
    assert sorted(path.name for path in folder.iterdir()) == ["data", "full", "retrained", "start", "unlearned"]
    for name in ("full", "retrained", "unlearned"):
        assert (folder / name / "model" / "model.safetensors").is_file()
        assert (folder / name / "results.json").is_file()
    assert (folder / "unlearned" / "report.html").is_file()


def test_stdout_is_the_json_of_the_last_run_alone(finished, unlearned):
    assert json.loads(finished.out) == unlearned


def test_the_tokenizer_s_trainer_keeps_off_the_process_s_stdout(tmp_path, capfd):
    scratch.write_start(tmp_path, Fiction(people=2, questions=1, forget_share=0.5).splits()["full"])
    assert capfd.readouterr() == ("", "")


def test_each_model_saw_its_rows(finished):
    rows = {}
    for split in ("full", "forget", "retain"):
        path = finished.folder / "data" / f"{split}.jsonl"
        rows[split] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert rows == {split: Fiction(people=6, questions=2, forget_share=1 / 3, seed=3).splits()[split] for split in rows}
    for name, split in (("full", "full"), ("retrained", "retain")):
        results = json.loads((finished.folder / name / "results.json").read_text(encoding="utf-8"))
        assert results["data"]["data"]["source"] == str(finished.folder / "data" / f"{split}.jsonl")
        assert results["data"]["data"]["rows"] == len(rows[split])
        assert results["seeds"] == {"training": 3}


def test_the_three_models_stand_side_by_side(finished, unlearned):
    full = json.loads((finished.folder / "full" / "results.json").read_text(encoding="utf-8"))
    assert unlearned["bound"]["requested"] == 0.9
    assert unlearned["bound"]["whole_split"]
    assert set(unlearned["metrics"]) == set(unlearned["reference_metrics"])
    beside = {"forget_quality", "forget_quality_log10"}  # of a model beside the retrained one
    assert set(unlearned["retrained_metrics"]) == set(unlearned["metrics"]) - beside
    means = [unlearned["reference_metrics"][f"{split}.probability"] for split in ("forget", "retain")]
    assert (4 * means[0] + 8 * means[1]) / 12 == pytest.approx(full["metrics"]["data.probability"], rel=1e-5)
    page = (finished.folder / "unlearned" / "report.html").read_text(encoding="utf-8")
    for metrics in ("reference_metrics", "retrained_metrics", "metrics"):
        absent = [key for key, value in unlearned[metrics].items() if f'<data value="{value}">' not in page]
        assert absent == []
    assert ">Retrained</th>" in page


def test_the_stages_are_told(finished):
    for text in (
        "note: training the model 'full' from scratch on 12 answers.",
        "note: training the model 'retrained' from scratch on 8 answers.",
        "note: making the model 'full' forget 4 of its answers.",
    ):
        assert text in finished.err


def test_a_second_demonstration_needs_leave_to_replace_the_first(finished, small, command):
    folder = finished.folder
    refused = command("demo", {"output_dir": folder})
    assert refused.status == 2
    assert refused.err == (
        f"error: --output_dir {folder} is not empty; give another folder, or --overwrite an earlier demonstration.\n"
    )
    before = (folder / "full" / "model" / "model.safetensors").read_bytes()
    again = command("demo", {"output_dir": folder, "overwrite": True, "seed": 4})
    assert again.status in (0, 3)
    assert (folder / "full" / "model" / "model.safetensors").read_bytes() != before


@pytest.mark.parametrize("place", [".", "full", "unlearned"])
def test_foreign_files_are_not_touched(command, tmp_path, place):
    folder = tmp_path / "demo"
    (folder / "full").mkdir(parents=True)
    (folder / "full" / "results.json").write_text("{}", encoding="utf-8")
    (folder / place).mkdir(exist_ok=True)
    (folder / place / "thesis.txt").write_text("mine", encoding="utf-8")
    before = sorted(folder.rglob("*"))
    outcome = command("demo", {"output_dir": folder, "overwrite": True})
    assert outcome.status == 2
    assert "'thesis.txt'" in outcome.err
    assert sorted(folder.rglob("*")) == before


def test_files_of_one_s_own_beside_the_data_stay(small, command, tmp_path):
    (tmp_path / "run" / "data").mkdir(parents=True)
    (tmp_path / "run" / "data" / "mine.jsonl").write_text("{}", encoding="utf-8")
    assert command("demo", {"output_dir": tmp_path / "run", "overwrite": True}).status in (0, 3)
    assert (tmp_path / "run" / "data" / "mine.jsonl").read_text(encoding="utf-8") == "{}"


def test_a_demonstration_cannot_replace_a_file(command, tmp_path):
    (tmp_path / "run").write_text("mine", encoding="utf-8")
    outcome = command("demo", {"output_dir": tmp_path / "run", "overwrite": True})
    assert (outcome.status, outcome.err.count("is a file; expected a folder.")) == (2, 1)


def test_an_interrupted_demonstration_says_how_it_is_started_again(command, monkeypatch, tmp_path):
    import os
    import signal

    import amnestic.training.loop as loop

    step = loop.step

    def stopping(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return step(*arguments)

    monkeypatch.setattr(loop, "step", stopping)
    outcome = command("demo", {"output_dir": tmp_path / "demo"})
    assert outcome.status == 130
    assert outcome.err.splitlines()[-1] == (
        f"error: interrupted. Start again with: amnestic demo --output_dir {tmp_path}/demo --overwrite"
    )
