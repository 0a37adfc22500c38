"""Decoding by transformers' own loop, for models that cannot be decoded from slots.

Prompts are padded on the left, shortest first; where that changes a model's logits (recurrent models that know no mask,
say), only prompts of one length share a batch. Nothing of the model's generation configuration is used but its
end-of-sequence tokens: a repetition penalty, say, is no greedy decoding.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from .. import processes
from .decoding import Begun, Counts, Finished, Pick, likeliest
from .endings import Endings, StopStrings, until
from .form import alike
from .load import Loaded
from .sharding import device_of, is_sharded


@dataclass(frozen=True)
class Picked:
    """A processor of logits, for transformers' loop: leaves of each row nothing but the token that is picked."""

    pick: Pick
    rows: Sequence[Begun]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return logits (B, V) of which the picked token of each row is the likeliest."""
        longest = max(row.length for row in self.rows)
        tokens = self.pick(scores, self.rows, input_ids[:, longest:].tolist())
        return torch.full_like(scores, -torch.inf).scatter_(1, torch.tensor(tokens, device=scores.device)[:, None], 0.0)


@dataclass(frozen=True)
class Watched:
    """A stopping criterion, for transformers' loop: tells of each row whether a stop string is in it."""

    strings: StopStrings
    rows: Sequence[Begun]
    sizes: dict[int, int] = field(default_factory=dict)
    """Place of a row -> its new tokens when its first stop string was complete."""

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        """Return (B,) bool, told the tokens (B, T) of all rows so far; looks at the last ones of those that go on."""
        longest = max(row.length for row in self.rows)
        for place, tokens in enumerate(input_ids[:, longest:].tolist()):
            if place not in self.sizes and self.strings.end_with(self.rows[place].answer, tokens):
                self.sizes[place] = len(tokens)
        return torch.tensor([place in self.sizes for place in range(len(self.rows))], device=input_ids.device)


def decode_padded(
    loaded: Loaded,
    begun: Sequence[Begun],
    batch_size: int,
    ends: Endings,
    finished: Finished,
    counts: Counts,
    *,
    pick: Pick = likeliest,
) -> None:
    """Decode all answers that are begun, which every process must name alike; each tells of its own."""
    model = loaded.model
    batches, stops = _batches(loaded, begun, batch_size), sorted(ends.tokens)
    for together in processes.rounds(batches):
        share = processes.own(together)
        if share is None and not is_sharded(model):
            continue
        chosen = share or batches[0]  # weights are gathered by all: one without rows keeps step with the others
        longest = max(row.length for row in chosen)
        settings = _greedy(max(row.most for row in chosen), stops)
        processors = [] if pick is likeliest else [Picked(pick, chosen)]
        watched = Watched(ends.strings, chosen)
        criteria = [watched] if ends.strings.strings else []
        rows = _continue(model, chosen, settings, processors, criteria)[:, longest:].tolist()
        for place, (row, new) in enumerate(zip(share or [], rows, strict=share is not None)):
            size = watched.sizes.get(place, row.most + 1)
            found, is_closed = until(new[: min(size, row.most)], ends.tokens)
            counts.new_tokens += len(found) + is_closed
            finished(row, found, is_closed or len(found) == size)
        if share:
            counts.read_in([row.length for row in chosen])
            counts.steps += len(rows[0]) - 1
            counts.row_steps += (len(rows[0]) - 1) * len(chosen)


def _batches(loaded: Loaded, begun: Sequence[Begun], batch_size: int) -> list[Sequence[Begun]]:
    """Return batches, the shortest first.

    What leaves the others no positions for a whole answer, and would cut theirs short, stands alone.
    """
    order = sorted(begun, key=lambda row: row.length)
    most = max(row.most for row in order)
    bound = sys.maxsize if loaded.position_limit is None else loaded.position_limit + 1 - most
    together = [row for row in order if row.length <= bound]
    batches = _chunks(together, batch_size)
    gaps = [batch[-1].length - batch[0].length for batch in batches]
    if any(gaps):
        widest = batches[gaps.index(max(gaps))]
        if not _bears_padding(loaded.model, widest[0], widest[-1]):
            alike_ones = (list(same) for _, same in groupby(together, key=lambda row: row.length))
            batches = [chunk for same in alike_ones for chunk in _chunks(same, batch_size)]
    return [*batches, *([row] for row in order if row.length > bound)]


def _chunks(order: Sequence[Begun], size: int) -> list[Sequence[Begun]]:
    return [order[first : first + size] for first in range(0, len(order), size)]


def _bears_padding(model: Any, short: Begun, long: Begun) -> bool:
    """Return whether `short` gets the same logits when it is padded to the length of `long` as by itself.

    Two tokens tell: the first comes from the prompt, the second from the cache.
    """
    settings = _greedy(2, [])
    settings.update(output_logits=True, return_dict_in_generate=True)
    padded, alone = (_continue(model, rows, settings) for rows in ([short, long], [short]))
    pairs = zip(padded.logits, alone.logits, strict=True)
    return all(alike(found[:1], expected, model.dtype) for found, expected in pairs)


def _continue(
    model: Any,
    chosen: Sequence[Begun],
    settings: Any,
    processors: Sequence[Picked] = (),
    criteria: Sequence[Watched] = (),
) -> Any:
    """Return what the model generates: prompts, padded to the longest, and the tokens behind."""
    from transformers import LogitsProcessorList, StoppingCriteriaList

    longest = max(row.length for row in chosen)
    ids = torch.full((len(chosen), longest), settings.pad_token_id)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(chosen):
        ids[i, longest - row.length :] = torch.from_numpy(row.tokens)
        mask[i, longest - row.length :] = 1
    device, together = device_of(model), is_sharded(model) and processes.count() > 1
    with _configured(model, settings):
        return model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            generation_config=settings,
            logits_processor=LogitsProcessorList(processors),
            stopping_criteria=StoppingCriteriaList(criteria),
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


def _greedy(max_new_tokens: int, stops: Sequence[int]) -> Any:
    from transformers import GenerationConfig

    settings = {"max_new_tokens": max_new_tokens, "eos_token_id": [*stops] or None, "pad_token_id": _pad(stops)}
    return GenerationConfig(do_sample=False, num_beams=1, **settings)  # type: ignore[no-untyped-call]


def _pad(stops: Sequence[int]) -> int:
    """Return a token for places that nobody reads: masked ones, and those behind an end."""
    return stops[0] if stops else 0
