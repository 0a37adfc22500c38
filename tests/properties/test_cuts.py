"""Neither gradient nor multiplier depends on how a step was cut, padded or ordered.

The reference is the whole objective in one graph: one forward pass an example, full logits (1, T, V) in float64, losses
written out. It shares no code with the step.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from amnestic.constraints.multiplier import Bounded
from amnestic.constraints.retention import NLL, Retention
from amnestic.data.batches import Batch, micro_batches, pack, pad, pad_together
from amnestic.data.cuts import Budget
from amnestic.data.encode import Encoded
from amnestic.methods.base import Method
from amnestic.methods.flattening import PDU
from amnestic.model.load import checkpointed, load
from amnestic.model.options import ModelOptions
from amnestic.model.signals import Form, Needs
from amnestic.training.optimizer import Optimizer
from amnestic.training.options import TrainingOptions
from amnestic.training.problem import Problem, forget_term, retain_term
from amnestic.training.step import step

EXACT = 1e-12
LAMBDA, BOUND, RATE = 3.0, 0.25, 2.0
SPARE_ROWS = 3


class AnswerLogp(Method):
    """log p of each whole answer: a loss whose mean runs over answers."""

    unit = "answer"
    needs = Needs(head=frozenset({"token_logp"}))

    def objective(self, model, reference):
        logp = model.forget.token_logp
        return torch.zeros(model.forget.answers, dtype=logp.dtype).index_add(0, model.forget.row, logp)


class Case:
    """A small random model in float64, and the rows of one step."""

    def __init__(self, folder: Path) -> None:
        self.loaded = load(ModelOptions(model=str(folder), device="cpu"))
        self.model = self.loaded.model.double()
        for name, module in list(self.model.named_modules()):
            if type(module).__name__ == "LlamaRMSNorm":  # it computes in float32, whatever comes in
                exact = torch.nn.RMSNorm(module.weight.shape, module.variance_epsilon, dtype=torch.float64)
                exact.weight = module.weight
                self.model.set_submodule(name, exact)
        rng = np.random.default_rng(0)
        self.rows = {split: [self._row(rng, f"{split}:{i}") for i in range(4)] for split in ("forget", "retain")}

    def _row(self, rng: np.random.Generator, name: str) -> Encoded:
        length = int(rng.integers(3, 12))
        first = int(rng.integers(1, length))
        tokens = rng.integers(3, self.loaded.vocabulary, length)
        return Encoded(name, tokens, np.arange(length) >= first, first, closes=False, prompt="", answer="")

    def step(self, method: Method, batches: Sequence[Batch]) -> tuple[dict[str, Tensor], Tensor, float]:
        """Return gradients, term means and the multiplier after one step of descent with learning rate 1; undo it."""
        problem = Problem(
            (forget_term(method), retain_term(Retention(NLL(), Bounded()))), self.model, self.loaded.vocabulary
        )
        before = {name: value.detach().clone() for name, value in self.model.named_parameters()}
        options = TrainingOptions(optim="sgd", adam_beta1=0, weight_decay=0, max_grad_norm=0, learning_rate=1.0)
        multiplier = Bounded(rate=RATE, initial=LAMBDA).start(BOUND, steps_per_epoch=1)
        means, *_ = step(problem, batches, [multiplier], Optimizer(self.model.parameters(), options))
        with torch.no_grad():
            moved = {name: before[name] - value for name, value in self.model.named_parameters()}
            for name, value in self.model.named_parameters():
                value.copy_(before[name])
        return moved, means, float(multiplier.value)

    def expected(self, method: Method) -> tuple[dict[str, Tensor], list[float], float]:
        """Return the same from the plain objective."""
        forget, retain = (self.token_losses(split) for split in ("forget", "retain"))
        margins = torch.cat([(z.max(-1).values - z.mean(-1)) ** 2 for z, _ in forget])
        whole_answers = torch.stack([logp.sum() for _, logp in forget])
        objective = margins.mean() if isinstance(method, PDU) else whole_answers.mean()
        kept = -torch.cat([logp for _, logp in retain]).mean()
        names, parameters = zip(*self.model.named_parameters(), strict=True)
        gradients = torch.autograd.grad(objective + LAMBDA * kept, parameters)
        multiplier = max(0.0, LAMBDA + RATE * (kept.item() - BOUND))
        return dict(zip(names, gradients, strict=True)), [objective.item(), kept.item()], multiplier

    def token_losses(self, split: str) -> list[tuple[Tensor, Tensor]]:
        """Return for each answer the logits (N, V) that the tokenizer knows, and log p of its tokens (N,)."""
        found = []
        for row in self.rows[split]:
            ids = torch.from_numpy(row.input_ids)
            logits = self.model(input_ids=ids[None], use_cache=False).logits[0]
            at = torch.from_numpy(np.flatnonzero(row.is_scored)) - 1
            exponentials = logits[at].exp()
            probability = exponentials[torch.arange(len(at)), ids[at + 1]] / exponentials.sum(-1)
            found.append((logits[at][:, :-SPARE_ROWS], probability.log()))
        return found


@pytest.fixture(scope="module")
def case(tiny_model):
    @cache
    def make(tied: bool) -> Case:
        return Case(tiny_model(tied=tied, spare_rows=SPARE_ROWS))

    return make


def assert_equal(found: tuple, expected: tuple) -> None:
    gradients, means, multiplier = found
    assert gradients.keys() == expected[0].keys()
    for name, gradient in gradients.items():
        scale = expected[0][name].abs().max().clamp(min=1.0)
        assert (gradient - expected[0][name]).abs().max() <= EXACT * scale, name
    assert means.tolist() == pytest.approx(expected[1], rel=EXACT)
    assert multiplier == pytest.approx(expected[2], rel=EXACT)


@pytest.mark.parametrize("method", [PDU(), AnswerLogp()], ids=["tokens", "answers"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize(
    ("budget", "count"),
    [
        (Budget(1000, pass_cost=10_000), 2),
        (Budget(20, pass_cost=10_000), 4),
        (Budget(1), 8),
        (Budget(1000, packs=True), 1),
        (Budget(20, packs=True), 4),
        (Budget(1, packs=True), 8),
    ],
    ids=["padded-2", "padded-4", "padded-8", "packed-1", "packed-4", "packed-8"],
)
def test_micro_batches_give_the_plain_gradient(case, tied, method, budget, count):
    found = case(tied)
    rows = {split: np.arange(4) for split in found.rows}
    batches = micro_batches(found.rows, rows, budget)
    assert len(batches) == count
    assert_equal(found.step(method, batches), found.expected(method))


@pytest.mark.parametrize("packs", [True, False], ids=["packed", "padded"])
@settings(max_examples=10)
@given(tokens=st.integers(1, 100), cost=st.integers(0, 50), processes=st.integers(1, 4))
def test_any_budget_and_any_number_of_processes_give_the_plain_gradient(case, packs, tokens, cost, processes):
    """The batches of all processes, their empty ones too, one after the other: sums do not care who adds them."""
    found = case(True)
    rows = {split: np.arange(4) for split in found.rows}
    budget = Budget(tokens, cost, packs)
    batches = [b for rank in range(processes) for b in micro_batches(found.rows, rows, budget, (rank, processes))]
    assert_equal(found.step(PDU(), batches), found.expected(PDU()))


@st.composite
def cuts(draw: st.DrawFn) -> list[list[tuple[str, int]]]:
    """Return the rows of both splits, in any order, cut into batches anywhere, mixed or not."""
    order = draw(st.permutations([(split, i) for split in ("forget", "retain") for i in range(4)]))
    ends = [0, *sorted(draw(st.sets(st.integers(1, 7)))), 8]
    return [order[a:b] for a, b in pairwise(ends)]


@pytest.mark.parametrize("method", [PDU(), AnswerLogp()], ids=["tokens", "answers"])
@pytest.mark.parametrize("make", [pad_together, pack])
@settings(max_examples=12)
@given(pieces=cuts())
def test_any_cut_of_mixed_splits_gives_the_plain_gradient(case, method, make, pieces):
    found = case(True)
    batches = [make([(split, found.rows[split][i]) for split, i in chosen]) for chosen in pieces]
    assert_equal(found.step(method, batches), found.expected(method))


def test_activations_computed_again_stay_within_their_rows(case):
    """The blocks run again in the backward pass, outside of the model's own."""
    found = case(False)
    rows = {split: np.arange(4) for split in found.rows}
    batches = micro_batches(found.rows, rows, Budget(1000, packs=True))
    found.loaded.form = Form(packs=True)
    with checkpointed(found.loaded):
        assert_equal(found.step(PDU(), batches), found.expected(PDU()))


