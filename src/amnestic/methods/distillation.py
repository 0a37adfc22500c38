"""Methods that teach the model another distribution at each token of the answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ..constraints.multiplier import Bounded
from ..constraints.retention import Retention
from ..model.head import CrossEntropyTo, Reference, WithoutTarget
from ..model.signals import Needs
from .base import Method, Passes, method
from .checks import at_least_zero

MULTIPLICATIVE = Bounded(rate=0.1, initial=10.0, kind="multiplicative", normalized=True)


@method("undial")
@dataclass(frozen=True)
class UNDIAL(Method):
    """Distil the reference with the answer's token made less likely: CE(z, softmax(z_reference - beta 1_y)).

    Dong et al., 2024, arXiv:2402.10052, published without a retention and with LoRA. The target is fixed and a proper
    distribution, so the loss is at least the target's entropy and training ends there. It fails where beta is small
    beside the reference's lead: a token that leads by more than beta stays the likeliest.
    """

    beta: float = 10.0
    """What is taken off the logit of the answer's token; 0: plain distillation of the reference."""

    retention: ClassVar[tuple[Retention, ...]] = ()
    bounded: ClassVar[Bounded] = MULTIPLICATIVE
    published: ClassVar[Mapping[str, Any]] = {"learning_rate": 1e-4}

    def __post_init__(self) -> None:
        """Raise InputError for values that no run could use."""
        at_least_zero(self, "beta")

    @property
    def needs(self) -> Needs:
        """Return the cross-entropy to the shifted reference."""
        return Needs(head=frozenset({CrossEntropyTo(Reference(shift=self.beta))}))

    def objective(self, model: Passes, reference: Passes) -> Tensor:
        """Return the cross-entropy at each scored token, (N,)."""
        return model.forget.cross_entropy


@method("ceu")
@dataclass(frozen=True)
class CEU(Method):
    """Distil the model's own distribution without the answer's token: CE(z, sg softmax(z without y)).

    Yang, 2025, arXiv:2503.01224 (cross entropy unlearning); sg stops the gradient; published without a retention. The
    first token of each answer is left out, as the paper does, since so many answers begin with it. Its gradient in the
    logit of y is p, bounded, and in the others -p times their share of the rest; it fades as p does. The loss is at
    least 0. It fails where the second choice says the same in other words.
    """

    needs: ClassVar[Needs] = Needs(head=frozenset({CrossEntropyTo(WithoutTarget())}))
    retention: ClassVar[tuple[Retention, ...]] = ()
    bounded: ClassVar[Bounded] = MULTIPLICATIVE
    ranks_by_likelihood: ClassVar[bool] = True
    skips_first: ClassVar[bool] = True

    def objective(self, model: Passes, reference: Passes) -> Tensor:
        """Return the cross-entropy at each scored token, (N,)."""
        return model.forget.cross_entropy
