"""The TOFU evaluation metric by metric against ours: the same numbers, in how much time and memory.

    python perf/tofu_eval.py --model MODEL --retrained MODEL --data FOLDER [--rows 40] [--turns 5]

`plain_tofu.py` and `amnestic.evaluate` measure one model in one process, in turn; the first turn warms up and does not
count. Every number that both have must agree to 1e-4. Printed are the median seconds of either, the ratio of each turn
and what it should be: of scoring with the default metrics, of scoring with all membership metrics (the retrained model
is the reference), of generation, and of the whole, with all that stands around it. Then what a second evaluation of the
same weights costs, of another split that shares all it reads with the first; what was counted; and the memory that
either takes beyond the model, in a process of its own (Linux) or on the GPU.
"""

import argparse
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import plain_tofu
import torch
from memory import peak_beyond
from plain_tofu import Plain
from turns import ratio

import amnestic

TOLERANCE = 1e-4
TARGETS = {
    "scoring": (2.0, 2.0),
    "scoring, all membership metrics": (3.0, 3.0),
    "generation": (3.0, 1.8),
    "whole": (2.5, 2.0),
}
"""Ratios to reach: of a model that knows the forget answers, and of one that does not."""
SHARED = 0.05
"""Most that what is shared with an earlier evaluation may cost, as a share of it."""
MEMBERSHIP = tuple(f"mia.{name}.auc" for name in plain_tofu.ATTACKS)
SCORED = ("probability", "normalized_probability", "truth_ratio", "extraction_strength", "exact_memorization")
SIDES = ("plain", "ours")


class Case:
    """One model with what it is held beside, and a folder for what ours writes."""

    def __init__(self, options: argparse.Namespace, work: Path) -> None:
        """Load the models, and let either side measure the retrained one for what the suite wants of it."""
        self.split, self.work = options.split, work
        self.folder = first_rows(options.data, work / "data", options.rows) if options.rows else options.data
        self.data = plain_tofu.read_tofu(self.folder, options.split)
        self.model, self.tokenizer = plain_tofu.load(options.model, options.dtype)
        self.retrained, _ = plain_tofu.load(options.retrained, options.dtype)
        self.reference = options.retrained
        self.plain_retrained = plain_tofu.of_retrained(self.retrained, self.tokenizer, self.data)
        names = {"metrics": ["truth_ratio", "mia.min_k.auc"]}
        self._evaluate("retrained", model=self.retrained, retrained=None, **names)

    def plain(self, all_membership: bool = True) -> Plain:
        """Measure metric by metric."""
        return plain_tofu.evaluate(
            self.model, self.tokenizer, self.data, self.plain_retrained, self.retrained, all_membership
        )

    def ours(self, **more: Any) -> dict[str, Any]:
        """Return the results of ours."""
        return self._evaluate("run", **more)

    def _evaluate(self, name: str, **more: Any) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "model": self.model,
            "tokenizer": self.tokenizer,
            "benchmark": f"tofu:{self.split}",
            "data": str(self.folder),
            "retrained": str(self.work / "retrained"),
            "output_dir": self.work / name,
            "overwrite": True,
        }
        chosen = {key: value for key, value in (settings | more).items() if value is not None}
        results: dict[str, Any] = amnestic.evaluate(**chosen).results
        return results


def first_rows(source: Path, folder: Path, rows: int) -> Path:
    """Write a folder of TOFU's files with their first rows alone."""
    folder.mkdir()
    for file in source.glob("*.json"):
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        (folder / file.name).write_text("".join(lines[:rows]), encoding="utf-8")
    return folder


