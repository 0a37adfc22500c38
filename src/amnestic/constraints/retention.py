"""What a run keeps: a loss on the retain split, and how its multiplier is controlled."""

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from torch import Tensor

from .. import losses
from ..model.signals import Needs, Signals
from .multiplier import Bounded, Fixed


class RetainLoss(Protocol):
    """A loss on the scored tokens of the retain split."""

    needs: ClassVar[Needs]

    def values(self, signals: Signals) -> Tensor:
        """Return one value a scored token, (N,)."""
        ...


@dataclass(frozen=True)
class NLL:
    """Negative log-likelihood of the answer's tokens, in nats a token."""

    needs: ClassVar[Needs] = Needs(head=frozenset({"token_logp"}))

    def values(self, signals: Signals) -> Tensor:
        """Return -log p of each scored token, (N,)."""
        return losses.nll(signals.token_logp)


@dataclass(frozen=True)
class Retention:
    """A loss on one split, and the control of its multiplier."""

    loss: RetainLoss
    control: Fixed | Bounded
    split: str = "retain"
    part: Literal["whole", "context"] = "whole"
    """All scored tokens of the split, or those around the spans that its rows mark."""
