"""What a user names to examples: files, folders of them, data sets of the Hub, and data in memory."""

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from ..errors import InputError, nearest
from .alternates import with_alternates
from .example import Example, content_digests, example_rows
from .files import PARQUET_ROWS, READERS, is_readable, one_line, read_rows, refuse_twice
from .opening import UNPACK, is_packed
from .options import DataOptions
from .quoting import quoted
from .records import Rows, is_among
from .rows import Form, Row, form_of, listing, renewed
from .spans import marked, spans_column

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(:.*)?")
KINDS = "a JSON, JSONL, CSV, TSV or Parquet file, a folder of them, or a Hub data set owner/name[:config[:split]]"
SUFFIXES = f"{', '.join(READERS)}; .gz may follow all but the last"


class HubError(InputError):
    """A data set of the Hub cannot be loaded."""

    def __init__(self, source: str, cause: str, advice: str) -> None:
        """`cause` is what the library said, `advice` the rest of the sentence."""
        super().__init__(f"{source} cannot be loaded from the Hub ({cause}){advice}")
        self.source, self.cause = source, cause


def read_examples(
    source: str | Path | Iterable[Any], split: str, options: DataOptions, alternates: bool = False
) -> Rows[Example]:
    """Return the examples of `source`, called ``split:row`` with rows counted from 0 over all its files.

    `source` is a file, a folder of files (read in the order of their names), a Hub data set
    ``owner/name[:config[:split]]`` where no local path has that name, a `datasets.Dataset`, or any iterable of
    dictionaries or examples. The columns of the first row decide the form of all. Other answers to the prompts are read
    where `alternates` asks for them; without it, whatever stands in their columns does not matter. Raises InputError
    for whatever cannot be used, with the file and the line.
    """
    form: Form | None = None
    examples = example_rows()
    spans = spans_column(options)
    for number, row in enumerate(rows_of(source, split)):
        id = f"{split}:{number}"
        if isinstance(row.value, Example):
            example = renewed(id, row.place, row.value)
        else:
            form = form or form_of(row, options)
            example = form.example(id, row)
        example = marked(example, row, spans)
        examples.append(with_alternates(example, row, options) if alternates else example)
    if not examples:
        raise InputError(f"{source if isinstance(source, str | Path) else split} is empty; expected at least one row.")
    return examples


def source_files(source: str | Path | Iterable[Any]) -> list[Path]:
    """Return the local files that `source` is read from, in order; none for a Hub data set or data in memory.

    Raises InputError for a path that does not exist or cannot be read.
    """
    return (_local_files(source) if isinstance(source, str | Path) else None) or []


def shared_rows(a: Iterable[Example], b: Iterable[Example]) -> int:
    """Return how many examples of `a` stand in `b` with the same content."""
    return int(is_among(content_digests(a), content_digests(b)).sum())


def rows_of(source: str | Path | Iterable[Any], split: str) -> Iterator[Row]:
    """Yield the rows of what `read_examples` reads, each with its place; `split` names data in memory."""
    if not isinstance(source, str | Path):
        return _in_memory(source, split)
    files = _local_files(source)
    if files is None:
        return _numbered(_plain_rows(_from_hub(str(source)), split), str(source))
    return chain.from_iterable(map(read_rows, files))


def _local_files(source: str | Path) -> list[Path] | None:
    """Return the files that a path stands for, or None for a Hub data set.

    Raises InputError for what is neither.
    """
    path = Path(source)
    if not str(source).strip():
        raise InputError(f"the name of a data source is empty; expected {KINDS}.")
    try:
        if path.exists():
            return _files(path)
        if path.is_symlink():
            raise InputError(f"{path} is a link that leads nowhere; give the file itself.")
        if isinstance(source, str) and HUB_ID.fullmatch(source) and not is_readable(path):
            return None
        raise InputError(f"there is no file or folder {path}{_advice(path)}")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from error


def _advice(path: Path) -> str:
    """Return the end of a sentence about a path that does not exist: the nearest name in its folder, or what can be."""
    if not path.parent.is_dir():
        return f", nor the folder {path.parent}; expected {KINDS}."
    near = nearest(path.name, [child.name for child in path.parent.iterdir()])
    return near or f"; expected {KINDS}."


