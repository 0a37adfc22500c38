"""The command ``amnestic sequence``."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ..progress import Progress
from ..sequencing.options import SequenceConfig
from .base import Command, command

if TYPE_CHECKING:
    from rich.console import Console

    from ..sequencing.outcome import Outcome


@command("sequence")
class SequenceCommand(Command):
    """Forget requests that arrive one after another, within the bound of the first model; the same command goes on."""

    place: ClassVar = 6
    config: ClassVar = SequenceConfig
    choice: ClassVar = "unlearning"
    examples: ClassVar = """Examples:
  amnestic sequence --model path/or/id --requests may.jsonl,june.jsonl \\
    --retain retain.jsonl --keep 0.98 --output_dir requests
  amnestic sequence --model path/or/id --benchmark muse:books --keep_models last"""

    def run(self, config: SequenceConfig, progress: Progress) -> "Outcome":
        """Do what `config` says."""
        from ..sequencing.main import run_sequence

        return run_sequence(config, progress)

    def document(self, outcome: "Outcome") -> Mapping[str, Any]:
        """Return the content of sequence.json."""
        return outcome.results

    def draw(self, console: "Console", outcome: "Outcome", quiet: bool) -> None:
        """Write the verdict and the requests."""
        from ..outcomes import show_sequence

        show_sequence(console, outcome.results, outcome.output_dir, quiet)
