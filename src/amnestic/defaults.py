"""What a command leaves open of its options is a benchmark's choice, where one is named, before it is the command's."""

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from .benchmarks.base import Benchmark
from .config import from_mapping, override

C = TypeVar("C")


def configured(
    config_class: type[C], mapping: Mapping[str, Any], source: str, choice: Literal["learning", "unlearning"]
) -> C:
    """Return the configuration that a flat `mapping` describes, as `from_mapping` does.

    What it leaves open is as the benchmark that it names has it in its attribute `choice`.
    """
    name, place = mapping.get("benchmark"), mapping.get("data")
    if isinstance(name, str) and isinstance(place, str | None):
        mapping = override(getattr(Benchmark.open(name, place), choice), mapping)
    return from_mapping(config_class, mapping, source)
