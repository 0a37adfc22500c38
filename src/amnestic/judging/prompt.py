"""The words in which a judge is asked: one file a split, in the package or in a folder of one's own."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from ..errors import InputError
from .answers import Answer

PLACES = ("question", "true_answer", "given_answer")
_CRITERIA = re.compile(r"criteria:[ \t]*(\w+(?:[ \t]*,[ \t]*\w+)*)[ \t]*\r?\n")
FORM = "expected 'criteria: NAME, NAME' as its first line, then the prompt with " + ", ".join(
    f"{{{place}}}" for place in PLACES
)


@dataclass(frozen=True)
class Prompt:
    """What a judge is asked about the answers of one split."""

    criteria: tuple[str, ...]
    """Names of the scores, each from 0 to 10, in their order."""
    text: str
    source: str
    """The file it is from, for people."""
    sha256: str
    """Of the whole file."""

    def about(self, answer: Answer) -> str:
        """Return the prompt for one answer: texts stand in it as JSON strings, so that none can end before its end."""
        texts = {"question": answer.question, "true_answer": answer.true, "given_answer": answer.given}
        pattern = "|".join(re.escape(f"{{{place}}}") for place in PLACES)
        return re.sub(pattern, lambda found: json.dumps(texts[found[0][1:-1]], ensure_ascii=False), self.text)


def read_prompts(splits: Iterable[str], folder: str | None) -> dict[str, Prompt]:
    """Return the prompt of each split from SPLIT.md, or from the file of the name's first part: forget_qa, forget.

    Raises InputError where there is none, or it is no prompt.
    """
    if folder is not None and not Path(folder).is_dir():
        raise InputError(f"there is no folder --prompts {folder}; expected one with SPLIT.md for each split.")
    place: Traversable = files(__package__) / "prompts" if folder is None else Path(folder)
    return {split: _read(place, split, "amnestic" if folder is None else folder) for split in splits}


def _read(place: Traversable, split: str, shown: str) -> Prompt:
    names = [f"{split}.md", f"{re.split(r'[._]', split)[0]}.md"]
    name = next((name for name in names if (place / name).is_file()), None)
    if name is None:
        known = sorted(item.name for item in place.iterdir() if item.name.endswith(".md"))
        raise InputError(
            f"{shown} has no prompt {split}.md; it has {', '.join(known) or 'none'}, so give --prompts FOLDER with one."
        )
    try:
        content = (place / name).read_bytes()
        text = content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {name} in {shown} as UTF-8 text: {error}.") from error
    return Prompt(*_parts(text, f"{shown}/{name}"), f"{shown}/{name}", hashlib.sha256(content).hexdigest())


def _parts(text: str, source: str) -> tuple[tuple[str, ...], str]:
    """Return criteria and prompt; raises InputError where one is missing."""
    head = _CRITERIA.match(text)
    if head is None:
        raise InputError(f"{source} does not begin with its criteria; {FORM}.")
    criteria = tuple(name.strip() for name in head[1].split(","))
    if len(set(criteria)) < len(criteria):
        raise InputError(f"{source} names a criterion twice; {FORM}.")
    body = text[head.end() :].strip()
    if missing := [place for place in PLACES if f"{{{place}}}" not in body]:
        raise InputError(f"{source} has no {{{missing[0]}}}; {FORM}.")
    return criteria, body


def described(prompts: Mapping[str, Prompt]) -> dict[str, dict[str, object]]:
    """Return what judge.json tells of the prompts: not their words, but what tells whether they were the same."""
    return {
        split: {"source": prompt.source, "sha256": prompt.sha256, "criteria": list(prompt.criteria)}
        for split, prompt in prompts.items()
    }
