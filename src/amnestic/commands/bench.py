"""The command ``amnestic bench``."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ..config import BenchConfig
from ..progress import Progress
from .base import FAILURE, Command, command

if TYPE_CHECKING:
    from rich.console import Console

    from ..benching.outcome import Comparison


@command("bench")
class BenchCommand(Command):
    """Compare methods under one bound and without, with several seeds, by ordinary runs that can be resumed."""

    place: ClassVar = 5
    config: ClassVar = BenchConfig
    examples: ClassVar = """Examples:
  amnestic bench --benchmark fiction --methods all --keep 0.98,none --seeds 2
  amnestic bench --benchmark tofu:forget10 --model path/or/id \\
    --methods npo,my_methods.Mine --trials 20 --output_dir comparison --plan"""

    def build(self, mapping: Mapping[str, Any], source: str) -> BenchConfig:
        """Return the configuration; what it leaves open is the choice of the benchmark."""
        from ..benching.plan import bench_config

        return bench_config(mapping, source)

    def run(self, config: BenchConfig, progress: Progress) -> "Comparison":
        """Do what `config` says."""
        from ..benching.main import run_bench

        return run_bench(config, progress)

    def document(self, outcome: "Comparison") -> Mapping[str, Any]:
        """Return the rows, or the plan where nothing was run."""
        return {"plan": outcome.planned} if outcome.leaderboard is None else {"rows": outcome.leaderboard.records}

    def draw(self, console: "Console", outcome: "Comparison", quiet: bool) -> None:
        """Write the leaderboard, or the plan."""
        from ..outcomes import show_comparison

        show_comparison(console, outcome, quiet)

    def status(self, outcome: "Comparison") -> int:
        """Return whether every run could be made: a bound that one missed is a result."""
        return FAILURE if outcome.failed else 0
