"""Whether the margin's kernel runs: on an NVIDIA GPU where Triton is installed, and has not failed."""

import importlib.util
import warnings
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ..layers import Projection

_failed: list[str] = []
"""Why the kernel could not be compiled or started, once; it is not tried again."""


def by_triton(head: "Projection", known: int) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return what the kernel finds (`triton_margin.search`); None where plain torch is to be used.

    Where the kernel fails, that is told once by a warning.
    """
    is_nvidia = head.pairs[0][0].is_cuda and torch.version.hip is None
    return _try(head, known) if is_nvidia and has_triton() else None


@cache
def has_triton() -> bool:
    """Return whether Triton is installed; it comes with torch where it runs."""
    return importlib.util.find_spec("triton") is not None


def _try(head: "Projection", known: int) -> tuple[Tensor, Tensor, Tensor] | None:
    if _failed:
        return None
    try:
        from . import triton_margin

        return triton_margin.search(head, known) if triton_margin.is_served(head) else None
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a compiler and a driver may raise
        _failed.append(f"{type(error).__name__}: {error}")
        warnings.warn(f"the Triton kernel of the margin failed, plain torch is used: {_failed[0]}", stacklevel=2)
        return None
