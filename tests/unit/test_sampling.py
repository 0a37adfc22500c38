"""Tokens drawn by a seed, against a loop that knows no cache, no batch and no padding."""

import bisect
import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from amnestic.model import decoding
from amnestic.model import generate as module
from amnestic.model.decoding import Begun
from amnestic.model.generate import Settings, go_on
from amnestic.model.load import Loaded
from amnestic.model.sampling import Sampling, drawn, uniform
from amnestic.model.slot_fit import Fit

NEW = 10
LENGTHS = (3, 9, 1, 6, 9, 2, 5)
KNOWN = 300
"""Tokens that may be drawn, of the model's 320."""


def begun() -> list[Begun]:
    random = np.random.default_rng(0)
    return [Begun(i, random.integers(3, 300, n), n, NEW) for i, n in enumerate(LENGTHS)]


def names(seed: int = 0) -> list[str]:
    return [f"forget:{seed + i}" for i in range(len(LENGTHS))]


def naive(model: Any, tokens: Sequence[int], name: str, seed: int, barred: int | None) -> list[int]:
    """One token after the other, each from a pass over the whole text: inverse of the cumulative sum, in Python."""
    found: list[int] = []
    for place in range(NEW):
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([[*tokens, *found]]), use_cache=False).logits[0, -1].tolist()
        weights = [math.exp(value) for value in logits[:KNOWN]]
        if place == 0 and barred is not None:
            weights[barred] = 0.0
        digest = hashlib.blake2b(f"{seed} {place} {name}".encode(), digest_size=8).digest()
        point = int.from_bytes(digest, "big") / 2**64 * math.fsum(weights)
        found.append(bisect.bisect_right(np.cumsum(weights).tolist(), point))
    return found


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path]) -> Any:
    model = AutoModelForCausalLM.from_pretrained(tiny_model(tied=False, seed=3))
    model.generation_config.eos_token_id = None
    return model.eval()


@pytest.fixture(params=["slots", "padded"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "padded":
        monkeypatch.setattr(module, "examine_decoding", lambda *_: Fit("is refused"))
    return str(request.param)


def texts(model: Any, batch_size: int, stops: Sequence[int] = (), **options: Any) -> list[list[int]]:
    loaded = Loaded(model, None, torch.float32)
    tokenizer = SimpleNamespace(decode=lambda row, skip_special_tokens: " ".join(map(str, row)))
    settings = Settings(NEW, batch_size, pick=Sampling(**({"seed": 4, "vocabulary": KNOWN} | options)))
    return [answer.tokens.tolist() for answer in go_on(loaded, tokenizer, begun(), settings, stops)]


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_draws_are_those_of_a_loop_without_cache(
    model: Any, way: str, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many are drawn at once; the first token of one text, which would be drawn first, is barred."""
    monkeypatch.setattr(decoding, "MOST_ROWS", {"cpu": batch_size})
    free = [naive(model, row.tokens, name, 4, None) for row, name in zip(begun(), names(), strict=True)]
    barred = {3: free[3][0]}
    expected = [*free[:3], naive(model, begun()[3].tokens, names()[3], 4, free[3][0]), *free[4:]]
    assert texts(model, batch_size, names=names(), barred=barred) == expected
    assert expected[3][0] != free[3][0]
    assert len({token for tokens in expected for token in tokens}) > 20


def test_a_text_ends_with_the_token_that_ends_it(model: Any, way: str) -> None:
    whole = texts(model, 3, names=names())
    stop = whole[1][4]
    ended = texts(model, 3, [stop], names=names())
    assert ended == [row[: row.index(stop)] if stop in row else row for row in whole]
    assert ended[1] == whole[1][: whole[1].index(stop)]


def test_another_seed_and_another_name_draw_otherwise(model: Any, way: str) -> None:
    own = texts(model, 3, names=names())
    assert all(a != b for a, b in zip(own, texts(model, 3, names=names(), seed=5), strict=True))
    assert all(a != b for a, b in zip(own, texts(model, 3, names=names(100)), strict=True))


def test_tokens_come_as_often_as_they_are_likely() -> None:
    """Of 20 000 draws of three tokens of probability 0.2, 0.5 and 0.3, within four standard deviations."""
    shares = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    points = torch.tensor([uniform(0, "a", place) for place in range(20_000)], dtype=torch.float64)
    counts = np.bincount(drawn(shares.log().expand(len(points), -1), points), minlength=3)
    assert np.abs(counts / 20_000 - shares.numpy()).max() < 4 * math.sqrt(0.25 / 20_000)


def test_what_has_no_probability_is_never_drawn() -> None:
    """Not at the ends of the range either."""
    scores = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]] * 3, dtype=torch.float64)
    points = torch.tensor([0.0, 0.5, 1 - 2.0**-53], dtype=torch.float64)
    assert drawn(scores, points) == [1, 3, 3]


def test_draws_are_the_same_on_any_machine() -> None:
    """What ``printf '0 0 forget:0' | b2sum -l 64`` prints, without its last 11 bits."""
    assert uniform(0, "forget:0", 0) == (0xD572E0A76D6A1EA6 >> 11) / 2**53
