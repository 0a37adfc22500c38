"""What holds for every registered metric, the next one included."""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from amnestic.data.encode import Encoder
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
    """Questions and texts of many lengths, one of them cut, on a random model in float64: rounding hides nothing."""
    loaded = load(ModelOptions(model=str(tiny_model(tied=False, seed=1)), device="cpu"))
    loaded.model.double()
    words = "Ines Marek wrote The Salt Meridian in 1987 by the harbour of Ostrava Bay".split()
    random = np.random.default_rng(4)
    examples = []
    for number in range(EXAMPLES):
        text = " ".join(random.choice(words, int(random.integers(1, 12))))
        kind, prompt = ("text", "") if number == 5 else ("question", f"Who wrote {' '.join(words[: number % 4])}?")
        examples.append(Example(f"s:{number}", kind, prompt, text))
    split = Encoder(loaded.tokenizer, DataOptions(max_length=40)).encode("s", examples)
    assert len(split.examples) == EXAMPLES
    assert split.too_long > 0
    return Subject(loaded, {"s": split.examples}, EvaluationOptions(max_new_tokens=6))


@pytest.fixture(scope="module")
def measure(subject: Subject) -> Measure:
    """Measure chosen examples in batches of a given size."""

    def run(chosen: list[int], batch_size: int = 4) -> dict[str, Measurement]:
        options = EvaluationOptions(max_new_tokens=6, per_device_eval_batch_size=batch_size)
        splits = {"s": [subject.splits["s"][i] for i in chosen]}
        return collect(replace(subject, splits=splits, options=options), suite(["s"])).measurements

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
def test_an_examples_value_is_its_value_as_a_split_of_its_own(
    name: str, whole: dict[str, Measurement], alone: list[dict[str, Measurement]]
) -> None:
    per_example = whole[f"s.{name}"].per_example
    if per_example is None:
        pytest.skip(f"{name} has no values of examples")
    values = [measured[f"s.{name}"].value for measured in alone]
    assert per_example == pytest.approx(values, rel=1e-9, abs=1e-12)
    assert len(set(np.round(values, 9))) > 1, "all alike: nothing can be told from these examples"


@pytest.mark.parametrize("name", EVERY)
def test_a_value_is_the_mean_of_its_examples_or_tokens(
    name: str, whole: dict[str, Measurement], subject: Subject
) -> None:
    found = whole[f"s.{name}"]
    if found.per_example is None:
        pytest.skip(f"{name} has no values of examples")
    counts = [example.scored for example in subject.splits["s"]] if name in TOKEN_MEANS else None
    assert len(set(counts or [1, 2])) > 1
    assert found.per_example.shape == (EXAMPLES,)
    assert found.value == pytest.approx(float(np.average(found.per_example, weights=counts)), rel=1e-12)


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
