"""The reference of a run: read before its first step, kept beside its checkpoints, read again where the run goes on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..data.batches import SECOND, StepRows
from ..data.encode import Encoded
from ..data.records import take
from ..errors import InputError
from ..model.reference import Asked
from ..storage import write_file, writing
from .problem import Problem

FILE = "reference.safetensors"
"""What the reference gave, in the folder of a run's checkpoints."""


@dataclass(frozen=True)
class Remembered:
    """How a run comes by its reference."""

    mode: Literal["auto", "cached", "live"]
    has_adapter: bool
    batch_size: int
    folder: Path
    """Of the checkpoints."""
    is_written_here: bool
    earlier: Path | None = None
    """Folder of the checkpoints of the run that goes on."""

    def complete(
        self,
        problem: Problem,
        examples: Mapping[str, Sequence[Encoded]],
        check: Callable[[], None] = lambda: None,
        start: Callable[[str, int], Callable[[int], None]] = lambda title, units: lambda _: None,
    ) -> Problem:
        """Return `problem` with the reference that its terms read, of the model as it stands.

        `examples` are all that the run reads of each split. `check` is called between passes, and may raise; `start` is
        told the title and the size of the work, and returns what is told how much was done. Raises InputError where the
        model cannot be remembered, and is to be.
        """
        demands = problem.demands
        if not demands:
            return problem
        if problem.second is not None:
            examples = {**examples, SECOND: [problem.second[row.id] for row in examples["forget"]]}
        asked = Asked(problem.model, problem.form, problem.vocabulary, demands, examples)
        kept = None if self.earlier is None else self.earlier / FILE
        is_kept = kept is not None and kept.is_file()
        # a run that goes on rounds as it did before, however little memory is free by now
        if not asked.is_cached("cached" if is_kept and self.mode == "auto" else self.mode):
            return replace(problem, reference=asked.live(self.has_adapter))
        if kept is not None and is_kept:
            return replace(problem, reference=asked.remembered(_read(kept)))
        advance = start("read the reference", sum(len(examples[split]) for split in demands))
        reference = asked.cached(self.batch_size, check, advance)
        if self.is_written_here:
            with writing(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
            tensors = {name: value.contiguous() for name, value in reference.state.items()}
            write_file(self.folder / FILE, lambda path: save_file(tensors, path))
        return replace(problem, reference=reference)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except Exception as error:  # of the file system, or of safetensors
        raise InputError(f"{path} cannot be read ({error}); remove it, and the reference is read again.") from error


def drawn(
    splits: Mapping[str, Sequence[Encoded]], rows: StepRows, steps: int, besides: Mapping[str, Sequence[Encoded]]
) -> dict[str, list[Encoded]]:
    """Return the examples of each split that so many steps draw, and those `besides`; each once."""
    found: dict[str, dict[str, Encoded]] = {}
    numbers: dict[str, list[np.ndarray]] = {}
    for step in range(steps):
        for split, chosen in rows.rows(step).items():
            numbers.setdefault(split, []).append(chosen)
    for split, examples in splits.items():
        own = np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *numbers.get(split, [])]))
        found[split] = {row.id: row for row in take(examples, own)}
    for split, examples in besides.items():
        found.setdefault(split, {}).update((row.id, row) for row in examples)
    return {split: list(chosen.values()) for split, chosen in found.items()}
