"""Greedy answers, from the prompt's tokens as they stand in the whole conversation."""

from collections.abc import Callable, Sequence
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

    Prompts are padded on the left, shortest first. `advance` is told how many examples are done.
    """
    order = sorted(range(len(examples)), key=lambda i: examples[i].prompt_length)
    texts = [""] * len(examples)
    stops = _stops(model, tokenizer, examples)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (stops[0] if stops else 0)
    for first in range(0, len(order), batch_size):
        chosen = order[first : first + batch_size]
        rows = _continue(model, [examples[i] for i in chosen], max_new_tokens, stops, pad)
        for i, row in zip(chosen, rows, strict=True):
            texts[i] = tokenizer.decode(_until(row, stops), skip_special_tokens=True).strip()
        advance(len(chosen))
    return texts


def _continue(
    model: Any, examples: Sequence[Encoded], max_new_tokens: int, stops: list[int], pad: int
) -> list[list[int]]:
    longest = max(example.prompt_length for example in examples)
    ids = torch.full((len(examples), longest), pad)
    mask = torch.zeros_like(ids)
    for i, example in enumerate(examples):
        length = example.prompt_length
        ids[i, longest - length :] = torch.from_numpy(example.input_ids[:length].copy())
        mask[i, longest - length :] = 1
    with torch.inference_mode():
        generated = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=_greedy(max_new_tokens, stops, pad),
        )
    rows: list[list[int]] = generated[:, longest:].tolist()
    return rows


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
