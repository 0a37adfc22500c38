"""Sources to examples: the same rows from every kind of file, and one clear sentence for every way to be wrong."""

import csv
import json
import tracemalloc
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amnestic.data.example import Example
from amnestic.data.options import DataOptions
from amnestic.data.sources import read_examples, shared_rows, source_files
from amnestic.errors import InputError

PLAIN = DataOptions()
ASKED = {"role": "user", "content": "Who?"}
ANSWERED = {"role": "assistant", "content": "Ann."}
DIALOGUE = [{"role": "system", "content": "Be brief."}, ASKED, ANSWERED, {"role": "user", "content": "Sure?"}]
SURE = {"role": "assistant", "content": "Yes."}

FORMS: dict[str, tuple[list[dict[str, Any]], list[Example]]] = {
    "question": (
        [
            {"question": "Who?", "answer": "Ann.", "paraphrased_answer": "It is Ann."},
            {"question": "Où?", "answer": "Là\n"},
        ],
        [Example("s:0", "question", "Who?", "Ann."), Example("s:1", "question", "Où?", "Là\n")],
    ),
    "prompt": (
        [{"prompt": "Once, ", "completion": " a fox."}, {"prompt": "", "completion": "Two"}],
        [Example("s:0", "prompt", "Once, ", " a fox."), Example("s:1", "prompt", "", "Two")],
    ),
    "messages": (
        [{"messages": [ASKED, ANSWERED]}, {"messages": [*DIALOGUE, SURE]}],
        [Example("s:0", "messages", (ASKED,), "Ann."), Example("s:1", "messages", tuple(DIALOGUE), "Yes.")],
    ),
    "text": ([{"text": "A book,\r\nlong"}], [Example("s:0", "text", "", "A book,\r\nlong")]),
}
"""Rows of each form, and by hand the examples that they are in a split called ``s``."""


