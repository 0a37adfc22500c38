"""MUSE from a folder in its shape: rows of its criteria, folds, and one sentence where it is not what it claims.

The passages are invented (`muse_folder.py`).
"""

import shutil
from pathlib import Path
from typing import Any

import datasets
import pytest
from muse_folder import PEOPLE, muse_rows, passage, write_muse, write_rows

from amnestic.benchmarks.base import Benchmark, Source
from amnestic.benchmarks.corpus import joined
from amnestic.data.encode import Encoder
from amnestic.data.example import Example
from amnestic.data.options import DataOptions
from amnestic.errors import InputError

PLAIN = DataOptions()
ROWS = muse_rows()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_muse(tmp_path / "muse")
    return tmp_path / "muse"


def opened(sources: dict[str, Source]) -> dict[str, list[Example]]:
    return {split: list(source.read(split, PLAIN, alternates=True)) for split, source in sources.items()}


def checked(name: str, folder: Path) -> list[str]:
    """Return the notes about a benchmark all of whose rows are read."""
    benchmark = Benchmark.open(name, str(folder))
    return benchmark.check(opened(benchmark.evaluation()), opened(benchmark.training()))


def refused(sentence: str, name: str, folder: Path) -> None:
    """Opening the benchmark and all that it has ends with this sentence."""
    with pytest.raises(InputError) as error:
        checked(name, folder)
    assert str(error.value) == sentence


@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet"])
def test_a_corpus_is_trained_on_as_one_text(tmp_path: Path, suffix: Any) -> None:
    write_muse(tmp_path / "muse", suffix)
    training = opened(Benchmark.open("muse:books", str(tmp_path / "muse")).training())
    for split, name in (("forget", "forget"), ("retain", "retain1")):
        (example,) = training[split]
        assert (example.kind, example.answer) == ("text", "\n\n".join(passage(name, number) for number in range(4)))


def test_measured_rows_have_the_prompts_of_muse(folder: Path) -> None:
    """Each question stands behind all answered ones; a passage goes on behind a blank that its two columns lack."""
    found = opened(Benchmark.open("muse:news", str(folder)).evaluation())
    assert [*found] == ["forget", "retain", "forget_qa", "forget_texts", "holdout"]
    assert found["forget"][0].prompt == "In the year 1600 Orla Venn came to Drossel as a glazier."
    assert found["forget"][0].answer.startswith(" Nobody knew why. Under the floor")
    assert found["retain"][0].prompt == (
        "Question: What was Edda Marl?\nAnswer: bell founder\n\n"
        "Question: What was Kit Sorrel?\nAnswer: mapmaker\n\n"
        "Question: Where did Edda Marl go?\nAnswer:"
    )
    assert [row.answer for row in found["retain"]] == [" Drossel", " Marrow Bay", " Upper Lyne", " Castelhorn"]
    assert [row.answer for row in found["forget_qa"]] == [" Drossel", " Marrow Bay", " Upper Lyne", " Castelhorn"]
    assert [row.answer for row in found["holdout"]] == [passage("holdout", number) for number in range(4)]
    assert [row.answer for row in found["forget_texts"]] == [passage("forget", number) for number in range(4)]


def test_a_question_keeps_its_braces(folder: Path) -> None:
    rows = [{"question": "What is {x}?", "answer": "{question}"}]
    for split in ("retain_qa", "retain_qa_icl"):
        write_rows(folder / "knowmem" / f"{split}.jsonl", rows)
    (row,) = opened(Benchmark.open("muse:news", str(folder)).evaluation())["retain"]
    assert row.prompt.endswith("Question: What is {x}?\nAnswer: {question}\n\nQuestion: What is {x}?\nAnswer:")


