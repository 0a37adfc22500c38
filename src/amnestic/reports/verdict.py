"""The verdict: one sentence that says first whether the bound was held, then what was forgotten."""

from collections.abc import Mapping
from typing import Any

SPANS = "forget.span_probability"
"""The metric that says what was forgotten where rows mark spans."""


def verdict(bound: Mapping[str, Any], holds: bool, before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """Return the sentence; `bound` as in results.json, `before` and `after` its flat metrics."""
    return f"{_held(bound, holds)}; {_forgotten(before, after)}."


def _held(bound: Mapping[str, Any], holds: bool) -> str:
    reached, value, upper = (f"{bound[name]:.4g}" for name in ("reached", "value", "upper_limit"))
    if bound["whole_split"]:
        measured = f"retain loss {reached} nats a token on the whole split, bound {value}"
    else:
        measured = f"retain loss {reached} nats a token, at most {upper} with 95 % confidence, bound {value}"
    if holds:
        return f"Bound held: {measured}"
    if bound["reached"] <= bound["value"]:
        return f"BOUND NOT HELD: held on average, not with 95 % confidence ({measured})"
    return f"BOUND MISSED: {measured}"


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
