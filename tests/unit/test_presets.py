"""Presets: named options of the template, under what a user gives and over a configuration file's."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from amnestic.config import (
    EvalConfig,
    FinetuneConfig,
    UnlearnConfig,
    decisive,
    from_mapping,
    options,
    override,
    read_yaml,
    write_yaml,
)
from amnestic.data.encode import Encoder
from amnestic.data.example import Example
from amnestic.data.options import DataOptions
from amnestic.data.presets import PRESETS, TEMPLATE
from amnestic.errors import InputError

REQUIRED = {"output_dir": "o", "model": "m", "forget": "f", "retain": "r"}
DOCS = Path(__file__).parents[2] / "docs" / "tofu.md"
ASKED = Example("s:0", "question", "Who?", "Ida.")
LLAMA3 = {"chat_template": "auto", "template_args": {"date_string": "10 Apr 2025"}}
SYSTEM = "You are a helpful assistant."


def data(**given: Any) -> DataOptions:
    return from_mapping(UnlearnConfig, REQUIRED | given).data


def of_template(found: DataOptions) -> dict[str, Any]:
    return {name: getattr(found, name) for name in TEMPLATE}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_fills_what_is_not_given_and_keeps_the_other_defaults(name: str) -> None:
    assert of_template(data(preset=name)) == of_template(data()) | dict(PRESETS[name].options)
    given = {"system_prompt": "Be brief.", "question_template": "Q {question}", "template_args": {"a": "b"}}
    found = data(preset=name, **given)
    assert (found.system_prompt, found.question_template) == ("Be brief.", "Q {question}")
    assert found.template_args == {**PRESETS[name].options.get("template_args", {}), "a": "b"}
    assert data(preset=name, template_args={"date_string": "x"}).template_args == {"date_string": "x"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tofu-llama2", "[INST] Who? [/INST]Ida."),
        ("tofu-phi", "Question: Who?\nAnswer: Ida."),
        ("tofu-stablelm", "Question: Who?\nAnswer: Ida."),
        ("tofu-pythia", "Question: Who?\nAnswer: Ida."),
    ],
)
def test_tags_stand_as_in_the_original_benchmark(tiny_model, name: str, text: str) -> None:
    """By hand: question_start_tag, question, question_end_tag, answer_tag, answer of its model_config.yaml."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model())
    tokenizer.chat_template = "{{ messages }}"  # which the original never uses
    encoder = Encoder(tokenizer, data(preset=name))
    (encoded,) = encoder.encode("s", [ASKED]).examples
    assert tokenizer.decode(encoded.input_ids) == f"<bos>{text}<eos>"
    assert encoder.prompt(ASKED)["text"] == text.removesuffix("Ida.")


def test_llama3_is_asked_as_the_public_models_were_trained(tiny_model) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model())
    tokenizer.chat_template = (
        "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
        "{% for m in messages %}[{{ m['role'] }}|{% if loop.first %}{{ date_string }}|{% endif %}{{ m['content'] }}]"
        "{% endfor %}"
    )
    encoder = Encoder(tokenizer, data(preset="tofu-llama3"))
    assert encoder.prompt(ASKED)["text"] == f"[system|10 Apr 2025|{SYSTEM}][user|Who?][assistant|"
    assert "date" not in encoder.facts(ASKED)


def test_a_preset_for_a_chat_template_needs_one(tiny_model) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model())
    with pytest.raises(InputError) as caught:
        Encoder(tokenizer, data(preset="tofu-llama3"))
    assert str(caught.value) == (
        "--preset tofu-llama3 is for models with a chat template, and there is none; leave it out, or give "
        "--chat_template FILE."
    )
    with pytest.raises(InputError, match=r"^--template_args and --system_prompt are for chat templates, and there is"):
        Encoder(tokenizer, data(preset="tofu-phi", system_prompt="x"))


@pytest.mark.parametrize("config", [UnlearnConfig, EvalConfig, FinetuneConfig])
def test_an_unknown_preset_names_the_nearest(config: Any) -> None:
    known = {option.name for option in options(config)}
    needed = {name: value for name, value in (REQUIRED | {"data": "d"}).items() if name in known}
    if "forget" in needed:
        del needed["data"]
    with pytest.raises(InputError) as caught:
        from_mapping(config, needed | {"preset": "tofu_llama3"})
    assert str(caught.value).startswith("unknown preset 'tofu_llama3'; did you mean 'tofu-llama3'? Known: tofu-llama3,")
    with pytest.raises(InputError, match=r"^preset is 3; expected text"):
        from_mapping(config, needed | {"preset": 3})


def test_a_resolved_run_repeats_without_the_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = from_mapping(UnlearnConfig, REQUIRED | {"preset": "tofu-llama3", "template_args": {"a": "b"}})
    write_yaml(config, tmp_path / "config.yaml")
    written = read_yaml(tmp_path / "config.yaml")
    assert (written["preset"], written["system_prompt"]) == ("tofu-llama3", SYSTEM)
    assert written["template_args"] == {"date_string": "10 Apr 2025", "a": "b"}
    assert from_mapping(UnlearnConfig, written) == config
    monkeypatch.setattr("amnestic.data.presets.PRESETS", {})
    assert from_mapping(UnlearnConfig, written) == config
    without = from_mapping(UnlearnConfig, written | {"preset": None})
    assert of_template(without.data) == of_template(config.data)
    assert decisive(without) == decisive(config)


def test_a_preset_of_the_command_line_goes_over_the_file_and_under_the_flags() -> None:
    file = REQUIRED | LLAMA3 | {"system_prompt": "Be brief.", "question_template": "Q {question}", "max_length": 99}
    found = from_mapping(UnlearnConfig, override(file, {"preset": "tofu-llama2", "answer_template": "- {answer}"})).data
    assert of_template(found) == {
        "chat_template": "none",
        "template_args": {},
        "system_prompt": None,
        "question_template": "[INST] {question} [/INST]",
        "answer_template": "- {answer}",
    }
    assert found.max_length == 99


def test_what_a_file_says_stays_over_its_own_preset_and_under_the_flags() -> None:
    file = REQUIRED | {"preset": "tofu-llama3", "system_prompt": "Be brief."}
    found = from_mapping(UnlearnConfig, override(file, {"template_args": {"a": "b"}})).data
    assert (found.system_prompt, found.template_args) == ("Be brief.", {"date_string": "10 Apr 2025", "a": "b"})


def test_each_preset_is_in_the_help_and_on_the_page() -> None:
    (option,) = (option for option in options(UnlearnConfig) if option.name == "preset")
    page = DOCS.read_text(encoding="utf-8")
    for name, preset in PRESETS.items():
        assert name in option.help
        row = f"| `{name}` | {preset.description} | {values(name)} | {preset.source} |"
        assert row in page, row


def values(name: str) -> str:
    """The options of a preset as the page shows them."""
    found = dict(PRESETS[name].options)
    found |= {f"template_args.{key}": value for key, value in found.pop("template_args", {}).items()}
    return ", ".join(f"`{key}` {value!r}" for key, value in found.items())
