"""Models and tokenizers: loaded with every dropout off, saved as they came."""

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, GenerationConfig

from ..errors import InputError
from .options import ModelOptions

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


@dataclass
class Loaded:
    """A model that is ready to train or to be measured, and its tokenizer."""

    model: Any
    tokenizer: Any
    saved_dtype: torch.dtype
    """What the model came in, and is saved in."""
    notes: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    """Local files that the weights and the tokenizer were read from."""

    @property
    def vocabulary(self) -> int:
        """Return the number of vocabulary rows that the tokenizer knows; the model may have padding rows beyond."""
        return min(len(self.tokenizer), int(self.model.get_output_embeddings().weight.shape[0]))

    @property
    def position_limit(self) -> int | None:
        """Return the number of positions that the model knows, where its configuration states one."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)


def load(options: ModelOptions, from_scratch: bool = False, seed: int = 0) -> Loaded:
    """Load the model and tokenizer that `options` name; with `from_scratch` only the model's shape, and random weights.

    Raises InputError where there is no such model, where it is no causal language model, or has no tokenizer.
    """
    config = _config(options)
    device = _device(options.device)
    tokenizer = _tokenizer(options)
    saved = _saved_dtype(config)
    dtype, notes = _compute_dtype(options.dtype, saved, device)
    if from_scratch:
        model = _random_weights(config, dtype, seed)
        model.generation_config.eos_token_id = tokenizer.eos_token_id
    else:
        model = _weights(options, config, dtype)
    loaded = prepare(model.to(device), tokenizer, saved, notes)
    loaded.files = _files(options)
    return loaded


def prepare(
    model: Any, tokenizer: Any, saved_dtype: torch.dtype | None = None, notes: list[str] | None = None
) -> Loaded:
    """Make a loaded model ready: every dropout 0, evaluation mode, a generation configuration that can be saved.

    Raises InputError for an object that is no causal language model.
    """
    if not callable(getattr(model, "get_output_embeddings", None)) or model.get_output_embeddings() is None:
        raise InputError(f"the model is {type(model).__name__}; expected a causal language model with an output head.")
    for module in model.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name in _drops(module):
            setattr(module, name, 0.0)
    model.eval()
    loaded = Loaded(model, tokenizer, saved_dtype or model.dtype, notes if notes is not None else [])
    _make_savable(loaded)
    return loaded


def save(loaded: Loaded, folder: Path) -> None:
    """Write model and tokenizer to `folder`, in the precision that the model came in; the model stays as it is."""
    model = loaded.model
    exact = [parameter.data for parameter in model.parameters()]
    cast(model, loaded.saved_dtype)
    try:
        model.save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)
    finally:
        for parameter, value in zip(model.parameters(), exact, strict=True):
            parameter.data = value


@contextmanager
def checkpointed(loaded: Loaded, on: bool = True) -> Iterator[None]:
    """Compute activations again in each backward pass, for as long as the context lasts; gradients are the same.

    transformers does so in training mode only, where generating is not possible. Every dropout stays 0: those that a
    layer reads from the configuration are 0 within the context. Raises InputError for a model that cannot.
    """
    if not on:
        yield
        return
    model, config = loaded.model, loaded.model.config.get_text_config()
    if not model.supports_gradient_checkpointing:
        raise InputError(f"{type(model).__name__} has no gradient checkpointing; leave --gradient_checkpointing out.")
    drops = {name: getattr(config, name) for name in _drops(config)}
    _switch_checkpointing(model, True)
    try:
        for name in drops:
            setattr(config, name, 0.0)
        yield
    finally:
        _switch_checkpointing(model, False)
        for name, value in drops.items():
            setattr(config, name, value)


@contextmanager
def as_saved(loaded: Loaded) -> Iterator[None]:
    """Round the weights to the precision that they are saved in, for as long as the context lasts."""
    if torch.promote_types(loaded.model.dtype, loaded.saved_dtype) == loaded.saved_dtype:
        yield
        return
    exact = [parameter.detach().clone() for parameter in loaded.model.parameters()]
    try:
        round_to_saved(loaded)
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(loaded.model.parameters(), exact, strict=True):
                parameter.copy_(value)


@torch.no_grad()
def round_to_saved(loaded: Loaded) -> None:
    """Round the weights in place to the precision that they are saved in."""
    for parameter in loaded.model.parameters():
        parameter.copy_(parameter.to(loaded.saved_dtype))


def digest(loaded: Loaded) -> str:
    """Return a hash of the weights in the precision that they are saved in."""
    found = hashlib.blake2b()
    for name, parameter in loaded.model.named_parameters():
        found.update(name.encode())
        value = parameter.detach().to(loaded.saved_dtype).cpu().contiguous()
        found.update(value.view(torch.uint8).numpy() if value.ndim else value.float().numpy())
    return found.hexdigest()


def cast(model: Any, dtype: torch.dtype) -> None:
    """Change the precision of the parameters in place; buffers such as rotary frequencies keep theirs."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def _files(options: ModelOptions) -> list[Path]:
    """Return the files of a local folder, or of the Hub's cache, that the model was read from."""
    folder = Path(options.model)
    if not folder.is_dir():
        from transformers.utils.hub import cached_file

        found = cached_file(options.model, "config.json", revision=options.model_revision or "main")
        folder = Path(str(found)).parent
    endings = {".safetensors", ".bin", ".json", ".jinja", ".model", ".txt"}
    return sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in endings)


