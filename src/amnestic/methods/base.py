"""What a method is: one loss on forget data, and nothing else.

It never sees retain data, weights, multipliers, a training loop or a model. Its dataclass fields are its
hyper-parameters; class attributes declare what it reads. ``N`` scored tokens of ``B`` answers.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from ..constraints.multiplier import Bounded
from ..constraints.retention import NLL, Retention
from ..errors import InputError, nearest
from ..model.signals import Needs, Signals
from ..registry import Registry


@dataclass(frozen=True)
class Passes:
    """The signals of the model that learns, by the answer that was read."""

    forget: Signals
    """Of the answers to be forgotten."""


class Method(ABC):
    """A forget loss."""

    name: ClassVar[str]
    unit: ClassVar[Literal["token", "answer"]] = "token"
    """What `objective` returns a value for, and what its mean is taken over."""
    needs: ClassVar[Needs]
    """Signals that `objective` reads; reading any other is an error."""
    retention: ClassVar[tuple[Retention, ...]] = (Retention(NLL(), Bounded()),)
    """What the method is published with; a run may replace it."""

    @abstractmethod
    def objective(self, model: Passes) -> Tensor:
        """Return the unreduced loss: (N,) for the unit "token", (B,) for "answer"."""


METHODS: Registry[Method] = Registry("method", "amnestic.methods")
method = METHODS.register


def build(name: str, arguments: Mapping[str, str]) -> Method:
    """Return the method `name` (or the class at a dotted path) with the hyper-parameters in `arguments`.

    Raises InputError for an unknown method or hyper-parameter, and for a value of the wrong type.
    """
    cls = METHODS.get(name)
    if not issubclass(cls, Method):
        raise InputError(f"method '{name}' is {cls.__name__}; expected a subclass of amnestic.methods.base.Method.")
    known: dict[str, Field[Any]] = {field.name: field for field in fields(cls)} if is_dataclass(cls) else {}
    values = {}
    for key, text in arguments.items():
        if key not in known:
            has = ", ".join(known) or "none"
            raise InputError(f"method '{name}' has no hyper-parameter '{key}'{nearest(key, list(known)) or '.'} It has: {has}.")
        kind = type(known[key].default) if known[key].default is not MISSING else str
        try:
            values[key] = text.lower() in ("true", "1", "yes") if kind is bool else kind(text)
        except ValueError as error:
            raise InputError(f"--method_args.{key} is {text!r}; expected {kind.__name__}.") from error
    return cls(**values)
