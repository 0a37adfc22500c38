"""The command line: arguments to a configuration to one call, and its outcome to output and exit status.

Nothing heavy is imported before a command runs, so that ``--help`` answers at once.
"""

import inspect
import sys
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter, UnusedCliTokensError

from . import launch
from .commands.base import COMMANDS, FAILURE, print_json
from .commands.disturbance import debugging, undisturbed
from .config import COMPARISON
from .credentials import masked_output
from .errors import AmnesticError, outline
from .flags import GENERAL, Json
from .reports.display import visible

WRONG_INPUT = 2
INTERRUPTED = 130

REGISTRIES = {
    "methods": ("amnestic.methods.base", "METHODS"),
    "metrics": ("amnestic.evaluation.metric", "METRICS"),
    "benchmarks": ("amnestic.benchmarks.base", "BENCHMARKS"),
    "trackers": ("amnestic.trackers.base", "TRACKERS"),
}

EXPLANATIONS = {"methods": "amnestic.methods.explanation", "metrics": "amnestic.evaluation.explanation"}

LIST_EXAMPLES = """Examples:
  amnestic list methods
  amnestic list metrics --explain truth_ratio
  amnestic list metrics --json"""
COMPARE_EXAMPLES = """Examples:
  amnestic compare runs/npo-1 runs/npo-2 runs/pdu-1 --output_dir comparison
  amnestic compare runs/* --overwrite --json > rows.json"""
ENV_EXAMPLES = """Examples:
  amnestic env
  amnestic env --json > environment.json"""

Explain = Annotated[
    str | None,
    Parameter(
        help="Show everything about the one of this name; of a metric its formula, direction, target and source.",
        show_default=False,
        group=GENERAL,
    ),
]


@masked_output()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command in `arguments` (default: those of the process) and return its exit status.

    0: done, and the bound held; 3: done, and it did not; 2: wrong input; 1: a failure; 130: interrupted.
    """
    try:
        return application()(arguments) or 0
    except UnusedCliTokensError as error:
        return _failed(f"unexpected argument '{(error.unused_tokens or [''])[0]}'.", WRONG_INPUT)
    except CycloptsError as error:
        return _failed(str(error), WRONG_INPUT)
    except AmnesticError as error:
        return _failed(str(error), error.exit_status, error.is_shared)
    except KeyboardInterrupt as error:
        return _failed(str(error) or "interrupted.", INTERRUPTED, is_shared=True)
    except Exception as error:
        hint = "run again with AMNESTIC_DEBUG=1 for the traceback"
        return _failed(f"{outline(error)}: {error} ({hint})", FAILURE)


def _failed(text: str, exit_status: int, is_shared: bool = False) -> int:
    if debugging():  # also of a process that says nothing else: the error may be its own
        print(*map(visible, traceback.format_exc().splitlines()), sep="\n", file=sys.stderr)
    rank, number_here = _place()
    if (rank and is_shared) or (number_here and exit_status == WRONG_INPUT):
        return exit_status  # the first process says it, and what not all need share, the first of each machine
    text = f"process {rank}: {text}" if rank else text
    print("error:", visible(" ".join(text.splitlines())), file=sys.stderr)
    return exit_status


def _place() -> tuple[int, int]:
    """Return the number of this process, and that among those of its machine; 0 where a launcher told nonsense."""
    try:
        return launch.rank(), launch.local_rank()
    except AmnesticError:
        return 0, 0


def application() -> App:
    """Return the commands and their options."""
    app = App(
        name="amnestic",
        help="Constrained unlearning for Hugging Face causal language models.",
        version=lambda: str(import_module("amnestic").__version__),
        default_parameter=Parameter(name_transform=str, negative_bool="no_"),
        help_format="plaintext",
        result_action="return_value",
        print_error=False,
        exit_on_error=False,
        suppress_keyboard_interrupt=False,
    )
    commands = [COMMANDS.get(name)() for name in COMMANDS.names()]
    for command in sorted(commands, key=lambda command: command.place):
        app.command(command.function, name=command.name, help_epilogue=command.examples)
    app.command(compare_runs, name="compare", help_epilogue=COMPARE_EXAMPLES)
    app.command(show_environment, name="env", help_epilogue=ENV_EXAMPLES)
    app.command(show_registry, name="list", help_epilogue=LIST_EXAMPLES)
    return app


def compare_runs(
    *runs: Annotated[str, Parameter(help="Folders of runs of unlearn that ended, or of bench.", show_default=False)],
    output_dir: Annotated[str, Parameter(help="Folder for leaderboard and page.", group=GENERAL)] = COMPARISON,
    overwrite: Annotated[bool, Parameter(help="Replace the comparison in it.", negative=(), group=GENERAL)] = False,
    json: Json = False,
) -> None:
    """Compare runs of unlearn: a leaderboard and a page with the trade-off and the curves of each."""
    from .comparing import compare
    from .console import open_console
    from .outcomes import show_leaderboard

    with undisturbed():
        board = compare(runs, output_dir=output_dir, overwrite=overwrite)
    if json:
        print_json(board.document)
    else:
        show_leaderboard(open_console(sys.stdout), board, output_dir)


def show_environment(*, json: Json = False) -> None:
    """Show versions and hardware, for a bug report."""
    from .outcomes import environment_facts
    from .reports.environment import environment

    facts = environment()
    _show(facts if json else environment_facts(facts), json)


def show_registry(
    kind: Literal["methods", "metrics", "benchmarks", "trackers"], *, explain: Explain = None, json: Json = False
) -> None:
    """Show the methods, metrics, benchmarks or trackers that the other commands know by name."""
    module, name = REGISTRIES[kind]
    registry = getattr(import_module(module), name)
    if explain is None:
        _show({entry: (registry.get(entry).__doc__ or "").partition("\n")[0] for entry in registry.names()}, json)
        return
    cls = registry.get(explain)
    if kind not in EXPLANATIONS:
        _show({"name": cls.name, "definition": inspect.cleandoc(cls.__doc__ or "")}, json)
        return
    from .evaluation.explanation import lines

    explained = import_module(EXPLANATIONS[kind]).explain(cls)
    _show(explained if json else lines(explained), json)


def _show(facts: Mapping[str, Any], as_json: bool) -> None:
    from .console import open_console, pairs

    if as_json:
        print_json(facts)
    else:
        open_console(sys.stdout).print(pairs(facts))
