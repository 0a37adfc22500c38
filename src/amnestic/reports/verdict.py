"""The verdict: one sentence that says first whether the bound was held, then what was forgotten."""

from collections.abc import Mapping, Sequence
from typing import Any

from .results import bounds_of

SPANS, RECITED = "forget.span_probability", "forget.verbmem"
"""The metrics that say what was forgotten where rows mark spans, and where passages are continued."""
KEPT = {"token_probability": "token probability", "probability": "probability"}
"""Metrics that say what was kept, the first of which is told that was measured, and their names."""
WORDS = {"nll": ("loss", " nats a token"), "kl": ("divergence", " nats a token"), "hidden": ("hidden distance", "")}
"""Loss on what is kept -> what it is called, and its unit."""


def verdict(results: Mapping[str, Any], kept: Sequence[str] = ("retain",)) -> str:
    """Return the sentence for results.json without it; `kept` are the names of the splits that are kept.

    What it reads: the bounds, `retentions`, `multiplier`, `reference_metrics` and `metrics`.
    """
    before, after = results["reference_metrics"], results["metrics"]
    bounds = bounds_of(results)
    held = _held(bounds, results) if bounds else _kept(before, after, kept)
    return f"{held}; {_forgotten(before, after)}."


def _held(bounds: Mapping[str, Mapping[str, Any]], results: Mapping[str, Any]) -> str:
    measured = [_measured(name, bound, results) for name, bound in bounds.items()]
    holds = [_decisive(bound) <= bound["value"] for bound in bounds.values()]
    if len(bounds) > 1:
        measured = [f"{text}, {'held' if held else 'not held'}" for text, held in zip(measured, holds, strict=True)]
    text = "; ".join(measured)
    if all(holds):
        return f"Bound{'s' if len(bounds) > 1 else ''} held: {text}"
    if all(bound["reached"] <= bound["value"] for bound in bounds.values()):
        return f"BOUND NOT HELD: held on average, not with 95 % confidence ({text}){_capped(results)}"
    return f"BOUND MISSED: {text}{_capped(results)}"


def _measured(name: str, bound: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """Return what was measured against the bound of what is called `name`."""
    reached, value, upper = (f"{bound[key]:.4g}" for key in ("reached", "value", "upper_limit"))
    loss, unit = WORDS[(results.get("retentions") or {}).get(name, {}).get("loss", "nll")]
    text = f"{name} {loss} {reached}{unit}"
    if bound["whole_split"]:
        return f"{text}{'' if name == 'context' else ' on the whole split'}, bound {value}"
    return f"{text}, at most {upper} with 95 % confidence, bound {value}"


def _capped(results: Mapping[str, Any]) -> str:
    """Return how far a cap held the multipliers back, of a run that misses a bound; nothing where none did."""
    multiplier = results.get("multiplier") or {}
    share = max((value for key, value in multiplier.items() if key.endswith("cap_binds")), default=0.0)
    return (
        f"; the cap of {multiplier['cap']:g} held the multiplier in {100 * share:.3g} % of the steps" if share else ""
    )


def _kept(before: Mapping[str, float], after: Mapping[str, float], kept: Sequence[str]) -> str:
    """Return what became of what is kept in a run that asked for no bound, as far as it was measured."""
    changes = []
    for name in kept:
        for metric, words in KEPT.items():
            if (key := f"{name}.{metric}") in after:
                changes.append(f"{name} {words} {before[key]:.3g} -> {after[key]:.3g}")
                break
    return f"No bound was asked for: {'; '.join(changes) or 'nothing was measured of what is kept'}"


def _decisive(bound: Mapping[str, Any]) -> float:
    """Return the figure that the bound is held against: the upper limit, or what was reached on a whole split."""
    return float(bound["reached"] if bound["whole_split"] else bound["upper_limit"])


def _forgotten(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """Return what was forgotten: the answers, or the spans that are marked in them, or passages that are recited."""
    what, known, risen = "answers", "forget.probability", "became more likely"
    whole = f"{before[known]:.3g} -> {after[known]:.3g}"
    change = f"forget probability {whole}"
    if SPANS in before:
        what, known = "spans", SPANS
        change = f"forget span probability {before[known]:.3g} -> {after[known]:.3g} (whole answers {whole})"
    elif RECITED in before and RECITED in after:
        what, known, risen = "passages", RECITED, "are recited more"
        change = f"forget VerbMem {before[known]:.3g} -> {after[known]:.3g} (probability {whole})"
    if before[known] < 0.01:
        return (
            f"{change}: the model hardly knew these {what} before (is the template the one that it was trained with?)"
        )
    share = after[known] / before[known]
    if share > 1.1:
        return f"{change}: the {what} {risen}"
    if share > 0.9:
        return f"{change}: almost nothing was forgotten"
    if share > 0.5:
        return f"{change}: little was forgotten"
    return change
