"""Draws that are the same on every platform: all of them are ``random.Random.random``.

It is the one method whose sequence Python promises to keep.
"""

import random
from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def below(generator: random.Random, limit: int) -> int:
    """Return a whole number from 0 to `limit` - 1."""
    return int(generator.random() * limit)


def one(generator: random.Random, items: Sequence[T]) -> T:
    """Return one of `items`."""
    return items[below(generator, len(items))]


def two(generator: random.Random, items: Sequence[T]) -> tuple[T, T]:
    """Return two different items in random order."""
    first = below(generator, len(items))
    second = (first + 1 + below(generator, len(items) - 1)) % len(items)
    return items[first], items[second]


def different(generator: random.Random, count: int, limit: int) -> Iterator[int]:
    """Yield `count` different numbers below `limit`: the first steps of a shuffle, which do not depend on `count`."""
    moved: dict[int, int] = {}
    for place in range(count):
        drawn = place + below(generator, limit - place)
        yield moved.get(drawn, drawn)
        moved[drawn] = moved.get(place, place)
