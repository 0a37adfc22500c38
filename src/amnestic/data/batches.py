"""Which rows make up a step, and how a step is cut into padded batches.

The rows depend on seed, step number and global batch alone; length only decides the cut. ``B`` rows, ``T`` positions,
``N`` scored positions.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch

from .encode import Encoded, lengths
from .records import take


@dataclass(frozen=True)
class Part:
    """Some scored tokens of a share, and the answers that these belong to; its sizes are known without a device."""

    index: torch.Tensor
    """(m,) int64: which of the share's n scored tokens."""
    row: torch.Tensor
    """(m,) int64: the answer that each belongs to, counted over `answers` alone."""
    answers: torch.Tensor
    """(A,) int64: the answers of the share that have such a token."""

    @classmethod
    def of(cls, is_chosen: np.ndarray, row: np.ndarray) -> "Part":
        """Return the tokens of `is_chosen` (n,), which belong to the answers `row` (n,)."""
        index = np.flatnonzero(is_chosen)
        answers, numbered = np.unique(row[index], return_inverse=True)
        return cls(*map(torch.from_numpy, (index, numbered, answers)))

    def to(self, device: torch.device) -> "Part":
        """Return the part on `device`."""
        return Part(self.index.to(device), self.row.to(device), self.answers.to(device))


@dataclass(frozen=True)
class Share:
    """The scored tokens of one split in a batch, ``n`` of its N, and the answers that these belong to."""

    index: torch.Tensor | None
    """(n,) int64: which of the N scored tokens; None: all of them."""
    row: torch.Tensor
    """(n,) int64: the answer that each belongs to, counted over `ids`."""
    ids: tuple[str, ...]
    """Of the examples."""
    parts: Mapping[str, Part] = field(default_factory=dict)
    """"forgotten" and "context": the tokens in spans, or of answers without any, and those around spans. Empty where no
    row marks a span: every scored token is then to be forgotten."""

    def to(self, device: torch.device) -> "Share":
        """Return the share on `device`."""
        index = None if self.index is None else self.index.to(device)
        return Share(index, self.row.to(device), self.ids, {name: part.to(device) for name, part in self.parts.items()})


