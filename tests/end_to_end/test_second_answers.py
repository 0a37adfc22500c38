"""Runs of methods that teach another answer: what they teach is fixed, kept, and can be given."""

import json
import os
import signal
from typing import Any

import pytest

import amnestic.training.loop as loop
from amnestic.alternatives import Alternatives, is_other
from amnestic.data.refusals import read_refusals, refusal_for

FILE = "alternatives.jsonl"


def taught(outcome: Any) -> dict[str, str]:
    """What the run folder says was taught, by id."""
    assert outcome.status in (0, 3), outcome.err
    rows = [json.loads(line) for line in (outcome.folder / FILE).read_text(encoding="utf-8").splitlines()]
    return {row["id"]: row["answer"] for row in rows}


@pytest.fixture(scope="module")
def altpo(unlearn):
    return unlearn(method="altpo", keep=0.5)


def test_refusals_are_drawn_by_seed_and_id(unlearn, people):
    """One of the package's for each row; the same lot whatever else of the run differs."""
    found = taught(unlearn(method="dpo", keep=0.5, seed=3))
    assert found == {f"forget:{i}": refusal_for(read_refusals(), 3, f"forget:{i}") for i in range(12)}
    assert found == taught(unlearn(method="dpo", keep=0.5, seed=3, max_steps=1, per_device_train_batch_size=2))
    assert len(set(found.values())) > 6


def test_refusals_of_a_file_take_their_place(unlearn, tmp_path):
    (tmp_path / "mine.txt").write_text("Ask her.\nAsk him.\n", encoding="utf-8")
    found = taught(unlearn(method="dpo", keep=0.5, refusals=tmp_path / "mine.txt"))
    assert set(found.values()) == {"Ask her.", "Ask him."}


def test_alternatives_of_the_model_are_other_answers(altpo, people):
    found = taught(altpo)
    assert [*found] == [f"forget:{i}" for i in range(12)]
    assert all(is_other(row["answer"], found[f"forget:{i}"]) for i, row in enumerate(people.rows["forget"]))


def test_given_alternatives_make_the_same_run(altpo, unlearn, people, as_file, tmp_path):
    """From the file that the run kept, and from a column that the rows have: neither asks the model."""
    kept = taught(altpo)
    rows = [row | {"other": kept[f"forget:{i}"]} for i, row in enumerate(people.rows["forget"])]
    column = {"forget": as_file(tmp_path / "rows.jsonl", rows), "alternate_answer_column": "other"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Alternatives, "found", lambda search: pytest.fail("the model was asked"))
        for given in ({"alternates_file": altpo.folder / FILE}, column):
            outcome = unlearn(method="altpo", keep=0.5, **given)
            assert taught(outcome) == kept
            assert outcome.digest == altpo.digest


def test_a_run_that_goes_on_teaches_the_same(altpo, unlearn, monkeypatch, tmp_path):
    """The alternatives are read again, not made again, and the weights are those of the run in one piece."""
    options = {"method": "altpo", "keep": 0.5, "output_dir": tmp_path / "run"}
    step = loop.step
    with monkeypatch.context() as patch:
        patch.setattr(loop, "step", lambda *a, **o: (os.kill(os.getpid(), signal.SIGINT), step(*a, **o))[1])
        assert unlearn(**options).status == 130
    assert (tmp_path / "run" / FILE).is_file()
    monkeypatch.setattr(Alternatives, "found", lambda search: pytest.fail("the model was asked"))
    outcome = unlearn(**options, resume_from_checkpoint="latest")
    assert taught(outcome) == taught(altpo)
    assert outcome.digest == altpo.digest


def test_a_redacted_run_keeps_none(altpo, unlearn):
    """Made again by the same seed, they would be the same: so are the weights."""
    outcome = unlearn(method="altpo", keep=0.5, redact=True)
    assert outcome.digest == altpo.digest
    texts = taught(altpo).values()
    for path in outcome.folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(json.dumps(text)[1:-1].encode() in content for text in texts), path


def test_a_file_in_the_folder_that_is_to_be_replaced_is_refused(unlearn, tmp_path):
    """The run would delete what it was given."""
    options = {"method": "dpo", "keep": 0.5, "max_steps": 1, "output_dir": tmp_path / "run"}
    assert unlearn(**options).status in (0, 3)
    outcome = unlearn(**options, overwrite=True, alternates_file=tmp_path / "run" / FILE)
    assert outcome.status == 2
    assert f"holds {tmp_path / 'run' / FILE}, which this run reads; give another folder" in outcome.err
    assert (tmp_path / "run" / FILE).is_file()


def test_texts_that_ask_nothing_are_refused(unlearn, people, as_file, tmp_path):
    rows = as_file(tmp_path / "texts.jsonl", [{"text": row["answer"]} for row in people.rows["forget"]])
    outcome = unlearn(method="dpo", keep=0.5, forget=rows)
    assert outcome.status == 2
    assert "forget:0 is a text without a question, to which there is no second answer" in outcome.err
    assert not outcome.folder.exists()


def test_options_of_second_answers_that_a_method_does_not_teach_are_told(unlearn, tmp_path):
    refusals = tmp_path / "refusals.txt"
    refusals.write_text("I do not know.")
    notes = {}
    for method in ("npo", "altpo", "dpo"):
        outcome = unlearn(method=method, keep=0.5, max_steps=1, refusals=refusals)
        notes[method] = [note for note in outcome.results.get("notes", []) if "--refusals" in note]
    assert notes == {
        "npo": ["--refusals: npo teaches no second answer; nothing is changed by that."],
        "altpo": ["--refusals: altpo teaches no refusal; nothing is changed by that."],
        "dpo": [],
    }
