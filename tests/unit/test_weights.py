"""Files of weights, whole or not, and what a folder may hold in place of a model."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from amnestic.errors import InputError
from amnestic.model.load import digest, load, prepare, save
from amnestic.model.options import ModelOptions


def options(folder: Path | str, **changes) -> ModelOptions:
    return ModelOptions(model=str(folder), **{"device": "cpu"} | changes)


@pytest.fixture
def tokenizer(tiny_model):
    return load(options(tiny_model())).tokenizer


def refusal(folder: Path | str, **changes) -> str:
    with pytest.raises(InputError) as caught:
        load(options(folder, **changes))
    return str(caught.value)


def break_weights(folder: Path, how: str) -> None:
    path = folder / "model.safetensors"
    if how == "cut short":
        path.write_bytes(path.read_bytes()[:-100])
    elif how == "absent":
        path.unlink()
    elif how == "another shape":
        tensors = load_file(path)
        tensors["model.norm.weight"] = torch.ones(5)
        save_file(tensors, path, {"format": "pt"})
    else:
        tensors = load_file(path)
        del tensors["model.norm.weight"]
        save_file(tensors, path, {"format": "pt"})


def test_absent_weights_are_refused(copy):
    folder = copy()
    break_weights(folder, "absent")
    found = refusal(folder)
    assert found.startswith(f"cannot load the weights of {str(folder)!r}: ")
    assert "\n" not in found


def test_a_damaged_file_of_weights_is_named(copy):
    folder = copy()
    break_weights(folder, "cut short")
    found = refusal(folder)
    assert found.startswith(f"{folder / 'model.safetensors'} is damaged (")
    assert found.endswith("); copy or download it again.")


def test_weights_of_another_shape_are_named_with_both_shapes(copy):
    folder = copy()
    break_weights(folder, "another shape")
    assert refusal(folder) == (
        f"the weights of {str(folder)!r} hold model.norm.weight in shape (5,), and its configuration expects (32,); "
        "give weights and configuration of the same model."
    )


@pytest.mark.parametrize(("broken", "value"), [(1, torch.nan), (2, torch.inf), (3, -torch.inf)])
def test_weights_that_are_no_finite_numbers_are_refused(copy, broken, value):
    folder = copy()
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][4 : 4 + broken] = value
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert refusal(folder) == (
        f"the weights of {str(folder)!r} are broken: {broken} of the 32 numbers in model.norm.weight are not finite; "
        "expected a model without NaN and infinity."
    )


def test_a_broken_model_in_memory_is_refused(tiny_model, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(tiny_model())
    torch.nn.init.constant_(model.model.norm.weight, torch.nan)
    with pytest.raises(
        InputError, match=r"weights of LlamaForCausalLM are broken: 32 of the 32 numbers in model\.norm"
    ):
        prepare(model, tokenizer)


@pytest.fixture
def shards(copy) -> Path:
    """A model in several files."""
    folder = copy(tied=False)
    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="40KB")
    assert len(list(folder.glob("model-*.safetensors"))) == 5
    return folder


def test_a_model_in_several_files_is_read(shards, tiny_model):
    assert digest(load(options(shards))) == digest(load(options(tiny_model(tied=False))))


def test_a_missing_file_of_several_is_named(shards):
    (shards / "model-00002-of-00005.safetensors").unlink()
    assert refusal(shards) == (
        f"the folder {str(shards)!r} lacks 1 of its 5 files of weights, model-00002-of-00005.safetensors among them; "
        "copy or download them again."
    )


def test_a_damaged_file_of_several_is_named(shards):
    path = shards / "model-00003-of-00005.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    assert refusal(shards).startswith(f"{path} is damaged (")


@pytest.mark.parametrize("text", ["{", "{}", "[]"])
def test_a_broken_list_of_files_is_named(shards, text):
    path = shards / "model.safetensors.index.json"
    path.write_text(text)
    assert refusal(shards) == f"{path} is no list of weights (JSON with a weight_map); copy or download it again."


def test_tensors_that_the_model_does_not_have_are_said_to_be_lost(copy):
    folder = copy()
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"v_head.weight": torch.ones(2)}, folder / "model.safetensors", {"format": "pt"})
    (note,) = load(options(folder)).notes
    assert note == (
        "the weights hold 1 tensors that LlamaForCausalLM does not have, v_head.weight among them: they are not read, "
        "and the saved model will not have them."
    )


# What a folder may hold in place of a model


def configure(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("inside", [True, False])
def test_a_gguf_file_is_no_model_to_train(tmp_path, inside):
    (tmp_path / "model-q4.gguf").write_bytes(b"GGUF")
    name = str(tmp_path if inside else tmp_path / "model-q4.gguf")
    assert refusal(name) == (
        f"--model is {name!r}, which holds a GGUF file, made to run a model and not to train it; give the folder that "
        "it was made from."
    )


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "fp8", "mxfp4", "an unnamed method"])
def test_quantized_weights_are_refused(copy, method):
    folder = copy()
    configure(folder, quantization_config={"bits": 4} | ({"quant_method": method} if " " not in method else {}))
    assert refusal(folder) == (
        f"the model {str(folder)!r} is quantized ({method}), and its weights cannot be trained; give the model that it "
        "was made from, in float32, bfloat16 or float16."
    )


def test_a_quantized_model_in_memory_is_refused(tiny_model, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(tiny_model())
    model.hf_quantizer = object()
    with pytest.raises(InputError, match=r"\(LlamaForCausalLM\) is quantized; load it without quantization"):
        prepare(model, tokenizer)


def test_a_class_that_could_not_be_loaded_again_is_refused(tokenizer):
    """After hours of training, its folder could not be read."""

    class OwnConfig(LlamaConfig):
        model_type = "own"

    class Own(LlamaForCausalLM):
        config_class = OwnConfig

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    with pytest.raises(
        InputError, match="is Own, which AutoModelForCausalLM could not load again once it is saved; reg"
    ):
        prepare(Own(OwnConfig(vocab_size=320, **sizes)), tokenizer)


# Pickles


class Payload:
    """Unpickled without care, it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.fixture
