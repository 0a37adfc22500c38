"""LoRA adapters: what is trained, what is computed with and without, what a merge gives, what is read and written."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma3Config, GPT2Config, GPT2LMHeadModel, MixtralConfig

from amnestic.errors import InputError, RunError
from amnestic.model import adapter as adapters
from amnestic.model.adapter import Base, merged, switched_off, unwrapped
from amnestic.model.fidelity import Sample
from amnestic.model.load import adapt, as_saved, digest, load, merge_adapter, prepare, reload, save
from amnestic.model.options import AdapterOptions, ModelOptions

PEFTS_OWN = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
"""peft asks transformers for an attribute by its older name."""
IDS = torch.tensor([[1, 5, 9, 200, 31, 7], [1, 300, 4, 4, 18, 2]])
WIDTH, INNER, LAYERS = 32, 64, 2


def lora(**changes) -> AdapterOptions:
    return AdapterOptions(use_peft=True, **changes)


def loaded(folder: Path | str, **changes):
    return load(ModelOptions(model=str(folder), **{"device": "cpu"} | changes))


@torch.inference_mode()
def logits(model) -> torch.Tensor:
    return model(input_ids=IDS, use_cache=False).logits


def stir(model, seed: int = 3) -> None:
    """Give the second factors, which are 0 at the start, numbers."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = (torch.randn(parameter.shape, generator=generator) * 0.05).to(parameter.dtype)


def adapted(folder: Path, options: AdapterOptions | None = None, seed: int = 0, **changes):
    model = loaded(folder, **changes)
    adapt(model, options or lora(), seed)
    return model


# What is trained


def test_only_the_adapter_is_trained_and_nothing_else_changes(tiny_model):
    """Four projections of 32 x 32 and three of 32 x 64 in each of two layers: r (in + out) numbers each."""
    before = logits(loaded(tiny_model()).model)
    model = adapted(tiny_model(), lora(lora_r=4))
    trained = {name: value for name, value in model.model.named_parameters() if value.requires_grad}
    assert all("lora_A" in name or "lora_B" in name for name in trained)
    assert len(trained) == 2 * 7 * LAYERS
    count = LAYERS * 4 * (4 * (WIDTH + WIDTH) + 3 * (WIDTH + INNER))
    assert sum(value.numel() for value in trained.values()) == model.adapter.parameters == count
    assert model.adapter.modules == 7 * LAYERS
    assert torch.equal(logits(model.model), before)
    rates = [m.p for m in model.model.modules() if isinstance(m, torch.nn.Dropout)]
    assert not any(rates)


@pytest.mark.parametrize(("dtype", "own"), [("bfloat16", torch.float32), ("float32", torch.float32)])
def test_an_adapter_is_float32_at_least(tiny_model, dtype, own):
    model = adapted(tiny_model(dtype=dtype), dtype=dtype)
    assert {value.dtype for value in model.model.parameters() if value.requires_grad} == {own}
    assert str(model.model.dtype) == f"torch.{dtype}"
    assert model.candidate_bytes == 4 * model.adapter.parameters == model.saved_bytes


def test_an_adapter_depends_on_the_seed_alone_and_leaves_the_callers_numbers(tiny_model):
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    first = digest(adapted(tiny_model(), seed=5))
    assert torch.equal(torch.rand(3), expected)
    assert digest(adapted(tiny_model(), seed=5)) == first
    assert digest(adapted(tiny_model(), seed=6)) != first


def test_the_model_without_its_adapter_has_the_digest_from_before(tiny_model):
    plain = digest(loaded(tiny_model()))
    model = adapted(tiny_model())
    stir(model.model)
    assert digest(model, without_adapter=True) == plain != digest(model)


