"""Two processes take the step that one takes, of every method, with weights of each or spread over both."""

from pathlib import Path
from typing import Any

import pytest
import torch
from problems import Case, packed

from amnestic import processes
from amnestic.constraints.multiplier import Bounded
from amnestic.data.batches import Joint
from amnestic.data.cuts import Budget
from amnestic.methods.base import METHODS
from amnestic.model.load import load, spread
from amnestic.model.options import ModelOptions, ShardingOptions
from amnestic.model.signals import Form

TOLERANCE = 1e-5


def case_of(model: str, name: str, is_spread: bool) -> Case:
    """The case of a method under a bound, on a model that packs."""
    loaded = load(ModelOptions(model=model), on_host=is_spread)
    loaded.form = Form(fuses=True)
    case = Case.of(loaded, name, Bounded(rate=2.0, initial=3.0))
    if is_spread:
        spread(loaded, ShardingOptions(fsdp=True), torch.device("cpu"))
    return case


def taken(model: str, name: str, folder: str, is_spread: bool, packs: bool = True) -> dict[str, Any]:
    """What this process is left with after its share of a step."""
    case = case_of(model, name, is_spread)
    problem = case.problem(Path(folder))
    problem.measure("retain", case.rows["retain"], 2)  # gathers weights before it is known which of them move
    share = (processes.rank(), processes.count())
    batches = case.batches(Budget(40, packs=packs), problem.joint, share)
    found, multipliers = case.taken(problem, batches, rate=1e-2)
    weights = {key: whole(value.detach()) for key, value in case.loaded.model.named_parameters()}
    kept = {} if problem.reference is None else problem.reference.state
    return {"losses": found.losses, "units": found.units, "multipliers": multipliers, "weights": weights, "kept": kept}


def whole(tensor: Any) -> torch.Tensor:
    """A tensor, put together again where it is spread."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor.clone()


@pytest.mark.parametrize("name", METHODS.names())
@pytest.mark.parametrize("is_spread", [False, True], ids=["ddp", "fsdp"])
def test_two_processes_take_the_step_of_one(pool, tiny_model, tmp_path, name, is_spread):
    model = str(tiny_model(tied=False))
    expected = taken(model, name, str(tmp_path), is_spread=False, packs=False)
    for found in pool.run(taken, model, name, str(tmp_path), is_spread):
        for key in ("losses", "units"):
            torch.testing.assert_close(found[key], expected[key], rtol=TOLERANCE, atol=TOLERANCE)
        assert found["multipliers"] == pytest.approx(expected["multipliers"], rel=TOLERANCE)
        for kind in ("weights", "kept"):
            assert found[kind].keys() == expected[kind].keys()
            for key, value in found[kind].items():
                torch.testing.assert_close(value, expected[kind][key], rtol=TOLERANCE, atol=TOLERANCE)


def test_both_processes_run_equally_many_passes_of_equally_many_blocks(tiny_model):
    """Splits that end at different blocks are dealt apart: no process waits for a block that the other leaves out."""
    case = packed(load(ModelOptions(model=str(tiny_model()))), packs=True)
    joint = Joint(None, [frozenset({"forget"}), frozenset({"retain"})])
    found = [Case.of(case, "rmu").batches(Budget(12, packs=True), joint, (rank, 2)) for rank in range(2)]
    assert [list(batch.shares) for batch in found[0]] == [list(batch.shares) for batch in found[1]]
