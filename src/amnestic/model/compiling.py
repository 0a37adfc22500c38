"""torch.compile of a model's blocks, for as long as it trains."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..errors import InputError
from .sharding import blocks


@contextmanager
def compiled(model: Any, backend: str | None) -> Iterator[None]:
    """Compile each block of `model` with a backend of torch.compile for as long as the context lasts; None: do not.

    Blocks are alike, so that one of them is compiled for all; what stands around them, the head and its losses, is not.
    Lengths are symbols: a batch of another length is no reason to compile again. Raises InputError for an unknown
    backend, and for a model without blocks.
    """
    if backend is None:
        yield
        return
    found = blocks(model)
    if not found:
        raise InputError(f"{type(model).__name__} has no blocks to compile; leave --torch_compile out.")
    _check_backend(backend)
    for block in found:
        block.compile(backend=backend, dynamic=True)
    try:
        yield
    finally:
        for block in found:
            block._compiled_call_impl = None


def _check_backend(name: str) -> None:
    """Raise InputError where torch.compile knows no backend of that name."""
    known = torch.compiler.list_backends(exclude_tags=())
    if name not in known:
        raise InputError(f"--torch_compile_backend is {name!r}; expected one of {', '.join(known)}.")
