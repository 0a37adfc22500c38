"""Membership inference: how well a score tells the forget rows (members) from the holdout rows (non-members).

Members are the texts of ``forget_texts`` where there is such a split, else the rows of ``forget``.

A score is low where a model seems to have seen the text. The value is the area under the ROC curve: the probability
that a member's score is below a non-member's, ties counting half. 1: members are told; 0.5: nothing is; below: the
forget rows look less seen than rows that never were.
"""

import zlib
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from ..bootstrap import interval
from ..metric import Contents, Likelihoods, Measurement, Metric, UndefinedError, metric
from ..needs import GradientNorm, Likelihood, OfRetrained

MEMBERS, NON_MEMBERS = ("forget_texts", "forget"), "holdout"
"""Splits of members, of which the first that there is counts; and the split of non-members."""
VARIANCE_FLOOR = 1e-6
"""Least variance of log p that Min-K%++ divides by, in nats squared."""


def areas(members: np.ndarray, non_members: np.ndarray, values: int) -> Any:
    """Return P(member below non-member) + P(equal) / 2 from places (..., M) and (..., N) among so many sorted values.

    Each non-member counts the members below its place, and half of those at it; nothing is sorted, so that many draws
    of the same scores cost a count of each.
    """
    own, others = _counts(members, values), _counts(non_members, values)
    below = own.cumsum(-1) - own / 2
    return (below * others).sum(-1) / (members.shape[-1] * non_members.shape[-1])


def _counts(places: np.ndarray, values: int) -> np.ndarray:
    """Return how many of `places` (..., n) are each of 0, 1, ...: (..., values)."""
    *outer, _ = places.shape
    rows = int(np.prod(outer, dtype=int))
    flat = places.reshape(rows, -1) + values * np.arange(rows)[:, None]
    return np.bincount(flat.ravel(), minlength=rows * values).reshape(*outer, values)


def separation(members: np.ndarray, non_members: np.ndarray) -> Measurement:
    """Return the AUC of two samples of scores, with its interval; members and non-members are drawn each by themselves.

    Raises UndefinedError where a score is no number.
    """
    if np.isnan(members).any() or np.isnan(non_members).any():
        raise UndefinedError("some examples have no score: the model gives them no probability that is a number")
    distinct, places = np.unique(np.concatenate([members, non_members]), return_inverse=True)
    own, others = places[: len(members)], places[len(members) :]
    return Measurement(
        float(areas(own, others, len(distinct))),
        members,
        others={NON_MEMBERS: non_members},
        interval=interval(lambda i, j: areas(own[i], others[j], len(distinct)), len(own), len(others)),
    )


def members_in(contents: Contents) -> str | None:
    """Return the split of members; None where there is none."""
    return next((split for split in MEMBERS if split in contents.answers), None)


@dataclass(frozen=True)
class Attack(Metric):
    """An attack on membership; values of examples are their scores."""

    directions: ClassVar = {"": "lower means more forgotten"}
    targets: ClassVar = {"": "what a retrained model has; 0.5 where it saw no holdout row"}
    is_share: ClassVar = True

    members: str = field(default="forget", kw_only=True)
    """The split of members."""

    @property
    def rows(self) -> str:
        """Return the split of members."""
        return self.members

    @classmethod
    def instances(cls, contents: Contents) -> Iterator[Metric]:
        """Yield the attack where there are members."""
        if split := members_in(contents):
            yield cls(members=split)


@dataclass(frozen=True)
class LikelihoodAttack(Attack):
    """An attack that reads the teacher-forced values of the true answers alone."""

    def needs(self) -> dict[str, Any]:
        """Return the answers of members and non-members."""
        return {"members": Likelihood(self.members), "non_members": Likelihood(NON_MEMBERS)}

    def compute(self, members: Likelihoods, non_members: Likelihoods) -> Measurement:
        """Return the AUC; in [0, 1]."""
        return separation(self.scores(members), self.scores(non_members))

    @abstractmethod
    def scores(self, answers: Likelihoods) -> np.ndarray:
        """Return the score of each example, (B,); lower for members."""


