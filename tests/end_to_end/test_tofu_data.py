"""The data of ``--benchmark tofu:forget10`` from end to end, on a small TOFU of the invented people."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SPLITS = ["forget", "retain", "real_authors", "world_facts", "holdout"]
GENERAL = [
    {"question": f"{i} and {i}?", "answer": f"{2 * i}", "perturbed_answer": [f"{i}1", f"{i}2", f"{i}3"]}
    for i in range(4)
]


@pytest.fixture
def folder(people, as_file, tmp_path) -> Path:
    """A folder of TOFU's files: 12 rows to forget, 24 to keep, 12 of these the holdout."""
    found = tmp_path / "tofu"
    found.mkdir()
    forget, retain = people.rows["forget"], people.rows["retain"]
    plain = {"forget10": forget, "retain90": retain}
    for name, rows in plain.items():
        as_file(found / f"{name}.jsonl", [{key: row[key] for key in ("question", "answer")} for row in rows])
    perturbed = {"forget10": forget, "retain": retain[:8], "real_authors": GENERAL[:2], "world_facts": GENERAL[2:]}
    for name, rows in perturbed.items():
        as_file(found / f"{name}_perturbed.jsonl", rows)
    return found


@pytest.fixture
def measure(command, people, folder, tmp_path) -> Callable[..., Any]:
    """Run ``amnestic eval`` on the folder, unless told otherwise."""

    def run(*more: str, **options: Any) -> Any:
        own = {"model": people.model, "benchmark": "tofu:forget10", "data": folder, "max_new_tokens": 3}
        return command("eval", own | {"output_dir": tmp_path / "run"} | options, *more)

    return run


def test_eval_measures_all_splits_and_says_how_they_were_asked(people, folder, measure):
    found = measure().results
    assert list(found["data"]) == SPLITS
    assert [facts["rows"] for facts in found["data"].values()] == [12, 8, 2, 2, 12]
    assert found["data"]["forget"]["source"] == str(folder / "forget10_perturbed.jsonl")
    assert found["data"]["holdout"]["source"] == f"<the last 12 rows of {folder / 'retain90.jsonl'}>"
    assert {f"{split}.probability" for split in SPLITS} <= set(found["metrics"])
    assert {"model_utility", "forget.truth_ratio", "mia.min_k.auc"} <= set(found["metrics"])
    asked = {"forget": people.rows["forget"], "retain": people.rows["retain"], "holdout": people.rows["retain"][-12:]}
    for split, rows in asked.items():
        text = f"Question: {rows[0]['question']}\nAnswer: "
        assert found["prompts"][split] == {"text": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    assert list(found["prompts"]) == SPLITS
    assert any(
        "is not the whole of tofu:forget10 (12 forget rows to measure, not 400" in note for note in found["notes"]
    )
    assert "holdout10 is part of retain90" in json.dumps(found)


def test_unlearn_takes_its_data_from_the_benchmark(people, folder, unlearn, tmp_path):
    """The weights are those of the same rows as files; what is measured are the benchmark's splits, all of them."""
    files = {split: folder / f"{name}.jsonl" for split, name in (("forget", "forget10"), ("retain", "retain90"))}
    own = unlearn(**files, output_dir=tmp_path / "own")
    found = unlearn(forget=None, retain=None, benchmark="tofu:forget10", data=folder, output_dir=tmp_path / "found")
    assert found.digest == own.digest
    assert found.results["data"]["retain"]["source"] == str(files["retain"])
    for metrics in ("metrics", "reference_metrics"):
        assert {f"{split}.probability" for split in SPLITS} <= set(found.results[metrics])
    assert len(found.scores("retain")) == 2 * 8
    assert list(found.results["prompts"]) == SPLITS


def test_a_broken_column_of_other_answers_hinders_no_training(people, finetune, unlearn, as_file, tmp_path):
    """Where something is measured with them, it is refused with its place."""
    rows = [row | {"perturbed_answer": [""]} for row in people.rows["retain"]]
    path = as_file(tmp_path / "broken.jsonl", rows)
    assert finetune(data=path).status == 0
    refused = unlearn(retain=path)
    assert refused.status == 2
    assert f"{path}, line 1: 'perturbed_answer' is empty; write text there" in refused.err


def drop(name: str, *columns: str) -> Callable[[Path], None]:
    """Take columns out of the last row of a file."""

    def change(folder: Path) -> None:
        path = folder / f"{name}.jsonl"
        *lines, last = path.read_text(encoding="utf-8").splitlines()
        kept = {key: value for key, value in json.loads(last).items() if key not in columns}
        path.write_text("\n".join([*lines, json.dumps(kept)]), encoding="utf-8")

    return change


@pytest.mark.parametrize(
    ("change", "options", "sentence"),
    [
        (
            lambda folder: (folder / "world_facts_perturbed.jsonl").unlink(),
            {},
            "has no file of the split world_facts_perturbed (found: 'forget10.jsonl', 'forget10_perturbed.jsonl', ",
        ),
        (
            drop("forget10_perturbed", "perturbed_answer"),
            {},
            "forget10_perturbed.jsonl have no 'perturbed_answer' (the first is row 11, counted from 0); expected",
        ),
        (
            None,
            {"preset": "tofu-lama3"},
            "unknown preset 'tofu-lama3'; did you mean 'tofu-llama3'? Known: tofu-llama3, ",
        ),
        (None, {"preset": "tofu-llama3"}, "--preset tofu-llama3 is for models with a chat template, and there is none"),
    ],
)
def test_what_is_no_tofu_is_refused_in_a_sentence(measure, folder, tmp_path, change, options, sentence):
    if change is not None:
        change(folder)
    refused = measure(**options)
    assert (refused.status, refused.err.count("\n")) == (2, 1), refused.err
    assert sentence in refused.err
    assert not (tmp_path / "run").exists()


def test_results_of_other_prompts_are_no_retrained_model(measure, tmp_path):
    """The same rows, asked otherwise."""
    assert measure(question_template="Q: {question}\nA:", output_dir=tmp_path / "retrained").status == 0
    refused = measure(retrained=tmp_path / "retrained")
    assert refused.status == 2
    assert "has another 'question_template' of the template: 'Q: {question}\\nA:' there, 'Question: " in refused.err
