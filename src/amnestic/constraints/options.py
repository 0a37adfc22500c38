"""Options of what is kept, of its bound and its multiplier; nothing heavy is imported here."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ..errors import InputError

FORMS = ("keep", "alpha", "bound")
"""The forms in which a bound is stated."""


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
    """What is kept, how far its loss may rise, and where that is measured."""

    keep: float | Literal["none"] | None = None
    """Share of the probability per answer token to keep on the retain split; none: no bound, and the method's
    published retention as it stands [default: 0.98 for pdu, without another bound; none for others]."""
    alpha: float | None = None
    """The paper's form: the bound is (1 + alpha) times the retain loss before unlearning [default: none]."""
    bound: float | None = None
    """The bound itself, in nats a token [default: none]."""
    keep_of: dict[str, str] = field(default_factory=dict)
    """--keep of one of several retentions, such as --keep_of.general 0.99 [default: that of all]."""
    bound_of: dict[str, str] = field(default_factory=dict)
    """--bound of one of several retentions, such as --bound_of.general 0.4 [default: that of all]."""
    retain_weight: float | None = None
    """Fixed weight of the retain loss, in place of a bound [default: the method's published one]."""
    retention: Literal["nll", "kl", "hidden"] | None = None
    """Loss on what is kept: negative log-likelihood, KL divergence from the model before, or distance from its hidden
    rows; the last two take --bound or --retain_weight [default: nll under a bound, the method's published one else]."""
    retention_layer: int | None = None
    """Block that --retention hidden reads, counted from 0 [default: 7; of fewer than 14 blocks the middle one]."""
    bound_model: str | None = None
    """Hub id or folder of the model whose loss on the probe the bound starts from: the first of a chain of runs, so
    that small losses do not add up [default: --model]."""
    keep_context: bool = False
    """Hold the rest of the marked answers as well: what stands around the spans to forget, by a bound of the same form
    and a multiplier of its own."""

    def __post_init__(self) -> None:
        """Raise InputError for values that no run could use."""
        super().__post_init__()
        _refuse_share("keep", None if self.keep == "none" else self.keep)
        if self.alpha is not None and not 0 < self.alpha < math.inf:
            raise InputError(f"--alpha is {self.alpha}; expected a finite number above 0.")
        _refuse_limit("bound", self.bound)
        for name, share in self.shares.items():
            _refuse_share(f"keep_of.{name}", share)
        for name, limit in self.limits.items():
            _refuse_limit(f"bound_of.{name}", limit)
        if self.retain_weight is not None and not 0 <= self.retain_weight < math.inf:
            raise InputError(f"--retain_weight is {self.retain_weight}; expected a finite number of at least 0.")
        if self.retention_layer is not None and self.retention_layer < 0:
            raise InputError(f"--retention_layer is {self.retention_layer}; expected a block, counted from 0.")
        self._refuse_rivals()
        self._refuse_unlike()
        self._refuse_boundless_model()

    @property
    def stated(self) -> str | None:
        """Return the form of the bound that is asked for: "keep", "alpha" or "bound"; None where none is."""
        given = [name for name in FORMS if getattr(self, name) not in (None, "none")]
        return given[0] if given else None

    @property
    def shares(self) -> dict[str, float]:
        """Return the shares to keep of single retentions, by name."""
        return _numbers("keep_of", self.keep_of)

    @property
    def limits(self) -> dict[str, float]:
        """Return the bounds of single retentions in nats a token, by name."""
        return _numbers("bound_of", self.bound_of)

    def _refuse_rivals(self) -> None:
        """Raise InputError for options of which one replaces the other."""
        given = [name for name in FORMS if getattr(self, name) is not None]
        if len(given) > 1:
            raise InputError(f"--{given[0]} and --{given[1]} were given; expected one of --keep, --alpha, --bound.")
        if twice := sorted(self.keep_of.keys() & self.bound_of.keys()):
            raise InputError(f"--keep_of.{twice[0]} and --bound_of.{twice[0]} were given; expected one of the two.")
        ruled_out = [self.stated] if self.stated else []
        ruled_out += [name for name in ("keep_of", "bound_of") if getattr(self, name)]
        if self.retain_weight is not None and ruled_out:
            raise InputError(
                f"--retain_weight is a weight that does not move, and --{ruled_out[0]} a bound, whose multiplier does; "
                "give one of the two."
            )
        if self.stated is None and ruled_out:
            raise InputError(
                f"--{ruled_out[0]} is for one retention of a run under a bound; give --keep, --alpha or --bound for "
                "the others as well."
            )
        if self.keep_context and (self.keep == "none" or self.retain_weight is not None):
            raise InputError("--keep_context holds by a bound, and this run has none; give --keep, --alpha or --bound.")

    def _refuse_boundless_model(self) -> None:
        """Raise InputError where a bound starts from another model, and there is none, or none of a loss of its own."""
        if self.bound_model is None:
            return
        if not self.bound_model:
            raise InputError("--bound_model is empty; expected a Hub id or a folder.")
        if self.keep == "none" or self.retain_weight is not None:
            raise InputError("--bound_model is where a bound starts from, and this run has none; leave it out.")
        if self.retention in ("kl", "hidden"):
            raise InputError(
                f"--bound_model goes with --retention nll alone, since {self.retention} compares with the model that "
                "the run starts from; leave it out."
            )

    def _refuse_unlike(self) -> None:
        """Raise InputError for what does not go with the loss on what is kept."""
        if self.retention_layer is not None and self.retention != "hidden":
            raise InputError("--retention_layer is the block that --retention hidden reads; give both, or neither.")
        if self.retention not in ("kl", "hidden"):
            return
        wrong = [name for name in ("keep", "alpha") if self.stated == name] + ["keep_of"] * bool(self.keep_of)
        if wrong:
            raise InputError(
                f"--{wrong[0]} goes with --retention nll alone, since the loss of {self.retention} is 0 before the "
                "first step; give --bound."
            )


