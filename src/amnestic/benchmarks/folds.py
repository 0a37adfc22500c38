"""Folds of a benchmark: the forget sets of a kind, of which each is forgotten by runs of its own."""

from collections.abc import Sequence
from typing import NamedTuple

from ..errors import InputError, nearest
from .base import Benchmark

KINDS = ("scal", "sust")
"""Growing forget sets, each of which holds the one before, and sets that have nothing in common."""


class Fold(NamedTuple):
    """One forget set of a benchmark."""

    kind: str
    name: str

    def of(self, benchmark: Benchmark) -> str:
        """Return the name, for `Benchmark.open`, of the benchmark whose forget split it is."""
        return benchmark.folds(self.kind)[self.name]


def chosen_folds(benchmark: Benchmark, asked: Sequence[str]) -> tuple[Fold, ...]:
    """Return the folds that ``scal``, for all of a kind, or ``scal:forget_1`` name, in the benchmark's order.

    Raises InputError for folds that there are not, and for folds of two kinds.
    """
    named = [text.strip().partition(":") for text in asked]
    kinds = list(dict.fromkeys(kind for kind, _, _ in named))
    if not kinds:
        return ()
    if len(kinds) > 1:
        raise InputError(f"--folds names {' and '.join(kinds)}; give the folds of one kind at a time.")
    known = list(benchmark.folds(kinds[0]))
    for _, colon, name in named:
        if colon and name not in known:
            raise InputError(
                f"--folds names {kinds[0]}:{name}, which the benchmark {benchmark.name} has not"
                f"{nearest(name, known) or '.'} Expected: {', '.join(f'{kinds[0]}:{fold}' for fold in known)}."
            )
    wanted = known if any(not colon for _, colon, _ in named) else [name for _, _, name in named]
    return tuple(Fold(kinds[0], name) for name in known if name in wanted)


def fold_named(benchmark: Benchmark, name: str) -> str | None:
    """Return the fold of `benchmark` that its own full `name` stands for, such as ``forget_2``; None where it is none.

    A benchmark may be a fold by its very name, as ``tofu:forget05`` is.
    """
    for kind in KINDS:
        try:
            folds = benchmark.folds(kind)
        except InputError:  # it has none of this kind
            continue
        found = next((fold for fold, full in folds.items() if full == name), None)
        if found is not None:
            return found
    return None
