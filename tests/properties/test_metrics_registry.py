"""What holds for every registered metric, the next one included."""

import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from amnestic.data.alternates import Alternates
from amnestic.data.encode import Encoded, Encoder
from amnestic.data.example import Example
from amnestic.data.options import DataOptions
from amnestic.evaluation.collect import collect, suite
from amnestic.evaluation.conditions import Conditions, Continuing
from amnestic.evaluation.metric import METRICS, Contents, Measurement
from amnestic.evaluation.metrics.truth import closeness
from amnestic.evaluation.needs import Likelihood, OfRetrained
from amnestic.evaluation.options import EvaluationOptions
from amnestic.evaluation.store import Store
from amnestic.evaluation.subject import Subject
from amnestic.evaluation.sweeps import likelihoods
from amnestic.model.load import load
from amnestic.model.options import ModelOptions

EVERY = METRICS.names()
BOTH = frozenset({"answer", "paraphrased_answer", "perturbed_answer"})
WRONG = frozenset({"answer", "perturbed_answer"})
PLAIN = frozenset({"answer"})
KINDS = {"forget": BOTH, "retain": BOTH, "real_authors": WRONG, "world_facts": WRONG, "holdout": PLAIN}
KINDS |= {"forget_qa": PLAIN, "forget_texts": PLAIN}
SIZES = {"forget": 9, "retain": 4, "real_authors": 3, "world_facts": 3, "holdout": 5, "forget_qa": 9, "forget_texts": 4}
ASKED = Continuing(16, ("e",))
CONDITIONS = Conditions(
    continuing={"forget": Continuing(24), "forget_qa": ASKED, "retain": ASKED},
    auxiliary=frozenset({"forget_qa", "forget_texts"}),
)
TOKEN_MEANS = {"margin", "entropy"}
"""Their value is the mean over tokens; the other metrics with values of examples average these."""
RANGES = {
    "margin": (0, np.inf),
    "entropy": (0, np.log(320)),
    "generated_perplexity": (1, np.inf),
    "forget_quality_log10": (-np.inf, 0),
    "privleak": (-100, np.inf),
    "privleak_ou": (-100, np.inf),
}
"""Of the metrics that are no shares."""
WORDS = "Ines Marek wrote The Salt Meridian in 1987 by the harbour of Ostrava Bay"
NO_INTERVAL = {"forget_quality", "forget_quality_log10", "forget_quality_ou"}
"""p-values, which say themselves what other examples would give."""


@dataclass(frozen=True)
class Bench:
    """A model and what it is held beside, whose rows can be put in another order."""

    subject: Subject

    def measure(self, orders: dict[str, list[int]], batch_size: int = 4, asked: str = "all") -> dict[str, Measurement]:
        """Measure the chosen examples of each split, in the order given."""
        subject = self.subject
        splits = {split: [subject.splits[split][i] for i in order] for split, order in orders.items()}
        others = {
            split: {kind: chosen(rows, orders[split]) for kind, rows in subject.alternates[split].items()}
            for split in orders
        }
        options = EvaluationOptions(max_new_tokens=24, per_device_eval_batch_size=batch_size)
        again = replace(subject, splits=splits, alternates=others, options=options, store=Store())
        return collect(again, suite(again.contents, [asked])).measurements


def chosen(rows: Alternates, order: list[int]) -> Alternates:
    """The answers to the examples in `order`, as these stand there."""
    places = [np.flatnonzero(rows.example == i) for i in order]
    numbers = np.repeat(np.arange(len(order)), [len(own) for own in places])
    return Alternates([rows.rows[i] for own in places for i in own], numbers)


def examples_of(split: str, random: np.random.Generator) -> list[Example]:
    """Questions and a text of many lengths, one or two words marked in those of the forget split."""
    found = []
    for number in range(SIZES[split]):
        text = " ".join(random.choice(WORDS.split(), int(random.integers(1, 12))))
        is_text = split == "forget" and number == 5
        kind, prompt = ("text", "") if is_text else ("question", f"Who of {split} wrote {WORDS[: 3 * number]}?")
        ends = [match.span() for match in re.finditer(r"\w+", text)]
        found.append(Example(f"{split}:{number}", kind, prompt, text, tuple(ends[:3:2]) if split == "forget" else ()))
    return found


def encoded(tokenizer: Any, split: str, examples: list[Example]) -> list[Encoded]:
    rows = Encoder(tokenizer, DataOptions(max_length=60)).encode(split, examples).examples
    assert len(rows) == len(examples)
    return list(rows)


