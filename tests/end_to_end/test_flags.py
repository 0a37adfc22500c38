"""Every flag changes something: each option of both commands, in a run in which it matters.

A case is a run with some options, the same run with the flag in question, and the part of the outcome that must
differ. The runs are deterministic: whatever differs, differs by the flag.
"""

import functools
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.llama.modeling_llama import LlamaMLP

from amnestic import execution
from amnestic.config import EvalConfig, FinetuneConfig, UnlearnConfig, options
from amnestic.data import batches
from amnestic.evaluation import sweeps
from amnestic.methods.base import Method
from amnestic.model.signals import Needs
from amnestic.reports import environment
from amnestic.training import loop

CONFIGS = {"unlearn": UnlearnConfig, "finetune": FinetuneConfig, "eval": EvalConfig}
TEMPLATE = (
    "{% for message in messages %}<bos>{{ message['role'] }}{{ mark }}: {{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}<eos>{% endif %}\n{% endfor %}"
)
LENGTH = 34
"""Tokens; some rows of the people are longer, some are not."""
SHORT = 36
"""The same of rows without a template, which have no other answers."""


@dataclass(frozen=True)
class Case:
    """A flag's value, the options of both runs, and what differs: keys of the outcome, separated by blanks."""

    value: Any
    differs: str
    base: dict[str, Any] = field(default_factory=dict)


