"""Rows of a step, cuts into batches, padding: by hand, by counting, and against brute force."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from amnestic.data.batches import (
    HOST_BOUNDARIES,
    StepRows,
    micro_batches,
    nothing,
    pack,
    pad,
    pad_together,
    permutation,
)
from amnestic.data.cuts import Budget, cut, deal, fill, like_lengths, most_tokens
from amnestic.data.encode import Encoded


def row(ids: list[int], scored_from: int, to: int | None = None) -> Encoded:
    is_scored = np.zeros(len(ids), dtype=bool)
    is_scored[scored_from:to] = True
    return Encoded("s:0", np.array(ids), is_scored, scored_from, True, "", "")


def rows_of(sizes: list[int]) -> list[Encoded]:
    """Rows of given lengths, whose tokens are their number."""
    return [row([number] * size, 1) for number, size in enumerate(sizes)]


# Padding


def test_padding_by_hand() -> None:
    """Rows of 3, 5 and 2 tokens with 1, 2 and 1 scored; the position before each scored token predicts it."""
    batch = pad("forget", [row([11, 12, 13], 2), row([21, 22, 23, 24, 25], 1, 3), row([31, 32], 1)])
    assert [*batch.shares] == ["forget"]
    assert batch.input_ids.tolist() == [[11, 12, 13, 0, 0], [21, 22, 23, 24, 25], [31, 32, 0, 0, 0]]
    assert batch.positions.tolist() == [1, 5, 6, 10]
    assert batch.targets.tolist() == [13, 22, 23, 32]
    assert batch.shares["forget"].row.tolist() == [0, 1, 1, 2]


@st.composite
def scored_rows(draw: st.DrawFn) -> list[Encoded]:
    """One to five rows of different tokens, each with any of its tokens but the first scored, and at least one."""
    masks = draw(st.lists(st.lists(st.booleans(), min_size=1, max_size=6).filter(any), min_size=1, max_size=5))
    return [
        Encoded("", np.arange(len(mask) + 1) + 10 * i + 1, np.array([False, *mask]), 1, False, "", "")
        for i, mask in enumerate(masks)
    ]


@given(scored_rows())
def test_targets_are_the_scored_tokens_in_row_major_order(rows: list[Encoded]) -> None:
    """Values gathered at the predicting positions line up with targets and rows, one to one."""
    batch = pad("forget", rows)
    assert batch.targets.tolist() == [int(t) for r in rows for t in r.input_ids[r.is_scored]]
    assert batch.shares["forget"].row.tolist() == [i for i, r in enumerate(rows) for _ in range(r.scored)]
    following = torch.roll(batch.input_ids, -1, dims=1)
    assert following.flatten()[batch.positions].tolist() == batch.targets.tolist()
    assert (batch.positions // batch.input_ids.shape[1]).tolist() == batch.shares["forget"].row.tolist()


def test_a_batch_moves_whole() -> None:
    batch = pad("retain", rows_of([3, 2])).to(torch.device("meta"))
    assert [*batch.shares] == ["retain"]
    tensors = (batch.input_ids, batch.positions, batch.targets, batch.shares["retain"].row)
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_packing_by_hand() -> None:
    """Rows of 2, 3 and 3 tokens of two splits: the longest first, positions from 0 in each, two and one scored."""
    rows = [("a", row([31, 32], 1)), ("b", row([11, 12, 13], 2)), ("a", row([21, 22, 23], 1, 3))]
    batch = pack(rows)
    assert batch.input_ids.tolist() == [[11, 12, 13, 21, 22, 23, 31, 32]]
    assert batch.inputs["position_ids"].tolist() == [[0, 1, 2, 0, 1, 2, 0, 1]]
    assert batch.inputs["cu_seq_lens_q"].tolist() == batch.inputs["cu_seq_lens_k"].tolist() == [0, 3, 6, 8]
    assert (batch.inputs[HOST_BOUNDARIES].tolist(), batch.inputs["max_length_q"]) == ([0, 3, 6, 8], 3)
    assert batch.positions.tolist() == [1, 3, 4, 6]
    assert batch.targets.tolist() == [13, 22, 23, 32]
    shares = {split: (share.index.tolist(), share.row.tolist()) for split, share in batch.shares.items()}
    assert shares == {"b": ([0], [0]), "a": ([1, 2, 3], [0, 0, 1])}


def test_one_split_takes_all_of_a_pack() -> None:
    batch = pack([("a", row([1, 2], 1)), ("a", row([3, 4, 5], 1))])
    assert (batch.shares["a"].index, batch.shares["a"].row.tolist()) == (None, [0, 0, 1])


@given(scored_rows(), st.data(), st.booleans())
def test_splits_share_a_batch_and_keep_their_own(rows: list[Encoded], data: st.DataObject, packs: bool) -> None:
    """Each split's targets are the scored tokens of its own rows, in the order of its ids, packed and padded."""
    rows = [replace(row, id=str(i)) for i, row in enumerate(rows)]
    splits = data.draw(st.lists(st.sampled_from("ab"), min_size=len(rows), max_size=len(rows)))
    batch = (pack if packs else pad_together)(list(zip(splits, rows, strict=True)))
    following = torch.roll(batch.input_ids.flatten(), -1)
    assert following[batch.positions].tolist() == batch.targets.tolist()
    assert (batch.positions.diff() > 0).all()
    for split, share in batch.shares.items():
        assert sorted(share.ids) == sorted(row.id for row, name in zip(rows, splits, strict=True) if name == split)
        expected = [(i, t) for i, id in enumerate(share.ids) for t in rows[int(id)].input_ids[rows[int(id)].is_scored]]
        own = batch.targets if share.index is None else batch.targets[share.index]
        assert list(zip(share.row.tolist(), own.tolist(), strict=True)) == expected


