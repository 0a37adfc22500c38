"""What is known of each method, for people: documentation and command line read it from the classes."""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, asdict, fields, is_dataclass
from typing import Any

from ..constraints.multiplier import Bounded
from ..constraints.retention import Retention
from ..docstrings import field_docstrings
from ..errors import InputError
from .base import Method

LARGE = 32
"""Blocks of the model that a method is explained on, as many as a model of 7 billion parameters has."""


def explain(cls: type[Method]) -> dict[str, Any]:
    """Return all that is known of a method, in plain values; of one that needs arguments, what its class says.

    Raises InputError for a class that is no method.
    """
    if not issubclass(cls, Method):
        raise InputError(f"'{cls.name}' is {cls.__name__}; expected a subclass of amnestic.methods.base.Method.")
    return {
        "name": cls.name,
        "definition": " ".join(inspect.cleandoc(cls.__doc__ or "").split()),
        "hyper-parameters": dict(hyper_parameters(cls)),
        "one value for each": unit(cls),
        "second answer": cls.alternate or "",
        **(of_instance(cls) if has_defaults(cls) else {}),
        "published training": dict(cls.published),
        "multiplier under a bound": ", ".join(f"{name} {_plain(value)}" for name, value in asdict(cls.bounded).items()),
        "same under a bound as": cls.same_when_bounded or "",
    }


def of_instance(cls: type[Method]) -> dict[str, Any]:
    """Return what depends on hyper-parameters, at their defaults on a large model."""
    method = cls().fitted(LARGE, seed=0)
    moved = method.moves
    return {
        "reads": method.needs.names,
        "reads of the reference": method.reference_needs.names or (["logits"] if method.needs.projects else []),
        "moves": "" if moved is None else f"down projections of blocks {', '.join(map(str, sorted(moved.blocks)))}",
        "published retention": [in_words(retention) for retention in method.retention] or ["none"],
    }


def has_defaults(cls: type[Method]) -> bool:
    """Return whether the method can be made without arguments."""
    return all(field.default is not MISSING or field.default_factory is not MISSING for field in fields_of(cls))


def hyper_parameters(cls: type[Method]) -> Iterator[tuple[str, str]]:
    """Yield the name of each hyper-parameter, and its default and docstring."""
    for field in fields_of(cls):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        value = "required" if default is MISSING else "open" if default is None else str(default)
        told = " ".join(field_docstrings(cls).get(field.name, "").split())
        yield field.name, f"{value}. {told}".strip()


def fields_of(cls: type[Method]) -> tuple[Field[Any], ...]:
    """Return the fields of a method; none of a class that is no dataclass."""
    return fields(cls) if is_dataclass(cls) else ()


def _plain(value: object) -> str:
    """Return a setting in the words that its flag knows."""
    words: Mapping[object, str] = {None: "none", True: "yes", False: "no"}
    return words[value] if value is None or isinstance(value, bool) else str(value)


def unit(cls: type[Method]) -> str:
    """Return what the objective has a value for, in words."""
    return f"{cls.unit}, without an answer's first" if cls.skips_first else cls.unit


def in_words(retention: Retention) -> str:
    """Return a retention as a phrase: its loss, where that is read, and its weight or that it is bounded."""
    settings: Mapping[str, Any] = vars(retention.loss)
    where = "".join(f" ({name} {value})" for name, value in settings.items())
    control = retention.control
    held = "within a bound" if isinstance(control, Bounded) else f"x {control.weight:g}"
    return f"{retention.loss.name}{where} {held}"
