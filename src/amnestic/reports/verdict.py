"""The verdict: one sentence that says first whether the bound was held, then what was forgotten."""

from collections.abc import Mapping
from typing import Any


def verdict(bound: Mapping[str, Any], holds: bool, before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """Return the sentence; `bound` as in results.json, `before` and `after` its flat metrics."""
    return f"{_held(bound, holds)}; {_forgotten(before['forget.probability'], after['forget.probability'])}."


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


def _forgotten(before: float, after: float) -> str:
    change = f"forget probability {before:.3g} -> {after:.3g}"
    if before < 0.01:
        return (
            f"{change}: the model hardly knew these answers before (is the template the one that it was trained with?)"
        )
    share = after / before
    if share > 1.1:
        return f"{change}: the answers became more likely"
    if share > 0.9:
        return f"{change}: almost nothing was forgotten"
    if share > 0.5:
        return f"{change}: little was forgotten"
    return change
