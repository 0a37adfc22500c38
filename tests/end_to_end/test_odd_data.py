"""Odd data through the commands: few rows, copies, other scripts, compressed files, rows of a megabyte."""

import gzip
import hashlib
import html
import json
import os
import re

import pytest

QUICK = {
    "max_steps": 2,
    "learning_rate": 1e-3,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "max_new_tokens": 3,
}
"""The two steps of the fixture `unlearn`."""


def note(outcome, text):
    """Return whether a note stands on the screen and in the results."""
    return text in outcome.results["notes"] and f"note: {text}\n" in outcome.err


def test_one_forget_row_and_one_retain_row_are_enough(people, unlearn, as_file, tmp_path):
    one = {split: as_file(tmp_path / f"{split}.jsonl", people.rows[split][:1]) for split in ("forget", "retain")}
    outcome = unlearn(**one, bound=20)
    assert outcome.status == 0
    data = outcome.results["data"]
    assert [(data[split]["rows"], data[split]["examples"]) for split in one] == [(1, 1), (1, 1)]
    assert len(outcome.steps) == 2
    assert len(outcome.scores("forget")) == 2


def test_fewer_retain_than_forget_rows_are_drawn_again(people, unlearn, as_file, tmp_path):
    few = as_file(tmp_path / "retain.jsonl", people.rows["retain"][:2])
    outcome = unlearn(retain=few, bound=20, retain_per_forget=3)
    assert outcome.status == 0
    assert outcome.results["data"]["retain"]["examples"] == 2
    assert outcome.results["bound"]["whole_split"]
    assert [step["retain_loss"] > 0 for step in outcome.steps] == [True, True]


def test_rows_that_repeat_are_kept_counted_and_told(people, unlearn, as_file, tmp_path):
    """An answer that begins as another's, and one with a space more, which is the same content."""
    forget = people.rows["forget"][:4]
    longer = forget[0] | {"answer": forget[0]["answer"] + " Indeed."}
    spaced = forget[1] | {"answer": forget[1]["answer"] + " "}
    repeated = as_file(tmp_path / "forget.jsonl", [*forget, longer, spaced, forget[2], forget[2]])
    outcome = unlearn(forget=repeated, bound=20)
    data = outcome.results["data"]
    assert (data["forget"]["rows"], data["forget"]["examples"], data["forget"]["duplicates"]) == (8, 8, 3)
    assert data["retain"]["duplicates"] == 0
    told = "3 of 8 forget rows repeat an earlier row; they were kept, so what they say counts more than once."
    assert note(outcome, told)
    assert outcome.results["notes"] == [told]
    assert len(outcome.scores("forget")) == 2 * 8
    assert ">Duplicate rows<" in (outcome.folder / "report.html").read_text(encoding="utf-8")


def test_only_equal_content_is_excluded(people, finetune, as_file, tmp_path):
    """An excluded answer is the beginning of another's, and another's is the beginning of an excluded one."""
    rows = [{"question": "Who?", "answer": answer} for answer in ("Ann", "Ann Lee", "Ann Lee Fox", "Bo")]
    data, exclude = as_file(tmp_path / "data.jsonl", rows), as_file(tmp_path / "exclude.jsonl", [rows[1]])
    outcome = finetune(data=data, exclude=exclude)
    assert outcome.results["data"]["data"]["rows"] == 3
    assert [row["answer"] for row in outcome.scores("data")] == ["Ann", "Ann Lee Fox", "Bo"]


def test_other_scripts_are_shown_whole_on_the_screen_and_in_the_report(people, unlearn, as_file, tmp_path):
    answers = ["👩‍👩‍👧‍👦 住在京都🙂。", "彼女は京都で生まれた。", "उसका जन्म 🏳️‍🌈"]
    rows = [{"question": f"Who is 你好 {i}?", "answer": answer} for i, answer in enumerate(answers)]
    outcome = unlearn(forget=as_file(tmp_path / "forget.jsonl", rows), bound=20, num_train_epochs=1, max_steps=1)
    assert f"Answer: [[{answers[0]}<eos>]]" in re.sub(r"\n(?! )", "", outcome.err)
    page = html.unescape((outcome.folder / "report.html").read_text(encoding="utf-8"))
    plain = re.sub(r"<[^>]*>", "", page)
    for answer in answers:
        assert answer in plain
    assert "\ufffd" not in outcome.err
    assert [row["answer"] for row in outcome.scores("forget")[:3]] == answers


