"""Steps of methods: the obvious loop (`perf/plain_methods.py`) against amnestic's, in turn, on the same rows.

    python perf/methods.py --model MODEL --forget FILE --retain FILE [--methods npo dpo kl rmu simnpo]
    options: [--rows 32] [--budget 32] [--turns 5] [--steps 2] [--epochs 10] [--reference cached|live] [--use_peft]
             [--dtype float32] [--busy]
    python perf/methods.py ... --memory [--repeats 3]      peaks of both, each in a process of its own, in place of time

`kl` is gradient ascent with a KL divergence on the retain rows, the others are as published. Both sides start from the
same weights, moved a little away from the reference's (else half of the losses would be 0), and take the same steps;
losses and gradient norm of the first one must agree within 1e-4. `--budget` is the number of rows of a micro-batch;
ours takes as many tokens as so many of the longest rows have. With `--use_peft` both train an adapter, the obvious
loop beside a second model, ours with `--reference live` beside its own weights. With `--busy` seconds are those that
the processor spent on this process, which other work on the machine lengthens less; for one thread.

One line a method: seconds of both, ratio with its spread, positions that go through a body for each token of the rows
(plain, ours), largest difference of the first step, seconds that ours took to read the reference, once for a whole
run, for the rows of `--epochs`. With `--memory`: megabytes of the whole process, and of those what was not held before
a step.
"""

import argparse
import copy
import ctypes
import itertools
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import plain_methods as plain
import torch
from memory import peak_beyond
from plain_methods import Plain, Recipe
from turns import in_turn, ratio

from amnestic.constraints.multiplier import Fixed
from amnestic.constraints.retention import KL, Retention
from amnestic.data.batches import StepRows
from amnestic.data.encode import Encoded, Encoder
from amnestic.data.options import DataOptions
from amnestic.data.refusals import read_refusals, refusal_for
from amnestic.data.second_answers import with_answers
from amnestic.data.sources import read_examples
from amnestic.methods.base import Method, build
from amnestic.methods.steering import direction
from amnestic.model import adapter, blocks
from amnestic.model.form import examine
from amnestic.model.load import DTYPES, Loaded, load
from amnestic.model.options import AdapterOptions, ModelOptions
from amnestic.model.packing import examine_packing
from amnestic.training.loop import Loop, Plan
from amnestic.training.optimizer import Optimizer
from amnestic.training.options import UnlearnTraining
from amnestic.training.problem import Problem, forget_term, retain_term
from amnestic.training.remembered import Remembered, drawn
from amnestic.training.step import step

SIDES = ("plain", "ours")
NAMES = ("npo", "dpo", "kl", "rmu", "simnpo")
TOLERANCE = 1e-4
"""What losses and gradient norm of the first step may differ by, as a share."""
PEAK_STEPS = 2
"""Steps over which a peak is read."""


@dataclass(frozen=True)
class Comparison:
    """A method, as both sides compute it."""

    method: Method
    retention: Retention
    recipe: Recipe

    @classmethod
    def of(cls, name: str, model: Any) -> "Comparison":
        """Return the comparison called `name` on `model`."""
        method = build("grad_diff" if name == "kl" else name, {}).fitted(blocks.count(model), seed=0)
        (retention,) = (Retention(KL(), Fixed(1.0)),) if name == "kl" else method.retention
        return cls(method, retention, replace(_recipe(name, method, model), weight=float(retention.control.weight)))


def _recipe(name: str, method: Any, model: Any) -> Recipe:
    """Return the obvious form of a method."""
    forget, retain = frozenset({"forget"}), frozenset({"retain"})
    if name == "rmu":
        u = direction(method.seed, model.config.hidden_size, model.device, torch.float32)
        steered = plain.steered(method.steering_coefficient * u)
        moves = frozenset(blocks.chosen_by(model, method.moves))
        return Recipe(steered, plain.hidden_distance, retain, is_by_answer=True, layer=method.block, moves=moves)
    return {
        "npo": Recipe(plain.npo, refers=forget, is_by_answer=True),
        "dpo": Recipe(plain.npo, refers=forget, reads_second=True, is_by_answer=True),
        "kl": Recipe(plain.ascent, plain.kl, retain),
        "simnpo": Recipe(plain.simnpo, is_by_answer=True),
    }[name]