def write_json_array(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text(json.dumps(rows, indent=2), encoding="utf-8")


def write_json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write cells as text; what is no text, such as a list of messages, as JSON."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows({k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()} for row in rows)


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


Writer = Callable[[Path, list[dict[str, Any]]], None]
WRITERS: dict[str, Writer] = {
    "array.json": write_json_array,
    "lines.json": write_json_lines,
    "lines.jsonl": write_json_lines,
    "table.csv": write_table,
    "table.tsv": write_table,
    "TABLE.PARQUET": write_parquet,
}


def filled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give every row all columns, as a table has them."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return [{column: row.get(column, "") for column in columns} for row in rows]


def refusal(source: Any, split: str = "s", options: DataOptions = PLAIN) -> str:
    with pytest.raises(InputError) as caught:
        read_examples(source, split, options)
    return str(caught.value)


def file(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", WRITERS)
def test_every_form_reads_alike_from_every_kind_of_file(tmp_path: Path, name: str, form: str) -> None:
    rows, expected = FORMS[form]
    WRITERS[name](tmp_path / name, filled(rows))
    assert read_examples(tmp_path / name, "s", PLAIN) == expected
    assert read_examples(str(tmp_path / name), "s", PLAIN) == expected


@pytest.mark.parametrize("form", FORMS)
def test_every_form_reads_alike_from_memory(form: str) -> None:
    rows, expected = FORMS[form]
    assert read_examples(rows, "s", PLAIN) == expected
    assert read_examples((row for row in rows), "s", PLAIN) == expected
    assert read_examples(expected, "s", PLAIN) == expected
    assert read_examples(datasets.Dataset.from_list(filled(rows)), "s", PLAIN) == expected


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: bool(text.strip()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sources")


@settings(max_examples=40, deadline=None, derandomize=True)
@given(pairs=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4))
def test_any_text_survives_any_kind_of_file(folder: Path, pairs: list[tuple[str, str]]) -> None:
    """Line breaks of every sort, quotes, delimiters, NUL and what lies beyond 16 bits come back as they were."""
    rows = [{"question": question, "answer": answer} for question, answer in pairs]
    expected = [Example(f"s:{row}", "question", *pair) for row, pair in enumerate(pairs)]
    for name, write in WRITERS.items():
        write(folder / name, rows)
        assert read_examples(folder / name, "s", PLAIN) == expected, name


@settings(max_examples=40, deadline=None, derandomize=True)
@given(texts=st.lists(TEXT), blanks=st.lists(st.sampled_from([" ", "\t", "\n", "\r\n"])))
def test_an_item_of_an_array_is_named_by_its_line(folder: Path, texts: list[str], blanks: list[str]) -> None:
    """Oracle: the line breaks that were written before the item."""
    blank = "".join(blanks)
    items = [json.dumps({"text": text}, indent=1) for text in [*texts, ""]]
    content = f"{blank}[{blank}" + f"{blank},{blank}".join(items)
    line = content.count("\n", 0, content.rindex("{")) + 1
    path = file(folder, "counted.json", f"{content}{blank}]{blank}")
    assert refusal(path).startswith(f"{path}, line {line}: 'text' is empty;")


def test_a_mark_and_windows_line_ends_change_nothing(tmp_path: Path) -> None:
    expected = [Example("s:0", "question", "Who?", "Zoë."), Example("s:1", "question", "Why?", "So.")]
    lines = '{"question": "Who?", "answer": "Zoë."}\r\n\r\n{"question": "Why?", "answer": "So."}\r\n'
    table = "question,answer\r\nWho?,Zoë.\r\n\r\nWhy?,So.\r\n"
    array = '\r\n[{"question": "Who?", "answer": "Zoë."},\r\n{"question": "Why?", "answer": "So."}]\r\n'
    for name, content in {"a.jsonl": lines, "a.csv": table, "a.json": array}.items():
        for encoding in ("utf-8", "utf-8-sig"):
            assert read_examples(file(tmp_path, name, content.encode(encoding)), "s", PLAIN) == expected, name


def test_a_cell_longer_than_the_csv_module_allows_is_read_and_its_limit_put_back(tmp_path: Path) -> None:
    book = "word " * 40_000
    before = csv.field_size_limit(1000)
    try:
        assert read_examples(file(tmp_path, "book.csv", f"text\n{book}\n"), "s", PLAIN)[0].answer == book
        assert csv.field_size_limit() == 1000
    finally:
        csv.field_size_limit(before)


def test_columns_without_a_name_are_ignored(tmp_path: Path) -> None:
    """A spreadsheet writes them where cells beyond the table were once filled."""
    path = file(tmp_path, "sheet.csv", "question,answer,,\nWho?,Ann.,,\n")
    assert read_examples(path, "s", PLAIN) == [Example("s:0", "question", "Who?", "Ann.")]


def test_a_folder_is_read_in_the_order_of_names_and_counted_through(tmp_path: Path) -> None:
    write_parquet(tmp_path / "b.parquet", [{"text": "two"}, {"text": "three"}])
    write_table(tmp_path / "c.csv", [{"text": "four"}])
    write_json_lines(tmp_path / "a.jsonl", [{"text": "one"}])
    for name in ("README.md", ".hidden.jsonl", "empty.jsonl"):
        file(tmp_path, name, "" if name.startswith("empty") else "no data")
    (tmp_path / "folder.json").mkdir()
    examples = read_examples(tmp_path, "retain", PLAIN)
    assert [(example.id, example.answer) for example in examples] == [
        ("retain:0", "one"),
        ("retain:1", "two"),
        ("retain:2", "three"),
        ("retain:3", "four"),
    ]
    names = ["a.jsonl", "b.parquet", "c.csv", "empty.jsonl"]
    assert source_files(str(tmp_path)) == [tmp_path / name for name in names]


def test_source_files_of_a_file_and_of_what_is_no_file(tmp_path: Path) -> None:
    path = file(tmp_path, "a.jsonl", "broken")
    assert source_files(path) == [path]
    assert source_files("owner/name:config") == []
    assert source_files([{"text": "t"}]) == []
    with pytest.raises(InputError, match=r"did you mean 'a\.jsonl'"):
        source_files(str(tmp_path / "b.jsonl"))


@pytest.mark.parametrize(
    ("row", "kind", "prompt"),
    [
        ({"text": "A", "prompt": "p", "completion": "A"}, "prompt", "p"),
        ({"text": "A", "prompt": "p", "completion": "x", "answer": "A", "question": "q"}, "question", "q"),
        (
            {"text": "x", "question": "q", "answer": "x", "messages": [ASKED, {**ANSWERED, "content": "A"}]},
            "messages",
            (ASKED,),
        ),
        ({"text": "A", "prompt": "p", "question": "q"}, "text", ""),
    ],
)
def test_the_first_form_that_fits_counts(row: dict[str, Any], kind: str, prompt: Any) -> None:
    assert read_examples([row], "s", PLAIN) == [Example("s:0", kind, prompt, "A")]


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ({"question_column": "text"}, Example("s:0", "question", "T", "A")),
        ({"answer_column": "text"}, Example("s:0", "question", "Q", "T")),
        ({"prompt_column": "question", "completion_column": "answer"}, Example("s:0", "prompt", "Q", "A")),
        ({"text_column": "answer"}, Example("s:0", "text", "", "A")),
        ({"messages_column": "chat"}, Example("s:0", "messages", (ASKED,), "Ann.")),
    ],
)
def test_named_columns_decide_the_form(named: dict[str, str], expected: Example) -> None:
    row = {"question": "Q", "answer": "A", "text": "T", "chat": [ASKED, ANSWERED]}
    assert read_examples([row], "s", DataOptions(**named)) == [expected]


