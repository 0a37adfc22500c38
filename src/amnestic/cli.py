"""The command line: arguments to a configuration to one call, and its outcome to output and exit status.

Nothing heavy is imported before a command runs, so that ``--help`` answers at once.
"""

import inspect
import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial
from importlib import import_module
from operator import getitem
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, CycloptsError, Group, Parameter, Token, UnusedCliTokensError
from cyclopts.help import ColumnSpec, DefaultFormatter, DescriptionRenderer, NameRenderer

from . import launch
from .config import (
    COMPARISON,
    BenchConfig,
    DemoConfig,
    EvalConfig,
    FinetuneConfig,
    Option,
    ReproduceConfig,
    UnlearnConfig,
    from_mapping,
    names,
    options,
    override,
    read_yaml,
)
from .credentials import masked_output
from .data.options import FURTHER, KEPT
from .data.quoting import HIDDEN
from .errors import AmnesticError, RunError, UnexpectedError, outline
from .interruption import Interruption
from .judging.options import JudgeConfig
from .progress import Progress
from .reports.display import visible
from .reports.files import plain
from .sequencing.options import SequenceConfig

if TYPE_CHECKING:
    from .benching.outcome import Comparison
    from .judging.outcome import Judgement
    from .judging.sending import Sending
    from .reproducing.outcome import Reproduction
    from .run import Run
    from .sequencing.outcome import Outcome

INFEASIBLE = 3
WRONG_INPUT = 2
FAILURE = 1
INTERRUPTED = 130

REGISTRIES = {
    "methods": ("amnestic.methods.base", "METHODS"),
    "metrics": ("amnestic.evaluation.metric", "METRICS"),
    "benchmarks": ("amnestic.benchmarks.base", "BENCHMARKS"),
    "trackers": ("amnestic.trackers.base", "TRACKERS"),
}

EXPLANATIONS = {"methods": "amnestic.methods.explanation", "metrics": "amnestic.evaluation.explanation"}

UNLEARN_EXAMPLES = """Examples:
  amnestic unlearn --model path/or/id --forget forget.jsonl \\
    --retain retain.jsonl --output_dir run
  amnestic unlearn --config run/config.yaml --keep 0.99 --output_dir run-2"""
EVAL_EXAMPLES = """Examples:
  amnestic eval --model path/or/id --benchmark tofu:forget10 \\
    --retrained retrained-eval --output_dir eval
  amnestic eval --model run/model --forget forget.jsonl --retain retain.jsonl \\
    --holdout holdout.jsonl --plan"""
FINETUNE_EXAMPLES = """Examples:
  amnestic finetune --model path/or/id --data all.jsonl \\
    --exclude forget.jsonl --output_dir retrained
  amnestic finetune --config target/config.yaml --seed 1 --output_dir target-2"""
BENCH_EXAMPLES = """Examples:
  amnestic bench --benchmark fiction --methods all --keep 0.98,none --seeds 2
  amnestic bench --benchmark tofu:forget10 --model path/or/id \\
    --methods npo,my_methods.Mine --trials 20 --output_dir comparison --plan"""
SEQUENCE_EXAMPLES = """Examples:
  amnestic sequence --model path/or/id --requests may.jsonl,june.jsonl \\
    --retain retain.jsonl --keep 0.98 --output_dir requests
  amnestic sequence --model path/or/id --benchmark muse:books --keep_models last"""
REPRODUCE_EXAMPLES = """Examples:
  amnestic reproduce
  amnestic reproduce tofu-llama-3.2-1b-forget10 --seeds 5 --output_dir out
  amnestic reproduce tofu-llama-3.2-1b-forget10 --model small --data tofu \\
    --keep 0.98 --output_dir trial"""
JUDGE_EXAMPLES = """Examples:
  amnestic judge run --endpoint http://localhost:8000/v1 --judge_model NAME --yes
  amnestic judge run --endpoint https://api.openai.com/v1 --judge_model NAME \\
    --rows 50 --price_input 0.15 --price_output 0.60"""
