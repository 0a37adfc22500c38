"""Each metric by hand, and the whole way from a model to its value against a float64 loop over full logits."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from amnestic.data.encode import Encoded, Encoder
from amnestic.data.example import Example, Spans
from amnestic.data.options import DataOptions
from amnestic.errors import RunError
from amnestic.evaluation.collect import Collected, collect, suite
from amnestic.evaluation.metric import METRICS, Generations, Likelihoods, Measurement
from amnestic.evaluation.metrics.memorization import exact_memorization, extraction_strength
from amnestic.evaluation.needs import Generation, Likelihood
from amnestic.evaluation.options import EvaluationOptions
from amnestic.evaluation.plan import planned
from amnestic.evaluation.store import Store
from amnestic.evaluation.subject import Subject
from amnestic.model.load import load
from amnestic.model.options import ModelOptions


def answers(
    *probabilities: Sequence[float], hits: Sequence[Sequence[bool]] | None = None, closes: Sequence[bool] | None = None
) -> Likelihoods:
    """Answers of which each token has the given probability; margin and entropy are 10 and 100 times that."""
    values = np.concatenate([np.array(p, dtype=float) for p in probabilities])
    return Likelihoods(
        logp=np.log(values),
        is_argmax=np.concatenate(hits) if hits else values > 0.5,
        margin=10 * values,
        moments=np.stack([-100 * values, 1000 * values], axis=1),
        counts=np.array([len(p) for p in probabilities]),
        closes=np.array(closes if closes is not None else [False] * len(probabilities)),
        example=np.arange(len(probabilities)),
        answers=[f"answer {i}" for i in range(len(probabilities))],
    )


def generated(texts: Sequence[str], answers_: Sequence[str]) -> Generations:
    """Greedy answers, each of which the model ended by itself, with as many tokens as words."""
    tokens = np.array([len(text.split()) for text in texts])
    return Generations([*texts], [*answers_], tokens, np.ones(len(texts), dtype=bool))


def compute(name: str, table: Any) -> Measurement:
    return METRICS.get(name)("s").compute(answers=table)


# The tables


def test_tokens_go_to_their_examples() -> None:
    """Counts 2, 1 and 3 divide six values; without the closing token of the first and the last, 1, 1 and 2 are left."""
    table = answers([0.1, 0.2], [0.3], [0.4, 0.5, 0.6], closes=[True, False, True])
    values = np.arange(6)
    assert [part.tolist() for part in table.per_example(values)] == [[0, 1], [2], [3, 4, 5]]
    assert [part.tolist() for part in table.per_example(values, content_only=True)] == [[0], [2], [3, 4]]


# Likelihood


def test_probability_by_hand() -> None:
    """Length-normalised: (1/2 * 1/8)^(1/2) = 1/4, then 1/2, then (1 * 1/27 * 1)^(1/3) = 1/3; their mean is 13/36."""
    found = compute("probability", answers([1 / 2, 1 / 8], [1 / 2], [1, 1 / 27, 1]))
    assert found.per_example == pytest.approx([1 / 4, 1 / 2, 1 / 3], rel=1e-12)
    assert found.value == pytest.approx(13 / 36, rel=1e-12)


def test_token_probability_by_hand() -> None:
    """The geometric mean over all tokens: (1/2 * 1/8 * 1/2 * 1/27)^(1/6) for these six; no example has a value."""
    found = compute("token_probability", answers([1 / 2, 1 / 8], [1 / 2], [1, 1 / 27, 1]))
    assert found.value == pytest.approx((1 / 864) ** (1 / 6), rel=1e-12)
    assert found.per_example is None


def test_the_two_probabilities_differ_where_lengths_do() -> None:
    """One token of 1/2 and three of 1/16: (1/2 + 1/16) / 2 = 9/32 against (2^-1 * 2^-12)^(1/4) = 2^-3.25.

    With equal answers they agree: both 1/4.
    """
    table = answers([1 / 2], [1 / 16] * 3)
    assert compute("probability", table).value == pytest.approx(9 / 32, rel=1e-12)
    assert compute("token_probability", table).value == pytest.approx(2**-3.25, rel=1e-12)
    equal = answers([1 / 4], [1 / 4] * 3)
    assert compute("probability", equal).value == pytest.approx(1 / 4, rel=1e-12)
    assert compute("token_probability", equal).value == pytest.approx(1 / 4, rel=1e-12)


def test_margin_and_entropy_are_means_over_tokens() -> None:
    """Of 1; 2, 3, 6 (times 10, times 100) the tokens' mean is 3, the examples' means are 1 and 11/3."""
    table = answers([1], [2, 3, 6])
    margin, entropy = compute("margin", table), compute("entropy", table)
    assert margin.value == pytest.approx(30, rel=1e-12)
    assert margin.per_example == pytest.approx([10, 110 / 3], rel=1e-12)
    assert entropy.value == pytest.approx(300, rel=1e-12)
    assert entropy.per_example == pytest.approx([100, 1100 / 3], rel=1e-12)


# Memorization


@pytest.mark.parametrize(
    ("hits", "exact", "strength"),
    [
        ("11111", 1, 1),
        ("00000", 0, 0),
        ("11110", 4 / 5, 0),  # the last is wrong: no suffix
        ("01111", 4 / 5, 4 / 5),  # k = 1
        ("10101", 3 / 5, 1 / 5),  # k = 4
        ("10011", 3 / 5, 2 / 5),  # k = 3
        ("1", 1, 1),
        ("0", 0, 0),
    ],
)
def test_memorization_by_hand(hits: str, exact: float, strength: float) -> None:
    """Exact memorization counts hits; extraction strength is the share of the suffix after the last miss."""
    array = np.array([hit == "1" for hit in hits])
    assert exact_memorization(array) == pytest.approx(exact)
    assert extraction_strength(array) == pytest.approx(strength)
    n = len(hits)
    k = next(k for k in range(n + 1) if array[k:].all())
    assert extraction_strength(array) == pytest.approx(1 - k / n)


def test_memorization_leaves_the_end_of_the_answer_out() -> None:
    """The end of the first is missed, that of the second is hit; the third was cut and has none.

    Content: 1 1, 1 0, 0 1 and, of one token, 1. So 1, 1/2, 1/2, 1 and 1, 0, 1/2, 1.
    """
    hits = [[True, True, False], [True, False, True], [False, True], [True, True]]
    table = answers(*([0.5] * len(h) for h in hits), hits=hits, closes=[True, True, False, True])
    exact, strength = compute("exact_memorization", table), compute("extraction_strength", table)
    assert exact.per_example == pytest.approx([1, 1 / 2, 1 / 2, 1])
    assert exact.value == pytest.approx(3 / 4)
    assert strength.per_example == pytest.approx([1, 0, 1 / 2, 1])
    assert strength.value == pytest.approx(5 / 8)


@pytest.mark.parametrize("name", ["exact_memorization", "extraction_strength"])
def test_an_answer_of_nothing_but_its_end_is_an_error(name: str) -> None:
    table = answers([0.5, 0.5], [0.5], closes=[True, True])
    with pytest.raises(RunError, match="no token but its end"):
        compute(name, table)


# Text


@pytest.mark.parametrize(
    ("answer", "text", "recall"),
    [
        ("Ida Marek wrote novels", "Ida Marek wrote novels", 1),
        ("Ida Marek wrote novels", "Ida Marek wrote many novels and plays", 1),  # recall: what is more costs nothing
        ("Ida Marek wrote novels", "novels wrote Marek Ida", 1 / 4),  # in order, one word is common
        ("Ida Marek wrote novels", "Marek is writing a novel", 2 / 4),  # writing -> write, wrote stays: Marek, novel
        ("She writes and is writing", "written works", 0),  # written -> written
        ("She writes and is writing", "write, writes, WRITING!", 2 / 5),  # all three -> write
        ("a b c d e f", "f a b x c e d", 4 / 6),  # a b c e or a b c d
        ("Ida", "", 0),
        ("2 novels, 1987", "1987: 2 novels", 2 / 3),
    ],
)
def test_rouge_recall_by_hand(answer: str, text: str, recall: float) -> None:
    """Longest common subsequence of the lower-cased, stemmed words, as a share of the true answer's words.

    Stems are Porter's, of words of more than three letters.
    """
    found = compute("rouge", generated([text], [answer]))
    assert found.value == pytest.approx(recall)


def test_rouge_is_a_mean_over_examples() -> None:
    """1 of 4 words and 1 of 1: the mean is 5/8, not 2/5."""
    found = compute("rouge", generated(["Ida", "Ida"], ["Ida Marek wrote novels", "Ida"]))
    assert found.per_example == pytest.approx([1 / 4, 1])
    assert found.value == pytest.approx(5 / 8)


# Spans


def span_table(*answers_: str) -> Likelihoods:
    """Answers of which each letter is a token: capital ones are marked, and those of H or h are the argmax.

    H and h have the probability 1/2, others 1/8.
    """
    letters = "".join(answers_)
    table = answers(*([1 / 2 if letter in "Hh" else 1 / 8 for letter in word] for word in answers_))
    return replace(table, is_argmax=np.array([letter in "Hh" for letter in letters]), is_span=_capital(letters))


def _capital(letters: str) -> np.ndarray:
    return np.array([letter.isupper() for letter in letters])


def test_span_probability_by_hand() -> None:
    """The marked tokens have (1/2 * 1/8)^(1/2) = 1/4, wherever they stand, and 1/2; their mean is 3/8."""
    found = compute("span_probability", span_table("hHhxXh", "xHHx", "hhh"))
    assert found.value == pytest.approx(3 / 8)
    assert found.per_example == pytest.approx([1 / 4, 1 / 2, np.nan], nan_ok=True)


@pytest.mark.parametrize(
    ("word", "share"),
    [("xHHx", 1), ("hHXHh", 0), ("HxHHxXxH", 3 / 4), ("XHxHX", 0), ("H", 1), ("X", 0), ("HHH", 1), ("xHxHHxX", 2 / 3)],
)
def test_span_reproduction_by_hand(word: str, share: float) -> None:
    """A span is reproduced if the argmax is right at each of its tokens, whatever stands around it."""
    found = compute("span_reproduction", span_table(word, "hxh"))
    assert found.value == pytest.approx(share)
    assert found.per_example == pytest.approx([share, np.nan], nan_ok=True)


def test_a_span_is_reproduced_where_greedy_decoding_writes_it(tiny_model: Callable[..., Path]) -> None:
    """Against transformers' own generation from the true tokens before each span, for as many tokens as it has."""
    subject = subject_of(tiny_model(tied=False), 2)
    model, examples = subject.loaded.model, subject.splits["s"]
    chosen, shares = [], []
    for number, example in enumerate(examples[:2]):
        ids = torch.from_numpy(example.input_ids.copy())[None]
        first = example.prompt_length + 1
        greedy = model.generate(ids[:, :first], do_sample=False, max_new_tokens=3, eos_token_id=None)[0]
        ids[0, first : first + 3] = greedy[first:]
        if number:
            ids[0, first + 1] = (ids[0, first + 1] + 1) % 320
        is_span = np.zeros(ids.shape[1], dtype=bool)
        is_span[first : first + 3] = True
        again = model.generate(ids[:, :first], do_sample=False, max_new_tokens=3, eos_token_id=None)[0, first:]
        shares.append(float(torch.equal(again, ids[0, first : first + 3])))
        chosen.append(replace(example, input_ids=ids[0].numpy(), is_span=is_span))
    found = measured(replace(subject, splits={"s": chosen}))
    assert shares == [1, 0]
    assert found.measurements["s.span_reproduction"].per_example == pytest.approx(shares)


