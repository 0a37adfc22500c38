"""What methods are published with, what a model and a run settle of them, and what is refused."""

import json
import re
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import torch

from amnestic import cli
from amnestic.constraints.multiplier import Bounded, Fixed
from amnestic.constraints.retention import NLL, HiddenDistance, Retention
from amnestic.errors import InputError
from amnestic.methods.base import METHODS, Method, Passes, build
from amnestic.methods.explanation import explain
from amnestic.methods.steering import RMU, direction
from amnestic.model.blocks import Moves
from amnestic.model.signals import Needs, Signals

BLOCKS, SEED = 16, 42
EVERY = METHODS.names()
NOTHING = Passes(Signals({}, torch.tensor([0]), 1))


def fitted(name: str) -> Method:
    return build(name, {}).fitted(BLOCKS, SEED)


NLL_1 = (Retention(NLL(), Fixed(1.0)),)
FLATTENING = (Retention(NLL(), Bounded(rate=5.0, initial=100.0, warmup_epochs=5.0)),)
PUBLISHED = {
    "grad_ascent": ({}, (), None),
    "grad_diff": ({}, NLL_1, None),
    "npo": ({"beta": 0.1}, NLL_1, None),
    "simnpo": ({"beta": 4.5, "gamma": 0.0}, (Retention(NLL(), Fixed(1 / 0.125)),), None),
    "dpo": ({"beta": 0.1}, NLL_1, "refusal"),
    "altpo": ({"beta": 0.1}, NLL_1, "generated"),
    "wga": ({"beta": 1.0}, NLL_1, None),
    "satimp": ({"beta1": 5.0, "beta2": 1.0}, (Retention(NLL(), Fixed(1 / 0.1)),), None),
    "undial": ({"beta": 10.0}, (), None),
    "ceu": ({}, (), None),
    "rmu": (
        {"layer": 7, "steering_coefficient": 6.5, "alpha": 1200.0, "seed": SEED},
        (Retention(HiddenDistance(7), Fixed(1200.0)),),
        None,
    ),
    "pdu": ({}, FLATTENING, None),
    "pdu_unshifted": ({}, FLATTENING, None),
}
"""Hyper-parameters, retention, and second answer as published; docs/fidelity.md names the sources."""


@pytest.mark.parametrize("name", EVERY)
def test_defaults_are_the_published_ones(name: str) -> None:
    method = fitted(name)
    assert (vars(method), method.retention, method.alternate) == PUBLISHED[name]


@pytest.mark.parametrize("name", EVERY)
def test_only_what_compares_with_the_reference_reads_it(name: str) -> None:
    """What reads neither log-probabilities nor logits of the reference makes no copy of the model."""
    method = fitted(name)
    assert bool(method.reference_needs) == (name in ("npo", "dpo", "altpo"))
    assert method.needs.projects == (name == "undial")


def test_gradient_difference_differs_by_its_retention_alone() -> None:
    assert METHODS.get("grad_diff").same_when_bounded == "grad_ascent"


def test_the_older_flattening_reads_one_position_later() -> None:
    assert fitted("pdu_unshifted").needs == Needs(unshifted=frozenset({"margin"}))
    assert [name for name in EVERY if not METHODS.get(name).in_all] == ["pdu_unshifted"]


def test_ceu_alone_leaves_an_answer_s_first_token_out() -> None:
    assert [name for name in EVERY if METHODS.get(name).skips_first] == ["ceu"]


@pytest.mark.parametrize(
    ("blocks", "layer", "moved"),
    [(1, 0, {0}), (2, 1, {0, 1}), (12, 6, {4, 5, 6}), (14, 7, {5, 6, 7}), (80, 7, {5, 6, 7})],
)
def test_rmu_steers_block_7_or_the_middle_and_moves_two_more(blocks: int, layer: int, moved: set[int]) -> None:
    method = RMU().fitted(blocks, SEED)
    assert method.needs == Needs(hidden=frozenset({layer}))
    assert method.moves == Moves(frozenset(moved))
    assert method.retention[0].loss == HiddenDistance(layer)


def test_what_was_chosen_of_rmu_stays() -> None:
    chosen = RMU(layer=2, seed=5)
    assert chosen.fitted(4, SEED) == chosen
    with pytest.raises(InputError) as caught:
        chosen.fitted(2, SEED)
    assert str(caught.value) == "--method_args.layer is 2, but the model has 2 blocks; expected 0 to 1."


def test_rmu_without_a_model_says_so() -> None:
    with pytest.raises(ValueError, match="the block of rmu is open until `fitted` settles it"):
        _ = RMU().needs
    with pytest.raises(ValueError, match="the seed of rmu is open until `fitted` settles it"):
        RMU(layer=0).objective(NOTHING, NOTHING)