DEMO_EXAMPLES = """Examples:
  amnestic demo
  amnestic demo --config demo.yaml --seed 1 --output_dir demo-1"""
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

NAMES = DefaultFormatter(
    column_specs=(ColumnSpec(NameRenderer(34), style="cyclopts.name"), ColumnSpec(DescriptionRenderer()))
)
GENERAL = Group("General", sort_key=0, help_formatter=NAMES)
WORDED = float | Literal["none"] | None
"""The type of a number that may be switched off by the word none."""
Json = Annotated[bool, Parameter(help="Write JSON to stdout, and nothing else.", negative=(), group=GENERAL)]
Explain = Annotated[
    str | None,
    Parameter(
        help="Show everything about the one of this name; of a metric its formula, direction, target and source.",
        show_default=False,
        group=GENERAL,
    ),
]
Runner = Callable[[Any, Progress], Any]
Build = Callable[[Any, Mapping[str, Any], str], Any]
"""Makes a configuration of a class from options by name; the last argument is the file that they are from."""
Show = Callable[[Any, bool, bool], int]
"""Writes what a runner returned, as JSON or quietly where that is asked for, and returns the exit status."""


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
    if _debugging():  # also of a process that says nothing else: the error may be its own
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


def _debugging() -> bool:
    return os.environ.get("AMNESTIC_DEBUG", "") not in ("", "0")


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
    for config_class, name, runner, build, epilogue in (
        (UnlearnConfig, "unlearn", _unlearn, from_mapping, UNLEARN_EXAMPLES),
        (EvalConfig, "eval", _eval, from_mapping, EVAL_EXAMPLES),
        (FinetuneConfig, "finetune", _finetune, _finetune_config, FINETUNE_EXAMPLES),
        (DemoConfig, "demo", _demo, from_mapping, DEMO_EXAMPLES),
    ):
        app.command(_configured(config_class, runner, build), name=name, help_epilogue=epilogue)
    command = _configured(BenchConfig, _bench, _bench_config, _show_comparison)
    app.command(command, name="bench", help_epilogue=BENCH_EXAMPLES)
    command = _configured(SequenceConfig, _sequence, _sequence_config, _show_sequence)
    app.command(command, name="sequence", help_epilogue=SEQUENCE_EXAMPLES)
    app.command(_reproduce_command(), name="reproduce", help_epilogue=REPRODUCE_EXAMPLES)
    command = _configured(JudgeConfig, _judge, show=_show_judgement, leading="run")
    app.command(command, name="judge", help_epilogue=JUDGE_EXAMPLES)
    app.command(compare_runs, name="compare", help_epilogue=COMPARE_EXAMPLES)
    app.command(show_environment, name="env", help_epilogue=ENV_EXAMPLES)
    app.command(show_registry, name="list", help_epilogue=LIST_EXAMPLES)
    return app


def _unlearn(config: UnlearnConfig, progress: Progress) -> "Run":
    """Make a model forget one set of texts, and hold what it must keep inside a bound."""
    from .run import run_unlearn

    return run_unlearn(config, progress)


def _eval(config: EvalConfig, progress: Progress) -> "Run":
    """Measure a model on a benchmark, or on files of your own, with every metric that they allow."""
    from .run import run_eval

    return run_eval(config, progress)


def _finetune(config: FinetuneConfig, progress: Progress) -> "Run":
    """Train a target model, or one that never sees the rows to be forgotten."""
    from .run import run_finetune

    return run_finetune(config, progress)


def _finetune_config(config_class: Any, mapping: Mapping[str, Any], source: str) -> FinetuneConfig:
    if mapping.get("benchmark") is None:
        return from_mapping(FinetuneConfig, mapping, source)
    from .lessons import finetune_config

    return finetune_config(mapping, source)


