"""Greedy answers, from the prompt's tokens as they stand in the whole conversation."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch

from .. import processes
from ..data.encode import Encoded
from .form import alike
from .sharding import device_of, forward_only, is_sharded


@dataclass(frozen=True)
class Generated:
    """A greedy answer."""

    tokens: np.ndarray
    """(n,) int64, without the one that ends it."""
    text: str
    has_ended: bool
    """The model ended it by itself."""


def generate(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Encoded],
    max_new_tokens: int,
    batch_size: int,
    agreed: Sequence[int] | None = None,
    keep: Callable[[dict[int, Generated]], None] = lambda found: None,
) -> list[Generated]:
    """Return the greedy continuation of each example's prompt, cut at the end-of-sequence (or end-of-turn) token.

    Prompts are padded on the left, shortest first; where that changes a model's logits (recurrent models that know no
    mask, say), only prompts of one length share a batch. Nothing of the model's generation configuration is used but
    its end-of-sequence tokens: a repetition penalty, say, is no greedy decoding. A text ends where the model knows no
    further position. Several processes share the work, and all return the whole; `advance` is told how many examples
    are taken up.
    """
    found: dict[int, Generated] = {}
    stops = _stops(model, tokenizer, examples)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (stops[0] if stops else 0)
    room = (getattr(model.config.get_text_config(), "max_position_embeddings", None) or sys.maxsize) + 1
    batches = [*_batches(model, examples, batch_size, room - max_new_tokens, pad)]
    for together in processes.rounds(batches):
        share = processes.own(together)
        if share is None and not is_sharded(model):
            continue
        chosen = share or batches[0]  # weights are gathered by all: one without rows keeps step with the others
        longest = max(examples[i].prompt_length for i in chosen)
        settings = _greedy(min(max_new_tokens, room - longest), stops, pad)
        rows = _continue(model, [examples[i] for i in chosen], settings)[:, longest:].tolist()
        new = {}
        for i, row in zip(share or [], rows, strict=share is not None):
            until = _until(row, stops)
            text = tokenizer.decode(until, skip_special_tokens=True).strip()
            new[i] = Generated(np.array(until, dtype=np.int64), text, len(until) < len(row))
        for part in processes.gathered(new):
            found |= part
            keep(part)
    return [found[i] for i in range(len(examples))]


def _batches(
    model: Any, examples: Sequence[Encoded], batch_size: int, longest: int, pad: int
) -> Iterator[Sequence[int]]:
    """Yield indices in batches, the shortest prompt first; a prompt above `longest` tokens stands alone.

    Such a prompt leaves no positions for a whole answer, and would cut those of the others short.
    """
    order = sorted(range(len(examples)), key=lambda i: examples[i].prompt_length)
    together = sum(example.prompt_length <= longest for example in examples)
    batches = _chunks(order[:together], batch_size)
    gaps = [examples[chosen[-1]].prompt_length - examples[chosen[0]].prompt_length for chosen in batches]
    if any(gaps):
        widest = batches[gaps.index(max(gaps))]
        if not _bears_padding(model, examples[widest[0]], examples[widest[-1]], pad):
            lengths = groupby(order[:together], key=lambda i: examples[i].prompt_length)
            batches = [chosen for _, alike in lengths for chosen in _chunks(list(alike), batch_size)]
    yield from batches
    yield from ([i] for i in order[together:])


def _chunks(order: Sequence[int], size: int) -> list[Sequence[int]]:
    return [order[first : first + size] for first in range(0, len(order), size)]


def _bears_padding(model: Any, short: Encoded, long: Encoded, pad: int) -> bool:
    """Return whether `short` gets the same logits when it is padded to the length of `long` as by itself.

    Two tokens tell: the first comes from the prompt, the second from the cache.
    """
    settings = _greedy(2, [], pad)
    settings.update(output_logits=True, return_dict_in_generate=True)
    padded, alone = (_continue(model, examples, settings) for examples in ([short, long], [short]))
    pairs = zip(padded.logits, alone.logits, strict=True)
    return all(alike(found[:1], expected, model.dtype) for found, expected in pairs)


def _continue(model: Any, examples: Sequence[Encoded], settings: Any) -> Any:
    """Return what the model generates: prompts, padded to the longest, and the tokens behind."""
    longest = max(example.prompt_length for example in examples)
    ids = torch.full((len(examples), longest), settings.pad_token_id)
    mask = torch.zeros_like(ids)
    for i, example in enumerate(examples):
        length = example.prompt_length
        ids[i, longest - length :] = torch.from_numpy(example.input_ids[:length].copy())
        mask[i, longest - length :] = 1
    device, together = device_of(model), is_sharded(model) and processes.count() > 1
    with forward_only(model), _configured(model, settings):
        return model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            generation_config=settings,
            synced_gpus=together,  # goes on as long as any process does
        )


@contextmanager
def _configured(model: Any, settings: Any) -> Iterator[None]:
    """Put `settings` in the place of the model's own, which would fill in whatever they leave open."""
    own, model.generation_config = model.generation_config, settings
    try:
        yield
    finally:
        model.generation_config = own


def _greedy(max_new_tokens: int, stops: list[int], pad: int) -> Any:
    from transformers import GenerationConfig

    settings = {"max_new_tokens": max_new_tokens, "eos_token_id": stops or None, "pad_token_id": pad}
    return GenerationConfig(do_sample=False, num_beams=1, **settings)  # type: ignore[no-untyped-call]


def _stops(model: Any, tokenizer: Any, examples: Sequence[Encoded]) -> list[int]:
    """Return the tokens that end an answer: the tokenizer's, the model's, and those that close these examples."""
    stops = {tokenizer.eos_token_id} | {int(example.input_ids[-1]) for example in examples if example.closes}
    configured = getattr(model.generation_config, "eos_token_id", None)
    stops |= set(configured) if isinstance(configured, list) else {configured}
    return sorted(token for token in stops if token is not None)


def _until(row: list[int], stops: list[int]) -> list[int]:
    ends = [i for i, token in enumerate(row) if token in stops]
    return row[: ends[0]] if ends else row
