"""What a run needs of a machine, counted from the shape of its model before anything is loaded.

D is the width of the model, L the number of its blocks, F the width of their feed-forward part.
"""

from dataclasses import dataclass
from typing import Any, Self

from ..config import UnlearnConfig

STATE_BYTES = 16
"""Of a trained parameter: bfloat16 weight and gradient, float32 master, and Adam's two moments in float32."""
HALF = 2
"""Bytes of a bfloat16 number."""
GPU_BYTES = 80e9
"""Memory of the GPU that runs are counted in."""
USABLE = 0.9
"""Share of it that a run can fill."""
LONGEST = {"tofu": 256}
"""Tokens of a benchmark's longest row with its template, rounded up; a corpus fills its chunks."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The sizes of a decoder with gated feed-forward blocks and no biases, as Llama and Gemma are."""

    label: str
    vocabulary: int
    width: int
    blocks: int
    query_width: int
    """Heads times the width of one."""
    key_width: int
    """The same of the heads of keys, and of values."""
    feed_forward: int
    is_tied: bool
    """Whether the embedding is the head too."""

    @property
    def parameters(self) -> int:
        """Return how many numbers are trained."""
        attention = 2 * self.width * (self.query_width + self.key_width)
        block = attention + 3 * self.width * self.feed_forward + 2 * self.width
        embeddings = (1 if self.is_tied else 2) * self.vocabulary * self.width
        return embeddings + self.blocks * block + self.width

    def activation_bytes(self, checkpointing: bool) -> int:
        """Return what a token leaves behind for the backward pass, in bfloat16 and without the head.

        Some 16 D + 4 F numbers a block; with activation checkpointing what enters each block, and the inside of one.
        """
        block = 16 * self.width + 4 * self.feed_forward
        return HALF * (self.blocks * self.width + block if checkpointing else self.blocks * block)


@dataclass(frozen=True)
class Demand:
    """What one run needs."""

    shape: Shape
    weights_bytes: int
    """A model in bfloat16, as it is downloaded."""
    activation_bytes: int
    """Of the largest forward pass."""

    @classmethod
    def of(cls, config: UnlearnConfig, shape: Shape) -> Self:
        """Return what `config` needs with a model of this shape."""
        kind = (config.data.benchmark or "").partition(":")[0]
        tokens = config.training.per_device_train_batch_size * LONGEST.get(kind, config.data.max_length)
        each = shape.activation_bytes(config.training.gradient_checkpointing)
        return cls(shape, HALF * shape.parameters, tokens * each)

    @property
    def memory_bytes(self) -> int:
        """Return the memory of one GPU that holds all of it."""
        return STATE_BYTES * self.shape.parameters + self.activation_bytes

    @property
    def gpus(self) -> int:
        """Return how many GPUs of `GPU_BYTES` hold it with ``--fsdp``, which spreads all but activations."""
        room = USABLE * GPU_BYTES - self.activation_bytes
        return max(1, -int(-STATE_BYTES * self.shape.parameters // room))

    def facts(self, models: int) -> dict[str, Any]:
        """Return it by name, with what `models` of this size are to download."""
        return {
            "architecture": self.shape.label,
            "parameters": self.shape.parameters,
            "download_bytes": models * self.weights_bytes,
            "memory_bytes": self.memory_bytes,
            "gpus_of_80_gb": self.gpus,
        }