SHARED = {
    "redact": Case(True, "scores prompt"),
    "model": Case("{retrained}", "weights metrics"),
    "tokenizer": Case("{other_tokenizer}", "data weights tokenizer"),
    "dtype": Case("bfloat16", "environment weights"),
    "question_column": Case("asked", "prompt weights", {"data": "{columns}"}),
    "answer_column": Case("told", "scores weights", {"data": "{columns}"}),
    "prompt_column": Case("asked", "prompt weights", {"data": "{prompts}"}),
    "completion_column": Case("told", "scores weights", {"data": "{prompts}"}),
    "messages_column": Case("asked", "prompt weights", {"data": "{messages}", "chat_template": "{template}"}),
    "text_column": Case("told", "scores weights", {"data": "{texts}"}),
    "max_length": Case(LENGTH, "data weights notes"),
    "too_long": Case("drop", "data weights notes", {"max_length": SHORT, "data": "{prompts}"}),
    "preset": Case("tofu-llama2", "prompt weights"),
    "chat_template": Case("{template}", "prompt weights"),
    "template_args": Case({"mark": "!"}, "prompt weights", {"chat_template": "{template}"}),
    "system_prompt": Case("Be brief.", "prompt weights", {"chat_template": "{template}"}),
    "question_template": Case("Q: {{question}}\nA:", "prompt weights"),
    "answer_template": Case(" It is: {{answer}}", "prompt weights"),
    "learning_rate": Case(2e-3, "weights steps"),
    "lr_scheduler_type": Case("linear", "weights steps", {"warmup_epochs": 0}),
    "warmup_epochs": Case(0, "weights steps", {"max_steps": 3}),
    "warmup_steps": Case(2, "weights steps", {"max_steps": 3, "warmup_epochs": 0}),
    "num_train_epochs": Case(0.5, "weights steps", {"max_steps": None, "num_train_epochs": 1}),
    "max_steps": Case(1, "weights steps"),
    "per_device_train_batch_size": Case(3, "weights steps"),
    "gradient_accumulation_steps": Case(2, "weights steps"),
    "optim": Case("sgd", "weights"),
    "adam_beta1": Case(0.5, "weights"),
    "adam_beta2": Case(0.9, "weights"),
    "adam_epsilon": Case(1e-3, "weights"),
    "weight_decay": Case(0.5, "weights"),
    "max_grad_norm": Case(1e-3, "weights", {"adam_epsilon": 1e-3}),
    "master_weights": Case(False, "weights", {"model": "{bfloat16}", "dtype": "bfloat16"}),
    "seed": Case(7, "weights steps"),
    "logging_steps": Case(2, "steps"),
    "max_new_tokens": Case(1, "scores"),
    "eval_rows": Case(3, "scores metrics"),
    "metrics": Case("probability", "metrics"),
}
ALTERNATES = {
    "paraphrased_answer_column": Case("right", "metrics", {"data": "{alternates}"}),
    "perturbed_answer_column": Case("wrong", "metrics", {"data": "{alternates}"}),
}
UNLEARN = (
    SHARED
    | ALTERNATES
    | {
        "forget": Case("{other_forget}", "data weights"),
        "retain": Case("{other_retain}", "data weights bound"),
        "method": Case("{method}", "weights method"),
        "method_args": Case({"scale": 2}, "method candidates", {"method": "{method}"}),
        "keep": Case(0.5, "bound", {"bound": None}),
        "alpha": Case(2, "bound", {"bound": None}),
        "bound": Case(1, "bound", {"bound": None}),
        "probe_size": Case(5, "bound scores metrics"),
        "train_on_probe": Case(True, "bound weights", {"probe_size": 2, "max_steps": 4}),
        "multiplier_initial": Case(3, "multiplier weights"),
        "multiplier_rate": Case(7, "multiplier weights", {"multiplier_warmup_epochs": 0}),
        "multiplier_warmup_epochs": Case(0, "multiplier weights"),
        "multiplier_update": Case("epoch", "multiplier weights", {"multiplier_warmup_epochs": 0}),
        "multiplier_kind": Case("multiplicative", "multiplier weights", {"multiplier_warmup_epochs": 0}),
        "multiplier_normalized": Case(True, "multiplier weights", {"multiplier_warmup_epochs": 0}),
        "multiplier_proportional": Case(1, "multiplier weights", {"multiplier_rate": 1, "multiplier_warmup_epochs": 0}),
        "retain_per_forget": Case(2, "weights steps"),
        "retrained": Case("{retrained}", "retrained scores"),
    }
)
FINETUNE = SHARED | {
    "data": Case("{other_retain}", "data weights"),
    "exclude": Case("{other_retain}", "data weights"),
    "from_scratch": Case(True, "weights metrics"),
}
OF_TRAINING = {"weights", "steps"}
EVAL = {
    name: replace(case, differs=" ".join(what for what in case.differs.split() if what not in OF_TRAINING))
    for name, case in (SHARED | ALTERNATES).items()
    if set(case.differs.split()) - OF_TRAINING and name != "seed"
} | {
    "tokenizer": Case("{other_tokenizer}", "data"),
    "forget": Case("{other_forget}", "data metrics"),
    "retain": Case("{other_retain}", "data metrics"),
    "holdout": Case("{other_retain}", "data metrics"),
    "retrained": Case("{retrained}", "metrics"),
    "reference": Case("{retrained}", "metrics"),
}
CASES = {"unlearn": UNLEARN, "finetune": FINETUNE, "eval": EVAL}
TRAINING = ("unlearn", "finetune")
ELSEWHERE = {
    "benchmark",
    "without_forget",
    "cache_dir",
    "plan",
    "output_dir",
    "overwrite",
    "model_revision",
    "device",
    "gradient_checkpointing",
    "lora_alpha",
    "lora_r",
    "lora_target_modules",
    "merge",
    "max_tokens_per_batch",
    "trust_remote_code",
    "allow_pickle",
    "per_device_eval_batch_size",
    "report_to",
    "use_peft",
    "run_name",
    "project",
    "logging_dir",
    "push_to_hub",
    "hub_model_id",
    "hub_private_repo",
    "push_infeasible",
    "save_steps",
    "save_total_limit",
    "resume_from_checkpoint",
    "forget_spans_column",
    "keep_context",
    "alternate_answer_column",
    "alternates_file",
    "refusals",
    "run",
    "keep_of",
    "bound_of",
    "retain_weight",
    "measure",
    "bound_model",
    "retention",
    "retention_layer",
    "multiplier_cap",
    "reference_mode",
    "torch_compile",
    "torch_compile_backend",
    "fsdp",
    "fsdp_offload_params",
    "fsdp_reshard_after_forward",
    "ddp_timeout",
}
"""Options with a test of their own: their runs are equal by design, or refused."""


