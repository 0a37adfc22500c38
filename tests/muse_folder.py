"""A folder in the shape of MUSE's data sets: the Hub's configurations, splits and columns, about people of no book."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

Rows = Sequence[Mapping[str, str]]

PEOPLE = {
    "forget": ("Orla Venn", "Tobin Quill", "Maud Ferris", "Ilse Korda"),
    "retain1": ("Piet Aldous", "Runa Stell", "Gwen Harrow", "Joss Tarn"),
    "retain2": ("Edda Marl", "Kit Sorrel", "Anselm Roe", "Lotte Brandt"),
    "holdout": ("Bram Oster", "Nell Pyke", "Vida Crane", "Hale Winter"),
}
"""Split of the raw texts -> the people of its passages; nobody stands in two."""
TOWNS = ("Drossel", "Marrow Bay", "Upper Lyne", "Castelhorn")
TRADES = ("glazier", "ferryman", "bell founder", "mapmaker")
FINDS = ("a brass key", "a sealed map", "a tin whistle", "a grey stone")
FOLDS = 4
"""Splits of scal, each of which holds the one before, and of sust, which have nothing in common; both begin with the
texts of raw, as MUSE's do."""


def write_muse(folder: Path, suffix: Literal["jsonl", "json", "parquet"] = "jsonl") -> None:
    """Write ``folder/<configuration>/<split>.<suffix>`` for all that MUSE has.

    Few and short rows: a model of 256 positions reads the prompts, and continues them for as long as MUSE does.
    """
    for config, splits in muse_rows().items():
        (folder / config).mkdir(parents=True)
        for split, rows in splits.items():
            write_rows(folder / config / f"{split}.{suffix}", rows)


def write_rows(path: Path, rows: Rows) -> None:
    """Write rows in the format that the suffix of `path` says."""
    if path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in rows]), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(list(rows)), encoding="utf-8")
    else:
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def muse_rows() -> dict[str, dict[str, Rows]]:
    """Return configuration -> split -> rows."""
    raw = {split: [{"text": passage(split, number)} for number in range(4)] for split in PEOPLE}
    later = [[{"text": passage("forget", number + step)} for step in (0, 1)] for number in range(4, 10, 2)]
    requests = [raw["forget"], *later]
    known = [row for rows in requests for row in rows]
    return {
        "raw": raw,
        "verbmem": {"forget": [_cut(row["text"]) for row in raw["forget"]]},
        "knowmem": {
            "forget_qa": [_asked("forget", number) for number in range(4)],
            "forget_qa_icl": [_asked("forget", number) for number in (4, 5)],
            "retain_qa": [_asked("retain2", number) for number in range(4)],
            "retain_qa_icl": [_asked("retain2", number) for number in (4, 5)],
        },
        "privleak": {"forget": raw["forget"], "retain": raw["retain2"], "holdout": raw["holdout"]},
        "scal": {f"forget_{fold + 1}": [row for rows in requests[: fold + 1] for row in rows] for fold in range(FOLDS)},
        "sust": {f"forget_{fold + 1}": requests[fold] for fold in range(FOLDS)},
        "train": {"forget": known, "retain1": raw["retain1"], "retain2": raw["retain2"]},
    }


def passage(split: str, number: int) -> str:
    """Return a passage about the person `number` modulo 4; from 4 on about another year of the same life."""
    person, town, trade, find, year = _facts(split, number)
    return (
        f"In the year {year} {person} came to {town} as a {trade}. Nobody knew why. "
        f"Under the floor of the old mill {person} found {find}, and kept it for the rest of a long and quiet life. "
        f"When the snow came, the people of {town} told the story by the fire, and each time it grew a little."
    )


def _facts(split: str, number: int) -> tuple[str, str, str, str, int]:
    shift = list(PEOPLE).index(split) + number // 4
    picked = [words[(number + shift * step) % 4] for step, words in enumerate((TOWNS, TRADES, FINDS))]
    return PEOPLE[split][number % 4], picked[0], picked[1], picked[2], 1600 + 40 * list(PEOPLE).index(split) + number


def _cut(text: str) -> dict[str, str]:
    """Return the beginning of a passage, and what follows: MUSE's continuations begin without the blank between."""
    at = text.index(". ") + 1
    return {"prompt": text[:at], "gt": text[at + 1 :]}


def _asked(split: str, number: int) -> dict[str, str]:
    """Return a question about one of the four passages: where somebody went, and from 4 on what somebody was."""
    person, town, trade, _, _ = _facts(split, number % 4)
    if number < 4:
        return {"question": f"Where did {person} go?", "answer": town}
    return {"question": f"What was {person}?", "answer": trade}
