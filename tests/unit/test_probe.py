"""Which retain examples hold the bound, and which train."""

from dataclasses import replace

import numpy as np
import pytest

from amnestic.constraints.options import BoundOptions
from amnestic.data.encode import Encoded
from amnestic.probing import draw_probe


def rows(count: int) -> list[Encoded]:
    """Rows that all differ in their last token."""
    scored = np.array([False, False, True, True])
    return [Encoded(f"retain:{i}", np.array([3, 4, 5, 6 + i]), scored, 2, False, "", "") for i in range(count)]


def ids(examples) -> list[str]:
    return [example.id for example in examples]


@pytest.mark.parametrize(("size", "held_out"), [(199, False), (200, True), (201, True)])
def test_probe_is_held_out_of_a_split_ten_times_its_size(size, held_out):
    retain = rows(size)
    probe, training = draw_probe(retain, BoundOptions(probe_size=20))
    assert len(probe) == 20
    if held_out:
        assert set(ids(probe)).isdisjoint(ids(training))
        assert sorted(ids(probe) + ids(training)) == sorted(ids(retain))
    else:
        assert set(ids(probe)) <= set(ids(training))
        assert ids(training) == ids(retain)


@pytest.mark.parametrize("size", [1, 19, 20])
def test_split_no_larger_than_the_probe_is_the_probe(size):
    retain = rows(size)
    probe, training = draw_probe(retain, BoundOptions(probe_size=20))
    assert ids(probe) == ids(training) == ids(retain)


def test_training_may_be_given_the_probe():
    retain = rows(300)
    probe, training = draw_probe(retain, BoundOptions(probe_size=20, train_on_probe=True))
    assert len(probe) == 20
    assert ids(training) == ids(retain)
    held_out, _ = draw_probe(retain, BoundOptions(probe_size=20))
    assert ids(probe) == ids(held_out)


def test_probe_is_the_same_each_time_in_the_order_of_the_split_and_from_all_of_it():
    retain = rows(400)
    probe, training = draw_probe(retain, BoundOptions(probe_size=40))
    assert ids(draw_probe(retain, BoundOptions(probe_size=40))[0]) == ids(probe)
    numbers = [int(example.id.split(":")[1]) for example in probe]
    assert numbers == sorted(set(numbers))
    assert ids(training) == [name for name in ids(retain) if name not in set(ids(probe))]
    # 40 of 400 at random: no stretch of 100 rows is left out (chance 1e-5) or holds more than half
    assert all(0 < sum(low <= n < low + 100 for n in numbers) <= 20 for low in range(0, 400, 100))


def test_copies_of_probe_rows_do_not_train():
    """200 rows and a copy of each: what is held out is a content, wherever it stands."""
    retain = [replace(row, id=f"{row.id}{copy}") for row in rows(200) for copy in "ab"]
    probe, training = draw_probe(retain, BoundOptions(probe_size=40))
    contents = [{row.input_ids.tobytes() for row in part} for part in (probe, training)]
    assert contents[0].isdisjoint(contents[1])
    assert len(training) == 2 * (200 - len(contents[0]))


def test_a_split_of_copies_alone_trains_all_the_same():
    retain = [rows(1)[0]] * 100
    probe, training = draw_probe(retain, BoundOptions(probe_size=10))
    assert (len(probe), len(training)) == (10, 100)


def test_default_probe_has_256_rows():
    assert len(draw_probe(rows(300), BoundOptions())[0]) == 256
