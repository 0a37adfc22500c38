"""The command line: what flags and files become, what is printed where, and how it exits."""

import contextlib
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, get_args

import pytest

from amnestic.cli import main
from amnestic.commands.base import COMMANDS as REGISTRY
from amnestic.commands.disturbance import undisturbed
from amnestic.config import (
    DemoConfig,
    EvalConfig,
    FinetuneConfig,
    UnlearnConfig,
    from_mapping,
    options,
    to_mapping,
    write_yaml,
)
from amnestic.errors import InputError, RunError

UNLEARN = ["unlearn", "--model", "m", "--forget", "f.jsonl", "--retain", "r.jsonl", "--output_dir", "run"]
FINETUNE = ["finetune", "--model", "m", "--data", "d.jsonl", "--output_dir", "run"]
EVAL = ["eval", "--model", "m", "--forget", "f.jsonl", "--retain", "r.jsonl", "--output_dir", "run"]
COMMANDS = {
    "unlearn": (UnlearnConfig, UNLEARN),
    "eval": (EvalConfig, EVAL),
    "finetune": (FinetuneConfig, FINETUNE),
    "demo": (DemoConfig, ["demo"]),
}
RESULTS = {
    "status": "feasible",
    "verdict": "Bound held: retain loss 0.01.",
    "reference_metrics": {"forget.probability": 0.999, "retain.probability": 0.99},
    "metrics": {"forget.probability": 0.0012345, "retain.probability": 0.98},
}
SUPPOSED = {
    **{key: {"use_peft": True} for key in ("lora_r", "lora_alpha", "lora_target_modules", "merge")},
    "push_to_hub": {"hub_model_id": "me/x"},
    "fsdp_offload_params": {"fsdp": True},
    "data": {"benchmark": "tofu:forget10"},
    **{key: {"keep": "0.5"} for key in ("keep_of", "bound_of")},
    "retention_layer": {"retention": "hidden"},
}
"""Option -> the options without which it is refused."""
RIVALS = dict.fromkeys(("benchmark", "data"), ("forget", "retain"))
"""Option of unlearn and eval -> those that it replaces."""
EVERY_OPTION = [
    (name, option)
    for name, (config_class, _) in COMMANDS.items()
    for option in options(config_class)
    if option.name not in ("preset", "run")  # which change others: test_presets.py, test_eval_run.py
    and (name, option.name) not in (("finetune", "benchmark"), ("finetune", "without_forget"))  # test_lessons.py
]
ESCAPE = "\x1b"


class Calls:
    """Stands in for the modules that do the work: keeps the configurations, and returns or raises what it is told."""

    def __init__(self) -> None:
        self.configs: list[Any] = []
        self.outcome: Any = RESULTS

    def run(self, config, progress):
        self.configs.append(config)
        progress.note("working")
        print("a library speaks")
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        output_dir = Path(to_mapping(config)["output_dir"])
        feasible = self.outcome["status"] != "infeasible"
        return SimpleNamespace(results=self.outcome, feasible=feasible, output_dir=output_dir)


