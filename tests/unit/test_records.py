"""Rows that lie in a temporary file: what comes back, what is left behind, and how little memory they take."""

import json
import os
import tempfile
import tracemalloc
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amnestic.constraints.options import BoundOptions
from amnestic.data import encode, records
from amnestic.data.batches import StepRows, micro_batches
from amnestic.data.cuts import Budget, like_lengths
from amnestic.data.encode import Encoded, Encoder, encoded_rows, lengths, token_digests
from amnestic.data.example import Example, content_digests, example_rows
from amnestic.data.options import DataOptions
from amnestic.data.records import DIGEST, Records, is_among, repeats, take
from amnestic.data.sources import read_examples
from amnestic.errors import InputError
from amnestic.probing import draw_probe


@dataclass(frozen=True, eq=False)
class Anything:
    """A row with a field of every sort that an example has, or may come to have."""

    ids: np.ndarray
    mask: np.ndarray | None
    text: str
    pairs: tuple[tuple[int, int], ...]
    messages: tuple[dict[str, str], ...]
    count: Any
    closes: bool


def anything(number: int) -> Anything:
    ids = np.array([number, 2**31 + number] if number % 2 else [number], dtype=np.int64)
    mask = None if number % 3 else np.array([True, False, number % 2 == 0])
    text = ("plain", "\0\r\n\t", "Zoë 🙂 你好", "")[number % 4] * number
    turns = ({"role": "user", "content": text},) * (number % 2)
    return Anything(ids, mask, text, ((0, number), (5, 7))[: number % 3], turns, np.int64(number), number % 2 == 0)


def filled(count: int) -> Records[Anything]:
    rows = Records(Anything, [("count", np.int32), ("ids", DIGEST)], lambda row: (row.count, row.ids.tobytes()[:16]))
    rows.extend(map(anything, range(count)))
    return rows


def assert_same(found: Anything, expected: Anything) -> None:
    for name in ("ids", "mask"):
        array, wanted = getattr(found, name), getattr(expected, name)
        assert (array is None) == (wanted is None)
        if wanted is not None:
            np.testing.assert_array_equal(array, wanted)
            assert array.dtype == wanted.dtype
            array[:0] = 0  # not read-only, so torch takes it without a warning
    for name in ("text", "pairs", "messages", "count", "closes"):
        assert getattr(found, name) == getattr(expected, name)


@pytest.mark.parametrize("memory", [0, 1000, 2**24])
def test_rows_come_back_as_they_were_from_memory_and_from_the_file(
    memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "MEMORY", memory)
    rows = filled(200)
    assert len(rows) == 200
    for number in [*range(200), -1, -200]:
        assert_same(rows[number], anything(number % 200))
    for number, row in enumerate(rows):
        assert_same(row, anything(number))
    np.testing.assert_array_equal(rows.facts["count"], np.arange(200))
    for beyond in (200, -201):
        with pytest.raises(IndexError):
            rows[beyond]


def test_a_view_gives_out_the_chosen_rows_and_what_is_known_of_them() -> None:
    rows = filled(20)
    view = take(rows, [3, 19, 3])
    assert [row.count for row in view] == [3, 19, 3]
    assert [row.count for row in take(view, np.array([1]))] == [19]
    assert [row.count for row in rows[-1:2:-8]] == [19, 11, 3]
    np.testing.assert_array_equal(records.column(take(view, [2, 1]), "count"), [3, 19])
    np.testing.assert_array_equal(view.facts["count"], [3, 19, 3])
    assert take(["a", "b", "c"], np.array([2, 0])) == ["c", "a"]


def test_rows_equal_a_list_of_equal_rows() -> None:
    examples = [Example(f"s:{i}", "text", "", f"text {i}") for i in range(5)]
    rows = example_rows()
    rows.extend(examples)
    assert rows == examples
    assert rows[1:] == examples[1:]
    assert rows != examples[1:]
    assert rows != [*examples[:4], replace(examples[4], answer="other")]
    assert rows != 5
    assert repr(rows).startswith("<5 rows: Example(id='s:0'")


def test_the_temporary_file_has_no_name_and_holds_what_memory_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file without a name is gone when its process is, however that ends."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(records, "MEMORY", 5000)
    rows = filled(500)
    assert rows._file is not None
    status = os.fstat(rows._file.fileno())
    assert status.st_dev == tmp_path.stat().st_dev
    assert status.st_size == rows._written > 50_000
    assert len(rows._tail) <= 5000
    assert status.st_nlink == 0
    assert list(tmp_path.iterdir()) == []


