"""Two processes take the step that one takes: gradients, losses, multipliers, whatever the cut.

The reference is one process that sees the whole step; it is held to plain autograd by tests/properties/test_cuts.py.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from amnestic import processes
from amnestic.constraints.multiplier import Bounded
from amnestic.constraints.retention import NLL, Retention
from amnestic.data.batches import micro_batches, nothing, pad
from amnestic.data.cuts import Budget
from amnestic.data.encode import Encoded
from amnestic.methods.flattening import PDU
from amnestic.model.load import checkpointed, load, spread
from amnestic.model.options import ModelOptions, ShardingOptions
from amnestic.model.sharding import shard
from amnestic.training.optimizer import Optimizer
from amnestic.training.options import TrainingOptions
from amnestic.training.problem import Problem, forget_term, retain_term
from amnestic.training.step import step

FORGET, RETAIN = (9, 14, 5, 20, 11), (7, 16, 12)
CUTS = {
    "one batch each": ([("forget", (0, 1, 2, 3, 4))], [("retain", (0, 1, 2))]),
    "accumulated": (
        [("forget", (0, 1)), ("retain", (2,)), ("forget", (4,))],
        [("retain", (0, 1)), ("forget", (2, 3)), None],
    ),
    "one process without rows": ([("forget", (0, 1, 2, 3, 4)), ("retain", (0, 1, 2))], [None, None]),
}
TOLERANCE = {"float64": 1e-9, "float32": 1e-5, "bfloat16": 2e-2}


@dataclass(frozen=True)
class Case:
    """A model, and how its weights are held."""

    model: str
    dtype: str
    sharding: dict[str, Any] | None = None
    frozen: bool = False
    is_checkpointed: bool = False


def rows(split: str) -> list[Encoded]:
    """Rows of a split, of different lengths, with one or more scored tokens each."""
    lengths = {"forget": FORGET, "retain": RETAIN}[split]
    generator = np.random.default_rng(len(split))
    return [
        Encoded(f"{split}:{i}", generator.integers(5, 300, size=n), np.arange(n) >= n - 1 - i, 1, False, "", "")
        for i, n in enumerate(lengths)
    ]


def batches(cut: Any) -> list[Any]:
    """The batches of one process; a budget is cut as the loop does, for the process that asks."""
    found = {split: rows(split) for split in ("forget", "retain")}
    if isinstance(cut, Budget):
        numbers = {split: np.arange(len(examples)) for split, examples in found.items()}
        return micro_batches(found, numbers, cut, (processes.rank(), processes.count()))
    return [nothing(found) if one is None else pad(one[0], [found[one[0]][i] for i in one[1]]) for one in cut]


def taken(case: Case, cuts: list[Any] | Budget, steps: int = 2) -> dict[str, Any]:
    """Take some steps with the batches of `cuts`, and return what they left, whole."""
    dtype = {"float64": "float32"}.get(case.dtype, case.dtype)
    loaded = load(ModelOptions(model=case.model, dtype=dtype), on_host=True)
    if case.dtype == "float64":
        loaded.model.double()
    if case.frozen:
        for name, parameter in loaded.model.named_parameters():
            parameter.requires_grad_("layers.1" in name)
    if case.sharding is not None:
        spread(loaded, ShardingOptions(**case.sharding), torch.device("cpu"))
    problem = Problem(
        (forget_term(PDU()), retain_term(Retention(NLL(), Bounded()))), loaded.model, loaded.vocabulary, loaded.form
    )
    options = TrainingOptions(optim="sgd", adam_beta1=0.0, learning_rate=1e-3, weight_decay=0.0, max_grad_norm=0.5)
    optimizer = Optimizer(loaded.model.parameters(), options)
    multiplier = Bounded(rate=2.0, initial=3.0).start(0.1, 1)
    found = []
    gradients: dict[str, torch.Tensor] = {}
    inner = optimizer.inner.step

    def looking(*arguments: Any) -> Any:
        names = [name for name, parameter in loaded.model.named_parameters() if parameter.requires_grad]
        for name, master in zip(names, optimizer.masters, strict=True):
            if master.grad is not None:
                gradients[name] = whole(master.grad).clone()
        return inner(*arguments)

    optimizer.inner.step = looking
    loaded.form = replace(loaded.form, packs=isinstance(cuts, Budget))
    with checkpointed(loaded, case.is_checkpointed):
        for _ in range(steps):
            result = step(problem, batches(cuts), [multiplier], optimizer)
            found.append([result.losses.double(), result.norm.double(), result.units, multiplier.value.double()])
    weights = {name: whole(parameter.detach()).double() for name, parameter in loaded.model.named_parameters()}
    return {"steps": found, "gradients": gradients, "weights": weights}


def whole(tensor: Any) -> torch.Tensor:
    """A tensor, put together again where it is spread."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def own(case: Case, cut: str) -> dict[str, Any]:
    """What this one of two processes is left with."""
    return taken(case, CUTS[cut][processes.rank()])


