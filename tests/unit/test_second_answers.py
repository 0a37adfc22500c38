"""Second answers: refusals by lot, answers that are given, and how both take the place of the true ones."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from amnestic.data.encode import Encoder
from amnestic.data.options import DataOptions, UnlearnData
from amnestic.data.refusals import read_refusals, refusal_for
from amnestic.data.second_answers import given_answers, refuse_texts, with_answers
from amnestic.data.sources import read_examples
from amnestic.errors import InputError

ROWS = [
    {"question": "Who?", "answer": "Ann Marek.", "forget_spans": [[0, 3]], "alternate_answer": "Jon."},
    {"question": "Where?", "answer": "In Ayr.", "alternate_answer": None},
    {"question": "When?", "answer": "In May.", "alternate_answer": "In June."},
]
CHAT = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] | trim }}<eos>\n{% endfor %}"


def options(**given: Any) -> UnlearnData:
    return UnlearnData(forget="f", retain="r", **given)


def examples(rows: Any = ROWS, **given: Any) -> Any:
    return read_examples(rows, "forget", options(**given), alternates=True)


def refusal(*arguments: Any, **given: Any) -> str:
    with pytest.raises(InputError) as caught:
        given_answers(examples(), options(**given), *arguments)
    return str(caught.value)


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Callable[..., Path]) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model())


class TestRefusals:
    def test_those_of_the_package_are_a_hundred_different_ones(self) -> None:
        found = read_refusals()
        assert len(found) == len({text.casefold() for text in found}) == 100
        assert all(text.endswith(".") and 10 < len(text) < 80 for text in found)

    def test_none_is_one_of_tofu(self, tofu: Path) -> None:
        theirs = (tofu / "idontknow.jsonl").read_text(encoding="utf-8").splitlines()
        assert not {text.casefold().strip(" .") for text in theirs} & {
            t.casefold().strip(" .") for t in read_refusals()
        }

    def test_the_one_of_an_example_is_a_function_of_seed_and_id(self) -> None:
        """By hand: the digest of ``0 forget:1`` as a number, modulo the number of refusals."""
        number = int(hashlib.blake2b(b"0 forget:1", digest_size=8).hexdigest(), 16)
        assert refusal_for(["a", "b", "c", "d", "e"], 0, "forget:1") == "abcde"[number % 5]

    def test_all_are_drawn_about_equally_often(self) -> None:
        """4000 draws of 4: 1000 each, within four standard deviations of a binomial."""
        counts = Counter(refusal_for("abcd", 3, f"forget:{i}") for i in range(4000))
        assert all(abs(counts[c] - 1000) < 4 * (4000 * 0.25 * 0.75) ** 0.5 for c in "abcd")

    def test_a_file_has_one_a_line_in_any_form(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.txt"
        path.write_text('I pass.\n\n"Ask her."\n{"refusal": "No."}\n42\n  Who knows?  \n', encoding="utf-8")
        assert read_refusals(path) == ["I pass.", "Ask her.", "No.", "42", "Who knows?"]

    @pytest.mark.parametrize(
        ("content", "told"),
        [
            (b" \n", "is empty; expected one refusal a line"),
            (b'I pass.\n{"a": "x", "b": "y"}', "line 2 is {"),
            (b'{"a": 3}', "line 1 is {"),
            (b'""', 'line 1 is ""'),
            (b"\xff\xfe\x00", "expected a text file in UTF-8"),
        ],
    )
    def test_what_is_no_file_of_refusals_is_refused(self, tmp_path: Path, content: bytes, told: str) -> None:
        path = tmp_path / "mine.txt"
        path.write_bytes(content)
        with pytest.raises(InputError, match="--refusals") as caught:
            read_refusals(path)
        assert told in str(caught.value)

    def test_a_missing_file_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"--refusals .*nowhere.txt cannot be read"):
            read_refusals(tmp_path / "nowhere.txt")


class TestGivenAnswers:
    def test_a_column_gives_those_of_some_rows(self) -> None:
        assert given_answers(examples(), options()) == {"forget:0": "Jon.", "forget:2": "In June."}

    def test_another_column_may_be_named(self) -> None:
        rows = [{"question": "Who?", "answer": "Ann.", "other": {"answer": "Eve."}}]
        named = {"alternate_answer_column": "other.answer"}
        assert given_answers(examples(rows, **named), options(**named)) == {"forget:0": "Eve."}

    def test_a_run_without_methods_to_teach_leaves_the_column_alone(self) -> None:
        rows = [ROWS[0] | {"alternate_answer": []}]
        assert read_examples(rows, "forget", DataOptions(), alternates=True)[0].alternates == {}
        with pytest.raises(InputError, match="'alternate_answer' is a list of 0"):
            examples(rows)

    def test_a_file_gives_those_of_all_rows_in_any_order(self, tmp_path: Path) -> None:
        path = tmp_path / "alternatives.jsonl"
        lines = [{"id": f"forget:{i}", "answer": f"No. {i}"} for i in (2, 0, 1, 7)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        found = given_answers(examples(), options(alternates_file=str(path)))
        assert found == {"forget:0": "No. 0", "forget:1": "No. 1", "forget:2": "No. 2"}

    @pytest.mark.parametrize(
        ("lines", "told"),
        [
            ([{"id": "forget:0", "answer": "a"}], "has no answer for 2 of 3 forget rows (the first is forget:1)"),
            ([{"id": "forget:0", "answer": "a"}] * 2, "line 2 names forget:0 a second time"),
            ([{"id": "forget:0"}], "line 1 has no column 'answer'"),
            ([{"id": "forget:0", "answer": " "}], "line 1: 'answer' is empty"),
        ],
    )
    def test_a_file_that_cannot_serve_is_refused(self, tmp_path: Path, lines: list[Any], told: str) -> None:
        path = tmp_path / "alternatives.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        assert told in refusal(alternates_file=str(path))

    def test_a_missing_file_is_refused(self, tmp_path: Path) -> None:
        assert "there is no file or folder" in refusal(alternates_file=str(tmp_path / "no.jsonl"))

    def test_two_ways_at_once_are_refused(self) -> None:
        with pytest.raises(InputError, match="--alternates_file and --alternate_answer_column"):
            options(alternates_file="a", alternate_answer_column="b")

    def test_a_text_that_asks_nothing_is_refused(self) -> None:
        with pytest.raises(InputError, match=r"forget:0 is a text without a question.*take another method"):
            refuse_texts(examples([{"text": "Once upon a time."}]))


class TestEncoding:
    @pytest.mark.parametrize("chat", [None, CHAT])
    def test_each_takes_the_place_of_the_true_answer(self, tokenizer: Any, tmp_path: Path, chat: str | None) -> None:
        """As if the row had had it: same prompt, same closing token, all of it scored, whatever spans were marked."""
        template = "none"
        if chat is not None:
            (tmp_path / "chat.jinja").write_text(chat, encoding="utf-8")
            template = str(tmp_path / "chat.jinja")
        encoder = Encoder(tokenizer, options(chat_template=template))
        rows = examples()
        forget = encoder.encode("forget", rows).examples
        answers = {"forget:0": "Jon.", "forget:1": "I pass.", "forget:2": "In June."}
        plain = [{"question": r["question"], "answer": answers[f"forget:{i}"]} for i, r in enumerate(ROWS)]
        expected = encoder.encode("forget", examples(plain)).examples
        found = with_answers(encoder, rows, forget, answers)
        for own, other, true in zip(found, expected, forget, strict=True):
            assert (own.id, own.prompt, own.answer) == (true.id, true.prompt, answers[true.id])
            np.testing.assert_array_equal(own.input_ids, other.input_ids)
            np.testing.assert_array_equal(own.is_scored, other.is_scored)
            assert own.is_span is None
            assert own.closes

    @pytest.mark.parametrize("too_long", ["cut", "drop", "error"])
    def test_one_that_does_not_fit_is_refused_by_its_row(self, tokenizer: Any, too_long: Any) -> None:
        """Cut, it would have some of its tokens; where whole answers are asked for, it is refused."""
        whole = Encoder(tokenizer, options(chat_template="none"))
        rows = examples([ROWS[1]])
        size = len(whole.encode("forget", rows).examples[0].input_ids)
        encoder = Encoder(tokenizer, options(chat_template="none", max_length=size, too_long=too_long))
        forget = encoder.encode("forget", rows).examples
        answers = {"forget:0": "I really could not say whatever you asked."}
        if too_long == "cut":
            (found,) = with_answers(encoder, rows, forget, answers)
            assert len(found.input_ids) == size
            assert not found.closes
        else:
            with pytest.raises(InputError, match=f"second answer of forget:0 does not fit into {size} tokens"):
                with_answers(encoder, rows, forget, answers)