def test_every_option_of_both_commands_has_a_case():
    names = {command: {option.name for option in options(config)} for command, config in CONFIGS.items()}
    folder = {"finetune": set()}  # of a benchmark's files, elsewhere than for finetune
    assert {command: found - ELSEWHERE - folder.get(command, {"data"}) for command, found in names.items()} == {
        command: set(cases) for command, cases in CASES.items()
    }
    assert set().union(*names.values()) >= ELSEWHERE


@dataclass(frozen=True)
class Scaled(Method):
    """Some multiple of the log-probability."""

    scale: float = 1.0
    needs: ClassVar[Needs] = Needs(head=frozenset({"token_logp"}))

    def objective(self, model, reference):
        return self.scale * model.forget.token_logp


FORMS: dict[str, Callable[[dict, dict], dict[str, Any]]] = {
    "columns": lambda row, other: {
        "question": row["question"],
        "answer": row["answer"],
        "asked": row["paraphrased_question"],
        "told": row["paraphrased_answer"],
    },
    "prompts": lambda row, other: {
        "prompt": row["question"],
        "completion": row["answer"],
        "asked": row["paraphrased_question"],
        "told": row["paraphrased_answer"],
    },
    "messages": lambda row, other: {"messages": turns(row), "asked": turns(other)},
    "texts": lambda row, other: {"text": row["question"], "told": row["answer"]},
    "alternates": lambda row, other: {
        **{name: row[name] for name in ("question", "answer", "paraphrased_answer", "perturbed_answer")},
        "right": row["answer"],
        "wrong": other["answer"],
    },
}
"""Files with two of each column: the one that is detected, and the one that a flag names."""


def turns(row: dict[str, Any]) -> list[dict[str, str]]:
    return [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]


@pytest.fixture(scope="module")
def places(people, retrained, as_file, tmp_path_factory) -> dict[str, str]:
    """The files and folders that the cases name."""
    folder = tmp_path_factory.mktemp("places")
    tokenizer = AutoTokenizer.from_pretrained(people.model)
    tokenizer.save_pretrained(folder / "bfloat16")
    AutoModelForCausalLM.from_pretrained(people.model, dtype=torch.bfloat16).save_pretrained(folder / "bfloat16")
    tokenizer.add_tokens(["Where", "born"])
    tokenizer.save_pretrained(folder / "other_tokenizer")
    (folder / "template").write_text(TEMPLATE, encoding="utf-8")
    rows = people.rows["holdout"]
    for name, form in FORMS.items():
        made = [form(row, other) for row, other in zip(rows, rows[1:] + rows[:1], strict=True)]
        as_file(folder / f"{name}.jsonl", made[:6])
        as_file(folder / f"{name}_rest.jsonl", made[6:])
    as_file(folder / "other_forget.jsonl", people.rows["forget"][:9])
    as_file(folder / "other_retain.jsonl", people.rows["retain"][:20])
    named = {path.stem: str(path) for path in folder.iterdir()}
    return named | {"retrained": str(retrained.folder / "model"), "method": f"{__name__}.Scaled"}


