"""Checkpoints: everything that a run needs to go on as if nothing had happened.

A checkpoint is a folder, written under a temporary name and then renamed, so that one which can be seen is complete:

- ``weights``: the trainable parameters as they are computed with (left out once they are of no more use);
- ``optimizer``: moments and float32 masters, by the parameter's name (left out after the last step);
- ``state.safetensors``: multipliers and random states; ``state.json``: step, candidates, and what the run is made from;
- ``candidate``: the weights of the best candidate so far.

The first two and the last are folders that all processes of a run write together, each its part, and that any number of
processes reads again. The position in the data is the step: the rows of each step follow from it. Random states are
those of the first process. Nothing is pickled.
"""

import json
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .. import processes
from ..constraints.multiplier import Multiplier
from ..errors import InputError
from ..interruption import Interruption
from ..shared_folder import write_folder
from ..storage import remove, writing
from . import randomness
from .optimizer import Optimizer
from .options import CheckpointOptions, TrainingOptions
from .tensor_files import names_in, read_tensors, write_tensors

FORMAT = 2
INTERVAL = 600.0
"""Seconds between two checkpoints where --save_steps does not say."""
_NAME = re.compile(r"checkpoint-\d+")


def found_in(folder: Path) -> list[Path]:
    """Return the complete checkpoints in a folder, the newest first."""
    return sorted(
        (path for path in folder.glob("checkpoint-*") if _NAME.fullmatch(path.name)), key=step_of, reverse=True
    )


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Return state.json of a checkpoint; raises InputError where the checkpoint is not whole, or of another version."""
    path = checkpoint / "state.json"
    try:
        state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{checkpoint} is no complete checkpoint ({error}); give another one.") from error
    if state.get("format") != FORMAT:
        raise InputError(
            f"{checkpoint} has the format {state.get('format')!r}, and this version reads {FORMAT}; go on with the "
            "version of amnestic that wrote it."
        )
    for name, size in state["files"].items():
        file = checkpoint / name
        if not file.is_file() or file.stat().st_size != size:
            raise InputError(f"{checkpoint} is no complete checkpoint ({name} is missing or cut); give another one.")
    return state


def step_of(checkpoint: Path) -> int:
    """Return the step that the name of a checkpoint tells."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def checkpoint_bytes(model: Any, options: TrainingOptions) -> int:
    """Return the size of a checkpoint of a run that trains `model`: weights, moments, and masters where there are."""
    moments = 1 if options.optim == "sgd" else 2
    total = 0
    for parameter in model.parameters():
        if parameter.requires_grad:
            width = parameter.element_size()
            master = 4 if options.master_weights and width < 4 else 0
            total += parameter.numel() * (width + master + moments * (master or width))
    return total


@dataclass
class Training:
    """What moves while a run trains, and a checkpoint holds."""

    model: Any
    optimizer: Optimizer
    multipliers: Sequence[Multiplier]
    step: int = 0
    """Optimiser steps done."""
    seconds: float = 0.0
    """That they took."""

    @property
    def weights(self) -> dict[str, Tensor]:
        """Return the trainable parameters by name; one that is tied comes once."""
        return {name: value for name, value in self.model.named_parameters() if value.requires_grad}

    @property
    def moving(self) -> dict[str, Tensor]:
        """Return the optimiser's tensors, by the name of the parameter that they belong to and their own."""
        return self.optimizer.tensors([*self.weights])

    def allocate(self, stored: Iterable[str]) -> None:
        """Let the optimiser have the tensors that are `stored`, named as in `moving`, before they are read."""
        self.optimizer.allocate([*self.weights], stored)


