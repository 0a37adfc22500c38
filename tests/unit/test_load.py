"""Models as they come and go: what is refused, in which precision they are computed, and what a saved one keeps."""

import copy as copying
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BertConfig,
    DeepseekV3Config,
    FalconConfig,
    Gemma3Config,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForSequenceClassification,
    LlamaModel,
    LlavaConfig,
    MixtralConfig,
    MllamaConfig,
    OPTConfig,
    Qwen2VLConfig,
    T5Config,
    ViTConfig,
)

from amnestic.errors import InputError
from amnestic.model import load as module
from amnestic.model.load import (
    Loaded,
    as_saved,
    checkpointed,
    digest,
    has_bfloat16_instructions,
    load,
    prepare,
    round_to_saved,
    save,
)
from amnestic.model.options import ModelOptions

IDS = torch.tensor([[1, 5, 9, 200, 31, 7], [1, 300, 4, 4, 18, 2]])


def options(folder: Path | str, **changes) -> ModelOptions:
    return ModelOptions(model=str(folder), **{"device": "cpu"} | changes)


def weights(model) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def logits(model) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=IDS, use_cache=False).logits


def small(config_class, **changes):
    """Return a configuration of one small layer."""
    return config_class(vocab_size=320, **changes)


def opt() -> OPTConfig:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 32}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return small(OPTConfig, **sizes, **tokens, word_embed_proj_dim=16, dropout=0.5, layerdrop=0.5)


def gpt2() -> GPT2Config:
    return small(GPT2Config, n_embd=16, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=2)


def falcon() -> FalconConfig:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return small(FalconConfig, **sizes, hidden_dropout=0.5, attention_dropout=0.5, bos_token_id=1, eos_token_id=2)


@pytest.fixture
def tokenizer(tiny_model):
    return load(options(tiny_model())).tokenizer


def refusal(folder: Path | str, **changes) -> str:
    with pytest.raises(InputError) as caught:
        load(options(folder, **changes))
    return str(caught.value)


# What is refused


@pytest.mark.parametrize("name", ["./nothing", "nothing/at/all", "/nothing"])
def test_a_path_that_is_not_there_is_named(name):
    assert refusal(name) == f"--model is {name!r}, and there is no such folder; expected a model folder or a Hub id."


@pytest.mark.parametrize("name", ["owner/no-such-model", "no-such-model"])
def test_a_hub_id_that_cannot_be_reached_is_named(name):
    found = refusal(name)
    assert found.startswith(f"cannot load the model {name!r}: ")
    assert found.endswith(". Give a model folder or the id of a Hub model.")
    assert "\n" not in found


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not a valid JSON"),
        ('{"hidden_size": 8}', "model_type"),
        ('{"model_type": "llamax"}', "llamax"),
        ('{"model_type": "llama", "hidden_size": "wide"}', "'hidden_size' expected int|unsupported operand"),
    ],
)
def test_a_broken_configuration_is_refused_with_its_reason(tmp_path, text, reason):
    (tmp_path / "config.json").write_text(text)
    found = refusal(tmp_path)
    assert found.startswith(f"cannot load the model {str(tmp_path)!r}: ")
    assert re.search(reason, found)
    assert "\n" not in found


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (T5Config(architectures=["T5ForConditionalGeneration"]), "T5ForConditionalGeneration"),
        (BertConfig(architectures=["BertForMaskedLM"]), "BertForMaskedLM"),
        (BertConfig(), "BertConfig"),
        (LlamaConfig(architectures=["LlamaForSequenceClassification"]), "LlamaForSequenceClassification"),
        (GPT2Config(architectures=["GPT2Model"]), "GPT2Model"),
        (LlamaConfig(architectures=["LlamaForRewardModel"]), "LlamaForRewardModel"),
        (BartConfig(architectures=["BartForConditionalGeneration"]), "BartForConditionalGeneration"),
        (LlavaConfig(architectures=["LlavaForConditionalGeneration"]), "LlavaForConditionalGeneration"),
        (Qwen2VLConfig(architectures=["Qwen2VLForConditionalGeneration"]), "Qwen2VLForConditionalGeneration"),
        (MllamaConfig(architectures=["MllamaForConditionalGeneration"]), "MllamaForConditionalGeneration"),
        (ViTConfig(architectures=["ViTForImageClassification"]), "ViTForImageClassification"),
    ],
)
def test_what_is_no_causal_language_model_is_refused(tmp_path, config, kind):
    config.save_pretrained(tmp_path)
    assert refusal(tmp_path) == (
        f"the model {str(tmp_path)!r} is {kind}; expected a causal language model (...ForCausalLM)."
    )


