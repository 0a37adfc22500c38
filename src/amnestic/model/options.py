"""Options of loading a model; nothing heavy is imported here."""

from dataclasses import dataclass
from typing import ClassVar, Literal


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which model, and in which precision."""

    indifferent: ClassVar[frozenset[str]] = frozenset(
        {"model", "model_revision", "tokenizer", "device", "trust_remote_code", "allow_pickle"}
    )

    model: str
    """Hub id or local folder of a causal language model."""
    model_revision: str | None = None
    """Branch, tag or commit of a Hub model [default: main]."""
    tokenizer: str | None = None
    """Hub id or local folder of the tokenizer [default: the model's]."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the computation; auto: the model's own (for bfloat16 on a processor that lacks it, float32)."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps; auto: the first accelerator, else the processor."""
    trust_remote_code: bool = False
    """Run the Python code that comes with a model or its tokenizer, with all your rights on this machine."""
    allow_pickle: bool = False
    """Also read weights from pickle files (pytorch_model.bin), of which nothing but tensors is accepted."""


@dataclass(frozen=True, kw_only=True)
class FinetuneModel(ModelOptions):
    """Which model to train, and from where."""

    from_scratch: bool = False
    """Start from random weights of the shape that --model's configuration describes."""