def _demo(config: DemoConfig, progress: Progress) -> "Run":
    """Train, unlearn and compare small models of invented people: a few minutes, no download."""
    from .demo import demo

    return demo(config, progress)


def _bench(config: BenchConfig, progress: Progress) -> "Comparison":
    """Compare methods under one bound and without, with several seeds, by ordinary runs that can be resumed."""
    from .benching.main import run_bench

    return run_bench(config, progress)


def _bench_config(_: Any, mapping: Mapping[str, Any], source: str) -> BenchConfig:
    from .benching.plan import bench_config

    return bench_config(mapping, source)


def _sequence(config: SequenceConfig, progress: Progress) -> "Outcome":
    """Forget requests that arrive one after another, within the bound of the first model; the same command goes on."""
    from .sequencing.main import run_sequence

    return run_sequence(config, progress)


def _sequence_config(_: Any, mapping: Mapping[str, Any], source: str) -> SequenceConfig:
    from .sequencing.plan import sequence_config

    return sequence_config(mapping, source)


def _reproduce(config: ReproduceConfig, progress: Progress) -> "Reproduction":
    """Repeat a run of the paper, or list them all, and hold its numbers against the published ones."""
    from .reproducing.main import run_reproduction

    return run_reproduction(config, progress)


def _reproduce_config(_: Any, mapping: Mapping[str, Any], source: str) -> ReproduceConfig:
    from .reproducing.main import reproduce_config

    return reproduce_config(mapping, source)


def _reproduce_command() -> Callable[..., int]:
    """Return the command that takes a setting's name in front of its options, and lists the settings without any."""
    configured: Any = _configured(ReproduceConfig, _reproduce, _reproduce_config, _show_reproduction)

    def command(name: str | None = None, **given: Any) -> int:
        if name is None and not given.keys() - {"json", "quiet"}:
            return _show_settings(bool(given.get("json")))
        return int(configured(**given if name is None else {"name": name} | given))

    signature = inspect.signature(configured)
    kept = {key: parameter for key, parameter in signature.parameters.items() if key != "name"}
    first = signature.parameters["name"].replace(kind=inspect.Parameter.POSITIONAL_ONLY)
    command.__doc__ = configured.__doc__
    command.__annotations__ = configured.__annotations__
    vars(command)["__signature__"] = signature.replace(parameters=[first, *kept.values()])
    return command


def _judge(config: JudgeConfig, progress: Progress) -> "Judgement":
    """Let a language model behind an OpenAI-compatible server score a run's generated answers from 0 to 10."""
    from .judging.main import run_judge

    return run_judge(config, progress, partial(_agreed, progress))


def _agreed(progress: Progress, sending: "Sending") -> bool:
    """Show what would leave the machine, and return whether the user agrees to it."""
    from .console import ConsoleProgress, open_console

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


def _configured(
    config_class: Any,
    runner: Runner,
    build: Build = from_mapping,
    show: Show | None = None,
    leading: str | None = None,
) -> Callable[..., int]:
    """Return a command that takes the options of `config_class` as flags and hands them to `runner`.

    Its signature has one keyword for each option, but it is called with those alone that were given. `leading` names
    the option that may also be given without its flag, as the first argument.
    """

    def command(*first: str, config: str | None = None, json: bool = False, quiet: bool = False, **given: Any) -> int:
        given |= {str(leading): value for value in first}
        mapping = override(read_yaml(config) if config else {}, given)
        return _run(runner, build(config_class, mapping, config or ""), json, quiet, show or _show_run)

    groups = {
        title: Group.create_ordered(title, help_formatter=NAMES)
        for title in dict.fromkeys(o.group for o in options(config_class))
    }
    keywords = [*_general_keywords(), *(_keyword(option, groups[option.group]) for option in options(config_class))]
    keywords.sort(key=lambda keyword: keyword.name != leading)
    if leading is not None:
        keywords[0] = keywords[0].replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD)
    command.__doc__ = runner.__doc__
    command.__annotations__ = {keyword.name: keyword.annotation for keyword in keywords}
    vars(command)["__signature__"] = inspect.Signature(keywords)
    return command


