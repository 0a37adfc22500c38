"""Two processes for all tests of this folder that one worker of pytest runs."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for the processes' own module

from pool import Pool


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let one worker of pytest have all of these tests: starting processes costs more than most of them."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.xdist_group("processes"))


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    """Two processes, joined by gloo."""
    made = Pool(2)
    yield made
    made.stop()