@dataclass(frozen=True)
class Batch:
    """What one forward pass reads: rows of one split or of several, and which of their tokens are scored."""

    inputs: Mapping[str, torch.Tensor]
    """Arguments of the model: input_ids (B, T) int64, and whatever else the form of the batch needs.

    Padding stands behind the last token of a row, so causal attention needs no mask.
    """
    positions: torch.Tensor
    """(N,) int64: the positions that predict scored tokens, counted over all B x T, in rising order."""
    targets: torch.Tensor
    """(N,) int64: the scored tokens, in the order of `positions`."""
    shares: Mapping[str, Share]
    """Split -> its scored tokens."""

    @property
    def input_ids(self) -> torch.Tensor:
        """Return the tokens, (B, T)."""
        return self.inputs["input_ids"]

    @property
    def ids(self) -> tuple[str, ...]:
        """Return the ids of all examples."""
        return tuple(id for share in self.shares.values() for id in share.ids)

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on `device`."""
        inputs = {name: value.to(device, non_blocking=True) for name, value in self.inputs.items()}
        shares = {split: share.to(device) for split, share in self.shares.items()}
        return Batch(inputs, self.positions.to(device, non_blocking=True), self.targets.to(device), shares)


def pad(split: str, rows: Sequence[Encoded]) -> Batch:
    """Return `rows` as one padded batch."""
    longest = max(len(row.input_ids) for row in rows)
    input_ids = np.zeros((len(rows), longest), dtype=np.int64)
    is_scored = np.zeros((len(rows), longest), dtype=bool)
    for i, row in enumerate(rows):
        input_ids[i, : len(row.input_ids)] = row.input_ids
        is_scored[i, : len(row.input_ids)] = row.is_scored
    row_of, position = np.nonzero(is_scored)
    positions = row_of * longest + position - 1
    as_tensor = torch.from_numpy
    share = Share(None, as_tensor(row_of), tuple(row.id for row in rows), _parts(rows, row_of))
    targets = as_tensor(input_ids[row_of, position])
    return Batch({"input_ids": as_tensor(input_ids)}, as_tensor(positions), targets, {split: share})


def nothing(splits: Iterable[str]) -> Batch:
    """Return a batch of one token, of which none is scored: a process without rows keeps step with the others by it."""
    input_ids = torch.zeros((1, 1), dtype=torch.int64)
    none = input_ids[0, :0]
    return Batch({"input_ids": input_ids}, none, none, {split: Share(None, none, ()) for split in splits})


def _parts(rows: Sequence[Encoded], row_of: np.ndarray) -> dict[str, Part]:
    """Return the parts of a share of `rows`, whose scored tokens belong to the rows `row_of` (n,)."""
    if all(row.is_span is None for row in rows):
        return {}
    is_forgotten = np.concatenate([row.is_forgotten[row.is_scored] for row in rows])
    return {"forgotten": Part.of(is_forgotten, row_of), "context": Part.of(~is_forgotten, row_of)}


def cut(examples: Sequence[Encoded], most_rows: int, pass_cost: int = 128) -> list[list[int]]:
    """Return a partition of the indices of `examples` into batches of like lengths.

    It minimizes the number of positions, padding included, plus `pass_cost` positions for each batch, over all
    partitions of the rows sorted by length into batches of at most `most_rows` (exactly, by dynamic programming).
    """
    order = np.argsort(-lengths(examples), kind="stable")
    size = lengths(examples)[order].astype(np.float64)
    best = np.zeros(len(order) + 1)
    begin = np.zeros(len(order) + 1, dtype=np.int64)
    for end in range(1, len(order) + 1):
        starts = np.arange(max(0, end - most_rows), end)
        costs = best[starts] + size[starts] * (end - starts) + pass_cost
        choice = int(np.argmin(costs))
        best[end], begin[end] = costs[choice], starts[choice]
    batches: list[list[int]] = []
    end = len(order)
    while end:
        batches.append(order[begin[end] : end].tolist())
        end = int(begin[end])
    return batches[::-1]


def like_lengths(examples: Sequence[Encoded], most_rows: int) -> Iterator[list[int]]:
    """Yield the indices of any number of examples in batches of like lengths, the longest first."""
    order = np.argsort(-lengths(examples), kind="stable")
    for first in range(0, len(order), 32 * most_rows):
        window = order[first : first + 32 * most_rows].tolist()
        for batch in cut(take(examples, window), most_rows):
            yield [window[i] for i in batch]


@lru_cache(maxsize=4)
def permutation(size: int, seed: int, stream: int, epoch: int) -> np.ndarray:
    """Return the order of `size` rows in one pass, (B,) int32; the same everywhere for the same four numbers."""
    return np.random.default_rng([seed, stream, epoch]).permutation(size).astype(np.int32)


@dataclass(frozen=True)
class StepRows:
    """The rows of each optimiser step: a pass over the first split, each of its rows paired with rows of the second."""

    sizes: dict[str, int]
    """Rows of each split; the first is the one that an epoch passes over."""
    batch_size: int
    """Rows of the first split in a step, over all processes."""
    seed: int
    partners: int = 1
    """Rows of every other split for each row of the first."""

    @property
    def steps_per_epoch(self) -> int:
        """Return the number of steps in a pass; the last one may be short."""
        return -(-next(iter(self.sizes.values())) // self.batch_size)

    def rows(self, step: int) -> dict[str, np.ndarray]:
        """Return the row numbers of each split in `step`, counted from 0.

        The other splits are drawn without replacement until all their rows were drawn, then again in another order.
        """
        epoch, k = divmod(step, self.steps_per_epoch)
        (first, size), *others = self.sizes.items()
        start = k * self.batch_size
        chosen = {first: permutation(size, self.seed, 0, epoch)[start : start + self.batch_size]}
        draws = np.arange(len(chosen[first]) * self.partners) + (epoch * size + start) * self.partners
        for stream, (name, size) in enumerate(others, start=1):
            chosen[name] = np.array([permutation(size, self.seed, stream, d // size)[d % size] for d in draws.tolist()])
        return chosen


def micro_batches(
    splits: Mapping[str, Sequence[Encoded]], rows: dict[str, np.ndarray], most_rows: int, pass_cost: int
) -> Iterator[Batch]:
    """Yield the rows of one step, split by split, as padded batches of at most `most_rows` rows."""
    for name, numbers in rows.items():
        examples = [splits[name][i] for i in numbers.tolist()]
        for batch in cut(examples, most_rows, pass_cost):
            yield pad(name, [examples[i] for i in batch])
