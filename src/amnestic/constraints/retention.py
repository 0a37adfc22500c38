"""What a run keeps: a loss on the retain split, and how its multiplier is controlled."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from torch import Tensor

from .. import losses
from ..errors import InputError
from ..model.head import CrossEntropyTo, Reference
from ..model.signals import Needs, Signals
from .multiplier import Bounded, Fixed


class RetainLoss(Protocol):
    """A loss on the scored tokens of a split that is kept."""

    name: ClassVar[str]
    """What it is called on the command line and in results."""
    starts_at_zero: ClassVar[bool]
    """It compares with the model before, and so is 0 until the first step."""

    @property
    def needs(self) -> Needs:
        """Return the signals that it reads of the model that learns."""
        ...

    @property
    def reference_needs(self) -> Needs:
        """Return the signals that it reads of the model as it was before."""
        ...

    def values(self, model: Signals, reference: Signals) -> Tensor:
        """Return one value a scored token, (N,)."""
        ...


@dataclass(frozen=True)
class NLL:
    """Negative log-likelihood of the answer's tokens, in nats a token."""

    name: ClassVar[str] = "nll"
    starts_at_zero: ClassVar[bool] = False
    needs: ClassVar[Needs] = Needs(head=frozenset({"token_logp"}))
    reference_needs: ClassVar[Needs] = Needs()

    def values(self, model: Signals, reference: Signals) -> Tensor:
        """Return -log p of each scored token, (N,)."""
        return losses.nll(model.token_logp)


@dataclass(frozen=True)
class KL:
    """Kullback-Leibler divergence of the model's next-token distribution from the reference's, in nats a token.

    KL(reference || model) over the whole vocabulary (Maini et al., 2024, arXiv:2401.06121): the cross-entropy to the
    reference less the reference's entropy. 0 before the first step, and at least 0 but for rounding.
    """

    name: ClassVar[str] = "kl"
    starts_at_zero: ClassVar[bool] = True
    needs: ClassVar[Needs] = Needs(head=frozenset({CrossEntropyTo(Reference(), whole=True)}))
    reference_needs: ClassVar[Needs] = Needs(head=frozenset({"moments"}))

    def values(self, model: Signals, reference: Signals) -> Tensor:
        """Return the divergence at each scored token, (N,)."""
        return losses.divergence(model.whole_cross_entropy, reference.moments[:, 0])


@dataclass(frozen=True)
class HiddenDistance:
    """How far the hidden rows at the scored tokens are from the reference's, at one block.

    Mean over the width of the squared difference (Li et al., 2024, arXiv:2403.03218, the retain loss of RMU); no unit.
    0 before the first step.
    """

    name: ClassVar[str] = "hidden"
    starts_at_zero: ClassVar[bool] = True
    layer: int = 0
    """The block, counted from 0."""

    @property
    def needs(self) -> Needs:
        """Return the output of the block."""
        return Needs(hidden=frozenset({self.layer}))

    @property
    def reference_needs(self) -> Needs:
        """Return the same of the reference."""
        return self.needs

    def values(self, model: Signals, reference: Signals) -> Tensor:
        """Return the distance at each scored token, (N,)."""
        return losses.distance(model.hidden(self.layer), reference.hidden(self.layer))


def retain_loss(name: str, layer: int | None, blocks: Callable[[], int]) -> RetainLoss:
    """Return the loss called `name`; a distance of hidden rows is one at `layer`, or in the middle of the `blocks`.

    Raises InputError for a layer that the model does not have.
    """
    if name != HiddenDistance.name:
        return {loss.name: loss for loss in (NLL(), KL())}[name]
    count = blocks()
    chosen = min(7, count // 2) if layer is None else layer
    if chosen >= count:
        raise InputError(
            f"--retention_layer is {chosen}, and the model has {count} blocks; expected at most {count - 1}."
        )
    return HiddenDistance(chosen)


@dataclass(frozen=True)
class Retention:
    """A loss on one split, and the control of its multiplier."""

    loss: RetainLoss
    control: Fixed | Bounded
    split: str = "retain"
    part: Literal["whole", "context"] = "whole"
    """All scored tokens of the split, or those around the spans that its rows mark."""
