"""Whether the first step reaches everything that is to be trained."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from ..errors import RunError
from .optimizer import Optimizer

ROUTED = "expert"
"""What the names of parameters hold that a text may pass by: a router decides who reads it."""
SHOWN = 3
"""Names in a message."""


def watch_first_step(optimizer: Optimizer, named: Iterable[tuple[str, Tensor]]) -> None:
    """Let the optimiser's first step fail where a parameter of `named` that it should move has no gradient.

    A gradient of 0 is one: that of an adapter's first factor is, since the second is 0 at the start. The step raises
    RunError before anything moves.
    """
    masters = {id(p): master for p, master in zip(optimizer.parameters, optimizer.masters, strict=True)}
    watched = {name: masters[id(parameter)] for name, parameter in named if parameter.requires_grad}

    def check(*_: Any) -> None:
        handle.remove()
        refuse_unreached(list(watched), [master.grad for master in watched.values()])

    handle = optimizer.inner.register_step_pre_hook(check)


def refuse_unreached(names: Sequence[str], gradients: Sequence[Tensor | None]) -> None:
    """Raise RunError where a parameter has no gradient, unless it belongs to an expert, whom the rows may pass by."""
    pairs = zip(names, gradients, strict=True)
    missing = [name for name, gradient in pairs if gradient is None and ROUTED not in name]
    if missing:
        rest = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        raise RunError(
            f"the first step gave no gradient to {len(missing)} of the {len(names)} tensors that are trained: "
            f"{', '.join(missing[:SHOWN])}{rest}; leave --gradient_checkpointing out, or leave these tensors out of "
            "the training (--lora_target_modules, requires_grad).",
            is_shared=True,
        )
