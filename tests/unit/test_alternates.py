"""Other answers to a prompt: how rows say them, and that they become tokens exactly as the true answer does."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from tokenizers import normalizers
from transformers import AutoTokenizer

from amnestic.data.alternates import Alternates, alternates_of, refuse_absent
from amnestic.data.encode import Encoded, Encoder
from amnestic.data.example import Example
from amnestic.data.options import AlternatesOptions, DataOptions, UnlearnData
from amnestic.data.records import take
from amnestic.data.sources import read_examples
from amnestic.errors import InputError

PLAIN = DataOptions()
WRONG = ["It was Jon.", "It was Eve."]
ROWS = [
    {"question": "Who?", "answer": "Ann.", "paraphrased_answer": "It was Ann.", "perturbed_answer": WRONG},
    {"question": "Where?", "answer": "In Ayr.", "paraphrased_answer": "Ayr.", "perturbed_answer": "Rye."},
]
READ = [
    {"paraphrased_answer": ("It was Ann.",), "perturbed_answer": ("It was Jon.", "It was Eve.")},
    {"paraphrased_answer": ("Ayr.",), "perturbed_answer": ("Rye.",)},
]
"""By hand: what the rows say."""
CHAT = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] | trim }}<eos>\n{% endfor %}"


@dataclass(frozen=True, kw_only=True)
class Named(DataOptions, AlternatesOptions):
    """Options as those of a command that measures."""


def read(rows: Any, options: DataOptions = PLAIN) -> list[Any]:
    return [dict(example.alternates) for example in read_examples(rows, "s", options, alternates=True)]


def refusal(rows: Any, options: DataOptions = PLAIN) -> str:
    with pytest.raises(InputError) as caught:
        read_examples(rows, "s", options, alternates=True)
    return str(caught.value)


def row(**cells: Any) -> list[dict[str, Any]]:
    return [ROWS[0] | cells]


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Callable[..., Path]) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model())


def test_other_answers_read_alike_from_files_and_from_memory(tmp_path: Path) -> None:
    assert read(ROWS) == READ
    listed = [ROWS[0], ROWS[1] | {"perturbed_answer": ["Rye."]}]
    assert read(datasets.Dataset.from_list(listed)) == READ
    datasets.Dataset.from_list(listed).to_parquet(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == READ
    assert read(datasets.Dataset.from_list(listed).to_pandas()) == READ
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    assert read(tmp_path / "a.jsonl") == READ
    cells = '"[""It was Jon."", ""It was Eve.""]"'
    table = f"question,answer,paraphrased_answer,perturbed_answer\nWho?,Ann.,It was Ann.,{cells}\n"
    (tmp_path / "a.csv").write_text(f"{table}Where?,In Ayr.,Ayr.,Rye.\n", encoding="utf-8")
    assert read(tmp_path / "a.csv") == READ


def test_examples_of_a_caller_keep_theirs() -> None:
    example = Example("x", "question", "Who?", "Ann.", alternates={"perturbed_answer": ("Jon.",)})
    assert read([example]) == [{"perturbed_answer": ("Jon.",)}]
    assert hash(example) == hash(Example("x", "question", "Who?", "Ann."))
    assert example.fingerprint == Example("y", "question", "Who?", "Ann.").fingerprint
    broken = Example("x", "question", "Who?", "Ann.", alternates={"perturbed_answer": ("Jon.", " ")})
    assert refusal([broken]).startswith("row 0 of s (counted from 0): 'perturbed_answer', answer 1 (counted from 0) is")


def test_what_a_row_lacks_is_left_out() -> None:
    assert read([{"question": "Who?", "answer": "Ann."}]) == [{}]
    rows = row(perturbed_answer=None) + row(paraphrased_answer=float("nan"))
    assert read(rows) == [{"paraphrased_answer": ("It was Ann.",)}, {"perturbed_answer": tuple(WRONG)}]
    assert read([{"text": "A book", "perturbed_answer": "Another"}]) == [{}]


def test_numbers_and_texts_that_look_like_json_are_texts() -> None:
    assert read(row(perturbed_answer=["1", 2, "null"]))[0]["perturbed_answer"] == ("1", "2", "null")
    assert read(row(perturbed_answer="1912"))[0]["perturbed_answer"] == ("1912",)
    assert read(row(paraphrased_answer='["a"]'))[0]["paraphrased_answer"] == ('["a"]',)


def test_training_does_not_look_at_them() -> None:
    broken = row(perturbed_answer=[""], paraphrased_answer=["a", "b"])
    (example,) = read_examples(broken, "s", UnlearnData(forget="f", retain="r"))
    assert example == Example("s:0", "question", "Who?", "Ann.")


@pytest.mark.parametrize(
    ("cells", "sentence"),
    [
        ({"perturbed_answer": []}, "'perturbed_answer' is an empty list; expected at least one answer, or null"),
        ({"perturbed_answer": ["a", " "]}, "'perturbed_answer', answer 1 (counted from 0) is empty; write text there"),
        ({"perturbed_answer": ["a", None]}, "'perturbed_answer', answer 1 (counted from 0) is null; expected text"),
        ({"perturbed_answer": [["a"], "b"]}, "'perturbed_answer', answer 0 (counted from 0) is a list; expected text"),
        ({"perturbed_answer": {"a": "b"}}, "'perturbed_answer' is an object; expected text"),
        ({"perturbed_answer": ""}, "'perturbed_answer' is empty; write text there"),
        ({"paraphrased_answer": True}, "'paraphrased_answer' is true; expected text"),
        ({"paraphrased_answer": ["a", "b"]}, "'paraphrased_answer' is a list of 2; expected one text."),
    ],
)
def test_what_is_no_answer_is_refused_with_file_line_and_column(
    tmp_path: Path, cells: dict[str, Any], sentence: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in (ROWS[0], *row(**cells))), encoding="utf-8")
    assert refusal(path).startswith(f"{path}, line 2: {sentence}")


def test_columns_of_ones_own() -> None:
    rows = [{"question": "Who?", "answer": "Ann.", "other": {"right": "It is Ann."}, "wrong": ["Jon."]}]
    options = Named(paraphrased_answer_column="other.right", perturbed_answer_column="wrong")
    examples = read_examples(rows, "s", options, alternates=True)
    assert examples[0].alternates == {"paraphrased_answer": ("It is Ann.",), "perturbed_answer": ("Jon.",)}
    refuse_absent({"forget": examples, "holdout": read_examples(ROWS, "s", PLAIN)}, options)
    wrong = Named(perturbed_answer_column="wrongs")
    with pytest.raises(InputError) as caught:
        refuse_absent({"forget": read_examples(rows, "s", wrong, alternates=True)}, wrong)
    assert str(caught.value) == (
        "no row of forget has an answer in the column 'wrongs' that --perturbed_answer_column names; check the name."
    )


def encoded(tokenizer: Any, rows: Any, **options: Any) -> tuple[Encoder, Sequence[Example], Sequence[Encoded]]:
    examples = read_examples(rows, "s", PLAIN, alternates=True)
    encoder = Encoder(tokenizer, DataOptions(**options))
    return encoder, examples, encoder.encode("s", examples).examples


def same(rows: Sequence[Encoded], others: Sequence[Encoded]) -> None:
    """Equal in every field but the id."""
    for found, wanted in zip(rows, others, strict=True):
        assert found.input_ids.tolist() == wanted.input_ids.tolist()
        assert found.is_scored.tolist() == wanted.is_scored.tolist()
        assert (found.prompt_length, found.closes) == (wanted.prompt_length, wanted.closes)
        assert (found.prompt, found.answer) == (wanted.prompt, wanted.answer)


@pytest.mark.parametrize("template", [None, CHAT])
def test_other_answers_are_encoded_exactly_as_a_true_answer_is(tiny_model, tmp_path: Path, template) -> None:
    """Oracle: rows in which the other answer stands in the place of the true one."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model())
    (tmp_path / "chat").write_text(template or "", encoding="utf-8")
    options = {"chat_template": str(tmp_path / "chat")} if template else {}
    found = alternates_of(*encoded(tokenizer, ROWS, **options))
    assert list(found) == ["paraphrased_answer", "perturbed_answer"]
    for kind, places in (("paraphrased_answer", [0, 1]), ("perturbed_answer", [0, 0, 1])):
        answers = [(at, answer) for at, answer in zip(places, sum((READ[i][kind] for i in (0, 1)), ()), strict=True)]
        swapped = [{"question": ROWS[at]["question"], "answer": answer} for at, answer in answers]
        same(found[kind].rows, encoded(tokenizer, swapped, **options)[2])
        assert found[kind].example.tolist() == places
        assert [row.id for row in found[kind].rows] == [f"s:{at}" for at in places]
        assert all(row.closes for row in found[kind].rows)


