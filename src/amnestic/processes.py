"""The processes of one run: a single one, or several that a launcher such as torchrun started together.

With one process every function is the identity: nothing is communicated, and no group is needed. All processes must
call them in the same order.
"""

import atexit
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from . import launch
from .errors import AmnesticError, InputError, RunError, UnexpectedError, outline

T = TypeVar("T")

SIGNS_OF_LOSS = (
    "connection closed",
    "connection reset",
    "connection refused",
    "broken pipe",
    "timed out",
    "timeout",
    "aborted",
    "remote error",
)
"""What torch's messages say where another process has gone."""


def join(timeout: float) -> None:
    """Join the processes that a launcher started beside this one, until this one ends.

    They stay together behind a run: a sharded model is of use only then, and a second run could not meet at the place
    of the first. Nothing happens where this one is alone, or where they were joined already, by a caller or an earlier
    run. `timeout` is the number of seconds that one waits for the others. Raises InputError where they do not come
    together.
    """
    if _is_joined():
        _refuse_silent()
    elif launch.size() > 1:
        _join(timeout)
        atexit.register(_leave)


def _leave() -> None:
    if _is_joined():
        dist.destroy_process_group()


def _refuse_silent() -> None:
    """Raise InputError where the processes were joined so that they cannot exchange what lies in the host's memory."""
    backends = dist.get_backend_config()
    if count() > 1 and "cpu:" not in backends:
        raise InputError(
            f"the processes were joined by {backends}, which carries nothing from one host's memory to another's; call "
            "init_process_group('cpu:gloo,cuda:nccl')."
        )


def _join(timeout: float) -> None:
    place, backend = launch.address(), "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(launch.local_rank() % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    try:
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"the {launch.size()} processes of the run did not come together at {place} "
            f"({str(error).splitlines()[0]}); check that all of them were started."
        ) from error


@contextmanager
def loss_explained(go_on: Callable[[], str]) -> Iterator[None]:
    """Turn the error of a communication that failed within the context into a RunError; `go_on` ends its sentence."""
    try:
        yield
    except RuntimeError as error:
        if not _is_loss(error):
            raise
        raise RunError(f"another process of the run was lost, or did not answer in time.{go_on()}") from error


def _is_loss(error: BaseException) -> bool:
    """Return whether an error says that another process has gone."""
    text = str(error).lower()
    is_of_torch = isinstance(error, dist.DistError) or "gloo" in text or "nccl" in text
    return count() > 1 and is_of_torch and any(sign in text for sign in SIGNS_OF_LOSS)


def count() -> int:
    """Return how many processes run together."""
    return dist.get_world_size() if _is_joined() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if _is_joined() else 0


def is_first() -> bool:
    """Return whether this is the process that writes files and shows progress."""
    return rank() == 0


def rounds(items: Sequence[T]) -> list[Sequence[T]]:
    """Return `items` in runs of one for each process; the last run may be short."""
    return [items[first : first + count()] for first in range(0, len(items), count())]


def own(together: Sequence[T]) -> T | None:
    """Return this process's item of a run; None where the run is too short."""
    return together[rank()] if rank() < len(together) else None


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


@contextmanager
def agreed() -> Iterator[None]:
    """Let the context end alike on all processes: an error of one of them is raised by all, with its sentence.

    What they communicate within the context must end alike on all: one that left it early would be waited for.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as caught:
        if count() == 1:
            raise
        error = caught
    if count() > 1:
        _raise_first(error)


def _raise_first(own: Exception | None) -> None:
    """Raise the error of the first process that has one, on all."""
    reports = gathered(None if own is None else (isinstance(own, InputError), _sentence(own), _outline(own)))
    found = next(((number, report) for number, report in enumerate(reports) if report is not None), None)
    if found is None:
        return
    number, (is_input, text, unexpected) = found
    where = f"process {number}: " if number else ""
    if unexpected is not None:
        raise UnexpectedError(where + text, where + unexpected) from own
    raise (InputError if is_input else RunError)(where + text, is_shared=True) from own


def _sentence(error: Exception) -> str:
    return str(error) if isinstance(error, AmnesticError) else f"{type(error).__name__}: {error}"


def _outline(error: Exception) -> str | None:
    """Return what an error is and where it was raised; None of one that was raised on purpose."""
    return None if isinstance(error, AmnesticError) else outline(error)


def _is_joined() -> bool:
    return dist.is_available() and dist.is_initialized()
