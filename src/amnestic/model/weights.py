"""Weights: read from safetensors (or, where asked for, from pickles of tensors alone), whole, finite and of one shape.

A file of weights knows the precision of each tensor: what is saved goes back into the precision that it came in.
"""

import json
import os
import pickle
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM

from ..errors import InputError
from .options import ModelOptions
from .source import first_line

NO_CONVERSION = "DISABLE_SAFETENSORS_CONVERSION"
SAFE, PICKLE = "model.safetensors", "pytorch_model.bin"
WIDTHS = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def check_files(options: ModelOptions) -> bool:
    """Return whether the weights are in safetensors, True also where that is not known before they are downloaded.

    Raises InputError for files that are missing or damaged, and for pickles that nobody allowed.
    """
    folder = Path(options.model)
    if not folder.is_dir():
        return True
    for path in (safe := _paths(folder, SAFE)) or _paths(folder, PICKLE):
        _refuse_damaged(path)
    if safe or not _paths(folder, PICKLE):
        return True
    if not options.allow_pickle:
        raise InputError(
            f"the folder {options.model!r} holds its weights as pickles ({PICKLE}) alone, a format that can run code "
            "when it is read; convert them to safetensors, or give --allow_pickle to read tensors from them, and "
            "nothing else."
        )
    return False


def read_weights(options: ModelOptions, config: Any, dtype: torch.dtype) -> tuple[Any, list[str]]:
    """Return the model with its weights in `dtype`, and notes; raises InputError for weights that cannot be used."""
    is_safe = check_files(options)
    is_local = Path(options.model).is_dir()
    attempts = [True, False] if options.allow_pickle and not is_local else [is_safe]
    model, found = _load(options, config, dtype, attempts)
    for name, stored, expected in found["mismatched_keys"]:
        raise InputError(
            f"the weights of {options.model!r} hold {name} in shape {tuple(stored)}, and its configuration expects "
            f"{tuple(expected)}; give weights and configuration of the same model."
        )
    if missing := sorted(found["missing_keys"]):
        raise InputError(
            f"the weights of {options.model!r} lack {len(missing)} tensors of the model, {missing[0]} among them; "
            "expected a whole causal language model."
        )
    refuse_broken(model, repr(options.model))
    unknown = sorted(found["unexpected_keys"])
    if not unknown:
        return model, []
    note = (
        f"the weights hold {len(unknown)} tensors that {type(model).__name__} does not have, {unknown[0]} among them: "
        "they are not read, and the saved model will not have them."
    )
    return model, [note]


@torch.no_grad()
def refuse_broken(model: Any, name: str) -> None:
    """Raise InputError where a weight of the model `name` is no finite number."""
    for key, parameter in model.named_parameters():
        if not parameter.is_meta and not bool(parameter.isfinite().all()):
            broken = int((~parameter.isfinite()).sum())
            raise InputError(
                f"the weights of {name} are broken: {broken} of the {parameter.numel()} numbers in {key} are not "
                "finite; expected a model without NaN and infinity."
            )


def stored_dtypes(folder: Path) -> dict[str, torch.dtype]:
    """Return the precision of each floating-point tensor in the safetensors files of the model in `folder`."""
    found: dict[str, torch.dtype] = {}
    for path in _paths(folder, SAFE):
        with safe_open(path, "pt") as file:
            kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
        found |= {name: WIDTHS[kind] for name, kind in kinds.items() if kind in WIDTHS}
    return found


def usual(stored: Mapping[str, torch.dtype]) -> torch.dtype | None:
    """Return the precision of most tensors, or None where nothing is known."""
    return Counter(stored.values()).most_common(1)[0][0] if stored else None


def odd_ones(model: Any, stored: Mapping[str, torch.dtype], most: torch.dtype) -> dict[str, torch.dtype]:
    """Return the precision of each tensor of `model` that is stored in another than `most`, where files are mixed.

    Files of a single precision follow the configuration, as they do in transformers.
    """
    if len(set(stored.values())) < 2:
        return {}
    prefix = f"{model.base_model_prefix}."
    names = {name: stored.get(name) or stored.get(name.removeprefix(prefix)) for name in model.state_dict()}
    return {name: dtype for name, dtype in names.items() if dtype is not None and dtype != most}


def _paths(folder: Path, name: str) -> list[Path]:
    """Return the files of weights of the kind `name` in `folder`; raises InputError where one that is listed lacks."""
    if (folder / name).is_file():
        return [folder / name]
    if not (folder / f"{name}.index.json").is_file():
        return []
    paths = [folder / shard for shard in sorted(set(_index(folder / f"{name}.index.json").values()))]
    if absent := [path.name for path in paths if not path.is_file()]:
        raise InputError(
            f"the folder {str(folder)!r} lacks {len(absent)} of its {len(paths)} files of weights, {absent[0]} among "
            "them; copy or download them again."
        )
    return paths


def _index(path: Path) -> dict[str, str]:
    try:
        found: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is no list of weights (JSON with a weight_map); copy or download it again."
        ) from error
    return found


def _refuse_damaged(path: Path) -> None:
    if path.suffix != ".safetensors":
        return  # whether a pickle is whole shows when it is read
    try:
        with safe_open(path, "pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged ({first_line(error)[:-1]}); copy or download it again.") from error


def _load(
    options: ModelOptions, config: Any, dtype: torch.dtype, attempts: list[bool]
) -> tuple[Any, Mapping[str, Any]]:
    """Return model and loading report; each attempt says whether to read safetensors (True) or pickles."""
    for is_safe in attempts:
        try:
            with _from_the_source_alone():
                loading: Any = AutoModelForCausalLM.from_pretrained(
                    options.model,
                    revision=options.model_revision or "main",
                    config=config,
                    dtype=dtype,
                    trust_remote_code=options.trust_remote_code,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,  # reported by name
                    use_safetensors=is_safe,
                    weights_only=True,
                )
        except pickle.UnpicklingError as error:
            raise InputError(
                f"the pickles of {options.model!r} hold something else than tensors, which was not read, or are "
                "damaged; give the model in safetensors."
            ) from error
        except Exception as error:  # missing files, broken ones, code of the model that fails
            if is_safe and is_safe is not attempts[-1] and isinstance(error, OSError):
                continue
            hint = " (weights in pickles alone are read with --allow_pickle)" if _lacks_safe(error) else ""
            raise InputError(
                f"cannot load the weights of {options.model!r}: {first_line(error)[:-1]}{hint}."
            ) from error
        model, found = loading
        return model, found
    raise InputError(f"cannot load the weights of {options.model!r}.")


@contextmanager
def _from_the_source_alone() -> Iterator[None]:
    """Keep transformers from asking a service to convert a Hub model's pickles, and from loading what that made."""
    before = os.environ.get(NO_CONVERSION)
    os.environ[NO_CONVERSION] = "1"
    try:
        yield
    finally:
        del os.environ[NO_CONVERSION]
        if before is not None:
            os.environ[NO_CONVERSION] = before


def _lacks_safe(error: Exception) -> bool:
    """Return whether the error is of a Hub repository without safetensors."""
    return "does not appear to have a file named" in str(error) and "safetensors" in str(error)
