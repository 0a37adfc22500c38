"""Whether two results were measured on the same prompts: numbers of different prompts say nothing of each other."""

from collections.abc import Iterator, Mapping
from typing import Any

from ..data.quoting import REDACTED, quoted
from ..errors import InputError

CURE = "measure both with the same data and the same options of the template"
_WORDS = {
    "kind": "kind of template",
    "template_sha256": "chat template (by its SHA-256)",
    "system_prompt": "system prompt",
    "date": "date in the prompts",
}
"""Key of the template's facts -> what a sentence calls it."""
BEFORE, AFTER = 24, 40
"""Characters that a message shows of a prompt, before and after the first that differs."""


def refuse_other_prompts(
    here: Mapping[str, Any], there: Mapping[str, Any], name: str = "the other result"
) -> str | None:
    """Raise InputError, with the first difference, where two contents of results.json come of different prompts.

    Compared are how prompts were rendered, and the first prompt of each split that both have; `name` names `there`.
    Returns a note where no prompt could be compared: the hashes in redacted results have nothing in common.
    """
    differences = _template_differences(here.get("template") or {}, there.get("template") or {})
    for what, ours, theirs in differences:
        raise InputError(f"{name} has another {what}: {quoted(theirs)} there, {quoted(ours)} here; {CURE}.")
    prompts = [results.get("prompts") or {} for results in (here, there)]
    shared = [split for split in prompts[0] if split in prompts[1]]
    hashes = {split: [found[split].get("sha256") for found in prompts] for split in shared}
    for split, (ours, theirs) in hashes.items():
        if ours and theirs and ours != theirs:
            shown = _excerpts(*(found[split]["text"] for found in prompts))
            raise InputError(
                f"{name} has another first prompt of the split {split}: {quoted(shown[1])} there, {quoted(shown[0])} "
                f"here; {CURE}."
            )
    if any(None not in pair for pair in hashes.values()):
        return None
    cause = "is redacted" if here.get("redacted") or there.get("redacted") else "tells no prompt of a split of these"
    return f"whether the prompts of {name} are the same could not be checked: one of the two results {cause}."


def _template_differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield what differs, in words, and the two values; a result without facts differs in nothing."""
    if not here or not there:
        return
    for key, words in _WORDS.items():
        ours, theirs = here.get(key), there.get(key)
        if ours != theirs and REDACTED not in (ours, theirs):
            yield words, _told(ours), _told(theirs)
        if key == "template_sha256":
            yield from _argument_differences(here.get("arguments") or {}, there.get("arguments") or {})


def _argument_differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for key in sorted({*here, *there}):
        if here.get(key) != there.get(key):
            yield f"'{key}' of the template", _told(here.get(key)), _told(there.get(key))


def _told(value: Any) -> str:
    return "none" if value is None else repr(value)


def _excerpts(here: str, there: str) -> list[str]:
    """Return both texts around the first character that differs."""
    pairs = enumerate(zip(here, there, strict=False))
    at = next((number for number, (ours, theirs) in pairs if ours != theirs), min(len(here), len(there)))
    begin, end = max(0, at - BEFORE), at + AFTER
    return [
        repr(f"{'...' if begin else ''}{text[begin:end]}{'...' if end < len(text) else ''}") for text in (here, there)
    ]