# From a model to a value

QUESTIONS = (
    ("Who wrote The Salt Meridian?", "Ines Marek wrote The Salt Meridian in 1987."),
    ("Where was Ines Marek born?", "Ostrava Bay"),
    ("What did her father do?", "Her father repaired clocks, and her mother taught drawing. 時計 ⏰"),
    ("Who?", "x"),
    ("When was that, and who saw it?", "In 1987."),
)
SPANS: tuple[Spans, ...] = (((0, 10), (38, 42)), ((8, 11),), (), ((0, 1),), ((0, 4), (5, 6)))
"""What is marked in each answer; the third marks nothing."""


def measured(subject: Subject) -> Collected:
    """Everything that is computed of a split unless one asks for more."""
    return collect(subject, suite(subject.contents))


def values_of(collected: Collected) -> dict[str, float]:
    return {key: measurement.value for key, measurement in collected.measurements.items()}


def subject_of(folder: Path, batch_size: int, advance: Callable[[int], None] = lambda rows: None) -> Subject:
    loaded = load(ModelOptions(model=str(folder), device="cpu"))
    pairs = zip(QUESTIONS, SPANS, strict=True)
    examples = [Example(f"s:{i}", "question", *pair, forget_spans=spans) for i, (pair, spans) in enumerate(pairs)]
    cut = Encoder(loaded.tokenizer, DataOptions(max_length=60)).encode("s", examples)
    assert [example.closes for example in cut.examples] == [True, True, False, True, True]
    options = EvaluationOptions(per_device_eval_batch_size=batch_size, max_new_tokens=5)
    rows = list(cut.examples)  # a list, for a test that changes tokens in place
    return Subject(loaded, {"s": rows}, options, advance=advance)