@metric("mia.loss.auc")
@dataclass(frozen=True)
class LossAttack(LikelihoodAttack):
    """Tell members by their loss."""

    label: ClassVar = "Membership by loss, AUC"
    formula: ClassVar = "AUC of l, forget against holdout"
    source: ClassVar = "Yeom et al., 2018 (arXiv:1709.01604)"
    place: ClassVar = 50

    def scores(self, answers: Likelihoods) -> np.ndarray:
        """Return l, in nats a token."""
        return answers.losses


@metric("mia.zlib.auc")
@dataclass(frozen=True)
class ZlibAttack(LikelihoodAttack):
    """Tell members by their loss for the bytes that zlib needs: texts that are simple for everybody count less."""

    label: ClassVar = "Membership by loss and zlib, AUC"
    formula: ClassVar = "AUC of l / bytes of the zlib-compressed answer"
    source: ClassVar = "Carlini et al., 2021 (arXiv:2012.07805)"
    place: ClassVar = 51

    def scores(self, answers: Likelihoods) -> np.ndarray:
        """Return l over bytes."""
        scores: np.ndarray = answers.losses / np.array([compressed(answer) for answer in answers.answers])
        return scores


def compressed(text: str) -> int:
    """Return how many bytes zlib makes of the UTF-8 text, at its default level; 8 of the empty one."""
    return len(zlib.compress(text.encode("utf-8", "surrogatepass")))


@metric("mia.min_k.auc")
@dataclass(frozen=True)
class MinKAttack(LikelihoodAttack):
    """Tell members by their least likely tokens (Min-K% Prob): a text that was seen has few surprising ones."""

    label: ClassVar = "Membership by Min-K%, AUC"
    formula: ClassVar = "AUC of minus the mean of the lowest share k of an answer's log p: max(1, floor(k n)) tokens"
    source: ClassVar = "Shi et al., 2023 (arXiv:2310.16789); k = 0.4 as in MUSE (arXiv:2407.06460)"
    place: ClassVar = 52

    k: float = 0.4
    """Share of an answer's tokens, its closing token included."""

    def scores(self, answers: Likelihoods) -> np.ndarray:
        """Return the mean loss of the least likely tokens."""
        return np.array([-lowest_mean(own, self.count(len(own))) for own in answers.per_example(self.values(answers))])

    def values(self, answers: Likelihoods) -> np.ndarray:
        """Return the value of each token, (N,)."""
        return answers.logp

    def count(self, n: int) -> int:
        """Return how many of n tokens are read; 0.29 of 100 are 29, whatever the product is rounded to."""
        return max(1, int(self.k * n + 1e-9))


def lowest_mean(values: np.ndarray, count: int) -> float:
    """Return the mean of the `count` lowest of `values` (n,); NaN where one of them is, wherever it would be sorted."""
    return float("nan") if np.isnan(values).any() else float(np.sort(values)[:count].mean())


@metric("mia.min_k_plus_plus.auc")
@dataclass(frozen=True)
class MinKPlusPlusAttack(MinKAttack):
    """Tell members by their least likely tokens, log p standardised under the model's own next-token distribution."""

    label: ClassVar = "Membership by Min-K%++, AUC"
    formula: ClassVar = "as mia.min_k.auc, of (log p - mean log p) / sd(log p), the variance at least 1e-6"
    source: ClassVar = "Zhang et al., 2024 (arXiv:2404.02936)"
    place: ClassVar = 53

    def values(self, answers: Likelihoods) -> np.ndarray:
        """Return the standardised log p of each token, (N,)."""
        return standardised(answers)


def standardised(answers: Likelihoods) -> np.ndarray:
    """Return (N,) log p less its mean under the model's next-token distribution, over its standard deviation there."""
    means, squares = answers.moments[:, 0], answers.moments[:, 1]
    values: np.ndarray = (answers.logp - means) / np.sqrt(np.maximum(squares - means**2, VARIANCE_FLOOR))
    return values


