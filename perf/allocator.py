"""Whether larger thresholds of glibc's allocator pay: forward passes and steps, with and without, in processes in turn.

    python perf/allocator.py --model MODEL --forget FILE --retain FILE [--pairs 5] [--steps 4] [--rows 16]

By default glibc maps each large tensor anew and gives it back when it is freed, so that its pages are faulted in again
and again. With M_MMAP_THRESHOLD and M_TRIM_THRESHOLD out of reach (GLIBC_TUNABLES, since both must be set before the
first allocation) freed memory stays with the process. Printed for each side: median seconds of a forward pass over the
step's rows and of a whole step, peak memory (VmHWM), page faults of a step; then the ratios of each pair. Linux only.
"""

import argparse
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from step import Ours, named

GIANT = 1 << 40
TUNABLES = {
    "default": "",
    "raised": f"glibc.malloc.mmap_threshold={GIANT}:glibc.malloc.trim_threshold={GIANT}",
}
NAMES = ("forward", "step", "megabytes", "faults")


def measured(options: argparse.Namespace) -> list[float]:
    """Return median seconds of a forward pass and of a step, the peak in megabytes, and the page faults of a step."""
    case = named(options)
    ours = Ours(case)

    def forward() -> None:
        with torch.inference_mode():
            for batch in ours.loop.batches(0, case.device):
                ours.loop.problem.unreduced(batch)

    ours.step(0)
    forward()
    reading = _median(forward, options.steps)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    seconds = _median(lambda: ours.step(1), options.steps)
    faults = (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / options.steps
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    return [reading, seconds, int(found[1]) / 1024 if found else 0.0, faults]


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
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--budget", type=int, default=4)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--inside", action="store_true", help="measure in this process")
    options = parser.parse_args()
    if options.inside:
        print(*measured(options))
        return
    found: dict[str, list[list[float]]] = {side: [] for side in TUNABLES}
    for _ in range(options.pairs):
        for side, tunables in TUNABLES.items():
            command = [sys.executable, *sys.argv, "--inside"]
            environment = os.environ | {"GLIBC_TUNABLES": tunables}
            output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
            found[side].append([float(value) for value in output.split()[-len(NAMES) :]])
            print(
                side, *(f"{name} {value:.3f}" for name, value in zip(NAMES, found[side][-1], strict=True)), flush=True
            )
    for i, name in enumerate(NAMES):
        ratios = [a[i] / max(b[i], 1e-9) for a, b in zip(found["default"], found["raised"], strict=True)]
        print(f"{name}: default / raised {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
