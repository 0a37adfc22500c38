"""The forget term reads marked tokens alone, the context term the others: against the plain objective in one graph.

The reference is one forward pass an example with full logits (1, T, V) in float64, and a list of the tokens that count.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from amnestic.constraints.multiplier import Bounded, Fixed
from amnestic.constraints.retention import NLL, Retention
from amnestic.data.batches import Batch, micro_batches, pad
from amnestic.data.cuts import Budget
from amnestic.data.encode import Encoded
from amnestic.methods.base import Method, Passes
from amnestic.methods.flattening import PDU
from amnestic.model.load import load
from amnestic.model.options import ModelOptions
from amnestic.model.signals import Needs
from amnestic.training.optimizer import Optimizer
from amnestic.training.options import TrainingOptions
from amnestic.training.problem import Problem, forget_term, retain_term
from amnestic.training.step import step

EXACT = 1e-12
RETAIN, CONTEXT = 3.0, 2.0
"""The multipliers."""
BOUNDS = (0.25, 0.5)
RATE = 2.0
MARKS = (None, ".......xx.", "....xxxxxx", "..........", "..x..x....")
"""The tokens of five forget rows of ten, of which the first four are never scored: the first row marks nothing, and all
of it is to be forgotten; the third marks all that is scored of it; the fourth is a chunk without a span; in the fifth
one mark of two stands on a token that is not scored."""
FIRST = 4


class MeanLogp(Method):
    """log p of each answer, over its length: wrong as soon as a token too many is in sight."""

    unit = "answer"
    needs: ClassVar[Needs] = Needs(head=frozenset({"token_logp"}))

    def objective(self, model: Passes, reference: Passes) -> Tensor:
        signals = model.forget
        sums, ones = (
            torch.zeros(signals.answers, dtype=torch.float64).index_add(0, signals.row, values)
            for values in (signals.token_logp, torch.ones_like(signals.token_logp))
        )
        return sums / ones


@dataclass
class Case:
    """A small random model in float64, and the rows of one step."""

    model: Any
    vocabulary: int
    rows: dict[str, list[Encoded]]

    def problem(self, method: Method) -> Problem:
        context = retain_term(Retention(NLL(), Bounded(), "forget", "context"))
        terms = (forget_term(method), retain_term(Retention(NLL(), Bounded())), context)
        return Problem(terms, self.model, self.vocabulary)

    def expected(self, method: Method) -> tuple[list[float], dict[str, Tensor]]:
        """Return the three means, and the gradient of the whole objective."""
        margins, answers, context = [], [], []
        for row in self.rows["forget"]:
            logp, margin = self.tokens(row)
            scored = [t for t in range(10) if row.is_scored[t]]
            forgotten = [t for t in scored if row.is_span is None or row.is_span[t]]
            margins += [margin[t - 1] ** 2 for t in forgotten]
            context += [-logp[t - 1] for t in scored if t not in forgotten]
            if forgotten:
                answers.append(sum(logp[t - 1] for t in forgotten) / len(forgotten))
        retain = [-self.tokens(row)[0][t - 1] for row in self.rows["retain"] for t in range(FIRST, 10)]
        means = [torch.stack(v).mean() for v in (margins if isinstance(method, PDU) else answers, retain, context)]
        names, parameters = zip(*self.model.named_parameters(), strict=True)
        gradients = torch.autograd.grad(means[0] + RETAIN * means[1] + CONTEXT * means[2], parameters)
        return [mean.item() for mean in means], dict(zip(names, gradients, strict=True))

    def tokens(self, row: Encoded) -> tuple[Tensor, Tensor]:
        """Return log p of each token but the first, and the margin before it."""
        ids = torch.from_numpy(row.input_ids)
        logits = self.model(input_ids=ids[None], use_cache=False).logits[0, :-1]
        logp = torch.log_softmax(logits, -1).gather(1, ids[1:, None]).squeeze(1)
        return logp, logits.max(-1).values - logits.mean(-1)

    def descend(self, problem: Problem, batches: Sequence[Batch]) -> tuple[dict[str, Tensor], Tensor, list[float]]:
        """Return gradients, means and multipliers of one step of descent at a rate of 1; undo it."""
        before = {name: value.detach().clone() for name, value in self.model.named_parameters()}
        options = TrainingOptions(optim="sgd", adam_beta1=0, weight_decay=0, max_grad_norm=0, learning_rate=1.0)
        multipliers = [
            Bounded(rate=RATE, initial=initial).start(bound, steps_per_epoch=1)
            for initial, bound in zip((RETAIN, CONTEXT), BOUNDS, strict=True)
        ][: len(problem.terms) - 1]
        means, *_ = step(problem, batches, multipliers, Optimizer(self.model.parameters(), options))
        with torch.no_grad():
            moved = {name: before[name] - value for name, value in self.model.named_parameters()}
            for name, value in self.model.named_parameters():
                value.copy_(before[name])
        return moved, means, [float(multiplier.value) for multiplier in multipliers]


@pytest.fixture(scope="module")
def case(tiny_model: Callable[..., Path]) -> Case:
    loaded = load(ModelOptions(model=str(tiny_model()), device="cpu"))
    model = loaded.model.double()
    for name, module in list(model.named_modules()):
        if type(module).__name__ == "LlamaRMSNorm":  # it computes in float32, whatever comes in
            exact = torch.nn.RMSNorm(module.weight.shape, module.variance_epsilon, dtype=torch.float64)
            exact.weight = module.weight
            model.set_submodule(name, exact)
    rng = np.random.default_rng(0)

    def row(name: str, marks: str | None) -> Encoded:
        is_span = None if marks is None else np.array([mark == "x" for mark in marks])
        tokens = rng.integers(3, loaded.vocabulary, 10)
        return Encoded(name, tokens, np.arange(10) >= FIRST, FIRST, False, "", "", is_span)

    forget = [row(f"forget:{i}", marks) for i, marks in enumerate(MARKS)]
    return Case(model, loaded.vocabulary, {"forget": forget, "retain": [row(f"retain:{i}", None) for i in range(4)]})


def assert_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        scale = expected[name].abs().max().clamp(min=1.0)
        assert (gradient - expected[name]).abs().max() <= EXACT * scale, name


@pytest.mark.parametrize("method", [PDU(), MeanLogp()], ids=["tokens", "answers"])
@pytest.mark.parametrize(
    ("budget", "count"),
    [
        (Budget(1000, pass_cost=10_000), 2),
        (Budget(26, pass_cost=10_000), 5),
        (Budget(1), 9),
        (Budget(1000, packs=True), 1),
        (Budget(40, packs=True), 3),
        (Budget(1, packs=True), 9),
    ],
    ids=["padded-2", "padded-5", "padded-9", "packed-1", "packed-3", "packed-9"],
)
def test_one_step_is_that_of_the_plain_objective(case: Case, method: Method, budget: Budget, count: int) -> None:
    """However the step is cut, batches without a marked token, without context, or without marks among its pieces."""
    means, gradients = case.expected(method)
    rows = {split: np.arange(len(examples)) for split, examples in case.rows.items()}
    batches = micro_batches(case.rows, rows, budget)
    assert len(batches) == count
    moved, found, multipliers = case.descend(case.problem(method), batches)
    assert_gradients(moved, gradients)
    assert found.tolist() == pytest.approx(means, rel=EXACT)
    raised = [value + RATE * (mean - bound) for value, mean, bound in zip((3, 2), means[1:], BOUNDS, strict=True)]
    assert multipliers == pytest.approx(raised, rel=EXACT)


@pytest.mark.parametrize("method", [PDU(), MeanLogp()], ids=["tokens", "answers"])
def test_units_are_counted_before_any_pass(case: Case, method: Method) -> None:
    """Six tokens, two, six, none and one of the five rows; context: none, four, none, six and five."""
    problem = case.problem(method)
    counted = [problem.counts(pad("forget", [row])) for row in case.rows["forget"]]
    tokens = [6, 2, 6, 0, 1]
    units = tokens if method.unit == "token" else [1, 1, 1, 0, 1]
    assert counted == [[unit, 0, context] for unit, context in zip(units, [0, 4, 0, 6, 5], strict=True)]
    together = problem.counts(pad("forget", case.rows["forget"]))
    assert together == [sum(units), 0, 15]
    assert problem.counts(pad("retain", case.rows["retain"])) == [0, 24, 0]


def test_other_tokens_are_out_of_sight_and_get_no_gradient(case: Case) -> None:
    """A method sees the tokens to be forgotten, their answers counted anew, and the loss of no other moves a weight."""
    seen: list[Passes] = []

    class Watching(MeanLogp):
        def objective(self, model: Passes, reference: Passes) -> Tensor:
            seen.append(model)
            return super().objective(model, reference)

    rows = case.rows["forget"]
    problem = replace(case.problem(Watching()), terms=(forget_term(Watching()),))
    batch = pad("forget", [rows[3], rows[4], rows[1]])
    ((values, owners),) = problem.unreduced(batch)
    (passes,) = seen
    assert owners.tolist() == [1, 2]
    assert passes.forget.row.tolist() == [0, 1, 1]
    assert passes.forget.answers == 2
    own, other = case.tokens(rows[4])[0][4], case.tokens(rows[1])[0][6:8].mean()
    assert values.tolist() == pytest.approx([own.item(), other.item()], rel=EXACT)
    expected = torch.autograd.grad(own + other, list(case.model.parameters()))
    for found, gradient in zip(torch.autograd.grad(values.sum(), list(case.model.parameters())), expected, strict=True):
        assert (found - gradient).abs().max() <= EXACT * gradient.abs().max().clamp(min=1)


@pytest.mark.parametrize("method", [PDU(), MeanLogp()], ids=["tokens", "answers"])
def test_measured_sums_are_those_of_each_example(case: Case, method: Method) -> None:
    """An example without a unit counts nothing, and a mean over examples does not see it."""
    found = case.problem(method).measure("forget", case.rows["forget"], 2)
    means, _ = case.expected(method)
    assert found[0].mean == pytest.approx(means[0], rel=EXACT)
    assert found[0].counts.tolist() == ([6, 2, 6, 0, 1] if method.unit == "token" else [1, 1, 1, 0, 1])
    assert found[0].sums[3] == 0
    assert found[1].counts.tolist() == [0] * 5
    assert found[2].mean == pytest.approx(means[2], rel=EXACT)
    assert found[2].counts.tolist() == [0, 4, 0, 6, 5]


def test_splits_without_marks_have_no_context_and_are_forgotten_whole(case: Case) -> None:
    batch = pad("forget", case.rows["forget"][:1])
    assert batch.shares["forget"].parts == {}
    assert case.problem(PDU()).counts(batch) == [6, 0, 0]
    whole = retain_term(Retention(NLL(), Fixed(), "forget"))
    assert whole.count(pad("forget", case.rows["forget"])) == 30
