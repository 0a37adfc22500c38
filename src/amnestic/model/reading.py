"""Which part of a model reads text, where it sees or hears too."""

from typing import Any

import torch


def reading(model: Any) -> list[torch.nn.Module]:
    """Return the modules that text may reach: all, or of a model of several parts the decoder's and the head."""
    if model.config.get_text_config() is model.config:
        return list(model.modules())
    return [*model.get_decoder().modules(), model.get_output_embeddings()]


def read_parameters(model: Any) -> list[tuple[str, torch.nn.Parameter]]:
    """Return names and parameters of the modules that text may reach."""
    reached = {id(parameter) for module in reading(model) for parameter in module.parameters()}
    return [(name, parameter) for name, parameter in model.named_parameters() if id(parameter) in reached]
