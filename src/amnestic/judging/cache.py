"""What was answered, kept by the content of the request, so that no prompt is paid for twice.

A line holds a hash, scores and counts: neither a text nor a key. Each is on the disk before the next prompt is sent.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..reports.files import JsonLines, read_jsonl
from ..reports.places import alone

FILE = "answered.jsonl"


@dataclass(frozen=True)
class Verdict:
    """What the judge said of one prompt."""

    scores: Mapping[str, float]
    model: str
    """As the server named it."""
    sent: int = 0
    """Tokens of prompts, as the server counts them, replies out of form included."""
    received: int = 0
    """Tokens of replies."""
    uncounted: int = 0
    """Replies whose tokens the server did not count."""


def content_key(request: Mapping[str, Any], criteria: tuple[str, ...]) -> str:
    """Return what stands for a request, whichever server it goes to."""
    content = json.dumps([request, criteria], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(content.encode(errors="surrogatepass")).hexdigest()


class Cache:
    """The verdicts of earlier calls and of this one, by the keys of their requests."""

    def __init__(self, path: Path) -> None:
        """Read what `path` holds, and touch nothing; raises InputError where it is damaged."""
        self.path = path
        self._known = dict(_read(path)) if path.is_file() else {}
        self._file: JsonLines | None = None

    def get(self, key: str) -> Verdict | None:
        """Return what is known of a request."""
        return self._known.get(key)

    def put(self, key: str, verdict: Verdict) -> None:
        """Keep a verdict; raises RunError where the file system refuses."""
        assert self._file is not None  # within `open`
        self._file.append({"key": key} | asdict(verdict))
        self._known[key] = verdict

    @contextmanager
    def open(self) -> Iterator[None]:
        """Let verdicts be kept; raises InputError where another process keeps some there."""
        with alone(self.path.parent), JsonLines(self.path) as self._file:
            yield


def _read(path: Path) -> Iterator[tuple[str, Verdict]]:
    for record in read_jsonl(path):
        try:
            key = record.pop("key")
            verdict = Verdict(**record)
            sound = all(isinstance(value, float) for value in verdict.scores.values())
        except (AttributeError, KeyError, TypeError):
            sound = False
        if not sound:
            raise InputError(f"{path} holds a line that amnestic judge did not write; remove the file to judge anew.")
        yield key, verdict
