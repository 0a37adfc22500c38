"""Options of the training loop, named as in transformers.TrainingArguments; nothing heavy is imported here."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from ..errors import InputError

PAGED = "paged_"
"""What the names of optimisers begin with whose state cannot be restored."""


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """The optimiser, its schedule, and how a step is cut."""

    indifferent: ClassVar[frozenset[str]] = frozenset(
        {
            "per_device_train_batch_size",
            "gradient_accumulation_steps",
            "max_tokens_per_batch",
            "gradient_checkpointing",
            "logging_steps",
            "torch_compile",
            "torch_compile_backend",
        }
    )
    """Options that a resumed run may change; of the first two their product counts."""

    learning_rate: float = 1e-5
    """Peak learning rate."""
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "constant_with_warmup"
    """Course of the learning rate after the warm-up; a decay to 0 stops before the bound is reached."""
    warmup_epochs: float = 1.0
    """Epochs over which the learning rate rises from 0; not used with --warmup_steps or the constant schedule."""
    warmup_steps: int | None = None
    """The same in optimiser steps [default: --warmup_epochs]."""
    num_train_epochs: float = 10.0
    """Passes over the data to learn or to forget."""
    max_steps: int | None = None
    """Optimiser steps, in place of --num_train_epochs [default: none]."""
    per_device_train_batch_size: int = 4
    """Examples of each split that memory holds in one forward pass; shorter ones fill it in greater number."""
    gradient_accumulation_steps: int = 4
    """Optimiser step = this many times --per_device_train_batch_size examples of each split."""
    max_tokens_per_batch: int | None = None
    """Most tokens in one forward pass, padding included; a longer example stands alone. It changes memory and speed
    alone [default: what the longest --per_device_train_batch_size examples have together]."""
    optim: Literal["adamw_torch", "adamw_torch_fused", "sgd", "paged_adamw_32bit", "paged_adamw_8bit"] = "adamw_torch"
    """Optimiser; the paged ones need bitsandbytes (pip install 'amnestic[bitsandbytes]')."""
    adam_beta1: float = 0.9
    """Decay rate of the first moment (momentum of sgd)."""
    adam_beta2: float = 0.999
    """Decay rate of the second moment."""
    adam_epsilon: float = 1e-8
    """Added to the denominator of the update."""
    weight_decay: float = 0.01
    """Decoupled weight decay of all matrices; biases and norms have none."""
    max_grad_norm: float = 1.0
    """Norm to which gradients are clipped; 0: not clipped."""
    master_weights: bool = True
    """Keep float32 copies of bfloat16 weights for the optimiser; without, most small updates are lost to rounding."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, about a third more time."""
    torch_compile: bool = False
    """Compile the model's blocks (torch.compile): faster steps after some minutes of compiling, on a GPU above all."""
    torch_compile_backend: str = "inductor"
    """Backend of --torch_compile."""
    seed: int = 42
    """Seed of the data order and of new weights."""
    logging_steps: int = 1
    """Optimiser steps between two records in train.jsonl."""

    def __post_init__(self) -> None:
        """Raise InputError for values that no run could use."""
        positive = ("learning_rate", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps")
        for name in (*positive, "adam_epsilon", "logging_steps"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"--{name} is {getattr(self, name)}; expected a finite number above 0.")
        for name in ("warmup_epochs", "warmup_steps", "weight_decay", "max_grad_norm", "seed"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise InputError(f"--{name} is {value}; expected a finite number of at least 0.")
        for name in ("adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"--{name} is {getattr(self, name)}; expected a number from 0 to below 1.")
        if self.max_tokens_per_batch is not None and self.max_tokens_per_batch < 1:
            raise InputError(f"--max_tokens_per_batch is {self.max_tokens_per_batch}; expected at least 1 token.")
        if self.max_steps is not None and self.max_steps < 1:
            raise InputError(f"--max_steps is {self.max_steps}; expected at least 1 step.")

    @property
    def is_resumable(self) -> bool:
        """Return whether a run can go on from a checkpoint: bitsandbytes does not restore its paged state."""
        return not self.optim.startswith(PAGED)


@dataclass(frozen=True, kw_only=True)
class UnlearnTraining(TrainingOptions):
    """Training under a retention: the paper's settings for TOFU (arXiv:2506.05314), per process.

    One departure: the rate stays constant after the warm-up, as in the paper's MUSE runs (docs/architecture.md).
    """

    retain_per_forget: int = 1
    """Random retain examples for each forget example."""

    def __post_init__(self) -> None:
        """Raise InputError for values that no run could use."""
        super().__post_init__()
        if self.retain_per_forget < 1:
            raise InputError(f"--retain_per_forget is {self.retain_per_forget}; expected at least 1 example.")


@dataclass(frozen=True, kw_only=True)
class FinetuneTraining(TrainingOptions):
    """Plain training: the settings of TOFU's target models (arXiv:2401.06121)."""

    num_train_epochs: float = 5.0
    """Passes over the data."""
    gradient_accumulation_steps: int = 8
    """Optimiser step = this many times --per_device_train_batch_size examples."""


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """When a run's state is written, and whether a run goes on from one."""

    indifferent: ClassVar[frozenset[str]] = frozenset({"save_steps", "save_total_limit", "resume_from_checkpoint"})

    save_steps: int | None = None
    """Optimiser steps between two checkpoints; 0: only on interruption and after the last step, which always write one
    [default: those that end ten minutes after the checkpoint before]."""
    save_total_limit: int = 1
    """Checkpoints that are kept, the newest."""
    resume_from_checkpoint: str | None = None
    """latest (of --output_dir; without one the run starts anew), or the path of a checkpoint [default: start anew]."""

    def __post_init__(self) -> None:
        """Raise InputError for values that no run could use."""
        if self.save_steps is not None and self.save_steps < 0:
            raise InputError(f"--save_steps is {self.save_steps}; expected at least 0 steps.")
        if self.save_total_limit < 1:
            raise InputError(f"--save_total_limit is {self.save_total_limit}; expected at least 1 checkpoint.")
        if self.resume_from_checkpoint == "":
            raise InputError("--resume_from_checkpoint is empty; expected latest, or the path of a checkpoint.")
