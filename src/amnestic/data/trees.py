"""Rows that begin alike, read once as far as they do: a question with its answers, and whatever answers share.

``R`` rows, ``T`` positions that are read, ``M`` of all rows if nothing were shared, ``N`` scored tokens of the rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from .batches import HOST_BOUNDARIES, SEGMENT_PLACES, SEGMENT_ROWS, Batch, Share
from .encode import Encoded

LAID_OUT = 3
"""Most positions that attention lays out, for each one that a pass may read: a long beginning that thousands of short
rows share would be laid out thousands of times."""


@dataclass(frozen=True)
class Tree:
    """Rows as one packed pass in which every beginning stands once."""

    batch: Batch
    """Its scored tokens are the distinct ones: two rows share one if they are alike up to it."""
    place: np.ndarray
    """(N,) int64: which of the batch's scored tokens each of the rows is, row after row."""


def in_order(rows: Sequence[Encoded]) -> list[int]:
    """Return the indices of `rows` in the order of their tokens, so that those that begin alike are neighbours."""
    keys = [row.input_ids.astype(">u4").tobytes() for row in rows]
    return sorted(range(len(rows)), key=keys.__getitem__)


def trees(rows: Sequence[Encoded], tokens: int) -> Iterator[tuple[list[int], int]]:
    """Yield the indices of `rows` in runs that share beginnings, and the positions of each: so many, or of one row.

    The rows of a run have LAID_OUT times as many positions together at most.
    """
    run: list[int] = []
    used, laid_out, before = 0, 0, np.zeros(0, dtype=np.int64)
    for i in in_order(rows):
        fed = read_tokens(rows[i])
        more = len(fed) - common(before, fed)
        if run and (used + more > tokens or laid_out + len(fed) > LAID_OUT * tokens):
            yield run, used
            run, used, laid_out, more = [], 0, 0, len(fed)
        run.append(i)
        used, laid_out, before = used + more, laid_out + len(fed), fed
    if run:
        yield run, used


def read_tokens(row: Encoded) -> np.ndarray:
    """Return the tokens of a row that must be read: those before the last scored one, which nothing follows."""
    scored = np.flatnonzero(row.is_scored)
    return row.input_ids[: int(scored[-1])] if len(scored) else row.input_ids[:0]


def common(a: np.ndarray, b: np.ndarray) -> int:
    """Return how many tokens `a` and `b` have in common from the first on."""
    size = min(len(a), len(b))
    differs = np.flatnonzero(a[:size] != b[:size])
    return int(differs[0]) if len(differs) else size


def tree(rows: Sequence[Encoded]) -> Tree:
    """Return `rows`, in the order of their tokens (`in_order`) and each with a scored token, as one pass."""
    paths: list[np.ndarray] = []
    parts: list[np.ndarray] = []
    depths: list[np.ndarray] = []
    before, size = np.zeros(0, dtype=np.int64), 0
    for row in rows:
        fed = read_tokens(row)
        shared = common(before, fed)
        path = np.concatenate([paths[-1][:shared] if paths else before, np.arange(size, size + len(fed) - shared)])
        parts.append(fed[shared:])
        depths.append(np.arange(shared, len(fed)))
        paths.append(path)
        before, size = fed, size + len(fed) - shared
    scored = [np.flatnonzero(row.is_scored) for row in rows]
    position = np.concatenate([path[found - 1] for path, found in zip(paths, scored, strict=True)])
    target = np.concatenate([row.input_ids[found] for row, found in zip(rows, scored, strict=True)])
    known = 1 + int(target.max())
    distinct, place = np.unique(position * known + target, return_inverse=True)
    inputs = {
        "input_ids": torch.from_numpy(np.concatenate(parts).astype(np.int64)[None]),
        "position_ids": torch.from_numpy(np.concatenate(depths)[None]),
        **_attention(paths, size),
    }
    positions, targets = (torch.from_numpy(part) for part in np.divmod(distinct, known))
    share = Share(None, torch.zeros(len(positions), dtype=torch.int64), tuple(row.id for row in rows))
    return Tree(Batch(inputs, positions, targets, {"": share}), place.reshape(-1))


def _attention(paths: Sequence[np.ndarray], size: int) -> dict[str, object]:
    """Return the arguments that let each row attend to itself alone, though it stands among others.

    `paths` are the positions of each row. Attention lays the rows out one by one, the longest first, and takes each
    position's value from one of the rows that have it. A row that another one begins with needs none of its own.
    """
    is_part = [len(path) <= len(after) and (path == after[: len(path)]).all() for path, after in pairwise(paths)]
    own = [path for path, covered in zip(paths, [*is_part, False], strict=True) if not covered]
    own.sort(key=len, reverse=True)
    rows = np.concatenate(own)
    places = np.zeros(size, dtype=np.int64)
    places[rows] = np.arange(len(rows))
    boundaries = torch.from_numpy(np.cumsum([0, *map(len, own)]).astype(np.int32))
    return {
        "cu_seq_lens_q": boundaries,
        "cu_seq_lens_k": boundaries,
        "max_length_q": len(own[0]),
        "max_length_k": len(own[0]),
        HOST_BOUNDARIES: boundaries,
        SEGMENT_ROWS: torch.from_numpy(rows),
        SEGMENT_PLACES: torch.from_numpy(places),
    }