def test_a_pack_moves_whole_but_for_what_the_host_reads() -> None:
    batch = pack([("a", row([1, 2, 3], 1)), ("b", row([4, 5], 1))]).to(torch.device("meta"))
    on_host = batch.inputs.pop(HOST_BOUNDARIES)
    tensors = [value for value in batch.inputs.values() if isinstance(value, torch.Tensor)]
    tensors += [batch.positions, batch.targets, *(t for s in batch.shares.values() for t in (s.index, s.row))]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert (on_host.device.type, on_host.tolist()) == ("cpu", [0, 3, 5])


# Cuts


def partitions(items: list[int]) -> Iterator[list[list[int]]]:
    """All ways to divide `items` into groups."""
    if not items:
        yield []
        return
    first, *rest = items
    for partition in partitions(rest):
        yield [[first], *partition]
        for i, group in enumerate(partition):
            yield [*partition[:i], [first, *group], *partition[i + 1 :]]


def is_within(group: list[int], sizes: list[int], tokens: int) -> bool:
    return len(group) == 1 or len(group) * max(sizes[i] for i in group) <= tokens


def cost(groups: list[list[int]], sizes: list[int], pass_cost: int) -> int:
    return sum(len(group) * max(sizes[i] for i in group) + pass_cost for group in groups)


@given(
    sizes=st.lists(st.integers(2, 40), min_size=1, max_size=7),
    tokens=st.integers(1, 200),
    pass_cost=st.integers(0, 60),
)
def test_no_partition_is_cheaper_than_the_cut(sizes: list[int], tokens: int, pass_cost: int) -> None:
    """Among all partitions into batches of at most `tokens` positions, or of one row, sorted or not."""
    found = cut(np.array(sizes), Budget(tokens, pass_cost))
    assert sorted(i for batch in found for i in batch) == list(range(len(sizes)))
    assert all(is_within(group, sizes, tokens) for group in found)
    allowed = (p for p in partitions(list(range(len(sizes)))) if all(is_within(group, sizes, tokens) for group in p))
    assert cost(found, sizes, pass_cost) == min(cost(p, sizes, pass_cost) for p in allowed)


@pytest.mark.parametrize(
    ("sizes", "tokens", "pass_cost", "expected"),
    [
        ([5, 50, 5, 50], 200, 10, [[1, 3], [0, 2]]),  # 100 + 10 + 10 + 10 against 200 + 10
        ([5, 50, 5, 50], 200, 100, [[1, 3, 0, 2]]),  # 110 + 200 against 200 + 100
        ([5, 50, 5, 50], 199, 100, [[1, 3], [0, 2]]),
        ([5, 50, 5, 50], 9, 100, [[1], [3], [0], [2]]),  # a row beyond the budget stands alone
        ([7], 4, 0, [[0]]),
    ],
)
def test_cuts_by_hand(sizes: list[int], tokens: int, pass_cost: int, expected: list[list[int]]) -> None:
    """The longest first, equal lengths in their own order; one more pass is worth its cost in padding."""
    assert cut(np.array(sizes), Budget(tokens, pass_cost)) == expected


@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize("most_rows", [1, 3])
def test_like_lengths_covers_each_row_once_over_many_windows(most_rows: int, packs: bool) -> None:
    """1,300 rows, several windows: lengths only fall, no batch has more tokens than the longest rows together."""
    sizes = np.random.default_rng(0).integers(2, 90, 1300).tolist()
    batches = list(like_lengths(rows_of(sizes), most_rows, packs))
    assert sorted(i for batch in batches for i in batch) == list(range(1300))
    most = sum(sorted(sizes)[-most_rows:])
    for batch in batches:
        found = [sizes[i] for i in batch]
        assert (sum(found) if packs else max(found) * len(found)) <= most
    in_order = [sizes[i] for batch in batches for i in batch]
    assert in_order == sorted(sizes, reverse=True)


