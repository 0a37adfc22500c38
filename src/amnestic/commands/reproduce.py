"""The command ``amnestic reproduce``."""

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ..config import ReproduceConfig
from ..progress import Progress
from .base import Command, command, print_json

if TYPE_CHECKING:
    from rich.console import Console

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

    def document(self, outcome: "Reproduction") -> Mapping[str, Any]:
        """Return the content of reproduction.json."""
        return outcome.document

    def draw(self, console: "Console", outcome: "Reproduction", quiet: bool) -> None:
        """Write both sides of each number."""
        from ..outcomes import show_reproduction

        show_reproduction(console, outcome, quiet)

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
