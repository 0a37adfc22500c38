"""Losses as pure functions of signals, one value a scored token: ``(N,)`` in, ``(N,)`` out."""

from torch import Tensor

from .model.head import wide


def nll(token_logp: Tensor) -> Tensor:
    """Return the negative log-likelihood of each scored token, in nats."""
    return -token_logp


def flattening(margin: Tensor) -> Tensor:
    """Return the squared logit margin, (max z - mean z)^2.

    Entesari et al., 2025, arXiv:2506.05314: 0 exactly where all logits are equal; convex in them; no softmax, and a
    gradient that does not vanish before that point.
    """
    return margin.square()


def divergence(cross_entropy: Tensor, mean_logp: Tensor) -> Tensor:
    """Return KL(q || p) from the cross-entropy -sum q log p and the mean log-probability sum q log q, each (N,)."""
    return cross_entropy + mean_logp


def distance(rows: Tensor, others: Tensor) -> Tensor:
    """Return the mean over the width of the squared difference of rows (N, D), in float32 at least, (N,)."""
    return (wide(rows) - wide(others)).square().mean(dim=-1)
