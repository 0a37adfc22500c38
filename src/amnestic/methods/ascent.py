"""Methods that lower the log-probability of the answer's tokens, each with a weight of its own.

No reference is read, so no model is copied.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from .. import losses
from ..constraints.multiplier import Bounded, Fixed
from ..constraints.retention import NLL, Retention
from ..model.signals import Needs
from .base import Method, Passes, method
from .checks import at_least_zero

TOKEN_LOGP = Needs(head=frozenset({"token_logp"}))
CAPPED = Bounded(rate=0.1, initial=10.0, kind="multiplicative", normalized=True, cap=1000.0)
"""What nothing bounds from below pulls ever harder, and without a cap the multiplier would follow it."""


@method("grad_ascent")
@dataclass(frozen=True)
class GradAscent(Method):
    """Climb the loss of the answers: minimise the mean of log p over their tokens.

    Jang et al., 2022, arXiv:2210.01504, published without a retention. Nothing bounds it from below: the less likely a
    token is, the harder it pushes, and free runs end in a model that answers nothing. Under a bound the multiplier has
    to grow with it, and is capped.
    """

    needs: ClassVar[Needs] = TOKEN_LOGP
    retention: ClassVar[tuple[Retention, ...]] = ()
    is_bounded_below: ClassVar[bool] = False
    bounded: ClassVar[Bounded] = CAPPED
    published: ClassVar[Mapping[str, Any]] = {"num_train_epochs": 5.0}

    def objective(self, model: Passes, reference: Passes) -> Tensor:
        """Return log p of each scored token, (N,)."""
        return model.forget.token_logp


@method("grad_diff")
@dataclass(frozen=True)
class GradDiff(Method):
    """Climb the loss of the answers while descending that of the retain split: log p + NLL(retain).

    Liu et al., 2022, arXiv:2203.12817, with a weight of 1 as in TOFU (Maini et al., 2024, arXiv:2401.06121). Nothing
    bounds the first part from below, so it outgrows the second in a long run. Under a bound it is grad_ascent.
    """

    needs: ClassVar[Needs] = TOKEN_LOGP
    is_bounded_below: ClassVar[bool] = False
    bounded: ClassVar[Bounded] = CAPPED
    same_when_bounded: ClassVar[str | None] = "grad_ascent"
    published: ClassVar[Mapping[str, Any]] = {"num_train_epochs": 5.0}

    def objective(self, model: Passes, reference: Passes) -> Tensor:
        """Return log p of each scored token, (N,)."""
        return model.forget.token_logp


@method("wga")
@dataclass(frozen=True)
class WGA(Method):
    """Gradient ascent in which a token weighs p^beta, so that what is forgotten is let go: sg(p)^beta log p.

    Wang et al., 2025, arXiv:2502.19301 (weighted gradient ascent); sg stops the gradient. The gradient is that of
    p^beta / beta: it fades with p. With beta 0 it is plain ascent, which nothing bounds. It fails with a large beta, by
    which a token is let go long before it is forgotten.
    """

    beta: float = 1.0
    """How fast a token's weight falls with its probability; 0: plain ascent."""

    needs: ClassVar[Needs] = TOKEN_LOGP
    is_bounded_below: ClassVar[bool] = False
    bounded: ClassVar[Bounded] = replace(CAPPED, initial=1.0)
    ranks_by_likelihood: ClassVar[bool] = True
    published: ClassVar[Mapping[str, Any]] = {"num_train_epochs": 5.0, "weight_decay": 0.0}

    def __post_init__(self) -> None:
        """Raise InputError for values that no run could use."""
        at_least_zero(self, "beta")

    def objective(self, model: Passes, reference: Passes) -> Tensor:
        """Return the weighted log p of each scored token, (N,)."""
        logp = model.forget.token_logp
        return losses.saturation(logp, self.beta) * logp


@method("satimp")
@dataclass(frozen=True)
class SatImp(Method):
    """Gradient ascent on the tokens that are neither forgotten nor certain: sg(p^beta1 (1 - p)^beta2) log p.

    Yang et al., 2025, arXiv:2505.11953 (saturation and importance); sg stops the gradient. Bounded below for a beta1
    above 0. It fails on texts that the model knows by heart: at p near 1 the weight is near 0, so hardly anything
    moves. Published with a factor of 0.1 beside a retention of weight 1, which is the direction of a retention of
    weight 10.
    """

    beta1: float = 5.0
    """How fast a token's weight falls as it is forgotten (saturation)."""
    beta2: float = 1.0
    """How fast it falls as the model is sure of the token (importance)."""

    needs: ClassVar[Needs] = TOKEN_LOGP
    retention: ClassVar[tuple[Retention, ...]] = (Retention(NLL(), Fixed(10.0)),)
    bounded: ClassVar[Bounded] = Bounded(rate=0.3, initial=0.1, kind="multiplicative", normalized=True)
    ranks_by_likelihood: ClassVar[bool] = True
    published: ClassVar[Mapping[str, Any]] = {"num_train_epochs": 5.0, "weight_decay": 0.0}

    def __post_init__(self) -> None:
        """Raise InputError for values that no run could use."""
        at_least_zero(self, "beta1", "beta2")

    def objective(self, model: Passes, reference: Passes) -> Tensor:
        """Return the weighted log p of each scored token, (N,)."""
        logp = model.forget.token_logp
        return losses.saturation(logp, self.beta1) * losses.importance(logp, self.beta2) * logp
