"""Two processes for all tests of this folder that one worker of pytest runs."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for the processes' own module

from pool import Pool


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    """Two processes, joined by gloo."""
    made = Pool(2)
    yield made
    made.stop()
