"""What ``amnestic finetune`` trains on, and how, where a benchmark is named."""

from collections.abc import Mapping
from typing import Any

from .benchmarks.base import Benchmark, Source, made
from .config import FinetuneConfig, from_mapping, override
from .data.options import FinetuneData


def finetune_config(mapping: Mapping[str, Any], source: str = "") -> FinetuneConfig:
    """Return the configuration that a flat `mapping` describes, as `from_mapping` does.

    What it leaves open of the training of a benchmark's model is as the benchmark's authors trained theirs.
    """
    name, data = mapping.get("benchmark"), mapping.get("data")
    if isinstance(name, str) and isinstance(data, str | None):
        mapping = override(Benchmark.open(name, data).learning, mapping)
    return from_mapping(FinetuneConfig, mapping, source)


def lesson(options: FinetuneData) -> Source:
    """Return what is learned: the file or data set that is named, or all, or all but the forget rows, of a benchmark.

    Raises InputError for what is missing.
    """
    if options.benchmark is None:
        return Source(str(options.data))
    lessons = Benchmark.open(options.benchmark, options.data).lessons()
    forgotten = lessons.pop("forget")
    what, learned = f"all of {options.benchmark}", [*lessons.values(), forgotten]
    if options.without_forget:
        what, learned = f"{options.benchmark} without what is to be forgotten", [*lessons.values()]
    return made(what, [row for part in learned for row in part.values()], *learned)
