"""``amnestic.unlearn`` and ``amnestic.finetune`` on objects: the same runs as the command's."""

import sys
import textwrap
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from datasets import Dataset, DatasetDict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import amnestic
from amnestic.config import UnlearnConfig, from_mapping, read_yaml
from amnestic.methods.base import Method
from amnestic.model.signals import Needs

OWN_METHOD = '''
    """A method of one's own."""

    from dataclasses import dataclass
    from typing import ClassVar

    from amnestic.constraints.multiplier import Bounded
    from amnestic.constraints.retention import NLL, Retention
    from amnestic.methods.base import Method
    from amnestic.model.signals import Needs


    @dataclass(frozen=True)
    class Capped(Method):
        """Ascent that stops where a token's log-probability falls below a floor."""

        floor: float = -5.0
        needs: ClassVar[Needs] = Needs(head=frozenset({"token_logp"}))
        retention: ClassVar[tuple[Retention, ...]] = (Retention(NLL(), Bounded(rate=2.0, initial=3.0)),)

        def objective(self, model, reference):
            return model.forget.token_logp.clamp(min=self.floor)
'''


@dataclass(frozen=True)
class Doubled(Method):
    """Twice the log-probability; registered nowhere."""

    factor: float = 2.0
    needs: ClassVar[Needs] = Needs(head=frozenset({"token_logp"}))

    def objective(self, model, reference):
        return self.factor * model.forget.token_logp


class Bare(Method):
    """No dataclass, no name, and no retention."""

    needs: ClassVar[Needs] = Needs(head=frozenset({"token_logp"}))
    retention: ClassVar[tuple] = ()

    def objective(self, model, reference):
        return model.forget.token_logp


@pytest.fixture
def quick(tmp_path) -> dict:
    """Options of a run of two steps; the same as the commands' of the other tests."""
    return {
        "output_dir": tmp_path / "run",
        "max_steps": 2,
        "learning_rate": 1e-3,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "max_new_tokens": 3,
        "bound": 9.0,
    }


@pytest.fixture
def loaded(people) -> dict:
    """The people's model and its tokenizer, loaded by transformers."""
    return {
        "model": AutoModelForCausalLM.from_pretrained(people.model),
        "tokenizer": AutoTokenizer.from_pretrained(people.model),
    }


@pytest.fixture(scope="module")
def baseline(unlearn):
    """The same run from the command line."""
    return unlearn(bound=9)


def equal(model, folder) -> bool:
    """Whether the parameters of a model are those of a saved one."""
    saved = load_file(folder / "model.safetensors")
    return all(torch.equal(value, saved[name]) for name, value in model.named_parameters())


@pytest.mark.parametrize("form", [list, Dataset.from_list], ids=["rows", "data set"])
def test_loaded_objects_give_the_command_s_run(people, loaded, quick, baseline, form):
    splits = {split: form(people.rows[split]) for split in ("forget", "retain")}
    run = amnestic.unlearn(**loaded, **splits, method=amnestic.PDU(), **quick)
    assert run.feasible
    assert run.model is loaded["model"]
    assert run.tokenizer is loaded["tokenizer"]
    assert run.output_dir == quick["output_dir"]
    assert run.results["metrics"] == baseline.results["metrics"]
    assert equal(run.model, baseline.folder / "model")
    assert equal(run.model, quick["output_dir"] / "model")
    assert not run.model.training
    assert run.results["data"]["forget"]["source"] == f"<{type(splits['forget']).__name__} in memory>"


def test_names_give_the_command_s_run(people, quick, baseline):
    splits = {split: people.file(split) for split in ("forget", "retain")}
    run = amnestic.unlearn(str(people.model), **splits, **quick)
    assert equal(run.model, baseline.folder / "model")
    prompt = run.tokenizer("Question: ", return_tensors="pt")
    assert torch.isfinite(run.model(**prompt).logits).all()


def test_examples_are_taken_as_they_are(people, quick, baseline):
    def examples(split):
        return [amnestic.Example("any", "question", row["question"], row["answer"]) for row in people.rows[split]]

    run = amnestic.unlearn(people.model, forget=examples("forget"), retain=examples("retain"), **quick)
    assert equal(run.model, baseline.folder / "model")