def pickled(copy) -> Path:
    """A folder with pytorch_model.bin alone."""
    folder = copy(tied=False)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def test_pickles_are_not_read_unless_allowed(pickled):
    assert refusal(pickled) == (
        f"the folder {str(pickled)!r} holds its weights as pickles (pytorch_model.bin) alone, a format that can run "
        "code when it is read; convert them to safetensors, or give --allow_pickle to read tensors from them, and "
        "nothing else."
    )


def test_allowed_pickles_are_read_and_saved_as_safetensors(pickled, tiny_model, tmp_path):
    loaded = load(options(pickled, allow_pickle=True))
    assert digest(loaded) == digest(load(options(tiny_model(tied=False))))
    assert "pytorch_model.bin" in [path.name for path in loaded.files]
    save(loaded, tmp_path / "saved")
    assert digest(load(options(tmp_path / "saved"))) == digest(loaded)


def test_pickles_in_several_files_are_no_exception(pickled, tiny_model):
    tensors = torch.load(pickled / "pytorch_model.bin")
    (pickled / "pytorch_model.bin").unlink()
    torch.save(tensors, pickled / "pytorch_model-00001-of-00001.bin")
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "pytorch_model-00001-of-00001.bin")}
    (pickled / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert "give --allow_pickle" in refusal(pickled)
    assert digest(load(options(pickled, allow_pickle=True))) == digest(load(options(tiny_model(tied=False))))


def test_a_pickle_that_holds_code_is_refused_even_where_pickles_are_allowed(pickled, tmp_path):
    marker = tmp_path / "executed"
    path = pickled / "pytorch_model.bin"
    torch.save(torch.load(path) | {"model.norm.weight": Payload(marker)}, path)
    assert refusal(pickled, allow_pickle=True) == (
        f"the pickles of {str(pickled)!r} hold something else than tensors, which was not read, or are damaged; give "
        "the model in safetensors."
    )
    assert not marker.exists()
    torch.load(path, weights_only=False)  # the payload itself works
    assert marker.exists()


def test_safetensors_are_preferred_where_pickles_are_allowed(copy, tmp_path):
    folder = copy()
    marker = tmp_path / "executed"
    torch.save({"model.norm.weight": Payload(marker)}, folder / "pytorch_model.bin")
    for allow_pickle in (True, False):
        load(options(folder, allow_pickle=allow_pickle))
    assert not marker.exists()


def test_weights_that_lack_a_tensor_are_refused(copy):
    """transformers would fill the gap with random numbers."""
    folder = copy()
    break_weights(folder, "lacking")
    assert refusal(folder) == (
        f"the weights of {str(folder)!r} lack 1 tensors of the model, model.norm.weight among them; expected a whole "
        "causal language model."
    )


# Models of the Hub


@pytest.fixture
def of_the_hub(pickled, tmp_path, monkeypatch) -> str:
    """The name of a model of the Hub that was downloaded before; it has pickles alone."""
    snapshot = tmp_path / "hub" / "models--owner--name" / "snapshots" / ("0" * 40)
    shutil.copytree(pickled, snapshot)
    reference = snapshot.parents[1] / "refs" / "main"
    reference.parent.mkdir()
    reference.write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return "owner/name"


def test_pickles_of_the_hub_are_not_read_unless_allowed(of_the_hub, tiny_model):
    found = refusal(of_the_hub)
    assert found.startswith("cannot load the weights of 'owner/name': ")
    assert found.endswith(" (weights in pickles alone are read with --allow_pickle).")
    loaded = load(options(of_the_hub, allow_pickle=True))
    assert digest(loaded) == digest(load(options(tiny_model(tied=False))))
    assert "pytorch_model.bin" in [path.name for path in loaded.files]


@pytest.mark.parametrize("before", [None, "0"])
def test_nobody_is_asked_to_convert_a_model(tiny_model, monkeypatch, before):
    """transformers would have a service convert pickles of the Hub, and load the result from a pull request."""
    name = "DISABLE_SAFETENSORS_CONVERSION"
    monkeypatch.delenv(name, raising=False)
    if before is not None:
        monkeypatch.setenv(name, before)
    found = []
    original = AutoModelForCausalLM.from_pretrained

    def spy(*arguments, **named):
        found.append(os.environ.get(name))
        return original(*arguments, **named)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", spy)
    load(options(tiny_model()))
    assert found == ["1"]
    assert os.environ.get(name) == before
