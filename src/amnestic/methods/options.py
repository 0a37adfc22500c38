"""Options of choosing a method; nothing heavy is imported here."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class MethodOptions:
    """Which loss makes the model forget."""

    method: str = "pdu"
    """Name of a method (amnestic list methods), or the dotted path of a class of your own."""
    method_args: dict[str, str] = field(default_factory=dict)
    """Hyper-parameters of the method, such as --method_args.beta 0.1 [default: the method's own]."""
