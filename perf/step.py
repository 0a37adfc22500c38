"""One step of PDU: the obvious loop against amnestic's, in turn, in one process, on the same rows; time and memory.

    python perf/step.py --model MODEL --forget FILE --retain FILE            a model and data of your own
    python perf/step.py --vocabulary 4096 32768 128256 --head tied untied    small random models, rows made up
                        --lengths tofu muse [--chunk 2048]
    options: [--rows 32] [--budget 4] [--turns 5] [--steps 1] [--width 256] [--layers 4] [--dtype float32]

The obvious loop pads the forget and the retain rows of a step to their longest, micro-batch by micro-batch in the order
of the data, runs the model on each, and takes both losses from full float32 logits. Both take the same steps from the
same weights, so their losses must agree. Peaks are those of a process each (of its step, on a processor: VmHWM less
what was held before it; on a GPU what torch allocated), so that neither inherits the other's.

One line a case: vocabulary, head, lengths, seconds of both, their ratio with its spread, megabytes of both and their
ratio, positions that go through the body for each real token (plain, ours), the largest difference of the losses.
"""

import argparse
import copy
import ctypes
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from amnestic.constraints.multiplier import Bounded
from amnestic.constraints.retention import NLL, Retention
from amnestic.data.batches import StepRows
from amnestic.data.encode import Encoded, Encoder
from amnestic.data.options import DataOptions
from amnestic.data.sources import read_examples
from amnestic.methods.flattening import PDU
from amnestic.model.form import examine
from amnestic.model.load import DTYPES, Loaded, device_named, load, prepare
from amnestic.model.options import ModelOptions
from amnestic.model.packing import examine_packing
from amnestic.training.loop import Loop, Plan
from amnestic.training.optimizer import Optimizer
from amnestic.training.options import UnlearnTraining
from amnestic.training.problem import Problem, forget_term, retain_term
from amnestic.training.step import step

LAMBDA, RATE, BOUND = 100.0, 5.0, 0.05
SIDES = ("plain", "ours")


@dataclass(frozen=True)
class Case:
    """A model and the rows of two splits."""

    loaded: Loaded
    splits: dict[str, Sequence[Encoded]]
    options: argparse.Namespace

    @property
    def device(self) -> torch.device:
        """Return the device that the model computes on."""
        return torch.device(self.loaded.model.device)

    @property
    def rows(self) -> StepRows:
        """Return the rows of each step."""
        return StepRows({name: len(split) for name, split in self.splits.items()}, self.options.rows, seed=0)

    def chosen(self, number: int) -> dict[str, list[Encoded]]:
        """Return the rows of one step."""
        return {name: [self.splits[name][i] for i in places] for name, places in self.rows.rows(number).items()}


class Words:
    """A tokenizer of random models, of which its size alone is asked."""

    def __init__(self, size: int) -> None:
        """Take the number of tokens."""
        self.size = size

    def __len__(self) -> int:
        """Return the number of tokens."""
        return self.size


