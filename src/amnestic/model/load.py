"""Models and tokenizers: loaded with every dropout off, saved as they came."""

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from .. import processes
from ..errors import InputError
from . import adapter as adapters
from .adapter import Adapter, Base
from .options import AdapterOptions, ModelOptions, ShardingOptions
from .segments import segmented
from .sharding import device_of, shard, whole
from .signals import Form
from .source import CAUSAL, first_line, own_code_note, read_config, read_tokenizer, source_files, source_folder
from .weights import check_files, odd_ones, read_weights, refuse_broken, stored_dtypes, usual

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
    odd_dtypes: dict[str, torch.dtype] = field(default_factory=dict)
    """What came in another precision than `saved_dtype`, as the norms of some models do; and that of saved buffers."""
    form: Form = field(default_factory=Form)
    """How its logits may be read (`form.examine`)."""
    sharding: ShardingOptions | None = None
    """How its weights are spread over processes; None: this process holds them all."""
    runs_own_code: bool = False
    """The caller trusts the code that comes with the model; it is needed again to load what is saved."""
    base: Base | None = None
    """Where these weights can be loaded from; None where they are in no file as they are."""
    adapter: Adapter | None = None
    """What is trained in place of the weights."""

    @property
    def has_adapter(self) -> bool:
        """Return whether the model computes with an adapter that is not part of its weights."""
        return self.adapter is not None and not self.adapter.is_merged

    @property
    def saved_bytes(self) -> int:
        """Return the size of the weights as they will be saved: those of the adapter alone, or of the whole model."""
        named = [(name, p) for name, p in self.model.named_parameters() if self._is_saved(name, p)]
        return sum(parameter.numel() * self.dtype_of(name).itemsize for name, parameter in named)

    @property
    def candidate_bytes(self) -> int:
        """Return the size of what is trained, in the precision that it is saved in."""
        named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        return sum(parameter.numel() * self.dtype_of(name).itemsize for name, parameter in named)

    @property
    def vocabulary(self) -> int:
        """Return the number of vocabulary rows that the tokenizer knows; the model may have padding rows beyond."""
        return min(len(self.tokenizer), int(self.model.get_output_embeddings().weight.shape[0]))

    @property
    def position_limit(self) -> int | None:
        """Return the number of positions that the model knows, where its configuration states one."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    def dtype_of(self, name: str) -> torch.dtype:
        """Return the precision that the tensor `name` is saved in."""
        return self.odd_dtypes.get(name, self.saved_dtype)

    def _is_saved(self, name: str, parameter: torch.nn.Parameter) -> bool:
        if self.adapter is None or self.adapter.is_merged:
            return True
        return parameter.requires_grad != self.adapter.options.merge


def load(
    options: ModelOptions,
    from_scratch: bool = False,
    seed: int = 0,
    attention: str | None = None,
    on_host: bool = False,
) -> Loaded:
    """Load the model and tokenizer that `options` name; with `from_scratch` only the model's shape, and random weights.

    `attention` is a form of attention, by its name in transformers, in place of the architecture's usual one. With
    `on_host` the weights stay in the host's memory, from where they are spread over the processes' devices. An adapter
    is merged into the base model that it names. Raises InputError where there is no such model, where it is no causal
    language model, or has no tokenizer.
    """
    if (folder := adapters.saved_adapter(options)) is not None:
        base = partial(load, from_scratch=from_scratch, seed=seed, attention=attention, on_host=on_host)
        return _load_merged(options, folder, base, from_scratch)
    config = read_config(options)
    if attention is not None:
        config._attn_implementation = attention
    device = device_named(options.device)
    tokenizer = read_tokenizer(options)
    if from_scratch:
        saved = _stated_dtype(config) or torch.float32
        dtype, notes = _compute_dtype(options.dtype, saved, device)
        model = _random_weights(config, dtype, seed, options.trust_remote_code)
        model.generation_config.eos_token_id = tokenizer.eos_token_id
        loaded = prepare(model, tokenizer, saved, notes)
    else:
        loaded = _load_weights(options, config, tokenizer, device)
    loaded.model.to("cpu" if on_host else device)
    loaded.notes += own_code_note(config, options.trust_remote_code)
    loaded.files = source_files(options)
    loaded.runs_own_code = options.trust_remote_code
    if not from_scratch:
        commit = getattr(config, "_commit_hash", None)
        is_local = Path(options.model).is_dir()
        loaded.base = Base(str(Path(options.model).resolve())) if is_local else _on_hub(options, commit)
    return loaded


def adapt(loaded: Loaded, options: AdapterOptions, seed: int) -> None:
    """Put a new adapter into the model, which is all that is trained then.

    Raises InputError for target modules that do not fit, or where what the adapter belongs to is in no file.
    """
    base = loaded.base
    if not options.merge and base is None:
        base = _base_in_memory(loaded)
    names = {id(parameter): name for name, parameter in loaded.model.named_parameters()}
    loaded.adapter = adapters.attach(loaded.model, options, base, seed)
    renamed = {name: names.get(id(parameter)) for name, parameter in loaded.model.named_parameters()}
    odd = {name: loaded.odd_dtypes[old] for name, old in renamed.items() if old in loaded.odd_dtypes}
    own = {name: p.dtype for name, p in loaded.model.named_parameters() if p.requires_grad}
    loaded.odd_dtypes = loaded.odd_dtypes | odd | own
    if note := adapters.untouched_experts(loaded.model):
        loaded.notes.append(note)


def merge_adapter(loaded: Loaded) -> None:
    """Make the adapter a part of the weights, rounded to the precision that they are saved in."""
    if loaded.adapter is not None:
        adapters.merge(loaded.model, loaded.dtype_of)
        loaded.adapter.is_merged = True


def reload(loaded: Loaded, folder: Path) -> Loaded:
    """Load what was saved in `folder` as `loaded` is: precision, device, form of attention, its own code run or not."""
    dtype: Any = str(loaded.model.dtype).removeprefix("torch.")
    options = ModelOptions(
        model=str(folder), dtype=dtype, device=str(device_of(loaded.model)), trust_remote_code=loaded.runs_own_code
    )
    attention = getattr(loaded.model.config, "_attn_implementation", None)
    with processes.agreed():  # a folder that machines share may show its files late
        again = _load_saved(loaded, folder, options, attention)
    if loaded.sharding is not None:
        spread(again, loaded.sharding, device_of(loaded.model))
    return again


def _load_saved(loaded: Loaded, folder: Path, options: ModelOptions, attention: str | None) -> Loaded:
    on_host = loaded.sharding is not None
    if loaded.adapter is None or loaded.adapter.is_merged or loaded.adapter.base is None:
        return load(options, attention=attention, on_host=on_host)
    base = loaded.adapter.base
    options = replace(options, model=base.name, model_revision=base.revision, tokenizer=str(folder))
    again = load(options, attention=attention, on_host=on_host)
    again.model = adapters.read(again.model, folder)
    return again


def spread(loaded: Loaded, options: ShardingOptions, device: torch.device) -> None:
    """Spread the weights of a model over all processes (`shard`), each of which computes on `device`."""
    shard(loaded.model, options, device)
    loaded.sharding = options


def prepare(
    model: Any, tokenizer: Any, saved_dtype: torch.dtype | None = None, notes: list[str] | None = None
) -> Loaded:
    """Make a loaded model ready: every dropout 0, evaluation mode, a generation configuration that can be saved.

    Raises InputError for an object that is no causal language model, or that could not be loaded again once saved.
    """
    notes = notes if notes is not None else []
    if saved_dtype is None and adapters.carries_adapter(model):
        model = adapters.unwrapped(model)
        notes.append("the model carried an adapter, which was merged into it first.")
    if not callable(getattr(model, "get_output_embeddings", None)) or model.get_output_embeddings() is None:
        raise InputError(f"the model is {type(model).__name__}; expected a causal language model with an output head.")
    _refuse_unsavable(model)
    if saved_dtype is None:  # handed over in memory
        refuse_broken(model, type(model).__name__)
    for module in model.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name in _drops(module):
            setattr(module, name, 0.0)
    if model.dtype == torch.float64 and hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")  # the grouped product of experts has no float64
    model.eval()
    loaded = Loaded(model, tokenizer, saved_dtype or model.dtype, notes)
    if saved_dtype is None:
        tensors = model.state_dict().items()
        loaded.odd_dtypes = {name: t.dtype for name, t in tensors if t.is_floating_point() and t.dtype != model.dtype}
        loaded.runs_own_code = _has_own_code(model)
    _make_savable(loaded)
    return loaded


def save(loaded: Loaded, folder: Path) -> None:
    """Write model and tokenizer to `folder`, each tensor in the precision that it came in; the model stays as it is.

    Of a model with an adapter only the adapter is written. All processes of the run call it together, and the first one
    writes: it gathers what is spread in its memory.
    """
    model = loaded.model
    if loaded.has_adapter:
        adapters.write(model, folder)
        if processes.is_first():
            loaded.tokenizer.save_pretrained(folder)
        return
    spread_out = None if loaded.sharding is None else gathered_weights(loaded)
    if not processes.is_first():
        return
    tensors = dict(model.named_parameters())
    tensors |= {name: buffer for name, buffer in model.named_buffers() if name in loaded.odd_dtypes}
    exact = {name: tensor.data for name, tensor in tensors.items()}
    parts = [(part, part.dtype) for name in model.config.sub_configs if (part := getattr(model.config, name, None))]
    try:
        for name, tensor in tensors.items() if spread_out is None else ():
            tensor.data = tensor.data.to(loaded.dtype_of(name))
        for part, _ in parts:  # of the whole configuration transformers writes the precision itself
            part.dtype = loaded.saved_dtype
        model.save_pretrained(folder, state_dict=spread_out)
        if spread_out is not None:  # transformers states the precision of the live weights, not of those it was given
            model.config.dtype = loaded.saved_dtype
            model.config.save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)
    finally:
        for name, tensor in tensors.items() if spread_out is None else ():
            tensor.data = exact[name]
        for part, dtype in parts:
            part.dtype = dtype


def gathered_weights(loaded: Loaded) -> dict[str, torch.Tensor]:
    """Return the saved state of a spread model in the host's memory of the first process, and nothing on others."""
    found: dict[str, torch.Tensor] = {}
    names: dict[int, str] = {}  # of tensors that come under several names
    for name, tensor in loaded.model.state_dict(keep_vars=True).items():
        if id(tensor) not in names:
            names[id(tensor)] = name
            value = whole(tensor.detach())
            if processes.is_first():
                found[name] = (value.to(loaded.dtype_of(name)) if value.is_floating_point() else value).cpu()
        elif processes.is_first():
            found[name] = found[names[id(tensor)]]
    return found


