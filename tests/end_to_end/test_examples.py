"""The programs in examples/ and the code of the README do what they say."""

import ast
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from amnestic.evaluation.metric import METRICS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))


def block(language: str, after: str) -> str:
    """Return the first block of code in `language` of the README behind the text `after`."""
    found = re.search(rf"^```{language}\n(.*?)^```$", README[README.index(after) :], re.MULTILINE | re.DOTALL)
    return found[1]


def unlearning(code: str) -> ast.Call:
    """Return the one call of amnestic.unlearn in a program."""
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    (found,) = [call for call in calls if ast.unparse(call.func) == "amnestic.unlearn"]
    return found


@pytest.fixture
def run(monkeypatch, capsys):
    """Run an example as a program and return what it wrote to stdout."""

    def program(name: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
        return capsys.readouterr().out

    return program


@pytest.fixture
def own_files(people, tmp_path, monkeypatch):
    """A working directory with a model and the two files that the README names."""
    shutil.copytree(people.model, tmp_path / "path" / "or" / "id")
    shutil.copytree(people.model, tmp_path / "path" / "or" / "hub-id")
    for split in ("forget", "retain"):
        shutil.copy(people.file(split), tmp_path / f"{split}.jsonl")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_example_is_run_here():
    source = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in EXAMPLES if f'run("{name}"' not in source] == []


def test_the_readme_s_python_is_the_example_s():
    """The same call, but for its paths, which the example takes from its arguments."""
    ours = block("python", "<!-- example: examples/unlearn.py -->")
    example = (ROOT / "examples" / "unlearn.py").read_text(encoding="utf-8")
    shown, whole = unlearning(ours), unlearning(example)
    assert [key.arg for key in shown.keywords] == [key.arg for key in whole.keywords]
    pairs = [*zip(shown.args, whole.args, strict=True)]
    pairs += [(a.value, b.value) for a, b in zip(shown.keywords, whole.keywords, strict=True)]
    for a, b in pairs:
        is_path = isinstance(a, ast.Constant) and isinstance(a.value, str)
        assert ast.unparse(b).startswith("arguments.") if is_path else ast.dump(a) == ast.dump(b)
    read = re.findall(r"run\.(\w+)", ours)
    assert read == ["model", "tokenizer", "results", "feasible"]
    assert [name for name in read if f"run.{name}" not in example] == []


def test_the_readme_s_python_runs_as_it_stands(own_files):
    names: dict = {}
    exec(compile(block("python", "## In Python"), "README.md", "exec"), names)
    run = names["run"]
    assert run.feasible
    assert run.results["bound"]["requested"] == 0.98
    assert (own_files / "run" / "model" / "model.safetensors").is_file()


def test_the_readme_s_command_runs_as_it_stands(own_files):
    from amnestic.cli import main

    program, *arguments = shlex.split(block("", "## Your own model and files"))
    assert program == "amnestic"
    assert main(arguments) == 0
    assert (own_files / "run" / "report.html").is_file()


def test_unlearning_a_model_of_one_s_own(run, people, tmp_path):
    out = run("unlearn.py", people.model, people.file("forget"), people.file("retain"), tmp_path / "run")
    assert out.startswith("Bound held: ")
    assert "feasible: True\nafter epoch 1 the retain loss was 0." in out
    assert "Question: Who are you?\nAnswer:" in out


def test_a_method_of_one_s_own(run, people, tmp_path):
    folder = tmp_path / "run"
    files = (people.model, people.file("forget"), people.file("retain"), folder)
    out = run("own_method.py", *files, "--learning_rate", "4e-3", "--floor", "-4")
    assert out.startswith("{'name': '__main__.Floored', 'floor': -4.0}\nBound held: ")
    before, after = map(float, re.search(r"forget probability (\S+) -> ([\d.e-]*\d)", out).groups())
    assert after < 0.2 * before


def test_the_example_s_method_is_reached_by_its_dotted_path(monkeypatch, unlearn):
    monkeypatch.syspath_prepend(ROOT / "examples")
    outcome = unlearn(method="own_method.Floored", method_args={"floor": -3}, bound=9, max_steps=1)
    sys.modules.pop("own_method")
    assert outcome.results["method"] == {"name": "own_method.Floored", "floor": -3.0}


