"""What a command is: a configuration, what is done with it, and how the outcome is shown; nothing heavy is imported."""

import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from .. import launch
from ..config import from_mapping, override, read_yaml
from ..flags import with_flags
from ..interruption import Interruption
from ..progress import Progress
from ..registry import Registry
from ..reports.files import plain
from .disturbance import discreet, undisturbed

if TYPE_CHECKING:
    from rich.console import Console

INFEASIBLE = 3
FAILURE = 1


class Command(ABC):
    """A command of ``amnestic`` whose options are those of a configuration; the docstring is its help."""

    name: ClassVar[str]
    place: ClassVar[int]
    """Where the help lists it: lower ones first."""
    config: ClassVar[Any]
    """The dataclass that holds its options."""
    examples: ClassVar[str]
    """What stands below its help."""
    leading: ClassVar[str | None] = None
    """The option that may also be given without its flag, as the first argument."""
    choice: ClassVar[Literal["learning", "unlearning"] | None] = None
    """What of a benchmark says how a model trains, where this does."""

    def build(self, mapping: Mapping[str, Any], source: str) -> Any:
        """Return the configuration that options by name describe; `source` is the file that they are from.

        What they leave open is the choice of the benchmark, where one is named.
        """
        if self.choice is None or mapping.get("benchmark") is None:
            return from_mapping(self.config, mapping, source)
        from ..defaults import configured

        return configured(self.config, mapping, source, self.choice)

    @abstractmethod
    def run(self, config: Any, progress: Progress) -> Any:
        """Do what `config` says, and return the outcome."""

    @abstractmethod
    def document(self, outcome: Any) -> Mapping[str, Any]:
        """Return what ``--json`` writes of the outcome."""

    @abstractmethod
    def draw(self, console: "Console", outcome: Any, quiet: bool) -> None:
        """Write the outcome for people; `quiet` asks for the verdict alone."""

    def status(self, outcome: Any) -> int:
        """Return the exit status: whether every bound was held."""
        return 0 if outcome.feasible else INFEASIBLE

    def show_nothing(self, as_json: bool) -> int | None:
        """Write what the command shows where it is given nothing, and return the exit status; None: it runs."""
        return None

    @property
    def function(self) -> Callable[..., int]:
        """Return the function that Cyclopts calls with what was given."""

        def command(
            *first: str, config: str | None = None, json: bool = False, quiet: bool = False, **given: Any
        ) -> int:
            given |= {str(self.leading): value for value in first}
            if config is None and not given and (status := self.show_nothing(json)) is not None:
                return status
            mapping = override(read_yaml(config) if config else {}, given)
            return self._call(self.build(mapping, config or ""), json, quiet)

        command.__doc__ = self.__doc__
        return with_flags(command, self.config, self.leading)

    def _call(self, config: Any, as_json: bool, quiet: bool) -> int:
        from ..console import open_console, watching

        is_redacted = getattr(getattr(config, "run", config), "redact", False)
        with (
            undisturbed(),
            Interruption(is_shared=launch.size() > 1).caught(),
            watching(open_console(sys.stderr), quiet or launch.rank() > 0) as progress,
            discreet(is_redacted),
        ):
            outcome = self.run(config, progress)
        if launch.rank():
            pass  # the first process shows it
        elif as_json:
            print_json(self.document(outcome))
        else:
            self.draw(open_console(sys.stdout), outcome, quiet)
        return self.status(outcome)


COMMANDS: Registry[Command] = Registry("command", "amnestic.commands")
command = COMMANDS.register


def print_json(content: Mapping[str, Any]) -> None:
    """Write `content` to stdout."""
    print(json.dumps(plain(content), indent=2))