@contextmanager
def checkpointed(loaded: Loaded, on: bool = True) -> Iterator[None]:
    """Compute activations again in each backward pass, for as long as the context lasts; gradients are the same.

    transformers does so in training mode only, where generating is not possible. Only the blocks that are computed
    again are in that mode, not what stands in them: dropout stays off, routers add no noise. Rates that a block reads
    from the configuration are 0 within the context. Raises InputError for a model that cannot.
    """
    if not on:
        yield
        return
    model, config = loaded.model, loaded.model.config.get_text_config()
    if not model.supports_gradient_checkpointing:
        raise InputError(f"{type(model).__name__} has no gradient checkpointing; leave --gradient_checkpointing out.")
    rates = {name: getattr(config, name) for name in _drops(config)}
    _switch_checkpointing(model, True)
    try:
        for name in rates:
            setattr(config, name, 0.0)
        with segmented(model, loaded.form.packs):  # a block is computed again outside of its pass
            yield
    finally:
        _switch_checkpointing(model, False)
        for name, value in rates.items():
            setattr(config, name, value)


@contextmanager
def as_saved(loaded: Loaded) -> Iterator[None]:
    """Give the model the weights that will be saved, for as long as the context lasts: rounded, and merged if asked."""
    if loaded.adapter is not None and loaded.has_adapter and loaded.adapter.options.merge:
        with adapters.merged(loaded.model, loaded.dtype_of):
            yield
        return
    named = [(name, value) for name, value in loaded.model.named_parameters() if value.requires_grad]
    exact = {name: value.detach().clone() for name, value in named if _loses(value.dtype, loaded.dtype_of(name))}
    if not exact:
        yield
        return
    try:
        round_to_saved(loaded)
        yield
    finally:
        with torch.no_grad():
            for name, parameter in loaded.model.named_parameters():
                if name in exact:
                    parameter.copy_(exact[name])


