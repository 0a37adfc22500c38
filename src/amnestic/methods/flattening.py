"""Methods that flatten the output distribution."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .. import losses
from ..constraints.multiplier import Bounded
from ..constraints.retention import NLL, Retention
from ..model.signals import Needs
from .base import Method, Passes, method


@method("pdu")
@dataclass(frozen=True)
class PDU(Method):
    """Flatten the logits where the answer is predicted, while a multiplier holds the retain loss at its bound.

    Entesari et al., 2025, arXiv:2506.05314: mean over the answer's predicting positions of (max z - mean z)^2, in
    float32. At least 0, and 0 only at the uniform distribution. The multiplier's defaults are the paper's for TOFU;
    they fit a squared margin of some hundreds.

    Departures: vocabulary rows beyond the tokenizer's do not count, and the positions are those that predict the answer
    (the authors' code takes them one later).
    """

    needs: ClassVar[Needs] = Needs(head=frozenset({"margin"}))
    bounded: ClassVar[Bounded] = Bounded(rate=5.0, initial=100.0, warmup_epochs=5.0)
    retention: ClassVar[tuple[Retention, ...]] = (Retention(NLL(), bounded),)

    def objective(self, model: Passes, reference: Passes) -> Tensor:
        """Return the squared margin at each predicting position, (N,)."""
        return losses.flattening(model.forget.margin)
