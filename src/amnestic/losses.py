"""Losses as pure functions of signals, one value a scored token: ``(N,)`` in, ``(N,)`` out."""

from torch import Tensor


def nll(token_logp: Tensor) -> Tensor:
    """Return the negative log-likelihood of each scored token, in nats."""
    return -token_logp


def flattening(margin: Tensor) -> Tensor:
    """Return the squared logit margin, (max z - mean z)^2.

    Entesari et al., 2025, arXiv:2506.05314: 0 exactly where all logits are equal; convex in them; no softmax, and a
    gradient that does not vanish before that point.
    """
    return margin.square()
