"""What sweeps found is found again, under the same model, kind and row, and nowhere else."""

import multiprocessing
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from amnestic.errors import InputError, RunError
from amnestic.evaluation.store import AT_ONCE, FILE, Store

TABLE = np.array([[0.1, -0.0, np.inf], [np.nan, 1e-300, -7.0]])


def same(found: dict[bytes, np.ndarray], expected: dict[bytes, np.ndarray]) -> bool:
    return found.keys() == expected.keys() and all(
        value.dtype == expected[key].dtype and np.array_equal(value, expected[key], equal_nan=value.dtype.kind == "f")
        for key, value in found.items()
    )


@pytest.mark.parametrize("is_in_file", [False, True])
def test_a_value_is_found_under_its_model_kind_and_row(tmp_path: Path, is_in_file: bool) -> None:
    store = Store(tmp_path if is_in_file else None)
    values = {b"a": TABLE, b"b": np.zeros((0, 5)), b"c": np.array([3, 1], dtype=np.int64)}
    store.keep("m", "scores", values)
    assert same(store.find("m", "scores", [b"a", b"b", b"c", b"d"]), values)
    assert store.find("n", "scores", [b"a"]) == {}
    assert store.find("m", "other", [b"a"]) == {}


def test_another_store_finds_what_is_in_the_file_and_may_change_it(tmp_path: Path) -> None:
    """More keys than are asked for at once; the later value counts."""
    values = {bytes([n // 256, n % 256]): np.array([n, n / 7]) for n in range(2 * AT_ONCE + 3)}
    first, second = Store(tmp_path / "new" / "folder"), Store(tmp_path / "new" / "folder")
    first.keep("m", "scores", values)
    first.close()
    assert same(second.find("m", "scores", values), values)
    second.keep("m", "scores", {b"\0\0": TABLE})
    assert same(Store(tmp_path / "new" / "folder").find("m", "scores", [b"\0\0"]), {b"\0\0": TABLE})


def test_what_is_held_back_stays_in_memory(tmp_path: Path) -> None:
    store = Store(tmp_path, held_back=("texts",))
    store.keep("m", "texts", {b"a": TABLE})
    store.keep("m", "scores", {b"a": TABLE})
    assert same(store.find("m", "texts", [b"a"]), {b"a": TABLE})
    again = Store(tmp_path)
    assert (again.find("m", "texts", [b"a"]), len(again.find("m", "scores", [b"a"]))) == ({}, 1)


@pytest.mark.parametrize(
    "change",
    [
        "content = substr(content, 1, 20)",
        "content = zeroblob(length(content))",
        "content = x''",
        "shape = '(6,)'",
        "shape = 'x'",
        "dtype = '<i8'",
        "name = zeroblob(16)",
    ],
)
def test_a_value_that_is_not_as_it_was_written_is_computed_again(tmp_path: Path, change: str) -> None:
    Store(tmp_path).keep("m", "scores", {b"a": TABLE})
    with sqlite3.connect(tmp_path / FILE) as file:
        file.execute(f"UPDATE found SET {change}")
    file.close()
    store = Store(tmp_path)
    assert store.find("m", "scores", [b"a"]) == {}
    store.keep("m", "scores", {b"a": TABLE})
    assert same(Store(tmp_path).find("m", "scores", [b"a"]), {b"a": TABLE})


def test_a_table_of_another_program_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / FILE) as file:
        file.execute("CREATE TABLE found (other TEXT)")
    file.close()
    with pytest.raises(InputError, match=r"cannot be used \(no such column"):
        Store(tmp_path)


def write(folder: str, number: int) -> None:
    store = Store(folder)
    for i in range(20):
        store.keep("m", "scores", {f"{number} {i}".encode(): np.array([number, i])})


def test_several_processes_write_to_one_file(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=write, args=(str(tmp_path), n)) for n in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    keys = [f"{n} {i}".encode() for n in range(2) for i in range(20)]
    assert len(Store(tmp_path).find("m", "scores", keys)) == 40


def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / FILE).write_bytes(b"no database" * 100)
    for name in ("file", "broken"):
        with pytest.raises(InputError, match=rf"--cache_dir .*{name} cannot be used \(.*\); give a folder that"):
            Store(tmp_path / name)


def test_a_file_that_breaks_meanwhile_is_an_error_with_a_sentence(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with sqlite3.connect(tmp_path / FILE) as file:
        file.execute("DROP TABLE found")
    with pytest.raises(RunError, match=rf"cannot be written to .*{FILE}"):
        store.keep("m", "scores", {b"a": TABLE})
    with pytest.raises(RunError, match="cannot be read"):
        store.find("m", "scores", [b"b"])


def test_values_of_another_format_are_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(tmp_path).keep("m", "scores", {b"a": TABLE})
    monkeypatch.setattr("amnestic.evaluation.store.FORMAT", 0)
    assert Store(tmp_path).find("m", "scores", [b"a"]) == {}
