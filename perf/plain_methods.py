"""Steps of unlearning methods the obvious way, from torch and transformers alone: what `perf/methods.py` compares with.

Forget rows, second answers and retain rows pass through the model apart, padded to the longest of their micro-batch, in
the random order in which they were drawn, and give the logits of all positions in float32; hidden rows come with them
(`output_hidden_states`). A reference is a second model that reads the same micro-batch in every step. ``B`` rows, ``T``
positions, ``V`` vocabulary, ``D`` width.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax, logsigmoid

BETA = 0.1
"""Inverse temperature of npo and dpo."""


class Rows(NamedTuple):
    """A micro-batch."""

    ids: Tensor
    """(B, T), padded on the right."""
    mask: Tensor
    """(B, T): 0 where padded."""
    labels: Tensor
    """(B, T - 1): the token that each position but the last predicts; -100 where it is not scored."""

    @property
    def is_scored(self) -> Tensor:
        """Return which positions predict a scored token, (B, T - 1)."""
        return self.labels != -100


class Seen(NamedTuple):
    """What a pass gives for the positions of `Rows.labels`."""

    logits: Tensor
    """(B, T - 1, V), float32."""
    hidden: Tensor | None
    """(B, T - 1, D), of the block that is steered."""

    def logp(self, rows: Rows) -> Tensor:
        """Return log p of each scored token, 0 elsewhere, (B, T - 1)."""
        flat = cross_entropy(self.logits.flatten(0, 1), rows.labels.flatten(), ignore_index=-100, reduction="none")
        return -flat.view_as(rows.labels)


Loss = Callable[[Rows, Seen, Any], Tensor]
"""From a micro-batch and what policy and reference (None: nobody reads it) give for it, values that are summed up."""


def nll(rows: Rows, own: Seen, reference: Seen | None) -> Tensor:
    """Return -log p of each token."""
    return -own.logp(rows)


def ascent(rows: Rows, own: Seen, reference: Seen | None) -> Tensor:
    """Return log p of each token."""
    return own.logp(rows)


def kl(rows: Rows, own: Seen, reference: Seen) -> Tensor:
    """Return the divergence KL(reference || policy) at each scored position."""
    found = kl_div(log_softmax(own.logits, -1), log_softmax(reference.logits, -1), reduction="none", log_target=True)
    return found.sum(-1)[rows.is_scored]


def gain(rows: Rows, own: Seen, reference: Seen) -> Tensor:
    """Return by how much each answer has become likelier than it was, (B,)."""
    return own.logp(rows).sum(-1) - reference.logp(rows).sum(-1)


def npo(rows: Rows, own: Seen, reference: Seen) -> Tensor:
    """Return the loss of each answer: arXiv:2404.05868, eq. 3."""
    return -2 / BETA * logsigmoid(-BETA * gain(rows, own, reference))


def simnpo(rows: Rows, own: Seen, reference: Seen | None) -> Tensor:
    """Return the loss of each answer: arXiv:2410.07163, with beta 4.5."""
    mean = own.logp(rows).sum(-1) / rows.is_scored.sum(-1)
    return -2 / 4.5 * logsigmoid(-4.5 * mean)


def steered(target: Tensor) -> Loss:
    """Return rmu's loss of each answer: how far its hidden rows are from `target` (D,); arXiv:2403.03218."""

    def loss(rows: Rows, own: Seen, reference: Seen | None) -> Tensor:
        values = (own.hidden - target).square().mean(-1) * rows.is_scored
        return values.sum(-1) / rows.is_scored.sum(-1)

    return loss


def hidden_distance(rows: Rows, own: Seen, reference: Seen) -> Tensor:
    """Return how far each scored position's hidden row is from the reference's."""
    return (own.hidden - reference.hidden).square().mean(-1)[rows.is_scored]


@dataclass(frozen=True)
class Recipe:
    """A method, as the obvious loop computes it."""

    forget: Loss
    retain: Loss = nll
    refers: frozenset[str] = frozenset()
    """Splits that the reference reads."""
    reads_second: bool = False
    """Forget rows stand beside second answers to their prompts, of which the loss is dpo's."""
    weight: float = 1.0
    """Of the retain loss."""
    is_by_answer: bool = False
    """The forget loss is a mean over answers; False: over tokens."""
    layer: int | None = None
    """The block whose output is read."""
    moves: frozenset[str] | None = None
    """Names of the parameters that learn; None: all that have a gradient."""


class Plain:
    """The obvious loop over the micro-batches of a step."""

    def __init__(self, model: Any, reference: Any, recipe: Recipe, size: int, learning_rate: float) -> None:
        """Train `model` beside `reference`, a model of its own, with micro-batches of so many rows."""
        self.model, self.reference, self.recipe, self.size = model, reference, recipe, size
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and (recipe.moves is None or name in recipe.moves))
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=learning_rate, weight_decay=0.0)
        self.positions = 0

    def step(self, chosen: Mapping[str, Sequence[Any]]) -> tuple[float, float, float]:
        """Take one step on the rows of each split; return forget loss, retain loss and the gradient's norm."""
        losses = []
        for split, weight in (("forget", 1.0), ("retain", self.recipe.weight)):
            rows, total = chosen[split], 0.0
            is_by_answer = split == "forget" and self.recipe.is_by_answer
            count = len(rows) if is_by_answer else sum(row.scored for row in rows)
            for first in range(0, len(rows), self.size):
                part = slice(first, first + self.size)
                second = chosen["second"][part] if split == "forget" and self.recipe.reads_second else None
                loss = self._values(split, rows[part], second).sum() / count
                (weight * loss).backward()
                total += loss.item()
            losses.append(total)
        norm = torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return losses[0], losses[1], norm.item()

    def _values(self, split: str, chosen: Sequence[Any], second: Sequence[Any] | None) -> Tensor:
        rows = self._padded(chosen)
        own, reference = self._seen(rows, split in self.recipe.refers)
        if second is None:
            return (self.recipe.forget if split == "forget" else self.recipe.retain)(rows, own, reference)
        others = self._padded(second)
        better = gain(others, *self._seen(others, True))
        return -2 / BETA * logsigmoid(BETA * (better - gain(rows, own, reference)))

    def _seen(self, rows: Rows, refers: bool) -> tuple[Seen, Seen | None]:
        """Return what the policy gives, and the reference, where it is read."""
        reference = None
        if refers:
            with torch.no_grad():
                reference = self._pass(self.reference, rows)
        return self._pass(self.model, rows), reference

    def _pass(self, model: Any, rows: Rows) -> Seen:
        self.positions += rows.ids.numel()
        layer = self.recipe.layer
        found = model(
            input_ids=rows.ids, attention_mask=rows.mask, use_cache=False, output_hidden_states=layer is not None
        )
        hidden = None if layer is None else found.hidden_states[layer + 1][:, :-1]
        return Seen(found.logits.float()[:, :-1], hidden)

    def _padded(self, chosen: Sequence[Any]) -> Rows:
        longest = max(len(row.input_ids) for row in chosen)
        ids = torch.zeros((len(chosen), longest), dtype=torch.int64)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for i, row in enumerate(chosen):
            tokens = torch.from_numpy(row.input_ids.copy())
            ids[i, : len(tokens)], mask[i, : len(tokens)] = tokens, 1
            labels[i, : len(tokens)] = torch.where(torch.from_numpy(row.is_scored.copy()), tokens, -100)
        return Rows(*(tensor.to(self.model.device) for tensor in (ids, mask, labels[:, 1:])))
