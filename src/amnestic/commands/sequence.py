"""The command ``amnestic sequence``."""

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from .. import launch
from ..progress import Progress
from ..sequencing.options import SequenceConfig
from .base import INFEASIBLE, Command, command, print_json

if TYPE_CHECKING:
    from ..sequencing.outcome import Outcome


@command("sequence")
class SequenceCommand(Command):
    """Forget requests that arrive one after another, within the bound of the first model; the same command goes on."""

    place: ClassVar = 6
    config: ClassVar = SequenceConfig
    examples: ClassVar = """Examples:
  amnestic sequence --model path/or/id --requests may.jsonl,june.jsonl \\
    --retain retain.jsonl --keep 0.98 --output_dir requests
  amnestic sequence --model path/or/id --benchmark muse:books --keep_models last"""

    def build(self, mapping: Mapping[str, Any], source: str) -> SequenceConfig:
        """Return the configuration; what it leaves open is the choice of the benchmark."""
        from ..sequencing.plan import sequence_config

        return sequence_config(mapping, source)

    def run(self, config: SequenceConfig, progress: Progress) -> "Outcome":
        """Do what `config` says."""
        from ..sequencing.main import run_sequence

        return run_sequence(config, progress)

    def show(self, outcome: "Outcome", as_json: bool, quiet: bool) -> int:
        """Write the outcome."""
        from ..console import open_console
        from ..outcomes import show_sequence

        if launch.rank():
            pass  # the first process shows it
        elif as_json:
            print_json(outcome.results)
        else:
            show_sequence(open_console(sys.stdout), outcome.results, outcome.output_dir, quiet)
        return 0 if outcome.feasible else INFEASIBLE
