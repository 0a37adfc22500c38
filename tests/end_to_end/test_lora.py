"""``--use_peft`` as users run it: forgotten under a bound, saved as an adapter or merged, resumed, from Python."""

import json
import os
import re
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import amnestic
import amnestic.execution as execution
import amnestic.shortage as shortage
import amnestic.training.loop as loop
from amnestic.model import fidelity

FORGETTING = {"use_peft": True, "lora_r": 8, "learning_rate": 8e-3, "num_train_epochs": 24}
"""What forgets the people, beside the options by which all weights do."""
COURSE = {"use_peft": True, "max_steps": 6, "learning_rate": 1e-2, "keep": 0.5, "save_steps": 2}


def names(outcome) -> set[str]:
    return {path.name for path in (outcome.folder / "model").iterdir()}


def adapter(outcome) -> dict[str, torch.Tensor]:
    return load_file(outcome.folder / "model" / "adapter_model.safetensors")


def interrupted(monkeypatch, run, at: int, **options):
    """Let a run be interrupted at its step `at`, counted from 1."""
    calls, inner = [], loop.step

    def step(*arguments):
        calls.append(1)
        if len(calls) == at:
            os.kill(os.getpid(), signal.SIGINT)
        return inner(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "step", step)
        outcome = run(**options)
    assert outcome.status == 130
    return outcome


@pytest.fixture(scope="module")
def forgotten(unlearn, forgetting):
    """Four people, forgotten by an adapter."""
    return unlearn(**forgetting | FORGETTING)


@pytest.fixture(scope="module")
def merged(unlearn, forgetting):
    """The same, merged."""
    return unlearn(**forgetting | FORGETTING, merge=True)


def test_an_adapter_forgets_within_the_bound(forgotten, people, answers):
    """The numbers of the report are those of the saved folder under transformers, which finds the base model itself."""
    results = forgotten.results
    assert results["status"] == "feasible"
    assert results["metrics"]["forget.probability"] < 0.5 < 0.9 < results["metrics"]["retain.probability"]
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= names(forgotten)
    assert not {"model.safetensors", "config.json"} & names(forgotten)
    found = answers(forgotten.folder / "model", people.rows["forget"])
    logp = [token for answer in found for token in answer["logp"]]
    rows = [row for row in forgotten.scores("forget") if row["model"] == "after"]
    assert len(rows) == len(found)
    shown = sum(answer["margin"].mean() for answer in found) / len(found)
    assert results["metrics"]["forget.margin"] == pytest.approx(shown, rel=0.2)
    probability = sum(float(torch.tensor(answer["logp"]).mean().exp()) for answer in found) / len(found)
    assert results["metrics"]["forget.probability"] == pytest.approx(probability, abs=1e-4)
    assert len(logp) == results["data"]["forget"]["scored_tokens"]


def test_what_was_trained_is_told(forgotten, people):
    facts = forgotten.results["adapter"]
    found = adapter(forgotten)
    assert facts["trainable_parameters"] == sum(value.numel() for value in found.values())
    assert facts["adapted_layers"] == len(found) // 2
    assert (facts["lora_r"], facts["lora_alpha"], facts["merged"]) == (8, 32, False)
    assert facts["lora_target_modules"] == "all-linear"
    weights = load_file(people.model / "model.safetensors")
    assert facts["model_parameters"] == sum(value.numel() for value in weights.values())
    card = (forgotten.folder / "model" / "README.md").read_text()
    assert "library_name: peft" in card
    assert "a LoRA adapter, to be loaded onto its base model" in card
    assert "A LoRA adapter of rank 8 was trained, alpha 32" in card
    assert str(people.folder) not in card
    report = (forgotten.folder / "report.html").read_text()
    assert "trainable_parameters" in report
    assert "use_peft: true" in (forgotten.folder / "config.yaml").read_text()


