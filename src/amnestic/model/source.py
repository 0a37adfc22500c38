"""What a model's folder or Hub repository holds: configuration and tokenizer, or a sentence why neither can be used.

Code that comes with a model is never run, nor looked for, unless the options ask for it.
"""

from pathlib import Path
from typing import Any

from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedConfig,
)

from ..errors import InputError
from .options import ModelOptions

CAUSAL = "AutoModelForCausalLM"


def read_config(options: ModelOptions) -> Any:
    """Return the configuration that `options` name.

    Raises InputError where there is none, where it is that of no causal language model, of quantized weights, or of a
    model that needs code of its own which the options do not trust.
    """
    name = options.model
    _refuse_path(options)
    try:
        stated, _ = PreTrainedConfig.get_config_dict(name, revision=options.model_revision or "main")
        _refuse_unread(name, stated, options)
        config = AutoConfig.from_pretrained(
            name, revision=options.model_revision or "main", trust_remote_code=options.trust_remote_code
        )
    except InputError:
        raise
    except Exception as error:  # not there, no network, broken JSON, fields that do not fit, code that fails
        raise InputError(
            f"cannot load the model {name!r}: {first_line(error)} Give a model folder or the id of a Hub model."
        ) from error
    if not _is_causal(config, options.trust_remote_code):
        if own_code_note(config, options.trust_remote_code):
            raise InputError(_untrusted(f"the model {name!r}"))
        kind = ", ".join(config.architectures or []) or type(config).__name__
        raise InputError(f"the model {name!r} is {kind}; expected a causal language model (...ForCausalLM).")
    return config


def read_tokenizer(options: ModelOptions) -> Any:
    """Return the tokenizer that `options` name; raises InputError where there is none."""
    name = options.tokenizer or options.model
    revision = (options.model_revision or "main") if options.tokenizer is None else "main"
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=options.trust_remote_code)
    except Exception as error:  # a broken tokenizer raises whatever its parser does
        if "custom code" in str(error) and not options.trust_remote_code:
            raise InputError(_untrusted(f"the tokenizer of {name!r}")) from error
        raise InputError(
            f"cannot load a tokenizer from {name!r}: {first_line(error)} Give one with --tokenizer."
        ) from error
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):  # what transformers makes of a folder without its files
        raise InputError(f"the tokenizer of {name!r} has no entries of its own; give a tokenizer with --tokenizer.")
    return tokenizer


def own_code_note(config: Any, trusted: bool) -> list[str]:
    """Return a note where a model brings code that was not run, since transformers knows the architecture."""
    code = (getattr(config, "auto_map", None) or {}).get(CAUSAL)
    if code is None or trusted:
        return []
    return [f"the model brings code of its own ({code}), which was not run: transformers' own was used in its place."]


def source_folder(options: ModelOptions) -> Path:
    """Return the local folder, or that of the Hub's cache, that the model is read from."""
    if Path(options.model).is_dir():
        return Path(options.model)
    from transformers.utils.hub import cached_file

    return Path(str(cached_file(options.model, "config.json", revision=options.model_revision or "main"))).parent


def source_files(options: ModelOptions) -> list[Path]:
    """Return the files that the model was read from."""
    endings = {".safetensors", ".bin", ".json", ".jinja", ".model", ".txt", ".py"}
    return sorted(path for path in source_folder(options).iterdir() if path.is_file() and path.suffix in endings)


def first_line(error: Exception) -> str:
    """Return the first line of what an error says, with the next where the first only announces it."""
    lines = [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]
    text = " ".join(lines[: 2 if lines[0].endswith(":") else 1])
    return text.rstrip(".") + "."


def _refuse_path(options: ModelOptions) -> None:
    """Raise InputError for a path that is no folder of a whole model."""
    name, folder = options.model, Path(options.model)
    is_there = folder.is_dir() and not (folder / "config.json").is_file()
    if folder.suffix == ".gguf" or (is_there and any(folder.glob("*.gguf"))):
        raise InputError(
            f"--model is {name!r}, which holds a GGUF file, made to run a model and not to train it; give the folder "
            "that it was made from."
        )
    if _looks_local(name) and not folder.is_dir():
        raise InputError(f"--model is {name!r}, and there is no such folder; expected a model folder or a Hub id.")
    if folder.is_dir() and options.model_revision is not None:
        raise InputError(f"--model_revision is {options.model_revision!r}, but {name} is a local folder; leave it out.")


def _refuse_unread(name: str, stated: dict[str, Any], options: ModelOptions) -> None:
    """Raise InputError for what the text of a configuration tells before any class reads it."""
    if quantization := stated.get("quantization_config"):
        method = quantization.get("quant_method") or "an unnamed method"
        raise InputError(
            f"the model {name!r} is quantized ({method}), and its weights cannot be trained; give the model that it "
            "was made from, in float32, bfloat16 or float16."
        )
    known = stated.get("model_type") in CONFIG_MAPPING
    if "AutoConfig" in (stated.get("auto_map") or {}) and not known and not options.trust_remote_code:
        raise InputError(_untrusted(f"the model {name!r}"))


def _untrusted(what: str) -> str:
    return (
        f"{what} needs Python code that comes with it, which was not run; read that code, and if you trust it to run "
        "with all your rights on this machine, give --trust_remote_code."
    )


def _is_causal(config: Any, trusted: bool) -> bool:
    """Return whether the model reads from left to right, and is loaded whole.

    Encoders such as BERT do the first only as decoders; of some models that also see, AutoModelForCausalLM loads the
    part that reads, and the rest would be lost.
    """
    names, kind = config.architectures or [], type(config)
    if getattr(config, "is_encoder_decoder", False):
        return False
    if trusted and CAUSAL in (getattr(config, "auto_map", None) or {}):
        return True
    if kind not in AutoModelForCausalLM._model_mapping:
        return False
    if kind in AutoModelForMaskedLM._model_mapping and not getattr(config, "is_decoder", False):
        return False
    loaded = getattr(AutoModelForCausalLM._model_mapping[kind], "__name__", "")
    return not names or any("CausalLM" in name or "LMHead" in name or name == loaded for name in names)


def _looks_local(name: str) -> bool:
    """Return whether `name` can only be a path: by its form, or because its first folder exists here."""
    path = Path(name)
    is_inside = "/" in name and path.parent.is_dir()
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or path.exists() or is_inside
