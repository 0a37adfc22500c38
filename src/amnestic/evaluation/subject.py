"""A model that is measured, with all that sweeps read of it."""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ..data.alternates import Alternates
from ..data.encode import Encoded, fact
from ..model.generate import stops
from ..model.load import Loaded
from .conditions import Conditions, Continuing
from .metric import Contents, Measurement
from .needs import Likelihood
from .options import EvaluationOptions
from .store import Store

TRUE = "answer"
SCORES, CONTINUATIONS, NORMS = "scores", "continuations", "gradient norms"
"""Kinds of what the store keeps."""


@dataclass(frozen=True)
class Subject:
    """A model, the splits that it is measured on, and what it is held beside."""

    loaded: Loaded
    splits: Mapping[str, Sequence[Encoded]]
    """The examples with their true answers."""
    options: EvaluationOptions
    alternates: Mapping[str, Mapping[str, Alternates]] = field(default_factory=dict)
    """Split -> kind of other answers -> their rows."""
    reference: Loaded | None = None
    retrained: Mapping[str, Measurement] | None = None
    """Key of results.json -> what was measured of the retrained model, with per-example values."""
    conditions: Conditions = field(default_factory=Conditions)
    """What a benchmark says of the splits."""
    store: Store = field(default_factory=Store)
    names: tuple[str, str] = ("model", "reference")
    """Fingerprints of the model and of the reference, under which the store keeps what they gave."""
    work: Counter[str] = field(default_factory=Counter)
    """Fills with what the sweeps took, in this process: see `Collected.work`."""
    advance: Callable[[int], None] = lambda positions: None
    """Is told how many positions (see `Plan`) are done."""

    @property
    def contents(self) -> Contents:
        """Return what metrics can be computed from."""
        kinds = {split: {TRUE, *self.alternates.get(split, ())} for split in self.splits}
        for split, examples in self.splits.items():
            if (fact(examples, "is_marked") & (fact(examples, "forgotten") > 0)).any():
                kinds[split].add("span")
        return Contents(
            {split: frozenset(found) for split, found in kinds.items()},
            self.reference is not None,
            None if self.retrained is None else frozenset(self.retrained),
            self.conditions,
        )

    @cached_property
    def stops(self) -> Sequence[int]:
        """Return the tokens that end an answer; those that close any example are among them, whichever is continued."""
        rows = [row for examples in self.splits.values() for row in examples]
        return stops(self.loaded.model, self.loaded.tokenizer, rows)

    @cached_property
    def trained(self) -> bytes:
        """Return a hash of the names of the model's trainable parameters."""
        names = [name for name, parameter in self.loaded.model.named_parameters() if parameter.requires_grad]
        return hashlib.blake2b("\n".join(names).encode(), digest_size=16).digest()

    def continuing(self, split: str) -> Continuing:
        """Return how the prompts of a split are continued."""
        return self.conditions.continuing.get(split, Continuing(self.options.max_new_tokens))

    def name(self, loaded: Loaded) -> str:
        """Return the name in the store of the model or of the reference."""
        return self.names[loaded is self.reference]

    def rows(self, need: Likelihood) -> Alternates:
        """Return the rows of the answers that `need` is about."""
        examples = self.splits[need.split]
        if need.answer == TRUE:
            return Alternates(examples, np.arange(len(examples)))
        return self.alternates[need.split][need.answer]

    def reader(self, need: Likelihood) -> Loaded:
        """Return the model that `need` is about."""
        loaded = self.loaded if need.reader == "model" else self.reference
        assert loaded is not None  # suites leave out what is missing
        return loaded