def test_a_folder_without_a_tokenizer_is_refused(copy):
    folder = copy()
    for path in folder.glob("tokenizer*"):
        path.unlink()
    found = refusal(folder)
    assert found.startswith(f"cannot load a tokenizer from {str(folder)!r}: ")
    assert found.endswith("Give one with --tokenizer.")


def test_the_empty_tokenizer_that_transformers_makes_up_is_refused(tmp_path):
    """Version 5 makes one up for GPT-2; version 4 finds nothing to load."""
    gpt2().save_pretrained(tmp_path)
    assert refusal(tmp_path).startswith(
        (
            f"the tokenizer of {str(tmp_path)!r} has no entries of its own; give a tokenizer with --tokenizer.",
            f"cannot load a tokenizer from {str(tmp_path)!r}: ",
        )
    )


def test_a_tokenizer_may_come_from_elsewhere(copy, tiny_model):
    folder = copy()
    for path in folder.glob("tokenizer*"):
        path.unlink()
    assert len(load(options(folder, tokenizer=str(tiny_model()))).tokenizer) == 320


@pytest.mark.parametrize("device", ["toaster", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(tiny_model, device):
    found = refusal(tiny_model(), device=device)
    assert found.startswith(f"--device is {device!r}, which this machine does not offer: ")


def test_an_object_without_a_head_is_no_language_model(tokenizer):
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    for architecture in (LlamaModel, LlamaForSequenceClassification):
        sentence = f"is {architecture.__name__}; expected a causal language model with an output head"
        with pytest.raises(InputError, match=sentence):
            prepare(architecture(small(LlamaConfig, **sizes)), tokenizer)
    with pytest.raises(InputError, match="the model is dict; expected"):
        prepare({}, tokenizer)


# Precision


@pytest.mark.parametrize(
    ("saved", "asked", "has_instructions", "computed", "note"),
    [
        ("float32", "auto", False, torch.float32, None),
        ("bfloat16", "auto", True, torch.bfloat16, None),
        ("bfloat16", "auto", False, torch.float32, "this processor has no bfloat16 instructions"),
        ("bfloat16", "bfloat16", False, torch.bfloat16, None),
        ("bfloat16", "float32", True, torch.float32, None),
        ("float32", "bfloat16", False, torch.bfloat16, None),
        ("float16", "auto", True, torch.float32, "the model is in float16"),
    ],
)
def test_precision_of_the_computation(tiny_model, monkeypatch, saved, asked, has_instructions, computed, note):
    monkeypatch.setattr(module, "has_bfloat16_instructions", lambda: has_instructions)
    loaded = load(options(tiny_model(dtype=saved), dtype=asked))
    assert {value.dtype for value in loaded.model.parameters()} == {computed}
    assert loaded.saved_dtype == getattr(torch, saved)
    assert [text.startswith(note or "?") for text in loaded.notes] == ([True] if note else [])


def test_an_accelerator_computes_bfloat16_whatever_the_processor(monkeypatch):
    monkeypatch.setattr(module, "has_bfloat16_instructions", lambda: False)
    found, notes = module._compute_dtype("auto", torch.bfloat16, torch.device("cuda"))
    assert (found, notes) == (torch.bfloat16, [])


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"avx2": True, "avx512_bf16": False}, False),
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"bf16": True}, True),
        ({}, False),
    ],
)
def test_instructions_are_read_off_the_processors_flags(monkeypatch, flags, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags, raising=False)
    assert has_bfloat16_instructions() is expected


