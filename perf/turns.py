"""Two forms of one computation, measured in turn in one process: seconds, and the peak of memory beyond the start.

Only ratios of one run count: A B A B, medians over the turns.
"""

import statistics
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

PAGE = 4096


class Peak:
    """The largest resident memory of this process within the context, beyond what it held at its beginning, in bytes.

    On a GPU what torch has allocated there.
    """

    def __enter__(self) -> "Peak":
        """Begin to watch."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self._start = torch.cuda.memory_allocated()
            return self
        self._start = self._highest = _resident()
        self._is_over = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End it: `bytes` is known now."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            self.bytes = torch.cuda.max_memory_allocated() - self._start
            return
        self._is_over.set()
        self._watch.join()
        self.bytes = max(self._highest, _resident()) - self._start

    def _look(self) -> None:
        while not self._is_over.wait(0.001):
            self._highest = max(self._highest, _resident())


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def in_turn(forms: Mapping[str, Callable[[], object]], turns: int) -> dict[str, list[float]]:
    """Return the seconds of each form in each turn; the first turn warms up and does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for turn in range(turns + 1):
        for name, form in forms.items():
            begin = time.perf_counter()
            form()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def ratio(plain: list[float], ours: list[float]) -> str:
    """Return the median of the turns' ratios plain / ours, with their spread."""
    ratios = sorted(p / o for p, o in zip(plain, ours, strict=True))
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def peak(form: Callable[[], object]) -> int:
    """Return the bytes that one call of a form takes beyond what there was."""
    with Peak() as measured:
        form()
    return measured.bytes
