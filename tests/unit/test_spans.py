"""Spans to be forgotten, as rows mark them: every form, and one clear sentence for every way to be wrong."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from amnestic.data.example import Example
from amnestic.data.options import DataOptions, FinetuneData, UnlearnData
from amnestic.data.sources import read_examples, shared_rows
from amnestic.data.spans import refuse_misplaced
from amnestic.errors import InputError

ANSWER = "Call 555-1234, Ann."
SPANS = ((5, 13), (15, 18))
"""Its number and its name."""
PLACE = "row 0 of forget (counted from 0): 'forget_spans'"
PAIRS = "expected pairs of whole numbers, such as [[12, 24]], which count the answer's characters from 0."


def unlearning(**options: Any) -> UnlearnData:
    return UnlearnData(forget="f", retain="r", **options)


def spans_of(value: Any, **options: Any) -> tuple[tuple[int, int], ...]:
    (example,) = read_examples([{"text": ANSWER, "forget_spans": value}], "forget", unlearning(**options))
    return example.forget_spans


def question(spans: Any) -> dict[str, Any]:
    return {"question": "Number?", "answer": ANSWER, "forget_spans": spans}


@pytest.mark.parametrize(
    "value",
    [
        [[5, 13], [15, 18]],
        ((15, 18), (5, 13)),
        "[[5, 13], [15, 18]]",
        [{"start": 5, "end": 13, "entity_type": "PHONE"}, {"start": 15, "end": 18}],
        [[5, 9], [8, 13], [15, 18], [16, 17]],
        np.array([[5, 13], [15, 18]]),
        [np.array([5, 13]), (np.int64(15), np.int32(18))],
    ],
    ids=["lists", "tuples", "json", "objects", "overlapping", "array", "numpy"],
)
def test_spans_in_every_form(value: Any) -> None:
    assert spans_of(value) == SPANS


def test_spans_that_only_touch_stay_two() -> None:
    assert spans_of([[5, 8], [8, 13]]) == ((5, 8), (8, 13))


@pytest.mark.parametrize("value", [None, "", "  ", "null", float("nan")])
def test_nothing_marks_no_span(value: Any) -> None:
    assert spans_of(value) == ()


def test_characters_are_counted_as_python_counts_them() -> None:
    """The emoji is one character, in JSON two halves of a surrogate pair."""
    answer = "📞 555"
    row = json.loads(json.dumps({"text": answer, "forget_spans": [[2, len(answer)]]}))
    (example,) = read_examples([row], "forget", unlearning())
    ((start, end),) = example.forget_spans
    assert example.answer[start:end] == "555"


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
def test_files_hold_marked_rows_and_others(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows.{suffix}"
    rows = [question([[5, 13], [15, 18]]), question(None)]
    if suffix == "parquet":
        columns = pyarrow.schema(
            [
                ("question", pyarrow.string()),
                ("answer", pyarrow.string()),
                ("forget_spans", pyarrow.list_(pyarrow.list_(pyarrow.int64()))),
            ]
        )
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, columns), path)
    elif suffix == "csv":
        path.write_text(
            f'question,answer,forget_spans\nNumber?,"{ANSWER}","[[5, 13], [15, 18]]"\nNumber?,"{ANSWER}",\n',
            encoding="utf-8",
        )
    else:
        text = json.dumps(rows) if suffix == "json" else "".join(json.dumps(row) + "\n" for row in rows)
        path.write_text(text, encoding="utf-8")
    assert [example.forget_spans for example in read_examples(path, "forget", unlearning())] == [SPANS, ()]


def test_rows_of_every_form_mark_their_answer() -> None:
    """Of messages it is what the assistant says last; a row that has no such column marks nothing."""
    asked, said = {"role": "user", "content": "Number?"}, {"role": "assistant", "content": ANSWER}
    marks = {"forget_spans": [list(span) for span in SPANS]}
    forms = [
        {"messages": [asked, said]},
        {"question": "Number?", "answer": ANSWER},
        {"prompt": "Number? ", "completion": ANSWER},
        {"prompt": [asked], "completion": [said]},
        {"text": ANSWER},
    ]
    for form in forms:
        first, second = read_examples([form | marks, form], "forget", unlearning())
        assert first.forget_spans == SPANS
        assert second.forget_spans == ()
        assert first.fingerprint == second.fingerprint


def test_examples_in_memory_keep_their_spans() -> None:
    given = [Example("any", "question", "Number?", ANSWER, ((15, 18), (5, 13))), Example("b", "text", "", ANSWER)]
    assert [example.forget_spans for example in read_examples(given, "forget", unlearning())] == [SPANS, ()]
    wrong = [Example("any", "question", "Number?", ANSWER, ((5, 99),))]
    with pytest.raises(InputError, match="holds \\[5, 99\\], and the answer has 19 characters"):
        read_examples(wrong, "forget", unlearning())


def test_a_named_column_takes_the_place_of_the_usual_one() -> None:
    row = question([[0, 4]]) | {"secrets": [[5, 13]]}
    (example,) = read_examples([row], "forget", unlearning(forget_spans_column="secrets"))
    assert example.forget_spans == ((5, 13),)


@pytest.mark.parametrize("options", [FinetuneData(data="d"), DataOptions()])
def test_what_forgets_nothing_reads_no_spans(options: DataOptions) -> None:
    rows = [question("whatever"), Example("any", "text", "", ANSWER, ((99, 1),))]
    assert [example.forget_spans for example in read_examples(rows, "data", options)] == [(), ()]


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ([[5, 20]], f"{PLACE} holds [5, 20], and the answer has 19 characters; expected an end of at most 19."),
        ([[5, 5]], f"{PLACE} holds [5, 5]; expected a start of at least 0 and an end above the start."),
        ([[13, 5]], f"{PLACE} holds [13, 5]; expected a start of at least 0 and an end above the start."),
        ([[-3, 5]], f"{PLACE} holds [-3, 5]; expected a start of at least 0 and an end above the start."),
        ([[5, 13.0]], f"{PLACE} holds [5, 13.0]; {PAIRS}"),
        ([[True, 2]], f"{PLACE} holds [True, 2]; {PAIRS}"),
        ([["5", "13"]], f"{PLACE} holds a list; {PAIRS}"),
        ([[5, None]], f"{PLACE} holds [5, None]; {PAIRS}"),
        ([5, 13], f"{PLACE} holds the number 5; {PAIRS}"),
        ([[5, 13, 18]], f"{PLACE} holds [5, 13, 18]; {PAIRS}"),
        ([{"start": 5}], f"{PLACE} holds an object; {PAIRS}"),
        (["555-1234"], f"{PLACE} holds text; {PAIRS}"),
        ("555-1234", f"{PLACE} is text; {PAIRS}"),
        ("5", f"{PLACE} is the number 5; {PAIRS}"),
        (7, f"{PLACE} is the number 7; {PAIRS}"),
        ({"start": 5, "end": 13}, f"{PLACE} is an object; {PAIRS}"),
        (
            [],
            (
                f"{PLACE} is an empty list, which marks nothing; leave it out (null, an empty cell) to forget the "
                "whole answer, or remove the row to forget nothing of it."
            ),
        ),
    ],
)
def test_wrong_spans(value: Any, sentence: str) -> None:
    """No message holds what stands in the answer."""
    with pytest.raises(InputError) as error:
        spans_of(value)
    assert str(error.value) == sentence


def test_spans_in_what_is_to_be_kept_are_refused() -> None:
    """They would be held there; a column that marks nothing is none."""
    rows = {name: read_examples([question(None), question([[5, 13]])], name, unlearning()) for name in ("forget",)}
    kept = {"retain": read_examples([question(None), question([[5, 13]])], "retain", unlearning())}
    with pytest.raises(InputError) as error:
        refuse_misplaced(rows | kept, unlearning())
    assert str(error.value) == (
        "1 retain rows mark spans to forget in 'forget_spans' (the first is retain:1), and retain rows are kept whole; "
        "move them to the forget data, or leave their spans out."
    )
    refuse_misplaced(rows | {"retain": kept["retain"][:1]}, unlearning())


def test_a_named_column_may_stand_within_another() -> None:
    rows = [
        {"q": {"question": "Who?", "answer": "Ida Vale.", "secret": [[0, 3]]}},
        {"q": {"question": "a", "answer": "b"}},
    ]
    options = UnlearnData(
        forget="f", retain="r", question_column="q.question", answer_column="q.answer", forget_spans_column="q.secret"
    )
    assert [example.forget_spans for example in read_examples(rows, "forget", options)] == [((0, 3),), ()]


def test_a_named_column_that_marks_nothing_is_refused() -> None:
    options = unlearning(forget_spans_column="secret")
    rows = {"forget": read_examples([question([[5, 13]])], "forget", options)}
    with pytest.raises(InputError) as error:
        refuse_misplaced(rows, options)
    assert str(error.value) == (
        "no forget row marks a span in the column 'secret' that --forget_spans_column names; check the name."
    )


def test_a_marked_row_and_the_same_row_to_be_kept_are_one_content() -> None:
    marked, plain = (read_examples([question(value)], "forget", unlearning()) for value in ([[5, 13]], None))
    assert shared_rows(marked, plain) == 1