@dataclass(frozen=True)
class Case:
    """A model, the rows of both splits, and second answers to the prompts of the forget rows."""

    loaded: Loaded
    splits: Mapping[str, Sequence[Encoded]]
    second: Mapping[str, Encoded]
    options: argparse.Namespace

    @classmethod
    def of(cls, options: argparse.Namespace) -> "Case":
        """Return what the command line names; the second answers are the package's refusals."""
        loaded = load(ModelOptions(model=options.model, dtype=options.dtype))
        encoder = Encoder(loaded.tokenizer, DataOptions(), loaded.position_limit)
        examples = {name: read_examples(getattr(options, name), name, DataOptions()) for name in ("forget", "retain")}
        splits = {name: encoder.encode(name, found).examples for name, found in examples.items()}
        refusals = read_refusals()
        answers = {example.id: refusal_for(refusals, 0, example.id) for example in examples["forget"]}
        second = with_answers(encoder, examples["forget"], splits["forget"], answers)
        examine(loaded, splits["forget"][0])
        examine_packing(loaded, [*splits.values(), second])
        return cls(loaded, splits, {row.id: row for row in second}, options)

    @property
    def rows(self) -> StepRows:
        """Return the rows of each step."""
        return StepRows({name: len(split) for name, split in self.splits.items()}, self.options.rows, seed=0)

    def chosen(self, number: int) -> dict[str, list[Encoded]]:
        """Return the rows of one step, and the second answers to those of the forget split."""
        found = {name: [self.splits[name][i] for i in places] for name, places in self.rows.rows(number).items()}
        return found | {"second": [self.second[row.id] for row in found["forget"]]}

    @property
    def far(self) -> float:
        """Return by how much weights are moved before the first step: an adapter, which is small, by more."""
        return 5e-2 if self.options.use_peft else 1e-2

    def copied(self) -> "Case":
        """Return the case with a model of its own."""
        return replace(self, loaded=replace(self.loaded, model=copy.deepcopy(self.loaded.model)))

    def adapted(self) -> Any:
        """Return the model that learns: with an adapter, if that was asked for; the case's own."""
        loaded = self.loaded
        if self.options.use_peft:
            loaded.adapter = adapter.attach(loaded.model, AdapterOptions(use_peft=True), None, seed=0)
        return loaded.model


def displace(model: Any, far: float) -> None:
    """Move the weights that learn by some `far` each, the same for the same model: no loss of the first step is 0."""
    generator = torch.Generator(device=model.device).manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator, device=parameter.device)
                parameter.add_(noise.to(parameter.dtype), alpha=far)


class Obvious:
    """The obvious loop."""

    def __init__(self, case: Case, name: str) -> None:
        """Train the case's model beside a copy of it."""
        recipe = Comparison.of(name, case.loaded.model).recipe
        is_read = bool(recipe.refers)
        reference = copy.deepcopy(case.loaded.model).requires_grad_(False) if is_read else None
        model = case.adapted()
        if case.options.use_peft:
            recipe = Comparison.of(name, model).recipe  # of an adapter other parameters move
        self.case, self.numbers = case, itertools.count()
        self.plain = Plain(model, reference, recipe, case.options.budget, case.options.learning_rate)
        displace(model, case.far)

    @property
    def positions(self) -> int:
        """Return the positions that went through a body."""
        return self.plain.positions

    def step(self) -> list[float]:
        """Take one step and return forget loss, retain loss and the gradient's norm."""
        return list(self.plain.step(self.case.chosen(next(self.numbers))))


class Ours:
    """amnestic's loop."""

    def __init__(self, case: Case, name: str) -> None:
        """Train the case's model; read the reference before."""
        options, self.numbers, self.positions = case.options, itertools.count(), 0
        self.model = case.adapted()
        chosen = Comparison.of(name, self.model)
        if chosen.method.moves is not None:
            moves = blocks.chosen_by(self.model, chosen.method.moves)
            for key, parameter in self.model.named_parameters():
                parameter.requires_grad_(key in moves)
        terms = (forget_term(chosen.method), retain_term(chosen.retention))
        second = case.second if chosen.method.alternate else None
        problem = Problem(terms, self.model, case.loaded.vocabulary, case.loaded.form, second=second)
        begin = time.perf_counter()
        self.problem = self._referred(problem, case)
        self.reading = time.perf_counter() - begin
        displace(self.model, case.far)
        training = UnlearnTraining(
            learning_rate=options.learning_rate, weight_decay=0.0, per_device_train_batch_size=options.budget
        )
        multiplier = chosen.retention.control.start(0.0, 1, self.problem.device)
        plan = Plan(1, 1, 0)
        self.loop = Loop(
            self.problem, case.splits, case.rows, plan, training, [multiplier], lambda r: None, lambda s, e: None
        )
        self.optimizer = Optimizer(self.model.parameters(), training)

    def _referred(self, problem: Problem, case: Case) -> Problem:
        """Return the problem with the reference of the rows that a run of so many epochs draws."""
        steps = case.options.epochs * case.rows.steps_per_epoch
        examples = drawn(case.splits, case.rows, steps, {"forget": case.splits["forget"]})
        mode, has_adapter = case.options.reference, case.loaded.has_adapter
        remembered = Remembered(mode, has_adapter, 32, Path(), is_written_here=False)
        return remembered.complete(problem, examples)

    def step(self) -> list[float]:
        """Take one step and return forget loss, retain loss and the gradient's norm."""
        batches = self.loop.batches(next(self.numbers), self.optimizer.device)
        self.positions += sum(batch.input_ids.numel() for batch in batches)
        taken = step(self.problem, batches, self.loop.multipliers, self.optimizer)
        return [*taken.losses.tolist(), float(taken.norm)]


