"""Which retention a run has: as its method is published, with a fixed weight, or under a bound."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, is_dataclass, replace
from typing import Any

from .config import UnlearnConfig
from .constraints.bound import Bound
from .constraints.multiplier import Bounded, Fixed
from .constraints.options import BoundOptions, MultiplierOptions
from .constraints.retention import NLL, HiddenDistance, Retention, retain_loss
from .errors import InputError
from .methods.base import Method, arguments_of
from .model.blocks import count
from .training.constraint import Constraint


def fitted(method: Method, model: Any, seed: int) -> Method:
    """Return `method` with what it left open settled for `model`; one that leaves nothing open takes any model."""
    return method if type(method).fitted is Method.fitted else method.fitted(count(model), seed)


DEEP = 10_000
"""Blocks of a model that has whichever one a method reads."""


def is_bounded(method: Method, options: BoundOptions) -> bool:
    """Return whether a run holds a bound: where one is asked for, and by default where the method is published so."""
    if options.stated is not None:
        return True
    return options.keep is None and options.retain_weight is None and _is_published_so(method)


def will_be_bounded(method: Method, options: BoundOptions) -> bool:
    """Return the same of a method that is not fitted yet, as long as no model is loaded."""
    return is_bounded(method.fitted(DEEP, 0), options)


def retentions_of(
    method: Method, options: BoundOptions, multiplier: MultiplierOptions, blocks: Callable[[], int]
) -> list[Retention]:
    """Return what is kept of each split that is, and how; `blocks` returns the number of those of the model.

    Raises InputError for options that do not say both, or that the model does not allow.
    """
    _refuse_unclear(method, options)
    if is_bounded(method, options):
        loss = retain_loss(options.retention or NLL.name, options.retention_layer, blocks)
        return [Retention(loss, control_of(method, multiplier))]
    published = [retention for retention in method.retention if isinstance(retention.control, Fixed)]
    if options.retain_weight is None:
        return published
    weight = Fixed(options.retain_weight)
    if options.retention is not None:
        return [Retention(retain_loss(options.retention, options.retention_layer, blocks), weight)]
    return [replace(retention, control=weight) for retention in published] or [Retention(NLL(), weight)]


def control_of(method: Method, options: MultiplierOptions) -> Bounded:
    """Return the control of the multiplier: the method's own, with what the options give in its place."""
    published = [retention.control for retention in method.retention if isinstance(retention.control, Bounded)]
    given: dict[str, Any] = options.given
    return replace(published[0] if published else method.bounded, **given)


def names_of(retentions: Sequence[Retention]) -> list[str]:
    """Return what retentions are called: by their splits; a further one of the same split by its loss as well."""
    found: list[str] = []
    for retention in retentions:
        own = "context" if retention.part == "context" else retention.split
        found.append(own if own not in found else f"{own}_{retention.loss.name}")
    return found


def refuse_unknown(options: BoundOptions, splits: Sequence[str]) -> None:
    """Raise InputError where a bound of its own is given to a retention that there is not."""
    for option, names in (("keep_of", options.keep_of), ("bound_of", options.bound_of)):
        for name in names:
            if name not in splits:
                raise InputError(f"--{option}.{name} names no retention of this run; it has {', '.join(splits)}.")


def resolved(config: UnlearnConfig, method: Method, constraints: Sequence[Constraint]) -> UnlearnConfig:
    """Return the configuration with what was chosen where it left something open, so that it repeats the run."""
    arguments = _arguments(method) | config.method.method_args
    config = replace(config, method=replace(config.method, method_args=arguments))
    options = config.bound
    if not is_bounded(method, options):
        chosen: dict[str, Any] = {} if options.retain_weight is not None else {"keep": "none"}
        layers = [c.retention.loss.layer for c in constraints if isinstance(c.retention.loss, HiddenDistance)]
        if options.retention == HiddenDistance.name:
            chosen["retention_layer"] = layers[0]
        return replace(config, bound=replace(options, **chosen))
    retention = constraints[0].retention
    asked = Bound.of(options, name="")
    chosen = {asked.kind: asked.requested, "retention": retention.loss.name}
    if isinstance(retention.loss, HiddenDistance):
        chosen["retention_layer"] = retention.loss.layer
    control: dict[str, Any] = {f"multiplier_{name}": value for name, value in vars(retention.control).items()}
    control["multiplier_cap"] = "none" if control["multiplier_cap"] is None else control["multiplier_cap"]
    return replace(config, bound=replace(options, **chosen), multiplier=MultiplierOptions(**control))


def unused(options: MultiplierOptions) -> str:
    """Return a note on options of a multiplier in a run that has none; nothing where none is given."""
    if not options.given:
        return ""
    names = ", ".join(f"--multiplier_{name}" for name in options.given)
    return f"{names}: this run holds no bound, and so has no multiplier; nothing is changed by that."


def described(method: Method) -> dict[str, Any]:
    """Return a method's name and hyper-parameters, as results.json records them."""
    return {"name": method.name} | (asdict(method) if is_dataclass(method) else {})


def _arguments(method: Method) -> dict[str, str]:
    """Return the hyper-parameters of a method as somebody would type them, without those that text cannot hold."""
    found = arguments_of(method)
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in found.items()}


def _is_published_so(method: Method) -> bool:
    return any(isinstance(retention.control, Bounded) for retention in method.retention)


def _refuse_unclear(method: Method, options: BoundOptions) -> None:
    """Raise InputError where the options say what is kept and not how, or the other way round."""
    if options.stated is not None or options.retain_weight is not None:
        return
    if options.keep == "none" and _is_published_so(method):
        raise InputError(
            f"{method.name} is published with a bound, and --keep none takes it away; give --retain_weight, a fixed "
            "weight in its place, or a bound."
        )
    bounds = "--keep, --alpha, --bound" if options.retention == NLL.name else "--bound"
    if options.retention is not None and not (options.retention == NLL.name and is_bounded(method, options)):
        raise InputError(
            f"--retention {options.retention} says what is kept, and not how; give {bounds} or --retain_weight."
        )
    if options.keep_context and not is_bounded(method, options):
        raise InputError(
            f"--keep_context holds by a bound, and {method.name} has none unless it is asked for; give --keep, --alpha "
            "or --bound."
        )
