"""A constraint of the problem: what is held, and on which examples that is verified."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..constraints.bound import Sums
from ..constraints.retention import Retention
from ..data.encode import Encoded


@dataclass(frozen=True)
class Constraint:
    """A retention under a bound."""

    name: str
    """"retain" or "context": what its loss, bound and multiplier are called in logs and results."""
    retention: Retention
    examples: Sequence[Encoded]
    """On which the bound is verified."""
    is_whole: bool
    """These are all examples that there are: the loss on them is the figure itself, not an estimate."""
    place: str
    """What the examples are, for messages."""


def losses_of(constraints: Sequence[Constraint], measured: Mapping[str, Sequence[Sums]]) -> dict[str, Sums]:
    """Return the losses of each constraint from the sums of all terms by split; the first term is the objective.

    An example of which a constraint reads nothing is left out: the context of an answer that is marked from end to end.
    """
    found = {}
    for term, constraint in enumerate(constraints, start=1):
        found[constraint.name] = measured[constraint.retention.split][term].of_some()
    return found