LOOPS: Mapping[str, Any] = {"plain": Obvious, "ours": Ours}


def difference(first: Mapping[str, Sequence[float]]) -> float:
    """Return the largest difference of what the first step gave, as a share; end the program where it is too much."""
    worst = max(abs(p - o) / max(1e-3, abs(p)) for p, o in zip(first["plain"], first["ours"], strict=True))
    if worst > TOLERANCE:
        raise SystemExit(f"forget loss, retain loss and gradient norm differ by {worst:.1e}: {dict(first)}")
    return worst


def compare(case: Case, name: str) -> str:
    """Run both in turn and return what was measured."""
    steps = case.options.steps
    taking = {side: LOOPS[side](case.copied(), name) for side in SIDES}
    worst = difference({side: loop.step() for side, loop in taking.items()})
    clock = time.process_time if case.options.busy else time.perf_counter
    forms = {side: lambda side=side: [taking[side].step() for _ in range(steps)] for side in SIDES}
    seconds = in_turn(forms, case.options.turns, clock)
    medians = [statistics.median(seconds[side]) / steps for side in SIDES]
    rows = [row for i in range(next(taking["ours"].numbers)) for row in _passed(case, name, i)]
    real = sum(len(row.input_ids) for row in rows)
    passed = ", ".join(f"{loop.positions / real:.3f}" for loop in taking.values())
    times = f"{medians[0]:.3f} s, {medians[1]:.3f} s: {ratio(*seconds.values())}"
    return f"{times} | positions {passed} | within {worst:.1e} | reference {taking['ours'].reading:.1f} s"


def _passed(case: Case, name: str, number: int) -> list[Encoded]:
    """Return the rows that a step must read."""
    chosen = case.chosen(number)
    return [row for split in chosen if split != "second" or name == "dpo" for row in chosen[split]]


def peak(case: Case, name: str, side: str) -> tuple[int, int]:
    """Return the bytes that the process took at most, and of those what a step added to what was held before it."""
    taking = LOOPS[side](case, name)
    taking.step()  # makes the optimiser's state
    is_on_gpu = case.loaded.model.device.type == "cuda"
    before = torch.cuda.memory_allocated() if is_on_gpu else _most()
    if is_on_gpu:
        taking.step()
        most = torch.cuda.max_memory_allocated()
        return most, most - before
    ctypes.CDLL(None).malloc_trim(0)  # what was freed would be used again without being seen
    grown = peak_beyond(lambda: [taking.step() for _ in range(PEAK_STEPS)])
    return max(before, _most()), grown


def _most() -> int:
    """Return the most bytes that this process has held, since that was last forgotten."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measured_peaks(arguments: Sequence[str], name: str, repeats: int) -> str:
    """Return the median peaks of both sides, in megabytes, from processes of their own."""
    found = []
    for side in SIDES:
        command = [sys.executable, __file__, *arguments, "--only", name, side]
        outputs = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(repeats)]
        peaks = [[int(number) for number in output.split()[-2:]] for output in outputs]
        found.append([statistics.median(column) / 2**20 for column in zip(*peaks, strict=True)])
    (whole, grown), (own_whole, own_grown) = found
    return (
        f"{whole:.0f} MB, {own_whole:.0f} MB: {whole / own_whole:.2f} | "
        f"of a step {grown:.0f} MB, {own_grown:.0f} MB: {grown / own_grown:.2f}"
    )


def main() -> None:
    """Print a line for each method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--forget", type=Path, required=True)
    parser.add_argument("--retain", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--rows", type=int, default=32, help="rows of each split in a step")
    parser.add_argument("--budget", type=int, default=32, help="rows of a micro-batch; as many tokens are ours")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="steps of each in a turn")
    parser.add_argument("--epochs", type=int, default=10, help="whose rows have their reference read")
    parser.add_argument("--reference", choices=("auto", "cached", "live"), default="auto", help="ours")
    parser.add_argument("--use_peft", action="store_true", help="train an adapter")
    parser.add_argument("--dtype", default="float32", choices=tuple(DTYPES))
    parser.add_argument("--learning_rate", type=float, default=1e-5)
    parser.add_argument("--busy", action="store_true", help="count the processor's time")
    parser.add_argument("--memory", action="store_true", help="measure peaks in place of time")
    parser.add_argument("--repeats", type=int, default=3, help="processes of each side, for peaks")
    parser.add_argument("--only", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(*peak(Case.of(options), *options.only))
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads", file=sys.stderr)
    case = None if options.memory else Case.of(options)
    for name in options.methods:
        line = measured_peaks(sys.argv[1:], name, options.repeats) if case is None else compare(case, name)
        print(f"{name} | {line}", flush=True)


if __name__ == "__main__":
    main()