@pytest.mark.parametrize(
    ("sizes", "tokens", "shares", "expected"),
    [
        ([4, 4, 4, 4], 8, 1, [[0, 2], [1, 3]]),
        ([9, 1, 1, 5, 3], 10, 1, [[0, 2], [3, 4, 1]]),  # 19 tokens take two packs: 10 and 9
        ([3, 3, 3], 5, 1, [[0], [1], [2]]),  # 9 tokens would fit into two packs, three rows do not
        ([30, 2, 2], 6, 1, [[0], [1, 2]]),  # beyond the budget: alone, and no measure for the others
        ([4, 3, 2, 1], 10, 2, [[0, 3], [1, 2]]),  # one for each of two processes
        ([4, 4, 4], 4, 2, [[0], [1], [2], []]),
        ([5], 9, 3, [[0], [], []]),
    ],
)
def test_packs_by_hand(sizes: list[int], tokens: int, shares: int, expected: list[list[int]]) -> None:
    assert fill(sizes, Budget(tokens), shares) == expected


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=20),
    tokens=st.integers(1, 90),
    shares=st.integers(1, 4),
)
def test_packs_hold_every_row_once_within_the_budget(sizes: list[int], tokens: int, shares: int) -> None:
    """And no pair of packs could be one where there is a single process, unless rows of the lightest do not divide."""
    found = fill(sizes, Budget(tokens), shares)
    assert sorted(i for pack in found for i in pack) == list(range(len(sizes)))
    assert len(found) % shares == 0
    loads = [sum(sizes[i] for i in pack) for pack in found]
    assert loads == sorted(loads, reverse=True)
    assert all(len(pack) == 1 or load <= tokens for pack, load in zip(found, loads, strict=True))


def test_a_budget_is_what_the_longest_rows_take() -> None:
    splits = [rows_of([3, 9, 4]), rows_of([5, 6])]
    assert [most_tokens(splits, rows) for rows in (1, 2, 3, 9)] == [9, 13, 16, 16]


@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_processes_share_the_rows_of_a_step(count: int, packs: bool) -> None:
    """Equally many batches each, every row of the step once, none of another; what is missing is an empty batch."""
    rng = np.random.default_rng(count)
    splits = {name: rows_of(rng.integers(2, 30, 9).tolist()) for name in ("forget", "retain")}
    splits = {name: [replace(row, id=f"{name}:{i}") for i, row in enumerate(rows)] for name, rows in splits.items()}
    chosen = {"forget": np.array([3, 0, 2, 7]), "retain": np.array([2, 1, 8])}
    budget = Budget(45, pass_cost=4, packs=packs)
    shares = [micro_batches(splits, chosen, budget, (rank, count)) for rank in range(count)]
    assert len({len(share) for share in shares}) == 1
    batches = [batch for share in shares for batch in share]
    ids = [id for batch in batches for id in batch.ids]
    assert sorted(ids) == sorted(f"{name}:{i}" for name, numbers in chosen.items() for i in numbers)
    assert all(batch.input_ids.shape == (1, 1) for batch in batches if not batch.ids)
    alone = micro_batches(splits, chosen, budget)
    assert sum(batch.input_ids.numel() for batch in alone) >= sum(
        len(splits[n][i].input_ids) for n in chosen for i in chosen[n]
    )
    assert not any(batch.is_packed is not packs for batch in batches if batch.ids)


def test_batches_are_dealt_evenly() -> None:
    """Loads of 9, 7, 4, 4 and 1 for two: (9, 7), then the 4s, then the 1 and an empty one to who has had less."""
    assert deal([4, 9, 1, 7, 4], 2) == [[1, 4, None], [3, 0, 2]]


def test_an_empty_batch_scores_nothing() -> None:
    batch = nothing(["forget", "retain"])
    assert (batch.input_ids.shape, len(batch.targets), len(batch.positions), batch.ids) == ((1, 1), 0, 0, ())


# Rows of a step


def test_an_epoch_passes_over_the_first_split_once() -> None:
    """13 rows in steps of 5: three steps of 5, 5 and 3, in another order in each epoch."""
    step_rows = StepRows({"forget": 13, "retain": 40}, batch_size=5, seed=7)
    assert step_rows.steps_per_epoch == 3
    epochs = [[step_rows.rows(3 * epoch + k)["forget"].tolist() for k in range(3)] for epoch in range(4)]
    assert [[len(chosen) for chosen in epoch] for epoch in epochs] == [[5, 5, 3]] * 4
    orders = [[i for chosen in epoch for i in chosen] for epoch in epochs]
    assert [sorted(order) for order in orders] == [list(range(13))] * 4
    assert len({tuple(order) for order in orders}) == 4


