"""LoRA adapters (arXiv:2106.09685): put into a model, switched off, merged, written and read.

peft replaces each adapted layer within the model by one that holds it, so the model stays of its own class, and its
head, configuration and ``generate`` stay where they were. Only the adapter can be trained; it is float32 at least.
"""

import copy
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import processes
from ..errors import InputError
from .options import ALL_LINEAR, AdapterOptions, ModelOptions
from .reading import reading
from .sharding import free_gathered, whole

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
NAME = "default"
"""What peft calls an adapter that has no name of its own."""
SLOW = 5e-5
"""Below this learning rate a note is given."""
BASE = ".base_layer"
"""What peft adds to the name of a layer that it adapts."""
UNMERGED = "_unmerged"
"""Attribute of an adapted layer within `merged`: its weight from before."""


@dataclass(frozen=True)
class Base:
    """Where the weights lie that an adapter belongs to."""

    name: str
    """Hub id, or the absolute path of a folder."""
    revision: str | None = None

    @property
    def is_local(self) -> bool:
        """Return whether the weights lie on this disk."""
        return Path(self.name).is_absolute()


@dataclass
class Adapter:
    """The adapter that a run trains."""

    options: AdapterOptions
    base: Base | None
    """None where the weights are in no file: only the merged model can be saved."""
    modules: int
    """Layers that it adapts."""
    parameters: int
    """Numbers that it trains."""
    of: int
    """Numbers of the model without it."""
    is_merged: bool = False
    """It is part of the weights now, and nothing of it is left."""

    @property
    def facts(self) -> dict[str, Any]:
        """Return what results.json records."""
        return {
            "lora_r": self.options.lora_r,
            "lora_alpha": self.options.lora_alpha,
            "lora_target_modules": ", ".join(self.options.lora_target_modules),
            "adapted_layers": self.modules,
            "trainable_parameters": self.parameters,
            "model_parameters": self.of,
            "merged": self.options.merge,
        }


def check_library(options: AdapterOptions) -> None:
    """Raise InputError where an adapter is asked for and peft is not installed; nothing is imported."""
    if options.use_peft:
        _require("--use_peft")


def attach(model: Any, options: AdapterOptions, base: Base | None, seed: int) -> Adapter:
    """Put a new adapter into `model`, which computes the same as before: its second factor is 0.

    The first factor depends on `seed` alone; the caller's random numbers stay as they were. Everything else is frozen.
    Raises InputError for target modules that the model does not have, or that cannot be adapted.
    """
    from peft import LoraConfig

    names = _chosen(model, options.lora_target_modules)
    total = sum(parameter.numel() for parameter in model.parameters())
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=options.lora_r,
        lora_alpha=options.lora_alpha,
        lora_dropout=0.0,
        target_modules=_shortest(model, names),
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that Conv1D stores its weight transposed, which peft handles
        torch.default_generator.manual_seed(seed)
        model.add_adapter(config, NAME)
    if base is not None:
        config.base_model_name_or_path, config.revision = base.name, base.revision
    wide = torch.promote_types(model.dtype, torch.float32)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.data = parameter.data.to(wide)
    return Adapter(options, base, len(names), sum(parameter.numel() for parameter in trainable), total)


@contextmanager
def switched_off(model: Any) -> Iterator[None]:
    """Let `model` compute without its adapter, for as long as the context lasts: it is the reference then.

    What can be trained stays as it was, so gradients of an earlier pass can still be computed within.
    """
    _switch(model, on=False)
    try:
        yield
    finally:
        _switch(model, on=True)


@contextmanager
def merged(model: Any, dtype_of: Callable[[str], torch.dtype]) -> Iterator[None]:
    """Let `model` compute with its adapter merged into rounded weights, for as long as the context lasts.

    `dtype_of` tells the precision that a parameter is rounded to, by its name. Holds a copy of the adapted weights, in
    which `exchange_merged` finds them.
    """
    try:
        with torch.no_grad():
            for name, layer in _layers(model):
                weight = layer.get_base_layer().weight
                vars(layer)[UNMERGED] = weight.detach().clone()
                weight.copy_(_merged(layer, dtype_of(f"{name}{BASE}.weight")))
        with switched_off(model):
            yield
    finally:
        exchange_merged(model)
        for module in model.modules():
            vars(module).pop(UNMERGED, None)


def is_merged(layer: Any) -> bool:
    """Return whether `merged` holds this layer at the moment."""
    return UNMERGED in vars(layer)


@torch.no_grad()
def exchange_merged(model: Any) -> None:
    """Give the layers that `merged` holds their weights from before, and the copy the merged ones; again: back."""
    free_gathered(model)  # it would compute with the weights from before the exchange
    for layer in model.modules():
        if (other := vars(layer).get(UNMERGED)) is not None:
            weight = layer.get_base_layer().weight
            own = weight.detach().clone()
            weight.copy_(other)
            other.copy_(own)


@torch.no_grad()
def merge(model: Any, dtype_of: Callable[[str], torch.dtype]) -> None:
    """Merge the adapter into weights that are rounded as `merged` rounds them, and leave nothing of it."""
    for name, layer in list(_layers(model)):
        inner = layer.get_base_layer()
        inner.weight.copy_(_merged(layer, dtype_of(f"{name}{BASE}.weight")))
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, inner)
    _forget_peft(model)