@metric("mia.grad_norm.auc")
@dataclass(frozen=True)
class GradientNormAttack(Attack):
    """Tell members by the norm of their loss's gradient in all parameters: it is small where the model was fitted.

    It takes a backward pass for each example, and so takes part on request alone.
    """

    label: ClassVar = "Membership by gradient norm, AUC"
    formula: ClassVar = "AUC of the Euclidean norm of the gradient of l"
    source: ClassVar = "Wang et al., 2024 (arXiv:2402.17012)"
    on_request: ClassVar = True
    place: ClassVar = 54

    def needs(self) -> dict[str, Any]:
        """Return the gradient norms of members and non-members."""
        return {"members": GradientNorm(self.members), "non_members": GradientNorm(NON_MEMBERS)}

    def compute(self, members: np.ndarray, non_members: np.ndarray) -> Measurement:
        """Return the AUC; in [0, 1]. Raises UndefinedError where a gradient is no finite number."""
        norms = np.concatenate([members, non_members])
        if count := int((~np.isfinite(norms)).sum()):
            raise UndefinedError(
                f"the gradient of {count} of {len(norms)} examples is no finite number; measure in a wider precision, "
                "as with --dtype float32"
            )
        return separation(members, non_members)


@metric("mia.reference.auc")
@dataclass(frozen=True)
class ReferenceAttack(Attack):
    """Tell members by how far their loss is below a reference model's."""

    label: ClassVar = "Membership against a reference, AUC"
    formula: ClassVar = "AUC of l under the model minus l under the reference"
    source: ClassVar = "Carlini et al., 2021 (arXiv:2012.07805)"
    place: ClassVar = 55

    def needs(self) -> dict[str, Any]:
        """Return the answers of members and non-members under both models."""
        return {
            "members": Likelihood(self.members),
            "members_before": Likelihood(self.members, reader="reference"),
            "non_members": Likelihood(NON_MEMBERS),
            "non_members_before": Likelihood(NON_MEMBERS, reader="reference"),
        }

    def compute(
        self,
        members: Likelihoods,
        members_before: Likelihoods,
        non_members: Likelihoods,
        non_members_before: Likelihoods,
    ) -> Measurement:
        """Return the AUC; in [0, 1]."""
        return separation(members.losses - members_before.losses, non_members.losses - non_members_before.losses)


@metric("privleak")
@dataclass(frozen=True)
class PrivLeak(Metric):
    """How far membership leaks beyond a retrained model: the relative difference of 1 - AUC of Min-K%, in percent.

    Strongly negative: under-unlearned, the forget rows still look seen; strongly positive: over-unlearned, they stand
    out as unseen. The interval is that of the model's AUC; the retrained model's is taken as it is.
    """

    label: ClassVar = "PrivLeak, %"
    formula: ClassVar = "100 (A_model - A_retrained) / A_retrained, A = 1 - mia.min_k.auc"
    directions: ClassVar = {"": "below 0: under-unlearned; above: over-unlearned"}
    targets: ClassVar = {"": "0"}
    source: ClassVar = "MUSE (Shi et al., 2024, arXiv:2407.06460)"
    place: ClassVar = 4

    members: str = field(default="forget", kw_only=True)
    """The split of members."""

    @classmethod
    def instances(cls, contents: Contents) -> Iterator[Metric]:
        """Yield the metric where there are members; without a retrained model the raw AUC too, which stands instead."""
        if split := members_in(contents):
            item = cls(members=split)
            yield item
            if contents.retrained is None:
                yield item.attack()

    def attack(self) -> MinKAttack:
        """Return the attack whose AUC is compared."""
        return MinKAttack(members=self.members)

    def needs(self) -> dict[str, Any]:
        """Return the attack's measurements on both models."""
        attack = self.attack()
        return {"model": attack, "retrained": OfRetrained(attack, f"the raw AUC, {attack.key}, is given instead")}

    def compute(self, model: Measurement, retrained: Measurement) -> Measurement:
        """Return the difference in percent; at least -100.

        Raises UndefinedError where the retrained model tells every forget row from every holdout row.
        """
        if retrained.value == 1:
            raise UndefinedError(
                "the retrained model itself tells every forget row from every holdout row (its mia.min_k.auc is 1)"
            )
        return relative(model, retrained.value)


def relative(model: Measurement, retrained: float, floor: float = 0.0) -> Measurement:
    """Return PrivLeak from the model's AUC and the value of the retrained one; `floor` is added to the denominator."""

    def difference(value: float) -> float:
        return 100 * (retrained - value) / (1 - retrained + floor)

    ends = None if model.interval is None else (difference(model.interval[1]), difference(model.interval[0]))
    return Measurement(difference(model.value), interval=ends)
