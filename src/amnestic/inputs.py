"""What a run starts from: a loaded model, its encoder, and encoded splits, from names or from Python objects."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from . import processes
from .benchmarks.base import BENCHMARKS, Benchmark, Source
from .data.alternates import refuse_absent
from .data.dates import PINNED
from .data.encode import Encoder, Split, span_facts, whole_digests
from .data.example import Example, content_digests
from .data.options import AlternatesOptions, DataOptions, UnlearnData
from .data.records import is_among, repeats, take
from .data.sources import HUB_ID, shared_rows
from .data.spans import refuse_misplaced
from .errors import InputError
from .methods.base import Method, arguments_of
from .model.form import examine
from .model.load import Loaded, adapt, device_named, load, prepare, spread
from .model.options import AdapterOptions, FinetuneModel, ModelOptions, ShardingOptions
from .model.packing import examine_packing
from .model.sharding import device_of


@dataclass
class Given:
    """Objects that a Python caller hands over in place of names."""

    model: Any = None
    tokenizer: Any = None
    method: Method | None = None
    bound_model: Any = None
    data: dict[str, Any] = field(default_factory=dict)
    """Split -> examples, rows or a data set."""

    @classmethod
    def split(cls, values: Mapping[str, Any]) -> tuple["Given", dict[str, Any]]:
        """Tell objects from names: return the objects, and the options with a description in place of each object.

        Raises InputError for a method that is neither a name nor an instance.
        """
        stated = {key: value for key, value in values.items() if value is not None}
        kept = stated.pop("retain") if _names_several(stated.get("retain")) else {}
        further = stated.pop("measure", None) or {}
        objects = {key: value for key, value in stated.items() if not isinstance(value, str | Path)}
        names = {key: _name(value) for key, value in stated.items() if key != "tokenizer" or key not in objects}
        if "method" in objects:
            names |= _described(objects["method"])
        own = {key: objects.pop(key) for key in ("model", "tokenizer", "method", "bound_model") if key in objects}
        for key, several in (("retain", kept), ("measure", further)):
            sources: Any = several
            if isinstance(several, Mapping):
                objects |= {name: value for name, value in several.items() if not isinstance(value, str | Path)}
                sources = {name: _name(value) for name, value in several.items()}
            if sources:
                names[key] = sources
        return cls(**own, data=objects), names


@dataclass(frozen=True)
class Besides:
    """What is measured besides the splits that training reads."""

    examples: Mapping[str, Sequence[Example]] = field(default_factory=dict)
    splits: Mapping[str, Split] = field(default_factory=dict)


@dataclass(frozen=True)
class Inputs:
    """Everything that was read before anything was measured."""

    loaded: Loaded
    encoder: Encoder
    examples: dict[str, Sequence[Example]]
    splits: dict[str, Split]
    sources: dict[str, str]
    """Split, or "exclude" -> what the user named, or a benchmark."""
    files: Sequence[Path] = ()
    """The local files that were read for data."""
    besides: Besides = field(default_factory=Besides)
    """Of a benchmark."""
    further: Besides = field(default_factory=Besides)
    """What --measure names."""

    @property
    def every_split(self) -> list[Split]:
        """Return all that was encoded."""
        return [*self.splits.values(), *self.besides.splits.values(), *self.further.splits.values()]

    @property
    def facts(self) -> dict[str, Any]:
        """Return what results.json records of each split."""
        examples = {**self.examples, **self.further.examples}
        return {
            name: {
                "source": self.sources[name],
                "rows": split.rows,
                "duplicates": repeats(content_digests(examples[name])),
                "examples": len(split.examples),
                "scored_tokens": split.scored,
                "too_long": split.too_long,
                "left_out": split.left_out,
                "longest": split.longest,
                **span_facts(split.examples),
            }
            for name, split in {**self.splits, **self.further.splits}.items()
        }


@dataclass(frozen=True)
class Read:
    """The rows of a run, and where they are from."""

    examples: dict[str, Sequence[Example]]
    sources: Mapping[str, Source]
    """Of the `examples`, of what is `further` measured, and of the rows that were left out as "exclude"."""
    measured: Mapping[str, Sequence[Example]] = field(default_factory=dict)
    """What a benchmark measures besides."""
    beside: Mapping[str, Source] = field(default_factory=dict)
    """Where that is from."""
    further: Mapping[str, Sequence[Example]] = field(default_factory=dict)
    """What --measure names."""

    @property
    def files(self) -> list[Path]:
        """Return the local files behind all of it, each once."""
        sources = [*self.sources.values(), *self.beside.values()]
        return list(dict.fromkeys(path for source in sources for path in source.files))


@dataclass(frozen=True)
class Loading:
    """How a model is loaded."""

    model: ModelOptions
    adapter: AdapterOptions
    sharding: ShardingOptions
    seed: int
    """Of new weights."""

    @property
    def shards(self) -> bool:
        """Return whether the weights are spread over several processes."""
        return self.sharding.fsdp and processes.count() > 1


def gather(
    sources: Mapping[str, Source],
    exclude: str | None,
    loading: Loading,
    data: DataOptions,
    given: Given,
    benchmark: Benchmark | None = None,
) -> Inputs:
    """Read the `sources` of splits, load the model, and encode; rows of `exclude` are left out of the first split.

    A `benchmark` brings the sources, and what is measured besides. Raises InputError for whatever cannot be used. The
    data is read first: a broken line costs no loading.
    """
    with processes.agreed():
        named = dict(sources) if benchmark is None else benchmark.training()
        examples = {name: _read(name, source, data, given) for name, source in named.items()}
        refuse_misplaced(examples, data)
        if benchmark is None:
            refuse_absent(examples, data)
        if exclude is not None:
            _leave_out(examples, _read("exclude", Source(exclude), data, given), exclude)
            named["exclude"] = Source(exclude)
        beside = {} if benchmark is None else benchmark.evaluation()
        measured = {name: source.read(name, data, alternates=True) for name, source in beside.items()}
        notes = [] if benchmark is None else benchmark.check(measured, examples)
        more = _further_sources(data, (*examples, *measured))
        further = {name: _read(name, source, data, given) for name, source in more.items()}
    inputs = _opened(Read(examples, named | more, measured, beside, further), loading, data, given)
    inputs.loaded.notes += notes
    return inputs


def _further_sources(data: DataOptions, taken: Sequence[str]) -> dict[str, Source]:
    """Return what is measured besides, by name; raises InputError for a name among those that are `taken`."""
    named = (data.measure or {}) if isinstance(data, UnlearnData) else {}
    if both := [name for name in named if name in taken]:
        raise InputError(f"--measure names a split '{both[0]}', which the benchmark has already; give another name.")
    place = data.data if isinstance(data, UnlearnData) else None
    return {name: to_forget(source, place) for name, source in named.items()}


def to_forget(name: str, place: str | None) -> Source:
    """Return the rows that `name` stands for: a file, a folder, a Hub data set, or a benchmark's forget split.

    `place` is that of the benchmark's files.
    """
    kind, _ = Benchmark.parted(name)
    is_benchmark = kind in BENCHMARKS.names() or (":" in name and "." in kind)  # a dotted path of one's own
    if not is_benchmark or Path(name).exists() or HUB_ID.fullmatch(name):
        return Source(name)
    return Benchmark.open(name, place).training()["forget"]


Choose = Callable[[str, Sequence[Example]], Sequence[Example]]
"""Returns those rows of a split that are to be measured."""


def gather_measured(
    sources: Mapping[str, Source],
    benchmark: Benchmark | None,
    loading: Loading,
    data: DataOptions,
    given: Given,
    choose: Choose,
) -> Inputs:
    """Read what a model is to be measured on, with other answers to its prompts; of `sources`, the rows of `choose`.

    All rows of a `benchmark` are. Raises InputError as `gather` does.
    """
    with processes.agreed():
        named = dict(sources)
        if benchmark is not None:
            named = benchmark.evaluation()
        examples = {name: _read(name, source, data, given) for name, source in named.items()}
        refuse_misplaced(examples, data)
        refuse_absent(examples, data)
        notes = [] if benchmark is None else benchmark.check(examples)
        if benchmark is None:
            examples = {name: choose(name, rows) for name, rows in examples.items()}
    inputs = _opened(Read(examples, named), loading, data, given)
    inputs.loaded.notes += notes
    return inputs


def _read(name: str, source: Source, data: DataOptions, given: Given) -> Sequence[Example]:
    asks = isinstance(data, AlternatesOptions)  # what trains alone has no use for other answers
    rows = Source(source.name, given.data[name]) if name in given.data else source
    return rows.read(name, data, asks)


def _opened(read: Read, loading: Loading, data: DataOptions, given: Given) -> Inputs:
    """Load the model, encode what was `read`, and find out how the model may read it."""
    examples = read.examples
    with processes.agreed():
        loaded = _load(loading, given)
        if loading.adapter.use_peft:
            adapt(loaded, loading.adapter, loading.seed)
        encoder = Encoder(loaded.tokenizer, data, loaded.position_limit)
        splits = {name: encoder.encode(name, rows) for name, rows in examples.items()}
        besides = {name: encoder.encode(name, rows) for name, rows in read.measured.items()}
        more = {name: encoder.encode(name, rows) for name, rows in read.further.items()}
        _refuse_unknown_tokens(loaded, [*splits.values(), *besides.values(), *more.values()])
    if loading.shards:
        spread(loaded, loading.sharding, device_named(loading.model.device))
    elif loading.sharding.fsdp:
        loaded.notes.append("--fsdp: this process is alone, so nothing is spread; torchrun starts several.")
    _examine(loaded, [*splits.values(), *besides.values(), *more.values()])
    _note_duplicates(loaded, examples)
    _note_lengths(loaded, encoder, splits)
    _note_template(loaded, encoder, next(iter(examples.values()))[0])
    names = {name: source.name for name, source in read.sources.items()}
    beside = (Besides(read.measured, besides), Besides(read.further, more))
    return Inputs(loaded, encoder, examples, splits, names, read.files, *beside)


def _examine(loaded: Loaded, splits: Sequence[Split]) -> None:
    examine(loaded, splits[0].examples[0])
    examine_packing(loaded, [split.examples for split in splits])


def load_beside(inputs: Inputs, options: ModelOptions, name: str, flag: str) -> Loaded:
    """Load the model `name`, which `flag` gives, to be measured beside that of `inputs`, on the same device.

    Raises InputError where it cannot be loaded, or has another tokenizer.
    """
    sharding = inputs.loaded.sharding
    device = device_of(inputs.loaded.model)
    own = replace(options, model=name, model_revision=None, tokenizer=None, device=str(device))
    with processes.agreed():
        try:
            beside = load(own, on_host=sharding is not None)
        except InputError as error:
            raise InputError(f"{flag} {name} cannot be loaded: {error}") from error
    if beside.tokenizer.get_vocab() != inputs.loaded.tokenizer.get_vocab():
        raise InputError(f"{flag} {name} has another tokenizer than the model; expected the same.")
    if sharding is not None:
        spread(beside, sharding, device)
    _examine(beside, inputs.every_split)
    return beside


def bound_model(inputs: Inputs, options: ModelOptions, name: str, given: Given) -> Loaded:
    """Return the model that the bound starts from: loaded, or as a Python caller gives it, with the run's tokenizer."""
    if given.bound_model is None:
        return load_beside(inputs, options, name, "--bound_model")
    beside = prepare(given.bound_model, inputs.loaded.tokenizer)
    _examine(beside, inputs.every_split)
    return beside


