"""MUSE, and a folder of one's own, from the command line: a random model, and folders that the tests write."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from muse_folder import muse_rows, passage, write_muse, write_rows

QUICK = {"max_steps": 2, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "max_length": 128}
CRITERIA = ("forget.verbmem", "forget.knowmem", "retain.knowmem", "forget.extraction_strength")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder in the shape of MUSE."""
    folder = tmp_path_factory.mktemp("muse") / "data"
    write_muse(folder)
    return folder


@pytest.fixture(scope="module")
def muse(command, tiny_model, folder, tmp_path_factory):
    """Run a command on a random model and the folder, into a new one unless told otherwise."""

    def run(name: str, **options: Any):
        own = {"model": tiny_model(), "benchmark": "muse:books", "data": folder}
        own["output_dir"] = options.get("output_dir") or tmp_path_factory.mktemp(name) / "run"
        return command(name, own | options)

    return run


@pytest.fixture(scope="module")
def evaluated(muse):
    return muse("eval")


def behind(folder: Path, *files: str) -> dict[str, str]:
    return {str(folder / file): hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in files}


def test_all_criteria_of_muse_are_measured(evaluated, folder):
    results = evaluated.results
    assert {*CRITERIA, "mia.min_k.auc"} <= results["metrics"].keys()
    assert results["benchmark"] == "muse:books"
    assert [len(evaluated.scores(split)) for split in ("forget_texts", "holdout")] == [4, 4]  # though cut into two
    assert set(results["measured_on"]) == {"forget", "retain", "forget_qa", "forget_texts", "holdout"}
    assert any(note.startswith(f"{folder} is not the whole of muse:books (4 forget rows") for note in results["notes"])
    read = [f"knowmem/{split}.jsonl" for split in ("forget_qa", "forget_qa_icl", "retain_qa", "retain_qa_icl")]
    read += ["verbmem/forget.jsonl", "privleak/forget.jsonl", "privleak/holdout.jsonl"]
    assert behind(folder, *read).items() <= evaluated.environment["sha256"].items()