def _config(options: ModelOptions) -> Any:
    name = options.model
    if _looks_local(name) and not Path(name).is_dir():
        raise InputError(f"--model is {name!r}, and there is no such folder; expected a model folder or a Hub id.")
    if Path(name).is_dir() and options.model_revision is not None:
        raise InputError(f"--model_revision is {options.model_revision!r}, but {name} is a local folder; leave it out.")
    try:
        config = AutoConfig.from_pretrained(name, revision=options.model_revision or "main", trust_remote_code=False)
    except Exception as error:  # not there, no network, broken JSON, fields that do not fit
        raise InputError(
            f"cannot load the model {name!r}: {_first_line(error)} Give a model folder or the id of a Hub model."
        ) from error
    if not _is_causal(config):
        kind = ", ".join(config.architectures or []) or type(config).__name__
        raise InputError(f"the model {name!r} is {kind}; expected a causal language model (...ForCausalLM).")
    return config


def _is_causal(config: Any) -> bool:
    """Return whether the model reads from left to right; encoders such as BERT do so only as decoders."""
    names, kind = config.architectures or [], type(config)
    if kind not in AutoModelForCausalLM._model_mapping or getattr(config, "is_encoder_decoder", False):
        return False
    if kind in AutoModelForMaskedLM._model_mapping and not getattr(config, "is_decoder", False):
        return False
    return not names or any("CausalLM" in name or "LMHead" in name for name in names)


def _tokenizer(options: ModelOptions) -> Any:
    name = options.tokenizer or options.model
    revision = (options.model_revision or "main") if options.tokenizer is None else "main"
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    except Exception as error:  # a broken tokenizer raises whatever its parser does
        raise InputError(
            f"cannot load a tokenizer from {name!r}: {_first_line(error)} Give one with --tokenizer."
        ) from error
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):  # what transformers makes of a folder without its files
        raise InputError(f"the tokenizer of {name!r} has no entries of its own; give a tokenizer with --tokenizer.")
    return tokenizer