@pytest.fixture
def calls(monkeypatch):
    calls = Calls()
    run, demo = ModuleType("amnestic.run"), ModuleType("amnestic.demo")
    vars(run).update(run_unlearn=calls.run, run_finetune=calls.run, run_eval=calls.run)
    vars(demo).update(demo=calls.run)
    monkeypatch.setitem(sys.modules, "amnestic.run", run)
    monkeypatch.setitem(sys.modules, "amnestic.demo", demo)
    logging = SimpleNamespace(disable_progress_bar=lambda: None, set_verbosity_error=lambda: None)
    monkeypatch.setitem(sys.modules, "transformers.utils.logging", logging)
    monkeypatch.setenv("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    monkeypatch.delenv("AMNESTIC_DEBUG", raising=False)
    return calls


def other_value(option) -> tuple[list[str], Any]:
    """Return flags that give `option` a value that is not its default, and that value."""
    flag, kind = f"--{option.name}", option.annotation
    if kind in (bool, bool | None):
        return [f"--no_{option.name}" if option.default else flag], not option.default
    if kind == tuple[str, ...]:
        return [flag, "first", "second,third"], ("first", "second", "third")
    if option.name in ("hub_model_id", "data"):
        return [flag, "me/x"], "me/x"
    if option.name == "benchmark":
        return [flag, "tofu:forget05"], "tofu:forget05"
    if option.name == "measure":
        return [flag, "more=m.jsonl"], {"more": "m.jsonl"}
    if option.name.endswith("_of"):
        return [f"{flag}.some_name", "0.25"], {"some_name": "0.25"}
    if option.name.endswith("_args"):
        return [f"{flag}.some_name", "x=1"], {"some_name": "x=1"}
    if "Literal" in str(kind):
        choices = [choice for part in (kind, *get_args(kind)) for choice in get_args(part) if isinstance(choice, str)]
        choice = next(choice for choice in choices if choice != option.default)
        return [flag, choice], choice
    value = 0.25 if float in (kind, *get_args(kind)) else 7 if int in (kind, *get_args(kind)) else "{question}{answer}"
    return [flag, str(value)], value


@pytest.mark.parametrize(("command", "option"), EVERY_OPTION, ids=lambda value: getattr(value, "name", value))
def test_every_flag_changes_its_option_and_no_other(calls, command, option):
    config_class, arguments = COMMANDS[command]
    replaced = RIVALS.get(option.name, ()) if command in ("unlearn", "eval") else ()
    given = dict(zip((flag.removeprefix("--") for flag in arguments[1::2]), arguments[2::2], strict=True))
    supposed = SUPPOSED.get(option.name, {}) if command != "finetune" or option.name != "data" else {}
    arguments = [command]
    for name, text in given.items():
        arguments += [] if name in (*replaced, option.name) else [f"--{name}", text]
    for name, text in supposed.items():
        arguments = [*arguments, f"--{name}", *([] if text is True else [text])]
    flags, value = other_value(option)
    for spelling in (flags, [flags[0].replace("_", "-") if "." not in flags[0] else flags[0], *flags[1:]]):
        assert main([*arguments, *spelling]) == 0
    rest = dict.fromkeys(replaced)
    numbers = {name: float(text) for name, text in supposed.items() if name == "keep"}
    expected = to_mapping(from_mapping(config_class, given)) | rest | supposed | numbers | {option.name: value}
    assert [to_mapping(config) for config in calls.configs] == [expected, expected]


def test_flags_override_the_file_and_the_file_the_defaults(calls, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("learning_rate: 1e-4\nseed: 7\nalpha: 0.5\nmethod_args: {a: 1}\n", encoding="utf-8")
    assert main([*UNLEARN, "--config", str(path), "--seed", "8", "--keep", "0.9", "--method_args.b", "2"]) == 0
    (config,) = calls.configs
    assert (config.training.learning_rate, config.training.seed) == (1e-4, 8)
    assert (config.bound.alpha, config.bound.keep) == (None, 0.9)
    assert config.method.method_args == {"a": "1", "b": "2"}


def test_a_written_configuration_repeats_the_run(calls, tmp_path):
    flags = ["--learning_rate", "1e-5", "--template_args.date_string", "10 Apr 2025", "--no_master_weights"]
    assert main([*UNLEARN, *flags]) == 0
    write_yaml(calls.configs[0], tmp_path / "config.yaml")
    assert main(["unlearn", "--config", str(tmp_path / "config.yaml")]) == 0
    assert calls.configs[1] == calls.configs[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--learning-rat", "1"], "Unknown option: --learning-rat. Did you mean --learning_rate?"),
        (["--learning", "1"], "Unknown option: --learning. Did you mean --learning_rate?"),
        (["--learning_rate", "x"], "Invalid value for --learning_rate: 'x' found, a number expected."),
        (["--keep", "abc"], "Invalid value for --keep: 'abc' found, a number or none expected."),
        (["--max_steps", "1.5"], "Invalid value for --max_steps: '1.5' found, a whole number expected."),
        (["--learning_rate", "nan"], "learning_rate is nan; expected a finite number."),
        (
            ["--dtype", "float8"],
            'Invalid value "float8" for --dtype. Choose from: "auto", "float32", "bfloat16". Did you mean "float32"?',
        ),
        (["--seed"], 'Command "unlearn" parameter --seed requires an argument.'),
        (["--seed", "1", "--seed", "2"], "Parameter --seed specified multiple times."),
        (["--overwrite", "yes"], "unexpected argument 'yes'."),
        (["--keep", "1.5"], "--keep is 1.5; expected a share between 0 and 1, such as 0.98."),
        (["--config", "absent.yaml"], "cannot read absent.yaml: No such file or directory; expected a YAML file."),
    ],
)
def test_wrong_flags_exit_2_with_one_sentence(calls, capsys, arguments, message):
    assert main([*UNLEARN, *arguments]) == 2
    assert capsys.readouterr() == ("", f"error: {message}\n")
    assert calls.configs == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat: 1\n", "unknown key 'learning_rat' in {path}; did you mean 'learning_rate'?"),
        ("seed: 1\nseed: 2\n", "{path}, line 2: 'seed' comes twice; expected YAML, one 'option: value' a line."),
        ("learning_rate: fast\n", "learning_rate in {path} is 'fast'; expected a finite number."),
        ("json: true\n", "unknown key 'json' in {path}."),
    ],
)
def test_wrong_files_exit_2_with_one_sentence(calls, capsys, tmp_path, text, message):
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    assert main([*UNLEARN, "--config", str(path)]) == 2
    assert capsys.readouterr() == ("", f"error: {message.format(path=path)}\n")
    assert calls.configs == []


