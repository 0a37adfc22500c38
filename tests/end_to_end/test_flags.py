"""Every flag changes something: each option of both commands, in a run in which it matters.

A case is a run with some options, the same run with the flag in question, and the part of the outcome that must
differ. The runs are deterministic: whatever differs, differs by the flag.
"""

import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from amnestic.config import FinetuneConfig, UnlearnConfig, options

CONFIGS = {"unlearn": UnlearnConfig, "finetune": FinetuneConfig}
TEMPLATE = (
    "{% for message in messages %}<bos>{{ message['role'] }}{{ mark }}: {{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}<eos>{% endif %}\n{% endfor %}"
)
LENGTH = 30
"""Tokens; some rows of the people are longer, some are not."""


@dataclass(frozen=True)
class Case:
    """A flag's value, the options of both runs, and what differs: keys of the outcome, separated by blanks."""

    value: Any
    differs: str
    base: dict[str, Any] = field(default_factory=dict)


SHARED = {
    "model": Case("{retrained}", "weights metrics"),
    "tokenizer": Case("{other_tokenizer}", "data weights tokenizer"),
    "dtype": Case("bfloat16", "environment weights"),
    "question_column": Case("asked", "prompt weights", {"data": "{columns}"}),
    "answer_column": Case("told", "data weights", {"data": "{columns}"}),
    "prompt_column": Case("asked", "prompt weights", {"data": "{prompts}"}),
    "completion_column": Case("told", "data weights", {"data": "{prompts}"}),
    "messages_column": Case("asked", "prompt weights", {"data": "{messages}", "chat_template": "{template}"}),
    "text_column": Case("told", "data weights", {"data": "{texts}"}),
    "max_length": Case(LENGTH, "data weights notes"),
    "too_long": Case("drop", "data weights notes", {"max_length": LENGTH}),
    "chat_template": Case("{template}", "prompt weights"),
    "template_args": Case({"mark": "!"}, "prompt weights", {"chat_template": "{template}"}),
    "system_prompt": Case("Be brief.", "prompt weights", {"chat_template": "{template}"}),
    "question_template": Case("Q: {{question}}\nA:", "prompt weights"),
    "answer_template": Case(" It is: {{answer}}", "prompt weights"),
    "learning_rate": Case(2e-3, "weights steps"),
    "lr_scheduler_type": Case("linear", "weights steps"),
    "warmup_epochs": Case(0, "weights steps"),
    "warmup_steps": Case(2, "weights steps", {"warmup_epochs": 0}),
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
}
UNLEARN = SHARED | {
    "forget": Case("{other_forget}", "data weights"),
    "retain": Case("{other_retain}", "data weights bound"),
    "method": Case("{method}", "weights method"),
    "method_args": Case({"scale": 2}, "method candidates", {"method": "{method}"}),
    "keep": Case(0.5, "bound", {"bound": None}),
    "alpha": Case(2, "bound", {"bound": None}),
    "bound": Case(1, "bound", {"bound": None}),
    "probe_size": Case(5, "bound scores metrics"),
    "train_on_probe": Case(True, "bound weights", {"probe_size": 2}),
    "multiplier_initial": Case(3, "multiplier weights"),
    "multiplier_rate": Case(7, "multiplier weights", {"multiplier_warmup_epochs": 0}),
    "multiplier_warmup_epochs": Case(0, "multiplier weights"),
    "multiplier_update": Case("epoch", "multiplier weights", {"multiplier_warmup_epochs": 0}),
    "retain_per_forget": Case(2, "weights steps"),
    "retrained": Case("{retrained}", "retrained scores"),
}
FINETUNE = SHARED | {
    "data": Case("{other_retain}", "data weights"),
    "exclude": Case("{other_retain}", "data weights"),
    "from_scratch": Case(True, "weights metrics"),
}
CASES = {"unlearn": UNLEARN, "finetune": FINETUNE}
ELSEWHERE = {
    "output_dir",
    "overwrite",
    "model_revision",
    "device",
    "gradient_checkpointing",
    "per_device_eval_batch_size",
}
"""Options with a test of their own: their runs are equal by design, or refused."""


def test_every_option_of_both_commands_has_a_case():
    for command, config in CONFIGS.items():
        assert {option.name for option in options(config)} == set(CASES[command]) | ELSEWHERE


@pytest.fixture(scope="module")
def places(people, retrained, as_file, tmp_path_factory) -> dict[str, str]:
    """The files and folders that the cases name."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("places")
    tokenizer = AutoTokenizer.from_pretrained(people.model)
    tokenizer.add_tokens(["Where", "was", "born"])
    tokenizer.save_pretrained(folder / "other_tokenizer")
    AutoModelForCausalLM.from_pretrained(people.model, dtype=torch.bfloat16).save_pretrained(folder / "bfloat16")
    AutoTokenizer.from_pretrained(people.model).save_pretrained(folder / "bfloat16")
    (folder / "template").write_text(TEMPLATE, encoding="utf-8")
    rows = people.rows["holdout"]
    forms = {
        "columns": lambda row, other: {"question": row["question"], "answer": row["answer"]} | other,
        "prompts": lambda row, other: {"prompt": row["question"], "completion": row["answer"]} | other,
        "messages": lambda row, other: {"messages": turns(row), "asked": turns({"question": "Who?"} | row)[1:]},
        "texts": lambda row, other: {"text": row["question"]} | other,
    }
    for name, form in forms.items():
        made = [form(row, {"asked": row["paraphrased_question"], "told": row["paraphrased_answer"]}) for row in rows]
        if name == "messages":
            made = [row | {"asked": turns(other)} for row, other in zip(made, rows[1:] + rows[:1], strict=True)]
        as_file(folder / f"{name}.jsonl", made)
    as_file(folder / "other_forget.jsonl", people.rows["forget"][:9])
    as_file(folder / "other_retain.jsonl", people.rows["retain"][:20])
    named = {path.stem: str(path) for path in folder.iterdir()}
    return named | {"retrained": str(retrained.folder / "model"), "method": f"{__name__}.Scaled"}


def turns(row: dict[str, Any]) -> list[dict[str, str]]:
    return [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]


def filled(value: Any, places: dict[str, str]) -> Any:
    return value.format(**places) if isinstance(value, str) else value
