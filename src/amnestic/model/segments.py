"""Attention within the segments of packed rows, by transformers' own interface for attention functions.

``T`` positions of several rows, one behind the other; ``H`` heads.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import AttentionInterface

from ..data.batches import HOST_BOUNDARIES, SEGMENT_PLACES, SEGMENT_ROWS

NAME = "amnestic_segments"
"""What the function is registered as; no mask is registered under it, so that none is built."""
UNKNOWN = ("softcap", "s_aux", "position_bias", "head_mask")
"""Arguments that change attention in a way that is not done here: a model that gives one is padded."""

_configurations: WeakKeyDictionary[Any, list[Any]] = WeakKeyDictionary()


@contextmanager
def segmented(model: Any, on: bool = True) -> Iterator[None]:
    """Let `model` attend within segments for as long as the context lasts, then as before.

    Rows that come without boundaries are causal each by itself. Whatever computes activations again in a backward pass
    must do so within the context too. Nothing of it is saved with the model.
    """
    if not on:
        yield
        return
    with configured(model, NAME):
        yield


@contextmanager
def configured(model: Any, name: str) -> Iterator[None]:
    """Let the modules of `model` take their attention by `name` for as long as the context lasts, then as before."""
    found = _configurations_of(model)
    before = [configuration._attn_implementation_internal for configuration in found]
    try:
        for configuration in found:
            configuration._attn_implementation_internal = name
        yield
    finally:
        for configuration, implementation in zip(found, before, strict=True):
            configuration._attn_implementation_internal = implementation


@contextmanager
def attending() -> Iterator[set[int]]:
    """Yield a set that fills with the identities of the modules that attend within segments."""
    modules: set[int] = set()

    def watched(module: Any, *arguments: Any, **settings: Any) -> tuple[Tensor, None]:
        modules.add(id(module))
        return attend(module, *arguments, **settings)

    AttentionInterface.register(NAME, watched)
    try:
        yield modules
    finally:
        AttentionInterface.register(NAME, attend)


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Return causal attention within each segment, (1, T, H, D), from heads (1, H, T, D); there is no dropout.

    The boundaries are in `settings`, as `data.batches.pack` gives them; so may be a sliding window, and the positions
    of segments that share some (`data.trees`). Raises TypeError for attention of another kind.
    """
    refuse_other(module, attention_mask, settings)
    window = settings.get("sliding_window")
    boundaries, on_host = settings.get("cu_seq_lens_q"), settings.get(HOST_BOUNDARIES)
    if boundaries is None or on_host is None:
        return causal(query, key, value, scaling, window).transpose(1, 2).contiguous(), None
    if (shared := settings.get(SEGMENT_ROWS)) is not None:
        query, key, value = (heads.index_select(2, shared) for heads in (query, key, value))
        own = {**settings, SEGMENT_ROWS: None}
        found, _ = attend(module, query, key, value, attention_mask, scaling, **own)
        return found.index_select(1, settings[SEGMENT_PLACES]), None
    if (kernel := _kernel(query)) is not None:
        rows = [heads[0].transpose(0, 1) for heads in (query, key, value)]
        longest = settings["max_length_q"]
        found = kernel(
            *rows,
            boundaries,
            boundaries,
            longest,
            longest,
            scale=scaling,
            window_size=(-1 if window is None else window - 1, 0),
            enable_gqa=query.shape[1] != key.shape[1],
        )
        return found.unsqueeze(0), None
    return _by_length(query, key, value, on_host, scaling, window), None


AttentionInterface.register(NAME, attend)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _by_length(
    query: Tensor, key: Tensor, value: Tensor, boundaries: Tensor, scaling: float | None, window: int | None
) -> Tensor:
    """Return attention within segments, neighbours of one length at once: no product crosses a boundary.

    Not traced by torch.compile, which would do so again for every cut.
    """
    runs = [(length, len([*same])) for length, same in groupby(boundaries.diff().tolist())]
    sizes = [length * count for length, count in runs]
    parts = []
    for (length, count), *heads in zip(runs, *(_split(h, sizes) for h in (query, key, value)), strict=True):
        rows = [part[0].unflatten(1, (count, length)).transpose(0, 1) for part in heads]
        parts.append(causal(rows[0], rows[1], rows[2], scaling, window).transpose(1, 2).flatten(0, 1))
    return torch.cat(parts).unsqueeze(0)


def _split(heads: Tensor, sizes: Sequence[int]) -> Sequence[Tensor]:
    """Return parts of heads (1, H, T, D); their gradients are joined once, where slices would add up."""
    return heads.split(sizes, dim=2)  # type: ignore[no-untyped-call, no-any-return]


def causal(query: Tensor, key: Tensor, value: Tensor, scaling: float | None, window: int | None) -> Tensor:
    """Return causal attention of rows (n, H, L, D), each position looking at no more than `window` ones."""
    length = query.shape[2]
    mask = None
    if window is not None and window < length:
        distance = torch.arange(length, device=query.device)
        distance = distance[:, None] - distance
        mask = (distance >= 0) & (distance < window)
    return torch.nn.functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _kernel(query: Tensor) -> Callable[..., Any] | None:
    """Return torch's attention for rows of various lengths, where there is one: on NVIDIA GPUs, in 16 bits."""
    if query.device.type != "cuda" or query.dtype not in (torch.bfloat16, torch.float16):
        return None
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:  # an older torch
        return None
    return varlen_attn


def refuse_other(module: Any, mask: Tensor | None, settings: dict[str, Any]) -> None:
    """Raise TypeError for attention that is not causal alone: with a mask of its own, or arguments that are UNKNOWN."""
    given = [name for name in UNKNOWN if settings.get(name) is not None]
    is_causal = settings.get("is_causal")
    if mask is not None or given or not (getattr(module, "is_causal", True) if is_causal is None else is_causal):
        raise TypeError(f"{type(module).__name__} attends with {', '.join(given) or 'a mask of its own'}")


def _configurations_of(model: Any) -> list[Any]:
    """Return the configurations that the modules of `model` read their attention from, each once."""
    if model not in _configurations:
        found = {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}
        _configurations[model] = [c for c in found.values() if hasattr(c, "_attn_implementation_internal")]
    return _configurations[model]
