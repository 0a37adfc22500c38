"""The head alone: losses from logits, as they are usually written, against the layers that never store the logits.

Forward and backward of N scored rows, D wide, V rows of the vocabulary. A row of the output is one shape and one layer:
seconds of both, their ratio in turn, and the largest difference of the gradients. Memory is perf/memory.py's.

    python perf/head.py [--rows 1024] [--width 1024] [--vocabulary 4096 32000 128256] [--turns 5] [--dtype float32]
"""

import argparse
import statistics
from collections.abc import Callable

import torch
from turns import in_turn, ratio

from amnestic.model import head, layers
from amnestic.model.head import CrossEntropyTo, WithoutTarget
from amnestic.model.layers import Projection

Layer = Callable[[Projection, torch.Tensor], torch.Tensor]


def usual(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the margin as it is usually written."""
    wide = logits.float()
    return wide.max(dim=-1).values - wide.mean(dim=-1)


def torch_layer(projection: Projection, targets: torch.Tensor) -> torch.Tensor:
    """Return the sum of log p from torch's own fused layer, in explicit parts of 128 rows."""
    ((hidden, weight),) = projection.pairs
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=128, chunking_method=None)  # type: ignore[attr-defined]
    loss = torch.nn.functional.linear_cross_entropy(hidden, weight, targets, reduction="sum", options=options)  # type: ignore[attr-defined]
    return -loss[None]


def pairs(vocabulary: int) -> dict[str, tuple[Layer, Layer]]:
    """Each layer: the plain form, and ours."""
    to_other = CrossEntropyTo(WithoutTarget(), whole=True)
    return {
        "margin": (
            lambda p, t: usual(p.logits(), t),
            lambda p, t: layers.margin(p, vocabulary),
        ),
        "token_logp": (
            lambda p, t: head.token_logp(p.logits(), t, vocabulary),
            layers.token_logp,
        ),
        "token_logp, nothing kept": (
            lambda p, t: head.token_logp(p.logits(), t, vocabulary),
            lambda p, t: layers.token_logp(p, t, kept=0),
        ),
        "sum of log p, torch's own": (
            lambda p, t: head.token_logp(p.logits(), t, vocabulary).sum()[None],
            torch_layer,
        ),
        "cross_entropy_to": (
            lambda p, t: to_other.plain(p.logits(), t, vocabulary),
            lambda p, t: layers.by_rows(to_other.plain, p, t, vocabulary),
        ),
        "moments": (
            lambda p, t: head.moments(p.logits(), t, vocabulary),
            lambda p, t: layers.by_rows(head.moments, p, t, vocabulary),
        ),
    }


def forward_only(vocabulary: int) -> tuple[Layer, Layer]:
    """All signals of an evaluation, without gradients."""

    def plain(projection: Projection, targets: torch.Tensor) -> torch.Tensor:
        logits = projection.logits()
        return sum(signal(logits, targets, vocabulary).sum() for signal in head.HEAD_SIGNALS.values())

    def ours(projection: Projection, targets: torch.Tensor) -> torch.Tensor:
        return sum(value.sum() for value in layers.every_signal(projection, targets, vocabulary).values())

    return plain, ours


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[4096, 32000, 128256])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--only", nargs="*", help="layers to measure")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, {arguments.dtype}")
    print(f"{'V':>7}  {'layer':26}{'plain s':>9}{'ours s':>9}  {'plain / ours':24}differ")
    for vocabulary in arguments.vocabulary:
        torch.manual_seed(0)
        dtype = getattr(torch, arguments.dtype)
        hidden = torch.randn(arguments.rows, arguments.width, device=device).to(dtype).requires_grad_()
        weight = (torch.randn(vocabulary, arguments.width, device=device) * 0.05).to(dtype).requires_grad_()
        projection = Projection(((hidden, weight),))
        targets = torch.randint(vocabulary, (arguments.rows,), device=device)
        compared = {**pairs(vocabulary), "evaluation": forward_only(vocabulary)}
        for name, (plain, ours) in compared.items():
            if not arguments.only or name in arguments.only:
                report(vocabulary, name, plain, ours, projection, targets, arguments.turns)


def report(
    vocabulary: int,
    name: str,
    plain: Layer,
    ours: Layer,
    projection: Projection,
    targets: torch.Tensor,
    turns: int,
) -> None:
    """Print one row."""
    found: dict[str, list[torch.Tensor]] = {}

    def call(which: str, layer: Layer) -> Callable[[], object]:
        def run() -> None:
            for tensor in projection.tensors:
                tensor.grad = None
            if name == "evaluation":
                with torch.no_grad():
                    found[which] = [layer(projection, targets)]
                return
            layer(projection, targets).square().mean().backward()
            found[which] = [tensor.grad for tensor in projection.tensors if tensor.grad is not None]

        return run

    forms = {"plain": call("plain", plain), "ours": call("ours", ours)}
    seconds = in_turn(forms, turns)
    differ = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found["ours"], found["plain"], strict=True))
    medians = {which: statistics.median(values) for which, values in seconds.items()}
    print(
        f"{vocabulary:7}  {name:26}{medians['plain']:9.3f}{medians['ours']:9.3f}  "
        f"{ratio(seconds['plain'], seconds['ours']):24}{differ:.0e}"
    )


if __name__ == "__main__":
    main()
