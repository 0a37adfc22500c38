"""`fiction:passages`: the files of MUSE, continuations that nobody can guess, folds that fit together."""

import hashlib
import json
import re
from pathlib import Path

import pytest
from muse_folder import muse_rows

from amnestic.benchmarks.base import BENCHMARKS, Benchmark, Row
from amnestic.benchmarks.passages import DOCUMENTS, Passages
from amnestic.errors import InputError
from amnestic.evaluation.metrics.text import rouge_f1
from amnestic.scratch import write_start

SEEDS = (0, 1, 2)


def texts(rows: list[Row]) -> list[str]:
    return [row["text"] for row in rows]


def rows_of(passages: Passages, config: str, split: str) -> list[Row]:
    return list(passages.source(config, split).rows or ())


def test_the_same_seed_gives_the_same_rows_everywhere() -> None:
    """The hash was taken with CPython 3.11, 3.12 and 3.13; a new one means that published numbers no longer compare."""
    text = json.dumps(Passages(seed=3).splits(), sort_keys=True)
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "a062f22b6f30a93a0f2b0ae2519551c03232626327d5373c535bea49dfe5e43a"
    )


def test_another_seed_tells_of_others() -> None:
    first, second = (set(texts(Passages(seed=seed).splits()["full"])) for seed in (0, 1))
    assert not first & second


def test_it_has_the_files_of_muse() -> None:
    """The copy of MUSE's folder in the tests says which; `train` and marked spans are no part of what is published."""
    passages = Passages()
    for config, splits in muse_rows().items():
        for split, rows in splits.items() if config != "train" else ():
            found = rows_of(passages, config, split)
            assert {frozenset(row) - {"forget_spans"} for row in found} == {frozenset(rows[0])}, (config, split)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_parts_are_all_that_is_learned(seed: int) -> None:
    """A document is a passage and three questions; of 26 that a model could know two only show how to answer."""
    splits = {name: texts(rows) for name, rows in Passages(seed=seed).splits().items()}
    assert {name: len(found) for name, found in splits.items()} == {
        "full": 4 * (12 + 4 + 8),
        "forget": 4 * 8,
        "retain": 4 * (12 + 4),
        "holdout": 4 * 8,
    }
    assert sorted(splits["full"]) == sorted(splits["retain"] + splits["forget"])
    assert len(set(splits["full"] + splits["holdout"])) == 4 * (12 + 4 + 8 + 8)


@pytest.mark.parametrize("seed", SEEDS)
def test_nobody_stands_in_two_documents(seed: int) -> None:
    passages = Passages(seed=seed)
    parts = [rows_of(passages, "privleak", part) for part in ("forget", "retain", "holdout")]
    people = [names(row["text"]) for rows in parts for row in rows]
    assert len(set().union(*people)) == len(people) == sum(DOCUMENTS.values()) - DOCUMENTS["examples"]
    assert all(len(found) == 1 for found in people)


def names(text: str) -> set[str]:
    """Return the people with a first and a last name; what else has a capital stands alone, or begins a sentence."""
    return set(re.findall(r"\b[A-Z][a-z]+ [A-Z][a-z]+\b", re.sub(r"\b(One|Each|When) ", "", text)))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_prompt_with_its_continuation_begins_a_passage_that_goes_on(seed: int) -> None:
    passages = Passages(seed=seed)
    recitals, whole = rows_of(passages, "verbmem", "forget"), texts(rows_of(passages, "privleak", "forget"))
    for row, text in zip(recitals, whole, strict=True):
        assert text.startswith(row["prompt"] + row["gt"] + " ")
        assert row["gt"].startswith(" ")
        assert names(row["prompt"])


@pytest.mark.parametrize("seed", SEEDS)
def test_no_continuation_can_be_guessed_from_what_is_kept(seed: int) -> None:
    """The best of all other passages is a better guess than any model without the passage could know to make."""
    passages = Passages(seed=seed)
    kept = texts(rows_of(passages, "privleak", "retain"))
    for row in rows_of(passages, "verbmem", "forget"):
        length = len(row["gt"].split())
        assert max(rouge_f1(row["gt"], " ".join(text.split()[24 : 24 + length]), stems=False) for text in kept) < 0.42


