"""Compiled blocks compute the same gradients, and are gone afterwards.

The backend aot_eager traces forward and backward as inductor does, and runs what it traced without compiling code.
"""

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from amnestic.data.batches import pack, pad
from amnestic.data.encode import Encoded
from amnestic.errors import InputError
from amnestic.model.compiling import compiled
from amnestic.model.load import load
from amnestic.model.options import ModelOptions
from amnestic.model.signals import Needs, read

NEEDS = {"forget": Needs(head=frozenset({"margin", "token_logp"}))}


def gradients(loaded, batch):
    loaded.model.zero_grad()
    signals = read(loaded.model, batch, NEEDS, loaded.vocabulary, loaded.form)["forget"]
    (signals.margin.square().sum() - signals.token_logp.sum()).backward()
    return {name: parameter.grad.clone() for name, parameter in loaded.model.named_parameters()}


def batch(length, seed):
    tokens = np.random.default_rng(seed).integers(5, 300, size=(2, length))
    rows = [Encoded(f"forget:{i}", row, np.arange(length) > 1, 1, False, "", "") for i, row in enumerate(tokens)]
    return pad("forget", rows)


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch's own tracing looks at it
def test_compiled_blocks_give_the_same_gradients_for_every_length(tiny_model):
    loaded = load(ModelOptions(model=str(tiny_model()), dtype="float32"))
    loaded.model.double()
    batches = [batch(length, seed) for seed, length in enumerate((9, 14, 9, 5))]
    expected = [gradients(loaded, one) for one in batches]
    torch._dynamo.reset()
    counters.clear()
    with compiled(loaded.model, "aot_eager"):
        found = [gradients(loaded, one) for one in batches]
    for one, other in zip(found, expected, strict=True):
        for name, gradient in one.items():
            torch.testing.assert_close(gradient, other[name], rtol=1e-12, atol=1e-12, msg=name)
    assert counters["stats"]["unique_graphs"] >= 1
    assert counters["frames"]["ok"] == counters["frames"]["total"]
    assert all(block._compiled_call_impl is None for block in loaded.model.model.layers)


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
def test_another_cut_of_packed_rows_is_no_reason_to_compile_again(tiny_model):
    """The second pack has more rows than the one that was traced, of other lengths, and the third has one."""
    loaded = load(ModelOptions(model=str(tiny_model()), dtype="float32"))
    loaded.model.double()
    shapes = ((9, 9, 5), (14, 6, 6, 2), (7,))
    rng = np.random.default_rng(0)
    batches = [
        pack([("forget", Encoded("", rng.integers(5, 300, n), np.arange(n) > 0, 1, False, "", "")) for n in lengths])
        for lengths in shapes
    ]
    expected = [gradients(loaded, one) for one in batches]
    torch._dynamo.reset()
    counters.clear()
    graphs = []
    with compiled(loaded.model, "eager"):
        for one, other in zip(batches, expected, strict=True):
            for name, gradient in gradients(loaded, one).items():
                torch.testing.assert_close(gradient, other[name], rtol=1e-12, atol=1e-12, msg=name)
            graphs.append(counters["stats"]["unique_graphs"])
    assert 0 < graphs[0] == graphs[-1]


def test_blocks_are_compiled_within_the_context_alone(tiny_model):
    loaded = load(ModelOptions(model=str(tiny_model()), dtype="float32"))
    with compiled(loaded.model, "eager"):
        assert all(block._compiled_call_impl is not None for block in loaded.model.model.layers)
    with pytest.raises(RuntimeError, match="stop"), compiled(loaded.model, "eager"):
        raise RuntimeError("stop")
    assert all(block._compiled_call_impl is None for block in loaded.model.model.layers)


def test_an_unknown_backend_is_refused_with_those_that_are_known(tiny_model):
    loaded = load(ModelOptions(model=str(tiny_model()), dtype="float32"))
    with pytest.raises(InputError, match=r"--torch_compile_backend is 'fast'; expected one of .*inductor"):
        compiled(loaded.model, "fast").__enter__()
    assert all(block._compiled_call_impl is None for block in loaded.model.model.layers)
