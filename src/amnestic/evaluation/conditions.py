"""What a benchmark says of the measurement of its splits; nothing heavy is imported here."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Continuing:
    """How the prompts of one split are continued."""

    max_new_tokens: int
    """Longest generated answer, in tokens."""
    stop_strings: tuple[str, ...] = ()
    """An answer ends in front of the first of these texts that it contains."""

    @property
    def goes_on(self) -> bool:
        """Return whether nothing but the limit ends an answer: a passage, of which no more than that is measured."""
        return not self.stop_strings


@dataclass(frozen=True)
class Conditions:
    """What holds for the splits of one measurement, whatever is read of them."""

    notes: Mapping[str, str] = field(default_factory=dict)
    """Split -> a sentence that must be read with whatever is measured on it."""
    continuing: Mapping[str, Continuing] = field(default_factory=dict)
    """Split -> how its prompts are continued; the others as the options say."""
    auxiliary: frozenset[str] = frozenset()
    """Splits that only those metrics read which name them: not one number of every kind for each."""

    @property
    def has_passages(self) -> bool:
        """Return whether a split holds passages that go on: this is a benchmark of whole texts."""
        return any(continuing.goes_on for continuing in self.continuing.values())