def test_the_answers_of_chosen_examples_are_found_by_their_ids(tokenizer: Any) -> None:
    rows = [ROWS[i % 2] | {"question": f"{i}?", "paraphrased_answer": f"It is {i}."} for i in range(6)]
    encoder, examples, rows_of_all = encoded(tokenizer, rows)
    found = alternates_of(encoder, examples, take(rows_of_all, [1, 4]))
    assert [row.id for row in found["perturbed_answer"].rows] == ["s:1", "s:4", "s:4"]
    assert [row.answer for row in found["paraphrased_answer"].rows] == ["It is 1.", "It is 4."]
    assert found["perturbed_answer"].example.tolist() == [0, 1, 1]
    same(
        found["perturbed_answer"].rows,
        alternates_of(encoder, list(examples), rows_of_all[1:5:3])["perturbed_answer"].rows,
    )


def test_a_kind_that_an_example_lacks_is_of_none(tokenizer: Any) -> None:
    encoder, examples, rows = encoded(tokenizer, [ROWS[0], ROWS[1] | {"perturbed_answer": None}])
    assert list(alternates_of(encoder, examples, rows)) == ["paraphrased_answer"]
    assert list(alternates_of(encoder, examples, rows[:1])) == ["paraphrased_answer", "perturbed_answer"]
    assert alternates_of(*encoded(tokenizer, [{"question": "Who?", "answer": "Ann."}])) == {}
    assert alternates_of(*encoded(tokenizer, [{"text": "Who is it, that wrote it?"}], max_length=6)) == {}


