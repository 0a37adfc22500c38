"""Options of following a run elsewhere; nothing heavy is imported here."""

from dataclasses import dataclass
from typing import ClassVar

from ..errors import InputError


@dataclass(frozen=True, kw_only=True)
class TrackingOptions:
    """Who receives the numbers of a run, besides its folder; texts and local paths are never sent."""

    indifferent: ClassVar[frozenset[str]] = frozenset({"report_to", "run_name", "project", "logging_dir"})

    report_to: tuple[str, ...] = ()
    """Trackers that receive the numbers of the run, such as tensorboard,wandb (amnestic list trackers), or the dotted
    path of a class of your own [default: none]."""
    run_name: str | None = None
    """Name of the run in the trackers [default: amnestic and a number]."""
    project: str | None = None
    """Project of the run in wandb and trackio [default: WANDB_PROJECT or TRACKIO_PROJECT, else amnestic]."""
    logging_dir: str | None = None
    """Folder below which trackers write files [default: the folder tracking in the run folder]."""

    def __post_init__(self) -> None:
        """Raise InputError for values that no run could use."""
        for name in ("run_name", "project", "logging_dir"):
            if getattr(self, name) == "":
                raise InputError(f"--{name} is empty; expected a name, or leave it out.")
        if twice := {name for name in self.report_to if self.report_to.count(name) > 1}:
            raise InputError(f"--report_to names {min(twice)} twice; expected each tracker once.")
