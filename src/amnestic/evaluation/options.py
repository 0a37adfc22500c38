"""Options of measuring a model; nothing heavy is imported here."""

from dataclasses import dataclass
from typing import ClassVar

from ..errors import InputError


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """How models are measured before and after."""

    indifferent: ClassVar[frozenset[str]] = frozenset({"per_device_eval_batch_size", "cache_dir"})

    per_device_eval_batch_size: int = 32
    """Examples that memory holds in one forward pass; where answers are scored, shorter ones fill it in greater number.
    Answers are generated as many at once as free memory holds, and no more than these only by models that do more than
    attend."""
    eval_rows: int = 400
    """Most examples of a split that are measured; drawn evenly from it where it has more. A benchmark's are all."""
    max_new_tokens: int = 200
    """Longest generated answer, in tokens; where a benchmark says it of a split, that counts."""
    metrics: tuple[str, ...] = ("default",)
    """Names of metrics, or dotted paths of their classes; default: all that take no more than forward passes; all:
    variants and gradients too (amnestic list metrics). A run that trains measures probability in any case."""
    cache_dir: str | None = None
    """Folder that keeps what models gave of each row, so that it is computed once; several runs and splits may share it
    [default: none]."""

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


@dataclass(frozen=True, kw_only=True)
class StandaloneEvaluation(EvaluationOptions):
    """What a model that is evaluated by itself is held beside."""

    indifferent: ClassVar[frozenset[str]] = EvaluationOptions.indifferent | {"retrained", "reference", "plan"}

    retrained: str | None = None
    """A model that never saw the forget split: its evaluation's folder, or the model, which is then measured for what
    forget quality and PrivLeak need [default: none]."""
    reference: str | None = None
    """Hub id or folder of another model of the same tokenizer: the reference attack compares with it, and it judges
    generated answers [default: none]."""
    plan: bool = False
    """Print what would be computed, and stop."""