def test_a_merged_model_needs_no_peft(merged, forgotten, people):
    """W + (alpha / r) B A of the adapter that the same run saves without --merge, by hand."""
    assert merged.results["status"] == "feasible"
    assert {"model.safetensors", "config.json"} <= names(merged)
    assert not any("adapter" in name for name in names(merged))
    factors, before, after = adapter(forgotten), load_file(people.model / "model.safetensors"), merged.weights
    assert before.keys() == after.keys()
    moved = 0
    for name, weight in before.items():
        stem = "base_model.model." + name.removesuffix(".weight")
        if (a := factors.get(f"{stem}.lora_A.weight")) is None:
            assert torch.equal(after[name], weight), name
            continue
        moved += 1
        expected = weight.double() + 4.0 * (factors[f"{stem}.lora_B.weight"].double() @ a.double())
        assert torch.allclose(after[name].double(), expected, atol=1e-5), name
    assert moved == merged.results["adapter"]["adapted_layers"]
    assert 0 < merged.results["merge_difference"] < 1e-5
    assert "merge_difference" not in forgotten.results
    assert "library_name: transformers" in (merged.folder / "model" / "README.md").read_text()


def test_the_base_model_is_left_alone(forgotten, merged, people):
    config = json.loads((forgotten.folder / "model" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(people.model.resolve())
    assert forgotten.results["reload_difference"] < 1e-5


def test_an_unlearned_adapter_is_unlearned_once_more(forgotten, unlearn, people):
    """--model names the folder of an adapter: it is merged first, and what it forgot stays forgotten."""
    again = unlearn(model=forgotten.folder / "model", keep=0.5)
    before = again.results["reference_metrics"]["forget.probability"]
    assert before == pytest.approx(forgotten.results["metrics"]["forget.probability"], abs=1e-4)
    base = people.model.resolve()
    note = f"{forgotten.folder / 'model'} is an adapter: it was merged into its base model {base} first."
    assert note in again.results["notes"]
    assert "model.safetensors" in names(again)


def test_an_adapter_may_be_the_retrained_model(forgotten, unlearn):
    outcome = unlearn(retrained=forgotten.folder / "model")
    found = outcome.results["retrained_metrics"]["forget.probability"]
    assert found == pytest.approx(forgotten.results["metrics"]["forget.probability"], abs=1e-4)


@pytest.mark.parametrize("merge", [False, True])
def test_a_run_with_an_adapter_goes_on(unlearn, monkeypatch, tmp_path, merge):
    plain = unlearn(**COURSE, merge=merge)
    interrupted(monkeypatch, unlearn, 4, **COURSE, merge=merge, output_dir=tmp_path / "run")
    state = load_file(next((tmp_path / "run" / "checkpoints").glob("checkpoint-*/weights/*.safetensors")))
    assert all("lora_" in name for name in state)
    again = unlearn(**COURSE, merge=merge, output_dir=tmp_path / "run", resume_from_checkpoint="latest")
    assert again.results["training"]["resumed_after"]
    file = "model.safetensors" if merge else "adapter_model.safetensors"
    assert (again.folder / "model" / file).read_bytes() == (plain.folder / "model" / file).read_bytes()
    assert again.results["candidates"] == plain.results["candidates"]


def test_going_on_with_another_adapter_is_refused(unlearn, monkeypatch, tmp_path):
    interrupted(monkeypatch, unlearn, 4, **COURSE, output_dir=tmp_path / "run")
    other = unlearn(**COURSE, lora_alpha=8, output_dir=tmp_path / "run", resume_from_checkpoint="latest")
    assert other.status == 2
    assert "--lora_alpha is 8 here and was 32" in other.err


def test_activations_computed_again_give_the_same_adapter(unlearn):
    plain, again = unlearn(**COURSE), unlearn(**COURSE, gradient_checkpointing=True)
    for name, value in adapter(plain).items():
        assert torch.allclose(adapter(again)[name], value, atol=1e-5), name
    assert any(float(value.abs().max()) > 0 for name, value in adapter(plain).items() if "lora_B" in name)


def test_a_tensor_without_a_gradient_ends_the_run_in_step_one(unlearn, monkeypatch):
    """As if a checkpointed block were cut from what it reads: nothing below the last layer gets a gradient."""
    inner = loop.step

    def cut(objective, batches, multipliers, optimizer):
        model = objective.problem.model
        with torch.no_grad():
            handle = model.model.layers[-1].register_forward_pre_hook(
                lambda _, arguments: (arguments[0].detach(), *arguments[1:])
            )
        try:
            return inner(objective, batches, multipliers, optimizer)
        finally:
            handle.remove()

    monkeypatch.setattr(loop, "step", cut)
    outcome = unlearn(**COURSE)
    assert outcome.status == 1
    assert re.search(
        r"the first step gave no gradient to \d+ of the \d+ tensors that are trained: model\.lay", outcome.err
    )
    assert not (outcome.folder / "model").exists()


def test_finetuning_an_adapter(finetune, people, answers):
    options = {"use_peft": True, "max_steps": 20, "learning_rate": 1e-2, "lora_target_modules": "q_proj,v_proj"}
    outcome = finetune(**options, data=people.file("forget"))
    assert outcome.results["adapter"]["lora_target_modules"] == "q_proj, v_proj"
    assert {name.split(".")[-3] for name in adapter(outcome)} == {"q_proj", "v_proj"}
    whole = finetune(**options, data=people.file("forget"), merge=True)
    one, other = (answers(found.folder / "model", people.rows["forget"]) for found in (outcome, whole))
    for a, b in zip(one, other, strict=True):
        assert a["logp"] == pytest.approx(b["logp"], abs=1e-3)


def test_a_bfloat16_model_is_judged_as_it_is_merged(unlearn, tiny_model):
    """Weights in bfloat16, computed in float32: the merge rounds, and the candidates are measured rounded."""
    options = COURSE | {"model": tiny_model(dtype="bfloat16"), "dtype": "float32", "keep": None, "bound": 90}
    outcome = unlearn(**options, merge=True)
    assert {value.dtype for value in outcome.weights.values()} == {torch.bfloat16}
    assert outcome.results["bound"]["reached"] == pytest.approx(_loss(outcome), abs=1e-4)
    assert 1e-6 < outcome.results["merge_difference"] < fidelity.MERGE_TOLERANCE[torch.bfloat16]


def _loss(outcome) -> float:
    """The mean negative log-probability of all scored retain tokens under the saved model, by transformers alone."""
    from amnestic.data.encode import Encoder
    from amnestic.data.options import DataOptions
    from amnestic.data.sources import read_examples

    model = AutoModelForCausalLM.from_pretrained(outcome.folder / "model", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(outcome.folder / "model")
    source = outcome.results["data"]["retain"]["source"]
    options = DataOptions()
    rows = Encoder(tokenizer, options, 256).encode("retain", read_examples(source, "retain", options))
    total, count = 0.0, 0
    for example in rows.examples:
        ids = torch.from_numpy(example.input_ids.copy()).long()
        first = len(ids) - example.scored
        with torch.no_grad():
            logits = model(ids[None]).logits[0, first - 1 : -1].double()
        total -= float(torch.log_softmax(logits, -1).gather(1, ids[first:, None]).sum())
        count += example.scored
    return total / count


def test_a_merge_that_goes_wrong_is_told(unlearn, monkeypatch):
    """The reloaded model has the weights of the base model: as if the adapter had not been merged."""
    inner = execution.reload

    def unmerged(loaded, folder):
        again = inner(loaded, folder)
        with torch.no_grad():
            for parameter in again.model.parameters():
                parameter.mul_(1.01)
        return again

    monkeypatch.setitem(execution.RELOAD_TOLERANCE, "float32", 1e9)
    monkeypatch.setattr(execution, "reload", unmerged)
    outcome = unlearn(**COURSE, merge=True)
    assert outcome.status == 1
    assert "gives other logits than the adapter on its base model" in outcome.err
    assert not (outcome.folder / "results.json").exists()


def test_python_callers_get_the_model_as_it_was_saved(people, tmp_path):
    """A model in memory, with an adapter of its own: merged first, and what comes back is plain."""
    model = AutoModelForCausalLM.from_pretrained(people.model)
    tokenizer = AutoTokenizer.from_pretrained(people.model)
    options = {"forget": people.rows["forget"], "retain": people.rows["retain"], "max_steps": 2, "max_new_tokens": 3}
    options |= {"use_peft": True, "learning_rate": 1e-3}
    run = amnestic.unlearn(model, tokenizer=tokenizer, output_dir=tmp_path / "a", **options)
    assert run.results["adapter"]["merged"] is False
    ids = torch.tensor([[1, 5, 9, 20]])
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "a" / "model")
    with torch.inference_mode():
        assert torch.allclose(again(ids).logits, run.model(ids).logits, atol=1e-4)
        assert run.model.generate(ids, max_new_tokens=2, do_sample=False).shape == (1, 6)
    whole = amnestic.unlearn(run.model, tokenizer=tokenizer, output_dir=tmp_path / "b", **options, merge=True)
    assert "the model carried an adapter, which was merged into it first." in whole.results["notes"]
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "b" / "model")
    with torch.inference_mode():
        assert torch.allclose(plain(ids).logits, whole.model(ids).logits, atol=1e-4)
    assert not getattr(whole.model, "peft_config", None)


def test_a_redacted_run_trains_an_adapter_too(unlearn):
    outcome = unlearn(**COURSE, redact=True)
    assert outcome.results["redacted"] is True
    assert "adapter_model.safetensors" in names(outcome)


def test_a_model_in_float32_that_is_computed_in_bfloat16_is_merged(unlearn):
    """The rounding of the computation is larger than that of the weights: it decides what the merge may change."""
    outcome = unlearn(**COURSE | {"keep": None, "bound": 9}, merge=True, dtype="bfloat16")
    assert outcome.status == 0
    assert outcome.results["merge_difference"] > fidelity.MERGE_TOLERANCE[torch.float32]


@pytest.mark.parametrize("merge", [False, True])
def test_a_disk_need_not_hold_a_whole_model_for_an_adapter(unlearn, monkeypatch, merge):
    """Of P numbers in float32: 4 P saved, 4 P in each of two candidates, and 12 P in each of two checkpoints.

    A merged model takes as much as its weights in place of the first.
    """
    facts = unlearn(**COURSE, merge=merge).results["adapter"]
    saved = facts["model_parameters"] if merge else facts["trainable_parameters"]
    need = 4 * (saved + 8 * facts["trainable_parameters"])
    monkeypatch.setattr(shortage, "SMALL_FILES", 0)
    for room, status in ((need - 1, 1), (need, 0)):
        monkeypatch.setattr(shortage, "free_bytes", lambda _, room=room: room)
        outcome = unlearn(**COURSE, merge=merge)
        assert (outcome.status == 1) == (status == 1)
        assert ("has room for" in outcome.err) == (status == 1)


def test_a_slow_learning_rate_is_noted(unlearn):
    outcome = unlearn(use_peft=True, learning_rate=1e-5, keep=0.5)
    assert any(note.startswith("an adapter hardly moves at --learning_rate 1e-05") for note in outcome.results["notes"])
    assert not any("hardly moves" in note for note in unlearn(use_peft=True, keep=0.5).results["notes"])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"lora_r": 8}, "--lora_r describes an adapter, and --use_peft was not given; give it, or leave it out."),
        ({"merge": True}, "--merge describes an adapter, and --use_peft was not given"),
        (
            {"use_peft": True, "lora_target_modules": "wq"},
            "names 'wq', which is no linear or embedding layer of the mod",
        ),
        ({"use_peft": True, "lora_target_modules": "lm_head"}, "is that of model.embed_tokens too (tied embeddings)"),
        ({"use_peft": True, "lora_r": 0}, "--lora_r is 0; expected a whole number of at least 1."),
    ],
)
def test_wrong_input_is_told_before_anything_is_written(unlearn, options, sentence):
    outcome = unlearn(**options)
    assert outcome.status == 2
    assert sentence in outcome.err
    assert not outcome.folder.exists()


def test_an_adapter_of_random_weights_is_refused(finetune, people):
    outcome = finetune(model=people.start, from_scratch=True, use_peft=True)
    assert outcome.status == 2
    assert "those of this model are in no folder that it could name; give --merge" in outcome.err


def test_an_adapter_whose_base_is_gone_is_refused(forgotten, unlearn, tmp_path):
    folder = shutil.copytree(forgotten.folder / "model", tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "/gone/model"}))
    outcome = unlearn(model=folder)
    assert outcome.status == 2
    assert f"{str(folder)!r} is an adapter of the base model '/gone/model', which cannot be loaded" in outcome.err
