"""Answers decoded in slots: the tokens of a loop that knows no cache, whatever ends when, and no row too many.

Models are small random ones in float64, whose logits have no ties.
"""

import gc
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from amnestic.data.encode import Encoded, Encoder
from amnestic.data.example import Example
from amnestic.data.options import DataOptions
from amnestic.model import decoding, memory, slots
from amnestic.model.decoding import Begun, Counts, Decoding
from amnestic.model.endings import Endings
from amnestic.model.generate import Generated, Settings, agreed_tokens, generate
from amnestic.model.load import Loaded, load
from amnestic.model.options import ModelOptions
from amnestic.model.sharding import forward_only
from amnestic.model.slot_fit import LEAST_SHARED, examine_decoding
from amnestic.model.slots import BLOCK, Slots

VOCABULARY = 40
"""So few that random ends are met."""
NEW = 9
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}
WINDOWS = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"], "head_dim": 4}
NUMBERS = SimpleNamespace(
    pad_token_id=0, eos_token_id=None, decode=lambda row, skip_special_tokens: " ".join(map(str, row))
)


def built(config: str, seed: int = 0, **settings: Any) -> Loaded:
    """A model with random weights, large enough that answers differ."""
    torch.manual_seed(seed)
    made = getattr(transformers, config)(**{**SMALL, **settings})
    model = AutoModelForCausalLM.from_config(made, dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.4 if parameter.ndim > 1 else 0.1))
    model.generation_config.eos_token_id = None
    return Loaded(model.eval(), NUMBERS, torch.float64)


@pytest.fixture(scope="module")
def llama() -> Loaded:
    return built("LlamaConfig")


def rows(lengths: Sequence[int], seed: int = 0) -> list[Encoded]:
    """Random prompts of these lengths, each with an answer of three random tokens."""
    random = np.random.default_rng(seed)
    return [
        row(random.integers(0, VOCABULARY, n).tolist(), random.integers(0, VOCABULARY, 3).tolist()) for n in lengths
    ]


def row(prompt: Sequence[int], answer: Sequence[int], closes: bool = False) -> Encoded:
    ids = np.array([*prompt, *answer])
    return Encoded("", ids, np.arange(len(ids)) >= len(prompt), len(prompt), closes, "", "")


LENGTHS = (5, 1, 12, 7, 7, 30, 3, 9, 2, 16, 1, 21)