def differences(plain: Plain, *found: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Return the numbers of the plain way that ours lacks, or has otherwise."""
    ours = {name: value for results in found for name, value in results["metrics"].items()}
    pairs = {name: (value, ours.get(name, math.nan)) for name, value in plain.metrics.items()}
    return {name: (a, b) for name, (a, b) in pairs.items() if not abs(a - b) <= TOLERANCE * max(1.0, abs(a))}


def turn(case: Case, seconds: dict[str, dict[str, list[float]]]) -> tuple[Plain, dict[str, Any]]:
    """Measure by either way, note how long each part took, and return what was found; exit where the numbers differ."""
    plain = case.plain()
    begin = time.perf_counter()
    ours = case.ours()
    whole = time.perf_counter() - begin
    attacks = case.ours(metrics=[*SCORED, *MEMBERSHIP], reference=case.reference)
    if wrong := differences(plain, ours, attacks):
        sys.exit("\n".join(f"{name}: {a:.6g} metric by metric, {b:.6g} with ours" for name, (a, b) in wrong.items()))
    scored, generated = plain.seconds["score"], plain.seconds["generate"]
    timings = ours["timings"]
    pairs = {
        "scoring": (scored, timings["score"]),
        "scoring, all membership metrics": (scored + plain.seconds["attacks"], attacks["timings"]["score"]),
        "generation": (generated, timings["generate"]),
        "whole": (scored + generated + plain.seconds["compute"], whole),
    }
    for part, sides in pairs.items():
        for side, value in zip(SIDES, sides, strict=True):
            seconds.setdefault(part, {}).setdefault(side, []).append(value)
    return plain, ours


def again(case: Case) -> str:
    """Return what a second evaluation costs, of a split whose rows are among those of the first."""
    other = {"forget10": "forget05", "forget05": "forget01"}.get(case.split)
    if other is None:
        return "there is no smaller split"
    cache = str(case.work / "cache")
    first, second = (case.ours(cache_dir=cache, retrained=None, benchmark=f"tofu:{s}") for s in (case.split, other))
    cost = [sum(results["timings"][part] for part in ("score", "generate")) for results in (first, second)]
    share = f"{cost[1] / cost[0]:.1%} (at most {SHARED:.0%})"
    return f"{other} behind {case.split}: {cost[1]:.2f} s of {cost[0]:.2f} s, {share}"


def counted(case: Case, plain: Plain) -> list[str]:
    """Return what either way computes."""
    plan = case.ours(plan=True)["plan"]
    counts = plain.counts
    return [
        f"rows scored: {counts.rows:,} with all membership metrics, {plan['rows']:,}",
        f"positions: {counts.tokens:,}, {plan['positions']:,}",
        f"vocabulary rows: {counts.vocabulary_rows:,}, {plan['vocabulary_rows']:,}",
        f"decoding: {counts.decode_steps:,} steps, {counts.row_steps:,} row-steps for {counts.generated:,} tokens",
    ]


def peak(case: Case, side: str) -> int:
    """Return the bytes that one evaluation takes beyond the models; it runs once."""
    call = case.ours if side == "ours" else lambda: case.plain(all_membership=False)
    if case.model.device.type != "cuda":
        return peak_beyond(call)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return torch.cuda.max_memory_allocated() - before


def peaks(arguments: Sequence[str]) -> list[float]:
    """Return the megabytes of either side, each in a process of its own."""
    found = []
    for side in SIDES:
        command = [sys.executable, __file__, *arguments, "--only", side]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found.append(int(output.split()[-1]) / 2**20)
    return found


def main() -> None:
    """Print a line for each part of the evaluation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--retrained", required=True, help="a model that never saw the forget rows; the reference too")
    parser.add_argument("--data", required=True, type=Path, help="the folder of TOFU's files")
    parser.add_argument("--split", default="forget10", choices=("forget01", "forget05", "forget10"))
    parser.add_argument("--rows", type=int, help="the first rows of each file alone [default: all]")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--no_memory", action="store_true", help="leave the peaks out")
    parser.add_argument("--only", choices=SIDES, help="print the bytes that one evaluation takes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        case = Case(options, Path(work))
        if options.only:
            print(peak(case, options.only))
            return
        print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {case.model.device}", flush=True)
        seconds: dict[str, dict[str, list[float]]] = {}
        for _ in range(options.turns + 1):
            plain, _ours = turn(case, seconds)
        is_known = plain.metrics["forget.probability"] > 0.5
        for part, sides in seconds.items():
            a, b = (sides[side][1:] or sides[side] for side in SIDES)
            medians = f"{statistics.median(a):.2f} s, {statistics.median(b):.2f} s"
            print(f"{part}: {medians}: {ratio(a, b)}; to reach: {TARGETS[part][not is_known]}", flush=True)
        print(f"the {len(plain.metrics)} numbers of both agree to {TOLERANCE}")
        if not options.rows:  # the first rows of two splits are others
            print(f"again: {again(case)}")
        print(*counted(case, plain), sep="\n", flush=True)
    if not options.no_memory:
        a, b = peaks(sys.argv[1:])
        print(f"memory beyond the models: {a:.0f} MB, {b:.0f} MB: {a / max(b, 1):.1f}")


if __name__ == "__main__":
    main()
