"""Models that bring Python code of their own, or pickles: run and read when asked for, never else."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import amnestic
from amnestic.errors import InputError

CONFIGURATION = """
from pathlib import Path
from transformers import LlamaConfig

Path({marker!r}).touch()


class OddConfig(LlamaConfig):
    model_type = "odd"
"""
MODELING = """
from pathlib import Path
from transformers import LlamaForCausalLM
from transformers.modeling_outputs import CausalLMOutputWithPast
from .configuration_odd import OddConfig

Path({marker!r}).touch()


class OddForCausalLM(LlamaForCausalLM):
    config_class = OddConfig

    def forward(self, *arguments, **named):
        found = super().forward(*arguments, **named)
        found.logits = found.logits * {factor}
        return found
"""
TOKENIZATION = """
from pathlib import Path
from transformers import PreTrainedTokenizerFast

Path({marker!r}).touch()


class OddTokenizer(PreTrainedTokenizerFast):
    pass
"""
NEEDS = (
    "needs Python code that comes with it, which was not run; read that code, and if you trust it to run with all your "
    "rights on this machine, give --trust_remote_code."
)
AUTO = {"AutoConfig": "configuration_odd.OddConfig", "AutoModelForCausalLM": "modeling_odd.OddForCausalLM"}


@pytest.fixture
def marker(tmp_path, monkeypatch):
    """The file that the code creates when it is run; the copies that transformers makes of it are a test's own."""
    cache = tmp_path / "modules"
    cache.mkdir()
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(cache))
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield tmp_path / "executed"
    for name in set(sys.modules) - before:
        if name.startswith("transformers_modules"):
            del sys.modules[name]


@pytest.fixture
def odd(people, tmp_path, marker) -> Path:
    """The model that knows the people, of an architecture that its own code defines."""
    return make_odd(people.model, tmp_path / "odd", marker)


def make_odd(model: Path, folder: Path, marker: Path, factor: str = "1.25") -> Path:
    shutil.copytree(model, folder)
    (folder / "configuration_odd.py").write_text(CONFIGURATION.format(marker=str(marker)))
    (folder / "modeling_odd.py").write_text(MODELING.format(marker=str(marker), factor=factor))
    change(folder / "config.json", model_type="odd", architectures=["OddForCausalLM"], auto_map=AUTO)
    return folder


def change(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_code_of_a_model_is_not_run_unless_asked_for(odd, marker, unlearn):
    outcome = unlearn(model=odd)
    assert outcome.status == 2
    assert outcome.err == f"error: the model {str(odd)!r} {NEEDS}\n"
    assert not marker.exists()
    assert not outcome.folder.exists()


@pytest.mark.parametrize("retrained_is_odd", [True, False])
def test_with_the_flag_it_is_run_up_to_the_saved_model_and_the_retrained_one(
    odd, people, marker, unlearn, tmp_path, retrained_is_odd
):
    other = make_odd(people.model, tmp_path / "other", marker) if retrained_is_odd else people.model
    outcome = unlearn(model=odd, trust_remote_code=True, retrained=other)
    assert outcome.status in (0, 3), outcome.err
    assert marker.exists()
    assert outcome.results["reload_difference"] < 1e-4
    saved = outcome.folder / "model"
    assert {"configuration_odd.py", "modeling_odd.py"} <= {path.name for path in saved.iterdir()}
    before = outcome.results["reference_metrics"]["forget.probability"]
    reference = outcome.results["retrained_metrics"]["forget.probability"]
    assert (before == pytest.approx(reference, rel=1e-5)) is retrained_is_odd  # its logits are 1.25 times as large
    model = AutoModelForCausalLM.from_pretrained(saved, trust_remote_code=True)
    assert type(model).__name__ == "OddForCausalLM"
    marker.unlink()
    again = unlearn(model=saved)
    assert again.status == 2
    assert "give --trust_remote_code" in again.err
    assert not marker.exists()


def test_a_retrained_model_with_its_own_code_needs_the_flag_too(odd, marker, unlearn):
    outcome = unlearn(retrained=odd)
    assert outcome.status == 2
    assert outcome.err == f"error: --retrained {odd} cannot be loaded: the model {str(odd)!r} {NEEDS}\n"
    assert not marker.exists()


def test_code_beside_an_architecture_that_is_known_is_not_run_but_noted(people, tmp_path, marker, unlearn):
    """Without a word, a user could think that this code had been used."""
    folder = make_odd(people.model, tmp_path / "odd", marker)
    change(folder / "config.json", model_type="llama", architectures=["LlamaForCausalLM"])
    outcome = unlearn(model=folder)
    (note,) = outcome.results["notes"]
    assert note == (
        "the model brings code of its own (modeling_odd.OddForCausalLM), which was not run: transformers' own was used "
        "in its place."
    )
    assert not marker.exists()


def test_nor_is_it_run_to_check_what_a_loaded_model_was_saved_as(people, tmp_path, marker):
    """The configuration names the code, but the class in memory is transformers' own."""
    folder = make_odd(people.model, tmp_path / "odd", marker)
    change(folder / "config.json", model_type="llama", architectures=["LlamaForCausalLM"])
    amnestic.unlearn(
        AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False),
        tokenizer=AutoTokenizer.from_pretrained(people.model),
        forget=people.rows["forget"],
        retain=people.rows["retain"],
        output_dir=tmp_path / "run",
        max_steps=1,
        max_new_tokens=2,
        keep=0.5,
    )
    assert not marker.exists()


