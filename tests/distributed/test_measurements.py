"""Several processes share what is measured, and each has the whole: the same numbers as one process."""

from typing import Any

import numpy as np
import pytest
import torch

from amnestic.constraints.multiplier import Bounded
from amnestic.constraints.retention import NLL, Retention
from amnestic.data.encode import Encoded
from amnestic.evaluation.needs import Generation, Likelihood
from amnestic.evaluation.options import EvaluationOptions
from amnestic.evaluation.plan import planned
from amnestic.evaluation.subject import Subject
from amnestic.evaluation.sweeps import sweep
from amnestic.inputs import examine
from amnestic.methods.flattening import PDU
from amnestic.model.load import load, spread
from amnestic.model.options import ModelOptions, ShardingOptions
from amnestic.training.problem import Problem, forget_term, retain_term


def rows(count: int) -> list[Encoded]:
    """Rows of several lengths, of which one is scored from its third token on."""
    generator = np.random.default_rng(3)
    lengths = generator.integers(4, 30, size=count)
    return [
        Encoded(f"r:{i}", generator.integers(5, 300, size=n), np.arange(n) >= 2, 2, False, "", "")
        for i, n in enumerate(lengths)
    ]


def measured(model: str, count: int, batch_size: int, is_sharded: bool) -> dict[str, Any]:
    """Everything that is measured of a model on `count` rows."""
    loaded = load(ModelOptions(model=model, dtype="float32"), on_host=True)
    if is_sharded:
        spread(loaded, ShardingOptions(fsdp=True), torch.device("cpu"))
    examples, seen = rows(count), []
    examine(loaded, examples[0])
    terms = (forget_term(PDU()), retain_term(Retention(NLL(), Bounded())))
    problem = Problem(terms, loaded.model, loaded.vocabulary, loaded.form)
    options = EvaluationOptions(per_device_eval_batch_size=batch_size, max_new_tokens=5)
    subject = Subject(loaded, {"s": examples}, options, advance=seen.append)
    needs = [Likelihood("s"), Generation("s")]
    units = planned(subject, needs).units
    tables = sweep(subject, needs, {})
    scored = tables[Likelihood("s")]
    sums = problem.measure("retain", examples, batch_size)[1]
    return {
        "notes": loaded.notes,
        "left": units - sum(seen),
        "texts": tables[Generation("s")].generated,
        "values": {name: getattr(scored, name) for name in ("logp", "is_argmax", "margin", "moments")},
        "sums": sums.sums,
        "counts": sums.counts,
    }


@pytest.mark.parametrize("count", [1, 7, 12])
@pytest.mark.parametrize("is_sharded", [False, True])
def test_two_processes_measure_what_one_does(pool, tiny_model, is_sharded, count):
    """One row leaves a process without any; seven rows in batches of two make four batches, the last a short one."""
    model = str(tiny_model())
    expected = measured(model, count, 2, False)
    for found in pool.run(measured, model, count, 2, is_sharded):
        assert (found["notes"], found["texts"]) == ([], expected["texts"])
        assert found["left"] == 0
        np.testing.assert_array_equal(found["counts"], expected["counts"])
        np.testing.assert_allclose(found["sums"], expected["sums"], rtol=1e-5)
        for name, value in found["values"].items():
            np.testing.assert_allclose(value, expected["values"][name], rtol=1e-4, atol=1e-5, err_msg=name)


def remeasured(model: str, options: dict[str, Any] | None) -> list[float]:
    """The loss of a model, and that of half its weights, measured again at once."""
    loaded = load(ModelOptions(model=model, dtype="float32"), on_host=True)
    if options is not None:
        spread(loaded, ShardingOptions(**options), torch.device("cpu"))
    problem = Problem((retain_term(Retention(NLL(), Bounded())),), loaded.model, loaded.vocabulary, loaded.form)
    parameters = [*loaded.model.parameters()]  # as an optimiser holds them
    found = [problem.measure("retain", rows(4), 2)[0].mean]
    with torch.no_grad():
        for parameter in parameters:
            parameter.mul_(0.5)
    return [*found, problem.measure("retain", rows(4), 2)[0].mean]


@pytest.mark.parametrize("reshards", [True, False])
def test_no_weights_from_before_a_change_are_measured(pool, tiny_model, reshards):
    """A sharded model frees all that it gathered, also where a block's weights stay until the backward pass."""
    model = str(tiny_model())
    expected = remeasured(model, None)
    assert abs(expected[0] - expected[1]) > 0.01
    for found in pool.run(remeasured, model, {"fsdp": True, "fsdp_reshard_after_forward": reshards}):
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def agreeing(number: int) -> str:
    """Fail on process `number` alone, and return what both raise."""
    from amnestic import processes
    from amnestic.errors import AmnesticError, InputError

    try:
        with processes.agreed():
            if processes.rank() == number:
                raise InputError("the file is not there.")
    except AmnesticError as error:
        return f"{type(error).__name__} {error.is_shared} {error}"
    return "nothing"


@pytest.mark.parametrize(("number", "text"), [(0, "the file"), (1, "process 1: the file")])
def test_an_error_of_one_process_is_raised_by_all(pool, number, text):
    assert pool.run(agreeing, number) == [f"InputError True {text} is not there."] * 2


def test_no_error_is_none(pool):
    assert pool.run(agreeing, 2) == ["nothing"] * 2


def disagreeing() -> list[Any]:
    """What the processes tell each other."""
    from amnestic import processes

    total = processes.summed(torch.tensor([1.0, processes.rank()]))
    return [total.tolist(), processes.gathered(processes.rank() * 10), processes.from_first(processes.rank())]


def test_what_processes_tell_each_other(pool):
    assert pool.run(disagreeing) == [[[2.0, 1.0], [0, 10], 0]] * 2


def placed(name: str) -> str:
    """What is said of a device that is named by its number."""
    from amnestic.errors import InputError
    from amnestic.model.load import device_named

    try:
        return str(device_named(name))
    except InputError as error:
        return str(error)


def test_a_device_is_named_by_its_kind_alone(pool):
    assert pool.run(placed, "cpu") == ["cpu"] * 2
    for text in pool.run(placed, "cpu:0"):
        assert text.startswith(
            "--device is 'cpu:0', and 2 processes run together, each on one of its own; give --device cpu."
        )


def joined_already() -> str:
    """What is said of processes that a caller has joined: nothing where they can talk."""
    from unittest.mock import patch

    from torch import distributed as dist

    from amnestic import processes
    from amnestic.errors import InputError

    processes.join(1.0)
    with patch.object(dist, "get_backend_config", lambda: "cuda:nccl"):
        try:
            processes.join(1.0)
        except InputError as error:
            return str(error)
    return "nothing"


def test_processes_that_a_caller_joined_must_be_able_to_talk(pool):
    for text in pool.run(joined_already):
        assert text.startswith("the processes were joined by cuda:nccl, which carries nothing from one host's memory")
