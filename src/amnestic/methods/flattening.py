"""Methods that flatten the output distribution."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .. import losses
from ..constraints.multiplier import Bounded
from ..constraints.retention import NLL, Retention
from ..model.signals import Needs
from .base import Method, Passes, method

PAPER = Bounded(rate=5.0, initial=100.0, warmup_epochs=5.0)
"""The multiplier of the paper's runs on TOFU; it fits a squared margin of some hundreds."""


@method("pdu")
@dataclass(frozen=True)
class PDU(Method):
    """Flatten the logits where the answer is predicted, while a multiplier holds the retain loss at its bound.

    Entesari et al., 2025, arXiv:2506.05314: mean over the answer's predicting positions of (max z - mean z)^2, in
    float32. At least 0, and 0 only at the uniform distribution. It fails by babble: where the logits are flat any
    token is as good as another, so the model neither refuses nor answers in sentences. The multiplier's defaults are
    the paper's for TOFU; they fit a squared margin of some hundreds.

    Departures: vocabulary rows beyond the tokenizer's do not count, and the positions are those that predict the answer
    (the authors' code takes them one later).
    """

    needs: ClassVar[Needs] = Needs(head=frozenset({"margin"}))
    bounded: ClassVar[Bounded] = PAPER
    retention: ClassVar[tuple[Retention, ...]] = (Retention(NLL(), PAPER),)

    def objective(self, model: Passes, reference: Passes) -> Tensor:
        """Return the squared margin at each predicting position, (N,)."""
        return losses.flattening(model.forget.margin)


@method("pdu_unshifted")
@dataclass(frozen=True)
class PDUUnshifted(Method):
    """Flatten the logits one position later, where the answer's tokens stand, as the code behind older numbers does.

    Entesari et al., 2025, arXiv:2506.05314, with the mask of its code: the position that predicts an answer's first
    token is left as it is, and that of its last token, which predicts nothing of it, is flattened. At least 0.
    Otherwise it is pdu; for comparison alone. It fails as a way to forget: the first token stays as likely as it was.
    """

    in_all: ClassVar[bool] = False
    needs: ClassVar[Needs] = Needs(unshifted=frozenset({"margin"}))
    bounded: ClassVar[Bounded] = PAPER
    retention: ClassVar[tuple[Retention, ...]] = (Retention(NLL(), PAPER),)

    def objective(self, model: Passes, reference: Passes) -> Tensor:
        """Return the squared margin at the position of each scored token, (N,)."""
        return losses.flattening(model.forget.unshifted_margin)
