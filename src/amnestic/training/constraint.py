"""A constraint of the problem: what is held, and on which examples that is verified."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..constraints.bound import Bound, Sums
from ..constraints.multiplier import Fixed
from ..constraints.retention import HiddenDistance, Retention
from ..data.encode import Encoded, fact


@dataclass(frozen=True)
class Constraint:
    """A retention of a run: under a bound, or, where it has none, a penalty of fixed weight."""

    name: str
    """The name of the split, or "context": what its loss, bound and multiplier are called in logs and results."""
    retention: Retention
    bound: Bound | None
    """None: its weight is fixed, and nothing is verified."""
    examples: Sequence[Encoded]
    """On which the bound is verified."""
    is_whole: bool
    """These are all examples that there are: the loss on them is the figure itself, not an estimate."""
    place: str
    """What the examples are, for messages."""

    @property
    def facts(self) -> dict[str, Any]:
        """Return what results.json records of the retention."""
        loss, control = self.retention.loss, self.retention.control
        fixed = {"control": "fixed", "weight": control.weight} if isinstance(control, Fixed) else {"control": "bounded"}
        layer = {"layer": loss.layer} if isinstance(loss, HiddenDistance) else {}
        return {"loss": loss.name, "split": self.retention.split} | layer | fixed

    @property
    def untouched(self) -> Sums | None:
        """Return the losses of the model before the first step where they are 0 by definition; None for others."""
        if not self.retention.loss.starts_at_zero:
            return None
        counts = fact(self.examples, "scored").astype("int64")
        if self.retention.part == "context":
            counts = counts - fact(self.examples, "forgotten").astype("int64")
        return Sums(counts * 0.0, counts).of_some()


def losses_of(constraints: Sequence[Constraint], measured: Mapping[str, Sequence[Sums]]) -> dict[str, Sums]:
    """Return the losses of each constraint from the sums of all terms by split; the constraints' terms are the last.

    An example of which a constraint reads nothing is left out: the context of an answer that is marked from end to end.
    """
    found = {}
    for place, constraint in enumerate(constraints, start=-len(constraints)):
        found[constraint.name] = measured[constraint.retention.split][place].of_some()
    return found
