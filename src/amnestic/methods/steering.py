"""Methods that misdirect what a block of the model gives."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from .. import losses
from ..constraints.multiplier import Bounded, Fixed
from ..constraints.retention import HiddenDistance, Retention
from ..errors import InputError
from ..model.blocks import Moves
from ..model.head import wide
from ..model.signals import Needs
from .base import Method, Passes, method
from .checks import at_least_zero


@method("rmu")
@dataclass(frozen=True)
class RMU(Method):
    """Steer the hidden rows of the answers to a random direction: the mean over the width of (h_l - c u)^2.

    Li et al., 2024, arXiv:2403.03218 (representation misdirection): u is uniform on [0, 1)^D, normalized, the same for
    the whole run. Only the down projections of blocks l-2 to l move, and no block above l is run. Published with
    the distance of the retain split's rows from the reference's, times alpha. At least 0. It fails where c is small
    beside the length of the hidden rows (public settings go up to 300), and what it hides comes back with little
    training.
    """

    layer: int | None = None
    """The block that is steered, counted from 0; open: 7, or the middle of a model of fewer than 14 blocks."""
    steering_coefficient: float = 6.5
    """Length of the vector c u that rows are steered to."""
    alpha: float = 1200.0
    """Weight of the published retention."""
    seed: int | None = None
    """Seed of the direction u; open: the run's."""

    unit: ClassVar[Literal["token", "answer"]] = "answer"
    bounded: ClassVar[Bounded] = Bounded(rate=0.1, initial=1.0, kind="multiplicative", normalized=True)
    published: ClassVar[Mapping[str, Any]] = {"learning_rate": 5e-5}

    def __post_init__(self) -> None:
        """Raise InputError for values that no run could use."""
        at_least_zero(self, "layer", "steering_coefficient", "alpha", "seed")

    def fitted(self, blocks: int, seed: int) -> Self:
        """Return the method with its block and seed settled; raises InputError for a block that the model lacks."""
        layer = min(7, blocks // 2) if self.layer is None else self.layer
        if layer >= blocks:
            raise InputError(
                f"--method_args.layer is {layer}, but the model has {blocks} blocks; expected 0 to {blocks - 1}."
            )
        return replace(self, layer=layer, seed=seed if self.seed is None else self.seed)

    @property
    def block(self) -> int:
        """Return the block that is steered; raises ValueError where it is still open."""
        if self.layer is None:
            raise ValueError("the block of rmu is open until `fitted` settles it for a model.")
        return self.layer

    @property
    def needs(self) -> Needs:
        """Return the output of the block."""
        return Needs(hidden=frozenset({self.block}))

    @property
    def retention(self) -> tuple[Retention, ...]:
        """Return the distance of the retain split's rows at the same block."""
        return (Retention(HiddenDistance(self.block), Fixed(self.alpha)),)

    @property
    def moves(self) -> Moves:
        """Return the block and the two before it."""
        return Moves(frozenset(range(max(0, self.block - 2), self.block + 1)))

    def objective(self, model: Passes, reference: Passes) -> Tensor:
        """Return the mean distance over the tokens of each answer, (B,)."""
        if self.seed is None:
            raise ValueError("the seed of rmu is open until `fitted` settles it for a run.")
        forget = model.forget
        rows = wide(forget.hidden(self.block))
        u = direction(self.seed, rows.shape[-1], rows.device, rows.dtype)
        distances = losses.distance(rows, self.steering_coefficient * u)
        return losses.mean_by_answer(distances, forget.row, forget.answers)


@lru_cache(maxsize=8)
def direction(seed: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the unit vector u, (D,), of a seed: the same in every process, on every device and in every version.

    Python promises to keep the sequence of `random.Random`; torch does not keep its own.
    """
    generator = random.Random(f"rmu {seed}")
    with torch.inference_mode(False):  # made while measuring, it has to serve training as well
        u = torch.tensor([generator.random() for _ in range(width)], dtype=torch.float64)
        return torch.nn.functional.normalize(u, dim=0).to(device=device, dtype=dtype)
