"""Each method's objective against hand calculations, float64 loops over single numbers, and the limits that are known.

Loops take logits apart with `math` alone. p is a probability of the model, q one of a target; sigma is the logistic
function.
"""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from amnestic.methods.base import METHODS, Method, Passes, build
from amnestic.model.head import HEAD_SIGNALS, CrossEntropyTo
from amnestic.model.signals import Needs, Signals

VOCABULARY, WIDTH, ANSWERS = 7, 6, 2
ROW = (0, 0, 0, 1, 1)
"""Which answer each scored token belongs to."""
BLOCKS, SEED = 16, 42
EVERY = METHODS.names()
Row = list[float]


@dataclass(frozen=True)
class Inputs:
    """What stands behind the signals of some answers."""

    logits: Tensor
    """(N, V)."""
    targets: Tensor
    """(N,)."""
    hidden: Tensor
    """(N, D), at whatever block is read."""

    def signals(self, needs: Needs, reference: "Inputs | None" = None) -> Signals:
        """Return what `needs` declares, by the plain forms; one position later the same logits stand in for others."""
        values = {}
        for need in needs.head:
            if isinstance(need, CrossEntropyTo):
                other = None if reference is None else reference.logits
                values[need.name] = need.plain(self.logits, self.targets, VOCABULARY, other)
            else:
                values[need] = HEAD_SIGNALS[need](self.logits, self.targets, VOCABULARY)
        for need in needs.unshifted:
            values[f"unshifted_{need}"] = HEAD_SIGNALS[need](self.logits, self.targets, VOCABULARY)
        values |= {f"hidden_{block}": self.hidden for block in needs.hidden}
        assert sorted(values) == sorted(needs.names)
        return Signals(values, torch.tensor(ROW, device=self.targets.device), ANSWERS)

    def leaves(self) -> "Inputs":
        """Return the same, of which gradients are taken."""
        return Inputs(self.logits.requires_grad_(), self.targets, self.hidden.requires_grad_())


@dataclass(frozen=True)
class Case:
    """The answers to be forgotten and second answers, each under the model and under the reference."""

    own: Inputs
    second: Inputs
    before: Inputs
    second_before: Inputs

    def objective(self, method: Method) -> Tensor:
        """Return the method's values, of the signals that it declares and no others."""
        model = Passes(self.own.signals(method.needs, self.before))
        reference = Passes(self.before.signals(method.reference_needs))
        if method.alternate is not None:
            model = replace(model, second=self.second.signals(method.needs, self.second_before))
            reference = replace(reference, second=self.second_before.signals(method.reference_needs))
        return method.objective(model, reference)


def random_case(seed: int = 0, scale: float = 3.0) -> Case:
    generator = torch.Generator().manual_seed(seed)

    def normal(size: int) -> Tensor:
        return scale * torch.randn(len(ROW), size, generator=generator, dtype=torch.float64)

    def two_models() -> Iterator[Inputs]:
        targets = torch.randint(VOCABULARY, (len(ROW),), generator=generator)
        for _ in range(2):
            yield Inputs(normal(VOCABULARY), targets, normal(WIDTH))

    (own, before), (second, second_before) = two_models(), two_models()
    return Case(own.leaves(), second.leaves(), before, second_before)


def fitted(name: str, **arguments: str) -> Method:
    return build(name, arguments).fitted(BLOCKS, SEED)


def log_softmax(row: Row) -> Row:
    highest = max(row)
    total = highest + math.log(math.fsum(math.exp(z - highest) for z in row))
    return [z - total for z in row]


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def log_probabilities(inputs: Inputs) -> Row:
    rows = zip(inputs.logits.tolist(), inputs.targets.tolist(), strict=True)
    return [log_softmax(row)[target] for row, target in rows]


def sums(values: Row) -> Row:
    return [math.fsum(v for v, answer in zip(values, ROW, strict=True) if answer == b) for b in range(ANSWERS)]


def log_ratios(model: Inputs, reference: Inputs) -> Row:
    return [a - b for a, b in zip(sums(log_probabilities(model)), sums(log_probabilities(reference)), strict=True)]


