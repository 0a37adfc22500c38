"""How a model's logits may be read: decided once, on a text of the run, before anything is measured.

The head is shown the scored positions alone. That is right where a logit depends on its own position's hidden state and
on nothing else; whether it does is seen by comparing with the model's own logits of all positions. Signals are computed
inside the head where what the model does behind it is nothing, a positive factor or a soft cap: that is measured, by
letting the head return known values, and the signals are compared with those of the plain form.
"""

import math
from typing import Any

import torch
from torch import Tensor

from ..data.batches import Batch, Share
from ..data.encode import Encoded
from ..errors import InputError
from .head import HEAD_SIGNALS, wide
from .layers import Projection
from .load import Loaded
from .sharding import device_of, forward_only
from .signals import Form, Needs, all_logits, read, scored_logits
from .source import first_line

TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest difference of two logits that are the same up to rounding, as a share of the largest logit.

Of float64 too, since attention computes its weights in float32 in some models.
"""
LONGEST = 256
"""Tokens of the text that is looked at; all logits of two such rows are held at once."""


def examine(loaded: Loaded, example: Encoded) -> None:
    """Find out whether the head may be shown scored positions alone; `loaded.form` and a note tell.

    Two rows are read: the first tokens of `example`, and half of them with padding behind. Raises InputError for a
    model that cannot read text alone, gives no logits, or reads from right to left too.
    """
    with forward_only(loaded.model):
        _examine(loaded, _probe(example).to(device_of(loaded.model)))


def _examine(loaded: Loaded, batch: Batch) -> None:
    model = loaded.model
    versions = [parameter._version for parameter in model.parameters()]
    whole = _whole_logits(model, batch)
    if versions != [parameter._version for parameter in model.parameters()]:
        raise InputError(
            f"the model ({type(model).__name__}) changes its own weights while it reads, so what is saved would not be "
            "what was trained; expected a model whose forward pass leaves them alone."
        )
    short = len(batch.input_ids[0]) // 2 or 1
    if not alike(whole[0, :short], whole[1, :short], model.dtype, most=True):
        raise InputError(
            f"the model ({type(model).__name__}) lets later tokens change the logits of earlier ones; expected a "
            "causal language model, which reads from left to right."
        )
    reason = _difference(model, batch, whole.flatten(0, 1)[batch.positions])
    loaded.form = Form(selects=reason is None)
    if reason is None:
        loaded.form = _fused(loaded, batch, whole) or loaded.form
    else:
        loaded.notes.append(
            f"the plain form is used: {type(model).__name__} {reason}, so the logits of all positions are computed, "
            "which takes more memory and time."
        )


def alike(found: Tensor, expected: Tensor, dtype: torch.dtype, most: bool = False) -> bool:
    """Return whether logits (N, V) that were computed in `dtype` are the same up to rounding.

    All rows are, or `most`, at least half of them: rounding can send a token to another expert, which changes its row.
    """
    scale = float(expected[expected.isfinite()].abs().amax()) if bool(expected.isfinite().any()) else 0.0
    near = torch.isclose(found, expected, rtol=0.0, atol=TOLERANCE[dtype] * scale, equal_nan=True).all(dim=-1)
    return bool(near.float().mean() >= (0.5 if most else 1.0))


def _probe(example: Encoded) -> Batch:
    """Return two rows that begin alike, the second half as long; every other position of the first is selected."""
    ids = torch.from_numpy(example.input_ids[:LONGEST].copy())
    input_ids = ids.repeat(2, 1)
    short = max(1, len(ids) // 2)
    input_ids[1, short:] = 0
    length = len(ids)
    row = torch.tensor([0] * len(range(0, length, 2)) + [1] * short)
    positions = torch.cat([torch.arange(0, length, 2), length + torch.arange(short)])
    share = Share(None, row, (example.id, example.id))
    return Batch({"input_ids": input_ids}, positions, input_ids.flatten()[positions], {"": share})


def _whole_logits(model: Any, batch: Batch) -> Tensor:
    try:
        logits = all_logits(model, batch)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a model does that wants more than text
        raise InputError(
            f"the model ({type(model).__name__}) cannot read tokens alone: {first_line(error)[:-1]}; expected a causal "
            "language model."
        ) from error
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else None
    if shape is None or len(shape) != 3 or shape[:2] != batch.input_ids.shape:
        found = "no logits" if shape is None else f"logits of shape {shape}"
        raise InputError(
            f"the model ({type(model).__name__}) gives {found} for {tuple(batch.input_ids.shape)} tokens; expected "
            "logits over the vocabulary for each token."
        )
    return logits


def _difference(model: Any, batch: Batch, expected: Tensor) -> str | None:
    """Return what differs when the head is shown selected positions alone, or None where nothing does."""
    calls: list[int] = []
    head = model.get_output_embeddings()
    hook = head.register_forward_hook(lambda *_: calls.append(1))
    try:
        selected = scored_logits(model, batch)
    except torch.OutOfMemoryError:
        raise
    except Exception:
        return "needs all positions in its head"
    finally:
        hook.remove()
    if not calls:
        return "does not call its head as a module"
    if selected.shape != expected.shape or not alike(selected, expected, model.dtype):
        return "gives other logits where its head is shown some positions alone"
    return None


EVERY = Needs(head=frozenset(HEAD_SIGNALS))
LARGE = 1e4
"""A value far beyond any soft cap, within the range of float16."""


def _fused(loaded: Loaded, batch: Batch, whole: Tensor) -> Form | None:
    """Return the form in which signals are computed inside the head, or None where that gives others than `whole`."""
    model = loaded.model
    form = _response(model, batch, whole) if bool(whole.isfinite().any()) else None
    if form is None:
        return None
    try:
        signals = read(model, batch, {"": EVERY}, loaded.vocabulary, form)[""].values
        one_by_one = {
            name: read(model, batch, {"": Needs(head=frozenset({name}))}, loaded.vocabulary, form)[""].values[name]
            for name in ("token_logp", "margin")
        }
    except torch.OutOfMemoryError:
        raise
    except Exception:  # a head of another kind
        return None
    expected = read(model, batch, {"": EVERY}, loaded.vocabulary, Form())[""].values
    scale = TOLERANCE[model.dtype] * float(whole[whole.isfinite()].abs().amax())
    pairs = [(found, expected[name]) for name, found in (*signals.items(), *one_by_one.items()) if name in CONTINUOUS]
    return form if all(torch.allclose(found, other, rtol=0.0, atol=scale) for found, other in pairs) else None


CONTINUOUS = ("token_logp", "margin")
"""Signals that differ by no more than the logits do; the others follow from the same logits."""


def _response(model: Any, batch: Batch, whole: Tensor) -> Form | None:
    """Return what the model does to its head's values, as a form that fuses; None where it is anything else.

    A large value tells the cap, another one the factor; then all of them must be what these two say. Values of float32
    are returned in a narrower model's place, since the factor could not be read off bfloat16.
    """
    shape, device = whole.shape, whole.device
    if torch.promote_types(whole.dtype, model.dtype) != whole.dtype:
        return None  # what it computes in float64 is rounded
    if shape[-1] != len(model.get_output_embeddings().weight):
        return None  # some columns are left out
    values = wide(torch.linspace(-8.0, 8.0, whole.numel(), dtype=wide(whole[:0]).dtype, device=device).view(shape))
    values[0, 0, 0], values[0, 0, 1] = LARGE, 4.0
    hook = model.get_output_embeddings().register_forward_hook(lambda *_: values.clone())
    try:
        found = all_logits(model, batch)
    finally:
        hook.remove()
    if found.shape != shape:
        return None
    bound, sample = found[0, 0, :2].tolist()
    if not 0 < sample < bound:
        return None
    is_linear = abs(bound / sample * 4.0 / LARGE - 1) < 0.01
    scale = (sample if is_linear else bound * math.atanh(sample / bound)) / 4.0
    scale = 1.0 if abs(scale - 1) < 1e-5 else scale
    form = Form(fuses=True, scale=scale, cap=None if is_linear else bound)
    expected = Projection((), None, form.scale, form.cap).shaped(values)
    pairs = [tensor.flatten(0, 1).to(values.dtype) for tensor in (found, expected)]
    for tensor in pairs:
        tensor[0, 0] = 0.0  # so large that any difference of the others would be small beside it
    largest = float(pairs[1].abs().amax())
    return form if torch.allclose(pairs[0], pairs[1], rtol=0.0, atol=1e-5 * largest) else None
