"""Which options make a run what it is: two runs that share them are one, and what differs can be said."""

from collections.abc import Mapping
from typing import Any

from . import processes
from .config import decisive, disclosable
from .training.options import TrainingOptions

READ = (
    "model",
    "model_revision",
    "tokenizer",
    "benchmark",
    "data",
    "forget",
    "retain",
    "exclude",
    "measure",
    "bound_model",
    "retrained",
    "refusals",
    "alternates_file",
)
"""Options that name what a run reads."""
BATCH = "effective batch"
"""What counts of how a step is cut."""


def effective_batch(training: TrainingOptions) -> int:
    """Return the examples of a split in one optimiser step, over all processes."""
    return training.per_device_train_batch_size * training.gradient_accumulation_steps * processes.count()


def computed(config: Any) -> dict[str, Any]:
    """Return what decides the result of a run beside the contents that it reads, by name, as JSON holds it."""
    prompt = disclosable(config)["system_prompt"]  # hidden where the run is redacted
    return decisive(config) | {"system_prompt": prompt, BATCH: effective_batch(config.training)}


def identity(config: Any) -> dict[str, Any]:
    """Return the same, and the names of what the run reads: for where nobody looks at contents again."""
    shown = disclosable(config)
    return computed(config) | {name: shown[name] for name in READ if name in shown}


def changes(own: Mapping[str, Any], earlier: Mapping[str, Any]) -> list[str]:
    """Return what is not as it was, a clause for each option: ``--keep is 0.9 here and was 0.98``."""
    names = [name for name in {**earlier, **own} if own.get(name) != earlier.get(name)]
    return [f"{flag(name)} is {own.get(name)} here and was {earlier.get(name)}" for name in names]


def flag(name: str) -> str:
    """Return what a sentence calls an option, or what else a run is told by."""
    return f"the {name}" if " " in name else f"--{name}"