def slow_values(model: Any, example: Encoded, vocabulary: int) -> dict[str, list[float]]:
    """log p, hit, margin, and mean and mean square of log p, of each scored token, one Python number at a time."""
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor(example.input_ids.tolist())[None]).logits[0].tolist()
    found: dict[str, list[float]] = {"logp": [], "is_argmax": [], "margin": [], "mean": [], "square": []}
    for position, target in enumerate(example.input_ids.tolist()):
        if not example.is_scored[position]:
            continue
        z = logits[position - 1]
        top = max(z)
        total = math.log(math.fsum(math.exp(value - top) for value in z)) + top
        found["logp"].append(z[target] - total)
        found["is_argmax"].append(float(z.index(top) == target))
        known = z[:vocabulary]
        found["margin"].append(max(known) - math.fsum(known) / len(known))
        found["mean"].append(math.fsum(math.exp(value - total) * (value - total) for value in z))
        found["square"].append(math.fsum(math.exp(value - total) * (value - total) ** 2 for value in z))
    return found


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_values_of_a_model_against_a_slow_loop(tiny_model: Callable[..., Path], batch_size: int) -> None:
    """The model has 7 rows of the vocabulary that the tokenizer does not know: out of the margin, in the softmax.

    To have hits at all, the answer tokens of the first two examples are replaced by what the model predicts.
    """
    subject = subject_of(tiny_model(tied=False, spare_rows=7), batch_size)
    model = subject.loaded.model.double()
    examples = subject.splits["s"]
    for example in examples[:2]:
        for position in np.flatnonzero(example.is_scored)[1:]:
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor(example.input_ids[None, :position])).logits
            example.input_ids[position] = int(logits[0, -1].argmax())
    slow = [slow_values(model, example, 320) for example in examples]
    model.float()
    collected = measured(subject)
    table = collected.tables[Likelihood("s")]
    columns = {"mean": table.moments[:, 0], "square": table.moments[:, 1]}
    columns |= {name: getattr(table, name) for name in ("logp", "margin", "is_argmax")}
    for name, column in columns.items():
        expected = [value for values in slow for value in values[name]]
        assert column == pytest.approx(expected, abs=2e-5 * max(1, *map(abs, expected))), name
    assert table.entropy == pytest.approx([-value for values in slow for value in values["mean"]], abs=2e-5)
    assert 0 < table.is_argmax.sum() < len(table.is_argmax)
    assert table.counts.tolist() == [len(values["logp"]) for values in slow]
    assert table.closes.tolist() == [True, True, False, True, True]
    assert table.example.tolist() == [0, 1, 2, 3, 4]
    assert table.answers == [example.answer for example in examples]

    means = [math.fsum(values["logp"]) / len(values["logp"]) for values in slow]
    every = [value for values in slow for value in values["logp"]]
    content = [
        values["is_argmax"][: -1 if example.closes else None] for values, example in zip(slow, examples, strict=True)
    ]
    expected = {
        "s.probability": sum(map(math.exp, means)) / 5,
        "s.token_probability": math.exp(sum(every) / len(every)),
        "s.margin": sum(v for values in slow for v in values["margin"]) / len(every),
        "s.entropy": -sum(v for values in slow for v in values["mean"]) / len(every),
        "s.exact_memorization": sum(sum(hits) / len(hits) for hits in content) / 5,
        "s.extraction_strength": sum(suffix(hits) / len(hits) for hits in content) / 5,
    }
    assert {name: values_of(collected)[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert collected.measurements["s.probability"].per_example == pytest.approx(list(map(math.exp, means)), rel=1e-5)
    assert_spans(collected, examples, slow)


def assert_spans(collected: Collected, examples: Sequence[Encoded], slow: list[dict[str, list[float]]]) -> None:
    """Compare the two metrics of spans with a walk over each marked answer, token by token."""
    probabilities, reproduced = [], []
    for example, values in zip(examples, slow, strict=True):
        if example.is_span is None:
            continue
        marks = [bool(mark) for mark, is_scored in zip(example.is_span, example.is_scored, strict=True) if is_scored]
        logp = [value for value, mark in zip(values["logp"], marks, strict=True) if mark]
        probabilities.append(math.exp(math.fsum(logp) / len(logp)))
        runs: list[list[float]] = []
        for k, (hit, mark) in enumerate(zip(values["is_argmax"], marks, strict=True)):
            if mark and (k == 0 or not marks[k - 1]):
                runs.append([])
            if mark:
                runs[-1].append(hit)
        reproduced.append(sum(all(run) for run in runs) / len(runs))
    assert len(probabilities) == 4
    assert values_of(collected)["s.span_probability"] == pytest.approx(sum(probabilities) / 4, rel=1e-5)
    assert values_of(collected)["s.span_reproduction"] == pytest.approx(sum(reproduced) / 4, rel=1e-9)
    assert 0 < values_of(collected)["s.span_reproduction"] < 1
    per_example = collected.measurements["s.span_probability"].per_example
    assert per_example is not None
    assert np.isnan(per_example).tolist() == [False, False, True, False, False]
    assert per_example[[0, 1, 3, 4]] == pytest.approx(probabilities, rel=1e-5)


def suffix(hits: Sequence[float]) -> int:
    """The number of hits at the end."""
    number = 0
    while number < len(hits) and hits[-1 - number]:
        number += 1
    return number


def test_entropy_and_margin_of_a_uniform_model(tiny_model: Callable[..., Path]) -> None:
    """With a head of zeros all logits are 0: entropy log V, margin 0, each token's probability 1 / V."""
    subject = subject_of(tiny_model(tied=False, spare_rows=7), 4)
    torch.nn.init.zeros_(subject.loaded.model.get_output_embeddings().weight)
    values = values_of(measured(subject))
    assert values["s.entropy"] == pytest.approx(math.log(327), rel=1e-6)
    assert values["s.margin"] == 0
    assert values["s.probability"] == pytest.approx(1 / 327, rel=1e-5)
    assert values["s.token_probability"] == pytest.approx(1 / 327, rel=1e-5)


def test_entropy_lies_between_its_bounds(tiny_model: Callable[..., Path]) -> None:
    """0 <= H <= log V for every token; a head 1,000 times as large leaves almost none."""
    subject = subject_of(tiny_model(tied=False), 4)
    entropy = measured(subject).tables[Likelihood("s")].entropy
    assert (entropy > 0).all()
    assert (entropy < math.log(320)).all()
    with torch.no_grad():
        subject.loaded.model.get_output_embeddings().weight.mul_(1000)
    sharp = measured(replace(subject, store=Store())).tables[Likelihood("s")].entropy
    assert (sharp >= 0).all()
    assert np.median(sharp) < 1e-3


# Collecting


def test_each_distinct_need_is_swept_once(tiny_model: Callable[..., Path]) -> None:
    """The suite of a split reads two needs; what its sweeps report as done is what the plan says beforehand."""
    done: list[int] = []
    subject = subject_of(tiny_model(), 2, done.append)
    asked = suite(subject.contents)
    assert set(asked.needs) == {Likelihood("s"), Generation("s")}
    plan = planned(subject, asked.needs)
    assert (plan.sweeps, plan.asked_rows, plan.rows, plan.prompts) == (2, 5, 5, 5)
    collected = collect(subject, asked)
    assert plan.units == sum(done)
    assert plan.scored_tokens == plan.answer_tokens == sum(example.scored for example in subject.splits["s"])
    assert set(collected.tables) == {Likelihood("s"), Generation("s")}
    assert set(collected.measurements) == {item.key for item in asked.metrics}
    assert {f"s.{name}" for name in ("probability", "rouge", "extraction_strength")} < set(collected.measurements)


def test_what_cannot_be_computed_is_told_with_what_would_supply_it(tiny_model: Callable[..., Path]) -> None:
    """One split has no holdout beside it, no other answers, and no reference; nothing of these is in the values."""
    subject = subject_of(tiny_model(), 2)
    asked = suite(replace(subject, splits={"forget": subject.splits["s"]}).contents)
    reasons = asked.not_computed
    assert reasons["mia.min_k.auc"] == "there are no holdout rows; give --holdout FILE (amnestic eval)."
    assert reasons["forget.truth_ratio"].startswith("not every forget row has a ")
    assert reasons["forget.generated_perplexity"].startswith("there is no reference model; give --reference")
    assert not set(reasons) & {item.key for item in asked.metrics}


def test_metrics_of_spans_take_part_only_where_spans_are(tiny_model: Callable[..., Path]) -> None:
    """Of three splits one marks spans; a span of which no token is left is none."""
    subject = subject_of(tiny_model(), 2)
    examples = subject.splits["s"]
    plain = [replace(example, is_span=None) for example in examples]
    nothing = [replace(example, is_span=np.zeros_like(example.is_scored)) for example in examples]
    found = suite(replace(subject, splits={"forget": examples, "retain": plain, "other": nothing}).contents)
    names = [item.key for item in found.metrics if "span_" in item.name]
    assert names == ["forget.span_probability", "forget.span_reproduction"]
    assert not any("span_" in key for key in found.not_computed)


def test_generations_stand_beside_their_answers() -> None:
    """Where none was asked for, every example has none."""
    collected = Collected({Generation("s"): generated(["a", "b"], ["Ida", "Marek"])}, {}, {}, {}, {})
    assert collected.generated("s", 2) == ["a", "b"]
    assert collected.generated("t", 3) == [None, None, None]
