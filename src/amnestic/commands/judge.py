"""The command ``amnestic judge``."""

import sys
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from ..judging.options import JudgeConfig
from ..progress import Progress
from .base import Command, command

if TYPE_CHECKING:
    from rich.console import Console

    from ..judging.outcome import Judgement
    from ..judging.sending import Sending


@command("judge")
class JudgeCommand(Command):
    """Let a language model behind an OpenAI-compatible server score a run's generated answers from 0 to 10."""

    place: ClassVar = 8
    config: ClassVar = JudgeConfig
    examples: ClassVar = """Examples:
  amnestic judge run --endpoint http://localhost:8000/v1 --judge_model NAME --yes
  amnestic judge run --endpoint https://api.openai.com/v1 --judge_model NAME \\
    --rows 50 --price_input 0.15 --price_output 0.60"""
    leading: ClassVar = "run"

    def run(self, config: JudgeConfig, progress: Progress) -> "Judgement":
        """Do what `config` says."""
        from ..judging.main import run_judge

        return run_judge(config, progress, partial(_agreed, progress))

    def document(self, outcome: "Judgement") -> Mapping[str, Any]:
        """Return the content of judge.json."""
        return outcome.results

    def draw(self, console: "Console", outcome: "Judgement", quiet: bool) -> None:
        """Write the scores."""
        from ..outcomes import show_judgement

        show_judgement(console, outcome.results, outcome.folder, quiet)

    def status(self, outcome: "Judgement") -> int:
        """Return 0: scores are no bound."""
        return 0


def _agreed(progress: Progress, sending: "Sending") -> bool:
    """Show what would leave the machine, and return whether the user agrees to it."""
    from ..console import ConsoleProgress, open_console

    # whoever is asked sees what about, also where nothing else is to be written
    shown = progress if sending.options.yes else ConsoleProgress(open_console(sys.stderr))
    shown.quote("The first prompt", sending.example)
    shown.plan(sending.facts)
    return sending.options.yes or _typed_yes()


def _typed_yes() -> bool:
    """Ask at the terminal, if there is one."""
    if not _at_terminal():
        return False
    print("Send them? Type yes: ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() == "yes"


def _at_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()
