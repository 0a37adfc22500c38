"""One primal-dual step: count first, then sum, then move weights and multipliers."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..constraints.multiplier import Multiplier
from ..processes import summed
from .optimizer import Optimizer
from .problem import Objective


class Taken(NamedTuple):
    """What one step found."""

    losses: Tensor
    """(K,) the mean of each term over its units."""
    norm: Tensor
    """() of the gradient, before clipping."""
    units: Tensor
    """(K,) int64: how many units each mean runs over."""


def step(
    objective: Objective, batches: Sequence[Any], multipliers: Sequence[Multiplier], optimizer: Optimizer
) -> Taken:
    """Take one step of Algorithm 1 (arXiv:2506.05314).

    The gradient is that of L_f + sum_i lambda_i L_i, each L a mean over all units of the step, however the step was cut
    into `batches`, and these over processes, each of which has equally many; lambda is the one from before the step.
    Nothing is read back to the host.
    """
    units = torch.tensor([objective.counts(batch) for batch in batches]).sum(dim=0)
    units = summed(units.to(optimizer.device, non_blocking=True))
    counts = units.clamp(min=1)
    weights = torch.stack([torch.ones((), device=optimizer.device), *(m.value for m in multipliers)])
    sums = torch.zeros(len(counts), device=optimizer.device)
    for batch in batches:
        terms = objective.values(batch) / counts
        (weights * terms).sum().backward()  # type: ignore[no-untyped-call]
        sums = sums + terms.detach()
    sums, norm = summed(sums), optimizer.step()
    for multiplier, loss, count in zip(multipliers, sums[1:], units[1:], strict=True):
        multiplier.update(loss, count > 0)
    return Taken(sums, norm, units)
