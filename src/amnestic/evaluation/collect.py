"""A suite of metrics on one model: each distinct need is swept once, whoever reads it."""

import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import InputError, UnexpectedError, outline
from ..progress import timed
from .metric import METRICS, Contents, Measurement, Metric, UndefinedError, whole_of
from .needs import MORE, Generation, OfRetrained, SweptNeed, why_missing
from .subject import Subject
from .sweeps import sweep

DEFAULT, ALL = "default", "all"


@dataclass(frozen=True)
class Suite:
    """The metrics that are computed, and why others that were asked for are not."""

    metrics: list[Metric]
    not_computed: dict[str, str]
    """Key of results.json -> the reason, and what would supply what is missing, as a sentence."""

    @classmethod
    def of(cls, wanted: Iterable[Metric], contents: Contents) -> "Suite":
        """Return what of the metrics `wanted` can be computed of `contents`, each once, and why the others cannot."""
        found = {item.key: item for item in wanted}
        reasons = {key: why_missing(item, contents) for key, item in found.items()}
        left_out = {key: f"{reason}." for key, reason in reasons.items() if reason is not None}
        return cls([item for key, item in found.items() if key not in left_out], left_out)

    @property
    def needs(self) -> list[SweptNeed]:
        """Return what the metrics read of models, each need once, in the order of first mention."""
        return list(dict.fromkeys(need for item in self.metrics for need in _swept(item)))


@dataclass(frozen=True)
class Collected:
    """The tables of all sweeps, and what the metrics made of them."""

    tables: dict[SweptNeed, Any]
    measurements: dict[str, Measurement]
    """By the key in results.json."""
    undefined: dict[str, str]
    """Key -> why the formula has no value for what was measured."""
    work: dict[str, int]
    """``positions_scored``; ``answers_decoded``, the ``positions_read_in`` for them, and the ``decode_row_steps`` for
    ``tokens_decoded``, of which reading in gives the first of each answer."""
    seconds: dict[str, float]
    """Kind of sweep -> how long it took; ``metrics``: the formulas."""

    def generated(self, split: str, count: int) -> list[str | None]:
        """Return the generated answer of each of the `count` examples of `split`; None where none was asked for."""
        table = self.tables.get(Generation(split))
        return [None] * count if table is None else list(table.generated)


def wanted_metrics(contents: Contents, asked: Sequence[str]) -> list[Metric]:
    """Return the metrics that are `asked` for, computable or not: ``default``, ``all``, names, or dotted paths.

    Raises InputError for a name that nobody knows.
    """
    return [item for cls in metric_classes(asked) for item in cls.instances(contents)]


def metric_classes(asked: Sequence[str]) -> list[type[Metric]]:
    """Return the classes of the metrics that are `asked` for (see `wanted_metrics`).

    Raises InputError for a name that nobody knows, and for what is no metric.
    """
    if not asked:
        raise InputError(f"--metrics names no metric; expected names, {DEFAULT} or {ALL}.")
    classes: dict[str, type[Metric]] = {}
    for name in asked:
        if name in (DEFAULT, ALL):
            every = {known: METRICS.get(known) for known in METRICS.names()}
            classes |= {known: cls for known, cls in every.items() if name == ALL or not cls.on_request}
        else:
            split, _, metric = name.partition(".")
            if whole_of(split) in MORE and metric in METRICS.names():
                raise InputError(f"unknown metric '{name}'; '{metric}' is measured on every split that it suits.")
            classes[name] = METRICS.get(name)
            if not issubclass(classes[name], Metric) or inspect.isabstract(classes[name]):
                raise InputError(f"metric '{name}' cannot be computed; expected a subclass of Metric, without gaps.")
    return list(classes.values())


def suite(contents: Contents, asked: Sequence[str] = (DEFAULT,)) -> Suite:
    """Return the suite of what is `asked` for (see `wanted_metrics`); it tells of each name that suits nothing."""
    found = Suite.of(wanted_metrics(contents, asked), contents)
    absent = [name for name in asked if name not in (DEFAULT, ALL) and not wanted_metrics(contents, [name])]
    return replace(found, not_computed=found.not_computed | {name: _suited_by_nothing(name) for name in absent})


def _suited_by_nothing(name: str) -> str:
    return f"nothing that is measured is of the kind that it reads; amnestic list metrics --explain {name} tells which."


def collect(subject: Subject, asked: Suite) -> Collected:
    """Sweep every distinct need of a suite once, and compute its metrics."""
    seconds: dict[str, float] = {}
    tables = sweep(subject, asked.needs, seconds)
    measurements, undefined = {}, {}
    with timed(seconds, "metrics"):
        computing = _Computing(subject, tables)
        for item in asked.metrics:
            try:
                measurements[item.key] = computing.of(item)
            except UndefinedError as error:
                undefined[item.key] = f"{error}."
    return Collected(tables, measurements, undefined, dict(subject.work), seconds)


class _Computing:
    """Computes each metric once, though others read it."""

    def __init__(self, subject: Subject, tables: Mapping[SweptNeed, Any]) -> None:
        self._subject = subject
        self._tables = tables
        self._found: dict[Metric, Measurement] = {}

    def of(self, item: Metric) -> Measurement:
        """Return the measurement of a metric; a note on a split goes with whatever is read of it."""
        if item not in self._found:
            found = _computed(item, {argument: self._read(need) for argument, need in item.needs().items()})
            if not math.isfinite(found.value):
                raise UndefinedError(f"its value is {found.value}: some tokens have no probability that is a number")
            known = self._subject.conditions.notes
            notes = [known[need.split] for need in _swept(item) if need.split in known]
            said = " ".join(dict.fromkeys([*([found.note] if found.note else []), *notes]))
            self._found[item] = replace(found, note=said or None)
        return self._found[item]

    def _read(self, need: Any) -> Any:
        if isinstance(need, Metric):
            return self.of(need)
        if isinstance(need, OfRetrained):
            assert self._subject.retrained is not None  # suites leave out what is missing
            return self._subject.retrained[need.metric.key]
        return self._tables[need]


def _computed(item: Metric, read: Mapping[str, Any]) -> Measurement:
    """Return what `item` makes of what it `read`; raises RunError, with its name, where it fails."""
    try:
        found = item.compute(**read)
        found.value, found.note, found.per_example  # noqa: B018 (whatever is no Measurement fails here, with the name)
    except (UndefinedError, MemoryError):
        raise
    except Exception as error:
        what, text = f"the metric {item.key} failed", f"{type(error).__name__}: {error}"
        hint = "run again with AMNESTIC_DEBUG=1 for the traceback"
        raise UnexpectedError(f"{what}: {text} ({hint}).", f"{what}: {outline(error)}") from error
    return found


def _swept(item: Metric) -> list[SweptNeed]:
    """Return what a metric, and those that it reads, read of models."""
    found: list[SweptNeed] = []
    for need in item.needs().values():
        if isinstance(need, Metric):
            found += _swept(need)
        elif isinstance(need, SweptNeed):
            found.append(need)
    return found
