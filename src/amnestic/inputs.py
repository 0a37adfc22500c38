"""What a run starts from: a loaded model, its encoder, and encoded splits, from names or from Python objects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .data.encode import Encoder, Split
from .data.example import Example
from .data.options import DataOptions
from .data.sources import read_examples, shared_rows, source_files
from .errors import InputError
from .methods.base import Method
from .model.load import Loaded, load, prepare
from .model.options import FinetuneModel, ModelOptions


@dataclass
class Given:
    """Objects that a Python caller hands over in place of names."""

    model: Any = None
    tokenizer: Any = None
    method: Method | None = None
    data: dict[str, Any] = field(default_factory=dict)
    """Split -> examples, rows or a data set."""

    @classmethod
    def split(cls, values: Mapping[str, Any]) -> tuple["Given", dict[str, str]]:
        """Tell objects from names: return the objects, and the names with a description in the place of each object."""
        stated = {key: value for key, value in values.items() if value is not None}
        objects = {key: value for key, value in stated.items() if not isinstance(value, str | Path)}
        names = {key: str(value) for key, value in stated.items() if key not in objects}
        names |= {key: f"<{type(value).__name__} in memory>" for key, value in objects.items() if key != "tokenizer"}
        if "method" in objects:
            names["method"] = objects["method"].name
        own = {key: objects.pop(key) for key in ("model", "tokenizer", "method") if key in objects}
        return cls(**own, data=objects), names


@dataclass(frozen=True)
class Inputs:
    """Everything that was read before anything was measured."""

    loaded: Loaded
    encoder: Encoder
    examples: dict[str, list[Example]]
    splits: dict[str, Split]
    sources: dict[str, str]
    """Split -> what the user named."""

    @property
    def files(self) -> list[Path]:
        """Return the local files that were read for data."""
        return [path for source in self.sources.values() for path in _files(source)]

    @property
    def facts(self) -> dict[str, Any]:
        """Return what results.json records of each split."""
        return {
            name: {
                "source": self.sources[name],
                "rows": split.rows,
                "examples": len(split.examples),
                "scored_tokens": split.scored,
                "too_long": split.too_long,
                "left_out": split.left_out,
                "longest": split.longest,
            }
            for name, split in self.splits.items()
        }


def gather(
    sources: Mapping[str, str], exclude: str | None, model: ModelOptions, data: DataOptions, seed: int, given: Given
) -> Inputs:
    """Read `sources` (split -> name), load the model, and encode; rows of `exclude` are left out of the first split.

    Raises InputError for whatever cannot be used. The data is read first: a broken line costs no loading.
    """
    examples = {name: read_examples(given.data.get(name, source), name, data) for name, source in sources.items()}
    if exclude is not None:
        _leave_out(examples, read_examples(given.data.get("exclude", exclude), "exclude", data), exclude)
    loaded = _load(model, seed, given)
    encoder = Encoder(loaded.tokenizer, data, loaded.position_limit)
    splits = {name: encoder.encode(name, rows) for name, rows in examples.items()}
    _note_lengths(loaded, encoder, splits)
    return Inputs(loaded, encoder, examples, splits, dict(sources))


def refuse_shared(examples: Mapping[str, list[Example]]) -> None:
    """Raise InputError where the forget and the retain split share rows: they cannot be both forgotten and kept."""
    shared = shared_rows(examples["forget"], examples["retain"])
    if shared:
        raise InputError(
            f"forget and retain share {shared} rows of {len(examples['forget'])} and {len(examples['retain'])}; take "
            "them out of one of the two."
        )


def _files(source: str) -> Sequence[Path]:
    return [] if source.startswith("<") else source_files(source)


def _leave_out(examples: dict[str, list[Example]], excluded: list[Example], name: str) -> None:
    unwanted = {example.fingerprint for example in excluded}
    (split, rows), *_ = examples.items()
    kept = [example for example in rows if example.fingerprint not in unwanted]
    if len(kept) == len(rows):
        raise InputError(f"none of the {len(excluded)} rows of --exclude {name} stands in the data; check both files.")
    if not kept:
        raise InputError(f"--exclude {name} leaves no row of the data.")
    examples[split] = kept


def _load(options: ModelOptions, seed: int, given: Given) -> Loaded:
    if given.model is None:
        return load(options, isinstance(options, FinetuneModel) and options.from_scratch, seed)
    if given.tokenizer is None:
        raise InputError("a loaded model was given without its tokenizer; pass tokenizer=... as well.")
    return prepare(given.model, given.tokenizer)


def _note_lengths(loaded: Loaded, encoder: Encoder, splits: Mapping[str, Split]) -> None:
    for name, split in splits.items():
        if split.too_long:
            done = "left out" if encoder.options.too_long == "drop" else "cut"
            loaded.notes.append(
                f"{split.too_long} of {split.rows} {name} rows are longer than {encoder.limit} tokens (the longest has "
                f"{split.longest}) and were {done}."
            )
        if split.left_out and encoder.options.too_long != "drop":
            loaded.notes.append(f"{split.left_out} of {split.rows} {name} rows have no token left to score: left out.")
    if encoder.writes_today:
        loaded.notes.append(
            "the chat template writes today's date into every prompt; pin it with --template_args.date_string."
        )
