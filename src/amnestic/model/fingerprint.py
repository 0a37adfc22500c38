"""What the numbers of a model depend on: its weights, and whatever else its passes are made with."""

import hashlib
import json
from importlib.metadata import version
from typing import Any

from .load import Loaded, digest
from .sharding import device_of, whole

NAMES = ("_name_or_path", "architectures", "dtype", "transformers_version", "use_cache")
"""Entries of a configuration that change no number, or say where weights came from."""


def fingerprint_of(loaded: Loaded) -> str:
    """Return what stands for a model where its scores are kept; the same for equal weights that compute alike.

    Two models of the same weights differ by their configuration (a window, a rotary base, an adapter's scale), by the
    saved buffers, by precision, device and form of attention, and by how many vocabulary rows the tokenizer knows.
    """
    model = loaded.model
    described = [
        *map(version, ("amnestic", "transformers")),
        *(str(model.dtype), device_of(model).type, loaded.vocabulary),
        str(getattr(model.config, "_attn_implementation", None)),
        _plain(model.config),
        _adapters(model),
    ]
    found = hashlib.blake2b(json.dumps(described, sort_keys=True, default=str).encode())
    saved = model.state_dict()
    for name, buffer in model.named_buffers():
        if name in saved:
            found.update(name.encode())
            found.update(whole(buffer.detach()).cpu().double().contiguous().numpy().data)
    return f"{digest(loaded)} {found.hexdigest()}"


def _plain(configuration: Any) -> dict[str, Any]:
    """Return the entries of a configuration that change numbers, as JSON holds them."""
    entries = {name: value for name, value in configuration.to_dict().items() if name not in NAMES}
    return {name: sorted(map(str, value)) if isinstance(value, set) else value for name, value in entries.items()}


def _adapters(model: Any) -> dict[str, Any]:
    """Return by what factor the adapters of each module count, and which of them do; their weights are the model's."""
    adapted = {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}
    return {name: [m.scaling, m.active_adapters, m.disable_adapters, m.merged] for name, m in adapted.items()}