def test_a_full_temporary_folder_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(records, "MEMORY", 100)
    with Path("/dev/full").open("wb", buffering=0) as full:
        monkeypatch.setattr(tempfile, "TemporaryFile", lambda buffering: full)
        with pytest.raises(InputError) as caught:
            filled(50)
    assert str(caught.value) == (
        f"the temporary folder {tmp_path} takes no more data (No space left on device); set TMPDIR to a folder with "
        "more room."
    )


@given(a=st.lists(st.binary(max_size=2)), b=st.lists(st.binary(max_size=2)))
def test_digests_are_found_as_a_set_finds_them(a: list[bytes], b: list[bytes]) -> None:
    """Behind 13 bytes in common, and one at the end, stands what differs; zeros there count too."""
    whole = [[b"x" * 13 + item.ljust(2, b"\0") + b"y" for item in items] for items in (a, b)]
    arrays = [np.array(items, dtype=DIGEST) for items in whole]
    assert is_among(*arrays).tolist() == [item in set(whole[1]) for item in whole[0]]
    assert repeats(arrays[0]) == len(whole[0]) - len(set(whole[0]))


def encoded(count: int) -> list[Encoded]:
    """Rows of 2 to 9 tokens; from the 251st on each repeats the tokens of an earlier one."""
    found = []
    for i in range(count):
        source = i - 200 if i >= 250 else i
        ids = np.arange(2 + source % 8) + 10 * source
        found.append(Encoded(f"r:{i}", ids, np.arange(len(ids)) > 0, 1, False, "prompt", f"answer {i}"))
    return found


def stored(rows: list[Encoded]) -> Records[Encoded]:
    found = encoded_rows()
    found.extend(rows)
    return found


def test_probe_batches_and_lengths_are_those_of_a_list() -> None:
    plain = encoded(300)
    kept = stored(plain)
    np.testing.assert_array_equal(lengths(kept), lengths(plain))
    np.testing.assert_array_equal(token_digests(kept), token_digests(plain))
    assert list(like_lengths(kept, 5)) == list(like_lengths(plain, 5))
    options = BoundOptions(probe_size=20)
    parts = [draw_probe(rows, options) for rows in (plain, kept)]
    assert 200 < len(parts[0][1]) < 280  # copies of probe rows are held out too
    for expected, found in zip(*parts, strict=True):
        assert [row.id for row in found] == [row.id for row in expected]
    rows = StepRows({"retain": 300}, 16, seed=3)
    for step in range(3):
        batches = [micro_batches({"retain": split}, rows.rows(step), Budget(40)) for split in (plain, kept)]
        for expected, found in zip(*batches, strict=True):
            assert found.input_ids.equal(expected.input_ids)
            assert found.targets.equal(expected.targets)


def held(folder: Path, tokenizer: Any, count: int) -> tuple[int, int]:
    """Return the bytes that `count` rows take while they are read and encoded: at the end, and at most."""
    path = folder / f"{count}.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for i in range(count):
            file.write(json.dumps({"question": f"Who is {i}?", "answer": f"Person {i} is {i}." * 3}) + "\n")
    tracemalloc.start()
    try:
        examples = read_examples(path, "retain", DataOptions())
        split = Encoder(tokenizer, DataOptions()).encode("retain", examples)
        _, training = draw_probe(split.examples, BoundOptions(probe_size=16))
        order = StepRows({"retain": len(training)}, 16, seed=0)
        assert (
            sum(len(batch.input_ids) for batch in micro_batches({"retain": training}, order.rows(0), Budget(1000)))
            == 16
        )
        assert next(iter(like_lengths(split.examples, 8)))
        assert (len(split.examples), repeats(content_digests(examples))) == (count, 0)
        return tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()


def test_memory_grows_by_tens_of_bytes_a_row(tmp_path: Path, tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As objects a row took 1,500 bytes and more; its text and tokens alone are some 500 here."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model())
    monkeypatch.setattr(records, "MEMORY", 2**12)
    monkeypatch.setattr(encode, "BATCH", 64)
    held(tmp_path, tokenizer, 100)  # what is imported and cached once
    (small, small_peak), (large, large_peak) = (held(tmp_path, tokenizer, count) for count in (400, 2400))
    assert (large - small) / 2000 < 160
    assert (large_peak - small_peak) / 2000 < 180
