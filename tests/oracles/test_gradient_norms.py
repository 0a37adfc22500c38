"""Gradient norms: by hand on a model of two matrices, and against plain autograd, row by row, in float64.

`test_architectures.py` compares them for every architecture, `tests/distributed` for several processes.
"""

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from amnestic.data.encode import Encoded
from amnestic.errors import InputError, RunError
from amnestic.model import gradient_norms as module
from amnestic.model.form import examine
from amnestic.model.gradient_norms import gradient_norms
from amnestic.model.load import Loaded, adapt, load
from amnestic.model.options import AdapterOptions, ModelOptions
from amnestic.model.packing import examine_packing
from amnestic.model.row_gradients import Lookup, Product, RowGradients, _is_long, sum_of_uses


def row(*tokens: int, prompt: int = 1) -> Encoded:
    return Encoded("r", np.array(tokens), np.arange(len(tokens)) >= prompt, prompt, False, "", "")


def rows(count: int, seed: int = 5) -> list[Encoded]:
    """Rows of random tokens; that which pads, to which embeddings give no gradient, is among them."""
    random = np.random.default_rng(seed)
    lengths = random.integers(3, 40, size=count)
    return [
        row(
            *random.integers(0, 300, size=n) * random.integers(0, 6, size=n).clip(max=1),
            prompt=int(random.integers(1, n)),
        )
        for n in lengths
    ]


def plain(model: Any, examples: Sequence[Encoded]) -> np.ndarray:
    """The norm of each row's gradient, by autograd in float64, in whatever requires one."""
    wide = copy.deepcopy(model).double()
    norms = []
    for example in examples:
        wide.zero_grad()
        ids = torch.tensor(example.input_ids.tolist())
        logp = wide(input_ids=ids[None]).logits[0].log_softmax(dim=-1)
        answer = range(example.prompt_length, len(ids))
        torch.stack([-logp[at - 1, ids[at]] for at in answer]).mean().backward()
        found = [p.grad for p in wide.parameters() if p.grad is not None]
        norms.append(math.sqrt(sum(float(gradient.square().sum()) for gradient in found)))
    return np.array(norms)


# By hand


class Bigram(torch.nn.Module):
    """Logits of the next token from the last one alone: ``W E[x]``."""

    def __init__(self, looked_up: Tensor, weight: Tensor | None = None) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding.from_pretrained(looked_up.clone(), freeze=False)
        self.head = torch.nn.Linear(looked_up.shape[1], len(looked_up), bias=False)
        self.head.weight = self.embed.weight if weight is None else torch.nn.Parameter(weight.clone())

    @property
    def dtype(self) -> torch.dtype:
        return self.embed.weight.dtype

    def get_output_embeddings(self) -> torch.nn.Linear:
        return self.head

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> Any:
        return SimpleNamespace(logits=self.head(self.embed(input_ids)))


def bigram(looked_up: Any, weight: Any = None, dtype: torch.dtype = torch.float64) -> Loaded:
    tensors = [None if values is None else torch.tensor(values, dtype=dtype) for values in (looked_up, weight)]
    assert tensors[0] is not None
    return Loaded(Bigram(tensors[0], tensors[1]), None, dtype)


def test_a_uniform_head_by_hand() -> None:
    """W = 0: p = 1/3 everywhere, so the slope of the logits is d = (1/3, 1/3, 1/3) - 1_y, and |d|^2 = 6/9.

    The gradient in W is d e', of norm |d| |e| with |e| = 5; that in E is W'd = 0. Together sqrt(6)/3 * 5.
    """
    loaded = bigram([[3.0, 4.0], [1.0, 0.0], [0.0, 1.0]], [[0.0, 0.0]] * 3)
    assert gradient_norms(loaded, [row(0, 2)]) == pytest.approx([math.sqrt(6) / 3 * 5], rel=1e-12)
    assert loaded.notes == []


def test_two_tokens_of_an_answer_by_hand() -> None:
    """Answer (1, 1) to 0: gradients in W are d e_0' / 2 and d e_1' / 2 with the same d, sum d (e_0 + e_1)' / 2.

    e_0 + e_1 = (4, 4), so the norm is sqrt(6)/3 * sqrt(32) / 2. The mean of the two norms would be another number.
    """
    loaded = bigram([[3.0, 4.0], [1.0, 0.0], [0.0, 1.0]], [[0.0, 0.0]] * 3)
    assert gradient_norms(loaded, [row(0, 1, 1)]) == pytest.approx([math.sqrt(6) / 3 * math.sqrt(32) / 2], rel=1e-12)


def test_tied_embeddings_by_hand() -> None:
    """One matrix, [[a], [0]] with a = log 3, read at token 0: logits (a^2, 0), p_0 = s, slopes (s, -s) for target 1.

    As a head its gradient is (s, -s)' a; as an embedding row 0 gets a s. The sum is (2 a s, -a s)', of norm
    a s sqrt(5); two matrices would give a s sqrt(3).
    """
    a = math.log(3)
    s = 1 / (1 + math.exp(-(a**2)))
    assert gradient_norms(bigram([[a], [0.0]]), [row(0, 1)]) == pytest.approx([a * s * math.sqrt(5)], rel=1e-12)
    untied = bigram([[a], [0.0]], [[a], [0.0]])
    assert gradient_norms(untied, [row(0, 1)]) == pytest.approx([a * s * math.sqrt(3)], rel=1e-12)