def refuse_shared(inputs: Inputs) -> None:
    """Raise InputError where the forget split shares rows with one that is kept: they cannot be both.

    Rows are the same if their contents are, or if they become the same tokens; so are chunks of texts, but not the
    last words of two.
    """
    forget, tokens = inputs.examples["forget"], whole_digests(inputs.splits["forget"].examples)
    for name, kept in inputs.examples.items():
        if name == "forget":
            continue
        alike = is_among(tokens, whole_digests(inputs.splits[name].examples))
        if shared := max(shared_rows(forget, kept), int(alike.sum())):
            raise InputError(
                f"forget and {name} share {shared} rows of {len(forget)} and {len(kept)}; take them out of one "
                "of the two."
            )


def _refuse_unknown_tokens(loaded: Loaded, splits: Sequence[Split]) -> None:
    known = loaded.model.get_input_embeddings().weight.shape[0]
    highest = max(split.highest for split in splits)
    if highest >= known:
        raise InputError(
            f"the tokenizer writes token {highest}, and the model knows the tokens below {known}; give the tokenizer "
            "that belongs to the model with --tokenizer."
        )


def _names_several(retain: Any) -> bool:
    """Return whether `retain` is not one source of rows: a dict of names to sources, or a list of ``name=FILE``.

    A dict of the library datasets is none: its names are those of a data set's splits.
    """
    if isinstance(retain, list | tuple):
        return bool(retain) and all(isinstance(item, str | Path) for item in retain)
    return isinstance(retain, Mapping) and not hasattr(retain, "num_rows")


