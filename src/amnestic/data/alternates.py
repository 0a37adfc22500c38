"""Other answers to the prompts of a split: paraphrases, and wrong ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .encode import Encoded


@dataclass(frozen=True)
class Alternates:
    """The rows of one kind of answers, ``R`` of them."""

    rows: Sequence[Encoded]
    example: np.ndarray
    """(R,) int64: the example that each row answers, in rising order."""
