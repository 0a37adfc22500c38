"""The command ``amnestic reproduce``."""

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from .. import launch
from ..config import ReproduceConfig
from ..progress import Progress
from .base import INFEASIBLE, Command, command, print_json

if TYPE_CHECKING:
    from ..reproducing.outcome import Reproduction


@command("reproduce")
class ReproduceCommand(Command):
    """Repeat a run of the paper, or list them all, and hold its numbers against the published ones."""

    place: ClassVar = 7
    config: ClassVar = ReproduceConfig
    examples: ClassVar = """Examples:
  amnestic reproduce
  amnestic reproduce tofu-llama-3.2-1b-forget10 --seeds 5 --output_dir out
  amnestic reproduce tofu-llama-3.2-1b-forget10 --model small --data tofu \\
    --keep 0.98 --output_dir trial"""
    leading: ClassVar = "name"

    def build(self, mapping: Mapping[str, Any], source: str) -> ReproduceConfig:
        """Return the configuration; what it leaves open is published."""
        from ..reproducing.main import reproduce_config

        return reproduce_config(mapping, source)

    def run(self, config: ReproduceConfig, progress: Progress) -> "Reproduction":
        """Do what `config` says."""
        from ..reproducing.main import run_reproduction

        return run_reproduction(config, progress)

    def show(self, outcome: "Reproduction", as_json: bool, quiet: bool) -> int:
        """Write the outcome."""
        from ..console import open_console
        from ..outcomes import show_reproduction

        if launch.rank():
            pass  # the first process shows it
        elif as_json:
            print_json(outcome.document)
        else:
            show_reproduction(open_console(sys.stdout), outcome, quiet)
        return 0 if outcome.feasible else INFEASIBLE

    def show_nothing(self, as_json: bool) -> int:
        """List the published settings."""
        from ..console import open_console
        from ..outcomes import show_settings
        from ..reproducing.settings import settings

        found = settings()
        if as_json:
            print_json({setting.name: setting.facts for setting in found})
        else:
            show_settings(open_console(sys.stdout), found)
        return 0