def write(model: Any, folder: Path) -> None:
    """Write the adapter of `model` to `folder` in peft's format, without the weights that it belongs to.

    All processes call it together, and the first one writes.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    config = copy.copy(model.peft_config[NAME])
    config.inference_mode = True  # whoever loads it does so to use it
    config.target_modules = sorted(config.target_modules)  # the same file in each run
    tensors = get_peft_model_state_dict(model, adapter_name=NAME, save_embedding_layers=False)
    prefix = "base_model.model."
    contents = {prefix + name: whole(value.detach()).cpu().contiguous() for name, value in tensors.items()}
    if not processes.is_first():
        return
    folder.mkdir(parents=True, exist_ok=True)
    save_file(contents, folder / WEIGHTS, metadata={"format": "pt"})
    config.save_pretrained(str(folder))


def read(model: Any, folder: Path) -> Any:
    """Return `model` with the adapter in `folder` put into it; raises InputError for one that cannot be read."""
    return _read(model, folder).base_model.model


def merge_saved(model: Any, folder: Path) -> Any:
    """Return `model` with the adapter in `folder` merged into it, whatever its kind.

    Raises InputError for an adapter that cannot be read, does not fit, or cannot be merged.
    """
    return unwrapped(_read(model, folder))


def unwrapped(model: Any) -> Any:
    """Return the model with the adapters that it carries merged into it; raises InputError where one cannot be merged.

    The model itself changes. Everything can be trained afterwards.
    """
    _require("a model with an adapter")
    configs = dict(model.peft_config)
    kinds = ", ".join(
        sorted({str(getattr(config.peft_type, "value", config.peft_type)) for config in configs.values()})
    )
    try:
        plain = model.merge_and_unload() if hasattr(model, "merge_and_unload") else _unwrapped(model, configs)
    except Exception as error:  # kinds without weights to merge, layers that are quantized
        raise InputError(
            f"the model carries an adapter of the kind {kinds}, which cannot be merged into it ({_line(error)}); give "
            "a model whose adapter can be merged, such as a LoRA."
        ) from error
    _forget_peft(plain)
    return plain


def carries_adapter(model: Any) -> bool:
    """Return whether peft or transformers has put an adapter into `model`."""
    return bool(getattr(model, "peft_config", None) or getattr(model, "_hf_peft_config_loaded", False))


def saved_adapter(options: ModelOptions) -> Path | None:
    """Return the folder of the adapter that `options` name as their model, or None where they name no adapter.

    An adapter of the Hub is downloaded. Raises InputError for a folder that holds a whole model and an adapter.
    """
    folder = Path(options.model)
    if folder.is_dir():
        if not (folder / CONFIG).is_file():
            return None
        if any(folder.glob("model*.safetensors")) or any(folder.glob("pytorch_model*.bin")):
            raise InputError(
                f"the folder {options.model!r} holds the weights of a whole model and an adapter ({CONFIG}); move one "
                "of the two into a folder of its own."
            )
        return folder
    from transformers.utils.peft_utils import find_adapter_config_file

    revision = options.model_revision or "main"
    try:
        if find_adapter_config_file(options.model, revision=revision) is None:
            return None
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(options.model, revision=revision, allow_patterns=["*.json", "adapter_model.*"]))
    except Exception:  # no such model, no network: what loads a whole model says so
        return None


def check_weights(folder: Path, allow_pickle: bool) -> None:
    """Raise InputError where `folder` lacks the numbers of its adapter, or holds them as a pickle nobody allowed."""
    if (folder / WEIGHTS).is_file():
        return
    if not (folder / PICKLE).is_file():
        raise InputError(f"the folder {str(folder)!r} of an adapter lacks {WEIGHTS}; copy or download it again.")
    if not allow_pickle:
        raise InputError(
            f"the folder {str(folder)!r} holds its adapter as a pickle ({PICKLE}) alone, a format that can run code "
            "when it is read; give --allow_pickle to read tensors from it, and nothing else."
        )


def base_of(folder: Path) -> Base:
    """Return the base model that the adapter in `folder` names; raises InputError where it names none."""
    _require(f"the adapter in {str(folder)!r}")
    try:
        stated: Mapping[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        name, revision = stated["base_model_name_or_path"], stated.get("revision")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder / CONFIG} is no configuration of an adapter (JSON with a base_model_name_or_path); copy or "
            "download it again."
        ) from error
    if not name:
        raise InputError(f"{folder / CONFIG} does not name the base model of the adapter; write its folder or Hub id.")
    return Base(str(name), revision)


def untouched_experts(model: Any) -> str | None:
    """Return a note where a model with an adapter holds experts in tensors of their own, which have none."""
    names = [name for name, value in model.named_parameters() if value.ndim > 2 and "expert" in name]
    if not names:
        return None
    return (
        f"the weights of the experts ({len(names)} tensors, {names[0]} among them) are no linear layers: they have no "
        "adapter, and stay as they are."
    )


def _read(model: Any, folder: Path) -> Any:
    from peft import PeftModel

    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")  # peft only warns of tensors that the file lacks
            found = PeftModel.from_pretrained(model, str(folder))
    except Exception as error:  # missing files, other shapes, kinds that peft does not know
        raise InputError(_misfit(folder, _line(error))) from error
    for warning in said:
        if "missing adapter keys" in str(warning.message):
            raise InputError(_misfit(folder, "its weights lack tensors"))
    return found


def _misfit(folder: Path, reason: str) -> str:
    return (
        f"the adapter in {str(folder)!r} cannot be read into its base model: {reason}; give the folder of an adapter "
        "that was made for that model."
    )


def _unwrapped(model: Any, configs: Mapping[str, Any]) -> Any:
    """Merge adapters that were put into `model` itself, which has no ``merge_and_unload``."""
    if any(getattr(config, "modules_to_save", None) for config in configs.values()):
        raise ValueError("it holds whole modules too, and peft's own model around it is missing")
    layers = list(_layers(model))
    if not layers:
        raise ValueError("it adds to what the model reads, and changes no weight")
    for name, layer in layers:
        layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.get_base_layer())
    return model


def _forget_peft(model: Any) -> None:
    """Let `model`, whose adapter is merged, be as any other: nothing says that it had one, and all of it can learn."""
    if hasattr(model, "peft_config"):
        del model.peft_config
    if hasattr(model, "_hf_peft_config_loaded"):
        model._hf_peft_config_loaded = False
    model.requires_grad_(True)


def _require(what: str) -> None:
    if find_spec("peft") is None:
        raise InputError(f"{what} needs peft; install it with: pip install 'amnestic[peft]'.")


def _layers(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield the name and module of each adapted layer."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer):
            yield name, module


def _switch(model: Any, on: bool) -> None:
    """Switch the adapter on or off; peft's own switch also freezes it."""
    for _, layer in _layers(model):
        flags = [(parameter, parameter.requires_grad) for parameter in layer.parameters()]
        layer.enable_adapters(on)
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def _merged(layer: Any, dtype: torch.dtype) -> Tensor:
    """Return the weight of `layer` with its adapters added, rounded once."""
    weight: Tensor = layer.get_base_layer().weight
    total = weight.to(torch.promote_types(weight.dtype, torch.float32))
    for name in layer.active_adapters:
        total = total + layer.get_delta_weight(name).to(total.dtype)
    return total.to(dtype).to(weight.dtype)


