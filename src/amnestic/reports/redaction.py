"""Keyed hashes in the place of texts, for run folders that must not hold what the rows say."""

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from ..credentials import Mask, mask
from ..data.quoting import REDACTED

NAMES = {"id", "model"}
"""Columns of scores whose texts say nothing of a row."""


class Redaction:
    """Replaces each text of a run by a hash, if the run is redacted: equal texts, equal hashes.

    The hash takes a random key that is written nowhere, since whoever guesses a short text could otherwise check the
    guess. So hashes of two runs have nothing in common, and a hash says nothing without the run's other hashes.
    """

    def __init__(self, is_on: bool) -> None:
        """Draw a key, if the run is redacted."""
        self.is_on = is_on
        self.held_back = ("continuations",) if is_on else ()
        """Kinds of what a cache must not hold: those that texts can be read off."""
        self._key = secrets.token_bytes(32)

    def text(self, value: str | None, masking: Mask | None = None) -> str | None:
        """Return what is written of a text: its hash, white space at its ends aside; of an empty one, the empty text.

        Where nothing is redacted, the text as it is, without the environment's secrets; `masking` knows them.
        """
        if value is None:
            return None
        if not self.is_on:
            return (masking or mask()).of_environment(value)
        if not value.strip():
            return ""
        digest = hashlib.blake2b(value.strip().encode(errors="surrogatepass"), digest_size=8, key=self._key)
        return f"hash:{digest.hexdigest()}"

    def columns(self, columns: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
        """Return the columns of scores as they are written."""
        masking = mask()
        written = dict(columns)
        for name in columns.keys() - NAMES:
            written[name] = [self.text(value, masking) if isinstance(value, str) else value for value in columns[name]]
        return written

    def template(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Return the facts about the template without a text, or a hash of one that could be guessed."""
        kept = dict(facts)
        if self.is_on:
            kept.pop("first_prompt_sha256", None)
            if kept.get("system_prompt") is not None:
                kept["system_prompt"] = REDACTED
        return kept

    def measured(self, facts: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """Return what is told of the data that a model was measured on: redacted, no hash of it."""
        hidden = ("content", "tokens") if self.is_on else ()
        return {split: {k: v for k, v in found.items() if k not in hidden} for split, found in facts.items()}

    def prompts(self, prompts: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
        """Return the first prompt of each split as it is written: a redacted one as its keyed hash alone.

        A plain hash, which results can be compared by, would let somebody check a guess.
        """
        if self.is_on:
            return {split: {"text": str(self.text(prompt["text"]))} for split, prompt in prompts.items()}
        return {split: {**prompt, "text": str(self.text(prompt["text"]))} for split, prompt in prompts.items()}

    def command(self, arguments: Sequence[str], system_prompt: str | None) -> list[str]:
        """Return a command line without the system prompt."""
        if not self.is_on or not system_prompt:
            return list(arguments)
        flag = f"--system_prompt={system_prompt}"
        named = {system_prompt: REDACTED, flag: f"--system_prompt={REDACTED}"}
        return [named.get(argument, argument) for argument in arguments]
