"""Losses as pure functions of signals, in float32 at least.

``N`` scored tokens of ``B`` answers, ``D`` width. Nothing is read back to the host, and no shape depends on a value.
"""

import torch
from torch import Tensor

from .model.head import wide


def nll(token_logp: Tensor) -> Tensor:
    """Return the negative log-likelihood of each scored token, in nats, (N,)."""
    return -token_logp


def flattening(margin: Tensor) -> Tensor:
    """Return the squared logit margin, (max z - mean z)^2, (N,).

    Entesari et al., 2025, arXiv:2506.05314: 0 exactly where all logits are equal; convex in them; no softmax, and a
    gradient that does not vanish before that point.
    """
    return margin.square()


def saturation(token_logp: Tensor, beta: float) -> Tensor:
    """Return p^beta of each scored token, (N,), as a constant: what is forgotten already weighs little."""
    return (beta * token_logp.detach()).exp()


def importance(token_logp: Tensor, beta: float) -> Tensor:
    """Return (1 - p)^beta of each scored token, (N,), as a constant: what the model is sure of weighs little.

    1 - p keeps its digits near p = 1; it is 0 there, also where a rounded log p stands above 0.
    """
    return (-torch.expm1(token_logp.detach())).clamp(min=0) ** beta


def summed_by_answer(values: Tensor, row: Tensor, answers: int) -> Tensor:
    """Return the sum of `values` (N,) over the tokens of each answer, (B,); `row` (N,) numbers these answers."""
    return torch.zeros(answers, dtype=values.dtype, device=values.device).index_add(0, row, values)


def mean_by_answer(values: Tensor, row: Tensor, answers: int) -> Tensor:
    """Return the mean of `values` (N,) over the tokens of each answer, (B,); every answer has one."""
    return summed_by_answer(values, row, answers) / summed_by_answer(torch.ones_like(values), row, answers)


def preference(advantage: Tensor, beta: float, gamma: float = 0.0) -> Tensor:
    """Return -2/beta log sigmoid(beta x - gamma) of the log-odds x by which each answer is preferred, (B,).

    At least 0, and 2/beta log 2 at beta x = gamma; its slope in x lies between -2 and 0.
    """
    return (-2 / beta) * torch.nn.functional.logsigmoid(beta * advantage - gamma)


def divergence(cross_entropy: Tensor, mean_logp: Tensor) -> Tensor:
    """Return KL(q || p) from the cross-entropy -sum q log p and the mean log-probability sum q log q, each (N,)."""
    return cross_entropy + mean_logp


def distance(rows: Tensor, others: Tensor) -> Tensor:
    """Return the mean over the width of the squared difference of rows (N, D) from others, (N, D) or one (D,); (N,)."""
    return (wide(rows) - wide(others)).square().mean(dim=-1)
