"""Named sets of the template's options, as known models were trained; nothing heavy is imported here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import InputError, nearest

TEMPLATE = ("chat_template", "template_args", "system_prompt", "question_template", "answer_template")
"""The options that a preset may fill; what it does not name keeps its default."""


@dataclass(frozen=True)
class Preset:
    """How one family of models is asked."""

    description: str
    source: str
    """Where the values come from."""
    options: Mapping[str, Any] = field(default_factory=dict)


TOFU_TAGS = "config/model_config.yaml of github.com/locuslab/tofu"
TOFU_QUESTION = {
    "chat_template": "none",
    "question_template": "Question: {question}\nAnswer:",
    "answer_template": " {answer}",
}
PRESETS = {
    "tofu-llama3": Preset(
        "the TOFU models of OpenUnlearning from Llama 3",
        "arXiv:2506.12618; open-unlearning/tofu_Llama-3.2-1B-Instruct_full and its like",
        {
            "chat_template": "auto",
            "system_prompt": "You are a helpful assistant.",
            "template_args": {"date_string": "10 Apr 2025"},
        },
    ),
    "tofu-llama2": Preset(
        "TOFU's own models from Llama 2",
        TOFU_TAGS,
        {"chat_template": "none", "question_template": "[INST] {question} [/INST]", "answer_template": "{answer}"},
    ),
    "tofu-phi": Preset("TOFU's own models from Phi-1.5", TOFU_TAGS, TOFU_QUESTION),
    "tofu-stablelm": Preset("TOFU's own models from StableLM", TOFU_TAGS, TOFU_QUESTION),
    "tofu-pythia": Preset("TOFU's own models from Pythia", TOFU_TAGS, TOFU_QUESTION),
}


def filled(mapping: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return options with those of the preset that they name, for the ones that are not among them.

    Arguments of the template are filled one by one. Where all options of the template are given, as in the resolved
    configuration of a run, the name is a record and nothing is looked up. Raises InputError for an unknown name.
    """
    name = mapping.get("preset")
    if not isinstance(name, str) or all(option in mapping for option in TEMPLATE):
        return mapping
    if name not in PRESETS:
        raise InputError(f"unknown preset '{name}'{nearest(name, list(PRESETS)) or '.'} Known: {', '.join(PRESETS)}.")
    found = dict(PRESETS[name].options)
    given = mapping.get("template_args")
    if isinstance(given, Mapping):
        found["template_args"] = {**found.get("template_args", {}), **given}
        return {**found, **mapping, "template_args": found["template_args"]}
    return {**found, **mapping}


def without_template(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Return options without those that a preset may fill."""
    return {name: value for name, value in mapping.items() if name not in TEMPLATE}
