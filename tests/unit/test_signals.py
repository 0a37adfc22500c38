"""One pass: which rows reach the head, what a reader may read, and what is left behind."""

import pytest
import torch

from amnestic.data.batches import pad
from amnestic.data.encode import Encoded
from amnestic.model.head import HEAD_SIGNALS
from amnestic.model.load import load
from amnestic.model.options import ModelOptions
from amnestic.model.signals import Needs, Signals, read, scored_logits

TOKENS = [[5, 6, 7, 8, 9, 10], [11, 12, 13], [14, 15, 16, 17]]
SCORED = [[0, 0, 0, 1, 1, 1], [0, 1, 1], [0, 0, 0, 1]]


@pytest.fixture
def loaded(tiny_model):
    return load(ModelOptions(model=str(tiny_model(spare_rows=5)), device="cpu"))


@pytest.fixture
def batch():
    return pad("forget", [encoded(i) for i in range(3)])


def encoded(i: int) -> Encoded:
    tokens, scored = torch.tensor(TOKENS[i]).numpy(), torch.tensor(SCORED[i]).bool().numpy()
    return Encoded(f"forget:{i}", tokens, scored, SCORED[i].index(1), False, "", "")


def plain_logits(model) -> torch.Tensor:
    """Return the full logits of each row alone, at the positions before its scored tokens, (6, V)."""
    found = []
    for tokens, scored in zip(TOKENS, SCORED, strict=True):
        logits = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]
        found += [logits[at - 1] for at, is_scored in enumerate(scored) if is_scored]
    return torch.stack(found)


class Rows:
    """Notes the shape of whatever enters the output embedding."""

    def __init__(self, model) -> None:
        self.shapes: list[tuple[int, ...]] = []
        model.get_output_embeddings().register_forward_hook(self)

    def __call__(self, module, arguments, output) -> None:
        self.shapes.append((*arguments[0].shape, *output.shape))


class FunctionalHead(torch.nn.Module):
    """A model that projects on its vocabulary without calling its head as a module."""

    def __init__(self, model) -> None:
        super().__init__()
        self.inner = model

    def get_output_embeddings(self):
        return self.inner.lm_head

    def forward(self, input_ids, use_cache):
        hidden = self.inner.model(input_ids=input_ids, use_cache=use_cache).last_hidden_state
        return type("Output", (), {"logits": torch.nn.functional.linear(hidden, self.inner.lm_head.weight)})()


def test_only_scored_rows_reach_the_head(loaded, batch):
    rows = Rows(loaded.model)
    logits = scored_logits(loaded.model, batch)
    assert rows.shapes == [(1, 6, 32, 1, 6, 325)]
    torch.testing.assert_close(logits, plain_logits(loaded.model), rtol=1e-4, atol=1e-4)


def test_gradients_equal_those_of_full_logits(loaded, batch):
    weights = torch.linspace(-1, 1, 6 * 325).reshape(6, 325)
    found, expected = [
        torch.autograd.grad((weights * logits).sum(), list(loaded.model.parameters()))
        for logits in (scored_logits(loaded.model, batch), plain_logits(loaded.model))
    ]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * b.abs().max().item())


def test_each_signal_belongs_to_its_token(loaded, batch):
    signals = read(loaded.model, batch, {"forget": Needs(head=frozenset(HEAD_SIGNALS))}, loaded.vocabulary)["forget"]
    logits = plain_logits(loaded.model).double()
    targets = torch.tensor([8, 9, 10, 12, 13, 17])
    logp = torch.log_softmax(logits, -1)
    assert signals.token_logp.tolist() == pytest.approx(logp[range(6), targets].tolist(), rel=1e-4)
    known = logits[:, :320]
    assert signals.margin.tolist() == pytest.approx((known.amax(-1) - known.mean(-1)).tolist(), rel=1e-4)
    assert signals.moments[:, 0].tolist() == pytest.approx((logp.exp() * logp).sum(-1).tolist(), rel=1e-4)
    assert signals.moments[:, 1].tolist() == pytest.approx((logp.exp() * logp**2).sum(-1).tolist(), rel=1e-4)
    assert signals.is_argmax.tolist() == (logits.argmax(-1) == targets).double().tolist()
    assert signals.row.tolist() == [0, 0, 0, 1, 1, 2]
    assert signals.answers == 3


