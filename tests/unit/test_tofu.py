"""TOFU from a folder and from the Hub: the splits it has, and one clear sentence where it is not what it claims.

The rows are invented; the real ones are read where they lie beside the checkout.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import datasets
import pytest

from amnestic.benchmarks.base import BENCHMARKS, Benchmark, Source
from amnestic.benchmarks.fiction import Fiction
from amnestic.data.options import DataOptions
from amnestic.errors import InputError

PLAIN = DataOptions()
FICTION = Fiction(people=10, questions=2, forget_share=0.2).splits()
"""16 retain rows, 4 forget rows, and 4 more."""
Rows = list[dict[str, Any]]


def plain(rows: Rows) -> Rows:
    return [{key: row[key] for key in ("question", "answer")} for row in rows]


def others(count: int) -> Rows:
    """General questions as TOFU's files have them: no paraphrase, and answers of one word."""
    return [
        {"question": f"{i} and {i}?", "answer": f"{2 * i}", "perturbed_answer": [f"{i}1", f"{i}2", f"{i}3"]}
        for i in range(count)
    ]


FILES: dict[str, Rows] = {
    "full": plain(FICTION["full"]),
    "forget10": plain(FICTION["forget"]),
    "retain90": plain(FICTION["retain"]),
    "forget10_perturbed": FICTION["forget"],
    "retain_perturbed": FICTION["retain"][:5],
    "real_authors_perturbed": others(3),
    "world_facts_perturbed": [row | {"question": f"What is {row['question']}"} for row in others(2)],
}
"""A small TOFU, without the holdout: its last rows to retain are those just before the rows to forget."""
HOLDOUT = FILES["retain90"][-4:]


def write(folder: Path, files: dict[str, Rows]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, rows in files.items():
        (folder / f"{name}.json").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "tofu", FILES)


def read(sources: dict[str, Source], alternates: bool = False) -> dict[str, Any]:
    return {split: source.read(split, PLAIN, alternates) for split, source in sources.items()}


def pairs(examples: Iterable[Any]) -> list[tuple[Any, str]]:
    return [(example.prompt, example.answer) for example in examples]


def asked(rows: Rows) -> list[tuple[str, str]]:
    return [(row["question"], row["answer"]) for row in rows]


def check(data: Path | str, training: bool = True, name: str = "tofu:forget10") -> list[str]:
    found = Benchmark.open(name, str(data))
    return found.check(read(found.evaluation(), True), read(found.training()) if training else None)


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    return str(caught.value)


# What is read


def test_a_folder_gives_training_and_evaluation(folder: Path) -> None:
    found = Benchmark.open("tofu:forget10", str(folder))
    training, evaluation = read(found.training()), read(found.evaluation(), alternates=True)
    assert {split: pairs(rows) for split, rows in training.items()} == {
        "forget": asked(FILES["forget10"]),
        "retain": asked(FILES["retain90"]),
    }
    expected = {split: FILES[f"{split}_perturbed"] for split in ("retain", "real_authors", "world_facts")}
    expected |= {"forget": FILES["forget10_perturbed"], "holdout": HOLDOUT}
    assert {split: pairs(rows) for split, rows in evaluation.items()} == {
        split: asked(rows) for split, rows in expected.items()
    }
    for split, rows in expected.items():
        wrong = [tuple(row.get("perturbed_answer", ())) for row in rows]
        assert [tuple(example.alternates.get("perturbed_answer", ())) for example in evaluation[split]] == wrong
        right = [row.get("paraphrased_answer") for row in rows]
        assert [example.alternates.get("paraphrased_answer", (None,))[0] for example in evaluation[split]] == right
    assert found.evaluation()["forget"].name == str(folder / "forget10_perturbed.json")


def test_the_holdout_is_that_of_its_file_where_there_is_one(folder: Path) -> None:
    """Without one it is cut out of the rows just before those to forget, and results say so."""
    cut = Benchmark.open("tofu:forget10", str(folder)).evaluation()["holdout"]
    assert cut.name == f"<the last 4 rows of {folder / 'retain90.json'}>"
    write(folder, {"holdout10": plain(FICTION["holdout"])})
    own = Benchmark.open("tofu:forget10", str(folder)).evaluation()["holdout"]
    assert pairs(own.read("holdout", PLAIN)) == asked(FICTION["holdout"])
    assert own.name == str(folder / "holdout10.json")