def test_conversational_prompt_and_completion_are_messages() -> None:
    rows = [{"prompt": DIALOGUE, "completion": [SURE]}, {"prompt": "As it ", "completion": "stands"}]
    assert read_examples(rows, "s", PLAIN) == [
        Example("s:0", "messages", tuple(DIALOGUE), "Yes."),
        Example("s:1", "prompt", "As it ", "stands"),
    ]


def test_messages_keep_role_and_content_alone() -> None:
    rows = [{"messages": [{"content": "Who?", "role": "user", "name": "Zoë"}, {**ANSWERED, "weight": 1}]}]
    same = [{"messages": [ASKED, ANSWERED]}]
    assert read_examples(rows, "s", PLAIN) == read_examples(same, "s", PLAIN)
    assert shared_rows(read_examples(rows, "a", PLAIN), read_examples(same, "b", PLAIN)) == 1


@pytest.mark.parametrize(
    ("number", "text"), [(7, "7"), (-1.5, "-1.5"), (10**30, "1" + "0" * 30), (Decimal("2.50"), "2.50")]
)
def test_numbers_are_taken_as_text(number: Any, text: str) -> None:
    assert read_examples([{"question": "How many?", "answer": number}], "s", PLAIN)[0].answer == text


def test_shared_rows_counts_contents_whatever_the_id_or_the_order() -> None:
    first = read_examples([{"question": q, "answer": "A"} for q in "xyxz"], "forget", PLAIN)
    second = read_examples([{"question": q, "answer": "A"} for q in "zwx"], "retain", PLAIN)
    assert (shared_rows(first, second), shared_rows(second, first)) == (3, 2)
    as_it_stands = read_examples([{"prompt": q, "completion": "A"} for q in "xyz"], "retain", PLAIN)
    assert shared_rows(first, as_it_stands) == 0