def test_head_that_is_not_called_as_a_module_gives_the_same_logits(loaded, batch):
    rows = Rows(loaded.model)
    logits = scored_logits(FunctionalHead(loaded.model), batch)
    assert rows.shapes == []
    torch.testing.assert_close(logits, plain_logits(loaded.model), rtol=1e-4, atol=1e-4)


def test_one_row_whose_every_other_token_is_scored_is_told_from_full_logits(loaded):
    """The closest that selected rows come to full ones: (1, T - 1) against (1, T)."""
    tokens = torch.arange(5, 9).numpy()
    batch = pad("forget", [Encoded("forget:0", tokens, tokens > 5, 1, False, "", "")])
    full = loaded.model(input_ids=batch.input_ids, use_cache=False).logits[0]
    torch.testing.assert_close(scored_logits(loaded.model, batch), full[:3], rtol=1e-4, atol=1e-4)


def test_undeclared_signals_cannot_be_read(loaded, batch):
    signals = read(loaded.model, batch, {"forget": Needs(head=frozenset({"margin", "is_argmax"}))}, loaded.vocabulary)[
        "forget"
    ]
    with pytest.raises(AttributeError, match="signal 'token_logp' was not declared; declared: is_argmax, margin"):
        signals.token_logp  # noqa: B018
    with pytest.raises(AttributeError, match="signal 'is_argmax' was not declared; declared: margin"):
        signals.only(Needs(head=frozenset({"margin"}))).is_argmax  # noqa: B018
    with pytest.raises(AttributeError, match="declared: none"):
        Signals({}, batch.shares["forget"].row, 3).margin  # noqa: B018


def test_only_declared_signals_are_computed(loaded, batch, monkeypatch):
    def refuse(*_):
        raise AssertionError("computed without a reader")

    for name in ("moments", "token_logp", "is_argmax"):
        monkeypatch.setitem(HEAD_SIGNALS, name, refuse)
    signals = read(loaded.model, batch, {"forget": Needs(head=frozenset({"margin"}))}, loaded.vocabulary)["forget"]
    assert set(signals.values) == {"margin"}


def test_unknown_signals_cannot_be_declared():
    with pytest.raises(ValueError, match=r"unknown head signals \['magin'\]; known: \['is_argmax', "):
        Needs(head=frozenset({"magin", "margin"}))


def test_needs_of_two_readers_are_joined():
    joined = Needs(head=frozenset({"margin"})) | Needs(head=frozenset({"token_logp"}))
    assert joined == Needs(head=frozenset({"margin", "token_logp"}))


def test_no_hook_stays_behind(loaded, batch):
    head = loaded.model.get_output_embeddings()
    scored_logits(loaded.model, batch)
    assert not head._forward_pre_hooks
    full = loaded.model(input_ids=batch.input_ids).logits
    assert full.shape == (3, 6, 325)


def test_no_hook_stays_behind_where_the_forward_pass_fails(loaded, batch, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(loaded.model.model, "forward", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        scored_logits(loaded.model, batch)
    assert not loaded.model.get_output_embeddings()._forward_pre_hooks


def test_without_gradients_there_is_no_graph(loaded, batch):
    needs = Needs(head=frozenset({"margin", "token_logp"}))
    with_graph = read(loaded.model, batch, {"forget": needs}, loaded.vocabulary)["forget"]
    with torch.inference_mode():
        without = read(loaded.model, batch, {"forget": needs}, loaded.vocabulary)["forget"]
    for name in needs.head:
        assert with_graph.values[name].requires_grad
        assert not without.values[name].requires_grad
        torch.testing.assert_close(without.values[name], with_graph.values[name].detach(), rtol=1e-6, atol=1e-6)