def made_up(vocabulary: int, is_tied: bool, kind: str, options: argparse.Namespace) -> Case:
    """Return a small random model and rows of TOFU-like lengths, or chunks as of MUSE."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=options.width,
        intermediate_size=4 * options.width,
        num_hidden_layers=options.layers,
        num_attention_heads=max(1, options.width // 64),
        max_position_embeddings=max(512, options.chunk),
        tie_word_embeddings=is_tied,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=DTYPES[options.dtype]).to(device_named("auto"))
    generator = np.random.default_rng(0)
    splits = {name: _rows(name, kind, vocabulary, options, generator) for name in ("forget", "retain")}
    return Case(prepare(model, Words(vocabulary)), splits, options)


def _rows(
    name: str, kind: str, vocabulary: int, options: argparse.Namespace, generator: np.random.Generator
) -> list[Encoded]:
    """Return rows of a question and an answer (some 20 and 48 tokens), or of whole chunks, the fifth of them short."""
    found = []
    for i in range(2 * options.rows):
        if kind == "tofu":
            prompt, answer = (int(np.clip(generator.normal(*of), *within)) for of, within in TOFU)
        else:
            prompt, answer = 1, options.chunk - 1
            answer = answer if i % 5 else int(generator.integers(options.chunk // 8, options.chunk))
        length = prompt + answer
        tokens = generator.integers(3, vocabulary, length)
        found.append(Encoded(f"{name}:{i}", tokens, np.arange(length) >= prompt, prompt, False, "", ""))
    return found


TOFU = (((20, 5), (8, 40)), ((48, 18), (10, 120)))
"""Mean and deviation, least and most tokens of questions and of answers: those of TOFU, nearly."""


def named(options: argparse.Namespace) -> Case:
    """Return the model and the files that the command line names."""
    loaded = load(ModelOptions(model=options.model, dtype=options.dtype))
    encoder = Encoder(loaded.tokenizer, DataOptions(), loaded.position_limit)
    splits: dict[str, Sequence[Encoded]] = {
        name: encoder.encode(name, read_examples(getattr(options, name), name, DataOptions())).examples
        for name in ("forget", "retain")
    }
    return Case(loaded, splits, options)


class Plain:
    """The obvious loop."""

    def __init__(self, case: Case) -> None:
        """Start from the case's weights, of which a copy is trained."""
        self.case, self.model = case, copy.deepcopy(case.loaded.model)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=case.options.learning_rate, weight_decay=0.0)
        self.multiplier = LAMBDA
        self.positions = 0

    def step(self, number: int) -> tuple[float, float]:
        """Take one step and return forget and retain loss."""
        chosen, size = self.case.chosen(number), self.case.options.budget
        counts = {name: sum(row.scored for row in rows) for name, rows in chosen.items()}
        losses = dict.fromkeys(chosen, 0.0)
        for name, rows in chosen.items():
            weight = self.multiplier if name == "retain" else 1.0
            for first in range(0, len(rows), size):
                loss = self._loss(name, rows[first : first + size]) / counts[name]
                (weight * loss).backward()
                losses[name] += loss.item()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.multiplier = max(0.0, self.multiplier + RATE * (losses["retain"] - BOUND))
        return losses["forget"], losses["retain"]

    @torch.inference_mode()
    def read(self, number: int) -> None:
        """Compute the losses of one step's rows, and nothing else."""
        size = self.case.options.budget
        for name, rows in self.case.chosen(number).items():
            for first in range(0, len(rows), size):
                self._loss(name, rows[first : first + size])

    def _loss(self, name: str, rows: Sequence[Encoded]) -> torch.Tensor:
        """Return the sum of a split's losses from full logits of padded rows."""
        longest = max(len(row.input_ids) for row in rows)
        ids = torch.zeros((len(rows), longest), dtype=torch.int64)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for i, row in enumerate(rows):
            tokens = torch.from_numpy(row.input_ids.copy())
            ids[i, : len(tokens)], mask[i, : len(tokens)] = tokens, 1
            labels[i, : len(tokens)] = torch.where(torch.from_numpy(row.is_scored.copy()), tokens, -100)
        ids, mask, labels = (tensor.to(self.case.device) for tensor in (ids, mask, labels))
        self.positions += ids.numel()
        logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()[:, :-1]
        labels = labels[:, 1:]
        if name == "retain":
            return torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum"
            )
        known = logits[..., : self.case.loaded.vocabulary]
        return (known.max(dim=-1).values - known.mean(dim=-1))[labels != -100].square().sum()


class Ours:
    """amnestic's step."""

    def __init__(self, case: Case) -> None:
        """Start from the case's weights, of which a copy is trained."""
        loaded = copy.copy(case.loaded)
        loaded.model = copy.deepcopy(case.loaded.model)
        examine(loaded, next(iter(case.splits.values()))[0])
        examine_packing(loaded, list(case.splits.values()))
        options = UnlearnTraining(
            learning_rate=case.options.learning_rate,
            weight_decay=0.0,
            per_device_train_batch_size=case.options.budget,
        )
        retention = Retention(NLL(), PDU.bounded)
        terms = (forget_term(PDU()), retain_term(retention))
        problem = Problem(terms, loaded.model, loaded.vocabulary, loaded.form)
        multiplier = Bounded(rate=RATE, initial=LAMBDA).start(BOUND, 1, case.device)
        plan = Plan(1, 1, 0)
        self.loop = Loop(
            problem, case.splits, case.rows, plan, options, [multiplier], lambda r: None, lambda s, e: None
        )
        self.optimizer = Optimizer(loaded.model.parameters(), options)
        self.positions = 0

    def step(self, number: int) -> tuple[float, float]:
        """Take one step and return forget and retain loss."""
        batches = self.loop.batches(number, self.optimizer.device)
        self.positions += sum(batch.input_ids.numel() for batch in batches)
        sums, *_ = step(self.loop.problem, batches, self.loop.multipliers, self.optimizer)
        forget_loss, retain_loss = sums.tolist()
        return forget_loss, retain_loss

    @torch.inference_mode()
    def read(self, number: int) -> None:
        """Compute the losses of one step's rows, and nothing else."""
        for batch in self.loop.batches(number, self.optimizer.device):
            self.loop.problem.unreduced(batch)


