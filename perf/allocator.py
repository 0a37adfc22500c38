"""Whether larger thresholds of glibc's allocator pay: forward passes and steps, with and without, in processes in turn.

    python perf/allocator.py --model MODEL --forget FILE --retain FILE [--loop ours] [--pairs 5] [--steps 4] [--rows 16]

`--loop plain` measures the obvious loop of `step.py`, whose tensors are larger.

glibc maps each large tensor by itself and gives it back when it is freed, and trims the end of its heap: pages are then
faulted in again and again. With mallopt's M_MMAP_THRESHOLD and M_TRIM_THRESHOLD at their highest, set when the process
starts, freed memory stays with it. Printed for each side: median seconds of a forward pass over the
step's rows and of a whole step, peak memory (VmHWM), page faults of a step; then the ratios of each pair. Linux only.
"""

import argparse
import ctypes
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from step import LOOPS, named

SIDES = ("default", "raised")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
HIGHEST = 2**31 - 1
NAMES = ("forward", "step", "megabytes", "faults")


def measured(options: argparse.Namespace) -> list[float]:
    """Return median seconds of a forward pass and of a step, the peak in megabytes, and the page faults of a step."""
    case = named(options)
    taking = LOOPS[options.loop](case)
    read = partial(taking.read, 0)
    taking.step(0)
    read()
    reading = _median(read, options.steps)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    seconds = _median(lambda: taking.step(1), options.steps)
    faults = (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / options.steps
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    return [reading, seconds, int(found[1]) / 1024 if found else 0.0, faults]


def raise_thresholds() -> None:
    """Keep what is freed; raises OSError where the C library will not."""
    library = ctypes.CDLL(None)
    if not all(library.mallopt(which, HIGHEST) for which in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD)):
        raise OSError("mallopt refuses the threshold")


def _median(work: Callable[[], object], times: int) -> float:
    found = []
    for _ in range(times):
        begin = time.perf_counter()
        work()
        found.append(time.perf_counter() - begin)
    return statistics.median(found)


def main() -> None:
    """Print what each process measured, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--forget", required=True, type=Path)
    parser.add_argument("--retain", required=True, type=Path)
    parser.add_argument("--loop", choices=tuple(LOOPS), default="ours")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--budget", type=int, default=4)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--inside", choices=SIDES, help="measure in this process")
    options = parser.parse_args()
    if options.inside:
        if options.inside == "raised":
            raise_thresholds()
        print(*measured(options))
        return
    found: dict[str, list[list[float]]] = {side: [] for side in SIDES}
    for _ in range(options.pairs):
        for side in SIDES:
            command = [sys.executable, *sys.argv, "--inside", side]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[side].append([float(value) for value in output.split()[-len(NAMES) :]])
            print(
                side, *(f"{name} {value:.3f}" for name, value in zip(NAMES, found[side][-1], strict=True)), flush=True
            )
    for i, name in enumerate(NAMES):
        ratios = [a[i] / max(b[i], 1e-9) for a, b in zip(found["default"], found["raised"], strict=True)]
        print(f"{name}: default / raised {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