@dataclass
class Checkpoints:
    """Writes the checkpoints of one run into `folder`, and reads the one that the run goes on from."""

    folder: Path
    options: CheckpointOptions
    identity: Mapping[str, Any]
    """What the run is made from: a checkpoint of anything else is refused."""
    interruption: Interruption
    source: Path | None = None
    """The checkpoint to go on from."""
    candidates: Callable[[], list[dict[str, Any]]] = list
    """Returns the records of the candidates so far."""
    candidate: Path | None = None
    """The folder of the best candidate's weights, where the run keeps candidates."""
    is_resumable: bool = True
    """False where the optimiser's state cannot be restored: nothing is written."""
    clock: Callable[[], float] = time.monotonic
    resumed_after: list[int] = field(default_factory=list)
    """Steps after which the run went on from a checkpoint."""
    _last: float = field(init=False)

    def __post_init__(self) -> None:
        """Start the clock."""
        self._last = self.clock()

    def is_due(self, step: int, is_last: bool) -> bool:
        """Return whether the state after `step` is to be written; the clock is the first process's."""
        if not self.is_resumable:
            return False
        if is_last or self.interruption.is_requested:
            return True
        if self.options.save_steps is None:
            return processes.from_first(self.clock() - self._last >= INTERVAL)
        return self.options.save_steps > 0 and step % self.options.save_steps == 0

    def write(self, training: Training, is_last: bool) -> None:
        """Write a checkpoint, then remove those beyond the limit; raises RunError where the file system refuses.

        After the last step only the weights that the run is going to write are kept. The checkpoint that the run went
        on from is not written again: there would be a moment without it.
        """
        path = self.folder / f"checkpoint-{training.step}"
        if self.source is not None and path.absolute() == self.source.absolute():
            return
        candidates = self.candidates()
        is_chosen = is_last and bool(candidates) and candidates[-1]["step"] == training.step

        def fill(folder: Path) -> None:
            if not is_chosen:
                _write(training.weights, folder / "weights")
            if not is_last:
                _write(training.moving, folder / "optimizer")
            if not processes.is_first():
                return
            if self.candidate is not None and candidates:
                link(self.candidate, folder / "candidate")
            save_file(_small(training.multipliers), folder / "state.safetensors")
            state = {"format": FORMAT, "step": training.step, "seconds": training.seconds, "candidates": candidates}
            state |= {"random": randomness.numbers(), "identity": dict(self.identity)}
            state["resumed_after"] = self.resumed_after
            state["multiplier_steps"] = [multiplier.steps for multiplier in training.multipliers]
            state["files"] = {
                str(file.relative_to(folder)): file.stat().st_size
                for file in sorted(folder.rglob("*"))
                if file.is_file()
            }
            (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")

        write_folder(path, fill)
        self._last = self.clock()
        with processes.agreed(), writing(self.folder):
            for beyond in found_in(self.folder)[self.options.save_total_limit :] if processes.is_first() else ():
                remove(beyond)

    @torch.no_grad()
    def restore(self, training: Training) -> None:
        """Put the state of `source`, where there is one, into `training`; raises InputError where it is damaged."""
        if self.source is None:
            return
        with processes.agreed(), _damage_told(self.source):  # what one process cannot read, no other goes on with
            state = read_state(self.source)
            small = load_file(self.source / "state.safetensors")
            if stored := names_in(self.source / "optimizer"):
                training.allocate(stored)
        with processes.agreed(), _damage_told(self.source):
            if (self.source / "weights").is_dir():
                read_tensors(training.weights, self.source / "weights")
            if stored:
                read_tensors(training.moving, self.source / "optimizer")
        for index, multiplier in enumerate(training.multipliers):
            prefix = f"multiplier.{index}."
            own = {name.removeprefix(prefix): value for name, value in small.items() if name.startswith(prefix)}
            multiplier.restore(own, state["multiplier_steps"][index])
        prefix = "random."
        devices = {name.removeprefix(prefix): value for name, value in small.items() if name.startswith(prefix)}
        randomness.restore(devices, state["random"])
        training.step, training.seconds = state["step"], state["seconds"]
        self.resumed_after = [*state["resumed_after"], training.step]


@contextmanager
def _damage_told(checkpoint: Path) -> Iterator[None]:
    """Turn whatever fails in reading a checkpoint into an InputError that names it."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # safetensors has its own; a tensor that is not there is a KeyError
        raise InputError(f"{checkpoint} is damaged ({error}); give an earlier checkpoint.") from error


def _small(multipliers: Sequence[Multiplier]) -> dict[str, Tensor]:
    found = {f"random.{device}": state for device, state in randomness.states().items()}
    for index, multiplier in enumerate(multipliers):
        found |= {f"multiplier.{index}.{name}": value for name, value in multiplier.state.items()}
    return found


def _write(tensors: Mapping[str, Tensor], folder: Path) -> None:
    with processes.agreed():
        if processes.is_first():
            folder.mkdir()
    write_tensors(tensors, folder)


def link(source: Path, target: Path) -> None:
    """Give the files of a folder that are never changed second names; copy them where there are no such links."""
    target.mkdir(exist_ok=True)
    for file in source.iterdir():
        try:
            (target / file.name).hardlink_to(file)
        except OSError:
            shutil.copyfile(file, target / file.name)