@pytest.fixture(scope="module")
def light():
    """Leave out what costs time and is the same in each run: the page, and the list of installed packages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execution, "render_report", lambda folder: None)
        patch.setattr(environment, "installed", functools.cache(environment.installed))
        yield


@pytest.fixture(scope="module")
def observe(places, light, unlearn, finetune, evaluation):
    """Run a command with some options and return what can be seen of it, by name; each run is made once."""

    def run(command: str, **options: Any) -> dict[str, Any]:
        key = json.dumps([command, options], sort_keys=True)
        if key not in seen:
            found = {name: filled(value, places) for name, value in options.items()}
            if command != "finetune" and "data" in found:
                path = found.pop("data")
                found |= {"forget": path, "retain": path.replace(".jsonl", "_rest.jsonl")}
            bound = {"bound": 20} if command == "unlearn" and "keep" not in found and "alpha" not in found else {}
            commands = {"unlearn": unlearn, "finetune": finetune, "eval": evaluation}
            seen[key] = visible(commands[command](**bound | found))
        return seen[key]

    seen: dict[str, dict[str, Any]] = {}
    return run


def filled(value: Any, places: dict[str, str]) -> Any:
    return value.format(**places) if isinstance(value, str) else value


def visible(outcome: Any) -> dict[str, Any]:
    """What can be seen of a run, but for times and paths."""
    results, folder = outcome.results, outcome.folder
    data = {name: {**facts, "source": ""} for name, facts in results["data"].items()}
    own = {}
    if (folder / "model").exists():
        own = {
            "weights": outcome.digest,
            "steps": [{**step, "seconds": 0} for step in outcome.steps],
            "tokenizer": hashlib.sha256((folder / "model" / "tokenizer.json").read_bytes()).hexdigest(),
        }
    return own | {
        "scores": [outcome.scores(path.stem) for path in sorted((folder / "scores").iterdir())],
        "environment": outcome.environment["dtype"],
        "prompt": results["template"].get("first_prompt_sha256"),
        "data": data,
        "retrained": results.get("retrained_metrics"),
        **{name: results.get(name) for name in ("metrics", "notes", "bound", "multiplier", "method", "candidates")},
    }


@pytest.mark.parametrize("command", CASES)
def test_equal_runs_are_equal(observe, command):
    assert observe(command) == observe(command, **{"seed": 42} if command in TRAINING else {"max_length": 2048})


@pytest.mark.parametrize(("command", "name"), [(command, name) for command in CASES for name in CASES[command]])
def test_the_flag_changes_something(observe, command, name):
    case = CASES[command][name]
    base, variant = observe(command, **case.base), observe(command, **case.base | {name: case.value})
    assert [key for key in case.differs.split() if base[key] == variant[key]] == []


@pytest.mark.parametrize("command", TRAINING)
def test_a_run_goes_where_it_should_and_replaces_what_it_may(request, light, tmp_path, command):
    run, bound = request.getfixturevalue(command), {"bound": 9} if command == "unlearn" else {}
    assert run(output_dir=tmp_path / "a" / "b", **bound).results["seeds"]["training"] == 42
    assert run(output_dir=tmp_path / "a" / "b", seed=7, **bound).status == 2
    second = run(output_dir=tmp_path / "a" / "b", seed=7, overwrite=True, **bound)
    assert second.results["seeds"]["training"] == 7


@pytest.mark.parametrize("command", TRAINING)
def test_a_device_is_used_or_refused(request, light, tmp_path, command):
    run, bound = request.getfixturevalue(command), {"bound": 9} if command == "unlearn" else {}
    assert run(device="cpu", **bound).environment["device"] == "cpu"
    refused = run(device="cuda:99", output_dir=tmp_path / "run", **bound)
    assert (refused.status, "--device is 'cuda:99'" in refused.err) == (2, True)


@pytest.mark.parametrize("command", TRAINING)
def test_checkpointing_computes_each_layer_once_more_and_changes_nothing(request, light, monkeypatch, command):
    """Of the two layers each has one pass more for each micro-batch: one a step, which holds the rows of all splits."""
    run, bound = request.getfixturevalue(command), {"bound": 9} if command == "unlearn" else {}
    bound["max_tokens_per_batch"] = 100_000
    forward, calls = LlamaMLP.forward, []

    def counted(module, *arguments):
        calls.append(module)
        return forward(module, *arguments)

    monkeypatch.setattr(LlamaMLP, "forward", counted)
    plain = run(**bound)
    passes = len(calls)
    checkpointed = run(gradient_checkpointing=True, **bound)
    assert len(calls) - passes == passes + 2 * len(plain.steps)
    assert checkpointed.digest == plain.digest


@pytest.mark.parametrize("command", TRAINING)
def test_a_pass_of_training_holds_no_more_tokens_than_asked_for(request, light, monkeypatch, command):
    """A budget of 90 tokens cuts a step into more passes, and changes rounding alone."""
    run, bound = request.getfixturevalue(command), {"bound": 9, "optim": "sgd"} if command == "unlearn" else {}
    original, counts = loop.micro_batches, []

    def counted(*arguments):
        batches = original(*arguments)
        counts.append([batch.input_ids.numel() for batch in batches])
        return batches

    monkeypatch.setattr(loop, "micro_batches", counted)
    plain = run(**bound)
    whole, counts[:] = [*counts], []
    small = run(max_tokens_per_batch=90, **bound)
    assert max(max(found) for found in counts) <= 90 < min(max(found) for found in whole)
    assert [sum(found) for found in counts] == [sum(found) for found in whole]
    name = {"unlearn": "forget_loss", "finetune": "loss"}[command]
    assert [step[name] for step in small.steps] == pytest.approx([step[name] for step in plain.steps], rel=1e-4)
    refused = run(max_tokens_per_batch=0, **bound)
    assert (refused.status, "--max_tokens_per_batch is 0; expected at least 1 token." in refused.err) == (2, True)


@pytest.mark.parametrize("command", TRAINING)
def test_a_pass_that_scores_has_no_more_tokens_than_that_many_of_the_longest_rows(request, light, monkeypatch, command):
    """Of a loss, which reads every row, and of the metrics, which read what rows have in common once."""
    run, bound = request.getfixturevalue(command), {"bound": 9} if command == "unlearn" else {}
    losses: list[list[int]] = []
    positions: list[int] = []
    assemble, tree = batches.assemble, sweeps.tree

    def counted(split, rows, packs, second):
        losses.append([len(row.input_ids) for row in rows])
        return assemble(split, rows, packs, second)

    def grown(rows):
        made = tree(rows)
        positions.append(made.batch.input_ids.numel())
        return made

    monkeypatch.setattr(batches, "assemble", counted)
    monkeypatch.setattr(sweeps, "tree", grown)
    plain = run(**bound)
    most = max(positions)
    for found in (losses, positions):
        found.clear()
    small = run(per_device_eval_batch_size=5, **bound)
    longest = sum(sorted(length for batch in losses for length in batch)[-5:])
    assert max(map(sum, losses)) <= longest
    assert max(positions) < most
    assert small.digest == plain.digest
    assert small.results["metrics"] == pytest.approx(plain.results["metrics"], rel=1e-4)


@pytest.fixture
def hub(people, retrained, monkeypatch, tmp_path):
    """A cache of the Hub with two revisions of one model, as huggingface_hub lays it out."""
    repository = tmp_path / "hub" / "models--owner--name"
    for revision, model, commit in (("main", people.model, "a" * 40), ("second", retrained.folder / "model", "b" * 40)):
        shutil.copytree(model, repository / "snapshots" / commit)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / revision).write_text(commit, encoding="utf-8")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return repository


@pytest.mark.parametrize("command", TRAINING)
def test_a_revision_names_one_state_of_a_model_of_the_hub(request, light, people, retrained, hub, command):
    run, bound = request.getfixturevalue(command), {"bound": 9} if command == "unlearn" else {}
    named = [run(model="owner/name", **bound), run(model="owner/name", model_revision="second", **bound)]
    local = [run(model=people.model, **bound), run(model=retrained.folder / "model", **bound)]
    assert [outcome.digest for outcome in named] == [outcome.digest for outcome in local]
    assert named[0].digest != named[1].digest
    for outcome, commit in zip(named, ("a" * 40, "b" * 40), strict=True):
        read = [path for path in outcome.environment["sha256"] if path.endswith("model.safetensors")]
        assert [commit in path for path in read] == [True]
    assert run(model="owner/name", model_revision="third", **bound).status == 2
