"""Options of loading a model; nothing heavy is imported here."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from ..errors import InputError

ALL_LINEAR = "all-linear"
"""What stands for every linear layer of a model but its head."""


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


@dataclass(frozen=True, kw_only=True)
class AdapterOptions:
    """Train a LoRA adapter (arXiv:2106.09685) in place of the weights; its dropout is always 0.

    Rank and alpha are what trl's ModelConfig takes; all linear layers are adapted, as in QLoRA (arXiv:2305.14314).
    """

    use_peft: bool = False
    """Train a LoRA adapter and nothing else; needs peft (pip install 'amnestic[peft]')."""
    lora_r: int = 16
    """Rank of the adapter."""
    lora_alpha: int = 32
    """The adapter's output is scaled by this number over --lora_r."""
    lora_target_modules: tuple[str, ...] = (ALL_LINEAR,)
    """Names of the modules to adapt, with commas between them; all-linear: every linear layer but the head."""
    merge: bool = False
    """Save the whole model with the adapter merged into it, in place of the adapter."""

    def __post_init__(self) -> None:
        """Raise InputError for values that no run could use."""
        if not self.use_peft:
            plain = AdapterOptions.__dataclass_fields__
            given = [name for name, item in plain.items() if getattr(self, name) != item.default and name != "use_peft"]
            if given:
                flags = ", ".join(f"--{name}" for name in given)
                raise InputError(
                    f"{flags} describes an adapter, and --use_peft was not given; give it, or leave it out."
                )
            return
        for name in ("lora_r", "lora_alpha"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name} is {getattr(self, name)}; expected a whole number of at least 1.")
        if not self.lora_target_modules:
            raise InputError(f"--lora_target_modules names no module; expected names, or {ALL_LINEAR}.")
        if ALL_LINEAR in self.lora_target_modules and len(self.lora_target_modules) > 1:
            raise InputError(f"--lora_target_modules names {ALL_LINEAR} and more; give it alone, or names alone.")
