"""How methods are made from names and text."""

import re
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

import pytest

from amnestic.errors import InputError
from amnestic.methods.base import Method, build
from amnestic.methods.flattening import PDU


@dataclass(frozen=True)
class Tempered(PDU):
    """A method of one's own, with hyper-parameters of every kind."""

    beta: float = 1
    power: int = 2
    flat: bool = False
    floor: float | None = None
    form: Literal["square", "root"] = "square"


@dataclass(frozen=True)
class Demanding(PDU):
    """A method whose hyper-parameter has no default."""

    beta: float


class Unfinished(Method):
    """A method without an objective."""


class NoMethod:
    """Something else."""


@pytest.fixture(autouse=True)
def own_package(monkeypatch):
    package = ModuleType("own_methods")
    package.__dict__.update({cls.__name__: cls for cls in (Tempered, Demanding, Unfinished, NoMethod)})
    monkeypatch.setitem(sys.modules, "own_methods", package)


def test_methods_are_made_by_name_or_path():
    assert build("pdu", {}) == PDU()
    assert build("own_methods.Tempered", {}) == Tempered()
    assert type(build("own_methods.Tempered", {})) is Tempered


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"beta": "0.5"}, Tempered(beta=0.5)),
        ({"beta": 0.25, "power": "3"}, Tempered(beta=0.25, power=3)),
        ({"flat": "true"}, Tempered(flat=True)),
        ({"flat": "No"}, Tempered(flat=False)),
        ({"flat": True}, Tempered(flat=True)),
        ({"floor": "1e-3"}, Tempered(floor=0.001)),
        ({"form": "root"}, Tempered(form="root")),
    ],
)
def test_text_becomes_the_hyper_parameters_type(arguments, expected):
    assert build("own_methods.Tempered", arguments) == expected


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("pdu", {"beta": "1"}, "method 'pdu' has no hyper-parameter 'beta'. It has: none."),
        (
            "own_methods.Tempered",
            {"betta": "1"},
            (
                "method 'own_methods.Tempered' has no hyper-parameter 'betta'; did you mean 'beta'? "
                "It has: beta, power, flat, floor, form."
            ),
        ),
        ("own_methods.Tempered", {"beta": "half"}, "--method_args.beta is 'half'; expected float."),
        ("own_methods.Tempered", {"power": "2.5"}, "--method_args.power is '2.5'; expected int."),
        ("own_methods.Tempered", {"flat": "maybe"}, "--method_args.flat is 'maybe'; expected bool."),
        ("own_methods.Tempered", {"floor": "low"}, "--method_args.floor is 'low'; expected float."),
        (
            "own_methods.NoMethod",
            {},
            "method 'own_methods.NoMethod' is NoMethod; expected a subclass of amnestic.methods.base.Method.",
        ),
    ],
)
def test_wrong_arguments_are_refused(name, arguments, sentence):
    with pytest.raises(InputError) as caught:
        build(name, arguments)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("name", ["own_methods.Demanding", "own_methods.Unfinished"])
def test_a_class_that_cannot_be_made_is_refused(name):
    with pytest.raises(InputError, match=rf"^method '{name}' cannot be made with no arguments: .*\.$"):
        build(name, {})


@pytest.mark.parametrize("name", ["pdx", "own_methods.Missing", "no_such_package.Method"])
def test_unknown_methods_are_refused(name):
    with pytest.raises(InputError, match=f"'{name}'"):
        build(name, {})


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import nothing_of_the_kind", "No module named 'nothing_of_the_kind'."),
        ("class Mine(:", "invalid syntax (failing_methods.py, line 1)."),
        ("raise RuntimeError('no licence.')", "RuntimeError: no licence."),
    ],
)
def test_a_module_that_fails_when_imported_is_wrong_input(text, found, tmp_path, monkeypatch):
    (tmp_path / "failing_methods.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    sentence = f"cannot import method 'failing_methods.Mine': {found}"
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
        build("failing_methods.Mine", {})
