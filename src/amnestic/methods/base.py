"""What a method is: one loss on forget data, and nothing else.

It never sees retain data, weights, multipliers, a training loop or a model. Its dataclass fields are its
hyper-parameters; class attributes declare what it reads. ``N`` scored tokens of ``B`` answers.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, ClassVar, Literal, Self, get_args, get_type_hints

from torch import Tensor

from ..constraints.multiplier import Bounded, Fixed
from ..constraints.retention import NLL, Retention
from ..errors import InputError, nearest
from ..model.blocks import Moves
from ..model.signals import Needs, Signals
from ..registry import Registry


@dataclass(frozen=True)
class Passes:
    """The signals of one model, by the answer that was read."""

    forget: Signals
    """Of the answers to be forgotten."""
    second: Signals | None = None
    """Of second answers to the same prompts; the answers are numbered as in `forget`."""

    @property
    def alternate(self) -> Signals:
        """Return the signals of the second answers; raises AttributeError where the method declares none."""
        if self.second is None:
            raise AttributeError("a second answer was not declared; the class attribute `alternate` does.")
        return self.second


class Method(ABC):
    """A forget loss.

    What does not depend on hyper-parameters is a class attribute; what does is a property.
    """

    name: ClassVar[str]
    unit: ClassVar[Literal["token", "answer"]] = "token"
    """What `objective` returns a value for, and what its mean is taken over."""
    skips_first: ClassVar[bool] = False
    """Whether the first token of each answer (of what is to be forgotten of it) is left out of the mean."""
    alternate: ClassVar[Literal["refusal", "generated"] | None] = None
    """The second answer to each prompt that it reads, the same in a whole run: a refusal, or one of the model's own."""
    is_bounded_below: ClassVar[bool] = True
    """Whether the objective has a least value; without one it pulls ever harder, and a bound caps its multiplier."""
    ranks_by_likelihood: ClassVar[bool] = False
    """Whether candidates are ranked by the likelihood of the answers: where the gradient takes parts of the objective
    as constants, descending it does not lower its value, which tells nothing of what was forgotten."""
    same_when_bounded: ClassVar[str | None] = None
    """The method that this one is the same as under a bound, where it differs by its published retention alone."""
    in_all: ClassVar[bool] = True
    """Whether a comparison of all methods has it; not a variant for comparison with older numbers."""
    bounded: ClassVar[Bounded] = Bounded()
    """The multiplier's defaults where a run holds a bound."""
    published: ClassVar[Mapping[str, Any]] = {}
    """Training options of the paper's runs that differ from this package's defaults; told to the user, not applied."""

    @property
    @abstractmethod
    def needs(self) -> Needs:
        """Return the signals that `objective` reads of the model that learns; reading any other is an error."""

    @property
    def reference_needs(self) -> Needs:
        """Return the signals that it reads of the model as it was before."""
        return Needs()

    @property
    def retention(self) -> tuple[Retention, ...]:
        """Return what the method is published with; a run may replace it."""
        return (Retention(NLL(), Fixed(1.0)),)

    @property
    def moves(self) -> Moves | None:
        """Return which parameters the method moves; None: all that a model trains."""
        return None

    def fitted(self, blocks: int, seed: int) -> Self:
        """Return the method with hyper-parameters that were left open settled for a model of so many blocks."""
        return self

    @abstractmethod
    def objective(self, model: Passes, reference: Passes) -> Tensor:
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


def arguments_of(method: Method) -> dict[str, str | int | float]:
    """Return the hyper-parameters of `method` by name, without those that text cannot hold."""
    cls: Any = type(method)
    values = {item.name: getattr(method, item.name) for item in (fields(cls) if is_dataclass(cls) else ())}
    return {name: value for name, value in values.items() if isinstance(value, str | int | float)}


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