@torch.no_grad()
def round_to_saved(loaded: Loaded) -> None:
    """Round the weights in place to the precision that they are saved in."""
    for name, parameter in loaded.model.named_parameters():
        parameter.copy_(parameter.to(loaded.dtype_of(name)))


def digest(loaded: Loaded, without_adapter: bool = False) -> str:
    """Return a hash of the weights in the precision that they are saved in.

    With `without_adapter` it is that of the model as it was before it got its adapter.
    """
    found = hashlib.blake2b()
    for name, parameter in loaded.model.named_parameters():
        if without_adapter and loaded.has_adapter and parameter.requires_grad:
            continue
        plain = name.replace(f"{adapters.BASE}.", ".") if without_adapter and loaded.has_adapter else name
        found.update(plain.encode())
        value = whole(parameter.detach().to(loaded.dtype_of(name))).cpu().contiguous()
        found.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _load_merged(
    options: ModelOptions, folder: Path, load_base: Callable[[ModelOptions], Loaded], from_scratch: bool
) -> Loaded:
    """Load the base model of the adapter in `folder`, and merge the adapter into it in the base model's precision."""
    base = adapters.base_of(folder)
    adapters.check_weights(folder, options.allow_pickle)
    has_tokenizer = (folder / "tokenizer_config.json").is_file()
    tokenizer = options.tokenizer or (str(folder) if has_tokenizer else None)
    if Path(base.name).resolve() == folder.resolve():
        raise InputError(f"the adapter in {options.model!r} names its own folder as its base model; write another one.")
    named = replace(options, model=base.name, model_revision=base.revision, tokenizer=tokenizer)
    try:
        loaded = load_base(named)
    except InputError as error:
        raise InputError(
            f"{options.model!r} is an adapter of the base model {base.name!r}, which cannot be loaded: {error}"
        ) from error
    loaded.base = None
    if from_scratch:
        loaded.notes.append(f"{options.model} is an adapter: only the shape of its base model {base.name} was taken.")
        return loaded
    loaded.model = adapters.merge_saved(loaded.model, folder)
    loaded.model.eval()
    round_to_saved(loaded)
    refuse_broken(loaded.model, repr(options.model))
    loaded.files = sorted({*loaded.files, *(path for path in folder.iterdir() if path.is_file())})
    loaded.notes.append(f"{options.model} is an adapter: it was merged into its base model {base.name} first.")
    return loaded


