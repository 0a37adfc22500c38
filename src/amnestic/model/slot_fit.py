"""Whether a model's answers can be decoded from slots, and what they share be read in once.

Found out before the first token, on the answers that are to be decoded. ``V`` vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import processes
from ..data.trees import common
from .decoding import Begun, Counts, Decoding
from .endings import Endings
from .form import alike
from .load import Loaded
from .packing import has_experts, other_kind
from .source import first_line

LENGTH_DEPENDENT = ("dynamic", "longrope")
"""Kinds of rotary embeddings that depend on the length of what is read."""
STEPS = 2
"""Passes of one token that are compared with the model's own."""
LEAST_SHARED = 16
"""Tokens of the shortest beginning that is read in by itself: that takes a pass of its own, whatever it saves."""


@dataclass(frozen=True)
class Fit:
    """Whether a model's answers can be decoded here."""

    reason: str | None
    """Why not, as a clause."""
    token_bytes: int = 0
    """Bytes that a slot takes a position, over all layers."""
    shared: int = 0
    """Tokens that all answers begin with, and that may be read in once."""
    apart: str | None = None
    """Why they may not be, though all answers begin alike, as a clause."""


def examine_decoding(loaded: Loaded, begun: Sequence[Begun], limit: int) -> Fit:
    """Find out whether the model's answers can be decoded here.

    The shortest and the longest are read in together, behind what all share, and go on by some tokens: the logits must
    be those of either by itself, in the model's own form. `limit` is the number of positions that the model knows.
    """
    fit = Fit(other_kind(loaded.model))
    if fit.reason is None and _turns_otherwise(loaded.model, max(row.final for row in begun)):
        fit = Fit("tells positions otherwise in longer texts, and so to shorter ones beside them")
    if fit.reason is None:
        ordered = sorted(begun, key=lambda row: row.length)
        rows = [replace(row, tokens=row.tokens[: max(1, limit - STEPS)]) for row in (ordered[0], ordered[-1])]
        shared = min(shared_tokens(begun), rows[0].length - 1)
        fit = _tried(loaded, rows, shared)
        if fit.reason is not None and shared:
            fit = replace(_tried(loaded, rows, 0), apart=fit.reason)
    return fit


def shared_tokens(begun: Sequence[Begun]) -> int:
    """Return how many tokens all answers begin with that are read in once: none where they are few.

    Each answer goes on behind them by one token at least.
    """
    shortest = min(begun, key=lambda row: row.length).tokens[:-1]
    found = min(common(shortest, row.tokens) for row in begun)
    return found if found >= LEAST_SHARED and len(begun) > processes.count() else 0


def _tried(loaded: Loaded, rows: Sequence[Begun], shared: int) -> Fit:
    """Return whether `rows` can be decoded from slots with `shared` tokens in common; the same on all processes."""
    try:
        fit = _compare(loaded, rows, shared)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a model does with a cache that it does not know
        fit = Fit(f"cannot go on from slots ({first_line(error)[:-1]})")
    return next((found for found in processes.gathered(fit) if found.reason is not None), fit)


def _compare(loaded: Loaded, rows: Sequence[Begun], shared: int) -> Fit:
    model, text = loaded.model, loaded.model.config.get_text_config()
    trial = Decoding(loaded, Endings(), lambda *_: None, Counts(), beginning=rows[0].tokens[:shared])
    tokens = [int(row.tokens[0]) for row in rows]
    expected = [
        _own_logits(trial, np.append(row.tokens, [token] * STEPS)) for row, token in zip(rows, tokens, strict=True)
    ]
    with trial.slots.attending(model):
        if shared:
            trial.read_beginning()
        found = [trial.read_in(rows)]
        found += [trial.go_on(tokens) for _ in range(STEPS)]
    if len(trial.slots.attended) != text.num_hidden_layers:
        return Fit("does not take every layer's attention from transformers' interface")
    if len(trial.slots.windowed) != _windows(text):
        return Fit("does not say how far each layer looks back")
    pairs = zip(torch.stack(found, dim=1), expected, strict=True)
    if not all(alike(own, other, model.dtype, has_experts(model)) for own, other in pairs):
        return Fit("gives other logits where several answers go on together")
    return Fit(None, trial.slots.token_bytes, shared)


def _own_logits(trial: Decoding, tokens: np.ndarray) -> Tensor:
    """Return the logits that a text by itself has at its last positions, (1 + STEPS, V), without slots."""
    ids, last = torch.from_numpy(tokens)[None], torch.arange(len(tokens))[-1 - STEPS :]
    return trial.logits({"input_ids": ids.to(trial.device), "use_cache": False}, last)


def _windows(text: Any) -> int:
    """Return how many layers look at the last positions alone, by what a configuration says."""
    kinds = getattr(text, "layer_types", None)
    if kinds:
        return sum(kind == "sliding_attention" for kind in kinds)
    return int(text.num_hidden_layers) if getattr(text, "sliding_window", None) else 0


def _turns_otherwise(model: Any, positions: int) -> bool:
    """Return whether the longest text of a pass tells how the positions of all are told, at so many positions.

    So do rotary embeddings that know another form for longer texts than those that the model first learnt from.
    """
    found = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    nested = [part for part in found.values() if isinstance(part, dict)]
    return any(
        part.get("rope_type") in LENGTH_DEPENDENT
        and positions > (part.get("original_max_position_embeddings") or positions)
        for part in nested or [found]
    )