def _files(path: Path) -> list[Path]:
    """Return the files that a local path stands for: itself, or the readable ones of a folder, sorted by name."""
    if not path.is_dir():
        _refuse_no_file(path)
        return [path]
    inside = sorted(path.iterdir(), key=lambda child: child.name)
    if packed := [child for child in inside if is_packed(child)]:
        raise InputError(f"{packed[0]} would be left out; {UNPACK}")
    files = [child for child in inside if child.is_file() and is_readable(child) and not child.name.startswith(".")]
    if not files:
        names = [f"{child.name}/" if child.is_dir() else child.name for child in inside]
        raise InputError(
            f"the folder {path} has no file that can be read (found: {listing(names)}); expected files that end in "
            f"{SUFFIXES}, in the folder itself."
        )
    return files


def _refuse_no_file(path: Path) -> None:
    """Raise InputError for a pipe or a device, which could be read only once, and for a suffix that says no kind."""
    if not path.is_file():
        raise InputError(f"{path} is a pipe or a device; expected a file, so write the data to one.")
    if is_packed(path):
        raise InputError(f"{path} is compressed, by its suffix; {UNPACK}")
    if not is_readable(path):
        raise InputError(f"{path} has the suffix '{path.suffix}'; expected one of {SUFFIXES}.")


def _in_memory(source: Iterable[Any], split: str) -> Iterator[Row]:
    if isinstance(source, Mapping):
        raise InputError(
            f"{split} is a {type(source).__name__} of {quoted(listing(source))}; expected a list of rows or one data "
            "set, so hand over one of its values."
        )
    if not isinstance(source, Iterable) and not _is_arrow(source):
        raise InputError(
            f"{split} is of the type {type(source).__name__}; expected a list of rows, a data set, a table of pandas, "
            "polars or pyarrow, or a path."
        )
    return _numbered(_plain_rows(source, split), split)


def _numbered(rows: Iterable[Any], name: str) -> Iterator[Row]:
    return (Row(f"row {number} of {name} (counted from 0)", value) for number, value in enumerate(rows))


def _plain_rows(source: Any, split: str) -> Iterator[Any]:
    """Yield the rows of a data set or a table as dictionaries; of anything else, its items."""
    if hasattr(source, "with_format"):  # of datasets: it may be set to give out tensors
        yield from source.with_format(None)
    elif hasattr(source, "iter_rows") and hasattr(source, "columns"):  # of polars
        yield from source.iter_rows(named=True)
    elif _is_arrow(source):
        refuse_twice(split, source.column_names)
        for first in range(0, source.num_rows, PARQUET_ROWS):
            yield from source.slice(first, PARQUET_ROWS).to_pylist()
    elif hasattr(source, "itertuples") and hasattr(source, "columns"):  # of pandas
        names = list(source.columns)
        refuse_twice(split, names)
        for row in source.itertuples(index=False, name=None):
            cells = [cell.tolist() if hasattr(cell, "tolist") else cell for cell in row]
            yield dict(zip(names, cells, strict=True))
    else:
        yield from source


def _is_arrow(source: Any) -> bool:
    """Return whether `source` is a table or a record batch of pyarrow, which cannot be iterated over."""
    return all(hasattr(source, name) for name in ("num_rows", "column_names", "slice", "to_pylist"))


def _from_hub(source: str) -> Any:
    """Return the data set that ``owner/name[:config[:split]]`` names; the config may be empty."""
    import datasets

    name, config, split = [*source.split(":", 2), "", ""][:3]
    try:
        loaded = datasets.load_dataset(name, config or None, split=split or None)
    except Exception as error:  # the network, the Hub and a data set's own files fail in every way
        cause = f"{type(error).__name__}: {quoted(one_line(error))}"
        advice = f", and there is no file or folder of that name{_advice(Path(source))}"
        raise HubError(source, cause, advice) from error
    if not isinstance(loaded, Mapping):
        return loaded
    if len(loaded) != 1:
        example = f"{name}:{config}:{next(iter(loaded), 'split')}"
        raise InputError(f"{source} has {len(loaded)} splits ({listing(loaded)}); name one, as in {example}.")
    return next(iter(loaded.values()))