@pytest.mark.parametrize("form", ["forget10.jsonl", "forget10.parquet", "forget10.json.gz", "forget10/train-0.parquet"])
def test_any_readable_file_of_the_name_will_do(folder: Path, form: str) -> None:
    rows = read(Benchmark.open("tofu:forget10", str(folder)).training())["forget"]
    old = folder / "forget10.json"
    (folder / form).parent.mkdir(exist_ok=True)
    if form.endswith("parquet"):
        datasets.Dataset.from_list(FILES["forget10"]).to_parquet(folder / form)
    else:
        import gzip

        content = old.read_bytes()
        (folder / form).write_bytes(gzip.compress(content) if form.endswith("gz") else content)
    old.unlink()
    assert read(Benchmark.open("tofu:forget10", str(folder)).training())["forget"] == rows


class Hub:
    """Stands in for the Hub: `datasets.load_dataset` with a data set for each configuration."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, files: dict[str, Rows]) -> None:
        self.files = files
        self.asked: list[tuple[str, str | None, str | None]] = []
        monkeypatch.setattr(datasets, "load_dataset", self.load)

    def load(self, name: str, config: str | None = None, split: str | None = None) -> Any:
        self.asked.append((name, config, split))
        if config not in self.files:
            raise ValueError(f"BuilderConfig '{config}' not found.")
        return datasets.Dataset.from_list(self.files[config])


@pytest.mark.parametrize("data", [None, "me/TOFU-fr"])
def test_the_hub_gives_the_same_rows(folder: Path, monkeypatch: pytest.MonkeyPatch, data: str | None) -> None:
    monkeypatch.chdir(folder)
    hub = Hub(monkeypatch, FILES)
    found, local = Benchmark.open("tofu:forget10", data), Benchmark.open("tofu:forget10", str(folder))
    assert read(found.training()) == read(local.training())
    assert read(found.evaluation(), True) == read(local.evaluation(), True)
    assert {(name, split) for name, _, split in hub.asked} == {(data or "locuslab/TOFU", "train")}
    assert {config for _, config, _ in hub.asked} == FILES.keys() - {"full"}
    place = f"{data or 'locuslab/TOFU'}:retain90:train"
    assert found.evaluation()["holdout"].name == f"<the last 4 rows of {place}>"
    (note,) = found.check(read(found.evaluation(), True), read(found.training()))
    assert note.startswith(
        f"{data or 'locuslab/TOFU'} is not the whole of tofu:forget10 (4 forget rows to measure, not"
    )


def test_a_folder_of_the_hub_s_name_is_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(monkeypatch, {})
    monkeypatch.chdir(folder.parent)
    (folder.parent / "me").mkdir()
    folder.rename(folder.parent / "me" / "tofu")
    assert len(read(Benchmark.open("tofu:forget10", "me/tofu").evaluation())["forget"]) == 4
    assert hub.asked == []


@pytest.mark.parametrize(
    ("part", "retain", "count"),
    [("forget01", "retain99", 40), ("forget05", "retain95", 200), ("forget10", "retain90", 400)],
)
def test_the_real_files_are_what_they_claim(tofu: Path, monkeypatch, part: str, retain: str, count: int) -> None:
    """Nothing is odd, and the holdout that is cut out is the one that has a file."""
    found = Benchmark.open(f"tofu:{part}", str(tofu))
    training, evaluation = read(found.training()), read(found.evaluation(), alternates=True)
    assert found.check(evaluation, training) == found.check(evaluation) == []
    assert {split: len(rows) for split, rows in evaluation.items()} == {
        "forget": count,
        "retain": 400,
        "real_authors": 100,
        "world_facts": 117,
        "holdout": count,
    }
    assert found.training()["retain"].name == str(tofu / f"{retain}.json")
    assert [len(rows) for rows in training.values()] == [count, 4000 - count]
    monkeypatch.setattr(type(found), "_holdout_name", "none")
    cut = found.evaluation()["holdout"]
    assert cut.name.startswith(f"<the last {count} rows of ")
    assert pairs(cut.read("holdout", PLAIN)) == pairs(evaluation["holdout"])
    wrong = {split: {len(row.alternates["perturbed_answer"]) for row in evaluation[split]} for split in evaluation
             if split != "holdout"}  # fmt: skip
    assert wrong == {"forget": {5}, "retain": {5}, "real_authors": {3}, "world_facts": {3}}


# What is said


def test_the_retrained_model_is_called_after_its_rows() -> None:
    found = Benchmark.open("tofu:forget05")
    assert found.retrained_of("open-unlearning/tofu_Llama-3.2-1B-Instruct_full") == (
        "open-unlearning/tofu_Llama-3.2-1B-Instruct_retain95"
    )
    assert found.retrained_of("../shared/models/tofu-tiny-full/") == "../shared/models/tofu-tiny-retain95"
    assert found.retrained_of("me/my-model") is None
    assert found.retrained_of("handful") is None


def test_the_holdout_bears_a_warning() -> None:
    assert Benchmark.open("tofu:forget05").notes == {
        "holdout": (
            "holdout05 is part of retain95, so models that were fine-tuned on all of TOFU, and those that were "
            "retrained on retain95, have seen it: its rows are non-members, as PrivLeak and the membership attacks "
            "suppose, only of a model that was trained without them."
        )
    }


def test_another_number_of_rows_is_noted(folder: Path) -> None:
    (note,) = check(folder)
    assert note == (
        f"{folder} is not the whole of tofu:forget10 (4 forget rows to measure, not 400, 5 retain rows to measure, "
        "not 400, 3 real_authors rows to measure, not 100, 2 world_facts rows to measure, not 117, 4 holdout rows to "
        "measure, not 400, 4 forget rows to train on, not 400, 16 retain rows to train on, not 3600): these are not "
        "its numbers."
    )


# What is refused


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("tofu", "the benchmark tofu needs one of its splits; expected tofu:forget01, tofu:forget05, tofu:forget10."),
        (
            "tofu:forget1",
            "unknown split 'forget1' of the benchmark tofu; did you mean 'forget10'? Known: tofu:forget01, ",
        ),
        ("tofu:zzz", "unknown split 'zzz' of the benchmark tofu. Known: tofu:forget01, tofu:forget05, tofu:forget10."),
        ("tofuu:forget10", "unknown benchmark 'tofuu'; did you mean 'tofu'? Known: fiction, "),
    ],
)
def test_an_unknown_name_tells_the_nearest(name: str, sentence: str) -> None:
    assert refusal(lambda: Benchmark.open(name)).startswith(sentence)


def test_a_place_that_holds_no_tofu_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for data, sentence in (
        ("", "--data is empty; expected the folder of TOFU's files"),
        ("../none", "there is no folder ../none; expected that of TOFU's files, or a Hub data set owner/name."),
        ("me/tofu:forget10", "there is no folder me/tofu:forget10; expected that of TOFU's files"),
        ("forget10.json", "forget10.json is a file; expected the folder of TOFU's files, such as forget10.json."),
    ):
        assert refusal(lambda data=data: Benchmark.open("tofu:forget10", data)).startswith(sentence)


def test_the_three_splits_are_folds_of_growing_size(folder: Path) -> None:
    assert Benchmark.open("tofu:forget10", str(folder)).folds("scal") == {
        "forget01": "tofu:forget01",
        "forget05": "tofu:forget05",
        "forget10": "tofu:forget10",
    }
    with pytest.raises(InputError, match=r"^the benchmark tofu has no folds of the kind 'sust'; leave --folds out\.$"):
        Benchmark.open("tofu:forget10").folds("sust")


def test_a_missing_split_says_which_files_there_are(folder: Path) -> None:
    (folder / "forget10_perturbed.json").unlink()
    (folder / "more").mkdir()
    (folder / "notes.txt").write_text("x", encoding="utf-8")
    found = Benchmark.open("tofu:forget10", str(folder))
    assert len(read(found.training())) == 2  # which needs none of the missing
    assert refusal(found.evaluation) == (
        f"the folder {folder} has no file of the split forget10_perturbed (found: 'forget10.json', 'full.json', "
        "'more/', 'notes.txt', 'real_authors_perturbed.json', 'retain90.json', 'retain_perturbed.json', "
        "'world_facts_perturbed.json'); expected forget10_perturbed.json, forget10_perturbed.jsonl or "
        "forget10_perturbed.parquet."
    )
    other = Benchmark.open("tofu:forget05", str(folder))
    assert f"the folder {folder} has no file of the split forget05 (found: " in refusal(other.training)


def test_two_files_of_one_split_are_refused(folder: Path) -> None:
    (folder / "forget10.jsonl").write_bytes((folder / "forget10.json").read_bytes())
    (folder / "forget10.txt").write_text("not read", encoding="utf-8")
    assert refusal(Benchmark.open("tofu:forget10", str(folder)).training) == (
        f"the folder {folder} has 2 files of the split forget10 ('forget10.json', 'forget10.jsonl'); expected one, so "
        "move the others away."
    )


def test_the_hub_out_of_reach_advises_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    Hub(monkeypatch, {})
    found = Benchmark.open("tofu:forget10")
    for call in (found.evaluation, lambda: read(found.training())):
        sentence = refusal(call)
        assert sentence.startswith("locuslab/TOFU:forget10")
        assert "cannot be loaded from the Hub (ValueError: BuilderConfig 'forget10" in sentence
        assert sentence.endswith("; give the folder that holds the benchmark's files with --data FOLDER.")


@pytest.mark.parametrize(
    ("name", "column", "split"),
    [
        ("forget10_perturbed", "paraphrased_answer", "forget"),
        ("retain_perturbed", "perturbed_answer", "retain"),
        ("world_facts_perturbed", "perturbed_answer", "world_facts"),
    ],
)
def test_rows_without_other_answers_are_refused(folder: Path, name: str, column: str, split: str) -> None:
    rows = FILES[name]
    lacking = [rows[0], *({key: row[key] for key in row if key != column} for row in rows[1:])]
    write(folder, {name: lacking})
    assert refusal(lambda: check(folder)) == (
        f"{len(rows) - 1} of {len(rows)} rows of {folder / name}.json have no '{column}' (the first is row 1, "
        "counted from 0); expected one in every row, as TOFU's *_perturbed files have."
    )


@pytest.mark.parametrize("training", [True, False])
def test_other_questions_than_those_to_forget_are_refused(folder: Path, training: bool) -> None:
    """Whether or not the rows to forget are trained on: a folder that has them is asked."""
    rows = FILES["forget10_perturbed"]
    write(folder, {"forget10_perturbed": rows[:-1]})
    place = folder / "forget10_perturbed.json"
    assert refusal(lambda: check(folder, training)) == (
        f"{place} has 3 rows, and forget10 has 4; expected the same questions in the same order."
    )
    write(folder, {"forget10_perturbed": [*rows[:2], rows[3], rows[2]]})
    assert refusal(lambda: check(folder, training)) == (
        f"row 2 (counted from 0) of {place} asks another question than that of forget10: {rows[3]['question']!r} in "
        f"place of {rows[2]['question']!r}; expected the same questions in the same order."
    )
    (folder / "forget10.json").unlink()
    if not training:
        assert len(check(folder, training)) == 1


@pytest.mark.parametrize(("split", "name"), [("retain", "retain_perturbed"), ("holdout", "holdout10")])
def test_rows_that_are_to_be_forgotten_are_measured_as_nothing_else(folder: Path, split: str, name: str) -> None:
    write(folder, {name: [*FICTION["holdout"], FILES["forget10_perturbed"][1]]})
    assert refusal(lambda: check(folder)) == (
        f"1 of 5 rows of {folder / name}.json stand in {folder / 'forget10_perturbed.json'} too; expected rows that "
        "are not to be forgotten."
    )


def test_a_holdout_needs_rows_that_are_left(folder: Path) -> None:
    (folder / "retain90.json").unlink()
    assert "holdout" not in Benchmark.open("tofu:forget10", str(folder)).evaluation()
    write(folder, {"retain90": FILES["retain90"][:4]})
    assert refusal(Benchmark.open("tofu:forget10", str(folder)).evaluation) == (
        f"{folder / 'retain90.json'} has 4 rows; expected more than 4, the last of which are the holdout."
    )


# The embedded benchmark fits the same form


def test_fiction_opens_by_its_seed() -> None:
    for name, seed in (("fiction", 0), ("fiction:3", 3)):
        found, splits = Benchmark.open(name), Fiction(seed=seed).splits()
        assert {split: source.rows for split, source in found.training().items()} == {
            split: splits[split] for split in ("forget", "retain")
        }
        evaluation = read(found.evaluation(), alternates=True)
        assert {split: pairs(rows) for split, rows in evaluation.items()} == {
            split: asked(splits[split]) for split in ("forget", "retain", "holdout")
        }
        assert all(len(row.alternates["perturbed_answer"]) == 5 for rows in evaluation.values() for row in rows)
        assert found.evaluation()["forget"].name == f"<forget of fiction, seed {seed}>"
        assert (found.check(evaluation), dict(found.notes), found.retrained_of("x-full")) == ([], {}, None)
    assert refusal(lambda: Benchmark.open("fiction:x")) == (
        "the benchmark fiction has no 'x'; expected fiction, or fiction:SEED."
    )
    assert refusal(lambda: Benchmark.open("fiction", "d")) == (
        "--data is d, and the benchmark fiction makes its own rows; leave it out."
    )


@pytest.mark.parametrize("name", BENCHMARKS.names())
def test_a_benchmark_is_described_in_one_line(name: str) -> None:
    first = (BENCHMARKS.get(name).__doc__ or "").partition("\n")[0]
    assert first.endswith(".")