def slopes_to_gradient(inputs: Inputs, slopes: Row) -> list[Row]:
    """Return the gradient in the logits of a sum of slope x log p: slope (1[k = y] - p_k)."""
    tokens = zip(inputs.logits.tolist(), inputs.targets.tolist(), slopes, strict=True)
    return [
        [slope * ((k == target) - math.exp(logp)) for k, logp in enumerate(log_softmax(row))]
        for row, target, slope in tokens
    ]


def weighted_ascent(case: Case, weight: Callable[[float], float]) -> tuple[Row, list[Row]]:
    """Return w(p) log p of each token, and the gradient of their sum with w(p) held."""
    logp = log_probabilities(case.own)
    weights = [weight(math.exp(value)) for value in logp]
    values = [w * value for w, value in zip(weights, logp, strict=True)]
    return values, slopes_to_gradient(case.own, weights)


def by_answer(case: Case, values: Row, slopes: Row) -> tuple[Row, list[Row]]:
    """Return the values of answers, and the gradient of their sum from its slope in each log p of an answer."""
    return values, slopes_to_gradient(case.own, [slopes[answer] for answer in ROW])


def npo_loop(case: Case, beta: float) -> tuple[Row, list[Row]]:
    """d/dr of -2/beta log sigma(-beta r) is 2 sigma(beta r)."""
    r = log_ratios(case.own, case.before)
    return by_answer(case, [-2 / beta * math.log(sigma(-beta * x)) for x in r], [2 * sigma(beta * x) for x in r])


def simnpo_loop(case: Case, beta: float, gamma: float) -> tuple[Row, list[Row]]:
    """d/dm of -2/beta log sigma(-beta m - gamma) is 2 sigma(beta m + gamma), and m is the sum over n tokens, by n."""
    lengths = [ROW.count(b) for b in range(ANSWERS)]
    means = [total / n for total, n in zip(sums(log_probabilities(case.own)), lengths, strict=True)]
    values = [-2 / beta * math.log(sigma(-beta * m - gamma)) for m in means]
    return by_answer(case, values, [2 * sigma(beta * m + gamma) / n for m, n in zip(means, lengths, strict=True)])


def dpo_loop(case: Case, beta: float) -> tuple[Row, list[Row]]:
    """d/dr of -2/beta log sigma(beta (r_second - r)) is 2 sigma(beta (r - r_second))."""
    r, second = log_ratios(case.own, case.before), log_ratios(case.second, case.second_before)
    lead = [a - b for a, b in zip(second, r, strict=True)]
    values = [-2 / beta * math.log(sigma(beta * x)) for x in lead]
    return by_answer(case, values, [2 * sigma(-beta * x) for x in lead])


def cross_entropy_loop(case: Case, target: Callable[[Row, Row, int], Row]) -> tuple[Row, list[Row]]:
    """Return -sum q log p of each token; its gradient in the logits, with q held, is p - q."""
    values, gradient = [], []
    rows = zip(case.own.logits.tolist(), case.before.logits.tolist(), case.own.targets.tolist(), strict=True)
    for own, before, y in rows:
        logp, q = log_softmax(own), target(own, before, y)
        values.append(-math.fsum(a * b for a, b in zip(q, logp, strict=True)))
        gradient.append([math.exp(value) - share for value, share in zip(logp, q, strict=True)])
    return values, gradient


def shifted_target(beta: float) -> Callable[[Row, Row, int], Row]:
    def target(own: Row, before: Row, y: int) -> Row:
        return [math.exp(value) for value in log_softmax([z - beta * (k == y) for k, z in enumerate(before)])]

    return target


def without_target(own: Row, before: Row, y: int) -> Row:
    rest = math.fsum(math.exp(z) for k, z in enumerate(own) if k != y)
    return [0.0 if k == y else math.exp(z) / rest for k, z in enumerate(own)]


def margin_loop(case: Case) -> tuple[Row, list[Row]]:
    """The gradient of m^2 with m = max z - mean z is 2 m (1[k = argmax] - 1/V)."""
    margins = [max(row) - math.fsum(row) / VOCABULARY for row in case.own.logits.tolist()]
    gradient = [
        [2 * m * ((z == max(row)) - 1 / VOCABULARY) for z in row]
        for m, row in zip(margins, case.own.logits.tolist(), strict=True)
    ]
    return [m * m for m in margins], gradient


