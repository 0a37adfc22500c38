"""What ``amnestic finetune`` trains on."""

from .benchmarks.base import Benchmark, Source, made
from .data.options import FinetuneData


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