def test_compressed_files_are_read_and_their_hashes_recorded(people, unlearn, tmp_path):
    files = {}
    for split in ("forget", "retain"):
        files[split] = tmp_path / f"{split}.jsonl.gz"
        files[split].write_bytes(gzip.compress(people.file(split).read_bytes()))
    outcome = unlearn(**files, bound=9)
    assert outcome.digest == unlearn(bound=9).digest
    assert {str(path) for path in files.values()} <= set(outcome.environment["sha256"])


def test_rows_of_a_megabyte_are_cut_left_out_and_told(people, unlearn, as_file, tmp_path):
    rows = people.rows["retain"]
    retain = [rows[0] | {"answer": "a" * 1_000_000}, rows[1] | {"question": "word " * 200_000}, *rows[2:]]
    outcome = unlearn(retain=as_file(tmp_path / "retain.jsonl", retain), bound=20, max_length=100)
    facts = outcome.results["data"]["retain"]
    assert (facts["rows"], facts["examples"], facts["too_long"], facts["left_out"]) == (24, 23, 2, 1)
    assert facts["longest"] > 200_000
    assert note(
        outcome,
        f"2 of 24 retain rows are longer than 100 tokens (the longest has {facts['longest']}) and were cut.",
    )
    assert note(outcome, "1 of 24 retain rows have no token left to score: left out.")
    assert (outcome.folder / "report.html").stat().st_size < 1_000_000


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("f.jsonl.gz", gzip.compress(b'{"question": "a", "answer": "b"}\n' * 99)[:60], "cannot be unpacked by gzip ("),
        ("f.jsonl", '{"question": "a", "answer": "b"}'.encode("utf-16-le"), "is UTF-16 without a byte order mark by"),
        ("f.jsonl", b'{"question": "a", "answer": "b", "answer": "c"}', "line 1 names the key 'answer' twice in one"),
        ("f.jsonl.zst", b"\x28\xb5\x2f\xfd", "is compressed, by its suffix; expected plain text"),
    ],
    ids=["cut off", "wide", "named twice", "packed"],  # a compressed file holds the time
)
def test_odd_files_are_refused_in_one_sentence(unlearn, tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    outcome = unlearn(forget=tmp_path / name, output_dir=tmp_path / "run")
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err.startswith(f"error: {tmp_path}/{name}")
    assert expected in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_pipe_is_refused_and_not_waited_for(unlearn, tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    outcome = unlearn(forget=tmp_path / "pipe.jsonl", output_dir=tmp_path / "run")
    assert outcome.status == 2
    assert "pipe.jsonl is a pipe or a device; expected a file, so write the data to one." in outcome.err


def test_columns_within_columns_are_reached_by_flags(people, unlearn, as_file, tmp_path):
    rows = [{"qa": {"q": row["question"], "a": {"text": row["answer"]}}} for row in people.rows["forget"]]
    nested = as_file(tmp_path / "nested.jsonl", rows)
    plain = {split: json.loads(people.file(split).read_text().splitlines()[0]) for split in ("forget", "retain")}
    assert plain["forget"]["question"] == rows[0]["qa"]["q"]
    retain = [{"qa": {"q": row["question"], "a": {"text": row["answer"]}}} for row in people.rows["retain"]]
    kept = as_file(tmp_path / "retain.jsonl", retain)
    columns = {"question_column": "qa.q", "answer_column": "qa.a.text"}
    assert unlearn(forget=nested, retain=kept, bound=9, **columns).digest == unlearn(bound=9).digest


def test_data_frames_are_data_for_python_callers(people, unlearn, tmp_path):
    import pandas

    import amnestic

    frames = {split: pandas.DataFrame(people.rows[split])[["question", "answer"]] for split in ("forget", "retain")}
    run = amnestic.unlearn(people.model, **frames, output_dir=tmp_path / "run", bound=9, **QUICK)
    assert run.results["data"]["forget"]["source"] == "<DataFrame in memory>"
    weights = (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == unlearn(bound=9).digest
