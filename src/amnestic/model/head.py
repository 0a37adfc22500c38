"""Head signals in their plain form: what can be read off the logits of scored positions.

Each takes logits (N, V) in any precision, the targets (N,) and the number of vocabulary rows that the tokenizer knows,
and returns (N,), or (N, 2), in float32 (float64 for float64 logits). ``model/layers.py`` computes the same from hidden
rows and the head's weights, without storing the logits.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Plain = Callable[[Tensor, Tensor, int], Tensor]


def token_logp(logits: Tensor, targets: Tensor, vocabulary: int) -> Tensor:
    """Return log p of each target under the softmax over all V rows."""
    return -torch.nn.functional.cross_entropy(wide(logits), targets, reduction="none")


def margin(logits: Tensor, targets: Tensor, vocabulary: int) -> Tensor:
    """Return max z - mean z over the first `vocabulary` rows; the first of equal maxima takes the gradient."""
    logits = wide(logits[:, :vocabulary])
    highest = logits.detach().argmax(dim=-1, keepdim=True)
    return logits.gather(-1, highest).squeeze(-1) - logits.mean(dim=-1)


def is_argmax(logits: Tensor, targets: Tensor, vocabulary: int) -> Tensor:
    """Return 1.0 where the target has the highest logit (the first of equal ones), else 0.0."""
    return (logits.argmax(dim=-1) == targets).to(wide(logits[:0]).dtype)


def moments(logits: Tensor, targets: Tensor, vocabulary: int) -> Tensor:
    """Return mean and mean square of log p under the softmax over all V rows, (N, 2); minus the mean is the entropy."""
    logp = torch.log_softmax(wide(logits), dim=-1)
    logp = logp.clamp(min=torch.finfo(logp.dtype).min)  # 0 log 0 is 0: some models mask rows of the vocabulary
    weighted = logp.exp() * logp
    return torch.stack([weighted.sum(dim=-1), (weighted * logp).sum(dim=-1)], dim=-1)


HEAD_SIGNALS: dict[str, Plain] = {f.__name__: f for f in (token_logp, margin, is_argmax, moments)}


@dataclass(frozen=True)
class WithoutTarget:
    """The model's own softmax without the scored token: where its probability goes if it has none.

    Yang, 2025, arXiv:2503.01224 (CE-U). No gradient flows through it.
    """

    needs_reference = False

    def probabilities(self, logits: Tensor, targets: Tensor, reference: Tensor | None) -> Tensor:
        """Return the distribution at each position, (N, V)."""
        return torch.softmax(logits.detach().scatter(-1, targets[:, None], -torch.inf), dim=-1)


@dataclass(frozen=True)
class Reference:
    """The reference's softmax, with `shift` taken off the logit of the scored token.

    shift 0: the cross-entropy of a KL divergence; above: Dong et al., 2024, arXiv:2402.10052 (UNDIAL).
    """

    shift: float = 0.0
    needs_reference = True

    def probabilities(self, logits: Tensor, targets: Tensor, reference: Tensor | None) -> Tensor:
        """Return the distribution at each position, (N, V), from the logits (N, V) of the reference."""
        if reference is None:
            raise ValueError("a cross-entropy to the reference was read without the reference.")
        taken_off = torch.full_like(reference[:, :1], self.shift)
        return torch.softmax(reference.detach().scatter_add(-1, targets[:, None], -taken_off), dim=-1)


@dataclass(frozen=True)
class CrossEntropyTo:
    """The cross-entropy of the model's softmax to another distribution over the vocabulary, at each scored position."""

    target: WithoutTarget | Reference
    whole: bool = False
    """Over all rows of the vocabulary; False: over those that the tokenizer knows."""

    @property
    def name(self) -> str:
        """Return the attribute of the signals that it is read by: two readers of one row may each have theirs."""
        return "whole_cross_entropy" if self.whole else "cross_entropy"

    def plain(self, logits: Tensor, targets: Tensor, vocabulary: int, reference: Tensor | None = None) -> Tensor:
        """Return -sum q log p (N,), from the logits (N, V) of the model and, where it is the target, the reference."""
        rows = logits.shape[-1] if self.whole else vocabulary
        own = wide(logits[:, :rows])
        other = None if reference is None else wide(reference[:, :rows])
        wanted = self.target.probabilities(own, targets, other)
        products = wanted * torch.log_softmax(own, dim=-1)
        return -torch.where(wanted > 0, products, 0.0).sum(dim=-1)  # 0 log 0 is 0


HeadNeed = str | CrossEntropyTo
"""What a reader of signals declares: a name in HEAD_SIGNALS, or a cross-entropy."""


def wide(logits: Tensor) -> Tensor:
    """Return logits in float32, or float64 where they are."""
    return logits if logits.dtype == torch.float64 else logits.float()
