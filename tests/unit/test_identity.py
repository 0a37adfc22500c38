"""Which options make a run what it is, and folders that several runs share."""

import os

import pytest

from amnestic.benching.jobs import Job
from amnestic.config import FinetuneConfig, UnlearnConfig, from_mapping
from amnestic.errors import InputError
from amnestic.identity import changes, identity
from amnestic.reports.places import alone, lock_folder, refuse_foreign

ASKED = {"model": "m", "forget": "f", "retain": "r", "output_dir": "out"}


def asked(**options):
    return from_mapping(UnlearnConfig, ASKED | options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, []),
        ({"output_dir": "elsewhere", "device": "cpu", "gradient_checkpointing": True}, []),
        ({"per_device_train_batch_size": 2, "gradient_accumulation_steps": 8}, []),  # 16 rows, cut otherwise
        ({"per_device_train_batch_size": 2}, ["the effective batch is 8 here and was 16"]),
        ({"tokenizer": "t"}, ["--tokenizer is t here and was None"]),
        ({"model_revision": "v2"}, ["--model_revision is v2 here and was None"]),
        ({"system_prompt": "Hm."}, ["--system_prompt is Hm. here and was None"]),
        ({"measure": {"more": "x"}}, ["--measure is {'more': 'x'} here and was None"]),
        (
            {"bound_model": "b", "keep": 0.9},
            ["--keep is 0.9 here and was None", "--bound_model is b here and was None"],
        ),
    ],
)
def test_what_makes_it_another_run(options, said):
    assert sorted(changes(identity(asked(**options)), identity(asked()))) == sorted(said)


def test_a_hidden_text_is_in_no_identity():
    secret = identity(asked(redact=True, system_prompt="Bob's"))
    assert "Bob's" not in str(secret)


def test_a_run_of_a_comparison_that_is_done_is_done_again_with_another_batch(tmp_path):
    def job(**options):
        mapping = {"model": "m", "data": "d", "output_dir": str(tmp_path / "run")} | options
        return Job("run", from_mapping(FinetuneConfig, mapping), tmp_path)

    first = job()
    first.prepare()
    first.folder.mkdir()
    (first.folder / "results.json").write_text("{}", encoding="utf-8")
    assert job(output_dir=str(tmp_path / "run")).is_current
    assert job(gradient_accumulation_steps=2).differences() == ["the effective batch is 8 here and was 32"]
    assert job(exclude="e").differences() == ["--exclude is e here and was None"]


def test_a_folder_is_kept_by_one_and_let_go(tmp_path):
    folder = tmp_path / "a" / "b"
    said = f"another process is writing in {folder}; let it end first"
    with alone(folder), pytest.raises(InputError, match=said):
        lock_folder(folder)
    os.close(lock_folder(folder))


def test_what_something_else_wrote_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for place, said in (
        (tmp_path, "is not empty, and no sequence is in it"),
        (tmp_path / "file", "is a file; expected a folder"),
        (tmp_path / "file" / "out", "lies below .*file, which is a file"),
    ):
        with pytest.raises(InputError, match=said):
            refuse_foreign(place, "sequence.yaml", "sequence")
    (tmp_path / "sequence.yaml").touch()
    refuse_foreign(tmp_path, "sequence.yaml", "sequence")
    refuse_foreign(tmp_path / "new", "sequence.yaml", "sequence")
