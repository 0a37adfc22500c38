"""The command ``amnestic bench``."""

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ..config import BenchConfig
from ..progress import Progress
from .base import FAILURE, Command, command, print_json

if TYPE_CHECKING:
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

    def show(self, outcome: "Comparison", as_json: bool, quiet: bool) -> int:
        """Write the outcome."""
        from ..console import open_console
        from ..outcomes import show_comparison

        if as_json:
            print_json(
                {"plan": outcome.planned} if outcome.leaderboard is None else {"rows": outcome.leaderboard.records}
            )
        else:
            show_comparison(open_console(sys.stdout), outcome, quiet)
        return FAILURE if outcome.failed else 0
