"""Seconds a step of PDU: the obvious loop against amnestic's, in turn, in one process, on the same rows.

The obvious loop pads the forget and the retain rows of a step to their longest, runs the model on each, and takes both
losses from full float32 logits. Both take the same steps from the same weights, so their losses must agree.

    python perf/plain_pdu.py --model MODEL --forget FILE --retain FILE [--turns 5] [--steps 3]
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from amnestic.constraints.multiplier import Multiplier
from amnestic.constraints.retention import NLL, Retention
from amnestic.data.batches import StepRows, pad
from amnestic.data.encode import Encoded, Encoder
from amnestic.data.options import DataOptions
from amnestic.data.sources import read_examples
from amnestic.methods.flattening import PDU
from amnestic.model.load import load
from amnestic.model.options import ModelOptions
from amnestic.training.loop import Loop, Plan
from amnestic.training.options import UnlearnTraining
from amnestic.training.problem import Problem, forget_term, retain_term

LAMBDA, RATE, BOUND = 100.0, 5.0, 0.05


class Plain:
    """The obvious loop."""

    def __init__(self, model: Any, splits: dict[str, Sequence[Encoded]], rows: StepRows, learning_rate: float) -> None:
        """Start from the weights of `model`, which is trained in place."""
        self.model, self.splits, self.rows = model, splits, rows
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
        self.multiplier = LAMBDA

    def step(self, number: int) -> tuple[float, float]:
        """Take one step and return forget and retain loss."""
        rows = self.rows.rows(number)
        forget, retain = ([self.splits[name][i] for i in rows[name]] for name in ("forget", "retain"))
        margin = self._margin(forget)
        forget_loss, retain_loss = margin.square().mean(), self._nll(retain)
        (forget_loss + self.multiplier * retain_loss).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.multiplier = max(0.0, self.multiplier + RATE * (retain_loss.item() - BOUND))
        return forget_loss.item(), retain_loss.item()

    def _logits(self, examples: Sequence[Encoded]) -> tuple[torch.Tensor, torch.Tensor]:
        batch = pad("", examples)
        mask = batch.input_ids != 0
        logits = self.model(input_ids=batch.input_ids, attention_mask=mask.long()).logits.float()[:, :-1]
        labels = torch.full_like(batch.input_ids[:, 1:], -100)
        labels[batch.predicting[:, :-1]] = batch.targets
        return logits, labels

    def _margin(self, examples: Sequence[Encoded]) -> torch.Tensor:
        logits, labels = self._logits(examples)
        return (logits.max(dim=-1).values - logits.mean(dim=-1))[labels != -100]

    def _nll(self, examples: Sequence[Encoded]) -> torch.Tensor:
        logits, labels = self._logits(examples)
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)


def ours(loop: Loop) -> Callable[[int], tuple[float, float]]:
    """Return a call that takes one step of amnestic's loop."""
    from amnestic.training.optimizer import Optimizer
    from amnestic.training.step import step

    optimizer = Optimizer(loop.problem.model.parameters(), loop.options)

    def take(number: int) -> tuple[float, float]:
        sums, *_ = step(loop.problem, loop.batches(number, optimizer.device), loop.multipliers, optimizer)
        forget_loss, retain_loss = sums.tolist()
        return forget_loss, retain_loss

    return take


def main() -> None:
    """Print the median seconds a step of both, their ratio, and the largest difference of their losses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--forget", required=True, type=Path)
    parser.add_argument("--retain", required=True, type=Path)
    parser.add_argument("--rows", type=int, default=32, help="rows of each split in a step")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="steps of each in a turn")
    parser.add_argument("--learning_rate", type=float, default=3e-4)
    arguments = parser.parse_args()

    loaded = load(ModelOptions(model=arguments.model, dtype="float32"))
    encoder = Encoder(loaded.tokenizer, DataOptions(), loaded.position_limit)
    splits: dict[str, Sequence[Encoded]] = {
        name: encoder.encode(name, read_examples(getattr(arguments, name), name, DataOptions())).examples
        for name in ("forget", "retain")
    }
    rows = StepRows({name: len(split) for name, split in splits.items()}, arguments.rows, seed=0)
    options = UnlearnTraining(
        learning_rate=arguments.learning_rate,
        weight_decay=0.0,
        per_device_train_batch_size=arguments.rows,
        gradient_accumulation_steps=1,
    )
    plain = Plain(copy.deepcopy(loaded.model), splits, rows, arguments.learning_rate)
    retention = Retention(NLL(), PDU.retention[0].control)
    problem = Problem((forget_term(PDU()), retain_term(retention)), loaded.model, loaded.vocabulary)
    multiplier = Multiplier(torch.tensor(LAMBDA), BOUND, RATE, warmup_steps=0, period=1)
    loop = Loop(problem, splits, rows, Plan(1, 1, 0), options, [multiplier], lambda r: None, lambda s, e: None)
    compare(plain.step, ours(loop), arguments.turns, arguments.steps)


def compare(
    plain: Callable[[int], tuple[float, float]],
    ours: Callable[[int], tuple[float, float]],
    turns: int,
    steps: int,
) -> None:
    """Run both in turn and print what was measured; the first turn warms up and does not count."""
    seconds: dict[str, list[float]] = {"plain": [], "ours": []}
    worst = 0.0
    for turn in range(turns + 1):
        numbers = range(turn * steps, (turn + 1) * steps)
        losses = {}
        for name, take in (("plain", plain), ("ours", ours)):
            begin = time.perf_counter()
            losses[name] = [take(number) for number in numbers]
            if turn:
                seconds[name].append((time.perf_counter() - begin) / steps)
        for a, b in zip(losses["plain"], losses["ours"], strict=True):
            worst = max(worst, *(abs(x - y) / max(1e-3, abs(x)) for x, y in zip(a, b, strict=True)))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = [p / o for p, o in zip(seconds["plain"], seconds["ours"], strict=True)]
    print(f"torch threads        {torch.get_num_threads()}")
    print(f"plain, s a step      {medians['plain']:.3f}")
    print(f"ours, s a step       {medians['ours']:.3f}")
    spread = f"of {turns} turns: {min(ratios):.2f} to {max(ratios):.2f}"
    print(f"plain / ours         {statistics.median(ratios):.2f}  ({spread})")
    print(f"losses differ by     {worst:.1e} at most, relative")


if __name__ == "__main__":
    main()