def test_missing_options_and_unknown_commands_are_named(calls, capsys):
    assert main(["unlearn", "--model", "m"]) == 2
    assert "error: missing --output_dir, --forget, --retain; " in capsys.readouterr().err
    assert main(["unlern"]) == 2
    assert 'Unknown command "unlern". Did you mean "unlearn"?' in capsys.readouterr().err
    assert main(["list", "method"]) == 2
    assert capsys.readouterr().err.count('"methods", "metrics", "benchmarks"') == 1
    assert calls.configs == []


@pytest.mark.parametrize(
    ("outcome", "exit_status", "message"),
    [
        (InputError("forget.jsonl is empty; expected rows."), 2, "forget.jsonl is empty; expected rows."),
        (RunError("step 3: loss nan."), 1, "step 3: loss nan."),
        (
            ZeroDivisionError("two\nlines"),
            1,
            "ZeroDivisionError in test_cli.py, line N: two lines (run again with AMNESTIC_DEBUG=1 for the traceback)",
        ),
        (KeyboardInterrupt(), 130, "interrupted."),
    ],
)
def test_failures_have_their_exit_status_and_one_line(calls, capsys, outcome, exit_status, message):
    calls.outcome = outcome
    for arguments in (UNLEARN, FINETUNE, ["demo"]):
        assert main([*arguments, "--json", "--quiet"]) == exit_status
        out, err = capsys.readouterr()
        assert (out, re.sub(r"line \d+", "line N", err)) == ("", f"a library speaks\nerror: {message}\n")


def test_debugging_shows_the_traceback(calls, capsys, monkeypatch):
    monkeypatch.setenv("AMNESTIC_DEBUG", "1")
    calls.outcome = ZeroDivisionError("x")
    assert main(UNLEARN) == 1
    assert (
        "raise self.outcome\nZeroDivisionError: x\nerror: ZeroDivisionError in test_cli.py, line "
        in capsys.readouterr().err
    )


def test_an_infeasible_run_exits_3(calls, capsys):
    calls.outcome = RESULTS | {"status": "infeasible", "verdict": "BOUND MISSED."}
    assert main([*UNLEARN, "--quiet"]) == 3
    assert capsys.readouterr().out == "BOUND MISSED.\n"
    calls.outcome = {"status": "done", "verdict": "Trained."}
    assert main([*FINETUNE, "--quiet"]) == 0


