"""Options of measuring a model; nothing heavy is imported here."""

from dataclasses import dataclass
from typing import ClassVar

from ..errors import InputError


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """How models are measured before and after."""

    indifferent: ClassVar[frozenset[str]] = frozenset({"per_device_eval_batch_size"})

    per_device_eval_batch_size: int = 32
    """Examples that memory holds in one forward pass; where answers are scored, shorter ones fill it in greater number.
    """
    eval_rows: int = 400
    """Most forget examples that are measured before and after; drawn evenly from the split where it has more."""
    max_new_tokens: int = 200
    """Longest generated answer, in tokens."""

    def __post_init__(self) -> None:
        """Raise InputError for values that no run could use."""
        for name in ("per_device_eval_batch_size", "eval_rows", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name} is {getattr(self, name)}; expected at least 1.")


@dataclass(frozen=True, kw_only=True)
class UnlearnEvaluation(EvaluationOptions):
    """What an unlearned model is held beside."""

    indifferent: ClassVar[frozenset[str]] = EvaluationOptions.indifferent | {"retrained"}

    retrained: str | None = None
    """Hub id or folder of a model that never saw the forget split, measured beside the others [default: none]."""
