"""What holds for every registered metric, the next one included."""

import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from amnestic.data.encode import Encoded, Encoder
from amnestic.data.example import Example
from amnestic.data.options import DataOptions
from amnestic.evaluation.collect import collect, suite
from amnestic.evaluation.metric import METRICS, Measurement
from amnestic.evaluation.needs import Likelihood, Subject
from amnestic.evaluation.options import EvaluationOptions
from amnestic.model.load import load
from amnestic.model.options import ModelOptions

EVERY = METRICS.names()
TOKEN_MEANS = {"margin", "entropy"}
"""Their value is the mean over tokens; the other metrics with values of examples average these."""
RANGES = {"margin": (0, np.inf), "entropy": (0, np.log(320))}
"""Of the metrics that are no shares."""
EXAMPLES = 9

Measure = Callable[..., dict[str, Measurement]]


@pytest.fixture(scope="module")
def subject(tiny_model: Callable[..., Path]) -> Subject:
    """Questions and a text of many lengths, some cut, with one or two words marked, and a model that half knows them.

    It is measured in float64: rounding hides nothing.
    """
    loaded = load(ModelOptions(model=str(tiny_model(tied=False, seed=1)), device="cpu"))
    words = "Ines Marek wrote The Salt Meridian in 1987 by the harbour of Ostrava Bay"
    random = np.random.default_rng(4)
    examples = []
    for number in range(EXAMPLES):
        text = " ".join(random.choice(words.split(), int(random.integers(1, 12))))
        kind, prompt = ("text", "") if number == 5 else ("question", f"Who wrote {words[: 3 * number]}?")
        ends = [match.span() for match in re.finditer(r"\w+", text)]
        examples.append(Example(f"s:{number}", kind, prompt, text, tuple(ends[:3:2])))
    split = Encoder(loaded.tokenizer, DataOptions(max_length=40)).encode("s", examples)
    assert len(split.examples) == EXAMPLES
    assert split.too_long > 0
    half_learn(loaded.model, split.examples)
    loaded.model.double()
    return Subject(loaded, {"s": split.examples}, EvaluationOptions())


def half_learn(model: Any, examples: list[Encoded]) -> None:
    """Fit the first six examples, so that some answers are known and others are not."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(90):
        ids = torch.from_numpy(examples[step % 6].input_ids)[None]
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.fixture(scope="module")
def measure(subject: Subject) -> Measure:
    """Measure chosen examples in batches of a given size."""

    def run(chosen: list[int], batch_size: int = 4) -> dict[str, Measurement]:
        options = EvaluationOptions(max_new_tokens=24, per_device_eval_batch_size=batch_size)
        splits = {"s": [subject.splits["s"][i] for i in chosen]}
        return collect(replace(subject, splits=splits, options=options), suite(splits)).measurements

    return run


@pytest.fixture(scope="module")
def whole(measure: Measure) -> dict[str, Measurement]:
    return measure(list(range(EXAMPLES)))


@pytest.fixture(scope="module")
def others(measure: Measure) -> dict[str, tuple[list[int], dict[str, Measurement]]]:
    """The same examples in other orders and batches."""
    shuffled = np.random.default_rng(0).permutation(EXAMPLES).tolist()
    cases = {"one by one": (list(range(EXAMPLES)), 1), "all at once": (list(range(EXAMPLES)), 50)}
    cases |= {"backwards": (list(range(EXAMPLES))[::-1], 4), "shuffled": (shuffled, 3)}
    return {case: (order, measure(order, size)) for case, (order, size) in cases.items()}


@pytest.fixture(scope="module")
def alone(measure: Measure) -> list[dict[str, Measurement]]:
    """Each example as a split of its own."""
    return [measure([i]) for i in range(EXAMPLES)]


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("case", ["one by one", "all at once", "backwards", "shuffled"])
def test_order_and_batch_size_change_nothing(
    name: str,
    case: str,
    whole: dict[str, Measurement],
    others: dict[str, tuple[list[int], dict[str, Measurement]]],
) -> None:
    order, found = others[case]
    expected, other = whole[f"s.{name}"], found[f"s.{name}"]
    assert other.value == pytest.approx(expected.value, rel=1e-9, abs=1e-12)
    assert (other.per_example is None) == (expected.per_example is None)
    if other.per_example is not None and expected.per_example is not None:
        assert other.per_example == pytest.approx(expected.per_example[order], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", EVERY)
def test_values_of_examples(
    name: str, whole: dict[str, Measurement], alone: list[dict[str, Measurement]], subject: Subject
) -> None:
    """Each is what the example has as a split of its own, and their mean, over examples or tokens, is the value."""
    found = whole[f"s.{name}"]
    if found.per_example is None:
        assert all(measured[f"s.{name}"].per_example is None for measured in alone)
        return
    values = [measured[f"s.{name}"].value for measured in alone]
    assert found.per_example == pytest.approx(values, rel=1e-9, abs=1e-12)
    assert len(set(np.round(values, 9))) > 2, "too much alike: nothing can be told from these examples"
    counts = [example.scored for example in subject.splits["s"]] if name in TOKEN_MEANS else None
    assert found.value == pytest.approx(float(np.average(values, weights=counts)), rel=1e-9)


@pytest.mark.parametrize("name", EVERY)
def test_values_lie_in_their_range(name: str, whole: dict[str, Measurement]) -> None:
    """A share unless RANGES knows better."""
    low, high = RANGES.get(name, (0, 1))
    found = whole[f"s.{name}"]
    assert low <= found.value <= high
    assert isinstance(found.value, float)
    if found.per_example is not None:
        assert (found.per_example >= low).all()
        assert (found.per_example <= high).all()


@pytest.mark.parametrize("name", EVERY)
def test_needs_are_arguments_of_compute_and_comparable(name: str) -> None:
    """Equal metrics have equal needs, so that one sweep serves both; another split is another need."""
    cls = METRICS.get(name)
    assert cls("s") == cls("s")
    assert cls("s").needs() == cls("s").needs()
    assert set(map(hash, cls("s").needs().values())).isdisjoint(map(hash, cls("t").needs().values()))
    assert all(need.split == "s" for need in cls("s").needs().values())
    assert next(iter(fields(cls))).name == "split"
    assert cls.name == name


def test_the_probabilities_of_a_text_read_every_token_but_the_first(subject: Subject) -> None:
    """The sixth example is a text: its counts are its tokens less one."""
    table = Likelihood("s").measure(subject)
    assert table.counts[5] == len(subject.splits["s"][5].input_ids) - 1
    assert not table.closes[5]