def test_the_direction_depends_on_seed_and_width_alone() -> None:
    """Its first numbers for seed 42 are those that Python's generator is promised to give for ever."""
    cpu = torch.device("cpu")
    u = direction(42, 3, cpu, torch.float64)
    assert u.tolist() == pytest.approx([0.5314844058487319, 0.2172790452871761, 0.8187271479673272], rel=1e-12)
    assert direction(42, 3, cpu, torch.float32).dtype == torch.float32
    assert direction(43, 3, cpu, torch.float64).tolist() != u.tolist()


def test_a_direction_made_while_measuring_serves_training_too() -> None:
    """Tensors that are made in inference mode cannot be saved for a backward pass."""
    with torch.inference_mode():
        u = direction(9, 6, torch.device("cpu"), torch.float64)
    weight = torch.ones(6, dtype=torch.float64, requires_grad=True)
    (weight * u).sum().backward()
    assert weight.grad.tolist() == u.tolist()


@pytest.mark.parametrize(
    ("name", "argument", "value", "expected"),
    [
        ("npo", "beta", "0", "0.0; expected a finite number above 0"),
        ("simnpo", "beta", "-1", "-1.0; expected a finite number above 0"),
        ("simnpo", "gamma", "-1", "-1.0; expected a finite number of at least 0"),
        ("dpo", "beta", "nan", "nan; expected a finite number above 0"),
        ("altpo", "beta", "inf", "inf; expected a finite number above 0"),
        ("wga", "beta", "-1", "-1.0; expected a finite number of at least 0"),
        ("satimp", "beta1", "-1", "-1.0; expected a finite number of at least 0"),
        ("satimp", "beta2", "nan", "nan; expected a finite number of at least 0"),
        ("undial", "beta", "inf", "inf; expected a finite number of at least 0"),
        ("rmu", "layer", "-1", "-1; expected a finite number of at least 0"),
        ("rmu", "steering_coefficient", "inf", "inf; expected a finite number of at least 0"),
        ("rmu", "alpha", "-1", "-1.0; expected a finite number of at least 0"),
        ("rmu", "seed", "-1", "-1; expected a finite number of at least 0"),
    ],
)
def test_hyper_parameters_that_no_run_could_use_are_refused(
    name: str, argument: str, value: str, expected: str
) -> None:
    with pytest.raises(InputError) as caught:
        build(name, {argument: value})
    assert str(caught.value) == f"--method_args.{argument} is {expected}."


@pytest.mark.parametrize("name", EVERY)
def test_every_method_is_explained(name: str) -> None:
    """Idea, source, what bounds it and when it fails; and each hyper-parameter."""
    known = explain(METHODS.get(name))
    assert "arXiv:" in known["definition"]
    assert re.search(
        r"At least 0|at least 0|at least the target's|bounds|Bounded below|Under a bound", known["definition"]
    )
    assert re.search(r"fails|free runs end|outgrows", known["definition"])
    assert list(known["hyper-parameters"]) == list(PUBLISHED[name][0])
    assert all(re.fullmatch(r"(?:open|[\d.]+)\. \w.{10,}\.", text) for text in known["hyper-parameters"].values())


def test_an_explanation_says_what_a_run_needs_to_know() -> None:
    rmu, undial, ceu = (explain(METHODS.get(name)) for name in ("rmu", "undial", "ceu"))
    assert rmu["moves"] == "down projections of blocks 5, 6, 7"
    assert rmu["published retention"] == ["hidden (layer 7) x 1200"]
    assert rmu["published training"] == {"learning_rate": 5e-5}
    assert undial["reads of the reference"] == ["logits"]
    assert undial["published retention"] == ["none"]
    assert ceu["one value for each"] == "token, without an answer's first"
    assert explain(METHODS.get("dpo"))["second answer"] == "refusal"
    assert explain(METHODS.get("grad_diff"))["same under a bound as"] == "grad_ascent"
    multiplier = explain(METHODS.get("pdu"))["multiplier under a bound"]
    assert multiplier.startswith("rate 5.0, initial 100.0, warmup_epochs 5.0, update step, kind ascent, normalized no")
    assert multiplier.endswith(", cap none")


@dataclass(frozen=True)
class Demanding(RMU):
    """A method of one's own that cannot be made without an argument."""

    name: ClassVar[str] = "own.Demanding"
    depth: int = field(kw_only=True)
    """How deep."""


def test_a_method_that_needs_an_argument_is_explained_as_far_as_its_class_goes() -> None:
    known = explain(Demanding)
    assert known["hyper-parameters"]["depth"] == "required. How deep."
    assert "published retention" not in known


def test_an_explanation_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "methods", "--explain", "simnpo"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "hyper-parameters: beta 4.5. Inverse temperature of the mean" in printed
    assert "published retention nll x 8" in printed
    assert cli.main(["list", "methods", "--explain", "wga", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["published training"] == {"num_train_epochs": 5.0, "weight_decay": 0.0}


def test_a_class_that_is_no_method_is_wrong_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "methods", "--explain", "fractions.Fraction"]) == 2
    assert "is Fraction; expected a subclass of amnestic.methods.base.Method" in capsys.readouterr().err