def _numbers(option: str, texts: Mapping[str, str]) -> dict[str, float]:
    found = {}
    for name, text in texts.items():
        try:
            found[name] = float(text)
        except ValueError:
            raise InputError(f"--{option}.{name} is {text!r}; expected a number.") from None
    return found


def _refuse_share(option: str, value: float | None) -> None:
    if value is not None and not 0 < value < 1:
        raise InputError(f"--{option} is {value}; expected a share between 0 and 1, such as 0.98.")


def _refuse_limit(option: str, value: float | None) -> None:
    if value is not None and not 0 < value < math.inf:
        raise InputError(f"--{option} is {value}; expected finite nats a token, above 0.")


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
    multiplier_kind: Literal["ascent", "multiplicative"] | None = None
    """How it moves: by rate times the violation, or by a factor exp(rate times the violation) [default: the method's;
    pdu: ascent]."""
    multiplier_normalized: bool | None = None
    """Measure the violation in units of the bound, not in nats [default: the method's; pdu: no]."""
    multiplier_proportional: float | None = None
    """Add this many times the violation itself to the weight (PI control) [default: the method's; pdu: 0]."""
    multiplier_cap: float | Literal["none"] | None = None
    """Largest weight, or none [default: the method's; pdu: none]."""

    def __post_init__(self) -> None:
        """Raise InputError for values that no run could use."""
        for name in ("initial", "rate", "warmup_epochs", "proportional"):
            value = getattr(self, f"multiplier_{name}")
            if value is not None and not 0 <= value < math.inf:
                raise InputError(f"--multiplier_{name} is {value}; expected a finite number of at least 0.")
        cap = self.multiplier_cap
        if isinstance(cap, int | float) and not 0 < cap < math.inf:
            raise InputError(f"--multiplier_cap is {cap}; expected a finite number above 0, or none.")

    @property
    def given(self) -> dict[str, float | str | bool | None]:
        """Return the fields of a control that are given, by name; a cap of None where it is none."""
        stated = {name.removeprefix("multiplier_"): value for name, value in vars(self).items() if value is not None}
        return stated | ({"cap": None} if stated.get("cap") == "none" else {})
