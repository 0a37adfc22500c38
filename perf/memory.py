"""Peak memory of the loss layers, and of the gradients of a step: logits stored against ours, each in its own process.

Of a layer what it takes beyond its inputs and their gradients, of a step what it takes beyond the model. A small body
of random weights stands before the head, so that the vocabulary is what costs. TOFU-like rows are short questions with
answers; MUSE-like rows are chunks of a text, each token of which is scored. Linux only.

    python perf/memory.py [--vocabularies 4096 32768 128256] [--width 256]
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

LENGTHS = {"TOFU-like": (8, 60, 25), "MUSE-like": (2, 512, 0)}
"""Rows of each split, tokens of a row, of them in the prompt."""


def peak_beyond(call: Callable[[], Any]) -> int:
    """Return by how many bytes the memory of this process grows at most while `call` runs; it runs once."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def step(vocabulary: int, width: int, is_tied: bool, lengths: str, is_plain: bool) -> Callable[[], Any]:
    """Return a call that computes the gradients of one step, in either form."""
    import numpy as np
    from transformers import LlamaConfig, LlamaForCausalLM

    from amnestic.constraints.multiplier import Bounded
    from amnestic.constraints.retention import NLL, Retention
    from amnestic.data.batches import pad
    from amnestic.data.encode import Encoded
    from amnestic.methods.flattening import PDU
    from amnestic.model.signals import Form, all_logits
    from amnestic.training.problem import Problem, forget_term, retain_term

    torch.manual_seed(0)
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, tie_word_embeddings=is_tied, **sizes)).eval()
    rows, tokens, prompt = LENGTHS[lengths]
    random = np.random.default_rng(0)
    batches = []
    for split in ("forget", "retain"):
        chosen = [
            Encoded(
                f"{i}",
                random.integers(3, vocabulary, tokens),
                np.arange(tokens) >= max(1, prompt),
                prompt,
                False,
                "",
                "",
            )
            for i in range(rows)
        ]
        batches.append(pad(split, chosen))
    problem = Problem(
        (forget_term(PDU()), retain_term(Retention(NLL(), Bounded()))), model, vocabulary, Form(fuses=True)
    )

    def ours() -> None:
        for batch in batches:
            problem.values(batch).sum().backward()

    def plain() -> None:
        for batch, is_forget in zip(batches, (True, False), strict=True):
            logits = all_logits(model, batch).float()
            if is_forget:
                values = (logits.max(-1).values - logits.mean(-1)).square().flatten()[batch.positions]
            else:
                labels = torch.full_like(batch.input_ids, -100)
                labels.view(-1)[batch.positions] = batch.targets
                values = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
            values.sum().backward()

    return plain if is_plain else ours


def layer(vocabulary: int, width: int, name: str, is_plain: bool) -> Callable[[], Any]:
    """Return a call that computes one loss of 1,024 rows, forward and backward, in either form."""
    from amnestic.model import head, layers
    from amnestic.model.layers import Projection

    torch.manual_seed(0)
    hidden = torch.randn(1024, width, requires_grad=True)
    weight = (torch.randn(vocabulary, width) * 0.05).requires_grad_()
    hidden.grad, weight.grad = torch.zeros_like(hidden), torch.zeros_like(weight)
    projection, targets = Projection(((hidden, weight),)), torch.randint(vocabulary, (1024,))
    forms = {
        ("margin", True): lambda: head.margin(projection.logits(), targets, vocabulary),
        ("margin", False): lambda: layers.margin(projection, vocabulary),
        ("token_logp", True): lambda: head.token_logp(projection.logits(), targets, vocabulary),
        ("token_logp", False): lambda: layers.token_logp(projection, targets),
    }
    return lambda: forms[name, is_plain]().sum().backward()


def main() -> None:
    """Print a table of both forms, and the ratio of what they hold beyond the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[4096, 32768, 128256])
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        kind, *shape = json.loads(arguments.one)
        print(peak_beyond({"layer": layer, "step": step}[kind](*shape)))
        return
    print("| V | what | plain, MB | ours, MB | ratio |\n| --- | --- | --- | --- | --- |")
    for vocabulary in arguments.vocabularies:
        for name in ("margin", "token_logp"):
            show(vocabulary, name, ["layer", vocabulary, arguments.width, name])
        for is_tied in (True, False):
            for lengths in LENGTHS:
                named = f"step, {'tied' if is_tied else 'untied'}, {lengths}"
                show(vocabulary, named, ["step", vocabulary, arguments.width, is_tied, lengths])


def show(vocabulary: int, name: str, shape: list[Any]) -> None:
    """Print a row of the table; of a layer the gradient of the weights, which autograd adds to, is left out."""
    result = 4 * vocabulary * int(shape[2]) if shape[0] == "layer" else 0
    plain, ours = (max(0, in_own_process([*shape, is_plain]) - result) / 2**20 for is_plain in (True, False))
    print(f"| {vocabulary:,} | {name} | {plain:.0f} | {ours:.0f} | {plain / max(ours, 1):.1f} |", flush=True)


def in_own_process(shape: list[Any]) -> int:
    """Return the bytes of one call in a new process."""
    command = [sys.executable, __file__, "--one", json.dumps(shape)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ).stdout)


if __name__ == "__main__":
    main()