def compare(found: Any, expected: Any, tolerance: float) -> None:
    """Hold one process's result against that of a single process."""
    close = partial(torch.testing.assert_close, rtol=tolerance, atol=tolerance)
    for one, other in zip(found["steps"], expected["steps"], strict=True):
        for value, wanted in zip(one, other, strict=True):
            close(value, wanted)
    for kind in ("gradients", "weights"):
        assert found[kind].keys() == expected[kind].keys()
        for name, value in found[kind].items():
            close(value, expected[kind][name], msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_take_the_step_of_one(pool, tiny_model, kind, dtype, tied, cut):
    case = Case(str(tiny_model(tied=tied)), dtype)
    expected = taken(case, [batch for share in CUTS[cut] for batch in share if batch is not None])
    sharded = Case(case.model, dtype, {"fsdp": True} if kind == "fsdp" else None)
    for found in pool.run(own, sharded, cut):
        compare(found, expected, TOLERANCE[dtype])


FORMS = {
    "ddp, some weights frozen": {"frozen": True},
    "ddp, checkpointed": {"is_checkpointed": True},
    "ddp, bfloat16": {"dtype": "bfloat16"},
    "fsdp, some weights frozen": {"frozen": True, "sharding": {"fsdp": True}},
    "fsdp, checkpointed": {"is_checkpointed": True, "sharding": {"fsdp": True}},
    "fsdp, bfloat16": {"dtype": "bfloat16", "sharding": {"fsdp": True}},
    "fsdp, gathered once": {"sharding": {"fsdp": True, "fsdp_reshard_after_forward": False}},
    "fsdp, offloaded": {"sharding": {"fsdp": True, "fsdp_offload_params": True}},
}


@pytest.mark.parametrize("form", FORMS)
def test_in_every_form(pool, tiny_model, form):
    """Float32 masters of bfloat16 weights lose nothing but what each micro-batch's gradient is rounded to."""
    case = Case(str(tiny_model(tied=True)), **{"dtype": "float32"} | FORMS[form])
    alone = Case(case.model, case.dtype, None, case.frozen)
    expected = taken(alone, [batch for share in CUTS["accumulated"] for batch in share if batch is not None])
    for found in pool.run(own, case, "accumulated"):
        compare(found, expected, TOLERANCE[case.dtype])


def cut_by(case: Case, budget: Budget) -> dict[str, Any]:
    """What this one of two processes is left with after its share of the packs."""
    return taken(case, budget)


@pytest.mark.parametrize("tokens", [1000, 40])
@pytest.mark.parametrize("kind", ["ddp", "fsdp", "fsdp, checkpointed"])
def test_two_processes_share_packs(pool, tiny_model, kind, tokens):
    """94 tokens: one pack for each process, or four packs; the reference pads them split by split."""
    case = Case(str(tiny_model(tied=False)), "float64")
    expected = taken(case, [batch for share in CUTS["one batch each"] for batch in share])
    sharding = {"fsdp": True} if kind.startswith("fsdp") else None
    sharded = Case(case.model, "float64", sharding, is_checkpointed="checkpointed" in kind)
    for found in pool.run(cut_by, sharded, Budget(tokens, packs=True)):
        compare(found, expected, TOLERANCE["float64"])


class Routed(torch.nn.Module):
    """A block of two experts, of which each process reads its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.experts = torch.nn.ModuleList(torch.nn.Linear(4, 4, bias=False) for _ in range(2))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.experts[processes.rank()](hidden)


class RoutedModel(torch.nn.Module):
    """A model of one such block."""

    dtype, _no_split_modules = torch.float32, ("Routed",)

    def __init__(self) -> None:
        super().__init__()
        self.block = Routed()

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.block(hidden)


def routed_gradients() -> list[torch.Tensor]:
    """The gradients of both experts, where the process of rank r reads the vector r + 1."""
    model = RoutedModel()
    shard(model, ShardingOptions(fsdp=True), torch.device("cpu"))
    model(torch.full((1, 4), 1.0 + processes.rank())).sum().backward()
    zero = torch.zeros(4, 4)
    return [zero if p.grad is None else whole(p.grad) for p in model.parameters()]


def test_an_expert_that_a_process_passes_by_gets_the_gradient_of_the_others(pool):
    """The gradient of sum(W x) is x in each row: 1 for the first expert, 2 for the second."""
    for found in pool.run(routed_gradients):
        for expert, gradient in enumerate(found):
            torch.testing.assert_close(gradient, torch.full((4, 4), 1.0 + expert))