def _general_keywords() -> list[inspect.Parameter]:
    config = Parameter(help="YAML file of options, named as the flags; flags override it.", group=GENERAL)
    quiet = Parameter(help="Write the verdict and nothing else.", negative=(), group=GENERAL)
    annotations = {"config": Annotated[str | None, config], "json": Json, "quiet": Annotated[bool, quiet]}
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in annotations.items()
    ]


def _keyword(option: Option, group: Group) -> inspect.Parameter:
    shown = _shown(option.default)
    parameter = Parameter(
        group=group,
        help=option.help + (" [required]" if option.required else ""),
        show_default=shown if shown and not option.required else False,
        converter=_converter(option.annotation),
        consume_multiple=option.annotation == tuple[str, ...],
        negative=() if option.annotation == tuple[str, ...] else None,
    )
    is_repeated = option.annotation in (KEPT, FURTHER)
    annotation = getitem(Annotated, (tuple[str, ...] if is_repeated else option.annotation, parameter))
    # the default is never used: Cyclopts hands on what was given and no more
    return inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _shown(default: Any) -> str:
    """Return a default as the help shows it; nothing where the option's description says what happens without it."""
    if default is None or default in ({}, ()):
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return ",".join(default)
    return json.dumps(default) if isinstance(default, str) and default.split() != [default] else str(default)


def _converter(annotation: Any) -> Callable[[Any, Sequence[Token]], Any] | None:
    """Return what reads a flag of this type in place of Cyclopts, if anything does."""
    if annotation in (int, float, int | None, float | None):
        return _exact_number
    if annotation == WORDED:
        return _number_or_none
    if annotation in (KEPT, FURTHER):
        return _texts
    return _names if annotation == tuple[str, ...] else None


def _texts(annotation: Any, tokens: Sequence[Token]) -> list[str]:
    """Return what a flag was given, once for each time."""
    return [token.value for token in tokens]


def _names(annotation: Any, tokens: Sequence[Token]) -> tuple[str, ...]:
    return names([token.value for token in tokens])


def _number_or_none(annotation: Any, tokens: Sequence[Token]) -> int | float | str | None:
    """Return a flag's number, or the word none, which is a value of its own: not that the flag is left out."""
    try:
        number = _exact_number(float | None, tokens)
    except ValueError:
        raise ValueError(f"'{tokens[0].value}' found, a number or none expected.") from None
    return "none" if number is None else number


def _exact_number(annotation: Any, tokens: Sequence[Token]) -> int | float | None:
    """Return a flag's number; unlike Cyclopts' own conversion it does not round ``1.5`` to a whole one."""
    text = tokens[0].value
    if text.lower() in ("none", "null") and annotation not in (int, float):
        return None
    kind, expected = (int, "a whole number") if annotation in (int, int | None) else (float, "a number")
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"'{text}' found, {expected} expected.") from None


def _run(runner: Runner, config: Any, as_json: bool, quiet: bool, show: Show) -> int:
    from .console import open_console, watching

    is_redacted = getattr(getattr(config, "run", config), "redact", False)
    with (
        _undisturbed(),
        Interruption(is_shared=launch.size() > 1).caught(),
        watching(open_console(sys.stderr), quiet or launch.rank() > 0) as progress,
        _discreet(is_redacted),
    ):
        outcome = runner(config, progress)
    return show(outcome, as_json, quiet)


def _show_run(run: "Run", as_json: bool, quiet: bool) -> int:
    from .console import open_console, show_results

    if launch.rank():
        pass  # the first process shows them
    elif as_json:
        _print_json(run.results)
    else:
        show_results(open_console(sys.stdout), run.results, run.output_dir, quiet)
    return 0 if run.feasible else INFEASIBLE