def alternates(tokenizer: Any, split: str, examples: list[Example], random: np.random.Generator) -> dict[str, Any]:
    """One paraphrase, and two or three wrong answers, of each example, as the split's kinds say."""
    found = {}
    for kind in sorted(KINDS[split] - {"answer"}):
        counts = [1 if kind == "paraphrased_answer" else 2 + number % 2 for number in range(len(examples))]
        numbers = np.repeat(np.arange(len(examples)), counts)
        texts = [" ".join(random.choice(WORDS.split(), int(random.integers(1, 9)))) for _ in numbers]
        rows = [
            replace(examples[i], answer=text, forget_spans=()) for i, text in zip(numbers.tolist(), texts, strict=True)
        ]
        found[kind] = Alternates(encoded(tokenizer, split, rows), numbers)
    return found


def half_learn(model: Any, examples: list[Encoded], steps: int) -> None:
    """Fit some examples, so that their answers are known and others are not."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps):
        ids = torch.from_numpy(examples[step % len(examples)].input_ids)[None]
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.fixture(scope="module")
def bench(tiny_model: Callable[..., Path]) -> Bench:
    """A model that half knows its rows, a reference and a retrained model that know less of them.

    They are measured in float64: rounding hides nothing.
    """
    models = [load(ModelOptions(model=str(tiny_model(tied=False, seed=seed)), device="cpu")) for seed in (1, 2, 3)]
    tokenizer = models[0].tokenizer
    random = np.random.default_rng(4)
    examples = {split: examples_of(split, random) for split in SIZES}
    splits = {split: encoded(tokenizer, split, rows) for split, rows in examples.items()}
    others = {split: alternates(tokenizer, split, rows, random) for split, rows in examples.items()}
    for loaded, steps in zip(models, (180, 40, 40), strict=True):
        half_learn(loaded.model, [*splits["forget"][:6], *splits["forget_qa"][:6]], steps)
        loaded.model.double()
    model, reference, retrained = models
    beside = Subject(retrained, splits, EvaluationOptions(), others, reference, None, CONDITIONS, names=("c", "b"))
    known = Bench(beside).measure({split: list(range(size)) for split, size in SIZES.items()})
    return Bench(replace(beside, loaded=model, retrained=known, names=("a", "b")))


ORDER = {split: list(range(size)) for split, size in SIZES.items()}


@pytest.fixture(scope="module")
def whole(bench: Bench) -> dict[str, Measurement]:
    return bench.measure(ORDER)


@pytest.fixture(scope="module")
def others(bench: Bench) -> dict[str, tuple[dict[str, list[int]], dict[str, Measurement]]]:
    """The same examples in other orders and batches."""
    random = np.random.default_rng(0)
    shuffled = {split: random.permutation(size).tolist() for split, size in SIZES.items()}
    backwards = {split: order[::-1] for split, order in ORDER.items()}
    cases = {
        "one by one": (ORDER, 1),
        "all at once": (ORDER, 50),
        "backwards": (backwards, 4),
        "shuffled": (shuffled, 3),
    }
    return {case: (order, bench.measure(order, size)) for case, (order, size) in cases.items()}


@pytest.fixture(scope="module")
def alone(bench: Bench) -> list[dict[str, Measurement]]:
    """Each example of the forget split, and each question about it, as a split of its own."""
    return [bench.measure({"forget": [i], "forget_qa": [i]}) for i in range(SIZES["forget"])]


def keys(name: str, whole: dict[str, Measurement]) -> list[str]:
    """The keys under which a metric was measured; there is one for each."""
    found = [key for key in whole if key == name or key.endswith(f".{name}")]
    assert found
    return found


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("case", ["one by one", "all at once", "backwards", "shuffled"])
def test_order_and_batch_size_change_nothing(
    name: str,
    case: str,
    whole: dict[str, Measurement],
    others: dict[str, tuple[dict[str, list[int]], dict[str, Measurement]]],
    bench: Bench,
) -> None:
    orders, measured = others[case]
    rows = {item.key: item.rows for item in METRICS.get(name).instances(bench.subject.contents)}
    for key in keys(name, whole):
        expected, found = whole[key], measured[key]
        assert found.value == pytest.approx(expected.value, rel=1e-9, abs=1e-12)
        assert (found.per_example is None) == (expected.per_example is None)
        if found.per_example is not None and expected.per_example is not None:
            order = orders[rows[key]]
            assert found.per_example == pytest.approx(expected.per_example[order], rel=1e-9, abs=1e-12, nan_ok=True)
        assert set(found.others) == set(expected.others)
        for other, values in found.others.items():
            assert values == pytest.approx(expected.others[other][orders[other]], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", [name for name in EVERY if "split" in {f.name for f in fields(METRICS.get(name))}])
def test_values_of_examples(
    name: str, whole: dict[str, Measurement], alone: list[dict[str, Measurement]], bench: Bench
) -> None:
    """Each is what the example has as a split of its own, and their mean, over examples or tokens, is the value.

    Of a truth ratio the examples have R itself, and min(R, 1/R) is averaged.
    """
    if f"forget.{name}" not in whole:
        assert name.startswith("normalized_probability"), "no rows of the forget split"
        return
    found = whole[f"forget.{name}"]
    if found.per_example is None:
        assert all(measured[f"forget.{name}"].per_example is None for measured in alone)
        return
    is_told = name == "empty_answers" or len(set(np.round(found.per_example, 9))) > 1  # no answer here is empty
    assert is_told, "too much alike: nothing can be told from these examples"
    single = [measured.get(f"forget.{name}") for measured in alone]
    values = np.array([np.nan if own is None or own.per_example is None else own.per_example[0] for own in single])
    assert found.per_example == pytest.approx(values, rel=1e-9, abs=1e-12, nan_ok=True)
    assert all(own is None or own.interval is None for own in single), "one example says nothing of others"
    if name == "generated_perplexity":  # a mean over generated tokens, by hand in test_text_metrics.py
        return
    values = closeness(values) if name.startswith("truth_ratio") else values
    counts = (
        [example.scored for example in bench.subject.splits["forget"]] if name in TOKEN_MEANS else np.ones(len(values))
    )
    known = ~np.isnan(values)
    assert found.value == pytest.approx(float(np.average(values[known], weights=np.array(counts)[known])), rel=1e-9)


@pytest.mark.parametrize("name", EVERY)
def test_values_lie_in_their_range(name: str, whole: dict[str, Measurement]) -> None:
    """A share unless RANGES knows better; so do the ends of their intervals, between which the value lies."""
    assert METRICS.get(name).is_share == (name not in RANGES)
    low, high = RANGES.get(name, (0, 1))
    for key in keys(name, whole):
        found = whole[key]
        assert low <= found.value <= high
        assert isinstance(found.value, float)
        if name in NO_INTERVAL:
            assert found.interval is None
            continue
        assert found.interval is not None
        assert all(isinstance(end, float) for end in found.interval)
        assert low - 1e-12 <= found.interval[0] <= found.interval[1] <= high + 1e-12
        assert found.interval[0] - 1e-9 <= found.value <= found.interval[1] + 1e-9


@pytest.mark.parametrize("name", EVERY)
def test_needs_are_arguments_of_compute_and_comparable(name: str) -> None:
    """Equal metrics have equal needs, so that one sweep serves both; another split is another need."""
    answers = {split: kinds | {"span"} for split, kinds in KINDS.items()}
    contents = Contents(answers, True, frozenset(), CONDITIONS)
    instances, again = list(METRICS.get(name).instances(contents)), list(METRICS.get(name).instances(contents))
    assert instances
    assert instances == again
    assert [item.needs() for item in instances] == [item.needs() for item in again]
    assert len({item.key for item in instances}) == len(instances)
    for item in instances:
        assert type(item).name == name
        parameters = set(type(item).compute.__annotations__) - {"return"}
        assert set(item.needs()) == parameters or "parts" in parameters
        splits = {need.split for need in item.needs().values() if hasattr(need, "split")}
        assert item.rows in splits or not item.rows
        assert not hasattr(item, "split") or splits == {item.rows}
        assert not any(isinstance(need, OfRetrained) and need.metric.key == item.key for need in item.needs().values())
        hash(tuple(item.needs().values()))


def test_the_probabilities_of_a_text_read_every_token_but_the_first(bench: Bench) -> None:
    """The sixth example is a text: its counts are its tokens less one."""
    table = likelihoods(bench.subject, [Likelihood("forget")])[Likelihood("forget")]
    assert table.counts[5] == len(bench.subject.splits["forget"][5].input_ids) - 1
    assert not table.closes[5]
