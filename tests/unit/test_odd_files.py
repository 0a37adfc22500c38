"""Files as they come: each odd one is read, or refused with a sentence that names it, the line, and the cure."""

import bz2
import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amnestic.data import json_rows, sources
from amnestic.data.example import Example
from amnestic.data.options import DataOptions
from amnestic.data.sources import read_examples
from amnestic.errors import InputError

PLAIN = DataOptions()
PAIRS = [("Who?", "Zoë 🙂"), ("Où?", "你好\n再见"), ("Why?", 'So, "so".')]
EXPECTED = [Example(f"s:{row}", "question", *pair) for row, pair in enumerate(PAIRS)]
ROWS = [{"question": question, "answer": answer} for question, answer in PAIRS]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
TABLE = 'question,answer\nWho?,Zoë 🙂\nOù?,"你好\n再见"\nWhy?,"So, ""so""."\n'


def file(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refusal(source: Any, options: DataOptions = PLAIN) -> str:
    with pytest.raises(InputError) as caught:
        read_examples(source, "s", options)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith((".", "?"))
    return sentence


def damaged(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 255]) + content[at:][1:]


def parquet(folder: Path, name: str, **columns: Any) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / name)
    return folder / name


READ: dict[str, str | bytes] = {
    "lines.jsonl.gz": gzip.compress(LINES.encode()),
    "two members.jsonl.gz": gzip.compress(LINES[:20].encode()) + gzip.compress(LINES.encode()[20:]),
    "array.json.gz": gzip.compress(json.dumps(ROWS).encode()),
    "table.csv.gz": gzip.compress(TABLE.encode()),
    "TABLE.TSV.GZ": gzip.compress(TABLE.replace("n,a", "n\ta").replace("?,", "?\t").encode()),
    "suffix forgotten.jsonl": gzip.compress(LINES.encode()),
    "mark in gzip.csv.gz": gzip.compress(TABLE.encode("utf-8-sig")),
    "mark.jsonl": LINES.encode("utf-8-sig"),
    "windows.jsonl": LINES.replace("\n", "\r\n"),
    "empty lines.jsonl": LINES.replace("\n", "\n\n  \n"),
    "no last line end.jsonl": LINES.rstrip(),
    "other columns.jsonl": LINES.replace("}", ', "n": [NaN, 1e999, 123456789012345678901234567890]}'),
    "commas at all ends.csv": 'question,answer,,\nWho?,Zoë 🙂,,\nOù?,"你好\n再见",,\nWhy?,"So, ""so"".",,\n',
    "BZh and PAR1.csv": TABLE.replace("question,answer", "BZh,PAR1,question,answer")
    .replace("\nW", "\n1,2,W")
    .replace("\nO", "\n1,2,O"),
    "deep but ignored.jsonl": LINES.replace("}", ', "tree": ' + "[" * 500 + "]" * 500 + "}"),
}


@pytest.mark.parametrize("name", READ)
def test_what_is_odd_and_clear_is_read(tmp_path: Path, name: str) -> None:
    assert read_examples(file(tmp_path, name, READ[name]), "s", PLAIN) == EXPECTED


def test_compressed_files_of_a_folder_are_read_with_the_others(tmp_path: Path) -> None:
    file(tmp_path, "a.jsonl", '{"text": "one"}')
    file(tmp_path, "b.csv.gz", gzip.compress(b"text\ntwo\n"))
    assert [example.answer for example in read_examples(tmp_path, "s", PLAIN)] == ["one", "two"]
    file(tmp_path, "c.jsonl.zst", b"\x28\xb5\x2f\xfd")
    assert refusal(tmp_path) == (
        f"{tmp_path}/c.jsonl.zst would be left out; expected plain text, or text compressed by gzip, so unpack it "
        "first."
    )