def test_a_tokenizer_with_its_own_code_needs_the_flag(people, tmp_path, marker, unlearn):
    folder = tmp_path / "tokenizer"
    shutil.copytree(people.model, folder)
    (folder / "tokenization_odd.py").write_text(TOKENIZATION.format(marker=str(marker)))
    names = {"tokenizer_class": "OddTokenizer", "auto_map": {"AutoTokenizer": [None, "tokenization_odd.OddTokenizer"]}}
    change(folder / "tokenizer_config.json", **names)
    outcome = unlearn(model=folder)
    assert outcome.status == 2
    assert outcome.err == f"error: the tokenizer of {str(folder)!r} {NEEDS}\n"
    assert not marker.exists()
    outcome = unlearn(model=folder, trust_remote_code=True)
    assert outcome.status in (0, 3), outcome.err
    assert marker.exists()
    assert (outcome.folder / "model" / "tokenization_odd.py").is_file()


def test_code_that_fails_is_a_sentence(odd, unlearn):
    (odd / "modeling_odd.py").write_text("raise RuntimeError('no such luck')")
    outcome = unlearn(model=odd, trust_remote_code=True)
    assert outcome.status == 2
    assert outcome.err == f"error: cannot load the weights of {str(odd)!r}: no such luck.\n"


def test_a_new_model_of_its_own_code_is_trained(odd, people, finetune, marker):
    outcome = finetune(model=odd, from_scratch=True, data=people.file("full"), trust_remote_code=True)
    assert outcome.status == 0, outcome.err
    assert marker.exists()


def test_a_loaded_model_of_its_own_code_needs_no_flag(odd, people, tmp_path, marker):
    """Whoever loaded it has run its code already; what is saved is checked by running it again."""
    model = AutoModelForCausalLM.from_pretrained(odd, trust_remote_code=True)
    options = {"max_steps": 1, "keep": 0.5, "device": "auto"}
    run = amnestic.unlearn(
        model,
        tokenizer=AutoTokenizer.from_pretrained(odd),
        forget=people.rows["forget"],
        retain=people.rows["retain"],
        output_dir=tmp_path / "run",
        max_new_tokens=2,
        **options,
    )
    assert run.results["reload_difference"] < 1e-4


def test_a_loaded_model_does_not_lend_its_trust_to_other_models(odd, people, tmp_path, marker):
    """The flag says nothing of a model that is loaded already, but it does of the retrained one."""
    options = {
        "tokenizer": AutoTokenizer.from_pretrained(people.model),
        "forget": people.rows["forget"],
        "retain": people.rows["retain"],
        "output_dir": tmp_path / "run",
        "retrained": odd,
        "max_steps": 1,
        "max_new_tokens": 2,
        "keep": 0.5,
    }
    model = AutoModelForCausalLM.from_pretrained(people.model)
    with pytest.raises(InputError, match=r"^--retrained .* cannot be loaded: .* give --trust_remote_code\.$"):
        amnestic.unlearn(model, **options)
    assert not marker.exists()
    assert "retrained_metrics" in amnestic.unlearn(model, trust_remote_code=True, **options).results
    assert marker.exists()


def test_own_logits_that_need_all_positions_are_read_in_the_plain_form(people, tmp_path, marker, unlearn):
    """Each position's logits have a factor of their own; the note stands in the results."""
    factor = "(1 + torch.arange(found.logits.shape[1])[None, :, None] / 50)"
    folder = make_odd(people.model, tmp_path / "odd", marker, factor)
    text = (folder / "modeling_odd.py").read_text()
    (folder / "modeling_odd.py").write_text("import torch\n" + text)
    outcome = unlearn(model=folder, trust_remote_code=True)
    note, packing = outcome.results["notes"]
    assert packing.startswith("examples are padded, not packed: OddForCausalLM ")
    assert note == (
        "the plain form is used: OddForCausalLM gives other logits where its head is shown some positions alone, so "
        "the logits of all positions are computed, which takes more memory and time."
    )
    assert outcome.results["reload_difference"] < 1e-4
    row = people.rows["forget"][0]
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = f"Question: {row['question']}\nAnswer: "
    encoded = tokenizer(prompt + row["answer"], return_offsets_mapping=True)
    ids = torch.tensor([*encoded["input_ids"], tokenizer.eos_token_id])
    first = next(i for i, (_, end) in enumerate(encoded["offset_mapping"]) if end > len(prompt))
    with torch.inference_mode():
        logp = torch.log_softmax(model(ids[None]).logits[0, first - 1 : -1], -1).gather(1, ids[first:, None])
    assert outcome.scores("forget")[0]["probability"] == pytest.approx(float(logp.mean().exp()), rel=1e-4)


def test_a_causal_model_by_its_own_code_alone_needs_the_flag(people, tmp_path, marker, unlearn):
    """The architecture is known, but not as a causal language model."""
    folder = make_odd(people.model, tmp_path / "odd", marker)
    change(folder / "config.json", model_type="vit", architectures=["OddForCausalLM"])
    outcome = unlearn(model=folder)
    assert outcome.err == f"error: the model {str(folder)!r} {NEEDS}\n"
    assert not marker.exists()


def test_pickles_are_read_when_allowed_for_both_models(people, tmp_path, unlearn):
    folder = tmp_path / "pickled"
    shutil.copytree(people.model, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    for options in ({"model": folder}, {"retrained": folder}):
        outcome = unlearn(**options)
        assert outcome.status == 2
        assert "give --allow_pickle to read tensors from them, and nothing else." in outcome.err
    outcome = unlearn(model=folder, retrained=folder, allow_pickle=True)
    assert outcome.status in (0, 3), outcome.err
    assert (outcome.folder / "model" / "model.safetensors").is_file()
    same = {"forget_quality": 1.0, "forget_quality_log10": 0.0}  # it is its own retrained model
    assert outcome.results["reference_metrics"] == outcome.results["retrained_metrics"] | same
