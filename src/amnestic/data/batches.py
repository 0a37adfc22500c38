"""Which rows make up a step, and the batches that it is cut into, padded or packed.

The rows depend on seed, step number and global batch alone; length only decides the cut (`cuts.py`). ``B`` rows, ``T``
positions, ``N`` scored positions.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from .. import processes
from .cuts import Budget, cut, deal, fill, like_lengths
from .encode import Encoded


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
        return Part(moved(self.index, device), moved(self.row, device), moved(self.answers, device))


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

    def of(self, values: torch.Tensor) -> torch.Tensor:
        """Return the share's part of `values` (N, ...), one for each scored token of the batch."""
        return values if self.index is None else values[self.index]

    def to(self, device: torch.device) -> "Share":
        """Return the share on `device`."""
        index = None if self.index is None else moved(self.index, device)
        return Share(
            index, moved(self.row, device), self.ids, {name: part.to(device) for name, part in self.parts.items()}
        )


@dataclass(frozen=True)
class Batch:
    """What one forward pass reads: rows of one split or of several, and which of their tokens are scored."""

    inputs: Mapping[str, Any]
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
        input_ids: torch.Tensor = self.inputs["input_ids"]
        return input_ids

    @property
    def is_packed(self) -> bool:
        """Return whether rows stand one behind the other, so that attention must not cross their boundaries."""
        return "cu_seq_lens_q" in self.inputs

    @property
    def ids(self) -> tuple[str, ...]:
        """Return the ids of all examples."""
        return tuple(dict.fromkeys(id for share in self.shares.values() for id in share.ids))

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on `device`."""
        inputs = {
            name: moved(value, device) if isinstance(value, torch.Tensor) and name != HOST_BOUNDARIES else value
            for name, value in self.inputs.items()
        }
        shares = {split: share.to(device) for split, share in self.shares.items()}
        return Batch(inputs, moved(self.positions, device), moved(self.targets, device), shares)


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor on `device`; the host does not wait for its way to a GPU, which pinned memory allows."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


HOST_BOUNDARIES = "host_boundaries"
"""Argument of the model that stays in the host's memory, so that it can be read without waiting for a device."""
SEGMENT_ROWS = "segment_rows"
"""Argument of the model, (M,) int64: the positions of each segment, one behind the other, where segments share some."""
SEGMENT_PLACES = "segment_places"
"""Argument of the model, (T,) int64: where each position stands in `SEGMENT_ROWS`; any place, if there are several."""

SECOND = "alternate"
"""The split of second answers to the prompts of the forget split; an example there has the id of the one that it is
beside, and both stand in one batch."""

Placed = tuple[str, Encoded]
"""A row, and the name of its split."""


def pad(split: str, rows: Sequence[Encoded]) -> Batch:
    """Return `rows` as one padded batch."""
    return pad_together([(split, row) for row in rows])


def pad_together(rows: Sequence[Placed]) -> Batch:
    """Return rows of any splits as one batch, (B, T), each padded to the longest."""
    longest = max(len(row.input_ids) for _, row in rows)
    input_ids = np.zeros((len(rows), longest), dtype=np.int64)
    for i, (_, row) in enumerate(rows):
        input_ids[i, : len(row.input_ids)] = row.input_ids
    return _batch({"input_ids": torch.from_numpy(input_ids)}, rows, np.arange(len(rows)) * longest)


def pack(rows: Sequence[Placed]) -> Batch:
    """Return rows of any splits as one batch, (1, T), one behind the other without padding, the longest first.

    Positions begin anew with each row; the boundaries go to the attention by the names that transformers knows, and
    once more for the host (`model/segments.py`). Rows of one length are neighbours.
    """
    rows = sorted(rows, key=lambda placed: -len(placed[1].input_ids))
    sizes = [len(row.input_ids) for _, row in rows]
    ends = np.cumsum([0, *sizes])
    boundaries = torch.from_numpy(ends.astype(np.int32))
    position_ids = np.concatenate([np.arange(size) for size in sizes])
    inputs = {
        "input_ids": torch.from_numpy(np.concatenate([row.input_ids for _, row in rows]).astype(np.int64)[None]),
        "position_ids": torch.from_numpy(position_ids[None]),
        "cu_seq_lens_q": boundaries,
        "cu_seq_lens_k": boundaries,
        "max_length_q": sizes[0],
        "max_length_k": sizes[0],
        HOST_BOUNDARIES: boundaries,
    }
    return _batch(inputs, rows, ends[:-1])


def assemble(split: str, rows: Sequence[Encoded], packs: bool, second: Mapping[str, Encoded] | None = None) -> Batch:
    """Return `rows` of one split as one batch, packed or padded, with their `second` answers where there are some."""
    placed = [one for row in rows for one in _unit(split, row, second)]
    return pack(placed) if packs else pad_together(placed)


def _unit(split: str, row: Encoded, second: Mapping[str, Encoded] | None) -> list[Placed]:
    """Return what must stand in one batch with a row: itself, and its second answer."""
    if second is None or split != "forget":
        return [(split, row)]
    return [(split, row), (SECOND, second[row.id])]