UNPACK = "; expected plain text, or text compressed by gzip, so unpack it first."
SAVE = "; expected UTF-8, so save it in that encoding."
ZIPPED = gzip.compress(LINES.encode() * 50, mtime=0)
REFUSED: dict[str, tuple[str, str | bytes, str]] = {
    "no gzip": (
        "f.jsonl.gz",
        LINES,
        "f.jsonl.gz is not compressed by gzip, though its name says so; rename it, or compress it again.",
    ),
    "gzip cut off": (
        "f.jsonl.gz",
        ZIPPED[: len(ZIPPED) // 2],
        (
            "f.jsonl.gz cannot be unpacked by gzip (Compressed file ended before the end-of-stream marker was "
            "reached); it is cut off or damaged, so copy it or compress it again."
        ),
    ),
    "gzip cut in its head": ("f.csv.gz", b"\x1f\x8b", "f.csv.gz cannot be unpacked by gzip (Compressed file ended"),
    "gzip damaged inside": ("f.jsonl.gz", damaged(ZIPPED, 10), "f.jsonl.gz cannot be unpacked by gzip (Error -3 while"),
    "gzip damaged at its end": (
        "f.jsonl.gz",
        damaged(ZIPPED, len(ZIPPED) - 6),
        "f.jsonl.gz cannot be unpacked by gzip (CRC check failed",
    ),
    "gzip with more behind": ("f.jsonl.gz", ZIPPED + b"more", "f.jsonl.gz cannot be unpacked by gzip (Not a gzipped"),
    "gzip of nothing": ("f.jsonl.gz", gzip.compress(b""), "f.jsonl.gz is empty; expected at least one row."),
    "broken line in gzip": ("f.jsonl.gz", gzip.compress(b'{"text": "a"}\n{'), "f.jsonl.gz, line 2 is not JSON ("),
    "latin-1 in gzip": (
        "f.jsonl.gz",
        gzip.compress('{"text": "a"}\n{"text": "ä"}'.encode("latin-1")),
        "f.jsonl.gz, line 2 is not UTF-8; save the file in that encoding.",
    ),
    "zst": ("f.jsonl.zst", b"\x28\xb5\x2f\xfd", f"f.jsonl.zst is compressed, by its suffix{UNPACK}"),
    "zip": ("f.zip", b"PK\x03\x04", f"f.zip is compressed, by its suffix{UNPACK}"),
    "tar": ("f.tar.gz", gzip.compress(b""), f"f.tar.gz is compressed, by its suffix{UNPACK}"),
    "parquet in gzip": ("f.parquet.gz", gzip.compress(b""), f"f.parquet.gz is compressed, by its suffix{UNPACK}"),
    "zst inside": ("f.jsonl", b"\x28\xb5\x2f\xfd\0", f"f.jsonl is compressed by Zstandard by its first bytes{UNPACK}"),
    "zip inside": (
        "f.csv",
        b"PK\x03\x04",
        f"f.csv is a ZIP archive, as .zip and .xlsx files are, by its first bytes{UNPACK}",
    ),
    "bzip2 inside": ("f.json", bz2.compress(b"[]"), f"f.json is compressed by bzip2 by its first bytes{UNPACK}"),
    "parquet inside": (
        "f.jsonl",
        b"PAR1\x15\x04",
        "f.jsonl is a Parquet file by its first bytes; give it the suffix .parquet.",
    ),
    "gzip inside": (
        "f.parquet",
        gzip.compress(b""),
        "f.parquet is compressed by gzip by its first bytes; a Parquet file is compressed inside, so unpack it first.",
    ),
    "no known suffix": (
        "f.txt",
        "text",
        (
            "f.txt has the suffix '.txt'; expected one of .json, .jsonl, .csv, .tsv, .parquet; .gz may follow all but "
            "the last."
        ),
    ),
    "UTF-16": ("f.jsonl", LINES.encode("utf-16"), f"f.jsonl is UTF-16 by its first bytes{SAVE}"),
    "UTF-16 unmarked": (
        "f.jsonl",
        LINES.encode("utf-16-le"),
        f"f.jsonl is UTF-16 without a byte order mark by its first bytes{SAVE}",
    ),
    "UTF-16 unmarked, big end first": (
        "f.csv",
        TABLE.encode("utf-16-be"),
        f"f.csv is UTF-16 without a byte order mark by its first bytes{SAVE}",
    ),
    "UTF-16 of little Latin": (
        "f.csv",
        f"text\n{'一世界' * 500}".encode("utf-16-le"),
        f"f.csv is UTF-16 without a byte order mark by its first bytes{SAVE}",
    ),
    "UTF-16 that begins with no Latin": (
        "f.csv",
        "名前,text\nÄ,b\n".encode("utf-16-le"),
        "f.csv, line 2 is not UTF-8 (it looks like UTF-16 without a byte order mark); save the file in that encoding.",
    ),
    "UTF-32 unmarked": (
        "f.csv",
        TABLE.encode("utf-32-le"),
        f"f.csv is UTF-32 without a byte order mark by its first bytes{SAVE}",
    ),
    "UTF-16 in gzip": (
        "f.csv.gz",
        gzip.compress(TABLE.encode("utf-16")),
        f"f.csv.gz is UTF-16 by its first bytes{SAVE}",
    ),
    "zeros": ("f.jsonl", b"\0" * 9000, "f.jsonl begins with nothing but zero bytes; it is damaged, so copy it again."),
    "zero in a line": (
        "f.jsonl",
        '{"text": "a\0b"}',
        "f.jsonl, line 1 is not JSON (Invalid control character at, column 12)",
    ),
    "comma behind a line": ("f.jsonl", '{"text": "a"},\n', "f.jsonl, line 1 is not JSON (Extra data, column 14)"),
    "comma in an object": (
        "f.jsonl",
        '{"text": "a",}',
        "f.jsonl, line 1 is not JSON (Expecting property name enclosed",
    ),
    "comma in an array": ("f.json", '[{"text": "a"},\n]', "f.json, line 2 is not JSON (Expecting value, column 1)"),
    "comma behind a record": (
        "f.csv",
        "question,answer\nWho?,Ann.,\n",
        "f.csv, line 2 has 3 cells, but the header names 2 columns; put cells that contain the delimiter",
    ),
    "key named twice": (
        "f.jsonl",
        '{"text": "a"}\n{"text": "a", "text": "b"}',
        "f.jsonl, line 2 names the key 'text' twice in one object; expected it once.",
    ),
    "key named twice in an array": (
        "f.json",
        '[{"text": "a"},\n\n{"n": {"m": 1, "m": 1}, "text": "b"}]',
        "f.json, line 3 names the key 'm' twice in one object; expected it once.",
    ),
    "NaN": (
        "f.jsonl",
        '{"text": NaN}',
        "f.jsonl, line 1: 'text' is the number nan; expected text, so write some there, or remove",
    ),
    "beyond the largest number": (
        "f.jsonl",
        '{"text": 1e999}',
        "f.jsonl, line 1: 'text' is the number inf; expected text.",
    ),
    "deep": (
        "f.jsonl",
        '{"text": "a"}\n{"text": ' + "[" * 100_000,
        "f.jsonl, line 2 is not JSON (its values are nested too deeply); expected one object a line",
    ),
    "empty cell": (
        "f.csv",
        "question,answer\nWho?,Ann.\nWhy?,\n",
        "f.csv, line 3: 'answer' is empty; write text there, or remove the row.",
    ),
    "null": (
        "f.jsonl",
        '{"text": null}',
        "f.jsonl, line 1: 'text' is null; expected text, so write some there, or remove the row.",
    ),
    "object": (
        "f.jsonl",
        '{"question": "Who?", "answer": {"start": 3, "text": "Ann."}}',
        (
            "f.jsonl, line 1: 'answer' is an object; expected text, which may stand within it: name a column such as "
            "...text."
        ),
    ),
    "columns within a column": (
        "f.jsonl",
        '{"qa": {"q": "Who?", "a": "Ann."}}',
        "f.jsonl, line 1 has no usable columns (found: 'qa', 'qa.q', 'qa.a'); expected messages, question and answer",
    ),
}


@pytest.mark.parametrize(("name", "content", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_is_odd_and_not_clear_is_refused(tmp_path: Path, name: str, content: str | bytes, sentence: str) -> None:
    found = refusal(file(tmp_path, name, content))
    whole = f"{tmp_path}/{sentence}"
    assert (found if sentence.endswith(".") else found[: len(whole)]) == whole


def test_what_is_no_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "loop.jsonl").symlink_to("loop.jsonl")
    (tmp_path / "lost.jsonl").symlink_to("elsewhere.jsonl")
    pipe = f"{tmp_path}/pipe.jsonl is a pipe or a device; expected a file, so write the data to one."
    assert refusal(tmp_path / "pipe.jsonl") == pipe
    assert refusal(tmp_path / "folder.jsonl").startswith(
        f"the folder {tmp_path}/folder.jsonl has no file that can be read (found: none); expected files that end in"
    )
    for name in ("loop", "lost"):
        sentence = f"{tmp_path}/{name}.jsonl is a link that leads nowhere; give the file itself."
        assert refusal(tmp_path / f"{name}.jsonl") == sentence


@pytest.mark.parametrize("name", ["f.jsonl", "f.json", "f.csv", "f.parquet", "f.jsonl.gz"])
def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The superuser may read everything, so the system's refusal is written here."""
    path = file(tmp_path, name, "text")

    def refuse(self: Path, *args: Any, **options: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    assert refusal(path) == f"{path} cannot be read (Permission denied)."


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=50)
@given(values=st.lists(JSON, max_size=5), piece=st.integers(1, 7), indent=st.none() | st.integers(0, 2))
def test_an_array_in_pieces_is_what_json_makes_of_it(
    tmp_path_factory: pytest.TempPathFactory, values: list[Any], piece: int, indent: int | None
) -> None:
    """Whatever is cut in two by the end of a piece: a number, an escape, a word, a pair of surrogates."""
    for ascii_only in (True, False):
        written = json.dumps(values, indent=indent, ensure_ascii=ascii_only)
        path = tmp_path_factory.getbasetemp() / "pieces.json"
        path.write_text(written, encoding="utf-8", newline="")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(json_rows, "PIECE", piece)
            assert [row.value for row in json_rows.read_json(path)] == values


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ('[{"a": 1},\n {"a" 2}]', "line 2 is not JSON (Expecting ':' delimiter, column 7)"),
        ('[{"a": 1}, {"a": 2}, {"a": tru}]', "line 1 is not JSON (Expecting value, column 28)"),
        ('[{"a": 1}, {"a": "b', "line 1 is not JSON (Unterminated string starting at, column 18)"),
        ('[{"a": 1},\n{"a": 1}\n\n{"a": 1}]', "line 4 is not JSON (Expecting ',' delimiter, column 1)"),
        ('[{"a": 1}]\n []', "line 2 is not JSON (Extra data, column 2)"),
        ('[{"a": 1}, 123456', "line 1 is not JSON (Expecting ',' delimiter, column 18)"),
    ],
)
@pytest.mark.parametrize("piece", [1, 5, 1000])
def test_an_error_of_an_array_is_placed_whatever_the_pieces(
    tmp_path: Path, content: str, cause: str, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: lines and columns counted by hand, from 1."""
    monkeypatch.setattr(json_rows, "PIECE", piece)
    path = file(tmp_path, "f.json", content)
    with pytest.raises(InputError) as caught:
        list(json_rows.read_json(path))
    assert str(caught.value).startswith(f"{path}, {cause};")


def test_a_large_array_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No piece is longer than the longest item needs, and together they are the file: nothing is read twice."""
    monkeypatch.setattr(json_rows, "PIECE", 1000)
    items = [{"text": str(i) * (40 if i != 30 else 4000)} for i in range(60)]
    path = file(tmp_path, "f.json", json.dumps(items))
    read: list[int] = []
    with path.open(encoding="utf-8") as plain:

        class Watched:
            def read(self, count: int) -> str:
                text = plain.read(count)
                read.append(len(text))
                return text

        unread = json_rows.Unread(Watched())
        assert [value for _, value in json_rows._items(unread)] == items
    assert sum(read) == path.stat().st_size
    assert max(read) <= 8000


@pytest.mark.parametrize(
    ("row", "named", "expected"),
    [
        ({"qa": {"q": "Q", "a": "A"}}, {"question_column": "qa.q", "answer_column": "qa.a"}, ("question", "Q", "A")),
        ({"x": {"y": {"z": "A"}}}, {"text_column": "x.y.z"}, ("text", "", "A")),
        ({"x.y": "A", "x": {"y": "B"}}, {"text_column": "x.y"}, ("text", "", "A")),
        ({"x": {"y.z": "A"}}, {"text_column": "x.y.z"}, ("text", "", "A")),
    ],
)
def test_a_dot_leads_into_a_column_unless_a_column_is_named_so(
    tmp_path: Path, row: dict[str, Any], named: dict[str, str], expected: tuple[str, str, str]
) -> None:
    options = DataOptions(**named)
    assert read_examples([row], "s", options) == [Example("s:0", *expected)]
    path = tmp_path / "f.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    assert read_examples(path, "s", options) == [Example("s:0", *expected)]


def test_a_lost_column_within_a_column_is_refused(tmp_path: Path) -> None:
    options = DataOptions(answer_column="answer.text")
    rows = [{"question": "Q", "answer": {"text": "A", "start": 1}}, {"question": "Q", "answer": {"start": 1}}]
    assert refusal(rows, options) == (
        "row 1 of s (counted from 0) has no column 'answer.text' (found: 'question', 'answer', 'answer.start'); every "
        "row needs the columns that the first row is read from: 'question', 'answer.text'."
    )
    rows[1]["answer"] = None
    assert "row 1 of s (counted from 0): 'answer.text' is null; expected text, so write some" in refusal(rows, options)
    assert "no column 'answer.txt' for --answer_column (found: 'question', 'answer', 'answer.text'" in refusal(
        rows, DataOptions(answer_column="answer.txt")
    )


def test_a_missing_cell_of_a_table_is_named_by_its_row(tmp_path: Path) -> None:
    cure = "; expected text, so write some there, or remove the row."
    texts = parquet(tmp_path, "f.parquet", question=["Q", "Q"], answer=["A", None])
    assert refusal(texts) == f"{texts}, row 1 (counted from 0): 'answer' is null{cure}"
    numbers = parquet(tmp_path, "g.parquet", question=["Q", "Q"], answer=[1.5, float("nan")])
    assert refusal(numbers) == f"{numbers}, row 1 (counted from 0): 'answer' is the number nan{cure}"


@pytest.mark.parametrize("table", [pandas.DataFrame, pyarrow.Table.from_pylist, pyarrow.RecordBatch.from_pylist])
def test_a_table_in_memory_is_read_row_by_row(table: Callable[[list[dict[str, Any]]], Any]) -> None:
    rows = [{"question": f"Q{i}", "answer": i, "other": None} for i in range(300)]
    expected = [Example(f"s:{i}", "question", f"Q{i}", str(i)) for i in range(300)]
    assert read_examples(table(rows), "s", PLAIN) == expected


def test_messages_of_a_data_frame_may_be_arrays() -> None:
    """So they are after reading Parquet with pandas."""
    turns = np.array([{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ann."}], dtype=object)
    frame = pandas.DataFrame({"messages": [turns]})
    asked = ({"role": "user", "content": "Who?"},)
    assert read_examples(frame, "s", PLAIN) == [Example("s:0", "messages", asked, "Ann.")]


def test_a_table_of_polars_is_read_by_its_rows_as_dictionaries() -> None:
    class DataFrame(list[str]):
        """As much of polars' table as is read: iterating over it gives its columns."""

        columns = ("text",)

        def iter_rows(self, named: bool) -> Any:
            assert named
            return iter([{"text": "one"}, {"text": "two"}])

    assert [example.answer for example in read_examples(DataFrame(["text"]), "s", PLAIN)] == ["one", "two"]


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (
            pandas.DataFrame({"question": ["Q", "Q"], "answer": ["A", float("nan")]}),
            (
                "row 1 of s (counted from 0): 'answer' is the number nan; expected text, so write some there, or "
                "remove the row."
            ),
        ),
        (
            pandas.DataFrame({"text": pandas.array(["a", pandas.NA], dtype="string")}),
            (
                "row 1 of s (counted from 0): 'text' is missing (NAType); expected text, so write some there, or "
                "remove the row."
            ),
        ),
        (
            pandas.DataFrame([["a", "b"]], columns=["text", "text"]),
            "s names the column 'text' twice; expected every column once.",
        ),
        (
            pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 2, names=["text", "text"]),
            "s names the column 'text' twice; expected every column once.",
        ),
        (pandas.DataFrame({"text": []}), "s is empty; expected at least one row."),
        (
            pandas.Series(["a", "b"]),
            "row 0 of s (counted from 0) is text; expected an object that maps columns to values.",
        ),
        (np.array(["a"]), "row 0 of s (counted from 0) is text; expected an object that maps columns to values."),
    ],
)
def test_a_table_in_memory_that_cannot_be_used_is_refused(table: Any, sentence: str) -> None:
    assert refusal(table) == sentence


def test_a_column_named_twice_in_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.parquet"
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["text", "text"])
    pyarrow.parquet.write_table(table, path)
    assert refusal(path) == f"{path} names the column 'text' twice; expected every column once."


def test_a_data_set_of_the_hub_is_read_through_the_same_door(monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set may be set to give out arrays, from the Hub as from memory."""
    given_out = datasets.Dataset.from_list(ROWS).with_format("numpy")
    monkeypatch.setattr(sources, "_from_hub", lambda name: given_out)
    assert read_examples("owner/name", "s", PLAIN) == EXPECTED
