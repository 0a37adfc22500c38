"""Forms of one computation, timed in turn in one process.

Only ratios of one run count: A B A B, medians over the turns.
"""

import statistics
import time
from collections.abc import Callable, Mapping

import torch


def in_turn(
    forms: Mapping[str, Callable[[], object]], turns: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Return the seconds of each form in each turn, by `clock`; the first turn warms up and does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for turn in range(turns + 1):
        for name, form in forms.items():
            begin = clock()
            form()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                seconds[name].append(clock() - begin)
    return seconds


def ratio(plain: list[float], ours: list[float]) -> str:
    """Return the median of the turns' ratios plain / ours, with their spread."""
    ratios = sorted(p / o for p, o in zip(plain, ours, strict=True))
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
