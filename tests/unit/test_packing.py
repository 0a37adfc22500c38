"""Which models may read packed rows, and what their attention does with them.

The oracle of the attention is a softmax written out in float64, one row, one head and one position at a time; that of a
model its own logits, row by row.
"""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM

from amnestic.data.batches import HOST_BOUNDARIES, pack, pad
from amnestic.data.encode import Encoded
from amnestic.data.trees import in_order, tree
from amnestic.model.form import examine
from amnestic.model.load import Loaded, load, prepare, save
from amnestic.model.options import ModelOptions
from amnestic.model.packing import EDGE, examine_packing
from amnestic.model.segments import NAME, attend, segmented
from amnestic.model.signals import scored_logits

VOCABULARY = 320
SMALL = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
HEADS = SMALL | {"head_dim": 4}
EXPERTS = {"moe_intermediate_size": 8, "num_experts_per_tok": 2, "num_experts": 4}
GPT = {"n_embd": 16, "n_inner": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
STATES = {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}
WINDOW = {"sliding_window": 4}


def rows(*lengths: int) -> list[Encoded]:
    generator = np.random.default_rng(len(lengths))
    return [
        Encoded(f"{i}", generator.integers(3, VOCABULARY, n), np.arange(n) >= 1, 1, False, "", "")
        for i, n in enumerate(lengths)
    ]


ROWS = rows(21, 5, 5, 12, 2)


# Attention


def written_out(query: Tensor, key: Tensor, value: Tensor, lengths: list[int], scale: float, window: int) -> Tensor:
    """Attention of heads (H, T, D), each position over those of its own row, at most `window` back: (T, H, D)."""
    heads, total, _ = query.shape
    shared = heads // len(key)
    found = torch.zeros(total, heads, value.shape[-1], dtype=torch.float64)
    begin = 0
    for length in lengths:
        for head in range(heads):
            for at in range(length):
                first, last = begin + max(0, at - window + 1), begin + at
                scores = key[head // shared, first : last + 1] @ query[head, last] * scale
                weights = (scores - scores.max()).exp()
                found[last, head] = (weights / weights.sum()) @ value[head // shared, first : last + 1]
        begin += length
    return found


@pytest.mark.parametrize("window", [None, 1, 3, 9])
@pytest.mark.parametrize("shared", [1, 2])
@pytest.mark.parametrize("lengths", [[9], [7, 4, 4, 4, 1], [3, 2, 3]])
def test_attention_is_that_of_each_row(lengths: list[int], shared: int, window: int | None) -> None:
    """Values and gradients, key heads shared by query heads or not, windows shorter and longer than the rows."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, sum(lengths), 6), (4 // shared, sum(lengths), 6), (4 // shared, sum(lengths), 6)]
    heads = [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]
    weights = torch.randn((sum(lengths), 4, 6), generator=generator, dtype=torch.float64)
    expected = written_out(*heads, lengths, 0.3, window or 99)
    boundaries = torch.tensor(np.cumsum([0, *lengths]), dtype=torch.int32)
    settings = {"cu_seq_lens_q": boundaries, HOST_BOUNDARIES: boundaries, "sliding_window": window}
    found, _ = attend(SimpleNamespace(), *(h[None] for h in heads), None, scaling=0.3, dropout=0.0, **settings)
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-12)
    for own, other in zip(
        torch.autograd.grad((found[0] * weights).sum(), heads),
        torch.autograd.grad((expected * weights).sum(), heads),
        strict=True,
    ):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-12)


def test_rows_without_boundaries_are_causal_each_by_itself() -> None:
    heads = torch.randn((2, 2, 5, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found, _ = attend(SimpleNamespace(), heads, heads, heads, None, scaling=0.5)
    for own, row in zip(found, heads, strict=True):
        torch.testing.assert_close(own, written_out(row, row, row, [5], 0.5, 99), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"softcap": 5.0}, "softcap"),
        ({"s_aux": torch.zeros(2)}, "s_aux"),
        ({"position_bias": torch.zeros(1)}, "position_bias"),
        ({"attention_mask": torch.ones(1, 1, 3, 3)}, "a mask of its own"),
        ({"is_causal": False}, "a mask of its own"),
    ],
)
def test_attention_of_another_kind_is_refused(settings: dict, named: str) -> None:
    heads = torch.zeros(1, 2, 3, 4)
    with pytest.raises(TypeError, match=named):
        attend(SimpleNamespace(), heads, heads, heads, **{"attention_mask": None} | settings)


# Models


def model_of(config: str, **settings) -> Loaded:
    torch.manual_seed(0)
    own = getattr(transformers, config)(vocab_size=VOCABULARY, **settings)
    model = AutoModelForCausalLM.from_config(own, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return Loaded(model.eval(), SimpleNamespace(), torch.float32)


SAFE = {
    "Llama": ("LlamaConfig", SMALL),
    "Qwen2": ("Qwen2Config", SMALL),
    "Qwen3": ("Qwen3Config", HEADS),
    "Mistral, window": ("MistralConfig", SMALL | WINDOW),
    "Gemma": ("GemmaConfig", HEADS),
    "Gemma3, windows": (
        "Gemma3TextConfig",
        HEADS | WINDOW | {"layer_types": ["sliding_attention", "full_attention"], "final_logit_softcapping": 3.0},
    ),
    "Phi3": ("Phi3Config", SMALL | {"original_max_position_embeddings": 64, "pad_token_id": 0}),
    "GPT2, learned positions": ("GPT2Config", GPT),
    "OPT, learned positions": (
        "OPTConfig",
        {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 32}
        | {"max_position_embeddings": 64},
    ),
    "GPTNeoX": (
        "GPTNeoXConfig",
        {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32},
    ),
    "Cohere2": (
        "Cohere2Config",
        SMALL | WINDOW | {"layer_types": ["sliding_attention", "full_attention"], "logit_scale": 0.25},
    ),
    "Olmo2": ("Olmo2Config", SMALL),
    "Granite": ("GraniteConfig", SMALL),
    "Qwen3Moe": ("Qwen3MoeConfig", HEADS | EXPERTS),
}
UNSAFE = {
    "Gemma2, capped attention": ("Gemma2Config", HEADS | WINDOW | {"attn_logit_softcapping": 5.0}),
    "GptOss, sinks": ("GptOssConfig", HEADS | {"num_local_experts": 2, "num_experts_per_tok": 1}),
    "Bloom, ALiBi": ("BloomConfig", {"hidden_size": 16, "n_layer": 2, "n_head": 2}),
    "GPTNeo, local attention of its own": (
        "GPTNeoConfig",
        {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]]},
    ),
    "Mamba": ("MambaConfig", STATES),
    "Qwen3Next, linear attention": (
        "Qwen3NextConfig",
        HEADS
        | EXPERTS
        | {"shared_expert_intermediate_size": 8, "layer_types": ["linear_attention", "full_attention"]}
        | {
            "linear_key_head_dim": 4,
            "linear_value_head_dim": 4,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
        },
    ),
    "Lfm2, convolution": ("Lfm2Config", SMALL | {"layer_types": ["conv", "full_attention"], "block_multiple_of": 8}),
}


@pytest.mark.parametrize("name", SAFE)
def test_safe_architectures_are_packed_and_give_the_logits_of_each_row(name: str) -> None:
    """Of all positions, not only of those that were compared when the form was chosen."""
    config, settings = SAFE[name]
    loaded = model_of(config, **settings)
    examine_packing(loaded, [ROWS])
    assert (loaded.form.packs, loaded.notes) == (True, [])
    with torch.inference_mode():
        found = scored_logits(loaded.model, pack([("", row) for row in ROWS]))
        ordered = sorted(ROWS, key=lambda row: -len(row.input_ids))
        expected = torch.cat([scored_logits(loaded.model, pad("", [row])) for row in ordered])
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("name", SAFE)
def test_rows_that_share_a_beginning_have_the_logits_of_each_row(name: str) -> None:
    """Four rows: a long one, two that begin as it does, and one that is its beginning."""
    config, settings = SAFE[name]
    loaded = model_of(config, **settings)
    long = ROWS[0]
    ids = [np.concatenate([long.input_ids[:n], [7 + n, 9, 11]]) for n in (14, 6)]
    branches = [replace(long, input_ids=part, is_scored=np.arange(len(part)) >= 1) for part in ids]
    examples = [long, *branches, replace(long, input_ids=long.input_ids[:9], is_scored=long.is_scored[:9]), ROWS[3]]
    examples = [examples[i] for i in in_order(examples)]
    made = tree(examples)
    assert made.batch.input_ids.numel() < sum(len(row.input_ids) for row in examples) - 25
    with torch.inference_mode():
        found = scored_logits(loaded.model, made.batch)[made.place]
        expected = torch.cat([scored_logits(loaded.model, pad("", [row])) for row in examples])
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("name", UNSAFE)
def test_other_architectures_are_padded_and_a_note_says_so(name: str) -> None:
    config, settings = UNSAFE[name]
    loaded = model_of(config, **settings)
    examine_packing(loaded, [ROWS])
    assert not loaded.form.packs
    assert [note.startswith("examples are padded, not packed: ") for note in loaded.notes] == [True]


@pytest.fixture
def llama() -> Loaded:
    return model_of("LlamaConfig", **SMALL)


def spied(monkeypatch: pytest.MonkeyPatch, change) -> None:
    """Let the attention function of packed rows do what it should not."""
    monkeypatch.setattr("amnestic.model.segments.attend", lambda *a, **k: attend(*a, **change(k)))


def crossing(settings: dict) -> dict:
    return settings | {"cu_seq_lens_q": None}


def without_window(settings: dict) -> dict:
    return settings | {"sliding_window": None}


def test_a_model_that_looks_across_rows_is_padded(llama: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    spied(monkeypatch, crossing)
    examine_packing(llama, [ROWS])
    assert (llama.form.packs, len(llama.notes)) == (False, 1)
    assert "other logits" in llama.notes[0]


def test_a_window_is_seen_where_a_row_is_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest of many rows is always looked at: one of 300 here, which no evenly spaced choice of rows hits."""
    spied(monkeypatch, without_window)
    short = [rows(3)[0] for _ in range(300)]
    for examples, packs in (([*short, ROWS[0], *short], False), (short, True)):
        loaded = model_of("MistralConfig", **SMALL | WINDOW)
        examine_packing(loaded, [rows(3, 2), examples])
        assert loaded.form.packs is packs


def test_a_layer_whose_attention_is_not_seen_is_reason_enough_to_pad(llama: Loaded) -> None:
    """Though no logit of these rows differs: what the layer does to others is not known."""
    attention = llama.model.model.layers[0].self_attn
    attention.forward = lambda hidden_states, **settings: (torch.zeros_like(hidden_states), None)
    examine_packing(llama, [ROWS])
    assert (llama.form.packs, len(llama.notes)) == (False, 1)
    assert "every layer's attention" in llama.notes[0]


def test_a_single_row_is_enough_to_tell(llama: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    examine_packing(llama, [rows(9)])
    assert llama.form.packs
    spied(monkeypatch, crossing)
    examine_packing(llama, [rows(9)])
    assert not llama.form.packs


def test_no_more_is_read_at_once_than_two_of_the_longest_rows(llama: Loaded) -> None:
    """Of long rows a few may be all that fits into memory, and as many of each split are looked at."""
    widths = []
    llama.model.model.embed_tokens.register_forward_hook(lambda _, given, __: widths.append(given[0].numel()))
    examine_packing(llama, [rows(*[20] * 9), rows(20, 20, 18, 12, 9, 7), rows(19)])
    assert llama.form.packs
    assert max(widths) == 40


def test_both_ends_of_a_row_are_compared() -> None:
    """A difference in the first position, or in the last of a long row, is one."""
    from amnestic.model.packing import _same

    expected = torch.zeros(5 * EDGE, 3) + torch.tensor([1.0, 2.0, 3.0])
    for place in (0, -1):
        found = expected.clone()
        found[place, 0] += 0.1
        assert not _same(found, expected, torch.float32, most=False)
    assert _same(expected.clone(), expected, torch.float32, most=False)


def test_memory_that_runs_out_is_no_reason_to_pad(llama: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_, **__):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr("amnestic.model.segments.attend", exhausted)
    with pytest.raises(torch.OutOfMemoryError):
        examine_packing(llama, [ROWS])


def implementations(model) -> set:
    return {module.config._attn_implementation for module in model.modules() if hasattr(module, "config")}


def test_attention_is_put_back_after_a_pass_and_after_an_error(llama: Loaded) -> None:
    before = implementations(llama.model)
    with segmented(llama.model):
        assert implementations(llama.model) == {NAME}
        with segmented(llama.model):
            pass
        assert implementations(llama.model) == {NAME}
    assert implementations(llama.model) == before == {"sdpa"}
    with pytest.raises(ZeroDivisionError), segmented(llama.model):
        raise ZeroDivisionError
    assert implementations(llama.model) == before


def test_a_saved_model_knows_nothing_of_packs(tiny_model, tmp_path) -> None:
    """Its configuration is that of the model that was loaded, even where it is saved between two packs."""
    folder = tiny_model()
    loaded = load(ModelOptions(model=str(folder), device="cpu"))
    examine(loaded, rows(9)[0])
    examine_packing(loaded, [rows(9, 4)])
    assert loaded.form.packs
    with segmented(loaded.model):
        save(loaded, tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert NAME not in json.dumps(saved)
    assert saved == json.loads((folder / "config.json").read_text(encoding="utf-8"))


def test_a_model_in_memory_with_eager_attention_is_packed(tiny_model) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model(), attn_implementation="eager")
    loaded = prepare(model, SimpleNamespace())
    examine_packing(loaded, [ROWS[1:]])
    assert loaded.form.packs
    assert implementations(model) == {"eager"}
