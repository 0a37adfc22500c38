"""Options of choosing a method; nothing heavy is imported here."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal


@dataclass(frozen=True, kw_only=True)
class MethodOptions:
    """Which loss makes the model forget."""

    indifferent: ClassVar[frozenset[str]] = frozenset({"reference_mode"})

    method: str = "pdu"
    """Name of a method (amnestic list methods), or the dotted path of a class of your own."""
    method_args: dict[str, str] = field(default_factory=dict)
    """Hyper-parameters of the method, such as --method_args.beta 0.1 [default: the method's own]."""
    reference_mode: Literal["auto", "cached", "live"] = "auto"
    """How the model before is read, where a method or a retention reads it: once, and kept number by number; live, by a
    copy of the model (of one with an adapter, by itself without); auto: kept, where that takes little memory."""
