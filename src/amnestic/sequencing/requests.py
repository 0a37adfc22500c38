"""Requests: which there are, in which order, and whether they can be met together."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..benchmarks.base import Benchmark, Source
from ..data.example import Example, content_digests, marked_rows
from ..data.options import TAKEN, DataOptions, named_source
from ..data.sources import shared_rows, source_files
from ..errors import InputError, nearest
from .options import SequenceData

STRANGE = re.compile(r"[^A-Za-z0-9_]+")
"""What names of splits cannot hold."""


@dataclass(frozen=True)
class Request:
    """Rows that are to be forgotten together."""

    name: str
    source: str
    """A file, a folder or a Hub data set; of rows in memory what they are; or a benchmark's name."""
    is_benchmark: bool = False
    """`source` is a benchmark, whose forget split is meant."""


@dataclass(frozen=True)
class Arrived:
    """A request as it was read."""

    request: Request
    examples: Sequence[Example]

    @property
    def content(self) -> str:
        """Return a hash of rows and marked spans in any order: equal requests have equal ones."""
        spans = {number: repr(self.examples[number].forget_spans) for number in marked_rows(self.examples)}
        digests = enumerate(content_digests(self.examples))
        rows = sorted({bytes(digest) + spans.get(number, "").encode() for number, digest in digests})
        return hashlib.sha256(b"\0".join(rows)).hexdigest()

    @property
    def record(self) -> dict[str, Any]:
        """Return what tells, when the sequence goes on, whether the request is still the same."""
        return {
            "name": self.request.name,
            "source": self.request.source,
            "rows": len(self.examples),
            "content": self.content,
        }


def requests_of(data: SequenceData) -> tuple[Request, ...]:
    """Return the requests in the order of their arrival; raises InputError for what names none, or two alike."""
    found = _of_benchmark(data) if data.benchmark is not None else _of_files(data.requests)
    if not found:
        raise InputError("no request was given; expected at least one file in --requests, or a folder of them.")
    sources: dict[str, str] = {}
    for request in found:
        if request.name in sources:
            raise InputError(
                f"two requests are called '{request.name}' ({sources[request.name]} and {request.source}); give one of "
                "them another name, as in --requests NAME=FILE."
            )
        sources[request.name] = request.source
    return tuple(found)


def _of_benchmark(data: SequenceData) -> list[Request]:
    """Return the requests of a benchmark that are asked for; all where none is named."""
    known = Benchmark.open(str(data.benchmark), data.data).requests()
    for name in data.requests:
        if name not in known:
            raise InputError(
                f"the benchmark {data.benchmark} has no request '{name}'{nearest(name, [*known]) or '.'} Known: "
                f"{', '.join(known)}."
            )
    return [Request(name, known[name], is_benchmark=True) for name in data.requests or known]


def _of_files(named: Sequence[str]) -> list[Request]:
    """Return a request for each file; a folder that stands alone and has no name is a folder of requests."""
    if len(named) == 1 and Path(named[0]).is_dir():
        named = [str(path) for path in source_files(named[0])]
    return [Request(name or name_of(source), source) for name, source in (named_source(text, "") for text in named)]


def name_of(source: str) -> str:
    """Return what a request from `source` is called: the file's name, as far as a split can have it."""
    name = STRANGE.sub("_", Path(source).name.partition(".")[0]).strip("_")
    return f"request_{name}".rstrip("_") if not name or name in TAKEN else name


def read(
    requests: Sequence[Request], data: SequenceData, template: DataOptions, memory: Mapping[str, Any]
) -> list[Arrived]:
    """Read all requests; `memory` holds the rows of those that are in it."""
    found = []
    for request in requests:
        source = Source(request.source, memory.get(request.name))
        if request.is_benchmark:
            source = Benchmark.open(request.source, data.data).training()["forget"]
        found.append(Arrived(request, source.read(request.name, template)))
    return found


def read_kept(
    requests: Sequence[Request], data: SequenceData, template: DataOptions, memory: Mapping[str, Any]
) -> dict[str, Sequence[Example]]:
    """Read what is kept throughout, by name; a benchmark's is that of its first request."""
    if data.benchmark is not None:
        source = Benchmark.open(requests[0].source, data.data).training()["retain"]
        return {"retain": source.read("retain", template)}
    named = data.retain if isinstance(data.retain, dict) else {"retain": str(data.retain)}
    return {name: Source(source, memory.get(name)).read(name, template) for name, source in named.items()}


def refuse_contradictory(arrived: Sequence[Arrived], kept: Mapping[str, Sequence[Example]]) -> list[str]:
    """Raise InputError where rows are to be kept and forgotten, or a request comes twice; return notes on overlaps."""
    for one in arrived:
        for name, rows in kept.items():
            if shared := shared_rows(one.examples, rows):
                raise InputError(
                    f"{shared} of {len(one.examples)} rows of request '{one.request.name}' stand in {name} as well: "
                    "they cannot be both; take them out of one of the two."
                )
    notes: list[str] = []
    seen: dict[str, str] = {}
    for number, one in enumerate(arrived):
        if (earlier := seen.setdefault(one.content, one.request.name)) != one.request.name:
            raise InputError(
                f"request '{one.request.name}' has the same rows as request '{earlier}', which comes before it; leave "
                "one of the two out."
            )
        notes += [
            f"{shared} of {len(one.examples)} rows of request '{one.request.name}' stand in request "
            f"'{other.request.name}' as well, which comes before it."
            for other in arrived[:number]
            if (shared := shared_rows(one.examples, other.examples))
        ]
    return notes