def _batch(inputs: Mapping[str, Any], rows: Sequence[Placed], begins: np.ndarray) -> Batch:
    """Return the batch of `inputs`, in which each of `rows` begins at one of `begins`, counted over all B x T."""
    scored = [np.flatnonzero(row.is_scored) for _, row in rows]
    row_of = np.repeat(np.arange(len(rows)), [len(found) for found in scored])
    position = np.concatenate(scored)
    targets = np.concatenate([row.input_ids[found] for (_, row), found in zip(rows, scored, strict=True)])
    shares = {}
    for split in dict.fromkeys(split for split, _ in rows):
        chosen = [i for i, (name, _) in enumerate(rows) if name == split]
        index = np.flatnonzero(np.isin(row_of, chosen))
        shares[split] = _share([rows[i][1] for i in chosen], None if len(chosen) == len(rows) else index)
    if SECOND in shares and "forget" in shares:
        shares[SECOND] = _beside(shares[SECOND], shares["forget"])
    positions = torch.from_numpy(begins[row_of] + position - 1)
    return Batch(inputs, positions, torch.from_numpy(targets.astype(np.int64)), shares)


def _share(rows: Sequence[Encoded], index: np.ndarray | None) -> Share:
    """Return the share of one split's `rows`, whose scored tokens are `index` (n,) of the batch's; None: all."""
    row_of = np.repeat(np.arange(len(rows)), [row.scored for row in rows])
    chosen = None if index is None else torch.from_numpy(index)
    return Share(chosen, torch.from_numpy(row_of), tuple(row.id for row in rows), _parts(rows, row_of))


def _beside(second: Share, first: Share) -> Share:
    """Return the share of second answers with its answers numbered, and its parts chosen, as in that of the `first`."""
    number = {id: place for place, id in enumerate(first.ids)}
    row = np.array([number[id] for id in second.ids], dtype=np.int64)[second.row.numpy()]
    parts = {}
    for name, part in first.parts.items():
        parts[name] = Part.of(np.isin(row, part.answers.numpy()), row)
    return Share(second.index, torch.from_numpy(row), second.ids, parts)


def turns(
    split: str, examples: Sequence[Encoded], rows: int, packs: bool, second: Mapping[str, Encoded] | None = None
) -> Iterator[tuple[list[int], list[int] | None, Batch]]:
    """Yield the passes over `examples` that this process takes part in; the others take theirs at the same time.

    Of each turn: the indices that all processes read, those of this one (None where there are none left for it), and
    its batch, which is empty then.
    """
    for together in processes.rounds([*like_lengths(examples, rows, packs)]):
        own = processes.own(together)
        batch = nothing([split]) if own is None else assemble(split, [examples[i] for i in own], packs, second)
        yield [i for part in together for i in part], own, batch


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


@dataclass(frozen=True)
class Joint:
    """Which rows may, and which must, share a pass."""

    second: Mapping[str, Encoded] | None = None
    """Id of a forget example -> its second answer, which stands in the batch of the first."""
    groups: Sequence[frozenset[str]] | None = None
    """Splits whose rows may share a pass; None: those of all."""

    def of(self, splits: Iterable[str]) -> list[list[str]]:
        """Return the groups of `splits`."""
        names = list(splits)
        groups = [frozenset(names)] if self.groups is None else self.groups
        return [[name for name in names if name in group] for group in groups]


def micro_batches(
    splits: Mapping[str, Sequence[Encoded]],
    rows: Mapping[str, np.ndarray],
    budget: Budget,
    share: tuple[int, int] = (0, 1),
    joint: Joint | None = None,
) -> list[Batch]:
    """Return the rows of one step as batches within `budget`, or a process's share of them.

    `share` is (rank, processes): all of these get equally many, like loads together, the union being the rows of the
    step, each once; one that has no rows of its own in a round gets an empty batch. Every process computes the same.
    """
    rank, count = share
    joint = joint or Joint()
    found = []
    for group in joint.of(rows):
        chosen = {name: [_unit(name, splits[name][i], joint.second) for i in rows[name].tolist()] for name in group}
        plans = _packs(chosen, budget, count) if budget.packs else _padded(chosen, budget)
        loads = [_load(plan, budget) for plan in plans]
        own = deal(loads, count)[rank] if count > 1 else [*range(len(plans))]
        make = pack if budget.packs else pad_together
        found += [nothing(group) if number is None else make(plans[number]) for number in own]
    return found


Units = Sequence[Sequence[Placed]]
"""Rows, or pairs of them, each of which stands in one batch."""


def _packs(chosen: Mapping[str, Units], budget: Budget, count: int) -> list[list[Placed]]:
    """Return the rows of each pack; those of all splits may share one."""
    units = [unit for units in chosen.values() for unit in units]
    filled = fill([sum(len(row.input_ids) for _, row in unit) for unit in units], budget, count)
    return [[placed for i in numbers for placed in units[i]] for numbers in filled if numbers]


def _padded(chosen: Mapping[str, Units], budget: Budget) -> list[list[Placed]]:
    """Return the rows of each padded batch; splits stay apart, since rows of unlike lengths do not pay there."""
    plans = []
    for units in chosen.values():
        sizes = np.array([len(unit) * max(len(row.input_ids) for _, row in unit) for unit in units], dtype=np.int64)
        plans += [[placed for i in numbers for placed in units[i]] for numbers in cut(sizes, budget)]
    return plans


def _load(plan: Sequence[Placed], budget: Budget) -> int:
    """Return the positions that a batch takes."""
    sizes = [len(row.input_ids) for _, row in plan]
    return sum(sizes) if budget.packs else max(sizes) * len(sizes)
