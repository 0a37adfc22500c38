"""What is known of each metric, for people: documentation, command line and reports read it from the classes."""

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from typing import Any, NamedTuple

from .metric import KNOWLEDGE, METRICS, PART, Metric, whole_of
from .needs import GeneratedLikelihood, Likelihood, OfRetrained

SPLITS = tuple(KNOWLEDGE)
"""Splits that are known by name, in the order in which tables list them; each in front of its parts."""
Place = tuple[int, int, str]


class Description(NamedTuple):
    """What a table says of one key of results.json."""

    split: str
    """Empty where the number is about no single split."""
    metric: str
    label: str
    direction: str
    """What a change means, such as "lower means more forgotten"; nothing where nobody knows."""
    is_share: bool
    """The value lies between 0 and 1."""
    place: tuple[Place, int, str]
    """Sorts keys: numbers about the model as a whole, then split by split; unknown ones last."""


def describe(key: str) -> Description:
    """Return what is known of a key of results.json: ``forget.probability``, ``mia.min_k.auc``, ``forget_quality``."""
    registered = METRICS.names()
    split, _, name = ("", "", key) if key in registered or "." not in key else key.partition(".")
    place = place_of(split)
    if name not in registered:
        return Description(split, name, name, "", False, (place, Metric.place + 1, key))
    cls = METRICS.get(name)
    return Description(split, name, label(cls), about(cls.directions, split), cls.is_share, (place, cls.place, key))


def place_of(split: str) -> Place:
    """Return what sorts splits as tables list them: known ones, each in front of its parts by their numbers, others."""
    whole = known_split(split)
    rank = ("", *SPLITS).index(whole) if whole or not split else len(SPLITS) + 1
    part = PART.fullmatch(split) if whole else None
    return rank, int((part and part["number"]) or 0), split


def known_split(split: str) -> str:
    """Return the known split that `split` is, or is a part of; nothing where there is none."""
    whole = whole_of(split)
    return whole if whole in SPLITS else ""


def label(cls: type[Metric]) -> str:
    """Return the metric's short name for people."""
    return cls.label or cls.name


def about(facts: Mapping[str, str], split: str) -> str:
    """Return what `facts` say of `split`, or of what it is a part of; nothing where they are silent."""
    return facts.get(split, facts.get(whole_of(split), facts.get("", "")))


def explain(cls: type[Metric]) -> dict[str, Any]:
    """Return everything that is known of a metric, in plain values."""
    return {
        "name": cls.name,
        "label": label(cls),
        "definition": definition(cls),
        "formula": cls.formula,
        "direction": facts_of(cls, cls.directions),
        "target": facts_of(cls, cls.targets),
        "range": "0 to 1" if cls.is_share else "",
        "source": cls.source,
        "reads": reads(cls),
        "settings": {item.name: item.default for item in fields(cls) if item.default is not MISSING},
        "computed": "on request" if cls.on_request else "wherever the data allow it",
    }


def lines(explained: Mapping[str, Any]) -> dict[str, str]:
    """Return what `explain` gives as one text for each label, without what is empty."""
    found: dict[str, str] = {}
    for name, value in explained.items():
        if isinstance(value, Mapping):
            found |= {f"{name}: {part}": str(fact) for part, fact in value.items()}
        else:
            found[name] = ", ".join(value) if isinstance(value, list) else value
    return {name: text for name, text in found.items() if text}


def definition(cls: type[Metric]) -> str:
    """Return the docstring in one line."""
    return " ".join(inspect.cleandoc(cls.__doc__ or "").split())


def facts_of(cls: type[Metric], facts: Mapping[str, str]) -> dict[str, str]:
    """Return `facts` with words in the place of the empty key, which comes last."""
    rest = ("every split" if set(facts) == {""} else "other splits") if has_split(cls) else "the model"
    return {split or rest: fact for split, fact in sorted(facts.items(), key=lambda fact: not fact[0])}


def reads(cls: type[Metric]) -> list[str]:
    """Return what the metric reads, in words, each once."""
    metric: Any = cls
    sample: Metric = metric("forget") if has_split(cls) else metric()
    return list(dict.fromkeys(_words(sample.needs().values())))


def has_split(cls: type[Metric]) -> bool:
    """Return whether the metric is about one split."""
    return any(item.name == "split" for item in fields(cls))


def _words(needs: Iterable[Any]) -> Iterable[str]:
    for need in needs:
        if isinstance(need, Metric):
            yield need.name
        elif isinstance(need, OfRetrained):
            yield f"{need.metric.name} of the retrained model"
        elif isinstance(need, Likelihood):
            yield f"likelihood of {ANSWERS.get(need.answer, need.answer)}{READERS[need.reader]}"
        elif isinstance(need, GeneratedLikelihood):
            yield f"likelihood of generated answers{READERS['reference']}"
        else:
            yield OTHERS.get(type(need).__name__, type(need).__name__)


ANSWERS = {"answer": "true answers", "paraphrased_answer": "paraphrased answers", "perturbed_answer": "wrong answers"}
READERS = {"model": "", "reference": " under the reference"}
OTHERS = {"Generation": "greedy answers", "GradientNorm": "gradients of true answers"}
