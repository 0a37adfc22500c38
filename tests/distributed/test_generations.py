"""Several processes share what is decoded, and each has the whole: the same tokens as one process."""

from typing import Any

import numpy as np
import pytest
import torch

from amnestic.data.encode import Encoded
from amnestic.model.load import load, spread
from amnestic.model.options import ModelOptions, ShardingOptions

NEW = 6


def rows(count: int, shared: int = 0) -> list[Encoded]:
    """Prompts of several lengths behind `shared` tokens that all begin with, each with three tokens of an answer."""
    generator = np.random.default_rng(5)
    lengths = generator.integers(1, 30, size=count) + shared
    made = [(int(n), generator.integers(5, 300, size=n + 3)) for n in lengths]
    for _, ids in made:
        ids[:shared] = np.arange(5, 5 + shared)
    return [Encoded(f"{i}", ids, np.arange(len(ids)) >= n, n, False, "", "") for i, (n, ids) in enumerate(made)]


def answered(
    model: str, count: int, is_sharded: bool, way: str, agreed: list[int] | None = None, shared: int = 0
) -> dict[str, Any]:
    """What is generated of `count` prompts, and what was told on the way; in at most two slots or rows at once."""
    from unittest.mock import patch

    from amnestic.model import decoding, generate, slot_fit

    loaded = load(ModelOptions(model=model, dtype="float32"), on_host=True)
    if is_sharded:
        spread(loaded, ShardingOptions(fsdp=True), torch.device("cpu"))
    kept: list[int] = []
    settings = generate.Settings(NEW, 2)
    with patch.object(decoding, "MOST_ROWS", {"cpu": 2}), patch.object(generate, "PAUSE", 0.0):
        prompts = rows(count, shared)
        if way == "padded":
            refused = slot_fit.Fit("is refused")
            with patch.object(generate, "examine_decoding", lambda *_: refused):
                found = generate.generate(loaded, loaded.tokenizer, prompts, settings, agreed, kept.extend)
        else:
            found = generate.generate(loaded, loaded.tokenizer, prompts, settings, agreed, kept.extend)
    counts = settings.counts
    return {
        "answers": [(answer.tokens.tolist(), answer.text, answer.has_ended) for answer in found],
        "kept": sorted(kept),
        "notes": len(loaded.notes),
        "row_steps": counts.row_steps,
        "needed": counts.needed,
        "prompts": counts.prompts,
        "shared": counts.shared,
        "real": counts.real,
    }


@pytest.mark.parametrize("way", ["slots", "padded"])
@pytest.mark.parametrize("is_sharded", [False, True])
@pytest.mark.parametrize("count", [1, 7])
def test_two_processes_answer_as_one_does(pool, tiny_model, count, is_sharded, way):
    """One prompt leaves a process without any: where weights are spread, it makes the other's passes with it."""
    model = str(tiny_model())
    expected = answered(model, count, False, way)
    found = pool.run(answered, model, count, is_sharded, way)
    for own in found:
        assert own["answers"] == expected["answers"]
        assert own["kept"] == [*range(count)]
    assert sum(own["prompts"] for own in found) == count
    if way == "slots":
        assert [own["notes"] for own in found] == [0, 0]
        assert sum(own["row_steps"] for own in found) == sum(own["needed"] for own in found) == expected["row_steps"]


@pytest.mark.parametrize("is_sharded", [False, True])
@pytest.mark.parametrize("count", [1, 7])
def test_each_process_reads_once_what_all_prompts_begin_with(pool, tiny_model, count, is_sharded):
    """One prompt is read whole; of seven, two processes read what they share twice, and one process once."""
    model, shared = str(tiny_model()), 40 if count > 1 else 0
    expected = answered(model, count, False, "padded", None, 40)
    alone = answered(model, count, False, "slots", None, 40)
    found = pool.run(answered, model, count, is_sharded, "slots", None, 40)
    assert [own["answers"] for own in [alone, *found]] == [expected["answers"]] * 3
    assert alone["shared"] == shared
    assert [own["shared"] for own in found if own["prompts"]] == [shared] * min(2, count)
    assert sum(own["real"] for own in found) == alone["real"] + shared


@pytest.mark.parametrize("is_sharded", [False, True])
def test_drafts_leave_processes_unequal_work(pool, tiny_model, is_sharded):
    """True answers that are greedy but for those of one prompt: one process decodes it, the other does not."""
    model = str(tiny_model())
    whole = answered(model, 5, False, "slots")["answers"]
    expected = answered(model, 5, False, "slots", [0] * 5)
    assert expected["answers"] == whole
    for own in pool.run(drafted, model, is_sharded, [tokens for tokens, *_ in whole]):
        assert own["answers"] == [answer[:2] for answer in whole]
        assert own["kept"] == [*range(5)]


def drafted(model: str, is_sharded: bool, answers: list[list[int]]) -> dict[str, Any]:
    """The same prompts with greedy answers, all of which are known but the third's, of which one token is."""
    from amnestic.model import generate

    loaded = load(ModelOptions(model=model, dtype="float32"), on_host=True)
    if is_sharded:
        spread(loaded, ShardingOptions(fsdp=True), torch.device("cpu"))
    examples = []
    for row, answer in zip(rows(5), answers, strict=True):
        ids = np.concatenate([row.input_ids[: row.prompt_length], answer])
        examples.append(
            Encoded(row.id, ids, np.arange(len(ids)) >= row.prompt_length, row.prompt_length, False, "", "")
        )
    kept: list[int] = []
    agreed = [1 if i == 2 else NEW for i in range(5)]
    settings = generate.Settings(NEW, 2)
    found = generate.generate(loaded, loaded.tokenizer, examples, settings, agreed, kept.extend)
    return {"answers": [(answer.tokens.tolist(), answer.text) for answer in found], "kept": sorted(kept)}


def drawn(model: str, way: str, is_sharded: bool) -> list[list[int]]:
    """What is drawn behind seven prompts, at most two at once."""
    from unittest.mock import patch

    from amnestic.model import decoding, generate, slot_fit
    from amnestic.model.sampling import Sampling

    loaded = load(ModelOptions(model=model, dtype="float32"), on_host=True)
    if is_sharded:
        spread(loaded, ShardingOptions(fsdp=True), torch.device("cpu"))
    prompts = rows(7)
    begun = [
        decoding.Begun(i, row.input_ids[: row.prompt_length], row.prompt_length, NEW) for i, row in enumerate(prompts)
    ]
    settings = generate.Settings(NEW, 2, pick=Sampling(0, [row.id for row in prompts], 320))
    fit = slot_fit.Fit("is refused") if way == "padded" else None
    with patch.object(decoding, "MOST_ROWS", {"cpu": 2}):
        examined = patch.object(generate, "examine_decoding", lambda *_: fit)
        with examined if fit else patch.object(generate, "PAUSE", 0.0):
            return [answer.tokens.tolist() for answer in generate.go_on(loaded, loaded.tokenizer, begun, settings, [])]


@pytest.mark.parametrize("way", ["slots", "padded"])
@pytest.mark.parametrize("is_sharded", [False, True])
def test_two_processes_draw_as_one_does(pool, tiny_model, is_sharded, way):
    model = str(tiny_model())
    expected = drawn(model, way, False)
    assert len({tuple(tokens) for tokens in expected}) == 7
    assert pool.run(drawn, model, way, is_sharded) == [expected, expected]
