"""Which runs may stand beside each other: numbers of other data, prompts or bounds say nothing of each other."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..errors import InputError
from .display import percent
from .entries import Entry
from .figures import FORGETTING, PRIVLEAK, figures
from .prompts import refuse_other_prompts
from .rows import by_fold


def differences(entries: Sequence[Entry]) -> list[str]:
    """Return, in a sentence for each run that cannot be compared with those before it, what it has measured otherwise.

    A benchmark may have data of its own for each seed: those of another seed are not held beside each other.
    """
    firsts: dict[str | None, Entry] = {}
    found = []
    for entry in entries:
        if entry.results is not None:
            first = firsts.setdefault(entry.results.get("benchmark"), entry)
            of_another = _other_benchmark(next(iter(firsts.values())), entry)
            found.append(of_another if first is entry else _difference(first, entry))
    return [sentence for sentence in found if sentence]


def _other_benchmark(first: Entry, other: Entry) -> str | None:
    ours, theirs = _benchmark(first), _benchmark(other)
    if ours == theirs:
        return None
    return f"{other.folder} was measured on {theirs}, and {first.folder} on {ours}; compare runs of one benchmark."


def _benchmark(entry: Entry) -> str:
    """Return the name of a run's benchmark, without what names its fold, and its seed."""
    named = _unfolded(entry)
    return "files of one's own" if named is None else re.sub(rf":{entry.seed}(?=:|$)", "", named)


def _unfolded(entry: Entry) -> str | None:
    """Return the name of a run's benchmark without that of its fold, which stands at its end."""
    name = (entry.results or {}).get("benchmark")
    if name is None or entry.fold is None:
        return name
    return str(name).removesuffix(entry.fold).removesuffix(":")


def _difference(first: Entry, other: Entry) -> str | None:
    here, there = first.results or {}, other.results or {}
    for split, ours, theirs in _shared(here, there):
        for hashed, what in (("content", "other rows"), ("tokens", "other tokens")):
            if ours.get(hashed) and theirs.get(hashed) and ours[hashed] != theirs[hashed]:
                return (
                    f"{other.folder} was measured on {what} of the {split} split than {first.folder}; compare runs "
                    "with the same data, tokenizer and --max_length."
                )
    try:
        refuse_other_prompts(here, there, str(other.folder))
    except InputError as error:
        return str(error)
    return None