def test_small_gradients_of_float16_do_not_vanish() -> None:
    """Logits (14, 0) and target 0: slopes are 1 - p = 8.3e-7, of which float16 has steps of 6e-8, and their products.

    Untied, e = (1), W = (14, 0)': gradients (-s, s) in W and -14 s in E.
    """
    s = 1 / (1 + math.exp(14))
    loaded = bigram([[1.0], [0.0]], [[14.0], [0.0]], torch.float16)
    assert gradient_norms(loaded, [row(0, 0)]) == pytest.approx([s * math.sqrt(2 + 14**2)], rel=2e-3)


def test_large_gradients_of_float16_do_not_overflow() -> None:
    """Logits (0, 0): slopes of 1/2; 1000 of them in E, which float16 would not hold 4,096 times."""
    loaded = bigram([[0.0], [0.0]], [[1000.0], [-1000.0]], torch.float16)
    assert gradient_norms(loaded, [row(0, 0)]) == pytest.approx([1000.0], rel=2e-3)


def test_uses_of_one_weight_add_up() -> None:
    """Against the gradient itself: a product and a lookup of one weight, of which tokens occur twice."""
    random = torch.Generator().manual_seed(3)
    product = Product(*(torch.randn(2, n, d, generator=random, dtype=torch.float64) for n, d in ((5, 4), (5, 9))))
    lookup = Lookup(torch.tensor([[1, 8, 1], [2, 2, 2]]), torch.randn(2, 3, 4, generator=random, dtype=torch.float64))
    for uses in ([product], [lookup], [product, lookup], [lookup, product, product]):
        for i, found in enumerate(sum_of_uses(uses)):
            total = torch.zeros(9, 4, dtype=torch.float64)
            for use in uses:
                if isinstance(use, Product):
                    total += use.slopes[i].T @ use.inputs[i]
                else:
                    total.index_add_(0, use.tokens[i], use.slopes[i])
            assert float(found) == pytest.approx(float(total.square().sum()), rel=1e-12)


@pytest.mark.parametrize("length", [2, 40])
def test_short_and_long_rows_take_the_shorter_way_to_one_number(length: int) -> None:
    """A weight of 4 x 6 is smaller than the pairs of 40 positions, and larger than those of 2."""
    random = torch.Generator().manual_seed(length)
    use = Product(*(torch.randn(2, length, d, generator=random, dtype=torch.float64) for d in (4, 6)))
    expected = torch.einsum("rlv,rld->rvd", use.slopes, use.inputs).square().sum(dim=(1, 2))
    torch.testing.assert_close(sum_of_uses([use]), expected, rtol=1e-12, atol=0)
    assert _is_long(use) is (length * (4 + 6) > 4 * 6)


# Against plain autograd


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def loaded(request: pytest.FixtureRequest, tiny_model: Callable[..., Path]) -> Loaded:
    folder = tiny_model(tied=request.param, spare_rows=7)
    found = load(ModelOptions(model=str(folder), device="cpu"))
    examine(found, rows(1)[0])
    return found


@pytest.mark.parametrize("is_packed", [True, False], ids=["packed", "padded"])
def test_every_row_has_the_norm_of_plain_autograd(loaded: Loaded, is_packed: bool) -> None:
    examples = rows(20)
    if is_packed:
        examine_packing(loaded, [examples])
    assert loaded.form.packs is is_packed
    done: list[int] = []
    found = gradient_norms(loaded, examples, done.append)
    np.testing.assert_allclose(found, plain(loaded.model, examples), rtol=2e-5)
    assert (sum(done), loaded.notes) == (20, [])