@pytest.mark.parametrize("partners", [1, 2, 5])
@pytest.mark.parametrize("retain", [3, 11, 40])
def test_the_other_splits_are_drawn_without_replacement(partners: int, retain: int) -> None:
    """However many partners, and however much smaller than the first split: each cycle draws every row once.

    The short last step of an epoch draws fewer, and the next epoch goes on where it stopped.
    """
    step_rows = StepRows({"forget": 13, "retain": retain}, batch_size=5, seed=1, partners=partners)
    steps = [step_rows.rows(step) for step in range(12)]
    assert all(len(chosen["retain"]) == partners * len(chosen["forget"]) for chosen in steps)
    drawn = [int(i) for chosen in steps for i in chosen["retain"]]
    assert len(drawn) == 4 * 13 * partners
    cycles = [drawn[start : start + retain] for start in range(0, len(drawn), retain)]
    assert all(sorted(cycle) == list(range(retain)) for cycle in cycles[:-1])
    assert len(set(cycles[-1])) == len(cycles[-1])
    if len(cycles) > 2 and retain > 3:
        assert cycles[0] != cycles[1]


def test_several_splits_are_drawn_apart() -> None:
    step_rows = StepRows({"forget": 60, "retain": 60, "general": 60}, batch_size=60, seed=3)
    chosen = step_rows.rows(0)
    assert [sorted(numbers.tolist()) for numbers in chosen.values()] == [list(range(60))] * 3
    assert len({tuple(numbers.tolist()) for numbers in chosen.values()}) == 3


def test_rows_depend_on_seed_step_and_batch_size_alone() -> None:
    """Asked in another order, by another object, after others were asked: the same rows. Another seed: others."""
    sizes = {"forget": 50, "retain": 70}
    one = StepRows(sizes, batch_size=8, seed=5)
    forward = [one.rows(step) for step in range(20)]
    permutation.cache_clear()
    again = StepRows(dict(sizes), batch_size=8, seed=5)
    backward = {step: again.rows(step) for step in reversed(range(20))}
    for step, chosen in enumerate(forward):
        assert {name: n.tolist() for name, n in chosen.items()} == {
            name: n.tolist() for name, n in backward[step].items()
        }
    other = StepRows(sizes, batch_size=8, seed=6)
    assert other.rows(0)["forget"].tolist() != forward[0]["forget"].tolist()
    assert other.rows(0)["retain"].tolist() != forward[0]["retain"].tolist()


def test_the_order_of_a_pass_is_the_same_for_any_batch_size() -> None:
    """Batch size says how the pass is cut, not how it is ordered."""
    sizes = {"forget": 24, "retain": 9}
    orders = []
    for batch_size in (1, 4, 24, 100):
        step_rows = StepRows(sizes, batch_size, seed=2)
        chosen = [step_rows.rows(step) for step in range(step_rows.steps_per_epoch)]
        orders.append({name: [int(i) for c in chosen for i in c[name]] for name in sizes})
    assert orders[1:] == orders[:1] * 3


def test_rows_are_drawn_evenly() -> None:
    """Which partner a row meets is random: over 200 epochs each of 4 meets each of 4 about 50 times.

    The counts are binomial with p = 1/4 (standard deviation 6.1), so 25 and 75 lie four deviations out.
    """
    step_rows = StepRows({"forget": 4, "retain": 4}, batch_size=4, seed=0)
    met: Counter[tuple[int, int]] = Counter()
    for step in range(200):
        chosen = step_rows.rows(step)
        met.update(zip(chosen["forget"].tolist(), chosen["retain"].tolist(), strict=True))
    assert len(met) == 16
    assert all(25 < count < 75 for count in met.values())


def test_micro_batches_hold_the_rows_of_a_step_split_by_split() -> None:
    """Tokens are row numbers, so what went into the batches can be read off them."""
    splits = {"forget": rows_of([3, 9, 4, 9]), "retain": rows_of([5, 5, 30])}
    chosen = {"forget": np.array([3, 0, 2]), "retain": np.array([2, 1])}
    batches = micro_batches(splits, chosen, Budget(18, pass_cost=4))
    assert [[*batch.shares] for batch in batches] == [["forget"], ["forget"], ["retain"], ["retain"]]
    contents = [[int(ids[0]) for ids in batch.input_ids] for batch in batches]
    assert contents == [[3], [2, 0], [2], [1]]
    assert [tuple(batch.input_ids.shape) for batch in batches] == [(1, 9), (2, 4), (1, 30), (1, 5)]
