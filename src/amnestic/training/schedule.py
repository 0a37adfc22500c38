"""The course of the learning rate."""

import math


def factor(kind: str, step: int, total: int, warmup: int) -> float:
    """Return the learning rate of `step` (counted from 0, of `total`) as a share of its peak.

    The shapes are those of ``transformers.get_scheduler``, but for one step in the warm-up: the first step there has
    1 / warmup of the peak, not 0, so that it moves the weights.
    """
    if kind == "constant":
        return 1.0
    if step < warmup:
        return (step + 1) / warmup
    if kind == "constant_with_warmup":
        return 1.0
    progress = (step - warmup) / max(1, total - warmup)
    return 1.0 - progress if kind == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