def test_a_corpus_is_forgotten_in_chunks(muse, folder, tiny_model):
    """Each chunk is <bos> and 127 tokens of the joined texts, the last one what is left: all of them are scored."""
    from transformers import AutoTokenizer

    outcome = muse("unlearn", method="npo", keep="none", learning_rate=1e-4, **QUICK)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model())
    data = outcome.results["data"]
    for split, name in (("forget", "forget"), ("retain", "retain1")):
        text = "\n\n".join(passage(name, number) for number in range(4))
        count = len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        assert (data[split]["rows"], data[split]["scored_tokens"], data[split]["examples"]) == (
            1,
            count,
            -(-count // 127),
        )
        assert data[split]["source"] == f"<the texts of {folder}/raw/{name}.jsonl, one behind the other>"
    assert set(CRITERIA) <= outcome.results["metrics"].keys() & outcome.results["reference_metrics"].keys()
    files = behind(folder, "raw/forget.jsonl", "raw/retain1.jsonl", "verbmem/forget.jsonl")
    assert files.items() <= outcome.environment["sha256"].items()


def test_a_fold_is_forgotten_and_the_criteria_stay(muse, folder, evaluated):
    outcome = muse(
        "unlearn", benchmark="muse:books:sust:forget_2", method="npo", keep="none", metrics="verbmem", **QUICK
    )
    assert outcome.results["data"]["forget"]["source"].startswith(f"<the texts of {folder}/sust/forget_2.jsonl")
    same = evaluated.results["metrics"]["retain.probability"]
    assert outcome.results["reference_metrics"]["retain.probability"] == pytest.approx(same)
    assert any("what is measured as forgotten is not" in note for note in outcome.results["notes"])


def test_its_requests_arrive_one_after_another(muse):
    """Each run starts from the one before, measures all criteria, and again every request so far."""
    quick = QUICK | {"max_steps": 1}
    outcome = muse("sequence", method="grad_ascent", keep=0.5, metrics="verbmem,knowmem,probability", **quick)
    told = json.loads((outcome.folder / "sequence.json").read_text(encoding="utf-8"))
    names = [f"forget_{number}" for number in range(1, 5)]
    assert [request["name"] for request in told["requests"]] == names
    assert [len(request["memory"]["probability"]) for request in told["requests"]] == [5, 4, 3, 2]  # before, and after
    first = {request["bounds"]["retain"]["L_ref"] for request in told["requests"]}
    assert len(first) == 1
    last = json.loads((outcome.folder / "requests" / "4-forget_4" / "results.json").read_text(encoding="utf-8"))
    measured = {f"{name}.probability" for name in names} | {"forget.verbmem", "forget.knowmem", "retain.knowmem"}
    assert measured <= last["metrics"].keys()
    assert (outcome.status, told["status"]) == (0, "feasible")


def test_the_models_of_a_benchmark_are_trained_on_its_texts(muse, folder, command, tiny_model, tmp_path):
    """The retrained one equals a model that was trained on a file of the same texts with the same options."""
    outcome = muse("finetune", without_forget=True, **QUICK)
    kept = (
        [row["text"] for row in muse_rows()["raw"]["retain1"]],
        [row["text"] for row in muse_rows()["raw"]["retain2"]],
    )
    write_rows(tmp_path / "kept.jsonl", [{"text": "\n\n".join(texts)} for texts in kept])
    by_hand = {"lr_scheduler_type": "constant", "weight_decay": 0.0, "learning_rate": 1e-5}
    options = {"model": tiny_model(), "data": tmp_path / "kept.jsonl", "output_dir": tmp_path / "run"}
    assert command("finetune", options | QUICK | by_hand).digest == outcome.digest
    assert muse("finetune", **QUICK).digest != outcome.digest
    assert outcome.results["benchmark"] == "muse:books"
    assert outcome.results["data"]["data"]["source"] == "<muse:books without what is to be forgotten>"
    assert behind(folder, "raw/retain1.jsonl", "raw/retain2.jsonl").items() <= outcome.environment["sha256"].items()
    assert str(folder / "train" / "forget.jsonl") not in outcome.environment["sha256"]


def test_files_of_ones_own_are_a_benchmark(command, tiny_model, tmp_path):
    own = tmp_path / "own"
    (own / "sust").mkdir(parents=True)
    for number, name in enumerate(("retain", "poems", "sust/a", "sust/b")):
        write_rows(own / f"{name}.jsonl", [{"question": f"Who is {number}?", "answer": f"Ida {name[-1]}."}] * 2)
    options = {"model": tiny_model(), "benchmark": "files:sust:b", "data": own, "output_dir": tmp_path / "run"}
    outcome = command("unlearn", options | QUICK | {"method": "grad_diff", "keep": "none", "max_new_tokens": 4})
    assert {split: facts["source"] for split, facts in outcome.results["data"].items()} == {
        "forget": f"{own}/sust/b.jsonl",
        "retain": f"{own}/retain.jsonl",
    }
    assert set(outcome.results["measured_on"]) == {"forget", "retain", "poems"}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"benchmark": "muse:bookz"}, "unknown corpus 'bookz' of the benchmark muse; did you mean 'books'?"),
        ({"benchmark": "muse:books:scal:forget_7"}, "the benchmark muse:books has no fold 'scal:forget_7'"),
        ({"data": "no/where/here"}, "there is no folder no/where/here; expected that of MUSE's files"),
    ],
)
@pytest.mark.parametrize("name", ["eval", "finetune"])
def test_what_is_not_there_is_refused_before_anything_is_written(muse, tmp_path, name, options, sentence):
    outcome = muse(name, output_dir=tmp_path / "run", **options)
    assert outcome.status == 2
    assert outcome.err.startswith(f"error: {sentence}")
    assert list(tmp_path.iterdir()) == []


def test_a_run_does_not_overwrite_the_files_that_it_reads(muse, tmp_path):
    write_muse(tmp_path / "muse")
    outcome = muse("unlearn", data=tmp_path / "muse", output_dir=tmp_path / "muse" / "raw", overwrite=True, **QUICK)
    assert outcome.status == 2
    file = tmp_path / "muse" / "raw" / "forget.jsonl"
    assert json.loads(file.read_text(encoding="utf-8").splitlines()[0]) == {"text": passage("forget", 0)}