@pytest.mark.parametrize("expected", [True, False])
def test_instructions_under_an_older_torch(monkeypatch, expected):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: expected)
    assert has_bfloat16_instructions() is expected


def test_rotary_frequencies_of_a_new_bfloat16_model_stay_in_float32(tiny_model):
    loaded = load(options(tiny_model(), dtype="bfloat16"), from_scratch=True, seed=1)
    assert loaded.model.dtype == torch.bfloat16
    assert {value.dtype for value in loaded.model.buffers()} == {torch.float32}


def configure(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def mixed(copy) -> Path:
    """A bfloat16 model whose norms are float32, with values that bfloat16 does not have."""
    folder = copy(dtype="bfloat16", tied=True)
    tensors = load_file(folder / "model.safetensors")
    for name in tensors:
        if "norm" in name:
            tensors[name] = torch.linspace(0.9, 1.1, 32)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_norms_that_came_in_float32_go_out_in_float32(mixed, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "has_bfloat16_instructions", lambda: True)
    loaded = load(options(mixed))
    assert loaded.model.dtype == torch.float32
    (note,) = loaded.notes
    assert note == (
        "5 tensors, such as model.layers.0.input_layernorm.weight, are stored in a wider precision: computed in "
        "float32."
    )
    save(loaded, tmp_path / "saved")
    stored, again = (load_file(folder / "model.safetensors") for folder in (mixed, tmp_path / "saved"))
    assert {name: value.dtype for name, value in again.items()} == {name: v.dtype for name, v in stored.items()}
    assert all(torch.equal(value, again[name]) for name, value in stored.items())
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["dtype"] == "bfloat16"
    assert digest(load(options(tmp_path / "saved"))) == digest(loaded)


def test_each_tensor_is_rounded_to_its_own_precision(mixed):
    loaded = load(options(mixed))
    before = weights(loaded.model)
    with torch.no_grad():
        for value in loaded.model.parameters():
            value.mul_(1.001)
    changed = weights(loaded.model)
    with as_saved(loaded):
        for name, value in loaded.model.named_parameters():
            expected = changed[name] if "norm" in name else changed[name].bfloat16().float()
            assert torch.equal(value, expected)
            assert torch.equal(before[name], before[name].bfloat16().float()) is ("norm" not in name)
    assert all(torch.equal(value, changed[name]) for name, value in loaded.model.named_parameters())
    first = digest(loaded)
    with torch.no_grad():
        loaded.model.model.norm.weight[3] += 1e-6  # lost in bfloat16
    assert digest(loaded) != first


def test_a_mixed_model_is_computed_in_bfloat16_where_that_was_asked_for(mixed):
    loaded = load(options(mixed, dtype="bfloat16"))
    assert loaded.model.dtype == torch.bfloat16
    assert loaded.notes == []
    assert loaded.dtype_of("model.norm.weight") == torch.float32


def test_a_mixed_model_in_memory_keeps_each_precision(tiny_model, tokenizer, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tiny_model(dtype="bfloat16"), dtype=torch.bfloat16)
    model.model.norm.float()
    loaded = prepare(model, tokenizer)
    assert loaded.odd_dtypes == {"model.norm.weight": torch.float32}
    save(loaded, tmp_path)
    found = {name: value.dtype for name, value in load_file(tmp_path / "model.safetensors").items()}
    assert {name for name, dtype in found.items() if dtype == torch.float32} == {"model.norm.weight"}


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float32])
def test_a_buffer_that_is_saved_keeps_its_precision(copy, tmp_path, stored):
    """The bias of DeepSeek's router: no parameter, computed in float32 here, in the files of the model in bfloat16."""
    folder = copy()
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "n_group": 2}
    heads = {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
    config = small(DeepseekV3Config, **sizes, **experts, **heads, topk_group=1, first_k_dense_replace=0)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    (bias,) = [name for name in tensors if "e_score_correction_bias" in name]
    tensors[bias] = torch.linspace(0, 1, 4).to(stored)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    loaded = load(options(folder, dtype="float32"))
    assert (loaded.saved_dtype, loaded.model.state_dict()[bias].dtype) == (torch.bfloat16, torch.float32)
    save(loaded, tmp_path / "saved")
    again = load_file(tmp_path / "saved" / "model.safetensors")
    assert again[bias].dtype == stored
    assert torch.equal(again[bias], tensors[bias])
    assert {value.dtype for name, value in again.items() if name != bias} == {torch.bfloat16}


def test_each_part_of_a_configuration_keeps_its_precision(copy, tmp_path):
    """Gemma 3 has one part that reads and one that sees; computed in float32, it is a bfloat16 model all the same."""
    folder = copy()
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": 320, "num_key_value_heads": 1, "head_dim": 8, "layer_types": ["full_attention"]}
    vision = {"image_size": 28, "patch_size": 14}
    tokens = {"image_token_index": 317, "boi_token_index": 318, "eoi_token_index": 319, "mm_tokens_per_image": 4}
    config = Gemma3Config(text_config=sizes | text, vision_config=sizes | vision, **tokens)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    before = json.loads((folder / "config.json").read_text())
    assert before["architectures"] == ["Gemma3ForConditionalGeneration"]
    loaded = load(options(folder, dtype="float32"))
    save(loaded, tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text()) == before
    assert before["text_config"]["dtype"] == before["vision_config"]["dtype"] == "bfloat16"
    assert loaded.model.config.text_config.dtype == torch.float32
    stored, again = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "saved"))
    assert all(torch.equal(value, again[name]) for name, value in stored.items())


