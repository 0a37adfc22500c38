"""Methods that prefer something else to the answer: whatever else, a refusal, or another answer.

``B`` answers, each with the sum (or mean) of its tokens' log-probabilities; r is the log-ratio of an answer's
probability to the one that the reference gives it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from .. import losses
from ..constraints.multiplier import Bounded, Fixed
from ..constraints.retention import NLL, Retention
from ..model.signals import Needs, Signals
from .base import Method, Passes, method
from .checks import above_zero, at_least_zero

TOKEN_LOGP = Needs(head=frozenset({"token_logp"}))
SUMS = Bounded(rate=0.1, initial=100.0, kind="multiplicative", normalized=True)
"""The gradient of a sum over an answer is that of a mean over tokens times some tens of tokens."""
SATURATING = Bounded(rate=0.1, initial=1.0, kind="multiplicative", normalized=True)
"""What prefers one answer to another is satisfied once the odds have moved: it has to pull before it is."""


@method("npo")
@dataclass(frozen=True)
class NPO(Method):
    """Push answers below the reference, ever more gently: -2/beta log sigmoid(-beta r).

    Zhang et al., 2024, arXiv:2404.05868, eq. 3. At least 0, so it cannot run away from a retention: an answer whose
    log-probability has fallen by 1/beta moves about half as fast, and ever slower. It fails with beta near 0, where its
    gradient is gradient ascent's and so is its collapse; and long answers, whose sums fall fast, are let go early.
    """

    beta: float = 0.1
    """Inverse temperature: smaller forgets more, and more like plain ascent."""

    unit: ClassVar[Literal["token", "answer"]] = "answer"
    needs: ClassVar[Needs] = TOKEN_LOGP
    reference_needs: ClassVar[Needs] = TOKEN_LOGP
    bounded: ClassVar[Bounded] = SUMS

    def __post_init__(self) -> None:
        """Raise InputError for values that no run could use."""
        above_zero(self, "beta")

    def objective(self, model: Passes, reference: Passes) -> Tensor:
        """Return the loss of each answer, (B,)."""
        return losses.preference(-log_ratio(model.forget, reference.forget), self.beta)


@method("simnpo")
@dataclass(frozen=True)
class SimNPO(Method):
    """Push the mean log-probability of an answer's tokens down, ever more gently, without a reference.

    -2/beta log sigmoid(-beta mean log p - gamma): Fan et al., 2024, arXiv:2410.07163. At least 0; long and short
    answers weigh alike. At a mean of -1/beta nats a token an answer moves about half as fast as one known by heart,
    whatever the model gave before: it fails on answers that few models would give, which are let go from the start.
    Published on TOFU with a factor of 0.125 (forget10) beside a retention of weight 1, which is the direction of a
    retention of weight 8.
    """

    beta: float = 4.5
    """Inverse temperature of the mean; the paper's for TOFU's forget10, and 2.5 for its forget05."""
    gamma: float = 0.0
    """Margin: above 0 answers are pushed further before they are let go."""

    unit: ClassVar[Literal["token", "answer"]] = "answer"
    needs: ClassVar[Needs] = TOKEN_LOGP
    retention: ClassVar[tuple[Retention, ...]] = (Retention(NLL(), Fixed(8.0)),)
    bounded: ClassVar[Bounded] = Bounded(rate=0.1, initial=10.0, kind="multiplicative", normalized=True)

    def __post_init__(self) -> None:
        """Raise InputError for values that no run could use."""
        above_zero(self, "beta")
        at_least_zero(self, "gamma")

    def objective(self, model: Passes, reference: Passes) -> Tensor:
        """Return the loss of each answer, (B,)."""
        forget = model.forget
        mean = losses.mean_by_answer(forget.token_logp, forget.row, forget.answers)
        return losses.preference(-mean, self.beta, self.gamma)


@method("dpo")
@dataclass(frozen=True)
class DPO(Method):
    """Prefer a refusal to the answer: -2/beta log sigmoid(beta (r_refusal - r)).

    Rafailov et al., 2023, arXiv:2305.18290, with refusals as in TOFU (Maini et al., 2024, arXiv:2401.06121; elsewhere
    IdkDPO). At least 0, and 2/beta log 2 before the first step. It fails by refusing where it should answer, and by
    hiding rather than forgetting: the answer can come back to a question put in other words.
    """

    beta: float = 0.1
    """Inverse temperature: smaller lets both answers move further from the reference."""

    unit: ClassVar[Literal["token", "answer"]] = "answer"
    alternate: ClassVar[Literal["refusal", "generated"] | None] = "refusal"
    needs: ClassVar[Needs] = TOKEN_LOGP
    reference_needs: ClassVar[Needs] = TOKEN_LOGP
    bounded: ClassVar[Bounded] = SATURATING
    published: ClassVar[Mapping[str, Any]] = {"num_train_epochs": 5.0}

    def __post_init__(self) -> None:
        """Raise InputError for values that no run could use."""
        above_zero(self, "beta")

    def objective(self, model: Passes, reference: Passes) -> Tensor:
        """Return the loss of each answer, (B,)."""
        return losses.preference(advantage(model, reference), self.beta)


@method("altpo")
@dataclass(frozen=True)
class AltPO(DPO):
    """Prefer another plausible answer, which the model itself made: -2/beta log sigmoid(beta (r_other - r)).

    Mekala et al., 2024, arXiv:2409.13474. At least 0, and 2/beta log 2 before the first step. What takes the place of
    the answer is fluent and made up: it fails where an invented fact does harm, and where the model's own alternatives
    repeat what is to be forgotten.
    """

    alternate: ClassVar[Literal["refusal", "generated"] | None] = "generated"
    published: ClassVar[Mapping[str, Any]] = {"learning_rate": 5e-5}


def log_ratio(model: Signals, reference: Signals) -> Tensor:
    """Return r = log p(answer) - log p_reference(answer), (B,); differences of tokens are summed, which rounds less."""
    return losses.summed_by_answer(model.token_logp - reference.token_logp, model.row, model.answers)


def advantage(model: Passes, reference: Passes) -> Tensor:
    """Return by how much more the second answer has gained on the reference than the answer to be forgotten, (B,)."""
    return log_ratio(model.alternate, reference.alternate) - log_ratio(model.forget, reference.forget)