def _name(value: Any) -> Any:
    """Return a name as text, and what stands for an object where names are written."""
    return str(value) if isinstance(value, str | Path) else f"<{type(value).__name__} in memory>"


def _described(method: Any) -> dict[str, Any]:
    """Return the options that name `method` and its hyper-parameters; a class without a name takes its dotted path."""
    if not isinstance(method, Method):
        raise InputError(f"method is {method!r}; expected a name, or an instance of a subclass of Method.")
    cls: Any = type(method)
    if "name" not in vars(cls):  # an inherited name is another class's
        cls.name = f"{cls.__module__}.{cls.__qualname__}"
    return {"method": cls.name, "method_args": arguments_of(method)}


def _leave_out(examples: dict[str, Sequence[Example]], excluded: Sequence[Example], name: str) -> None:
    (split, rows), *_ = examples.items()
    is_unwanted = is_among(content_digests(rows), content_digests(excluded))
    kept = take(rows, np.flatnonzero(~is_unwanted))
    if len(kept) == len(rows):
        raise InputError(f"none of the {len(excluded)} rows of --exclude {name} stands in the data; check both files.")
    if not kept:
        raise InputError(f"--exclude {name} leaves no row of the data.")
    examples[split] = kept


def _load(loading: Loading, given: Given) -> Loaded:
    options = loading.model
    if given.model is None:
        if given.tokenizer is not None:
            raise InputError("a loaded tokenizer was given with the name of a model; pass the tokenizer's name.")
        from_scratch = isinstance(options, FinetuneModel) and options.from_scratch
        return load(options, from_scratch, loading.seed, on_host=loading.shards)
    if given.tokenizer is None:
        raise InputError("a loaded model was given without its loaded tokenizer; pass it as tokenizer=... as well.")
    elsewhere = ("trust_remote_code", "allow_pickle")  # of the retrained model
    for item in fields(options):
        if item.name not in ("model", "tokenizer", *elsewhere) and getattr(options, item.name) != item.default:
            raise InputError(f"{item.name} says how to load a model, and this one is loaded; leave it out.")
    return prepare(given.model, given.tokenizer)