def test_a_file_of_one_precision_follows_its_configuration(copy):
    """As in transformers: weights of float32 under a configuration that says bfloat16 are read in bfloat16."""
    folder = copy()
    configure(folder, dtype="bfloat16")
    loaded = load(options(folder))
    assert (loaded.saved_dtype, loaded.odd_dtypes) == (torch.bfloat16, {})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_without_a_word_in_the_configuration_the_file_tells(copy, dtype):
    folder = copy(dtype=dtype)
    configure(folder, dtype=None)
    assert load(options(folder)).saved_dtype == getattr(torch, dtype)


def test_float64_models_are_computed_and_saved_in_float64(copy, tmp_path):
    loaded = load(options(copy(dtype="float64")))
    assert (loaded.model.dtype, loaded.saved_dtype, loaded.notes) == (torch.float64, torch.float64, [])
    save(loaded, tmp_path / "saved")
    assert digest(load(options(tmp_path / "saved"))) == digest(loaded)


def test_experts_are_computed_in_float64_too(tokenizer):
    """The grouped product of experts, the usual one, has no float64."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 1, "initializer_range": 0.2}
    model = AutoModelForCausalLM.from_config(small(MixtralConfig, **sizes, **experts))
    narrow = logits(prepare(copying.deepcopy(model), tokenizer).model)
    torch.testing.assert_close(logits(prepare(model.double(), tokenizer).model).float(), narrow, rtol=1e-4, atol=1e-4)


# Models and tokenizers that do not quite fit


def test_a_vocabulary_smaller_than_the_tokenizers_counts(copy):
    """The tokenizer knows 320 tokens; a model of 300 has logits for those alone."""
    folder = copy()
    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][:300].clone()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    configure(folder, vocab_size=300)
    assert load(options(folder)).vocabulary == 300


def test_a_model_without_end_or_padding_tokens_is_read_and_saved(copy, tmp_path):
    folder = copy()
    (folder / "generation_config.json").unlink()
    configure(folder, eos_token_id=None, pad_token_id=None, bos_token_id=None)
    loaded = load(options(folder))
    assert loaded.notes == []
    save(loaded, tmp_path / "saved")
    assert load(options(tmp_path / "saved")).model.config.eos_token_id is None


# What a loaded model knows of itself


@pytest.mark.parametrize("spare", [0, 5])
def test_rows_that_the_tokenizer_does_not_know_are_not_counted(tiny_model, spare):
    loaded = load(options(tiny_model(spare_rows=spare)))
    assert loaded.model.get_output_embeddings().weight.shape[0] == 320 + spare
    assert loaded.vocabulary == 320
    assert loaded.position_limit == 256


def test_files_are_those_that_the_model_was_read_from(tiny_model):
    folder = tiny_model()
    names = [path.name for path in load(options(folder)).files]
    assert names == sorted(names)
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= set(names)


# Random weights


def test_new_weights_follow_the_seed_and_leave_the_callers_random_numbers(tiny_model):
    state = torch.random.get_rng_state()
    first, again, other = (load(options(tiny_model()), from_scratch=True, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert digest(first) == digest(again) != digest(other)
    assert digest(first) != digest(load(options(tiny_model())))
    assert first.model.generation_config.eos_token_id == first.tokenizer.eos_token_id


def test_loading_leaves_the_callers_random_numbers(tiny_model):
    state = torch.random.get_rng_state()
    load(options(tiny_model()))
    assert torch.equal(torch.random.get_rng_state(), state)


# Dropout


@pytest.mark.parametrize("config", [gpt2(), opt()], ids=["GPT-2", "OPT"])
def test_every_dropout_is_off_even_in_training_mode(config, tokenizer):
    """GPT-2 keeps its rates (0.1) in modules, OPT in plain numbers, among them the share of layers to skip."""
    torch.manual_seed(0)
    loaded = prepare(AutoModelForCausalLM.from_config(config), tokenizer)
    assert not loaded.model.training
    expected = logits(loaded.model)
    loaded.model.train()
    for _ in range(3):
        assert torch.equal(logits(loaded.model), expected)


def test_dropout_of_the_saved_configuration_is_the_models_own(tokenizer, tmp_path):
    loaded = prepare(GPT2LMHeadModel(gpt2()), tokenizer)
    save(loaded, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["resid_pdrop"] == 0.1


# Saving


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_saved_model_reloads_to_equal_logits(tiny_model, tmp_path, dtype, tied):
    loaded = load(options(tiny_model(tied=tied, dtype=dtype), dtype="float32"))
    with torch.no_grad():
        loaded.model.model.norm.weight.mul_(1.1)
    round_to_saved(loaded)
    before = weights(loaded.model)
    save(loaded, tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype="auto")
    assert again.dtype == getattr(torch, dtype)
    assert (again.get_input_embeddings().weight is again.get_output_embeddings().weight) is tied
    assert torch.equal(logits(again.float()), logits(loaded.model))
    assert all(torch.equal(value, before[name]) for name, value in loaded.model.named_parameters())
    assert loaded.model.dtype == torch.float32


def test_saving_rounds_the_file_and_not_the_model(tiny_model, tmp_path):
    loaded = load(options(tiny_model(dtype="bfloat16"), dtype="float32"))
    with torch.no_grad():
        loaded.model.model.norm.weight.add_(1e-4)
    save(loaded, tmp_path)
    assert torch.equal(loaded.model.model.norm.weight, torch.full((32,), 1 + 1e-4))
    assert torch.equal(load_file(tmp_path / "model.safetensors")["model.norm.weight"], torch.ones(32).bfloat16())


def test_the_model_keeps_its_precision_where_saving_fails(tiny_model, tmp_path, monkeypatch):
    loaded = load(options(tiny_model(dtype="bfloat16"), dtype="float32"))

    def fail(folder, **options):
        raise OSError("no space left on device")

    monkeypatch.setattr(loaded.model, "save_pretrained", fail)
    with pytest.raises(OSError, match="no space left"):
        save(loaded, tmp_path)
    assert {value.dtype for value in loaded.model.parameters()} == {torch.float32}


def test_chat_template_and_generation_settings_are_kept(copy, tmp_path):
    folder = copy()
    settings = {"do_sample": True, "temperature": 0.6, "eos_token_id": [2, 7], "max_new_tokens": 5}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    template = "{% for turn in messages %}{{ turn['content'] }}<eos>{% endfor %}"
    (folder / "chat_template.jinja").write_text(template)
    loaded = load(options(folder))
    assert loaded.notes == []
    save(loaded, tmp_path / "saved")
    again = load(options(tmp_path / "saved"))
    assert again.tokenizer.chat_template == template
    assert again.tokenizer.get_vocab() == loaded.tokenizer.get_vocab()
    text = "Question: Who?\nAnswer:"
    assert again.tokenizer(text)["input_ids"] == loaded.tokenizer(text)["input_ids"]
    assert {name: getattr(again.model.generation_config, name) for name in settings} == settings


def test_sampling_values_of_a_published_model_survive(copy, tmp_path):
    """A file with a temperature but without do_sample, as some models on the Hub have it."""
    folder = copy()
    (folder / "generation_config.json").write_text(json.dumps({"temperature": 0.6, "top_p": 0.9, "eos_token_id": 2}))
    save(load(options(folder)), tmp_path / "saved")
    again = load(options(tmp_path / "saved")).model.generation_config
    assert (again.temperature, again.top_p, again.eos_token_id) == (0.6, 0.9, 2)


def test_sampling_values_without_sampling_are_mended_with_a_note(tiny_model, tokenizer, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tiny_model())
    model.generation_config.temperature = 0.6
    loaded = prepare(model, tokenizer)
    assert loaded.notes == ["the model's generation configuration sets sampling values without do_sample: switched on."]
    save(loaded, tmp_path)
    again = load(options(tmp_path)).model.generation_config
    assert (again.do_sample, again.temperature) == (True, 0.6)


def test_a_generation_configuration_beyond_mending_leaves_its_special_tokens(tiny_model, tokenizer, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tiny_model())
    model.generation_config.early_stopping = "sometimes"
    loaded = prepare(model, tokenizer)
    assert loaded.notes == ["the model's generation configuration is not valid: only its special tokens were kept."]
    save(loaded, tmp_path)
    again = load(options(tmp_path)).model.generation_config
    assert (again.bos_token_id, again.eos_token_id, again.pad_token_id) == (1, 2, 0)


# Rounding and identity


@pytest.mark.parametrize(
    ("computed", "saved", "expected"),
    [
        (torch.float32, torch.bfloat16, 1.0),
        (torch.float32, torch.float16, 1.0009765625),
        (torch.bfloat16, torch.float16, 1.0),
        (torch.bfloat16, torch.float32, 1.0),
        (torch.float32, torch.float32, 1.001),
    ],
)
def test_as_saved_rounds_for_as_long_as_it_lasts(computed, saved, expected):
    """1.001 lies between 1 and 1 + 2^-7 in bfloat16, and next to 1 + 2^-10 in float16."""
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(layer.weight, 1.001)
    layer = layer.to(computed)
    layer.dtype = computed
    before = layer.weight.detach().clone()
    with as_saved(Loaded(layer, None, saved)):
        assert layer.weight.item() == pytest.approx(expected, rel=1e-7)
        assert layer.weight.dtype == computed
    assert torch.equal(layer.weight, before)


def test_as_saved_rounds_what_float16_cannot_hold():
    """bfloat16 and float16 have equal sizes, but 1e-8 is 0 in float16."""
    layer = torch.nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    torch.nn.init.constant_(layer.weight, 1e-8)
    layer.dtype = torch.bfloat16
    with as_saved(Loaded(layer, None, torch.float16)):
        assert layer.weight.item() == 0.0
    assert layer.weight.item() > 0.0


def test_digest_is_of_the_weights_as_saved(tiny_model):
    folder = tiny_model(dtype="bfloat16")
    wide, narrow = (load(options(folder, dtype=dtype)) for dtype in ("float32", "bfloat16"))
    first = digest(wide)
    assert digest(narrow) == first
    norm = wide.model.model.norm.weight
    with torch.no_grad():
        norm[3] += 1e-4  # lost in bfloat16
        assert digest(wide) == first
        norm[3] += 1e-2
    assert digest(wide) != first


# Activations computed again


def gradients(model) -> list[torch.Tensor]:
    found = model(input_ids=IDS, use_cache=False).logits.square().sum()
    return list(torch.autograd.grad(found, list(model.parameters())))


class Calls:
    """Counts how often each layer's second half is computed."""

    def __init__(self, model, monkeypatch) -> None:
        self.count = 0
        for layer in model.model.layers:
            monkeypatch.setattr(layer.mlp, "forward", self._counted(layer.mlp.forward))

    def _counted(self, forward):
        def counted(*arguments):
            self.count += 1
            return forward(*arguments)

        return counted