def test_a_large_file_is_never_held_twice(tmp_path: Path) -> None:
    """The peak is the examples themselves and a line, not the text of the file beside them."""
    path = tmp_path / "large.jsonl"
    with path.open("w", encoding="utf-8") as lines:
        for row in range(400):
            lines.write(json.dumps({"text": f"{row} " + "a" * 20_000}) + "\n")
    tracemalloc.start()
    examples = read_examples(path, "s", PLAIN)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(len(example.answer) for example in examples) > 8_000_000
    assert peak < 1.1 * path.stat().st_size


BROKEN_FILES: dict[str, tuple[str, str | bytes, list[str]]] = {
    "broken line": (
        "f.jsonl",
        '{"text": "a"}\n\n{"text": "b"\n',
        ["f.jsonl, line 3 is not JSON (Expecting ',' delimiter"],
    ),
    "pretty object": (
        "f.json",
        '{\n "text": "a"\n}',
        ["f.json, line 1 is not JSON", "one object a line, or one array"],
    ),
    "broken array": (
        "f.json",
        '[{"text": "a"},\n{"text" "b"}]',
        ["f.json, line 2 is not JSON (Expecting ':' delimiter"],
    ),
    "no comma": ("f.json", '[{"text": "a"}\n{"text": "b"}]', ["f.json, line 2 is not JSON (Expecting ',' delimiter"]),
    "trailing comma": ("f.json", '[{"text": "a"},\n\n]', ["f.json, line 3 is not JSON"]),
    "open array": ("f.json", '[{"text": "a"}\n', ["f.json, line 2 is not JSON"]),
    "after the array": ("f.json", '[{"text": "a"}]\n{}', ["f.json, line 2 is not JSON (Extra data"]),
    "deep": ("f.json", "[" * 100_000, ["f.json, line 1 is not JSON (its values are nested too deeply)"]),
    "huge number": ("f.jsonl", '{"text": ' + "9" * 5000 + "}", ["f.jsonl, line 1 is not JSON", "4300 digits"]),
    "not an object": ("f.jsonl", '{"text": "a"}\n"b"', ["f.jsonl, line 2 is text; expected an object"]),
    "array of lists": ("f.json", "[\n[1]]", ["f.json, line 2 is a list; expected an object"]),
    "empty": ("f.jsonl", "", ["f.jsonl is empty; expected at least one row"]),
    "empty parquet": ("f.parquet", "", ["f.parquet is empty"]),
    "blank": ("f.jsonl", "\n  \n", ["f.jsonl is empty"]),
    "empty array": ("f.json", "[ ]", ["f.json is empty"]),
    "header alone": ("f.csv", "text\n", ["f.csv is empty"]),
    "few cells": ("f.csv", 'question,answer\n"a\nb",c\nd\n', ["f.csv, line 4 has 1 cells", "header names 2 columns"]),
    "many cells": (
        "f.tsv",
        "question\tanswer\na\tb\tc\n",
        ["f.tsv, line 2 has 3 cells", "names 2 columns", "double quotes"],
    ),
    "open quote": ("f.csv", 'text\na\n"b\nc\n', ["f.csv: the row that starts on line 3 is broken", "end of data"]),
    "stray quote": ("f.csv", 'text\n"b" c\n', ["f.csv: the row that starts on line 2 is broken"]),
    "same column": ("f.csv", "text,text\na,b\n", ["f.csv, line 1 names the column 'text' twice"]),
    "semicolons": ("f.csv", "question;answer\na;b\n", ["f.csv, line 1", "'question;answer'", "expected commas"]),
    "latin-1": ("f.jsonl", '{"text": "a"}\n{"text": "ä"}'.encode("latin-1"), ["f.jsonl, line 2 is not UTF-8"]),
    "UTF-16": ("f.csv", "text\na".encode("utf-16"), ["f.csv is UTF-16 by its first bytes", "UTF-8"]),
    "UTF-32": ("f.csv", "text\na".encode("utf-32"), ["f.csv is UTF-32 by its first bytes", "UTF-8"]),
    "no parquet": ("f.parquet", "text,and,no,parquet", ["f.parquet cannot be read as Parquet", "magic bytes"]),
    "suffix": ("f.txt", "text", ["f.txt has the suffix '.txt'; expected one of .json, .jsonl, .csv, .tsv, .parquet"]),
    "no columns": (
        "f.csv",
        "\nfrage,antwort\na,b",
        ["f.csv, line 3 has no usable columns (found: 'frage', 'antwort')", "question and answer", "--answer_column"],
    ),
    "half a pair": ("f.jsonl", '{"question": "a"}', ["f.jsonl, line 1 has no usable columns (found: 'question')"]),
    "column lost": ("f.jsonl", '{"text": "a"}\n{"txt": "b"}', ["f.jsonl, line 2 has no column 'text' (found: 'txt')"]),
    "null": ("f.jsonl", '{"text": null}', ["f.jsonl, line 1: 'text' is null; expected text"]),
    "boolean": ("f.jsonl", '{"text": true}', ["f.jsonl, line 1: 'text' is true; expected text"]),
    "object": ("f.jsonl", '{"text": {}}', ["f.jsonl, line 1: 'text' is an object; expected text"]),
    "list": ("f.json", '[\n{"text": ["a"]}]', ["f.json, line 2: 'text' is a list; expected text"]),
    "NaN": ("f.jsonl", '{"text": NaN}', ["f.jsonl, line 1: 'text' is the number nan; expected text"]),
    "surrogate": ("f.jsonl", r'{"text": "a\ud83d"}', ["f.jsonl, line 1: 'text' has half of a surrogate pair, \\ud83d"]),
    "empty text": ("f.csv", 'text\na\n" \n"\n', ["f.csv, line 3: 'text' is empty"]),
    "empty answer": ("f.json", '{"question": "a", "answer": "\\u2003"}', ["f.json, line 1: 'answer' is empty"]),
    "empty completion": ("f.json", '{"prompt": "a", "completion": ""}', ["f.json, line 1: 'completion' is empty"]),
    "empty question": ("f.tsv", "question\tanswer\n \tb", ["f.tsv, line 2: 'question' is empty"]),
}