def naive(loaded: Loaded, example: Encoded, most: int = NEW) -> list[int]:
    """One token after the other, each from a pass over the whole text."""
    ids = example.input_ids[: example.prompt_length].tolist()
    for _ in range(most):
        with torch.inference_mode():
            ids.append(int(loaded.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[example.prompt_length :]


def cut(tokens: Sequence[int], stops: Sequence[int]) -> tuple[list[int], bool]:
    """The tokens before the first end, and whether there is one."""
    for i, token in enumerate(tokens):
        if token in stops:
            return [*tokens[:i]], True
    return [*tokens], False


def with_draft(example: Encoded, answer: Sequence[int], agreed: int) -> Encoded:
    """An example whose true answer is greedy for `agreed` tokens, and goes on otherwise."""
    other = [(token + 1) % VOCABULARY for token in answer[agreed:]]
    return row(example.input_ids[: example.prompt_length].tolist(), [*answer[:agreed], *other])


def ended(found: Sequence[Generated]) -> list[tuple[list[int], bool]]:
    return [(answer.tokens.tolist(), answer.has_ended) for answer in found]


@pytest.fixture(scope="module")
def expected(llama: Loaded) -> list[list[int]]:
    return [naive(llama, example) for example in rows(LENGTHS)]


@settings(max_examples=40)
@given(data=st.data())
def test_whatever_ends_when_the_tokens_are_those_of_a_loop_without_cache(
    llama: Loaded, expected: list[list[int]], data: st.DataObject
) -> None:
    """Any ends, any drafts, any number of slots, any cut of what is read in, any order; and no row-step too many.

    Each answer needs one pass for each of its tokens, the one that ends it included, but for the first.
    """
    stops = data.draw(st.sets(st.integers(0, VOCABULARY - 1), max_size=6))
    order = data.draw(st.permutations(range(len(LENGTHS))))
    agreed = [data.draw(st.integers(0, NEW)) for _ in order]
    examples = [with_draft(rows(LENGTHS)[i], expected[i], a) for i, a in zip(order, agreed, strict=True)]
    llama.model.generation_config.eos_token_id = [*stops]
    settings, kept = Settings(NEW, 4), dict[int, Generated]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "MOST_ROWS", {"cpu": data.draw(st.sampled_from([1, 2, 5, 50]))})
        patch.setattr(slots, "BLOCK", data.draw(st.sampled_from([1, 7, 64])))
        patch.setattr(decoding, "POSITIONS", {"cpu": data.draw(st.sampled_from([1, 20, 60, 1000]))})
        found = generate(llama, NUMBERS, examples, settings, agreed, keep=kept.update)
    answers = [cut(expected[i], stops) for i in order]
    assert ended(found) == answers
    assert [answer.text for answer in found] == [" ".join(map(str, tokens)) for tokens, _ in answers]
    assert [kept[i] for i in range(len(order))] == found
    lengths = [len(tokens) + has_ended for tokens, has_ended in answers]
    needed = sum(length - a - 1 for length, a in zip(lengths, agreed, strict=True) if length > a)
    assert (settings.counts.row_steps, settings.counts.needed) == (needed, needed)
    assert llama.notes == []


ATTENTION = [
    ("MistralConfig", {"sliding_window": 4}),
    ("Gemma2Config", WINDOWS | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
    ("Gemma3TextConfig", WINDOWS),
    ("GptOssConfig", WINDOWS | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    ("GPT2Config", {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 128}),
    ("DeepseekV3Config", {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4}
     | {"v_head_dim": 6, "num_key_value_heads": 4, "n_routed_experts": 4, "n_group": 2, "topk_group": 1}
     | {"num_experts_per_tok": 2, "moe_intermediate_size": 8, "first_k_dense_replace": 1}),
]  # fmt: skip
"""Windows shorter than prompts and answers, capped scores, sinks, keys as wide as no value."""


@pytest.mark.parametrize(("config", "settings"), ATTENTION)
def test_other_attention_goes_on_from_slots_too(
    config: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows shorter than prompts and answers, capped scores, sinks, keys as wide as no value; slots are filled again.

    The padded way would give the same tokens: that it is not taken is seen by its note, which any batch would bring.
    """
    loaded = built(config, **settings)
    if "num_experts_per_tok" in settings:
        loaded.model.float()  # torch groups no float64 experts
    monkeypatch.setattr(decoding, "MOST_ROWS", {"cpu": 3})
    answers = [naive(loaded, example) for example in rows(LENGTHS)]
    agreed = [0, 3, 8] * 4
    examples = [with_draft(*whole) for whole in zip(rows(LENGTHS), answers, agreed, strict=True)]
    assert [tokens for tokens, _ in ended(generate(loaded, NUMBERS, examples, Settings(NEW, 1), agreed))] == answers
    assert loaded.notes == []


BLOCK_LENGTH = 23


def behind_a_block(lengths: Sequence[int], length: int = BLOCK_LENGTH) -> list[Encoded]:
    """`rows` behind as many random tokens, the same ones of each."""
    block = np.random.default_rng(9).integers(0, VOCABULARY, length).tolist()
    return [
        row([*block, *own.input_ids[: own.prompt_length].tolist()], own.input_ids[own.prompt_length :].tolist())
        for own in rows(lengths)
    ]


@pytest.mark.parametrize(("config", "settings"), [("LlamaConfig", {}), *ATTENTION[:-1]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_all_prompts_begin_with_is_read_in_once(
    config: str, settings: dict[str, Any], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tokens of whole prompts, in three slots that are filled again; what is fed is the block, and what is behind.

    Two of the prompts have one token behind it, and no two others begin alike there.
    """
    loaded = built(config, **settings)
    loaded.model.to(torch.float32 if "num_experts_per_tok" in settings else dtype)  # torch groups no float64 experts
    monkeypatch.setattr(decoding, "MOST_ROWS", {"cpu": 3})
    prompts = behind_a_block(LENGTHS)
    answers = [naive(loaded, example) for example in prompts]
    agreed = [0, 3, 8] * 4
    examples = [with_draft(*whole) for whole in zip(prompts, answers, agreed, strict=True)]
    settings_of = Settings(NEW, 1)
    assert [tokens for tokens, _ in ended(generate(loaded, NUMBERS, examples, settings_of, agreed))] == answers
    assert loaded.notes == []
    counts = settings_of.counts
    assert (counts.shared, counts.real) == (BLOCK_LENGTH, BLOCK_LENGTH + sum(LENGTHS) + sum(agreed))


def test_a_short_beginning_is_not_read_in_by_itself(llama: Loaded) -> None:
    """Nor that of a single prompt; where one prompt begins all others, its last token is read in with theirs."""
    block = behind_a_block([1], LEAST_SHARED)[0].input_ids[:LEAST_SHARED].tolist()
    for prompts, shared in (
        ([[*block, 1], [*block, 2]], LEAST_SHARED),
        ([block, [*block, 2]], 0),
        ([[*block, 1], [*block, 1, 2], [*block, 1]], LEAST_SHARED),
        ([[*block, 1, 2, 3]], 0),
        ([[*block[1:], 1], [*block[1:], 2]], 0),
    ):
        examples, settings = [row(prompt, [1, 2]) for prompt in prompts], Settings(NEW, 4)
        found = ended(generate(llama, NUMBERS, examples, settings))
        assert found == [(naive(llama, example), False) for example in examples]
        assert settings.counts.shared == shared


def holding_three(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the model fail for want of memory on more than three rows; the sizes of its passes are told in the list."""
    own, sizes = loaded.model.forward, []

    def forward(**inputs: Any) -> Any:
        sizes.append(len(inputs["input_ids"]))
        if sizes[-1] > 3:
            raise torch.OutOfMemoryError("out of memory")
        return own(**inputs)

    monkeypatch.setattr(loaded.model, "forward", forward)
    return sizes


def test_what_is_shared_is_read_in_again_where_memory_was_too_little(
    llama: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slots are given up with all that is in them; from then on there are three at once."""
    examples, settings = behind_a_block(LENGTHS), Settings(NEW, 4)
    answers = [naive(llama, example) for example in examples]
    sizes = holding_three(llama, monkeypatch)
    monkeypatch.setattr(decoding, "MOST_ROWS", {"cpu": 6})
    monkeypatch.setattr(decoding, "POSITIONS", {"cpu": 24})
    assert [tokens for tokens, _ in ended(generate(llama, NUMBERS, examples, settings))] == answers
    assert max(sizes) > 3
    assert settings.counts.shared == 2 * BLOCK_LENGTH


def test_a_model_that_is_another_behind_what_is_shared_reads_whole_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that are lost on the way show in its logits; a note says so once, and the answers are its own."""
    share = Slots.share

    def lose(held: Slots) -> None:
        share(held)
        held._beginning = {layer: (keys * 0, values) for layer, (keys, values) in held._beginning.items()}

    with monkeypatch.context() as patch:
        patch.setattr(Slots, "share", lose)
        reads_whole_prompts(built("LlamaConfig"), "gives other logits where several answers go on together")


def test_a_model_that_keeps_latents_reads_whole_prompts() -> None:
    """Its slots hold what keys and values are computed from: a beginning of these cannot be put in front of them."""
    config, settings = ATTENTION[-1]
    reads_whole_prompts(built(config, **settings), "cannot go on from slots (it attends to other keys and values than")


def reads_whole_prompts(known: Loaded, reason: str) -> None:
    """Two times the answers are those of the model, none is read in apart, and one note gives the reason."""
    loaded = Loaded(known.model.float(), NUMBERS, torch.float32)
    examples = behind_a_block(LENGTHS)
    for _ in range(2):
        settings = Settings(NEW, 4)
        found = ended(generate(loaded, NUMBERS, examples, settings))
        assert found == [(naive(loaded, example), False) for example in examples]
        assert settings.counts.shared == 0
    (note,) = loaded.notes
    assert note.startswith(f"prompts that begin alike are read in whole, each: {type(loaded.model).__name__} {reason}")


@pytest.mark.parametrize(("config", "settings"), [("LlamaConfig", {}), ATTENTION[1]])
def test_a_pass_for_others_sake_leaves_slots_as_they_were(config: str, settings: dict[str, Any]) -> None:
    loaded = built(config, **settings)
    work = Decoding(loaded, Endings(), lambda *_: None, Counts(), beginning=np.arange(20))
    with forward_only(loaded.model), work.slots.attending(loaded.model):
        work.read_beginning()
        work._idle()
    assert (work.slots.shared, work.slots.lengths) == (20, [])


def test_nothing_is_computed_for_what_drafts_tell(llama: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole answers with the token that closes them, an end within a draft, drafts as long as answers may be."""
    monkeypatch.setattr(llama.model, "forward", lambda *_, **__: 1 / 0)
    monkeypatch.setattr(llama.model.generation_config, "eos_token_id", 7)
    examples = [row([3, 4], [5, 6, 2], closes=True), row([3], [5, 7, 6]), row([3, 4], [9] * 20), row([3], [9] * NEW)]
    settings, done = Settings(NEW, 4), list[int]()
    found = generate(llama, NUMBERS, examples, settings, [3, 3, 20, NEW], keep=done.extend)
    assert ended(found) == [([5, 6], True), ([5], True), ([9] * NEW, False), ([9] * NEW, False)]
    assert settings.counts == Counts()
    assert done == [0, 1, 2, 3]


def test_an_answer_goes_on_behind_a_true_one_that_was_cut(llama: Loaded, expected: list[list[int]]) -> None:
    """All of it agrees, and nothing closes it."""
    example = row(rows(LENGTHS)[2].input_ids[:12].tolist(), expected[2][:4])
    llama.model.generation_config.eos_token_id = None
    assert ended(generate(llama, NUMBERS, [example], Settings(NEW, 4), [4])) == [(expected[2], False)]


def test_how_much_of_an_answer_agrees() -> None:
    """Counted behind the prompt, whichever tokens are scored: of a corpus chunk all but the first are."""
    answer = row([3, 4], [5, 6, 7])
    for flags, count in (("111", 3), ("110", 2), ("011", 0), ("101", 1)):
        assert agreed_tokens(answer, np.array([flag == "1" for flag in flags])) == count
    chunk = Encoded("", np.arange(6), np.arange(6) > 0, 3, False, "", "")
    assert agreed_tokens(chunk, np.array([False, False, True, True, False])) == 2
    assert agreed_tokens(chunk, np.array([True] * 5)) == 3


def test_a_model_without_numbers_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that are no numbers give the token that argmax names, up to the limit, as transformers' own loop does."""
    loaded = built("LlamaConfig")
    torch.nn.init.constant_(loaded.model.get_output_embeddings().weight, torch.nan)
    examples = rows((3, 8))
    own = loaded.model.generate(
        torch.from_numpy(examples[1].input_ids[None, :8].copy()), do_sample=False, max_new_tokens=NEW
    )
    found = generate(loaded, NUMBERS, examples, Settings(NEW, 4))
    assert ended(found) == [(own[0, 8:].tolist(), False)] * 2


@pytest.mark.parametrize("most", [2, 3])
def test_no_row_sees_what_another_left_behind(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row of 20 tokens is no number, and ends at once; the short one that takes its slot knows nothing of it.

    Its places stay in sight, masked, since the row beside is longer. Of two slots it is read into the free one, of
    three it is moved there.
    """
    loaded = built("LlamaConfig")
    with torch.no_grad():
        loaded.model.get_input_embeddings().weight[11] = torch.nan
    examples = [row([3, 4, 5] * 9, [1]), row([11] * 20, [1]), row([9, 8], [1])]
    answers = [naive(loaded, example) for example in examples]
    assert answers[1] == [0] * NEW
    assert 0 not in answers[0] + answers[2]
    loaded.model.generation_config.eos_token_id = 0
    monkeypatch.setattr(decoding, "MOST_ROWS", {"cpu": most})
    found = ended(generate(loaded, NUMBERS, examples, Settings(NEW, 4)))
    assert found == [(answers[0], False), ([], True), (answers[2], False)]


def test_too_little_memory_means_fewer_at_once(
    llama: Loaded, expected: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that holds three rows: what was found stays found, and the rest goes on, none of it twice."""
    sizes = holding_three(llama, monkeypatch)
    monkeypatch.setattr(llama.model.generation_config, "eos_token_id", [*range(0, VOCABULARY, 9)])
    monkeypatch.setattr(decoding, "POSITIONS", {"cpu": 24})
    kept: list[int] = []
    found = generate(llama, NUMBERS, rows(LENGTHS), Settings(NEW, 4), keep=kept.extend)
    assert ended(found) == [cut(tokens, range(0, VOCABULARY, 9)) for tokens in expected]
    assert sorted(kept) == [*range(len(LENGTHS))]
    assert max(sizes) > 3
    monkeypatch.setattr(llama.model, "forward", lambda **_: (_ for _ in ()).throw(torch.OutOfMemoryError("none")))
    with pytest.raises(torch.OutOfMemoryError):
        generate(llama, NUMBERS, rows(LENGTHS), Settings(NEW, 4))


def test_as_many_at_once_as_memory_holds(llama: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two layers with keys and values of two heads of four float64: 256 bytes a position.

    The longest answer may take 30 + 9 positions, and logits 8 bytes for each token of the vocabulary.
    """
    begun = [Begun(i, row.input_ids[:n], n, NEW) for i, (row, n) in enumerate(zip(rows(LENGTHS), LENGTHS, strict=True))]
    with forward_only(llama.model):
        fit = examine_decoding(llama, begun, 128)
    assert (fit.reason, fit.token_bytes) == (None, 256)
    size = (30 + NEW) * 256 + 8 * VOCABULARY
    for free, most in ((8 * size, 4), (8 * size - 2, 3), (10**12, 256), (0, 1), (None, 64)):
        seen: list[int] = []
        monkeypatch.setattr(decoding, "free_memory", lambda _, free=free: free)
        work = Decoding(llama, Endings(), lambda *_: None, Counts())
        own = work.go_on
        monkeypatch.setattr(
            work, "go_on", lambda tokens, own=own, seen=seen: (seen.append(len(tokens)), own(tokens))[1]
        )
        with forward_only(llama.model):
            work.run(begun, fit.token_bytes)
        assert max(seen) == min(most, len(begun))


def test_what_the_system_says_of_free_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The smaller of what the machine has and what a container may take, whose files are given up first."""
    monkeypatch.setattr(memory, "MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "GROUP", tmp_path)
    host = torch.device("cpu")
    assert memory.free_memory(host) is None
    (tmp_path / "meminfo").write_text("MemTotal:  9000 kB\nMemAvailable:  5000 kB\nHugePages_Total:  0\n")
    assert memory.free_memory(host) == 5000 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("3000\n")
    assert memory.free_memory(host) == 5000 * 1024
    (tmp_path / "memory.max").write_text("4000\n")
    (tmp_path / "memory.stat").write_text("anon 1000\ninactive_file 500\n")
    assert memory.free_memory(host) == 4000 - 3000 + 500
    assert memory.free_memory(torch.device("meta")) is None


REFUSED = {
    "BloomConfig": ({"n_layer": 2, "n_head": 2}, "does not take its attention from transformers' interface"),
    "MambaConfig": ({"state_size": 4}, "does not take its attention from transformers' interface"),
    "Lfm2Config": (
        {"layer_types": ["conv", "full_attention"], "block_multiple_of": 8},
        "has layers that are no plain attention",
    ),
}


@pytest.mark.parametrize("config", REFUSED)
def test_models_that_do_more_than_attend_go_the_padded_way(config: str) -> None:
    """The same tokens, with drafts too, and a note where there is more than one batch of them."""
    settings, reason = REFUSED[config]
    loaded = built(config, **settings)
    answers = [naive(loaded, example) for example in rows((5, 8, 3))]
    agreed = [0, 4, 2]
    examples = [with_draft(*whole) for whole in zip(rows((5, 8, 3)), answers, agreed, strict=True)]
    for batch_size, notes in ((3, 0), (2, 1), (2, 1)):
        found = generate(loaded, NUMBERS, examples, Settings(NEW, batch_size), agreed)
        assert [tokens for tokens, _ in ended(found)] == answers
        assert len(loaded.notes) == notes
    assert loaded.notes[0].endswith(f"not all at once: {type(loaded.model).__name__} {reason}.")


def test_a_model_that_is_another_in_slots_is_refused(llama: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its logits, by layers that never come by, by windows that it does not tell, and by errors."""
    begun = [Begun(i, row.input_ids[:n], n, NEW) for i, (row, n) in enumerate(zip(rows(LENGTHS), LENGTHS, strict=True))]

    def reason() -> str | None:
        with forward_only(llama.model):
            return examine_decoding(llama, begun, 128).reason

    with monkeypatch.context() as patch:
        patch.setattr(slots, "_hidden", lambda query, places, keys, window: query.new_zeros(len(places), keys))
        assert reason() == "gives other logits where several answers go on together"
    with monkeypatch.context() as patch:
        patch.setattr(llama.model.config, "num_hidden_layers", 3)
        assert reason() == "does not take every layer's attention from transformers' interface"
    with monkeypatch.context() as patch:
        patch.setattr(llama.model.config, "sliding_window", 64, raising=False)
        assert reason() == "does not say how far each layer looks back"
    with monkeypatch.context() as patch:
        patch.setattr(Slots, "get_seq_length", lambda *_: 1 / 0)
        patch.setattr(Slots, "update", lambda *_: 1 / 0)
        assert reason() == "cannot go on from slots (division by zero)"
    assert reason() is None


def test_positions_that_depend_on_the_longest_text_are_refused_where_it_is_long() -> None:
    """Of 20 positions that the model first learnt from, a prompt of 5 may take 14, one of 12 may take 21."""
    factors = {"rope_type": "longrope", "short_factor": [1.0, 1.0], "long_factor": [3.0, 2.0], "rope_theta": 10000.0}
    loaded = built(
        "Phi3Config",
        rope_parameters={**factors, "original_max_position_embeddings": 20},
        original_max_position_embeddings=20,
        bos_token_id=1,
        eos_token_id=2,
    )
    loaded.model.generation_config.eos_token_id = None
    for length, notes in ((5, 0), (12, 1)):
        examples = rows((length, 3))
        answers = [naive(loaded, example) for example in examples]
        found = ended(generate(loaded, NUMBERS, examples, Settings(NEW, 1)))
        assert [tokens for tokens, _ in found] == answers
        assert len(loaded.notes) == notes


def test_freed_slots_are_taken_by_the_last_ones() -> None:
    """Five slots, of which the second and the last become free: the fourth takes the second's place."""
    made = Slots(torch.device("cpu"))
    made.reserve(5, 3)
    heads = torch.arange(5.0).repeat_interleave(3 * 2).reshape(5, 1, 3, 2)
    with made.reading([3, 1, 2, 3, 1]):
        made.update(heads, -heads, 0)
    assert made.drop([1, 4]) == [0, 3, 2]
    assert made.lengths == [3, 3, 2]
    new = torch.full((3, 1, 1, 2), 9.0)
    with made.going_on() as places:
        keys, values = made.update(new, -new, 0)
    assert places.tolist() == [[3], [3], [2]]
    assert keys[:, 0, :, 0].tolist() == [[0, 0, 0, 9], [3, 3, 3, 9], [2, 2, 9, 0]]
    assert torch.equal(keys, -values)
    assert made.drop([0, 1, 2]) == []


def test_buffers_grow_and_keep_what_they_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh memory may hold anything, and a short answer's places behind its end are in sight of a longer one's."""
    monkeypatch.setattr(
        torch.Tensor,
        "new_empty",
        lambda tensor, *shape: tensor.new_full(shape[-1] if len(shape) == 1 else shape, torch.nan),
    )
    made = Slots(torch.device("cpu"))
    made.reserve(2, 1)
    with made.reading([2, 1]):
        made.update(
            torch.tensor([[1.0, 2.0], [1.0, 9.0]]).reshape(2, 1, 2, 1).expand(2, 1, 2, 2), torch.ones(2, 1, 2, 3), 0
        )
    for step in range(2, BLOCK + 3):
        with made.going_on():
            keys, values = made.update(
                torch.tensor([step + 1.0, step]).reshape(2, 1, 1, 1).expand(2, 1, 1, 2), torch.ones(2, 1, 1, 3), 0
            )
        assert keys[0, 0, :, 0].tolist() == [*range(1, step + 2)]
        assert keys[1, 0, :step, 0].tolist() == [*range(1, step + 1)]
        assert keys.isfinite().all()
        assert values.isfinite().all()
    assert values.shape == (2, 1, BLOCK + 3, 3)
    assert made.token_bytes == (2 + 3) * 4


def test_the_models_attention_is_its_own_again(llama: Loaded) -> None:
    before = llama.model.config._attn_implementation
    generate(llama, NUMBERS, rows((3, 5)), Settings(2, 4))
    assert llama.model.config._attn_implementation == before == "sdpa"
    assert [found for found in gc.get_objects() if type(found) is Slots] == []


@pytest.mark.parametrize("shared", [0, BLOCK_LENGTH])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_weights_go_on_from_slots(dtype: torch.dtype, shared: int) -> None:
    """Each token is the likeliest up to rounding, given those before it, by the logits of the whole text."""
    loaded = built("LlamaConfig")
    loaded.model.to(dtype)
    examples, settings = behind_a_block(LENGTHS, shared), Settings(NEW, 1)
    for example, answer in zip(examples, generate(loaded, NUMBERS, examples, settings), strict=True):
        ids = [*example.input_ids[: example.prompt_length].tolist(), *answer.tokens.tolist()]
        with torch.inference_mode():
            logits = loaded.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double()
        for place, token in enumerate(answer.tokens.tolist(), start=example.prompt_length - 1):
            assert logits[place, token] >= logits[place].max() - 0.05 * logits[place].abs().max()
    assert (loaded.notes, settings.counts.shared) == ([], shared)


@pytest.mark.parametrize("name", ["tiny_full", "tiny_retain90"])
def test_answers_of_trained_models_are_those_of_transformers(
    name: str, tofu: Path, request: pytest.FixtureRequest
) -> None:
    """Of TOFU's forget10 and of its world facts, one prompt at a time without padding: every 40th of them.

    One of the models ends its answers to the first by itself, just as they are written; the other makes them up.
    """
    loaded = load(ModelOptions(model=str(request.getfixturevalue(name))))
    encoder, examples = Encoder(loaded.tokenizer, DataOptions()), []
    for split in ("forget10_perturbed", "world_facts_perturbed"):
        lines = (tofu / f"{split}.json").read_text(encoding="utf-8").splitlines()[::40]
        written = [
            Example(f"{i}", "question", *map(json.loads(line).get, ("question", "answer")))
            for i, line in enumerate(lines)
        ]
        examples += [*encoder.encode(split, written).examples]
    agreed = [agreed_tokens(example, likeliest(loaded.model, example)) for example in examples]
    plain, drafted = (generate(loaded, loaded.tokenizer, examples, Settings(60, 8), own) for own in (None, agreed))
    assert ended(plain) == ended(drafted) == [alone(loaded, example) for example in examples]
    assert (sum(agreed) > 200) is (name == "tiny_full")


def likeliest(model: Any, example: Encoded) -> np.ndarray:
    """Whether each scored token is the likeliest one where it stands."""
    ids = torch.from_numpy(example.input_ids)
    with torch.inference_mode():
        found: np.ndarray = (model(input_ids=ids[None]).logits[0, :-1].argmax(-1) == ids[1:]).numpy()
    return found[example.is_scored[1:]]


def alone(loaded: Loaded, example: Encoded) -> tuple[list[int], bool]:
    ids = torch.from_numpy(example.input_ids[None, : example.prompt_length].copy())
    with torch.inference_mode():
        found = loaded.model.generate(ids, do_sample=False, max_new_tokens=60)[0, example.prompt_length :].tolist()
    return cut(found, [loaded.tokenizer.eos_token_id])
