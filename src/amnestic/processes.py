"""The processes of one run: a single one, or several that a launcher such as torchrun started together.

With one process every function is the identity: nothing is communicated, and no group is needed. All processes must
call them in the same order.
"""

from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

T = TypeVar("T")


def count() -> int:
    """Return how many processes run together."""
    return dist.get_world_size() if _is_joined() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if _is_joined() else 0


def is_first() -> bool:
    """Return whether this is the process that writes files and shows progress."""
    return rank() == 0


def summed(values: Tensor) -> Tensor:
    """Return the sum of `values` over all processes, in place; the same on each."""
    if count() > 1:
        dist.all_reduce(values)
    return values


def from_first(value: T) -> T:
    """Return the first process's `value` on all; it is sent as Python objects are, between these processes alone."""
    if count() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def gathered(value: T) -> list[T]:
    """Return the `value` of each process, in the order of their ranks, on all."""
    if count() == 1:
        return [value]
    found: list[Any] = [None] * count()
    dist.all_gather_object(found, value)
    return found


def wait() -> None:
    """Wait until all processes are here."""
    if count() > 1:
        dist.barrier()


def _is_joined() -> bool:
    return dist.is_available() and dist.is_initialized()