LOOPS: dict[str, Callable[[Case], Any]] = {"plain": Plain, "ours": Ours}


def peak(case: Case, side: str) -> int:
    """Return the bytes that a second step of one side took at most beyond what was held before it."""
    taking = LOOPS[side](case)
    taking.step(0)  # makes the optimiser's state
    if case.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        taking.step(1)
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL(None).malloc_trim(0)  # what was freed would be used again without being seen
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    before = _held("VmRSS")
    taking.step(1)
    return _held("VmHWM") - before


def _held(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    return int(found[1]) * 1024 if found else 0


def measured_peaks(arguments: Sequence[str]) -> dict[str, int]:
    """Return the peak of each side, in a process of its own."""
    found = {}
    for side in SIDES:
        command = [sys.executable, __file__, *arguments, "--only", side]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found[side] = int(output.split()[-1])
    return found


def compare(case: Case, turns: int, steps: int) -> str:
    """Run both in turn and return what was measured; the first turn warms up and does not count."""
    taking = {side: LOOPS[side](case) for side in SIDES}
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    worst, real = 0.0, 0
    for turn in range(turns + 1):
        numbers = range(turn * steps, (turn + 1) * steps)
        real += sum(len(row.input_ids) for number in numbers for rows in case.chosen(number).values() for row in rows)
        losses = {}
        for side in SIDES:
            begin = time.perf_counter()
            losses[side] = [taking[side].step(number) for number in numbers]
            if turn:
                seconds[side].append((time.perf_counter() - begin) / steps)
        for a, b in zip(losses["plain"], losses["ours"], strict=True):
            worst = max(worst, *(abs(x - y) / max(1e-3, abs(x)) for x, y in zip(a, b, strict=True)))
    medians = [statistics.median(seconds[side]) for side in SIDES]
    ratios = [p / o for p, o in zip(seconds["plain"], seconds["ours"], strict=True)]
    spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    passed = ", ".join(f"{taking[side].positions / real:.3f}" for side in SIDES)
    return f"{medians[0]:.3f} s, {medians[1]:.3f} s: {spread} | positions {passed} | losses within {worst:.1e}"


def main() -> None:
    """Print a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--forget", type=Path)
    parser.add_argument("--retain", type=Path)
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[4096, 32768, 128256])
    parser.add_argument("--head", nargs="+", choices=("tied", "untied"), default=["tied", "untied"])
    parser.add_argument("--lengths", nargs="+", choices=("tofu", "muse"), default=["tofu", "muse"])
    parser.add_argument("--chunk", type=int, default=2048, help="tokens of a MUSE-like row")
    parser.add_argument("--rows", type=int, default=32, help="rows of each split in a step")
    parser.add_argument("--budget", type=int, default=4, help="rows of a micro-batch; as many tokens are ours")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1, help="steps of each in a turn")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--dtype", default="float32", choices=tuple(DTYPES))
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--no_memory", action="store_true", help="leave the peaks out")
    parser.add_argument("--only", choices=SIDES, help="print the bytes that a step of one side takes")
    options = parser.parse_args()
    own = sys.argv[1:]
    cases = [(v, head, kind) for v in options.vocabulary for head in options.head for kind in options.lengths]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads", file=sys.stderr)
    for vocabulary, head, kind in [(0, "", "")] if options.model else cases:
        case = named(options) if options.model else made_up(vocabulary, head == "tied", kind, options)
        if options.only:
            print(peak(case, options.only))
            return
        name = options.model or f"V={vocabulary} {head} {kind}"
        line = compare(case, options.turns, options.steps)
        if not options.no_memory:
            chosen = [] if options.model else ["--vocabulary", str(vocabulary), "--head", head, "--lengths", kind]
            peaks = measured_peaks([*own, *chosen])
            megabytes = [peaks[side] / 2**20 for side in SIDES]
            line += f" | {megabytes[0]:.0f} MB, {megabytes[1]:.0f} MB: {megabytes[0] / max(megabytes[1], 1e-9):.2f}"
        print(f"{name} | {line}", flush=True)


if __name__ == "__main__":
    main()