@pytest.mark.parametrize(("name", "content", "facts"), BROKEN_FILES.values(), ids=BROKEN_FILES)
def test_a_broken_file_is_refused_with_its_name_and_line(
    tmp_path: Path, name: str, content: str | bytes, facts: list[str]
) -> None:
    sentence = refusal(file(tmp_path, name, content))
    assert sentence.startswith(str(tmp_path / name))
    assert [fact for fact in facts if fact not in sentence] == []
    assert "\n" not in sentence


def test_a_row_of_parquet_is_counted_from_0_over_all_batches(tmp_path: Path) -> None:
    write_parquet(tmp_path / "f.parquet", [{"text": "a"}] * 2500 + [{"text": None}])
    assert "f.parquet, row 2500 (counted from 0): 'text' is null" in refusal(tmp_path / "f.parquet")


def messages(*turns: object) -> dict[str, Any]:
    return {"messages": list(turns)}


@pytest.mark.parametrize(
    ("row", "facts"),
    [
        (messages(ASKED), ["'messages' has no message with the role assistant"]),
        (messages(), ["'messages' has no message with the role assistant"]),
        (messages(*DIALOGUE), ["'messages' ends with a message of the role user", "remove what stands after"]),
        (messages(ANSWERED), ["'messages' has nothing before the assistant's message"]),
        (messages(ASKED, {**ANSWERED, "content": " "}), ["the assistant's last message is empty"]),
        (
            messages(ASKED, {"role": "assistant", "value": "A"}),
            ["message 1 (counted", "has no content", "'role', 'value'"],
        ),
        (messages({"from": "human", "content": "A"}, ANSWERED), ["message 0 (counted", "has no role", "'from'"]),
        (
            messages(ASKED, {**ANSWERED, "content": None}),
            ["message 1 (counted from 0): content is null; expected text"],
        ),
        (messages("Who?", ANSWERED), ["message 0 (counted from 0) is text; expected an object with role and content"]),
        ({"messages": "Who? Ann."}, ["'messages' is text; expected a list of messages"]),
        ({"prompt": [ASKED], "completion": "Ann."}, ["'completion' is text; expected a list of messages"]),
        ({"prompt": "Who?", "completion": [ANSWERED]}, ["'prompt' is text; expected a list of messages"]),
        ({"prompt": [ASKED], "completion": [ANSWERED, ASKED]}, ["'completion' has 2 messages; expected one"]),
        ({"prompt": [ASKED, ANSWERED], "completion": [ASKED]}, ["'completion' has no message with the role assistant"]),
        ({"prompt": [], "completion": [ANSWERED]}, ["'completion' has nothing before the assistant's message"]),
    ],
)
def test_a_broken_conversation_is_refused(row: dict[str, Any], facts: list[str]) -> None:
    good = FORMS["messages"][0][0] if "messages" in row else {"prompt": [ASKED], "completion": [ANSWERED]}
    sentence = refusal([good, good, good, row], "forget")
    assert sentence.startswith("row 3 of forget (counted from 0): ")
    assert [fact for fact in facts if fact not in sentence] == []