LOOPS: dict[str, tuple[dict[str, str], Callable[[Case], tuple[Row, list[Row]]]]] = {
    "grad_ascent": ({}, lambda case: weighted_ascent(case, lambda p: 1.0)),
    "grad_diff": ({}, lambda case: weighted_ascent(case, lambda p: 1.0)),
    "wga": ({"beta": "0.7"}, lambda case: weighted_ascent(case, lambda p: p**0.7)),
    "satimp": ({"beta1": "1.5", "beta2": "0.5"}, lambda case: weighted_ascent(case, lambda p: p**1.5 * (1 - p) ** 0.5)),
    "npo": ({"beta": "0.3"}, lambda case: npo_loop(case, 0.3)),
    "simnpo": ({"beta": "1.5", "gamma": "0.4"}, lambda case: simnpo_loop(case, 1.5, 0.4)),
    "dpo": ({"beta": "0.3"}, lambda case: dpo_loop(case, 0.3)),
    "altpo": ({"beta": "0.2"}, lambda case: dpo_loop(case, 0.2)),
    "undial": ({"beta": "2.5"}, lambda case: cross_entropy_loop(case, shifted_target(2.5))),
    "ceu": ({}, lambda case: cross_entropy_loop(case, without_target)),
    "pdu": ({}, margin_loop),
    "pdu_unshifted": ({}, margin_loop),
}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", sorted(set(EVERY) - {"rmu"}))
def test_value_and_gradient_equal_a_loop(name: str, seed: int) -> None:
    arguments, loop = LOOPS[name]
    case = random_case(seed)
    values, gradient = loop(case)
    found = case.objective(fitted(name, **arguments))
    assert found.tolist() == pytest.approx(values, rel=1e-11)
    found.sum().backward()
    torch.testing.assert_close(case.own.logits.grad, torch.tensor(gradient, dtype=torch.float64), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(("name", "beta"), [("dpo", 0.3), ("altpo", 0.2)])
def test_the_second_answer_is_pulled_as_hard_as_the_first_is_pushed(name: str, beta: float) -> None:
    """d/dr_second of -2/beta log sigma(beta (r_second - r)) is -2 sigma(beta (r - r_second))."""
    case = random_case()
    case.objective(fitted(name, beta=str(beta))).sum().backward()
    pairs = zip(log_ratios(case.own, case.before), log_ratios(case.second, case.second_before), strict=True)
    slopes = [-2 * sigma(beta * (r - second)) for r, second in pairs]
    expected = torch.tensor(slopes_to_gradient(case.second, [slopes[answer] for answer in ROW]), dtype=torch.float64)
    torch.testing.assert_close(case.second.logits.grad, expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("arguments", [{}, {"steering_coefficient": "2", "layer": "3", "seed": "5"}])
def test_rmu_equals_a_loop(arguments: dict[str, str]) -> None:
    """Mean over an answer's n tokens of the mean over D of (h - c u)^2; the gradient is 2 (h - c u) / (n D)."""
    case = random_case()
    method = fitted("rmu", **arguments)
    u = unit_vector(int(arguments.get("seed", SEED)), WIDTH)
    steered = [float(arguments.get("steering_coefficient", 6.5)) * x for x in u]
    differences = [[h - x for h, x in zip(row, steered, strict=True)] for row in case.own.hidden.tolist()]
    lengths = [ROW.count(b) for b in range(ANSWERS)]
    totals = sums([math.fsum(d * d for d in row) / WIDTH for row in differences])
    found = case.objective(method)
    assert found.tolist() == pytest.approx([t / n for t, n in zip(totals, lengths, strict=True)], rel=1e-12)
    found.sum().backward()
    expected = [[2 * d / (lengths[b] * WIDTH) for d in row] for b, row in zip(ROW, differences, strict=True)]
    torch.testing.assert_close(case.own.hidden.grad, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


def unit_vector(seed: int, width: int) -> Row:
    generator = random.Random(f"rmu {seed}")
    drawn = [generator.random() for _ in range(width)]
    length = math.sqrt(math.fsum(x * x for x in drawn))
    return [x / length for x in drawn]


def token_logp(*values: float, answers: int = 1) -> Passes:
    """The signals of so many answers of equal length, from the log-probabilities of their tokens."""
    row = torch.arange(answers).repeat_interleave(len(values) // answers)
    return Passes(Signals({"token_logp": torch.tensor(values, dtype=torch.float64)}, row, answers))


NOTHING = Passes(Signals({}, torch.tensor([0]), 1))
LOG_HALF = -math.log(2)


@pytest.mark.parametrize(
    ("method", "model", "reference", "expected"),
    [
        # p = 1/2: log p; p log p; p^5 (1 - p) log p = log p / 64
        (fitted("grad_ascent"), token_logp(LOG_HALF), NOTHING, LOG_HALF),
        (fitted("grad_diff"), token_logp(LOG_HALF), NOTHING, LOG_HALF),
        (fitted("wga"), token_logp(LOG_HALF), NOTHING, LOG_HALF / 2),
        (fitted("satimp"), token_logp(LOG_HALF), NOTHING, LOG_HALF / 64),
        # r = (-1 - 2) - (-0.5 - 0.5) = -2; -20 log sigma(0.2) = 20 log(1 + e^-0.2)
        (fitted("npo"), token_logp(-1, -2), token_logp(-0.5, -0.5), 20 * math.log(1 + math.exp(-0.2))),
        # mean -2: -2/4.5 log sigma(9) = log(1 + e^-9) / 2.25; with gamma 1, log(1 + e^-8) / 2.25
        (fitted("simnpo"), token_logp(-1, -3), NOTHING, math.log(1 + math.exp(-9)) / 2.25),
        (fitted("simnpo", gamma="1"), token_logp(-1, -3), NOTHING, math.log(1 + math.exp(-8)) / 2.25),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_likelihoods_by_hand(method: Method, model: Passes, reference: Passes, expected: float) -> None:
    assert method.objective(model, reference).tolist() == pytest.approx([expected], rel=1e-12)


@pytest.mark.parametrize("name", ["dpo", "altpo"])
def test_second_answers_by_hand(name: str) -> None:
    """r = -2 - -1 = -1 and r_second = -3 - -6 = 3: -20 log sigma(0.4) = 20 log(1 + e^-0.4)."""
    model = replace(token_logp(-2), second=token_logp(-3).forget)
    reference = replace(token_logp(-1), second=token_logp(-6).forget)
    found = fitted(name).objective(model, reference)
    assert found.tolist() == pytest.approx([20 * math.log(1 + math.exp(-0.4))], rel=1e-12)


def distilled(name: str, logits: Row, before: Row | None = None, **arguments: str) -> tuple[float, Row]:
    """The value at one token, the first of the vocabulary, and its gradient."""
    (need,) = fitted(name, **arguments).needs.head
    own = torch.tensor([logits], dtype=torch.float64, requires_grad=True)
    other = None if before is None else torch.tensor([before], dtype=torch.float64)
    value = need.plain(own, torch.tensor([0]), len(logits), other)
    value.sum().backward()
    return value.item(), own.grad[0].tolist()


def test_undial_by_hand() -> None:
    """Reference logits 3, 0 and beta 3: q = 1/2, 1/2. At p = 3/4, 1/4 the loss is -(log 3/4 + log 1/4)/2."""
    value, gradient = distilled("undial", [math.log(3), 0.0], [3.0, 0.0], beta="3")
    assert value == pytest.approx(-(math.log(0.75) + math.log(0.25)) / 2, rel=1e-12)
    assert gradient == pytest.approx([0.25, -0.25], rel=1e-12)


def test_ceu_by_hand() -> None:
    """p = 1/2, 1/4, 1/4 and the answer's token is the first: q = 0, 1/2, 1/2, the loss log 4, the gradient p - q."""
    value, gradient = distilled("ceu", [math.log(2), 0.0, 0.0])
    assert value == pytest.approx(math.log(4), rel=1e-12)
    assert gradient == pytest.approx([0.5, -0.25, -0.25], rel=1e-12)


def test_ceu_has_nothing_left_to_do_where_the_answer_has_no_probability() -> None:
    """Then its target is the model's own distribution; here uniform over two tokens."""
    value, gradient = distilled("ceu", [-1e4, 0.0, 0.0])
    assert value == pytest.approx(math.log(2), rel=1e-12)
    assert gradient == [0.0, 0.0, 0.0]


def test_undial_without_a_shift_is_at_its_least_at_the_reference() -> None:
    """The cross-entropy to q is the entropy of q at p = q, the least that it can be, and its gradient p - q is 0."""
    logits = [2.0, 0.5, -1.0, 0.0]
    value, gradient = distilled("undial", logits, logits, beta="0")
    assert value == pytest.approx(-math.fsum(math.exp(x) * x for x in log_softmax(logits)), rel=1e-12)
    assert gradient == pytest.approx([0.0] * 4, abs=1e-15)


@pytest.mark.parametrize("name", ["npo", "dpo", "altpo"])
def test_at_the_reference_the_loss_is_2_log_2_by_beta(name: str) -> None:
    """All log-ratios are 0, and sigma(0) is a half; the gradient in log p is then that of plain ascent."""
    case = random_case()
    same = replace(case, before=replace(case.own, logits=case.own.logits.detach()), second_before=case.second)
    found = same.objective(fitted(name))
    assert found.tolist() == pytest.approx([20 * math.log(2)] * ANSWERS, rel=1e-12)
    found.sum().backward()
    ascent = torch.tensor(slopes_to_gradient(case.own, [1.0] * len(ROW)), dtype=torch.float64)
    torch.testing.assert_close(case.own.logits.grad, ascent, rtol=1e-9, atol=1e-13)


def test_npo_becomes_gradient_ascent_as_beta_goes_to_0() -> None:
    """The slope 2 sigma(beta r) goes to 1, with an error of beta r / 2."""
    betas, errors = ("1e-2", "1e-4", "1e-6"), []
    for beta in betas:
        case = random_case()
        case.objective(fitted("npo", beta=beta)).sum().backward()
        ascent = torch.tensor(slopes_to_gradient(case.own, [1.0] * len(ROW)), dtype=torch.float64)
        errors.append((case.own.logits.grad - ascent).abs().max().item())
    largest = max(abs(r) for r in log_ratios(case.own, case.before))
    assert all(0 < error <= float(beta) * largest / 2 for beta, error in zip(betas, errors, strict=True))


def test_simnpo_is_npo_on_means_with_a_constant_reference() -> None:
    """-beta (m + gamma / beta) = -beta m - gamma: the reference is one that gives each answer exp(-gamma / beta)."""
    beta, gamma = 2.5, 0.75
    logp = [-0.3, -1.1, -4.0, -0.2, -2.2, -0.9]
    means = [sum(logp[:3]) / 3, sum(logp[3:]) / 3]
    constant = token_logp(*[-gamma / beta] * 2, answers=2)
    npo = fitted("npo", beta=str(beta)).objective(token_logp(*means, answers=2), constant)
    simnpo = fitted("simnpo", beta=str(beta), gamma=str(gamma)).objective(token_logp(*logp, answers=2), NOTHING)
    torch.testing.assert_close(simnpo, npo, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("name", "arguments"), [("wga", {"beta": "0"}), ("satimp", {"beta1": "0", "beta2": "0"})])
def test_without_weights_it_is_gradient_ascent(name: str, arguments: dict[str, str]) -> None:
    """Also at p = 1, where 1 - p is 0: 0^0 is 1."""
    logp = torch.tensor([0.0, -0.5, -30.0], requires_grad=True)
    passes = Passes(Signals({"token_logp": logp}, torch.tensor([0, 0, 0]), 1))
    found = fitted(name, **arguments).objective(passes, NOTHING)
    found.sum().backward()
    assert found.tolist() == [0.0, -0.5, -30.0]
    assert logp.grad.tolist() == [1.0, 1.0, 1.0]


def test_satimp_s_weight_keeps_its_digits_where_the_model_is_sure() -> None:
    """1 - p is 1e-6 to seven digits, of which float32's p itself has one; a log p rounded above 0 weighs nothing."""
    logp = torch.tensor([-1e-6, 0.0, 1e-8], requires_grad=True)
    passes = Passes(Signals({"token_logp": logp}, torch.tensor([0, 0, 0]), 1))
    fitted("satimp", beta1="5", beta2="0.5").objective(passes, NOTHING).sum().backward()
    assert logp.grad.tolist() == pytest.approx([math.exp(-5e-6) * math.sqrt(-math.expm1(-1e-6)), 0.0, 0.0], rel=1e-6)


@pytest.mark.parametrize("scale", [0.0, 1e-3, 1e4])
@pytest.mark.parametrize("name", EVERY)
def test_extreme_logits_give_finite_values_and_gradients(name: str, scale: float) -> None:
    """From equal logits to ones that are 1e4 apart, p from 1/V to exactly 0 and 1, in float32."""
    case = random_case(scale=scale)
    parts = {key: getattr(case, key) for key in ("own", "second", "before", "second_before")}
    narrow = {key: Inputs(x.logits.detach().float(), x.targets, x.hidden.detach().float()) for key, x in parts.items()}
    own = narrow["own"].leaves()
    found = Case(own, narrow["second"], narrow["before"], narrow["second_before"]).objective(fitted(name))
    assert found.dtype == torch.float32
    assert torch.isfinite(found).all()
    found.sum().backward()
    read = own.hidden if name == "rmu" else own.logits
    assert torch.isfinite(read.grad).all()


def test_hidden_rows_in_half_precision_are_widened() -> None:
    """The distance of a bfloat16 row to c u is that of its float32 copy."""
    hidden = (3 * torch.randn(len(ROW), WIDTH, generator=torch.Generator().manual_seed(3))).bfloat16()
    half, wide = (
        fitted("rmu").objective(Passes(Signals({"hidden_7": rows}, torch.tensor(ROW), ANSWERS)), NOTHING)
        for rows in (hidden, hidden.float())
    )
    assert half.dtype == torch.float32
    assert half.tolist() == wide.tolist()


@pytest.mark.parametrize("name", EVERY)
def test_nothing_is_read_back_and_no_shape_depends_on_a_value(name: str) -> None:
    """Tensors of the device "meta" have a shape and no values: whoever asks for one fails."""
    case = random_case()
    parts = [getattr(case, key) for key in ("own", "second", "before", "second_before")]
    shapes = [Inputs(x.logits.to("meta"), x.targets.to("meta"), x.hidden.to("meta")) for x in parts]
    method = fitted(name)
    found = Case(*shapes).objective(method)
    assert found.shape == ((len(ROW),) if method.unit == "token" else (ANSWERS,))


def test_rows_that_the_tokenizer_does_not_know_take_no_part_in_a_distillation() -> None:
    """Of 5 rows the tokenizer knows 4: the fifth, the likeliest, is in neither distribution."""
    for name in ("undial", "ceu"):
        (need,) = fitted(name).needs.head
        own = torch.tensor([[1.0, 4.0, 2.0, 1.0, 100.0]], dtype=torch.float64, requires_grad=True)
        before = torch.tensor([[0.0, 1.0, 0.5, 2.0, 100.0]], dtype=torch.float64)
        whole = need.plain(own[:, :4], torch.tensor([1]), 4, before[:, :4])
        found = need.plain(own, torch.tensor([1]), 4, before)
        assert found.item() == whole.item()
        found.sum().backward()
        assert own.grad[0, 4].item() == 0.0


def test_gradient_difference_is_gradient_ascent_beside_a_retention() -> None:
    case = random_case()
    assert case.objective(fitted("grad_diff")).tolist() == case.objective(fitted("grad_ascent")).tolist()


@pytest.mark.parametrize("name", EVERY)
def test_a_method_reads_what_it_declares_and_nothing_else(name: str) -> None:
    """Signals without one of the declared ones are an error."""
    method = fitted(name)
    signals = random_case().own.signals(method.needs, random_case().before)
    signals.values.pop(next(iter(method.needs.names)))
    with pytest.raises(AttributeError, match="was not declared"):
        method.objective(Passes(signals, signals), Passes(signals, signals))