@pytest.mark.parametrize("extra", [1, 7])
def test_padding_changes_nothing(case, extra):
    found = case(False)
    batches = []
    for split, rows in found.rows.items():
        batch = pad(split, rows)
        filler = torch.full((len(rows), extra), 5)
        wider = torch.cat([batch.input_ids, filler], dim=1)
        positions = batch.positions + batch.positions // batch.input_ids.shape[1] * extra
        batches.append(replace(batch, inputs={"input_ids": wider}, positions=positions))
    assert_equal(found.step(PDU(), batches), found.expected(PDU()))


@pytest.mark.parametrize("packs", [True, False], ids=["packed", "padded"])
def test_measured_sums_are_those_of_each_example(case, packs):
    """The sums by which candidates are judged, per example in the order given, against the plain losses."""
    found = case(True)
    terms = (forget_term(PDU()), retain_term(Retention(NLL(), Bounded())))
    problem = Problem(terms, found.model, found.loaded.vocabulary, Form(packs=packs))
    kept = problem.measure("retain", found.rows["retain"], batch_size=3)[1]
    forgotten = problem.measure("forget", found.rows["forget"], batch_size=2)[0]
    with torch.no_grad():
        retain, forget = found.token_losses("retain"), found.token_losses("forget")
    margins = [((z.max(-1).values - z.mean(-1)) ** 2).sum().item() for z, _ in forget]
    assert kept.sums.tolist() == pytest.approx([-logp.sum().item() for _, logp in retain], rel=EXACT)
    assert kept.counts.tolist() == [len(logp) for _, logp in retain]
    assert forgotten.sums.tolist() == pytest.approx(margins, rel=EXACT)


def test_measured_answers_count_once_each(case):
    found = case(True)
    problem = Problem((forget_term(AnswerLogp()),), found.model, found.loaded.vocabulary)
    measured = problem.measure("forget", found.rows["forget"], batch_size=3)[0]
    with torch.no_grad():
        expected = [logp.sum().item() for _, logp in found.token_losses("forget")]
    assert measured.sums.tolist() == pytest.approx(expected, rel=EXACT)
    assert measured.counts.tolist() == [1, 1, 1, 1]
