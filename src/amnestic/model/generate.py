"""Greedy answers, from the prompt's tokens as they stand in the whole conversation."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ..data.encode import Encoded


def generate(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Encoded],
    max_new_tokens: int,
    batch_size: int,
    advance: Callable[[int], None] = lambda rows: None,
) -> list[str]:
    """Return the greedy continuation of each example's prompt, cut at the end-of-sequence (or end-of-turn) token.

    Prompts are padded on the left, shortest first. Nothing of the model's generation configuration is used but its
    end-of-sequence tokens: a repetition penalty, say, is no greedy decoding. A text ends where the model knows no
    further position. `advance` is told how many examples are done.
    """
    texts = [""] * len(examples)
    stops = _stops(model, tokenizer, examples)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (stops[0] if stops else 0)
    room = (getattr(model.config.get_text_config(), "max_position_embeddings", None) or sys.maxsize) + 1
    for chosen in _batches(examples, batch_size, room - max_new_tokens):
        longest = max(examples[i].prompt_length for i in chosen)
        settings = _greedy(min(max_new_tokens, room - longest), stops, pad)
        rows = _continue(model, [examples[i] for i in chosen], settings)
        for i, row in zip(chosen, rows, strict=True):
            texts[i] = tokenizer.decode(_until(row, stops), skip_special_tokens=True).strip()
        advance(len(chosen))
    return texts


def _batches(examples: Sequence[Encoded], batch_size: int, longest: int) -> Iterator[list[int]]:
    """Yield indices in batches, the shortest prompt first; a prompt above `longest` tokens stands alone.

    Such a prompt leaves no positions for a whole answer, and would cut those of the others short.
    """
    order = sorted(range(len(examples)), key=lambda i: examples[i].prompt_length)
    together = sum(example.prompt_length <= longest for example in examples)
    for first in range(0, together, batch_size):
        yield order[first : min(first + batch_size, together)]
    yield from ([i] for i in order[together:])


def _continue(model: Any, examples: Sequence[Encoded], settings: Any) -> list[list[int]]:
    longest = max(example.prompt_length for example in examples)
    ids = torch.full((len(examples), longest), settings.pad_token_id)
    mask = torch.zeros_like(ids)
    for i, example in enumerate(examples):
        length = example.prompt_length
        ids[i, longest - length :] = torch.from_numpy(example.input_ids[:length].copy())
        mask[i, longest - length :] = 1
    with torch.inference_mode(), _configured(model, settings):
        generated = model.generate(
            input_ids=ids.to(model.device), attention_mask=mask.to(model.device), generation_config=settings
        )
    rows: list[list[int]] = generated[:, longest:].tolist()
    return rows


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
