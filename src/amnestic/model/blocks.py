"""The blocks of a model: what they give, passes that end at one of them, and which of their parameters move.

Blocks are counted from 0; ``T`` positions, ``D`` width.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .reading import reading

DOWN = ("down_proj", "fc2", "dense_4h_to_h", "c_proj", "fc_out", "w2", "linear_2", "wo")
"""Names of the projection behind the activation of a block's MLP, by which architectures call it."""


@dataclass(frozen=True)
class Moves:
    """Parameters that a method moves: the down projections of the MLPs of some blocks.

    Of a model with an adapter, the adapter's matrices in these blocks: the weights below it never move.
    """

    blocks: frozenset[int]


def blocks_of(model: Any) -> tuple[Any, str]:
    """Return the module that holds the list of the model's blocks, and the list's name in it.

    Raises InputError for a model without one.
    """
    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    for module in reading(model):  # a part that sees may have as many blocks
        for name, child in module.named_children():
            if isinstance(child, torch.nn.ModuleList) and len(child) == count:
                return module, name
    raise InputError(
        f"{type(model).__name__} has no list of {count} blocks, and the method or retention reads one; use another."
    )


def count(model: Any) -> int:
    """Return the number of the model's blocks."""
    holder, name = blocks_of(model)
    return len(getattr(holder, name))


@contextmanager
def ending_at(model: Any, last: int | None) -> Iterator[None]:
    """Let `model` have no block behind the one numbered `last`, for as long as the context lasts; None: all of them."""
    if last is None:
        yield
        return
    holder, name = blocks_of(model)
    every = getattr(holder, name)
    setattr(holder, name, every[: last + 1])
    try:
        yield
    finally:
        setattr(holder, name, every)


@contextmanager
def outputs(model: Any, numbers: frozenset[int]) -> Iterator[Mapping[int, Tensor]]:
    """Yield a mapping that a pass fills: number of a block -> its output (B, T, D), before any norm behind it."""
    found: dict[int, Tensor] = {}
    if not numbers:
        yield found
        return
    holder, name = blocks_of(model)
    every = getattr(holder, name)
    before = {number: every[number] for number in numbers}
    for number, block in before.items():
        every[number] = _Watched(block, partial(found.__setitem__, number))
    try:
        yield found
    finally:
        for number, block in before.items():
            every[number] = block


class _Watched(torch.nn.Module):
    """A block that hands on its output.

    It stands around the block: hooks of the block are lost where it is compiled,
    and are called twice where activations are computed again.
    """

    def __init__(self, block: Any, keep: Callable[[Tensor], None]) -> None:
        super().__init__()
        self.__dict__.update(block=block, keep=keep)  # not a child, whose parameters would be called otherwise

    def forward(self, *arguments: Any, **settings: Any) -> Any:
        output = self.block(*arguments, **settings)
        self.keep(output[0] if isinstance(output, tuple | list) else output)
        return output

    def __getattr__(self, name: str) -> Any:
        """Return what the block has: models ask theirs for the kind of their attention, and the like."""
        return getattr(self.__dict__["block"], name)


@contextmanager
def moving(model: Any, moves: Moves | None) -> Iterator[None]:
    """Let no parameter but those that `moves` names have a gradient, for as long as the context lasts.

    Raises InputError where none would.
    """
    if moves is None:
        yield
        return
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    chosen = chosen_by(model, moves)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)
    try:
        yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(before[name])


def chosen_by(model: Any, moves: Moves) -> set[str]:
    """Return the names of the trainable parameters that `moves` names; raises InputError where there are none."""
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    holder, name = blocks_of(model)
    path = next(path for path, module in model.named_modules() if module is holder)
    begin = re.escape(f"{path}.{name}." if path else f"{name}.")
    numbers = "|".join(map(str, sorted(moves.blocks)))
    within = {name for name in trainable if re.match(rf"{begin}(?:{numbers})\.", name)}
    if not any("lora_" in name for name in trainable):
        projections = "|".join(DOWN)
        within = {name for name in within if re.search(rf"\.(?:{projections})(?:\.weight|[._]bias)?$", name)}
        within = {name for name in within if not re.search(r"\.(?:self_)?attn\.|\.attention\.", name)}
    if not within:
        raise InputError(
            f"no trainable parameter of {type(model).__name__} is a down projection in block {numbers}; expected one "
            f"called {', '.join(DOWN)}."
        )
    return within
