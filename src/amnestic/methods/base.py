"""What a method is: one loss on forget data, and nothing else.

It never sees retain data, weights, multipliers, a training loop or a model. Its dataclass fields are its
hyper-parameters; class attributes declare what it reads. ``N`` scored tokens of ``B`` answers.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, ClassVar, Literal, get_args, get_type_hints

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
    in_all: ClassVar[bool] = True
    """Whether it takes part where every method is compared; a variant of another one does not."""

    @abstractmethod
    def objective(self, model: Passes) -> Tensor:
        """Return the unreduced loss: (N,) for the unit "token", (B,) for "answer"."""


METHODS: Registry[Method] = Registry("method", "amnestic.methods")
method = METHODS.register


def build(name: str, arguments: Mapping[str, str]) -> Method:
    """Return the method `name` (or the class at a dotted path) with the hyper-parameters in `arguments`.

    Raises InputError for an unknown method or hyper-parameter, for a value of the wrong type, and where one is missing.
    """
    cls = METHODS.get(name)
    if not issubclass(cls, Method):
        raise InputError(f"method '{name}' is {cls.__name__}; expected a subclass of amnestic.methods.base.Method.")
    known: list[str] = [field.name for field in fields(cls)] if is_dataclass(cls) else []
    for key in arguments:
        if key not in known:
            has = ", ".join(known) or "none"
            raise InputError(
                f"method '{name}' has no hyper-parameter '{key}'{nearest(key, known) or '.'} It has: {has}."
            )
    values = {key: _parse(key, value, _kind(cls, key)) for key, value in arguments.items()}
    try:
        return cls(**values)
    except TypeError as error:  # a hyper-parameter without a default, or a class that leaves the objective open
        raise InputError(f"method '{name}' cannot be made with {values or 'no arguments'}: {error}.") from error


def _kind(cls: type, field: str) -> type:
    """Return the type that the text of a hyper-parameter is read as: the first plain one of its annotation."""
    hint = get_type_hints(cls)[field]
    return next((kind for kind in (hint, *get_args(hint)) if kind in (bool, int, float)), str)


def _parse(key: str, value: Any, kind: type) -> Any:
    """Return `value`, text or already of its type, as `kind`."""
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    try:
        return words[str(value).lower()] if kind is bool else kind(value)
    except (ValueError, KeyError) as error:
        raise InputError(f"--method_args.{key} is {str(value)!r}; expected {kind.__name__}.") from error