def test_tensors_of_another_precision_keep_it(tiny_model, tmp_path):
    """The norms of a bfloat16 model in float32, and a projection in float32, whose name the adapter changes."""
    folder = shutil.copytree(tiny_model(dtype="bfloat16"), tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    tensors[name] = tensors[name].float() + 1e-5
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model = adapted(folder, lora(merge=True), dtype="float32")
    assert model.dtype_of("model.layers.0.self_attn.q_proj.base_layer.weight") == torch.float32
    assert model.dtype_of("model.layers.0.self_attn.k_proj.base_layer.weight") == torch.bfloat16
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    assert model.saved_bytes == size


def test_experts_that_are_no_linear_layers_are_told(tmp_path):
    config = MixtralConfig(
        vocab_size=320, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=2, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    found = adapters.attach(model, lora(), Base("x"), 0)
    assert found.modules == 4
    assert "of the experts (2 tensors, model.layers.0.mlp.experts" in str(adapters.untouched_experts(model))


SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.mark.parametrize("names", [("all-linear",), ("q_proj",)])
def test_of_a_model_that_sees_too_only_what_reads_is_adapted(names):
    """No text reaches the rest, whose layers bear the same names; the first step would find them without a gradient."""
    text = SIZES | {"head_dim": 8, "num_key_value_heads": 1, "vocab_size": 320}
    config = Gemma3Config(
        text_config=text, vision_config=SIZES | {"image_size": 28, "patch_size": 14}, mm_tokens_per_image=4,
        image_token_id=317, boi_token_id=318, eoi_token_id=319,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    found = adapters.attach(model, lora(lora_target_modules=names), Base("x"), 0)
    assert found.modules == (14 if names == ("all-linear",) else 2)
    model(input_ids=IDS).logits.sum().backward()
    assert [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None] == []


# What cannot be adapted


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (
            ("q_proj", "query"),
            (
                "--lora_target_modules names 'query', which is no linear or embedding layer of the model "
                "(LlamaForCausalLM); it has: down_proj, embed_tokens, gate_proj, k_proj, lm_head, o_proj, q_proj, "
                "up_proj, v_proj."
            ),
        ),
        (("norm",), "--lora_target_modules names 'norm', which is no linear or embedding layer"),
        (("proj",), "--lora_target_modules names 'proj', which is no linear"),
        (
            ("q_proj", "lm_head"),
            (
                "--lora_target_modules names lm_head, whose weight is that of model.embed_tokens too (tied embedd"
                "ings), and an adapter would tear them apart; leave it out."
            ),
        ),
        (("embed_tokens",), "--lora_target_modules names model.embed_tokens, whose weight is that of lm_head too"),
        (("embed_tokens", "lm_head"), "--lora_target_modules names lm_head, whose weight is that of model.embed_tok"),
    ],
)
def test_modules_that_cannot_be_adapted_are_refused(tiny_model, names, sentence):
    with pytest.raises(InputError, match=re.escape(sentence)):
        adapted(tiny_model(tied=True), lora(lora_target_modules=names))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"lora_r": 8}, "--lora_r describes an adapter, and --use_peft was not given; give it, or leave it out."),
        ({"lora_alpha": 8, "merge": True}, "--lora_alpha, --merge describes an adapter, and --use_peft was not"),
        ({"lora_target_modules": ("q_proj",)}, "--lora_target_modules describes an adapter"),
        ({"use_peft": True, "lora_r": 0}, "--lora_r is 0; expected a whole number of at least 1."),
        ({"use_peft": True, "lora_alpha": -1}, "--lora_alpha is -1; expected a whole number of at least 1."),
        ({"use_peft": True, "lora_target_modules": ()}, "--lora_target_modules names no module"),
        ({"use_peft": True, "lora_target_modules": ("all-linear", "x")}, "names all-linear and more; give it alone"),
    ],
)
def test_options_that_no_run_could_use_are_refused(values, sentence):
    with pytest.raises(InputError, match=re.escape(sentence)):
        AdapterOptions(**values)


def test_without_peft_it_is_said_how_to_install_it(monkeypatch):
    monkeypatch.setattr(adapters, "find_spec", lambda name: None)
    adapters.check_library(AdapterOptions())
    with pytest.raises(
        InputError, match=re.escape("--use_peft needs peft; install it with: pip install 'amnestic[pef")
    ):
        adapters.check_library(lora())


# The reference


def test_the_adapter_switched_off_is_the_model_from_before(tiny_model):
    model = adapted(tiny_model())
    before = logits(loaded(tiny_model()).model)
    stir(model.model)
    loss = model.model(input_ids=IDS, labels=IDS).loss
    assert not torch.allclose(logits(model.model), before, atol=1e-2)
    flags = [parameter.requires_grad for parameter in model.model.parameters()]
    with switched_off(model.model):
        assert torch.equal(logits(model.model), before)
        assert [parameter.requires_grad for parameter in model.model.parameters()] == flags
        loss.backward()
    assert [parameter.requires_grad for parameter in model.model.parameters()] == flags
    assert all(parameter.grad is not None for parameter in model.model.parameters() if parameter.requires_grad)
    assert not torch.allclose(logits(model.model), before, atol=1e-2)