@pytest.mark.parametrize("command", ["unlearn", "finetune"])
def test_the_saved_model_is_the_one_at_hand_in_bfloat16_too(people, quick, tmp_path, command):
    """Computed in float32, saved in bfloat16: what is returned was rounded as the file was."""
    AutoModelForCausalLM.from_pretrained(people.model, dtype=torch.bfloat16).save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(people.model).save_pretrained(tmp_path / "model")
    data = {split: people.rows[split] for split in ("forget", "retain")}
    if command == "finetune":
        data = {"data": people.rows["holdout"]}
        del quick["bound"]
    run = getattr(amnestic, command)(tmp_path / "model", **data, **quick, dtype="float32")
    assert run.model.dtype == torch.float32
    saved = load_file(quick["output_dir"] / "model" / "model.safetensors")
    for name, value in run.model.named_parameters():
        assert saved[name].dtype == torch.bfloat16
        torch.testing.assert_close(value, saved[name].float(), rtol=0, atol=0)


def test_a_missed_bound_is_told_and_returned(people, quick):
    splits = {split: people.rows[split] for split in ("forget", "retain")}
    options = quick | {"bound": None, "keep": 0.999, "learning_rate": 1e-2, "multiplier_initial": 0.0}
    run = amnestic.unlearn(people.model, **splits, **options)
    assert not run.feasible
    assert run.results["status"] == "infeasible"
    assert equal(run.model, quick["output_dir"] / "model")


def test_a_run_can_be_watched(people, quick):
    class Watching(amnestic.Progress):
        def __init__(self):
            self.events = []

        def preview(self, tokens):
            self.events.append("preview")

        def plan(self, facts):
            self.events.append("plan")

        def start(self, title, total):
            self.events.append((title, total))

        def step(self, record):
            self.events.append(record["step"])

        def candidate(self, record):
            self.events.append("candidate")

    watching = Watching()
    splits = {split: people.rows[split] for split in ("forget", "retain")}
    amnestic.unlearn(people.model, **splits, **quick, progress=watching)
    measures = [event for event in watching.events if isinstance(event, tuple) and "measure" in event[0]]
    assert [total > 72 for _, total in measures] == [True, True]  # positions and tokens, of 72 rows and prompts
    assert watching.events == [
        *("preview", "plan", measures[0], ("unlearn", 2), 1, 2, "candidate"),
        *(("save and check the model", 2), measures[1]),
    ]


def test_finetune_takes_objects_too(people, loaded, quick, finetune):
    del quick["bound"]
    run = amnestic.finetune(
        **loaded, data=people.rows["full"], exclude=Dataset.from_list(people.rows["forget"]), **quick
    )
    command = finetune(data=people.file("full"), exclude=people.file("forget"))
    assert run.feasible
    assert equal(run.model, command.folder / "model")
    assert run.results["metrics"] == command.results["metrics"]


def test_a_caller_s_gradients_and_random_numbers_are_left_alone(people, loaded, quick):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    loaded["model"](torch.tensor([[1, 2, 3]])).logits.sum().backward()
    run = amnestic.unlearn(**loaded, forget=people.rows["forget"], retain=people.rows["retain"], **quick)
    assert torch.equal(torch.rand(3), expected)
    assert all(parameter.grad is None for parameter in run.model.parameters())