def _on_hub(options: ModelOptions, commit: str | None) -> Base:
    return Base(options.model, options.model_revision or commit)


def _base_in_memory(loaded: Loaded) -> Base:
    """Return where the weights of a model that somebody handed over lie; raises InputError where they lie nowhere.

    The name that the model bears is believed only if the same weights can be loaded by it.
    """
    name = str(getattr(loaded.model, "name_or_path", "") or "")
    revision = getattr(loaded.model.config, "_commit_hash", None)
    dtype: Any = {torch.float32: "float32", torch.bfloat16: "bfloat16"}.get(loaded.model.dtype, "auto")
    found = None
    if name:
        options = ModelOptions(model=name, dtype=dtype, device="cpu", trust_remote_code=loaded.runs_own_code)
        with suppress(InputError):
            found = load(replace(options, model_revision=None if Path(name).is_dir() else revision))
    if found is None or found.base is None or digest(found) != digest(loaded):
        raise InputError(
            "an adapter is saved without the weights that it belongs to, and those of this model are in no folder "
            "that it could name; give --merge, which saves the whole model, or save the model and give its folder."
        )
    return found.base


def _load_weights(options: ModelOptions, config: Any, tokenizer: Any, device: torch.device) -> Loaded:
    """Load the weights in the precision of the computation: float32 where a mixed model would lose in its own."""
    check_files(options)
    saved = _stated_dtype(config) or usual(stored_dtypes(source_folder(options))) or torch.float32
    dtype, notes = _compute_dtype(options.dtype, saved, device)
    model, found = read_weights(options, config, dtype)
    odd = odd_ones(model, stored_dtypes(source_folder(options)), saved)  # a Hub model's files are here only now
    rounded = [name for name, value in model.state_dict().items() if name in odd and _loses(odd[name], value.dtype)]
    if rounded and options.dtype == "auto":
        notes = [f"{len(rounded)} tensors, such as {rounded[0]}, are stored in a wider precision: computed in float32."]
        model, found = read_weights(options, config, torch.float32)
    loaded = prepare(model, tokenizer, saved, notes + found)
    loaded.odd_dtypes = dict.fromkeys(_saved_buffers(model), saved) | odd
    return loaded