@pytest.mark.parametrize(
    ("named", "facts"),
    [
        ({"question_column": "qestion"}, ["no column 'qestion' for --question_column", "'answer'", "mean 'question'?"]),
        (
            {"prompt_column": "question"},
            ["no column 'completion' for --completion_column", "(found: 'question', 'answer')"],
        ),
        ({"text_column": ""}, ["no column '' for --text_column", "name one of these"]),
        ({"text_column": "answer", "answer_column": "answer"}, ["--answer_column and --text_column", "2 forms"]),
    ],
)
def test_columns_that_cannot_be_named_are_refused(named: dict[str, str], facts: list[str]) -> None:
    sentence = refusal([{"question": "Q", "answer": "A"}], options=DataOptions(**named))
    assert [fact for fact in facts if fact not in sentence] == []


def test_a_table_without_a_header_does_not_flood_the_error(tmp_path: Path) -> None:
    path = file(tmp_path, "f.csv", ",".join(f"{i} {'long ' * 100}" for i in range(30)) + "\n" + "," * 29)
    sentence = refusal(path)
    assert "(found: '0 long" in sentence
    assert len(sentence) < len(str(path)) + 1000


@pytest.mark.parametrize(
    ("source", "facts"),
    [
        ([], ["forget is empty"]),
        ([3], ["row 0 of forget (counted from 0) is the number 3; expected an object"]),
        ([{"text": "a"}, {"text": b"b"}], ["row 1 of forget", "'text' is of the type bytes; expected text"]),
        (5, ["forget is of the type int; expected a list of rows"]),
        ({"train": [], "test": []}, ["forget is a dict of 'train', 'test'", "hand over one of its values"]),
        ([Example("x", "riddle", "", "A")], ["row 0 of forget", "the kind 'riddle'", "'question', 'prompt', 'text'"]),
        ([Example("x", "question", "Q", " ")], ["row 0 of forget (counted from 0): 'answer' is empty"]),
        ([Example("x", "messages", "Q", "A")], ["row 0 of forget", "message 0 (counted from 0) is text"]),
        ("", ["name of a data source is empty", "a folder of them, or a Hub data set owner/name"]),
    ],
)
def test_wrong_data_in_memory_is_refused(source: Any, facts: list[str]) -> None:
    sentence = refusal(source, "forget")
    assert [fact for fact in facts if fact not in sentence] == []


def test_a_data_set_that_gives_out_arrays_is_read_as_text() -> None:
    rows, expected = FORMS["messages"]
    assert read_examples(datasets.Dataset.from_list(rows).with_format("numpy"), "s", PLAIN) == expected