@pytest.fixture
def mymod(tmp_path, monkeypatch):
    """A module of the user's, on the path."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "mymod.py").write_text(textwrap.dedent(OWN_METHOD).lstrip(), encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    yield "mymod.Capped"
    sys.modules.pop("mymod", None)


def test_a_method_of_one_s_own_runs_by_its_dotted_path(mymod, unlearn, people, answers):
    """With the floor above every log-probability nothing pulls; below them, the objective is the mean log p."""
    outcome = unlearn(method=mymod, method_args={"floor": -50}, bound=9, max_steps=1)
    assert outcome.results["method"] == {"name": "mymod.Capped", "floor": -50.0}
    assert (outcome.results["multiplier"]["initial"], outcome.results["multiplier"]["rate"]) == (3.0, 2.0)
    logp = [token for answer in answers(outcome.folder / "model", people.rows["forget"]) for token in answer["logp"]]
    found = outcome.results["candidates"][0]["forget_loss"]
    assert found == pytest.approx(sum(logp) / len(logp), rel=1e-4)
    floored = unlearn(method=mymod, method_args={"floor": -0.001}, bound=9, max_steps=1)
    assert floored.results["candidates"][0]["forget_loss"] == pytest.approx(-0.001, rel=0.5)
    assert floored.digest != outcome.digest


def test_an_instance_of_one_s_own_is_named_and_repeated_by_its_configuration(people, quick):
    splits = {split: people.file(split) for split in ("forget", "retain")}
    run = amnestic.unlearn(people.model, **splits, **quick, method=Doubled(3.0))
    assert run.results["method"] == {"name": f"{__name__}.Doubled", "factor": 3.0}
    config = from_mapping(UnlearnConfig, read_yaml(quick["output_dir"] / "config.yaml"))
    assert config.method.method == f"{__name__}.Doubled"
    assert config.method.method_args == {"factor": "3.0"}
    assert run.results["metrics"]["forget.probability"] < run.results["reference_metrics"]["forget.probability"]


def test_a_method_needs_no_hyper_parameters_name_or_retention(people, quick):
    splits = {split: people.rows[split] for split in ("forget", "retain")}
    run = amnestic.unlearn(people.model, **splits, **quick, method=Bare())
    assert run.results["method"] == {"name": f"{__name__}.Bare"}
    assert run.results["bound"]["kind"] == "bound"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rat": 1}, "unknown key 'learning_rat'; did you mean 'learning_rate'?"),
        ({"keep": "0.9"}, "keep is '0.9'; expected a finite number or none."),
        ({"forget": {"train": []}}, "forget is a dict of 'train'; expected a list of rows or one data set"),
        ({"retain": DatasetDict({"train": Dataset.from_list([])})}, "retain is a DatasetDict of 'train'; expected"),
        ({"retain": {"train": []}}, "train is empty; expected at least one row."),
        ({"retain": []}, "retain is empty; expected at least one row."),
        ({"forget": [{"question": "a", "answer": ""}]}, "row 0 of forget (counted from 0): 'answer' is empty"),
        ({"method": amnestic.PDU}, "expected a name, or an instance of a subclass of Method."),
        ({"method": amnestic.PDU(), "method_args": {}}, "method_args go with a method's name"),
        ({"tokenizer": None}, "a loaded model was given without its loaded tokenizer"),
        ({"model": "people"}, "a loaded tokenizer was given with the name of a model"),
        (
            {"model": torch.nn.Linear(2, 2)},
            "the model is Linear; expected a causal language model with an",
        ),
        ({"dtype": "bfloat16"}, "dtype says how to load a model, and this one is loaded; leave it out."),
        ({"device": "cpu"}, "device says how to load a model, and this one is loaded; leave it out."),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_wrong_arguments_are_told_and_leave_nothing_behind(people, loaded, quick, options, message):
    splits = {split: people.rows[split] for split in ("forget", "retain")}
    model_name = {"model": people.model} if options.get("model") == "people" else {}
    quick["bound"] = None if "keep" in options else quick["bound"]
    with pytest.raises(amnestic.InputError) as error:
        amnestic.unlearn(**{**loaded, **splits, **quick, **options, **model_name})
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not quick["output_dir"].exists()


def test_what_cannot_be_trained_is_told_before_anything_is_written(people, loaded, quick, monkeypatch):
    splits = {split: people.rows[split] for split in ("forget", "retain")}
    monkeypatch.setattr(type(loaded["model"]), "supports_gradient_checkpointing", False)
    with pytest.raises(amnestic.InputError, match="LlamaForCausalLM has no gradient checkpointing"):
        amnestic.unlearn(**loaded, **splits, **quick, gradient_checkpointing=True)
    loaded["model"].requires_grad_(False)
    with pytest.raises(amnestic.InputError, match="no parameter of the model is trainable"):
        amnestic.unlearn(**loaded, **splits, **quick)
    assert not quick["output_dir"].exists()


def test_frozen_parameters_stay(people, loaded, quick):
    """With tied weights the embeddings are the head's: frozen, both stay."""
    frozen = loaded["model"].get_input_embeddings().weight.requires_grad_(False)
    before = frozen.detach().clone()
    run = amnestic.unlearn(**loaded, forget=people.rows["forget"], retain=people.rows["retain"], **quick)
    assert torch.equal(frozen, before)
    assert run.results["metrics"] != run.results["reference_metrics"]