@pytest.mark.usefixtures("calls")
def test_results_are_a_verdict_a_table_and_paths(capsys, tmp_path):
    (tmp_path / "model").mkdir()
    assert main([*UNLEARN[:-1], str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    lines = [line.rstrip() for line in out.splitlines()]
    assert lines == [
        "Bound held: retain loss 0.01.",
        "",
        "                    before     after",
        "forget.probability   0.999  0.001234",
        "retain.probability    0.99      0.98",
        "",
        f"model  {tmp_path}/model",
    ]
    assert err == "note: working\na library speaks\n"
    assert ESCAPE not in out + err


def test_json_is_the_results_and_nothing_else(calls, capsys):
    numpy = pytest.importorskip("numpy")
    calls.outcome = RESULTS | {"steps": numpy.int64(3)}
    assert main([*UNLEARN, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == RESULTS | {"steps": 3}


@pytest.mark.parametrize("command", REGISTRY.names())
def test_help_holds_every_option_with_its_default(capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "400")
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    rows = {match[1]: match[0] for match in re.finditer(r"^│ (?:[A-Z_]+ )?--(\w+).*", text, re.MULTILINE)}
    for option in options(REGISTRY.get(command).config):
        shown = str(option.default).replace("\n", "\\n")
        shown = shown.lower() if isinstance(option.default, bool) else shown
        shown = ",".join(option.default) if isinstance(option.default, tuple) else shown
        assert ("[required]" in rows[option.name]) == option.required
        if option.required:
            assert "[default: " not in rows[option.name]
        elif option.default in (None, {}, ()):
            assert "[default: " in rows[option.name]
        else:
            assert re.search(rf'\[default: "?{re.escape(shown)}"?\]', rows[option.name])
        assert option.help.splitlines()[0] in rows[option.name]
        assert text.index(f"─ {option.group} ─") < text.index(rows[option.name])
    assert "[default: None]" not in text
    assert text.count(f"\n  amnestic {command}") >= 2


def test_help_imports_nothing_heavy():
    program = (
        "import sys; from amnestic.cli import main; main(['unlearn', '--help']); main(['--help']); "
        "print({'torch', 'transformers', 'datasets', 'numpy', 'pandas', 'scipy', 'matplotlib'} & set(sys.modules))"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "set()"
    assert ESCAPE not in output


def test_the_module_is_the_command():
    command = [sys.executable, "-m", "amnestic", *UNLEARN, "--learning-rat", "1"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert process.stdout == ""
    assert process.stderr == "error: Unknown option: --learning-rat. Did you mean --learning_rate?\n"


def test_libraries_are_kept_off_stdout_and_silent(capsys, monkeypatch):
    logging = pytest.importorskip("transformers.utils.logging")
    monkeypatch.delenv("AMNESTIC_DEBUG", raising=False)
    monkeypatch.setenv("HF_DATASETS_DISABLE_PROGRESS_BARS", "0")
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with contextlib.ExitStack() as stack:
        stack.callback(logging.set_verbosity, before[0])
        stack.callback(logging.enable_progress_bar if before[1] else logging.disable_progress_bar)
        with undisturbed():
            print("progress")
            warnings.warn("noise", stacklevel=1)
            logging.get_logger("transformers.loading").warning("noise")
            assert not logging.is_progress_bar_enabled()
        assert os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] == "0"
    assert capsys.readouterr() == ("", "progress\n")


def test_environment_is_shown_without_secrets(capsys, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setenv("HF_TOKEN", "hf_do-not-tell")
    assert main(["env", "--json"]) == 0
    text = capsys.readouterr().out
    assert json.loads(text)["torch"]["version"] == torch.__version__
    assert main(["env"]) == 0
    lines = capsys.readouterr().out
    assert re.search(rf"^torch +{re.escape(torch.__version__)} \(", lines, re.MULTILINE)
    assert re.search(r"^transformers +\d+\.\d+", lines, re.MULTILINE)
    assert "hf_do-not-tell" not in text + lines


def test_registries_are_listed(capsys):
    assert main(["list", "methods", "--json"]) == 0
    methods = json.loads(capsys.readouterr().out)
    assert methods["pdu"].endswith(".")
    assert main(["list", "methods"]) == 0
    assert f"pdu {methods['pdu']}" in " ".join(capsys.readouterr().out.split())
    for kind in ("metrics", "benchmarks", "trackers"):
        assert main(["list", kind]) == 0
        assert len(capsys.readouterr().out.splitlines()) >= 1