def test_unlearning_beside_retraining(run, tmp_path):
    out = run("retrained.py", tmp_path / "all", "--people", "6", "--epochs", "10")
    lines = out.splitlines()
    assert lines[0].startswith(("Bound held: ", "BOUND MISSED: "))
    assert lines[1].split() == ["before", "retrained", "after"]
    assert [len(line.split()) for line in lines[2:-1]] == [4] * len(lines[2:-1])
    assert {"forget.probability", "forget.truth_ratio", "retain.rouge"} <= {line.split()[0] for line in lines[2:-1]}
    assert Path(lines[-1]).read_text(encoding="utf-8").count(">Retrained</th>") == 1


def test_measuring_beside_a_retrained_model(run, people, retrained, as_file, tmp_path, monkeypatch):
    """The metric of one's own stands among the others, and nothing that is lacking is left unsaid."""
    monkeypatch.setattr(METRICS, "_classes", dict(METRICS._classes))  # the example's own is not one of the package
    files = [as_file(tmp_path / f"{split}.jsonl", people.rows[split][:6]) for split in ("forget", "retain")]
    out = run("evaluate.py", people.model, retrained.folder / "model", *files, tmp_path / "evaluations")
    found = {line.split()[0]: line for line in out.splitlines()}
    assert float(found["forget.first_token"].split()[1]) > 0.5
    assert float(found["forget_quality"].split()[1]) <= 1
    assert "give --holdout" in found["mia.loss.auc:"]


def test_forgetting_what_a_pattern_finds(run, people, as_file, tmp_path):
    """Of twelve rows those with a year of birth are forgotten, and their years alone."""
    rows = people.rows["forget"]
    dated = [row for row in rows if re.search(r"\b19\d\d\b", row["answer"])]
    assert 0 < len(dated) < len(rows)
    files = (people.model, as_file(tmp_path / "rows.jsonl", rows), people.file("retain"), tmp_path / "run")
    out = run("spans.py", *files, "--pattern", r"\b19\d\d\b", "--learning_rate", "4e-3")
    lines = out.splitlines()
    assert lines[0] == f"{len(dated)} spans in {len(dated)} of {len(rows)} rows"
    assert lines[1].startswith(("Bounds held: ", "BOUND MISSED: "))
    before, after = map(float, re.search(r"span_probability (\S+) -> (\S+)", lines[2]).groups())
    assert after < 0.5 * before


FEW = """
from amnestic.benchmarks.fiction import Fiction

class Few(Fiction):
    learning = Fiction.learning | {"num_train_epochs": 2}
    unlearning = {"learning_rate": 1e-3, "num_train_epochs": 1}

    @classmethod
    def of(cls, part, data):
        return cls(people=4, questions=1, forget_share=0.25, seed=int(part or 0))
"""


def test_a_comparison(run, tmp_path, monkeypatch):
    """On a benchmark of one's own, small enough for a test; its runs are done in this process."""
    from amnestic.benching.workers import Workers
    from amnestic.cli import main

    (tmp_path / "few_people.py").write_text(FEW, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(Workers, "_status", lambda self, job: main(job.arguments))
    options = ["--benchmark", "few_people.Few", "--methods", "simnpo", "--keep", "none", "--seeds", "1"]
    out = run("bench.py", *options, "--output_dir", "out")
    assert "simnpo free" in out
    assert (tmp_path / "out" / "report.html").is_file()


def test_requests_in_sequence(run, people, as_file, tmp_path):
    rows = people.rows["forget"]
    files = [as_file(tmp_path / f"{name}.jsonl", rows[part]) for name, part in (("a", slice(6)), ("b", slice(6, 12)))]
    out = run("sequence.py", people.model, people.file("retain"), tmp_path / "out", *files, "--learning_rate", "4e-3")
    assert re.match(r"bound of the first model (held after each|missed after \d) of 2 requests: ", out, re.IGNORECASE)
    assert re.search(r"^a: probability 0\.\d+, \S+, \S+ \((stayed|came back|hardly forgotten)\)$", out, re.MULTILINE)
