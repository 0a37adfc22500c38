"""Whether a model may read packed rows: found out before the first step, on the run's own rows.

A model qualifies by what it is (no state besides attention, every layer's attention taken from transformers'
interface), and by what it does: a pack gives the logits of its rows one by one. The longest row is among them, so that
whatever begins at some length is seen.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import processes
from ..data.batches import pack, pad
from ..data.cuts import runs
from ..data.encode import Encoded, lengths
from .form import alike
from .load import Loaded
from .segments import attending
from .sharding import device_of, forward_only
from .signals import scored_logits
from .source import first_line

LAYERS = {"full_attention", "sliding_attention", "attention"}
"""Kinds of layers that attend, and do nothing else across positions."""
EDGE = 8
"""Positions that are compared at each end of a row: a neighbour shows at the first ones, a window at the last."""
OTHERS = 5
"""Rows of a split that are read besides the longest, of lengths evenly spread."""


def examine_packing(loaded: Loaded, splits: Sequence[Sequence[Encoded]]) -> None:
    """Find out whether rows of `splits` may be packed for the model; `loaded.form` tells, and a note where not."""
    reason = other_kind(loaded.model)
    if reason is None:
        with forward_only(loaded.model):
            reason = _difference(loaded, _sample(splits))
    reason = next((found for found in processes.gathered(reason) if found is not None), None)
    loaded.form = replace(loaded.form, packs=reason is None)
    if reason is not None:
        loaded.notes.append(f"examples are padded, not packed: {type(loaded.model).__name__} {reason}.")


def other_kind(model: Any) -> str | None:
    """Return why a model does more than attend, by what it says of itself; None where nothing speaks for it."""
    config: Any = getattr(model, "config", None)
    text: Any = config.get_text_config() if hasattr(config, "get_text_config") else None
    if text is None or not getattr(type(model), "_supports_attention_backend", False):
        return "does not take its attention from transformers' interface"
    layers = {*(getattr(text, "layer_types", None) or [])}
    if getattr(type(model), "_is_stateful", False) or layers - LAYERS:
        return "has layers that are no plain attention"
    if getattr(config, "is_encoder_decoder", False):
        return "has an encoder"
    return None


def _difference(loaded: Loaded, rows: Sequence[Encoded]) -> str | None:
    """Return what differs where `rows`, the longest first, are packed, or None where nothing does.

    No pack is longer than two of the longest, whatever memory a step may take.
    """
    model, form = loaded.model, loaded.form
    device = device_of(model)
    expected = [scored_logits(model, pad("", [row]).to(device), form) for row in rows]
    sizes = [len(row.input_ids) for row in rows]
    packs = [pack([("", rows[i]) for i in run]) for run in runs(range(len(rows)), sizes, 2 * sizes[0])]
    try:
        with attending() as modules:
            packed = torch.cat([scored_logits(model, batch.to(device), form) for batch in packs])
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a model does with arguments that it does not know
        return f"cannot read several examples in one row ({first_line(error)[:-1]})"
    if len(modules) != model.config.get_text_config().num_hidden_layers:
        return "does not take every layer's attention from transformers' interface"
    most = has_experts(model)
    found = torch.split(packed, [len(logits) for logits in expected])
    if not all(_same(own, other, model.dtype, most) for own, other in zip(found, expected, strict=True)):
        return "gives other logits where several examples share a row"
    return None


def _same(found: Tensor, expected: Tensor, dtype: torch.dtype, most: bool) -> bool:
    """Return whether the logits of one row are the same up to rounding, at either end."""
    ends = (slice(None, EDGE), slice(-EDGE, None))
    return all(alike(found[end], expected[end], dtype, most) for end in ends)


def has_experts(model: Any) -> bool:
    """Return whether rounding can send a token to another expert, which changes its row."""
    text = model.config.get_text_config()
    return any(getattr(text, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts"))


def _sample(splits: Sequence[Sequence[Encoded]]) -> list[Encoded]:
    """Return some rows of all splits, the longest first, marked at both ends; at least two."""
    chosen: list[Encoded] = []
    for examples in splits:
        order = np.argsort(-lengths(examples), kind="stable")
        places = np.unique(np.linspace(0, len(order) - 1, OTHERS + 1).round().astype(int))
        chosen += [examples[i] for i in order[places].tolist()]
    if len(chosen) == 1:
        chosen += [_begun(chosen[0])]
    return sorted((_marked(row) for row in chosen), key=lambda row: -len(row.input_ids))


def _begun(row: Encoded) -> Encoded:
    """Return the first half of a row."""
    half = -(-len(row.input_ids) // 2) + 1
    return replace(row, input_ids=row.input_ids[:half], is_scored=row.is_scored[:half], is_span=None)


def _marked(row: Encoded) -> Encoded:
    """Return a row whose tokens are scored at both ends, all but the very first."""
    is_scored = np.zeros(len(row.input_ids), dtype=bool)
    is_scored[1 : 1 + EDGE] = True
    is_scored[max(1, len(is_scored) - EDGE) :] = True
    return replace(row, is_scored=is_scored, is_span=None)
