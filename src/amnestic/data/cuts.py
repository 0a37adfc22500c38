"""How rows are cut into passes: by a budget of tokens, like lengths together.

A cut never changes what a step computes, only how many positions it takes and how many passes.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .encode import Encoded, lengths
from .records import take

WINDOW = 32
"""Batches' worth of rows of like lengths among which padded batches are chosen; the effort grows with its square."""


@dataclass(frozen=True)
class Budget:
    """What one pass may hold."""

    tokens: int
    """Padding included. A row that is longer stands alone."""
    pass_cost: int = 128
    """What one more pass costs, in positions; it weighs against padding."""
    packs: bool = False
    """Rows of all splits follow each other in one, without padding; False: each batch pads the rows of one split."""


def most_tokens(splits: Iterable[Sequence[Encoded]], rows: int) -> int:
    """Return the tokens that the longest `rows` rows of a split have together, of the split where they have most.

    No batch of that many rows has more real tokens, so this takes no more memory than they would.
    """
    return max((int(np.sort(lengths(examples))[-rows:].sum()) for examples in splits), default=0)


def cut(sizes: np.ndarray, budget: Budget) -> list[list[int]]:
    """Return a partition of rows of `sizes` (B,) tokens into padded batches of like lengths, as their indices.

    It minimizes the number of positions, padding included, plus `pass_cost` positions for each batch, over all
    partitions of the rows sorted by length into batches within the budget (exactly, by dynamic programming).
    """
    order = np.argsort(-sizes, kind="stable")
    size = sizes[order].astype(np.float64)
    best = np.zeros(len(order) + 1)
    begin = np.zeros(len(order) + 1, dtype=np.int64)
    for end in range(1, len(order) + 1):
        starts = np.arange(max(0, end - max(1, int(budget.tokens // size[end - 1]))), end)
        positions = size[starts] * (end - starts)
        is_within = (positions <= budget.tokens) | (starts == end - 1)
        costs = np.where(is_within, best[starts] + positions + budget.pass_cost, np.inf)
        choice = int(np.argmin(costs))
        best[end], begin[end] = costs[choice], starts[choice]
    batches: list[list[int]] = []
    end = len(order)
    while end:
        batches.append(order[begin[end] : end].tolist())
        end = int(begin[end])
    return batches[::-1]


def fill(sizes: Sequence[int], budget: Budget, shares: int = 1) -> list[list[int]]:
    """Return a partition of rows of `sizes` tokens into packs, the fullest first; a multiple of `shares`, some empty.

    As few as the budget allows, and as even: each row, the longest first, goes to the pack with the fewest tokens, and
    one more pack is taken until all are within the budget. Rows beyond it stand alone.
    """
    order = sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))
    alone = [[row] for row in order if sizes[row] > budget.tokens]
    rest = order[len(alone) :]
    count = -(-sum(sizes[row] for row in rest) // budget.tokens)
    while True:
        count += -(len(alone) + count) % shares
        packs = _spread(rest, sizes, count)
        if all(sum(sizes[row] for row in rows) <= budget.tokens for rows in packs):
            return alone + sorted(packs, key=lambda rows: -sum(sizes[row] for row in rows))
        count += 1


def _spread(order: Sequence[int], sizes: Sequence[int], count: int) -> list[list[int]]:
    """Return `count` packs of the rows in their `order`, each put where there are fewest tokens."""
    packs: list[list[int]] = [[] for _ in range(count)]
    totals = [0] * count
    for row in order:
        lightest = totals.index(min(totals))
        packs[lightest].append(row)
        totals[lightest] += sizes[row]
    return packs


def like_lengths(examples: Sequence[Encoded], rows: int, packs: bool = False) -> Iterator[list[int]]:
    """Yield the indices of any number of examples in batches of like lengths, the longest first.

    Each takes as many tokens as the longest `rows` of the examples have together.
    """
    budget = Budget(most_tokens([examples], rows), packs=packs)
    order = np.argsort(-lengths(examples), kind="stable")
    if packs:
        yield from runs(order.tolist(), lengths(examples)[order].tolist(), budget.tokens)
        return
    for first in range(0, len(order), WINDOW * rows):
        window = order[first : first + WINDOW * rows].tolist()
        for batch in cut(lengths(take(examples, window)), budget):
            yield [window[i] for i in batch]


def runs(order: Sequence[int], sizes: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Yield `order` in runs of at most so many tokens, or of one row."""
    run: list[int] = []
    used = 0
    for row, size in zip(order, sizes, strict=True):
        if run and used + size > tokens:
            yield run
            run, used = [], 0
        run.append(row)
        used += size
    if run:
        yield run


def deal(loads: Sequence[int], shares: int) -> list[list[int | None]]:
    """Return for each of `shares` processes which of the batches, of `loads` positions each, it takes, in order.

    All take equally many, None being an empty one: in each round, the largest goes to the one that has had least.
    """
    order: list[int | None] = [*sorted(range(len(loads)), key=lambda i: (-loads[i], i))]
    order += [None] * (-len(order) % shares)
    dealt: list[list[int | None]] = [[] for _ in range(shares)]
    had = [0] * shares
    for first in range(0, len(order), shares):
        hungriest = sorted(range(shares), key=lambda i: (had[i], i))
        for share, batch in zip(hungriest, order[first : first + shares], strict=True):
            dealt[share].append(batch)
            had[share] += 0 if batch is None else loads[batch]
    return dealt