def test_spans_of_the_true_answer_mark_nothing_of_another(tokenizer: Any) -> None:
    options = UnlearnData(forget="f", retain="r")
    examples = read_examples(row(forget_spans=[[0, 3]]), "s", options, alternates=True)
    encoder = Encoder(tokenizer, options)
    rows = encoder.encode("s", examples).examples
    assert rows[0].is_span is not None
    assert [row.is_span for row in alternates_of(encoder, examples, rows)["perturbed_answer"].rows] == [None, None]


LONG = row(perturbed_answer=["Jon.", "It was Jon, " * 9])


def test_a_long_answer_is_cut_and_counted(tokenizer: Any) -> None:
    found: Alternates = alternates_of(*encoded(tokenizer, LONG, max_length=60))["perturbed_answer"]
    assert found.too_long == 1
    assert [(len(row.input_ids) == 60, row.closes) for row in found.rows] == [(False, True), (True, False)]


def test_a_long_answer_that_is_an_error_is_refused(tokenizer: Any) -> None:
    with pytest.raises(InputError, match=r"^1 of 2 perturbed_answer rows are longer than 60 tokens"):
        alternates_of(*encoded(tokenizer, LONG, too_long="error", max_length=60))


@pytest.mark.parametrize("limit", [60, 45])
def test_a_kind_with_answers_that_are_to_be_dropped_is_left_out(tokenizer: Any, limit: int) -> None:
    """One of two is, or both."""
    assert "perturbed_answer" in alternates_of(*encoded(tokenizer, LONG, max_length=limit))
    assert "perturbed_answer" not in alternates_of(*encoded(tokenizer, LONG, too_long="drop", max_length=limit))


def test_an_answer_without_a_token_is_refused_with_its_example(tiny_model: Callable[..., Path]) -> None:
    """A tokenizer may read nothing in a text that is not empty."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model())
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("_", "")
    with pytest.raises(InputError) as caught:
        alternates_of(*encoded(tokenizer, [ROWS[0], ROWS[1] | {"perturbed_answer": ["Rye.", "_"]}]))
    assert str(caught.value).startswith(
        "1 of 4 answers of the kind perturbed_answer are without a token to score (the first is one of s:1), and an"
    )


def test_the_arrays_are_whole_numbers(tokenizer: Any) -> None:
    assert alternates_of(*encoded(tokenizer, ROWS))["perturbed_answer"].example.dtype == np.int64