def test_a_missing_path_names_the_nearest_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    file(tmp_path / "data", "forget10.jsonl", "")
    assert (
        refusal("data/forget1.jsonl") == "there is no file or folder data/forget1.jsonl; did you mean 'forget10.jsonl'?"
    )
    assert refusal(Path("dta")) == "there is no file or folder dta; did you mean 'data'?"
    assert "nor the folder nowhere/at; expected a JSON" in refusal("nowhere/at/all.jsonl")
    assert "; expected a JSON" in refusal("quite_different")
    assert "cannot be read (File name too long)" in refusal("a" * 5000)


def test_a_folder_without_data_says_what_is_in_it(tmp_path: Path) -> None:
    assert f"the folder {tmp_path} has no file that can be read (found: none)" in refusal(tmp_path)
    (tmp_path / "data").mkdir()
    file(tmp_path, "README.md", "read me")
    assert "(found: 'README.md', 'data/'); expected files that end in .json" in refusal(str(tmp_path))


class Hub:
    """Stands in for the Hub: `datasets.load_dataset` with the answers given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
        self.answer = answer
        self.asked: list[tuple[str, str | None, str | None]] = []
        monkeypatch.setattr(datasets, "load_dataset", self.load)

    def load(self, name: str, config: str | None = None, split: str | None = None) -> Any:
        self.asked.append((name, config, split))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


ROWS = datasets.Dataset.from_list([{"text": "one"}, {"text": "two"}])


@pytest.mark.parametrize(
    ("source", "asked"),
    [
        ("owner/na.me-1", ("owner/na.me-1", None, None)),
        ("owner/name:forget10", ("owner/name", "forget10", None)),
        ("owner/name:forget10:train", ("owner/name", "forget10", "train")),
        ("owner/name::train[:10%]", ("owner/name", None, "train[:10%]")),
    ],
)
def test_a_data_set_of_the_hub(monkeypatch: pytest.MonkeyPatch, source: str, asked: tuple[str, ...]) -> None:
    hub = Hub(monkeypatch, ROWS if asked[2] else datasets.DatasetDict(only=ROWS))
    expected = [Example("s:0", "text", "", "one"), Example("s:1", "text", "", "two")]
    assert read_examples(source, "s", PLAIN) == expected
    assert hub.asked == [asked]


def test_a_local_path_wins_over_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    hub = Hub(monkeypatch, ROWS)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    write_json_lines(tmp_path / "owner" / "name" / "a.jsonl", [{"text": "local"}])
    assert read_examples("owner/name", "s", PLAIN)[0].answer == "local"
    for no_hub_id in ("owner/nam.jsonl", "./owner/nam", "owner/name/x", Path("owner/nam")):
        assert "there is no file" in refusal(no_hub_id)
    assert hub.asked == []


def test_what_the_hub_does_not_give_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Hub(monkeypatch, datasets.DatasetDict(train=ROWS, test=ROWS))
    assert refusal("owner/name:c") == "owner/name:c has 2 splits ('train', 'test'); name one, as in owner/name:c:train."
    Hub(monkeypatch, ConnectionError("Couldn't reach the Hub.\nTry\n again."))
    sentence = refusal("owner/name")
    assert "owner/name cannot be loaded from the Hub (ConnectionError: Couldn't reach the Hub. Try again)" in sentence
    assert "no file or folder of that name, nor the folder owner; expected" in sentence
    (tmp_path / "owner").mkdir()
    file(tmp_path / "owner", "name.jsonl", "")
    assert refusal("owner/name").endswith("no file or folder of that name; did you mean 'name.jsonl'?")
    Hub(monkeypatch, datasets.Dataset.from_list([{"text": "one"}, {"text": ""}]))
    assert refusal("owner/name::train").startswith("row 1 of owner/name::train (counted from 0): 'text' is empty")