def test_the_answer_s_first_token_holds_the_blank_in_front(tiny_model, folder: Path) -> None:
    """It is one token with ``In``, and one by itself in front of ``1987``: a prompt tells nothing of what follows."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model())
    answers = ("Ines Marek", "1987")
    assert len(tokenizer.tokenize(" 1987")) == len(tokenizer.tokenize("1987")) + 1
    write_rows(folder / "knowmem" / "retain_qa.jsonl", [{"question": "Who?", "answer": answer} for answer in answers])
    rows = Benchmark.open("muse:news", str(folder)).evaluation()["retain"].read("retain", PLAIN)
    encoded = Encoder(tokenizer, PLAIN).encode("retain", rows).examples
    prompts = [row.input_ids[: row.prompt_length].tolist() for row in encoded]
    assert prompts[0] == prompts[1]
    assert tokenizer.decode(prompts[0]).endswith("Question: Who?\nAnswer:")
    assert [tokenizer.decode(row.input_ids[row.is_scored]) for row in encoded] == [" Ines Marek<eos>", " 1987<eos>"]


def test_only_missing_blanks_are_put_between_a_passage_and_what_follows(folder: Path) -> None:
    pairs = [("Ida wrote", "a book."), ("Ida wrote ", "a book."), ("Ida wrote", "\na book.")]
    write_rows(folder / "verbmem" / "forget.jsonl", [{"prompt": prompt, "gt": text} for prompt, text in pairs])
    rows = opened(Benchmark.open("muse:news", str(folder)).evaluation())["forget"]
    assert [row.answer for row in rows] == [" a book.", "a book.", "\na book."]


@pytest.mark.parametrize("kind", ["scal", "sust"])
def test_a_fold_takes_the_place_of_the_forget_texts_alone(folder: Path, kind: str) -> None:
    whole = Benchmark.open("muse:news", str(folder))
    folds = whole.folds(kind)
    assert folds == {f"forget_{k}": f"muse:news:{kind}:forget_{k}" for k in range(1, 5)}
    for split, name in folds.items():
        fold = Benchmark.open(name, str(folder))
        (forget,) = fold.training()["forget"].read("forget", PLAIN)
        assert forget.answer == "\n\n".join(row["text"] for row in ROWS[kind][split])
        assert fold.training()["retain"] == whole.training()["retain"]
        assert fold.evaluation() == whole.evaluation()
    if kind == "sust":
        assert whole.requests() == folds


def test_models_learn_every_fold_and_all_that_is_kept(folder: Path) -> None:
    """Without the configuration train what is to be forgotten is all that there is of it."""
    benchmark = Benchmark.open("muse:news:scal:forget_2", str(folder))
    found = {split: rows[0].answer for split, rows in opened(benchmark.lessons()).items()}
    wanted = {split: "\n\n".join(row["text"] for row in rows) for split, rows in ROWS["train"].items()}
    assert found == wanted
    shutil.rmtree(folder / "train")
    (forget,) = opened(benchmark.lessons())["forget"]
    assert forget.answer == "\n\n".join(row["text"] for row in ROWS["scal"]["forget_2"])


def test_files_behind_made_rows_are_known(folder: Path) -> None:
    benchmark = Benchmark.open("muse:books", str(folder))
    assert benchmark.training()["forget"].files == [folder / "raw" / "forget.jsonl"]
    asked = [folder / "knowmem" / f"{split}.jsonl" for split in ("retain_qa", "retain_qa_icl")]
    assert benchmark.evaluation()["retain"].files == asked


def test_the_hub_s_own_file_names_will_do(folder: Path) -> None:
    benchmark = Benchmark.open("muse:books", str(folder))
    before = opened(benchmark.training())
    (folder / "raw" / "forget.jsonl").rename(folder / "raw" / "forget-00000-of-00001.jsonl")
    assert opened(benchmark.training()) == before


def test_configurations_and_splits_are_those_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(name: str, config: str | None, split: str | None) -> datasets.Dataset:
        asked.append((name, config, split))
        rows = ROWS[str(config)][str(split)]
        return datasets.Dataset.from_list([dict(row) for row in rows])

    monkeypatch.setattr(datasets, "load_dataset", load)
    benchmark = Benchmark.open("muse:news")
    training, _ = opened(benchmark.training()), opened(benchmark.evaluation())
    assert training["retain"][0].answer.startswith(passage("retain1", 0))
    known = {"muse-bench/MUSE-News"} | {(config, split) for config, splits in ROWS.items() for split in splits}
    assert {part for name, *rest in asked for part in (name, tuple(rest))} <= known
    assert Benchmark.open("muse:news:sust:forget_2").training()["forget"].made_from == (
        "muse-bench/MUSE-News:sust:forget_2",
    )


def test_only_the_news_have_folds_on_the_hub() -> None:
    books = Benchmark.open("muse:books")
    with pytest.raises(InputError) as error:
        books.folds("scal")
    assert str(error.value) == (
        "muse-bench/MUSE-Books has no folds; expected muse:news, or --data with a folder that holds "
        "scal/forget_1.jsonl."
    )
    assert len(Benchmark.open("muse:news").folds("scal")) == 4
    with pytest.raises(InputError, match=r"^the benchmark muse has no folds of the kind 'time'; leave --folds out\.$"):
        books.folds("time")


def test_retrained_models_are_called_by_the_authors_convention() -> None:
    benchmark = Benchmark.open("muse:news")
    assert benchmark.retrained_of("muse-bench/MUSE-News_target") == "muse-bench/MUSE-News_retrain"
    assert benchmark.retrained_of("models/mine") is None


def test_few_rows_are_noted(folder: Path) -> None:
    (note,) = checked("muse:books", folder)
    splits = ("forget", "retain", "forget_qa", "forget_texts", "holdout")
    assert note == (
        f"{folder} is not the whole of muse:books ({', '.join(f'4 {split} rows' for split in splits)} to measure, not "
        "100): these are not its numbers."
    )


def test_a_fold_without_any_measured_passage_is_noted(folder: Path) -> None:
    for part, is_noted in (("scal:forget_2", False), ("sust:forget_1", False), ("sust:forget_2", True)):
        notes = checked(f"muse:books:{part}", folder)
        wanted = f"no passage of {folder}/verbmem/forget.jsonl stands in {folder}/sust/forget_2.jsonl: what is measured"
        assert any(note.startswith(wanted) for note in notes) == is_noted
        assert len(notes) == 1 + is_noted


def test_a_holdout_that_is_to_be_forgotten_is_refused(folder: Path) -> None:
    texts = [{"text": passage("holdout", 0)}, {"text": passage("forget", 5)}]
    write_rows(folder / "privleak" / "holdout.jsonl", texts)
    for part, place in (("sust:forget_2", "sust/forget_2.jsonl"), ("scal:forget_4", "scal/forget_4.jsonl")):
        refused(
            f"1 of 2 rows of {folder}/privleak/holdout.jsonl stand in {folder / place} too (the first is row 1, "
            "counted from 0); expected texts that are not to be forgotten.",
            f"muse:news:{part}",
            folder,
        )


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("muse", "the benchmark muse needs one of its corpora; expected muse:books, muse:news."),
        (
            "muse:boks",
            "unknown corpus 'boks' of the benchmark muse; did you mean 'books'? Known: muse:books, muse:news.",
        ),
    ],
)
def test_unknown_parts_are_refused(folder: Path, name: str, sentence: str) -> None:
    refused(sentence, name, folder)


@pytest.mark.parametrize("part", ["scal", "scal:forget_9", "time:forget_1", "scal:forget_1:2"])
def test_unknown_folds_are_refused(folder: Path, part: str) -> None:
    refused(
        f"the benchmark muse:news has no fold '{part}'; expected scal or sust with one of 'forget_1', 'forget_2', "
        "'forget_3', 'forget_4', such as muse:news:scal:forget_1.",
        f"muse:news:{part}",
        folder,
    )


def test_a_place_that_cannot_be_used_is_refused(folder: Path) -> None:
    file = folder / "raw" / "forget.jsonl"
    refused(f"{file} is a file; expected the folder of MUSE's files, such as raw/forget.jsonl.", "muse:news", file)
    gone = folder / "gone"
    sentence = f"there is no folder {gone}; expected that of MUSE's files, or a Hub data set owner/name."
    refused(sentence, "muse:news", gone)


def test_a_missing_configuration_says_what_there_is(folder: Path) -> None:
    shutil.rmtree(folder / "verbmem")
    refused(
        f"the folder {folder} has no folder verbmem (found: 'knowmem/', 'privleak/', 'raw/', 'scal/', 'sust/', "
        "'train/'); expected files such as verbmem/forget.jsonl.",
        "muse:news",
        folder,
    )


def test_a_missing_split_says_what_there_is(folder: Path) -> None:
    (folder / "privleak" / "holdout.jsonl").unlink()
    refused(
        f"the folder {folder / 'privleak'} has no file of the split holdout (found: 'forget.jsonl', 'retain.jsonl'); "
        "expected holdout.json, holdout.jsonl or holdout.parquet.",
        "muse:news",
        folder,
    )
    (folder / "scal" / "forget_3.jsonl").unlink()
    with pytest.raises(InputError, match="has no file of the split forget_3"):
        Benchmark.open("muse:news", str(folder)).folds("scal")


def test_a_missing_column_says_what_there_is(folder: Path) -> None:
    file = folder / "verbmem" / "forget.jsonl"
    write_rows(file, [{"prompt": "Ida", "gt": "wrote."}, {"prompt": "Ida", "text": "wrote."}])
    refused(
        f"{file}, line 2 has no text in the column 'gt' (found: 'prompt', 'text'); expected some in every row.",
        "muse:news",
        folder,
    )


def test_an_empty_file_is_refused(folder: Path) -> None:
    file = folder / "knowmem" / "retain_qa_icl.jsonl"
    file.write_text("", encoding="utf-8")
    refused(f"{file} is empty; expected at least one row.", "muse:news", folder)


def test_texts_stay_apart_where_they_are_joined() -> None:
    source = joined(Source("<x>", [{"text": "One."}, {"text": "Two.\n"}]))
    assert source.rows == [{"text": "One.\n\nTwo.\n"}]
    assert source.files == []


def test_nobody_stands_in_two_splits_of_the_folder() -> None:
    names = [name for people in PEOPLE.values() for name in people]
    assert len(names) == len(set(names)) == 16
