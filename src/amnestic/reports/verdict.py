"""The verdict: one sentence that says first whether the bound was held, then what was forgotten."""

from collections.abc import Mapping
from typing import Any

SPANS = "forget.span_probability"
"""The metric that says what was forgotten where rows mark spans."""


def verdict(bounds: Mapping[str, Mapping[str, Any]], before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """Return the sentence; `bounds` as in results.json, by their keys there, `before` and `after` its flat metrics."""
    return f"{_held(bounds)}; {_forgotten(before, after)}."


def _held(bounds: Mapping[str, Mapping[str, Any]]) -> str:
    measured = [_measured(key, bound) for key, bound in bounds.items()]
    holds = [_decisive(bound) <= bound["value"] for bound in bounds.values()]
    if len(bounds) > 1:
        measured = [f"{text}, {'held' if held else 'not held'}" for text, held in zip(measured, holds, strict=True)]
    text = "; ".join(measured)
    if all(holds):
        return f"Bound{'s' if len(bounds) > 1 else ''} held: {text}"
    if all(bound["reached"] <= bound["value"] for bound in bounds.values()):
        return f"BOUND NOT HELD: held on average, not with 95 % confidence ({text})"
    return f"BOUND MISSED: {text}"


def _measured(key: str, bound: Mapping[str, Any]) -> str:
    """Return what was measured against one bound; `key` is "bound", the retain split's, or "context_bound"."""
    reached, value, upper = (f"{bound[name]:.4g}" for name in ("reached", "value", "upper_limit"))
    if key != "bound":
        return f"{key.removesuffix('_bound')} loss {reached} nats a token, bound {value}"
    if bound["whole_split"]:
        return f"retain loss {reached} nats a token on the whole split, bound {value}"
    return f"retain loss {reached} nats a token, at most {upper} with 95 % confidence, bound {value}"


def _decisive(bound: Mapping[str, Any]) -> float:
    """Return the figure that the bound is held against: the upper limit, or what was reached on a whole split."""
    return float(bound["reached"] if bound["whole_split"] else bound["upper_limit"])


def _forgotten(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """Return what was forgotten: the answers, or where spans are marked, these."""
    what, known = "answers", "forget.probability"
    whole = f"{before[known]:.3g} -> {after[known]:.3g}"
    change = f"forget probability {whole}"
    if SPANS in before:
        what, known = "spans", SPANS
        change = f"forget span probability {before[known]:.3g} -> {after[known]:.3g} (whole answers {whole})"
    if before[known] < 0.01:
        return (
            f"{change}: the model hardly knew these {what} before (is the template the one that it was trained with?)"
        )
    share = after[known] / before[known]
    if share > 1.1:
        return f"{change}: the {what} became more likely"
    if share > 0.9:
        return f"{change}: almost nothing was forgotten"
    if share > 0.5:
        return f"{change}: little was forgotten"
    return change