def _saved_buffers(model: Any) -> list[str]:
    """Return the names of the buffers that are saved, with numbers that have a precision; a router's bias is one."""
    saved = model.state_dict()
    return [name for name, buffer in model.named_buffers() if name in saved and buffer.is_floating_point()]


def _loses(stored: torch.dtype, read: torch.dtype) -> bool:
    """Return whether numbers stored in one precision are rounded when they are read in another."""
    return torch.promote_types(stored, read) != read


def _random_weights(config: Any, dtype: torch.dtype, seed: int, trusted: bool) -> Any:
    """Return a model with the random weights of `seed`; the caller's random numbers stay as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trusted)  # type: ignore[no-untyped-call]


def _stated_dtype(config: Any) -> torch.dtype | None:
    """Return the precision that a configuration states; composite ones may state it for the text part alone."""
    dtype = config.dtype or config.get_text_config().dtype
    return DTYPES.get(dtype.removeprefix("torch.")) if isinstance(dtype, str) else dtype


def device_named(name: str) -> torch.device:
    """Return the device that an option names; raises InputError for one that is not here."""
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(name)
        if device.index is not None and processes.count() > 1:
            raise InputError(
                f"--device is {name!r}, and {processes.count()} processes run together, each on one of its own; give "
                f"--device {device.type}."
            )
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device is {name!r}, which this machine does not offer: {first_line(error)}") from error
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
    """Return the names of the dropout rates among the attributes of a module or a configuration.

    The jitter of a router is no such rate: some routers have it decide outside of training mode too.
    """
    return [name for name, value in vars(holder).items() if "drop" in name and isinstance(value, float)]


def _has_own_code(model: Any) -> bool:
    """Return whether the class of `model` came with the model, and goes with it."""
    package = type(model).__module__.partition(".")[0]
    return CAUSAL in (getattr(model.config, "auto_map", None) or {}) and package != "transformers"


def _refuse_unsavable(model: Any) -> None:
    """Raise InputError for a model whose saved folder would hold something else, or could not be loaded again."""
    if getattr(model, "hf_quantizer", None) is not None or getattr(model, "is_quantized", False):
        raise InputError(f"the model ({type(model).__name__}) is quantized; load it without quantization.")
    if type(model.config) not in AutoModelForCausalLM._model_mapping and not _has_own_code(model):
        raise InputError(
            f"the model is {type(model).__name__}, which AutoModelForCausalLM could not load again once it is saved; "
            "register its classes first (AutoConfig.register, AutoModelForCausalLM.register)."
        )


def _switch_checkpointing(model: Any, on: bool) -> None:
    """Turn activation checkpointing on, with its blocks in training mode, or off, with all that it attached."""
    ending = "enable" if on else "disable"
    kind = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"  # the older name
    switch = getattr(model, f"{kind}_checkpointing_{ending}")
    if on:
        switch({"use_reentrant": False})
        for module in model.modules():
            module.training = bool(getattr(module, "gradient_checkpointing", False))
        return
    switch()
    model.eval()
    if getattr(model, "_require_grads_hook", None) is not None:
        model.disable_input_require_grads()