def _show_comparison(comparison: "Comparison", as_json: bool, quiet: bool) -> int:
    from .console import open_console, show_comparison

    if as_json:
        board = comparison.leaderboard
        _print_json({"plan": comparison.planned} if board is None else {"rows": board.records})
    else:
        show_comparison(open_console(sys.stdout), comparison, quiet)
    return FAILURE if comparison.failed else 0


def _show_sequence(outcome: "Outcome", as_json: bool, quiet: bool) -> int:
    from .console import open_console, show_sequence

    if launch.rank():
        pass  # the first process shows it
    elif as_json:
        _print_json(outcome.results)
    else:
        show_sequence(open_console(sys.stdout), outcome.results, outcome.output_dir, quiet)
    return 0 if outcome.feasible else INFEASIBLE


def _show_reproduction(reproduction: "Reproduction", as_json: bool, quiet: bool) -> int:
    from .console import open_console, show_reproduction

    if launch.rank():
        pass  # the first process shows it
    elif as_json:
        _print_json(reproduction.document)
    else:
        show_reproduction(open_console(sys.stdout), reproduction, quiet)
    return 0 if reproduction.feasible else INFEASIBLE


def _show_judgement(judgement: "Judgement", as_json: bool, quiet: bool) -> int:
    from .console import open_console, show_judgement

    if as_json:
        _print_json(judgement.results)
    else:
        show_judgement(open_console(sys.stdout), judgement.results, judgement.folder, quiet)
    return 0


def _show_settings(as_json: bool) -> int:
    from .console import open_console, show_settings
    from .reproducing.settings import settings

    found = settings()
    if as_json:
        _print_json({setting.name: setting.facts for setting in found})
    else:
        show_settings(open_console(sys.stdout), found)
    return 0


@contextmanager
def _discreet(is_redacted: bool) -> Iterator[None]:
    """Show no text of an error that is not ours, where the run is redacted: it may quote a row."""
    try:
        yield
    except UnexpectedError as error:
        if is_redacted:
            raise RunError(f"{error.outline} (its text: {HIDDEN}).", is_shared=True) from None
        raise
    except AmnesticError as error:
        if is_redacted:
            raise error from None
        raise
    except Exception as error:
        if not is_redacted:
            raise
        raise RunError(f"{outline(error)} (its text: {HIDDEN}).") from None


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep libraries off stdout, and silence their progress bars, logs and warnings."""
    with redirect_stdout(sys.stderr), warnings.catch_warnings():
        if not _debugging():
            # datasets reads this when it is imported, which most runs never do
            os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
            logging: Any = import_module("transformers.utils.logging")
            logging.disable_progress_bar()
            logging.set_verbosity_error()
            import_module("huggingface_hub.utils.logging").set_verbosity_error()
            warnings.simplefilter("ignore")
        yield


def compare_runs(
    *runs: Annotated[str, Parameter(help="Folders of runs of unlearn that ended, or of bench.", show_default=False)],
    output_dir: Annotated[str, Parameter(help="Folder for leaderboard and page.", group=GENERAL)] = COMPARISON,
    overwrite: Annotated[bool, Parameter(help="Replace the comparison in it.", negative=(), group=GENERAL)] = False,
    json: Json = False,
) -> None:
    """Compare runs of unlearn: a leaderboard and a page with the trade-off and the curves of each."""
    from .comparing import compare
    from .console import open_console, show_leaderboard

    with _undisturbed():
        board = compare(runs, output_dir=output_dir, overwrite=overwrite)
    if json:
        _print_json(board.document)
    else:
        show_leaderboard(open_console(sys.stdout), board, output_dir)


def show_environment(*, json: Json = False) -> None:
    """Show versions and hardware, for a bug report."""
    from .console import environment_facts
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
        _print_json(facts)
    else:
        open_console(sys.stdout).print(pairs(facts))


def _print_json(content: Mapping[str, Any]) -> None:
    print(json.dumps(plain(content), indent=2))