# Merging


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_merged_weight_is_that_of_the_formula_rounded_once(tiny_model, dtype):
    """W + (alpha / r) B A, by hand in float64; the model is computed in float32 and saved in `dtype`."""
    model = adapted(tiny_model(dtype=dtype), lora(lora_r=4, lora_alpha=12, merge=True), dtype="float32")
    stir(model.model)
    layer = model.model.model.layers[1].mlp.down_proj
    a, b = (factor["default"].weight.detach().double() for factor in (layer.lora_A, layer.lora_B))
    base = layer.base_layer.weight.detach().clone()
    expected = (base.double() + 3.0 * (b @ a)).to(getattr(torch, dtype)).float()
    before = logits(model.model)
    with as_saved(model):
        found = layer.base_layer.weight.detach().clone()
        inside = logits(model.model)
    close = {"float32": 1e-6, "bfloat16": 2**-8}[dtype]
    assert torch.allclose(found, expected, rtol=close, atol=1e-7)
    assert torch.equal(found, found.to(getattr(torch, dtype)).float())
    assert not torch.equal(found, base)
    assert torch.equal(layer.base_layer.weight, base)
    assert torch.equal(logits(model.model), before)
    merge_adapter(model)
    assert torch.equal(logits(model.model), inside), "what was measured is what is written"
    assert torch.equal(model.model.model.layers[1].mlp.down_proj.weight, found)
    assert not adapters.carries_adapter(model.model)
    assert {name for name, _ in model.model.named_parameters()} == {
        name for name, _ in loaded(tiny_model(dtype=dtype)).model.named_parameters()
    }


def test_a_merge_that_is_interrupted_puts_the_weights_back(tiny_model):
    model = adapted(tiny_model(), lora(merge=True))
    stir(model.model)
    before = logits(model.model)
    with pytest.raises(KeyboardInterrupt), merged(model.model, model.dtype_of):
        raise KeyboardInterrupt
    assert torch.equal(logits(model.model), before)


