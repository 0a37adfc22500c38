"""Options of the retention bound and its multiplier; nothing heavy is imported here."""

import math
from dataclasses import dataclass
from typing import Literal

from ..errors import InputError


@dataclass(frozen=True, kw_only=True)
class ProbeOptions:
    """Where the loss on the retain split is measured."""

    probe_size: int = 256
    """Retain examples on which the bound is verified."""
    train_on_probe: bool = False
    """Let training draw the probe's examples even where the split is large enough to hold them out."""

    def __post_init__(self) -> None:
        """Raise InputError for values that no run could use."""
        if self.probe_size < 1:
            raise InputError(f"--probe_size is {self.probe_size}; expected at least 1 example.")


@dataclass(frozen=True, kw_only=True)
class BoundOptions(ProbeOptions):
    """How far the loss on the retain split may rise, and where that is measured."""

    keep: float | None = None
    """Share of the probability per answer token to keep on the retain split [default: 0.98, without another bound]."""
    alpha: float | None = None
    """The paper's form: the bound is (1 + alpha) times the retain loss before unlearning [default: none]."""
    bound: float | None = None
    """The bound itself, in nats a token [default: none]."""
    keep_context: bool = False
    """Hold the rest of the marked answers as well: what stands around the spans to forget, by a bound of the same form
    and a multiplier of its own."""

    def __post_init__(self) -> None:
        """Raise InputError for values that no run could use."""
        super().__post_init__()
        given = [name for name in ("keep", "alpha", "bound") if getattr(self, name) is not None]
        if len(given) > 1:
            raise InputError(f"--{given[0]} and --{given[1]} were given; expected one of --keep, --alpha, --bound.")
        if self.keep is not None and not 0 < self.keep < 1:
            raise InputError(f"--keep is {self.keep}; expected a share between 0 and 1, such as 0.98.")
        if self.alpha is not None and not 0 < self.alpha < math.inf:
            raise InputError(f"--alpha is {self.alpha}; expected a finite number above 0.")
        if self.bound is not None and not 0 < self.bound < math.inf:
            raise InputError(f"--bound is {self.bound}; expected finite nats a token, above 0.")


@dataclass(frozen=True, kw_only=True)
class MultiplierOptions:
    """How the Lagrange multiplier moves; what is not given is the method's own default."""

    multiplier_initial: float | None = None
    """Value before the first update [default: the method's; pdu: 100]."""
    multiplier_rate: float | None = None
    """Step size of the dual ascent, per nat of violation [default: the method's; pdu: 5]."""
    multiplier_warmup_epochs: float | None = None
    """Epochs for which the multiplier stays as it is [default: the method's; pdu: 5]."""
    multiplier_update: Literal["step", "epoch"] | None = None
    """When it moves: after each step, or after each epoch from its mean [default: the method's; pdu: step]."""

    def __post_init__(self) -> None:
        """Raise InputError for values that no run could use."""
        for name in ("multiplier_initial", "multiplier_rate", "multiplier_warmup_epochs"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise InputError(f"--{name} is {value}; expected a finite number of at least 0.")
