"""What every registered method must do, the moment it exists; and how methods are made from names and text."""

import math
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

import numpy as np
import pytest
import torch

from amnestic.constraints.multiplier import Bounded, Fixed
from amnestic.constraints.retention import NLL, Retention
from amnestic.data.batches import pad
from amnestic.data.encode import Encoded
from amnestic.errors import InputError
from amnestic.methods.base import METHODS, Method, Passes, build
from amnestic.methods.flattening import PDU
from amnestic.model.load import load
from amnestic.model.options import ModelOptions
from amnestic.model.signals import Needs, Signals, read
from amnestic.training.optimizer import Optimizer
from amnestic.training.options import TrainingOptions
from amnestic.training.problem import Problem, forget_term, retain_term
from amnestic.training.step import step

every_method = pytest.mark.parametrize("name", METHODS.names())
LENGTHS = ((9, 4), (6, 5), (12, 1))
"""Tokens of each row, and its first scored one."""


def rows(split: str, seed: int = 0) -> list[Encoded]:
    rng = np.random.default_rng(seed)
    return [
        Encoded(f"{split}:{i}", rng.integers(3, 320, length), np.arange(length) >= first, first, False, "", "")
        for i, (length, first) in enumerate(LENGTHS)
    ]


NOTHING = Passes(Signals({}, torch.zeros(0, dtype=torch.int64), 0))


@pytest.fixture
def loaded(tiny_model):
    return load(ModelOptions(model=str(tiny_model()), device="cpu"))


def problem_of(name: str, loaded, control) -> Problem:
    terms = (forget_term(build(name, {})), retain_term(Retention(NLL(), control)))
    return Problem(terms, loaded.model, loaded.vocabulary)


def descent(loaded) -> Optimizer:
    options = TrainingOptions(optim="sgd", adam_beta1=0, weight_decay=0, learning_rate=1e-2)
    return Optimizer(loaded.model.parameters(), options)


@every_method
@pytest.mark.parametrize("control", [Fixed(0.0), Fixed(1.0), Bounded(rate=2.0, initial=1.0)], ids=str)
def test_every_method_takes_a_step(loaded, name, control):
    problem = problem_of(name, loaded, control)
    batches = [pad("forget", rows("forget")), pad("retain", rows("retain", seed=1))]
    before = {key: value.detach().clone() for key, value in loaded.model.named_parameters()}
    multiplier = control.start(bound=0.5, steps_per_epoch=1)
    means, norm, _ = step(problem, batches, [multiplier], descent(loaded))
    assert torch.isfinite(means).all()
    assert 0 < norm.item() < math.inf
    assert all(not torch.equal(before[key], value) for key, value in loaded.model.named_parameters())
    rise = 2.0 * (means[1].item() - 0.5) if isinstance(control, Bounded) else 0.0
    start = control.initial if isinstance(control, Bounded) else control.weight
    assert multiplier.value.item() == pytest.approx(start + rise, rel=1e-6)


@every_method
def test_the_step_lowers_the_forget_loss(loaded, name):
    """Plain descent on the method alone, with a small step along the clipped gradient."""
    problem = problem_of(name, loaded, Fixed(0.0))
    batches = [pad("forget", rows("forget")), pad("retain", rows("retain", seed=1))]
    before, *_ = step(problem, batches, [Fixed(0.0).start(0.0, 1)], descent(loaded))
    after, *_ = step(problem, batches, [Fixed(0.0).start(0.0, 1)], descent(loaded))
    assert after[0] < before[0]


@every_method
def test_there_is_one_value_for_each_unit(loaded, name):
    method = build(name, {})
    batch = pad("forget", rows("forget"))
    values = method.objective(
        Passes(read(loaded.model, batch, {"forget": method.needs}, loaded.vocabulary)["forget"]), NOTHING
    )
    assert values.shape == ((sum(n - first for n, first in LENGTHS),) if method.unit == "token" else (len(LENGTHS),))
    assert values.dtype == torch.float32
    assert values.requires_grad


@every_method
def test_what_stands_after_the_last_scored_token_is_not_read(loaded, name):
    method = build(name, {})
    batch = pad("forget", rows("forget"))
    values = method.objective(
        Passes(read(loaded.model, batch, {"forget": method.needs}, loaded.vocabulary)["forget"]), NOTHING
    )
    after = torch.arange(batch.input_ids.shape[1]) > torch.tensor([n - 1 for n, _ in LENGTHS])[:, None]
    batch.input_ids[after] = 77
    again = method.objective(
        Passes(read(loaded.model, batch, {"forget": method.needs}, loaded.vocabulary)["forget"]), NOTHING
    )
    torch.testing.assert_close(again, values, rtol=1e-5, atol=1e-5)


@every_method
def test_frozen_parameters_stay_as_they_are(loaded, name):
    frozen = {key for key, _ in loaded.model.named_parameters() if "layers.0" in key or "embed" in key}
    for key, value in loaded.model.named_parameters():
        value.requires_grad_(key not in frozen)
    before = {key: value.detach().clone() for key, value in loaded.model.named_parameters()}
    problem = problem_of(name, loaded, Bounded())
    batches = [pad("forget", rows("forget")), pad("retain", rows("retain", seed=1))]
    step(problem, batches, [Bounded().start(0.5, 1)], descent(loaded))
    same = {key for key, value in loaded.model.named_parameters() if torch.equal(before[key], value)}
    assert same == frozen
    assert all(loaded.model.get_parameter(key).grad is None for key in frozen)


@every_method
def test_every_method_is_described_and_keeps_something(name):
    cls = METHODS.get(name)
    assert cls.name == name
    assert "arXiv:" in (cls.__doc__ or "")
    assert build(name, {}).needs


def test_a_signal_that_another_term_declared_is_no_way_around_a_declaration(loaded):
    """Both terms read the forget split; the objective sees only what it declared itself."""

    class Undeclared(Method):
        needs = Needs(head=frozenset({"margin"}))

        def objective(self, model, reference):
            return model.forget.token_logp

    terms = (forget_term(Undeclared()), retain_term(Retention(NLL(), Fixed(1.0), split="forget")))
    problem = Problem(terms, loaded.model, loaded.vocabulary)
    with pytest.raises(AttributeError, match="signal 'token_logp' was not declared; declared: margin"):
        problem.values(pad("forget", rows("forget")))


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