def _chosen(model: Any, wanted: tuple[str, ...]) -> list[str]:
    """Return the names of the modules to adapt; raises InputError for names that the model lacks or that cannot be."""
    adaptable = _adaptable(model)
    head = model.get_output_embeddings()
    if wanted == (ALL_LINEAR,):
        is_linear = {n for n, m in adaptable.items() if not isinstance(m, torch.nn.Embedding) and m is not head}
        if not is_linear:
            raise InputError(f"the model ({type(model).__name__}) has no linear layers to adapt; leave --use_peft out.")
        return sorted(is_linear)
    found: set[str] = set()
    for name in wanted:
        matched = {known for known in adaptable if _matches(known, name)}
        if not matched:
            known = ", ".join(sorted({known.rpartition(".")[2] for known in adaptable}))
            raise InputError(
                f"--lora_target_modules names {name!r}, which is no linear or embedding layer of the model "
                f"({type(model).__name__}); it has: {known}."
            )
        found |= matched
    _refuse_tied(model, found)
    return sorted(found)


def _adaptable(model: Any) -> dict[str, torch.nn.Module]:
    """Return the layers that can be adapted, by name; of a model that sees or hears too, those that read text."""
    from transformers.pytorch_utils import Conv1D

    kinds = (torch.nn.Linear, torch.nn.Embedding, Conv1D)
    found = {name: module for name, module in model.named_modules() if isinstance(module, kinds)}
    reached = {id(module) for module in reading(model)}
    return {name: module for name, module in found.items() if id(module) in reached}


def _refuse_tied(model: Any, names: set[str]) -> None:
    """Raise InputError for a layer whose weight is another one's too: merging would change both, adapting only one."""
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name.rpartition(".")[0])
    for shared in owners.values():
        if len(shared) > 1 and (tied := sorted(names & set(shared))):
            others = [name for name in shared if name != tied[0]]
            raise InputError(
                f"--lora_target_modules names {tied[0]}, whose weight is that of {', '.join(others)} too (tied "
                "embeddings), and an adapter would tear them apart; leave it out."
            )


def _shortest(model: Any, names: list[str]) -> list[str]:
    """Return last parts of `names` where they mean these modules and no others, else `names`."""
    parts = sorted({name.rpartition(".")[2] for name in names})
    meant = {known for known, _ in model.named_modules() if any(_matches(known, part) for part in parts)}
    return parts if meant == set(names) else names


def _matches(known: str, name: str) -> bool:
    return known == name or known.endswith(f".{name}")


def _line(error: Exception) -> str:
    text = str(error).strip().splitlines() or [type(error).__name__]
    return text[0].rstrip(".:")
