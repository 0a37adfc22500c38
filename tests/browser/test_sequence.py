"""The page of a sequence in a real browser: legible in every window, whatever its requests are called."""

from pathlib import Path
from typing import Any

import pytest
from sequences import outcome_of, run_of

from amnestic.sequencing.page import page

NAMES = ("may", "request_of_a_customer_whose_name_is_long", "x" * 60, *(f"june_{day}" for day in range(1, 7)))


def sequence(count: int, status: str, first: float) -> str:
    """The page of so many requests; the loss on what is kept rises from `first` on, and the bound is 0.5."""
    runs = []
    for number, name in enumerate(NAMES[:count], start=1):
        course = {known: (0.9 if known == name else 0.1, 0.1) for known in NAMES[:number]}
        reached = first + number / 50
        runs.append(run_of(number, name, course, status, held=(reached, 0.5, reached + 0.02)))
    return page(outcome_of(*runs))


@pytest.mark.parametrize(("count", "status", "first"), [(1, "feasible", 0.2), (9, "infeasible", 0.6)])
def test_it_opens_offline_and_is_legible_at_every_width_in_both_schemes(
    visit: Any, tmp_path: Path, count: int, status: str, first: float
) -> None:
    file = tmp_path / "sequence.html"
    file.write_text(sequence(count, status, first), encoding="utf-8")
    visit.open(file)
    found = {
        view: visit.look(*view).faults() for view in [(320, "dark"), (768, "light"), (1200, "dark"), (1600, "light")]
    }
    assert not any(found.values()), found
    assert visit.requests == [file.as_uri()]
    assert visit.complaints == []
