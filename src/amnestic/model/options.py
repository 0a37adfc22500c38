"""Options of loading a model; nothing heavy is imported here."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from ..errors import InputError


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
class ShardingOptions:
    """How the processes of a run, which torchrun or accelerate launch starts, share its work."""

    indifferent: ClassVar[frozenset[str]] = frozenset(
        {"fsdp", "fsdp_offload_params", "fsdp_reshard_after_forward", "ddp_timeout"}
    )

    fsdp: bool = False
    """Spread weights, gradients and optimiser state over the processes (fully_shard); without, each holds all."""
    fsdp_offload_params: bool = False
    """Keep the spread weights and their optimiser in the host's memory while they are not computed with."""
    fsdp_reshard_after_forward: bool = True
    """Free a block's gathered weights behind its forward pass: less memory, one more gathering a pass."""
    ddp_timeout: int = 1800
    """Seconds that a process waits for the others before it gives up."""

    def __post_init__(self) -> None:
        """Raise InputError for values that no run could use."""
        if self.ddp_timeout < 1:
            raise InputError(f"--ddp_timeout is {self.ddp_timeout}; expected at least 1 second.")
        if self.fsdp_offload_params and not self.fsdp:
            raise InputError("--fsdp_offload_params was given without --fsdp; give both, or leave it out.")


@dataclass(frozen=True, kw_only=True)
class FinetuneModel(ModelOptions):
    """Which model to train, and from where."""

    from_scratch: bool = False
    """Start from random weights of the shape that --model's configuration describes."""
