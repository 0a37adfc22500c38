"""Commands whose outcome is one run: unlearn, eval, finetune and demo."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ..config import DemoConfig, EvalConfig, FinetuneConfig, UnlearnConfig
from ..progress import Progress
from .base import Command, command

if TYPE_CHECKING:
    from rich.console import Console

    from ..run import Run


class RunCommand(Command):
    """A command whose outcome is a run."""

    def document(self, outcome: "Run") -> Mapping[str, Any]:
        """Return the results."""
        return outcome.results

    def draw(self, console: "Console", outcome: "Run", quiet: bool) -> None:
        """Write the verdict and the numbers."""
        from ..outcomes import show_results

        show_results(console, outcome.results, outcome.output_dir, quiet)


@command("unlearn")
class UnlearnCommand(RunCommand):
    """Make a model forget one set of texts, and hold what it must keep inside a bound."""

    place: ClassVar = 1
    config: ClassVar = UnlearnConfig
    choice: ClassVar = "unlearning"
    examples: ClassVar = """Examples:
  amnestic unlearn --model path/or/id --forget forget.jsonl \\
    --retain retain.jsonl --output_dir run
  amnestic unlearn --config run/config.yaml --keep 0.99 --output_dir run-2"""

    def run(self, config: UnlearnConfig, progress: Progress) -> "Run":
        """Do the run."""
        from ..run import run_unlearn

        return run_unlearn(config, progress)


@command("eval")
class EvalCommand(RunCommand):
    """Measure a model on a benchmark, or on files of your own, with every metric that they allow."""

    place: ClassVar = 2
    config: ClassVar = EvalConfig
    examples: ClassVar = """Examples:
  amnestic eval --model path/or/id --benchmark tofu:forget10 \\
    --retrained retrained-eval --output_dir eval
  amnestic eval --model run/model --forget forget.jsonl --retain retain.jsonl \\
    --holdout holdout.jsonl --plan"""

    def run(self, config: EvalConfig, progress: Progress) -> "Run":
        """Do the run."""
        from ..run import run_eval

        return run_eval(config, progress)


@command("finetune")
class FinetuneCommand(RunCommand):
    """Train a target model, or one that never sees the rows to be forgotten."""

    place: ClassVar = 3
    config: ClassVar = FinetuneConfig
    choice: ClassVar = "learning"
    examples: ClassVar = """Examples:
  amnestic finetune --model path/or/id --data all.jsonl \\
    --exclude forget.jsonl --output_dir retrained
  amnestic finetune --config target/config.yaml --seed 1 --output_dir target-2"""

    def run(self, config: FinetuneConfig, progress: Progress) -> "Run":
        """Do the run."""
        from ..run import run_finetune

        return run_finetune(config, progress)


@command("demo")
class DemoCommand(RunCommand):
    """Train, unlearn and compare small models of invented people: a few minutes, no download."""

    place: ClassVar = 4
    config: ClassVar = DemoConfig
    examples: ClassVar = """Examples:
  amnestic demo
  amnestic demo --config demo.yaml --seed 1 --output_dir demo-1"""

    def run(self, config: DemoConfig, progress: Progress) -> "Run":
        """Do the run."""
        from ..demo import demo

        return demo(config, progress)
