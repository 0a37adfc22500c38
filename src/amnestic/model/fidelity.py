"""Whether a merged and saved model computes what the adapter did on top of its base model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import RunError
from .load import Loaded
from .sharding import device_of, forward_only

RELOAD_TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 3e-2, "float16": 3e-3}
"""Largest difference between the live and the reloaded model's loss on an example, in nats a token."""
MERGE_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Precision that a merged model is saved or computed in, the coarser -> how far its logits may be from those before.

The root mean square of the differences as a share of that of the logits. Rounding to bfloat16 moves a weight by up to
1/512 of itself.
"""
SAMPLED = 4
"""Examples whose logits are compared."""
LONGEST = 256
"""Tokens of each: the logits of all are held at once."""


@dataclass(frozen=True)
class Sample:
    """The logits of some rows, before the adapter was merged."""

    rows: list[Tensor]
    """Token ids (T,)."""
    logits: list[Tensor]
    """Logits (T, V) of each, in the host's memory."""

    @classmethod
    def of(cls, loaded: Loaded, rows: Sequence[np.ndarray]) -> "Sample":
        """Return the logits of the first tokens of `rows` under the model as it stands."""
        ids = [torch.from_numpy(row[:LONGEST].copy()) for row in rows]
        return cls(ids, [_logits(loaded.model, row) for row in ids])

    def refuse_other(self, saved: Loaded, path: Path) -> float:
        """Return how far the model that was loaded from `path` is from these logits, as MERGE_TOLERANCE measures it.

        Raises RunError where that is more than rounding explains.
        """
        found = [_logits(saved.model, row) for row in self.rows]
        distance = sum(float((a.double() - b.double()).square().sum()) for a, b in zip(found, self.logits, strict=True))
        size = sum(float(logits.double().square().sum()) for logits in self.logits)
        difference = math.sqrt(distance / max(size, 1e-30))
        most = max(MERGE_TOLERANCE[dtype] for dtype in (saved.saved_dtype, saved.model.dtype))
        if not difference <= most:
            raise RunError(
                f"the merged model in {path} gives other logits than the adapter on its base model: they differ by "
                f"{difference:.2g} of their size, and rounding explains at most {most:g}; save the adapter itself "
                "(without --merge), or give a base model in float32.",
                is_shared=True,
            )
        return difference


def _logits(model: Any, row: Tensor) -> Tensor:
    with forward_only(model):
        logits: Tensor = model(input_ids=row[None].to(device_of(model)), use_cache=False).logits
    return logits[0].float().cpu() if logits.dtype != torch.float64 else logits[0].cpu()