def test_gradients_are_the_same_and_layers_computed_twice(tiny_model, monkeypatch):
    loaded = load(options(tiny_model(tied=False)))
    expected = gradients(loaded.model)
    calls = Calls(loaded.model, monkeypatch)
    with checkpointed(loaded):
        found = gradients(loaded.model)
    assert calls.count == 4  # two layers, in the forward pass and in the backward pass
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_switched_off_it_changes_nothing(tiny_model, monkeypatch):
    loaded = load(options(tiny_model()))
    calls = Calls(loaded.model, monkeypatch)
    with checkpointed(loaded, on=False):
        gradients(loaded.model)
        assert not loaded.model.training
    assert calls.count == 2


def test_a_model_is_measured_as_before_within_and_after(tiny_model):
    loaded = load(options(tiny_model()))
    expected = logits(loaded.model)
    with checkpointed(loaded):
        assert torch.equal(logits(loaded.model), expected)
    assert torch.equal(logits(loaded.model), expected)
    assert not any(part.training for part in loaded.model.modules())
    assert not loaded.model.get_input_embeddings()._forward_hooks


def test_it_ends_with_generation_as_before(tiny_model):
    loaded = load(options(tiny_model()))

    def generate() -> list[list[int]]:
        settings = {"max_new_tokens": 8, "do_sample": False, "attention_mask": torch.ones_like(IDS)}
        return loaded.model.generate(IDS, **settings).tolist()

    expected = generate()
    with pytest.raises(KeyboardInterrupt), checkpointed(loaded):
        raise KeyboardInterrupt
    assert generate() == expected


@pytest.mark.parametrize("config", [falcon(), opt(), gpt2()], ids=["Falcon", "OPT", "GPT-2"])
def test_dropout_stays_off_in_the_training_mode_that_it_needs(config, tokenizer):
    """Falcon reads its rates from the configuration each time."""
    torch.manual_seed(0)
    loaded = prepare(AutoModelForCausalLM.from_config(config), tokenizer)
    rates = {name: value for name, value in vars(config).items() if "drop" in name}
    expected = gradients(loaded.model)
    with checkpointed(loaded):
        assert any(part.training for part in loaded.model.modules())
        found = gradients(loaded.model)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert {name: getattr(loaded.model.config, name) for name in rates} == rates


def test_a_model_that_cannot_is_refused(tiny_model, monkeypatch):
    loaded = load(options(tiny_model()))
    monkeypatch.setattr(loaded.model, "supports_gradient_checkpointing", False, raising=False)
    sentence = "LlamaForCausalLM has no gradient checkpointing; leave --gradient_checkpointing out"
    with pytest.raises(InputError, match=sentence), checkpointed(loaded):
        pass