def _note_duplicates(loaded: Loaded, examples: Mapping[str, Sequence[Example]]) -> None:
    for name, rows in examples.items():
        if count := repeats(content_digests(rows)):
            loaded.notes.append(
                f"{count} of {len(rows)} {name} rows repeat an earlier row; they were kept, so what they say counts "
                "more than once."
            )


def _note_lengths(loaded: Loaded, encoder: Encoder, splits: Mapping[str, Split]) -> None:
    for name, split in splits.items():
        if split.too_long:
            done = "left out" if encoder.options.too_long == "drop" else "cut"
            loaded.notes.append(
                f"{split.too_long} of {split.rows} {name} rows are longer than {encoder.limit} tokens (the longest has "
                f"{split.longest}) and were {done}."
            )
        if split.lost_span_tokens:
            loaded.notes.append(
                f"{split.lost_span_tokens} tokens of marked spans stand beyond {encoder.limit} tokens, or where a text "
                "is cut: they are not forgotten; raise --max_length."
            )
        if split.left_out and encoder.options.too_long != "drop":
            loaded.notes.append(f"{split.left_out} of {split.rows} {name} rows have no token left to score: left out.")


def _note_template(loaded: Loaded, encoder: Encoder, first: Example) -> None:
    for name in encoder.arguments:
        if name not in str(encoder.chat_template):
            loaded.notes.append(f"the chat template does not read the argument '{name}': it changes nothing.")
    if encoder.writes_date(first):
        loaded.notes.append(
            f"the chat template asks for today's date; {PINNED} stands in every prompt instead, so that prompts are "
            "the same on any day (--template_args.date_string gives another date to a template that reads it)."
        )
