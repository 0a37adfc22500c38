"""A step never reads a value back to the host: on an accelerator every such reading waits for all that was queued.

Seen on a processor, by the operations that would wait: reading a number, and shapes that depend on values.
"""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from amnestic.constraints.multiplier import Bounded
from amnestic.constraints.retention import NLL, Retention
from amnestic.data.batches import pack, pad
from amnestic.data.encode import Encoded
from amnestic.methods.flattening import PDU
from amnestic.model.form import examine
from amnestic.model.load import load
from amnestic.model.options import ModelOptions
from amnestic.model.segments import segmented
from amnestic.training.optimizer import Optimizer
from amnestic.training.options import TrainingOptions
from amnestic.training.problem import Problem, forget_term, retain_term
from amnestic.training.step import step

WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique2", "equal", "is_nonzero", "item")


class Watch(TorchDispatchMode):
    """Notes the operations that make the host wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        name = function.overloadpacket.__name__
        indices = arguments[1] if name in ("index", "index_put", "index_put_") else []
        if name in WAITING or any(index is not None and index.dtype == torch.bool for index in indices):
            self.found.append(name)
        return function(*arguments, **(named or {}))


def rows(split: str) -> list[Encoded]:
    """Three rows, of which the second marks a span."""
    found = []
    for i, length in enumerate((6, 9, 5)):
        tokens, is_scored = np.random.default_rng(i).integers(5, 300, size=length), np.arange(length) > 1
        is_span = (np.arange(length) == 3) if split == "forget" and i == 1 else None
        found.append(Encoded(f"{split}:{i}", tokens, is_scored, 1, False, "", "", is_span=is_span))
    return found


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("optim", ["sgd", "adamw_torch"])
def test_a_step_reads_nothing_back(tiny_model, optim, is_packed):
    loaded = load(ModelOptions(model=str(tiny_model()), dtype="float32"))
    examine(loaded, rows("forget")[0])
    assert loaded.form.fuses
    terms = (forget_term(PDU()), retain_term(Retention(NLL(), Bounded())))
    problem = Problem(terms, loaded.model, loaded.vocabulary, loaded.form)
    optimizer = Optimizer(loaded.model.parameters(), TrainingOptions(optim=optim, max_grad_norm=1.0))
    multiplier = Bounded(rate=1.0).start(0.1, 1)
    batches = [pad(split, rows(split)) for split in ("forget", "retain")]
    if is_packed:
        batches = [pack([(split, row) for split in ("forget", "retain") for row in rows(split)])]
    step(problem, batches, [multiplier], optimizer)  # what is set up once may look
    with segmented(loaded.model), Watch() as watch:  # transformers' own masks read back whether rows are packed
        step(problem, batches, [multiplier], optimizer)
    # torch's AdamW keeps its step counts on the host, and reads them there
    assert [
        name for name in watch.found if not (optim == "adamw_torch" and name in ("_local_scalar_dense", "item"))
    ] == []


def test_the_watch_sees_what_waits():
    values = torch.tensor([1.0, 0.0])
    with Watch() as watch:
        values[values > 0.5]
        values.nonzero()
        float(values[0])
    assert {"index", "nonzero", "_local_scalar_dense"} <= set(watch.found)
