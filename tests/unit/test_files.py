"""A folder of one's own as a benchmark: its splits, folds and requests."""

import json
from pathlib import Path

import pytest

from amnestic.benchmarks.base import Benchmark
from amnestic.data.options import DataOptions
from amnestic.errors import InputError

PLAIN = DataOptions()


def write(folder: Path, *names: str) -> Path:
    """Write files of one row each, about the file."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        row = {"question": f"What is {name}?", "answer": "A file."}
        (folder / name).write_text(json.dumps(row) + "\n", encoding="utf-8")
    return folder


def questions(sources) -> dict[str, str]:
    return {split: source.read(split, PLAIN)[0].prompt for split, source in sources.items()}


def refused(sentence: str, name: str, data: str | None) -> None:
    with pytest.raises(InputError) as error:
        Benchmark.open(name, data).evaluation()
    assert str(error.value) == sentence


def test_every_file_is_measured_under_its_name(tmp_path: Path) -> None:
    folder = write(tmp_path, "forget.jsonl", "retain.jsonl", "holdout.jsonl", "poems.jsonl", ".hidden.jsonl")
    (tmp_path / "notes.md").write_text("No data.", encoding="utf-8")
    benchmark = Benchmark.open("files", str(folder))
    assert questions(benchmark.training()) == {name: f"What is {name}.jsonl?" for name in ("forget", "retain")}
    assert [*questions(benchmark.evaluation())] == ["forget", "retain", "holdout", "poems"]


def test_folds_and_requests_are_in_the_order_of_their_names(tmp_path: Path) -> None:
    folder = write(tmp_path, "forget.jsonl", "retain.jsonl", "scal/b.jsonl", "scal/a.jsonl", "sust/7-may.jsonl")
    benchmark = Benchmark.open("files", str(folder))
    assert list(benchmark.folds("scal").items()) == [("a", "files:scal:a"), ("b", "files:scal:b")]
    assert benchmark.requests() == {"7-may": "files:sust:7-may"}
    fold = Benchmark.open("files:sust:7-may", str(folder))
    assert questions(fold.training()) == {"forget": "What is sust/7-may.jsonl?", "retain": "What is retain.jsonl?"}
    assert questions(fold.evaluation()) == questions(fold.training())


def test_folds_do_without_a_forget_file_of_the_whole(tmp_path: Path) -> None:
    folder = write(tmp_path, "retain.jsonl", "sust/a.jsonl")
    assert questions(Benchmark.open("files:sust:a", str(folder)).training())["forget"] == "What is sust/a.jsonl?"


def test_a_holdout_that_is_to_be_forgotten_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, "forget.jsonl", "retain.jsonl")
    (folder / "holdout.jsonl").write_bytes((folder / "forget.jsonl").read_bytes())
    benchmark = Benchmark.open("files", str(folder))
    with pytest.raises(InputError) as error:
        benchmark.check({split: source.read(split, PLAIN) for split, source in benchmark.evaluation().items()})
    assert str(error.value) == (
        f"1 of 1 rows of {folder}/holdout.jsonl stand in {folder}/forget.jsonl too; expected rows that are not to be "
        "forgotten."
    )


def test_what_cannot_be_used_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "own", "retain.jsonl", "scal/a.jsonl")
    refused("the benchmark files has no files; give the folder that holds yours with --data.", "files", None)
    gone = str(tmp_path / "gone")
    refused(f"there is no folder {gone}; expected that of your files, or a Hub data set owner/name.", "files", gone)
    refused("there is no folder owner/name; expected that of your files.", "files", "owner/name")
    refused(
        f"the folder {folder} has no file of the split forget (found: 'retain.jsonl', 'scal/'); expected forget.json, "
        "forget.jsonl or forget.parquet.",
        "files",
        str(folder),
    )
    refused(f"the folder {folder / 'scal'} has no file of the name 'b'. Known: 'a'.", "files:scal:b", str(folder))
    refused(
        f"the folder {folder} has no folder sust (found: 'retain.jsonl', 'scal/'); expected files such as "
        "sust/forget_1.jsonl.",
        "files:sust:a",
        str(folder),
    )
    refused("the benchmark files has no folds of the kind 'time'; leave --folds out.", "files:time:a", str(folder))


@pytest.mark.parametrize("name", ["context", "my rows"])
def test_a_file_whose_name_no_split_can_have_is_refused(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path, "forget.jsonl", "retain.jsonl", f"{name}.jsonl")
    with pytest.raises(InputError, match=f"has a file '{name}', which cannot name what is measured"):
        Benchmark.open("files", str(folder)).evaluation()