def _weights(options: ModelOptions, config: Any, dtype: torch.dtype) -> Any:
    try:
        loading: Any = AutoModelForCausalLM.from_pretrained(
            options.model,
            revision=options.model_revision or "main",
            config=config,
            dtype=dtype,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:  # missing files, broken safetensors, shapes that do not fit
        raise InputError(f"cannot load the weights of {options.model!r}: {_first_line(error)}") from error
    model, found = loading
    if missing := sorted(found["missing_keys"]):
        raise InputError(
            f"the weights of {options.model!r} lack {len(missing)} tensors of the model, {missing[0]} among them; "
            "expected a whole causal language model."
        )
    return model


def _random_weights(config: Any, dtype: torch.dtype, seed: int) -> Any:
    """Return a model with the random weights of `seed`; the caller's random numbers stay as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]


def _saved_dtype(config: Any) -> torch.dtype:
    dtype = config.dtype
    if isinstance(dtype, str):
        dtype = DTYPES.get(dtype.removeprefix("torch."))
    return dtype or torch.float32


def _device(name: str) -> torch.device:
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device is {name!r}, which this machine does not offer: {_first_line(error)}") from error
    return device


def _compute_dtype(asked: str, saved: torch.dtype, device: torch.device) -> tuple[torch.dtype, list[str]]:
    """Return the precision to compute in, with a note where it is neither what was asked for nor the model's own."""
    if asked != "auto":
        return DTYPES[asked], []
    if saved == torch.float16:
        return torch.float32, ["the model is in float16, whose range is too small to train in: computed in float32."]
    if saved == torch.bfloat16 and device.type == "cpu" and not has_bfloat16_instructions():
        return torch.float32, ["this processor has no bfloat16 instructions: the model is computed in float32."]
    return saved, []


def has_bfloat16_instructions() -> bool:
    """Return whether this processor multiplies bfloat16 in hardware; without, it is many times slower than float32."""
    if not hasattr(torch.cpu, "get_capabilities"):  # older torch
        return bool(torch.cpu._is_avx512_bf16_supported())
    capabilities = torch.cpu.get_capabilities()
    return any(bool(capabilities.get(flag)) for flag in ("avx512_bf16", "amx_bf16", "bf16"))


def _make_savable(loaded: Loaded) -> None:
    """Mend a generation configuration that transformers would refuse to write after hours of training."""
    settings = getattr(loaded.model, "generation_config", None)
    if settings is None or _is_savable(settings):
        return
    settings.do_sample = True
    if _is_savable(settings):
        loaded.notes.append("the model's generation configuration sets sampling values without do_sample: switched on.")
        return
    kept = {name: getattr(settings, name, None) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    loaded.model.generation_config = GenerationConfig(**kept)  # type: ignore[no-untyped-call]
    loaded.notes.append("the model's generation configuration is not valid: only its special tokens were kept.")


def _is_savable(settings: Any) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        try:
            settings.save_pretrained(folder)
        except ValueError:
            return False
    return True


def _drops(holder: Any) -> list[str]:
    """Return the names of the dropout rates among the attributes of a module or a configuration."""
    return [name for name, value in vars(holder).items() if "drop" in name and isinstance(value, float)]


def _switch_checkpointing(model: Any, on: bool) -> None:
    """Turn activation checkpointing on, with training mode, or off, with all that transformers attached for it."""
    ending = "enable" if on else "disable"
    kind = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"  # the older name
    switch = getattr(model, f"{kind}_checkpointing_{ending}")
    model.train(on)
    if on:
        switch({"use_reentrant": False})
        return
    switch()
    if getattr(model, "_require_grads_hook", None) is not None:
        model.disable_input_require_grads()


def _looks_local(name: str) -> bool:
    """Return whether `name` can only be a path: by its form, or because its first folder exists here."""
    path = Path(name)
    is_inside = "/" in name and path.parent.is_dir()
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or path.exists() or is_inside


def _first_line(error: Exception) -> str:
    """Return the first line of what an error says, with the next where the first only announces it."""
    lines = [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]
    text = " ".join(lines[: 2 if lines[0].endswith(":") else 1])
    return text.rstrip(".") + "."
