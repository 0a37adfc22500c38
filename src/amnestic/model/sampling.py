"""Tokens that are drawn by a seed, in the place of the likeliest: the same ones however texts are cut into batches.

Each draw takes one number between 0 and 1, a hash of the seed, the text's name and the token's place in it, and nothing
that depends on other texts, on the process or on the machine. ``B`` texts, ``V`` vocabulary.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .decoding import Begun


@dataclass(frozen=True)
class Sampling:
    """Draws from the model's own distribution, at temperature 1."""

    seed: int
    names: Sequence[str]
    """What each text is called, by its index: the same name and seed, the same draws."""
    vocabulary: int
    """Tokens that the tokenizer knows; rows of the head beyond are never drawn."""
    barred: Mapping[int, int] = field(default_factory=dict)
    """Index of a text -> the token that may not be its first new one."""

    def __call__(self, logits: Tensor, rows: Sequence[Begun], found: Sequence[Sequence[int]]) -> list[int]:
        """Return the next token of each of `rows`, behind what was `found` of it so far; `logits` is (B, V)."""
        scores = logits[:, : self.vocabulary].double()
        for place, (row, tokens) in enumerate(zip(rows, found, strict=True)):
            if not tokens and row.index in self.barred:
                scores[place, self.barred[row.index]] = -torch.inf
        points = [
            uniform(self.seed, self.names[row.index], len(tokens)) for row, tokens in zip(rows, found, strict=True)
        ]
        return drawn(scores, torch.tensor(points, dtype=scores.dtype, device=scores.device))


def drawn(scores: Tensor, points: Tensor) -> list[int]:
    """Return the token of each row of logits (B, V) at which its cumulative probability passes `points` (B,)."""
    cumulative = torch.softmax(scores, -1).cumsum(-1)
    total = cumulative[:, -1]  # rounding leaves it a little off 1
    below = torch.nextafter(total, torch.zeros_like(total))
    points = torch.minimum(points * total, below)
    return torch.searchsorted(cumulative, points[:, None], right=True).squeeze(1).tolist()


def uniform(seed: int, name: str, place: int) -> float:
    """Return a number of [0, 1), to 53 bits, that depends on the arguments alone."""
    digest = hashlib.blake2b(f"{seed} {place} {name}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) * 2.0**-53
