"""Head signals: what can be read off the logits of scored positions.

Each takes logits (N, V) in any precision, the targets (N,) and the number of vocabulary rows that the tokenizer knows,
and returns (N,) in float32 (float64 for float64 logits).
"""

from collections.abc import Callable

import torch
from torch import Tensor

HeadSignal = Callable[[Tensor, Tensor, int], Tensor]


def token_logp(logits: Tensor, targets: Tensor, vocabulary: int) -> Tensor:
    """Return log p of each target under the softmax over all V rows."""
    return -torch.nn.functional.cross_entropy(_wide(logits), targets, reduction="none")


def margin(logits: Tensor, targets: Tensor, vocabulary: int) -> Tensor:
    """Return max z - mean z over the first `vocabulary` rows; the first of equal maxima takes the gradient."""
    logits = _wide(logits[:, :vocabulary])
    highest = logits.detach().argmax(dim=-1, keepdim=True)
    return logits.gather(-1, highest).squeeze(-1) - logits.mean(dim=-1)


def is_argmax(logits: Tensor, targets: Tensor, vocabulary: int) -> Tensor:
    """Return 1.0 where the target has the highest logit (the first of equal ones), else 0.0."""
    return (logits.argmax(dim=-1) == targets).to(_wide(logits[:0]).dtype)


def entropy(logits: Tensor, targets: Tensor, vocabulary: int) -> Tensor:
    """Return the entropy of the softmax over all V rows, in nats."""
    logp = torch.log_softmax(_wide(logits), dim=-1)
    return -(logp.exp() * logp).sum(dim=-1)


HEAD_SIGNALS: dict[str, HeadSignal] = {f.__name__: f for f in (token_logp, margin, is_argmax, entropy)}


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
