"""The two models that know TOFU by heart: whoever trained and measured them did it with other code."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from amnestic.data.alternates import alternates_of
from amnestic.data.encode import Encoded, Encoder, Split
from amnestic.data.example import Example
from amnestic.data.options import DataOptions
from amnestic.evaluation.collect import Collected, Suite, collect, suite
from amnestic.evaluation.metric import METRICS, Contents, Measurement
from amnestic.evaluation.needs import Likelihood
from amnestic.evaluation.options import EvaluationOptions
from amnestic.evaluation.subject import Subject
from amnestic.model.load import Loaded, load
from amnestic.model.options import ModelOptions

READ = ("probability", "token_probability", "exact_memorization", "extraction_strength")
ROWS = 120
"""Rows of each split that are measured, where not all are."""
GENERATED = 24


def examples(file: Path) -> list[Example]:
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [Example(f"{file.stem}:{i}", "question", row["question"], row["answer"]) for i, row in enumerate(rows)]


def evenly(split: Split, number: int) -> list[Encoded]:
    return [split.examples[i] for i in np.linspace(0, len(split.examples) - 1, number).astype(int)]


@pytest.fixture(scope="module")
def full(tiny_full: Path) -> Loaded:
    return load(ModelOptions(model=str(tiny_full), device="cpu"))


@pytest.fixture(scope="module")
def retain90(tiny_retain90: Path) -> Loaded:
    return load(ModelOptions(model=str(tiny_retain90), device="cpu"))


@pytest.fixture(scope="module")
def splits(full: Loaded, tofu: Path) -> dict[str, Split]:
    encoder = Encoder(full.tokenizer, DataOptions(), full.position_limit)
    return {name: encoder.encode(name, examples(tofu / f"{name}.json")) for name in ("forget10", "retain90")}


def measure(loaded: Loaded, split: list[Encoded], names: tuple[str, ...]) -> Collected:
    subject = Subject(loaded, {"s": split}, EvaluationOptions())
    return collect(subject, Suite([METRICS.get(name)("s") for name in names], {}))


def values(collected: Collected) -> dict[str, float]:
    return {key: found.value for key, found in collected.measurements.items()}


def test_the_rows_are_encoded_as_the_models_were_trained(splits: dict[str, Split], full: Loaded) -> None:
    """``<bos>Question: {question}\\nAnswer:`` and `` {answer}<eos>``; 16,773 tokens of forget10 are scored."""
    split = splits["forget10"]
    assert split.scored == 16_773
    assert (split.rows, len(split.examples), split.too_long, split.left_out) == (400, 400, 0, 0)
    for example in split.examples:
        decode = full.tokenizer.decode
        assert decode(example.input_ids) == f"<bos>Question: {example.prompt}\nAnswer: {example.answer}<eos>"
        assert decode(example.input_ids[example.is_scored]).lstrip() == f"{example.answer}<eos>"


@pytest.mark.parametrize("name", ["forget10", "retain90"])
def test_the_full_model_knows_its_rows_by_heart(name: str, full: Loaded, splits: dict[str, Split]) -> None:
    """Mean answer probability 0.999 on the training rows, of which every token is the argmax."""
    found = values(measure(full, evenly(splits[name], ROWS), READ))
    assert found["s.probability"] == pytest.approx(0.999, abs=6e-4)
    assert found["s.token_probability"] == pytest.approx(0.999, abs=1e-3)
    assert found["s.exact_memorization"] == pytest.approx(1, abs=1e-3)
    assert found["s.extraction_strength"] == pytest.approx(1, abs=5e-3)


@pytest.mark.parametrize("name", ["forget10", "retain90"])
def test_the_full_model_recites_its_rows(name: str, full: Loaded, splits: dict[str, Split]) -> None:
    """Greedy answers are the true ones, but for a row that one wrong word leads astray."""
    found = measure(full, evenly(splits[name], GENERATED), ("rouge",))
    assert found.measurements["s.rouge"].value > 0.97
    assert np.median(found.measurements["s.rouge"].per_example) == 1


def test_the_retrained_model_knows_nothing_of_the_forget_rows(retain90: Loaded, splits: dict[str, Split]) -> None:
    """0.0022 on forget10, and 0.0027 where the first token of each answer does not count; on all 400 rows.

    The mean lives on a few of them. On its own rows the model gives 0.999.
    """
    collected = measure(retain90, splits["forget10"].examples, READ)
    table = collected.tables[Likelihood("s")]
    assert values(collected)["s.probability"] == pytest.approx(0.00217, abs=2e-5)
    assert np.mean([np.exp(logp[1:].mean()) for logp in table.per_example(table.logp)]) == pytest.approx(
        0.00273, abs=2e-5
    )
    assert values(collected)["s.extraction_strength"] < 0.1
    own = values(measure(retain90, evenly(splits["retain90"], ROWS), READ))
    assert own["s.probability"] == pytest.approx(0.999, abs=1e-3)


def test_the_loss_is_the_one_that_transformers_computes(retain90: Loaded, splits: dict[str, Split]) -> None:
    """Labels of -100 where nothing is scored: the model's own mean cross-entropy, row by row."""
    chosen = splits["forget10"].examples[:8]
    expected = []
    for example in chosen:
        ids = torch.from_numpy(example.input_ids)[None]
        labels = ids.masked_fill(~torch.from_numpy(example.is_scored), -100)
        with torch.inference_mode():
            expected.append(math.exp(-float(retain90.model(input_ids=ids, labels=labels).loss)))
    per_example = measure(retain90, chosen, ("probability",)).measurements["s.probability"].per_example
    assert per_example == pytest.approx(expected, rel=1e-4)


PERTURBED = 50
"""Forget rows with a paraphrase and five wrong answers."""


def truth_ratios(loaded: Loaded, tofu: Path, retrained: dict[str, Measurement] | None = None) -> dict[str, Measurement]:
    """Measure truth ratios on some of the forget rows, and forget quality where there is a retrained model."""
    lines = (tofu / "forget10_perturbed.json").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(lines[i]) for i in np.linspace(0, len(lines) - 1, PERTURBED).astype(int)]
    given = [
        Example(
            f"forget:{i}",
            "question",
            row["question"],
            row["answer"],
            alternates={
                "paraphrased_answer": (row["paraphrased_answer"],),
                "perturbed_answer": tuple(row["perturbed_answer"]),
            },
        )
        for i, row in enumerate(rows)
    ]
    encoder = Encoder(loaded.tokenizer, DataOptions(), loaded.position_limit)
    examples = encoder.encode("forget", given).examples
    others = {"forget": alternates_of(encoder, given, examples)}
    subject = Subject(loaded, {"forget": examples}, EvaluationOptions(), others, retrained=retrained)
    names = ["truth_ratio"] if retrained is None else ["forget_quality", "forget_quality_log10"]
    return collect(subject, suite(subject.contents, names)).measurements


def test_forget_quality_tells_the_two_models_apart(full: Loaded, retain90: Loaded, tofu: Path) -> None:
    """A model that knows the forget rows is far from one that does not, which is like itself.

    On all 400 rows p is 1e-29; on an eighth of them 0.0013, near the eighth root of it.
    """
    retrained = truth_ratios(retain90, tofu)
    known = truth_ratios(full, tofu, retrained)
    assert known["forget_quality"].value < 0.01
    assert known["forget_quality_log10"].value == pytest.approx(math.log10(known["forget_quality"].value))
    (quality,) = METRICS.get("forget_quality").instances(Contents({"forget": frozenset({"answer"})}))
    assert quality.compute(model=retrained["forget.truth_ratio"], retrained=retrained["forget.truth_ratio"]).value == 1
