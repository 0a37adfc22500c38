"""The project's own files agree with each other and with what is installed."""

import ast
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
RUNTIME = [Requirement(text) for text in PROJECT["dependencies"]]
EXTRAS = [Requirement(text) for texts in PROJECT["optional-dependencies"].values() for text in texts]
MACHINE_PATH = re.compile(r"(?<![\w.:/~-])/(?:root|home|Users|work|mnt|opt|srv)/\w")


def files() -> list[Path]:
    """What git tracks or would add; everything under the root where there is no git."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is no git checkout")
    return [ROOT / name for name in listed if name and (ROOT / name).is_file()]


def pins() -> dict[str, str]:
    """The version of each package in constraints.txt, where every line pins one exactly."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = [re.fullmatch(r"([\w.-]+)==([\w.]+)", line) for line in lines if not line.startswith("#")]
    assert None not in found
    return {canonicalize_name(match[1]): match[2] for match in found}


def imported(path: Path) -> set[str]:
    """The packages that a module names in its absolute imports, wherever they stand."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    whole = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    parts = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    return {name.partition(".")[0] for name in whole | parts}


def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "tools" / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_one_version_stands_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert importlib.metadata.version("amnestic") == PROJECT["version"] == citation["version"]


def test_one_licence_stands_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert PROJECT["license"] == citation["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_the_changelog_tells_of_this_version():
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert {"Unreleased", PROJECT["version"]} & set(headings)


@pytest.mark.parametrize("requirement", RUNTIME + EXTRAS, ids=lambda requirement: requirement.name)
def test_each_dependency_is_pinned_within_its_bounds(requirement):
    assert requirement.specifier, "a bound is missing"
    assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)])


def test_dependencies_are_what_the_package_imports():
    distributions = importlib.metadata.packages_distributions()
    optional = {"bitsandbytes", "optuna", "peft", "trackio", "triton", "wandb"}  # triton comes with torch where it runs
    names = set().union(*map(imported, SOURCES)) - set(sys.stdlib_module_names) - {"amnestic"} - optional
    needed = {canonicalize_name(distributions[name][0]) for name in names}
    assert needed == {canonicalize_name(requirement.name) for requirement in RUNTIME}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_module_starts_with_one_sentence(path):
    text = path.read_text(encoding="utf-8")
    if path.name == "__init__.py" and not text:
        return
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring, "no docstring"
    first = docstring.partition("\n\n")[0]
    assert first.endswith((".", ":"))


def test_no_file_names_a_path_of_some_machine():
    found = []
    for path in files():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        found += [
            f"{path.relative_to(ROOT)}:{n}: {line}" for n, line in enumerate(lines, 1) if MACHINE_PATH.search(line)
        ]
    assert found == []


@pytest.mark.parametrize(
    ("text", "is_path"),
    [
        ("see @root@x", True),
        ('"@home@me"', True),
        ("=@opt@wheels", True),
        ("https:@@x.org@home@me", False),
        ("src@work@a", False),
        ("~@work@a", False),
        ("@work", False),
    ],
)
def test_paths_of_machines_are_known(text, is_path):
    assert bool(MACHINE_PATH.search(text.replace("@", "/"))) == is_path


def test_tables_are_made_between_their_markers_alone():
    module = tables()
    module.TABLES["fruit"] = lambda: module.table(("name", "taste"), [("`fig`", "sweet|ripe")])
    text = "before\n<!-- table:fruit -->\nstale\n<!-- /table -->\nafter <!-- /table -->\n"
    made = "| name | taste |\n| --- | --- |\n| `fig` | sweet\\|ripe |\n"
    expected = f"before\n<!-- table:fruit -->\n{made}<!-- /table -->\nafter <!-- /table -->\n"
    assert module.filled(text) == module.filled(expected) == expected


def test_stale_tables_are_named_and_then_written(tmp_path, capsys):
    module = tables()
    page = tmp_path / "methods.md"
    page.write_text("<!-- table:methods -->\n| old |\n<!-- /table -->\n", encoding="utf-8")
    check = ["--check", "--docs", str(tmp_path)]
    assert module.main(check) == 1
    assert (
        capsys.readouterr().err == f"error: the tables in {page} differ from the code; write them with: make format.\n"
    )
    assert module.main(["--docs", str(tmp_path)]) == 0
    assert module.main(check) == 0
    text = page.read_text(encoding="utf-8")
    assert "| `pdu` | Flatten the logits where the answer is predicted" in text
    assert "[arXiv:2506.05314](https://arxiv.org/abs/2506.05314)" in text


@pytest.mark.parametrize(("page", "header"), [("reliability.md", "| fault"), ("fidelity.md", "| name")])
def test_each_test_that_a_page_names_exists(page, header):
    """A name without a file stands for one in the file named last."""
    lines = (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("| ") and not line.startswith((header, "| ---"))]
    assert len(rows) > 10
    file = ""
    for row in rows:
        named = re.findall(r"`((?:[\w/]+\.py)?)(?:::(\w+))?`", row.rpartition(" | ")[2])
        assert named, row
        for path, test in named:
            file = path or file
            text = (ROOT / "tests" / file).read_text(encoding="utf-8")
            assert re.search(rf"^ *(def|class) {test}\b", text, re.MULTILINE), (file, test)


def test_each_other_convention_is_on_the_page_on_fidelity():
    """A metric is on request for its cost, or because it is another convention, which the page must tell of."""
    text = (ROOT / "docs" / "fidelity.md").read_text(encoding="utf-8")
    metrics = tables().METRICS
    assert [name for name in metrics.names() if metrics.get(name).on_request and f"`{name}`" not in text] == []