def test_a_pass_for_each_row_gives_the_same(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where no more than one gradient may exist at a time; what stops rows from sharing is said."""
    examples, done = rows(6), []
    expected = plain(loaded.model, examples)
    monkeypatch.setattr(module, "BYTES", 1)
    monkeypatch.setattr(RowGradients, "squares", lambda *_: {})
    np.testing.assert_allclose(gradient_norms(loaded, examples, done.append), expected, rtol=2e-5)
    assert sum(done) == 6
    (note,) = loaded.notes
    assert note.startswith("LlamaForCausalLM: each example's gradient takes a pass of its own, since that of ")


def test_a_module_that_cannot_be_called_row_by_row_has_its_rows_alone(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A norm that looks at its values, as a kernel of one's own may: vmap refuses that."""
    norm = type(loaded.model.model.norm)
    own = norm.forward

    def forward(self: Any, hidden: Tensor) -> Tensor:
        assert float(hidden.detach().sum()) < math.inf
        return own(self, hidden)

    examples = rows(3)
    expected = plain(loaded.model, examples)
    monkeypatch.setattr(norm, "forward", forward)
    np.testing.assert_allclose(gradient_norms(loaded, examples), expected, rtol=2e-5)
    (note,) = loaded.notes
    assert note.endswith(f"since {norm.__name__} cannot be called row by row.")


@pytest.mark.parametrize("tokens", [1, 60, 100_000])
def test_batches_and_order_change_nothing(loaded: Loaded, monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
    examples = rows(12)
    expected = gradient_norms(loaded, examples)
    monkeypatch.setattr(module, "TOKENS", tokens)
    order = np.random.default_rng(1).permutation(12)
    found = gradient_norms(loaded, [examples[i] for i in order])
    np.testing.assert_allclose(found, expected[order], rtol=1e-5)


def test_only_what_is_trainable_counts_and_nothing_is_touched(loaded: Loaded) -> None:
    """Norms of the last block alone; weights, flags, and gradients that a caller keeps stay as they are."""
    model, examples = loaded.model, rows(5)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("model.layers.1") or name == "model.norm.weight")
    kept = model.model.norm.weight
    kept.grad = torch.full_like(kept, 3.0)
    before = {name: (p.detach().clone(), p.requires_grad) for name, p in model.named_parameters()}
    expected = plain(model, examples)
    for way in (lambda: gradient_norms(loaded, examples), lambda: module._one_by_one(loaded, examples, print)):
        np.testing.assert_allclose(way(), expected, rtol=2e-5)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name][0]), name
        assert parameter.requires_grad is before[name][1], name
        assert (parameter.grad is not None) is (parameter is kept), name
    assert torch.equal(kept.grad, torch.full_like(kept, 3.0))
    assert not any(part._forward_hooks for part in model.modules())


def test_the_gradient_of_an_adapter_is_that_of_its_factors(loaded: Loaded) -> None:
    """The second factors are 0 at the start: they are moved, so that the first ones have gradients too."""
    adapt(loaded, AdapterOptions(use_peft=True, lora_r=2, lora_alpha=3), seed=0)
    random = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=random) * 0.3)
    assert 0 < sum(p.requires_grad for p in loaded.model.parameters()) < len([*loaded.model.parameters()])
    examples = rows(8)
    np.testing.assert_allclose(gradient_norms(loaded, examples), plain(loaded.model, examples), rtol=2e-5)
    assert loaded.notes == []


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 3e-2), ("float16", 4e-3)])
def test_narrow_weights_give_nearly_the_same(tiny_model: Callable[..., Path], dtype: str, tolerance: float) -> None:
    """Against float64 gradients of the same rounded weights."""
    loaded = load(ModelOptions(model=str(tiny_model(dtype=dtype)), device="cpu", dtype=dtype))
    examine(loaded, rows(1)[0])
    examples = rows(8)
    assert loaded.model.dtype == getattr(torch, dtype)
    np.testing.assert_allclose(gradient_norms(loaded, examples), plain(loaded.model, examples), rtol=tolerance)
    assert loaded.notes == []


def test_a_trained_model_moves_least_for_what_it_knows(tiny_full: Path, tiny_retain90: Path, tofu: Path) -> None:
    """Of rows of forget10 the model that knows them has the smaller norms; both are those of plain autograd."""
    import json

    from amnestic.data.encode import Encoder
    from amnestic.data.example import Example
    from amnestic.data.options import DataOptions

    lines = (tofu / "forget10.json").read_text(encoding="utf-8").splitlines()[:4]
    texts = [json.loads(line) for line in lines]
    found = {}
    for folder in (tiny_full, tiny_retain90):
        loaded = load(ModelOptions(model=str(folder), device="cpu"))
        examples = [Example(f"f:{i}", "question", text["question"], text["answer"]) for i, text in enumerate(texts)]
        encoded = Encoder(loaded.tokenizer, DataOptions(), loaded.position_limit).encode("f", examples).examples
        examine(loaded, encoded[0])
        examine_packing(loaded, [encoded])
        found[folder.name] = gradient_norms(loaded, encoded)
        np.testing.assert_allclose(found[folder.name], plain(loaded.model, encoded), rtol=1e-4)
    assert (found["tofu-tiny-full"] * 10 < found["tofu-tiny-retain90"]).all()


# What cannot be measured


def test_nothing_trainable_is_refused(loaded: Loaded) -> None:
    loaded.model.requires_grad_(False)
    with pytest.raises(InputError, match="no parameter of the model is trainable"):
        gradient_norms(loaded, rows(2))


def test_gradients_that_are_no_numbers_are_refused(loaded: Loaded) -> None:
    with torch.no_grad():
        loaded.model.model.norm.weight[0] = math.nan
    with pytest.raises(RunError, match="the gradient of 3 of 3 examples is no finite number; measure in a wider"):
        gradient_norms(loaded, rows(3))


def test_no_examples_have_no_norms(loaded: Loaded) -> None:
    assert gradient_norms(loaded, []).shape == (0,)