def _shared(here: Mapping[str, Any], there: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    ours, theirs = here.get("measured_on") or {}, there.get("measured_on") or {}
    yield from ((split, ours[split], theirs[split]) for split in ours if split in theirs)


def caveats(entries: Sequence[Entry]) -> list[str]:
    """Return the sentences that must be read with a comparison of these runs."""
    return [sentence for caveat in CAVEATS for sentence in caveat(entries)]


def _of_same_methods(entries: Sequence[Entry]) -> Iterator[str]:
    """Yield which methods are others under a bound, as their classes declare."""
    twins = {
        entry.method: str(twin)
        for entry in entries
        if entry.is_bounded and (twin := (entry.results or {}).get("method", {}).get("same_when_bounded"))
    }
    for method, twin in twins.items():
        yield (
            f"Under a bound {method} is {twin}: they differ in the retention that the bound replaces, so these rows "
            "repeat each other up to chance."
        )


def _of_bounds(entries: Sequence[Entry]) -> Iterator[str]:
    bounds = list(dict.fromkeys(entry.setting for entry in entries if entry.is_bounded))
    if len(bounds) > 1:
        yield (
            f"The bounds differ ({_listed(bounds)}): rows are at equal retention only within one of them, and "
            "a looser bound forgets more easily."
        )


def _of_caps(entries: Sequence[Entry]) -> Iterator[str]:
    """Yield where a multiplier was held by its cap, so that the bound may have asked for more than it could give."""
    shares: dict[str, float] = {}
    for entry in entries:
        share = ((entry.results or {}).get("multiplier") or {}).get("cap_binds") or 0.0
        if share > 0:
            name = f"{entry.method}, {entry.setting}"
            shares[name] = max(share, shares.get(name, 0.0))
    for name, share in shares.items():
        yield f"The cap held the multiplier of {name} in up to {percent(share)} of the steps."


def _of_metrics(entries: Sequence[Entry]) -> Iterator[str]:
    sets = [entry.values.keys() for entry in entries if entry.results is not None]
    columns = figures({key for keys in sets for key in keys})
    if lacking := [column.key for column in columns if not all(column.key in keys for keys in sets)]:
        yield f"Not every run measured {_listed(lacking)}; a mean there is over fewer seeds, and a dash is no zero."


def _of_absent(entries: Sequence[Entry]) -> Iterator[str]:
    """Yield why a figure that people look for has no column."""
    known = {key for entry in entries for key in entry.values}
    reasons = [(entry.results or {}).get("not_computed") or {} for entry in entries]
    for key in (*FORGETTING, PRIVLEAK):
        if key not in known and (reason := next((found[key] for found in reasons if key in found), None)):
            yield f"No run has {key}: {reason.removesuffix('.')}."


def _of_probes(entries: Sequence[Entry]) -> Iterator[str]:
    probes: dict[str | None, set[tuple[str, ...]]] = {}
    for entry in entries:
        if entry.is_bounded and (ids := (entry.results or {}).get("probe_ids")):
            probes.setdefault((entry.results or {}).get("benchmark"), set()).add(tuple(ids))
    if any(len(found) > 1 for found in probes.values()):
        yield "The verdicts were not all reached on the same retain probe."


def _of_data(entries: Sequence[Entry]) -> Iterator[str]:
    names = sorted({str(name) for entry in entries if (name := _unfolded(entry))})
    if len(names) > 1:
        yield f"Seeds have data of their own ({_listed(names)}): they differ in more than chance in training."


def _of_folds(entries: Sequence[Entry]) -> Iterator[str]:
    """Yield that folds are no seeds of each other, and how large each is."""
    folds = by_fold(entries)
    if len(folds) > 1:
        sizes = {fold: min((entry.forget_tokens or 0 for entry in runs), default=0) for fold, runs in folds.items()}
        told = [f"{fold}, {size:,} tokens" if size else f"{fold}" for fold, size in sizes.items()]
        yield f"Each fold is a forget set of its own ({'; '.join(told)}): no mean is over more than one of them."


def _of_seeds(entries: Sequence[Entry]) -> Iterator[str]:
    seeds: dict[tuple[str, str, str | None], set[int]] = {}
    for entry in entries:
        seeds.setdefault((entry.method, entry.setting, entry.fold), set()).add(entry.seed)
    if len({frozenset(found) for found in seeds.values()}) > 1:
        yield "Not every row has the same seeds."


def _of_models(entries: Sequence[Entry]) -> Iterator[str]:
    """Yield whether runs of a seed started from different models."""
    models: dict[int, set[str]] = {}
    for entry in entries:
        if name := (entry.results or {}).get("model"):
            models.setdefault(entry.seed, set()).add(str(name))
    if several := next((sorted(names) for names in models.values() if len(names) > 1), None):
        yield f"Not all runs of a seed started from the same model: {_listed(several)}."


def _of_judges(entries: Sequence[Entry]) -> Iterator[str]:
    """Yield whether answers were scored by other judges, or in other words."""
    manners = [entry.judged.manner for entry in entries if entry.judged is not None]
    if others := next((manner for manner in manners if manner != manners[0]), None):
        differing = [name for name in others if others[name] != manners[0][name]]
        yield f"A judge's scores do not compare here: not all runs were judged with the same {_listed(differing)}."


def _of_unknown(entries: Sequence[Entry]) -> Iterator[str]:
    hidden = [entry for entry in entries if (entry.results or {}).get("redacted")]
    if hidden:
        yield (
            f"{len(hidden)} of {len(entries)} runs are redacted: nobody can tell from them whether they were measured "
            "on the same rows and prompts."
        )


def _listed(texts: Iterable[str]) -> str:
    *most, last = texts
    return f"{', '.join(most)} and {last}" if most else last


CAVEATS = (
    _of_same_methods,
    _of_bounds,
    _of_caps,
    _of_metrics,
    _of_absent,
    _of_probes,
    _of_data,
    _of_folds,
    _of_seeds,
    _of_models,
    _of_judges,
    _of_unknown,
)