@pytest.mark.parametrize("names", [("all-linear",), ("embed_tokens", "lm_head", "v_proj")])
def test_an_untied_model_is_merged_whatever_is_adapted(tiny_model, tmp_path, names):
    model = adapted(tiny_model(tied=False), lora(lora_target_modules=names, merge=True))
    stir(model.model)
    before = logits(model.model)
    merge_adapter(model)
    save(model, tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.allclose(logits(again), before, atol=1e-4)


def test_tied_embeddings_survive_a_merge(tiny_model, tmp_path):
    model = adapted(tiny_model(tied=True), lora(merge=True))
    stir(model.model)
    before = logits(model.model)
    merge_adapter(model)
    save(model, tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    assert torch.allclose(logits(again), before, atol=1e-4)


def test_layers_that_store_their_weight_transposed_are_merged_too():
    """GPT-2's Conv1D, W + 2 (B A)^T."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=320, n_positions=32, n_embd=32, n_layer=1, n_head=2)).eval()
    adapters.attach(model, lora(lora_r=2, lora_alpha=4), None, 0)
    stir(model)
    layer, before = model.transformer.h[0].attn.c_attn, logits(model)
    a, b = (factor["default"].weight.detach() for factor in (layer.lora_A, layer.lora_B))
    expected = layer.base_layer.weight.detach() + 2.0 * (b @ a).T
    adapters.merge(model, lambda _: torch.float32)
    assert torch.allclose(model.transformer.h[0].attn.c_attn.weight, expected, atol=1e-6)
    assert torch.allclose(logits(model), before, atol=1e-4)


def test_a_merge_that_lost_the_adapter_is_told(tiny_model):
    """The model without its adapter gives other logits; with it, the same."""
    model = adapted(tiny_model(), lora(merge=True))
    stir(model.model)
    sample = Sample.of(model, [IDS[0].numpy(), IDS[1].numpy()])
    assert sample.refuse_other(model, Path("model")) == 0
    other = loaded(tiny_model())
    with pytest.raises(
        RunError, match=r"the merged model in model gives other logits than the adapter on its base mod"
    ):
        sample.refuse_other(other, Path("model"))
    difference = logits(other.model).double() - logits(model.model).double()
    size = logits(model.model).double().square().sum()
    other.saved_dtype = torch.bfloat16
    expected = float((difference.square().sum() / size).sqrt())
    assert expected > 0.05
    with pytest.raises(RunError, match=re.escape(f"by {expected:.2g} of their size")):
        sample.refuse_other(other, Path("model"))


# Folders


@PEFTS_OWN
@pytest.mark.parametrize("kind", ["AutoModelForCausalLM", "AutoPeftModelForCausalLM"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_saved_adapter_is_loaded_onto_its_base_by_other_libraries(tiny_model, tmp_path, kind, dtype):
    model = adapted(tiny_model(dtype=dtype), lora(lora_r=4, lora_alpha=12), dtype=dtype)
    stir(model.model)
    save(model, tmp_path)
    found = json.loads((tmp_path / "adapter_config.json").read_text())
    assert found["base_model_name_or_path"] == str(tiny_model(dtype=dtype).resolve())
    assert (found["r"], found["lora_alpha"], found["lora_dropout"], found["task_type"]) == (4, 12, 0.0, "CAUSAL_LM")
    assert {value.dtype for value in load_file(tmp_path / "adapter_model.safetensors").values()} == {torch.float32}
    kinds = {"AutoModelForCausalLM": AutoModelForCausalLM, "AutoPeftModelForCausalLM": AutoPeftModelForCausalLM}
    again = kinds[kind].from_pretrained(tmp_path, dtype=getattr(torch, dtype)).eval()
    tolerance = {"float32": 1e-5, "bfloat16": 0.1}[dtype]  # transformers reads the adapter in the base's precision
    assert torch.allclose(logits(again), logits(model.model), atol=tolerance)
    assert AutoTokenizer.from_pretrained(tmp_path).get_vocab() == model.tokenizer.get_vocab()
    assert torch.equal(logits(reload(model, tmp_path).model), logits(model.model))


def test_the_same_adapter_is_the_same_file(tiny_model, tmp_path):
    for name in ("a", "b"):
        save(adapted(tiny_model()), tmp_path / name)
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_the_hub_id_of_a_base_model_stays_what_it_is(tiny_model, tmp_path):
    model = loaded(tiny_model())
    model.base = Base("owner/model", "v2")
    adapt(model, lora(), 0)
    save(model, tmp_path)
    found = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (found["base_model_name_or_path"], found["revision"]) == ("owner/model", "v2")
    assert not model.adapter.base.is_local


@pytest.fixture
def with_adapter(tiny_model, tmp_path) -> Path:
    """A folder with an adapter that moves the logits of its base model."""
    model = adapted(tiny_model())
    stir(model.model)
    save(model, tmp_path / "adapter")
    return tmp_path / "adapter"


@PEFTS_OWN
def test_a_model_that_is_an_adapter_is_merged_first(tiny_model, with_adapter):
    expected = logits(PeftModel.from_pretrained(loaded(tiny_model()).model, str(with_adapter)))
    model = loaded(with_adapter)
    assert torch.allclose(logits(model.model), expected, atol=1e-4)
    assert not torch.allclose(logits(model.model), logits(loaded(tiny_model()).model), atol=1e-2)
    base = str(tiny_model().resolve())
    assert model.notes == [f"{with_adapter} is an adapter: it was merged into its base model {base} first."]
    assert all(parameter.requires_grad for parameter in model.model.parameters())
    names = {path.name for path in model.files}
    assert {"adapter_model.safetensors", "adapter_config.json", "model.safetensors"} <= names
    assert not adapters.carries_adapter(model.model)


def test_a_new_adapter_on_a_merged_one_is_saved_merged_alone(with_adapter):
    with pytest.raises(InputError, match=r"those of this model are in no folder that it could name; give --merge"):
        adapt(loaded(with_adapter), lora(), 0)
    adapt(loaded(with_adapter), lora(merge=True), 0)


def test_an_adapter_in_bfloat16_is_merged_in_bfloat16(tiny_model, tmp_path):
    model = adapted(tiny_model(dtype="bfloat16"), dtype="bfloat16")
    stir(model.model)
    save(model, tmp_path / "adapter")
    again = loaded(tmp_path / "adapter", dtype="float32")
    assert again.saved_dtype == torch.bfloat16
    assert all(torch.equal(value, value.bfloat16().float()) for value in again.model.parameters())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"base_model_name_or_path": "/nowhere/at all"},
            "is an adapter of the base model '/nowhere/at all', which cann",
        ),
        ({"base_model_name_or_path": None}, "does not name the base model of the adapter; write its folder or Hub id."),
        ({"peft_type": "UNKNOWN"}, "cannot be read into its base model"),
        ("[]", "is no configuration of an adapter (JSON with a base_model_name_or_path); copy or download it again."),
        ("{", "is no configuration of an adapter"),
    ],
)
def test_an_adapter_that_cannot_be_used_is_refused(with_adapter, change, sentence):
    path = with_adapter / "adapter_config.json"
    text = change if isinstance(change, str) else json.dumps(json.loads(path.read_text()) | change)
    path.write_text(text)
    with pytest.raises(InputError, match=re.escape(sentence)):
        loaded(with_adapter)


@pytest.mark.parametrize(
    ("keep", "reason"),
    [
        (lambda _: False, "its weights lack tensors"),
        (lambda name: "layers.0" in name, "its weights lack tensors"),
    ],
)
def test_an_adapter_that_is_not_whole_is_refused(with_adapter, keep, reason):
    path = with_adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({name: tensor for name, tensor in tensors.items() if keep(name)}, path)
    with pytest.raises(InputError, match=rf"cannot be read into its base model: .*{reason}"):
        loaded(with_adapter)


def test_an_adapter_as_a_pickle_is_read_only_where_that_is_allowed(with_adapter):
    path = with_adapter / "adapter_model.safetensors"
    tensors, expected = load_file(path), logits(loaded(with_adapter).model)
    path.unlink()
    with pytest.raises(InputError, match=r"of an adapter lacks adapter_model.safetensors; copy or download it again"):
        loaded(with_adapter)
    torch.save(tensors, with_adapter / "adapter_model.bin")
    with pytest.raises(InputError, match=r"holds its adapter as a pickle \(adapter_model.bin\) alone"):
        loaded(with_adapter)
    assert torch.equal(logits(loaded(with_adapter, allow_pickle=True).model), expected)


def test_an_adapter_of_another_shape_is_refused(with_adapter):
    path = with_adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"r": 3}))
    with pytest.raises(InputError, match=r"cannot be read into its base model: .*; give the folder of an adapter that"):
        loaded(with_adapter)


def test_a_folder_with_a_model_and_an_adapter_is_refused(with_adapter, tiny_model):
    shutil.copy(tiny_model() / "model.safetensors", with_adapter)
    with pytest.raises(InputError, match=r"holds the weights of a whole model and an adapter \(adapter_config.json\)"):
        loaded(with_adapter)


# Models in memory


@pytest.fixture
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model())


def by_peft(model):
    return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "up_proj"]))


def by_transformers(model):
    model.add_adapter(LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "up_proj"]))
    return model


@PEFTS_OWN
@pytest.mark.parametrize("wrap", [by_peft, by_transformers])
def test_a_model_in_memory_is_merged_first(tiny_model, tokenizer, wrap):
    model = wrap(AutoModelForCausalLM.from_pretrained(tiny_model())).eval()
    stir(model)
    expected = logits(model)
    found = prepare(model, tokenizer)
    assert torch.allclose(logits(found.model), expected, atol=1e-4)
    assert type(found.model).__name__ == "LlamaForCausalLM"
    assert not adapters.carries_adapter(found.model)
    assert all(parameter.requires_grad for parameter in found.model.parameters())
    assert found.notes == ["the model carried an adapter, which was merged into it first."]


@PEFTS_OWN
def test_an_adapter_that_cannot_be_merged_is_refused(tiny_model, tokenizer):
    from peft import PromptTuningConfig

    model = AutoModelForCausalLM.from_pretrained(tiny_model())
    model = get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(InputError, match=r"adapter of the kind PROMPT_TUNING, which cannot be merged into it"):
        prepare(model, tokenizer)


def test_whole_modules_beside_an_adapter_are_not_lost(tiny_model):
    model = AutoModelForCausalLM.from_pretrained(tiny_model(tied=False))
    model.add_adapter(LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], modules_to_save=["lm_head"]))
    with pytest.raises(InputError, match=r"it holds whole modules too"):
        unwrapped(model)


def test_the_name_of_a_model_in_memory_is_believed_only_of_the_same_weights(tiny_model, tokenizer):
    model = prepare(AutoModelForCausalLM.from_pretrained(tiny_model()), tokenizer)
    adapt(model, lora(), 0)
    assert model.adapter.base == Base(str(tiny_model().resolve()))
    other = AutoModelForCausalLM.from_pretrained(tiny_model())
    other.model.norm.weight.data[0] += 1
    with pytest.raises(InputError, match=r"those of this model are in no folder that it could name"):
        adapt(prepare(other, tokenizer), lora(), 0)