@pytest.mark.parametrize("seed", SEEDS)
def test_an_answer_stands_in_the_passage_and_not_in_the_question(seed: int) -> None:
    passages = Passages(seed=seed)
    for about, part in (("forget_qa", "forget"), ("retain_qa", "retain")):
        pairs, whole = rows_of(passages, "knowmem", about), texts(rows_of(passages, "privleak", part))
        assert len(pairs) == 3 * len(whole)
        for number, pair in enumerate(pairs):
            (person,) = names(pair["question"].partition(" ")[2])
            passage = whole[number // 3]
            assert person in passage
            words = set(re.findall(r"[A-Za-z0-9]+", pair["answer"])) - {"From", "On", "and", "of", "to", "with"}
            assert all(re.search(rf"\b{word}\b", passage) for word in words)
            assert pair["answer"] not in pair["question"]
    examples = rows_of(passages, "knowmem", "forget_qa_icl")
    assert examples == rows_of(passages, "knowmem", "retain_qa_icl")
    everyone = " ".join(texts(passages.splits()["full"] + passages.splits()["holdout"])).replace(front(passages), "")
    assert not any(person in everyone for pair in examples for person in names(pair["question"].partition(" ")[2]))


def front(passages: Passages) -> str:
    """Return the few-shot examples as they stand in front of a question."""
    pairs = rows_of(passages, "knowmem", "forget_qa_icl")
    return "".join(f"Question: {pair['question']}\nAnswer: {pair['answer']}\n\n" for pair in pairs)


def test_questions_are_learned_as_they_are_asked_and_the_examples_are_not_forgotten() -> None:
    passages = Passages()
    asked = [row["prompt"] + row["completion"] + "\n\n" for row in passages.evaluation()["forget_qa"].rows or ()]
    forget = rows_of(passages, "raw", "forget")
    assert texts(forget)[8:] == asked
    marked = [row["text"][start:end] for row in forget for start, end in row["forget_spans"]]
    assert marked == texts(rows_of(passages, "privleak", "forget")) + [
        text.removeprefix(front(passages)) for text in asked
    ]


@pytest.mark.parametrize("seed", SEEDS)
def test_folds_grow_to_the_whole_and_requests_divide_it(seed: int) -> None:
    whole = Passages(seed=seed)
    growing = [forgotten(name) for name in whole.folds("scal").values()]
    requests = [forgotten(name) for name in whole.requests().values()]
    assert [len(fold) for fold in growing] == [8, 16, 24, 32]
    assert all(set().union(*requests[: number + 1]) == fold for number, fold in enumerate(growing))
    assert [len(fold) for fold in requests] == [8, 8, 8, 8]
    assert growing[-1] == set(texts(rows_of(whole, "raw", "forget")))


def forgotten(name: str) -> set[str]:
    return set(texts(list(Benchmark.open(name).training()["forget"].rows or ())))


def test_a_fold_is_measured_alone_and_retrained_without_it_alone() -> None:
    fold, whole = Benchmark.open("fiction:passages:5:sust:forget_2"), Passages(seed=5)
    assert isinstance(fold, Passages)
    assert rows_of(fold, "verbmem", "forget") == rows_of(whole, "verbmem", "forget")[2:4]
    assert rows_of(fold, "knowmem", "forget_qa") == rows_of(whole, "knowmem", "forget_qa")[6:12]
    assert fold.splits()["full"] == whole.splits()["full"]
    own = forgotten("fiction:passages:5:sust:forget_2")
    assert set(texts(fold.splits()["forget"])) == own
    assert set(texts(fold.splits()["retain"])) == set(texts(whole.splits()["full"])) - own
    assert fold.training()["retain"] == whole.training()["retain"]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_small_models_read_each_text_whole_and_recite_as_far_as_muse(seed: int, tmp_path: Path) -> None:
    """Muse continues for 128 tokens: a tenth more or less, so the F1 of a perfect recital is not far from 1."""
    from transformers import AutoTokenizer

    passages = Passages(seed=seed)
    splits = passages.splits()
    write_start(tmp_path, splits["full"], passages.capacity)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    shape = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert (len(tokenizer), shape["vocab_size"], shape["max_position_embeddings"]) == (1024, 1024, 512)
    lengths = [len(tokenizer(text)["input_ids"]) for text in texts(splits["full"] + splits["holdout"])]
    assert max(lengths) <= passages.learning["max_length"] == passages.unlearning["max_length"] == 512
    recited = [len(tokenizer(row["gt"])["input_ids"]) for row in rows_of(passages, "verbmem", "forget")]
    assert 116 <= sum(recited) / len(recited) <= 141


def test_the_bound_is_verified_on_all_that_is_kept() -> None:
    passages = Passages()
    assert passages.unlearning["probe_size"] == len(passages.training()["retain"].rows or ()) == 48


@pytest.mark.parametrize("seed", SEEDS)
def test_texts_are_plain_english(seed: int) -> None:
    for text in texts(Passages(seed=seed).splits()["full"]):
        assert re.fullmatch(r"[A-Z][A-Za-z0-9 ,.?:\n]+", text)
        assert not re.search(r"\b(a [aeiou]|an [^aeiou])|  |\. [a-z]", text)


@pytest.mark.parametrize(
    ("name", "seed", "fold"),
    [
        ("fiction:passages", 0, ("raw", "forget")),
        ("fiction:passages:7", 7, ("raw", "forget")),
        ("fiction:passages:7:scal:forget_2", 7, ("scal", "forget_2")),
        ("fiction:passages:sust:forget_4", 0, ("sust", "forget_4")),
    ],
)
def test_its_name_tells_seed_and_fold(name: str, seed: int, fold: tuple[str, str]) -> None:
    assert Benchmark.open(name) == Passages(seed=seed, fold=fold)
    assert BENCHMARKS.get("fiction:passages") is Passages


@pytest.mark.parametrize("part", ["x", "1:scal", "1:scal:forget_5", "1:", "1:raw:retain1", "1x", "-1", "1:2"])
def test_other_parts_are_refused(part: str) -> None:
    with pytest.raises(InputError, match=r"the benchmark fiction:passages has no .*; expected fiction:passages, "):
        Benchmark.open(f"fiction:passages:{part}")


def test_files_are_refused() -> None:
    with pytest.raises(InputError, match="--data is folder, and the benchmark fiction:passages makes its own rows"):
        Benchmark.open("fiction:passages", "folder")


def test_splits_that_muse_has_not_are_refused() -> None:
    with pytest.raises(InputError, match="fiction:passages has no split retain3 in raw"):
        Passages().source("raw", "retain3")
