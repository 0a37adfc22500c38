"""A whole suite on a small random model against a loop over full logits in float64, one Python number at a time."""

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from amnestic.data.alternates import Alternates, alternates_of
from amnestic.data.encode import Encoded, Encoder
from amnestic.data.example import Example
from amnestic.data.options import DataOptions
from amnestic.evaluation.collect import Collected, collect, suite
from amnestic.evaluation.needs import Generation, Likelihood
from amnestic.evaluation.options import EvaluationOptions
from amnestic.evaluation.store import Store
from amnestic.evaluation.subject import Subject
from amnestic.model.load import load
from amnestic.model.options import ModelOptions

ANSWERS = ("Ines Marek", "in a harbour town", "1987", "clocks, and 時計", "The Salt Meridian of Ostrava Bay")
PARAPHRASES = ("it was Ines Marek", "by the harbour", "in 1987", "he repaired clocks", "The Salt Meridian")
WRONG = (("Ida", "Jo Marek"), ("a farm", "in a city, far away"), ("1988", "1"), ("a", "b c"), ("Salt", "Bay", "x y z"))
HELD_OUT = ("Her father", "drawing", "Who wrote?", "a town by the sea")
GENERATED = 6


@dataclass(frozen=True)
class Slow:
    """What the loop found of one scored row."""

    logp: list[float]
    hits: list[bool]
    means: list[float]
    squares: list[float]

    @property
    def loss(self) -> float:
        return -math.fsum(self.logp) / len(self.logp)


def slow(model: Any, row: Encoded) -> Slow:
    """One row through the model by itself, in float64."""
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor(row.input_ids.tolist())[None]).logits[0].double().tolist()
    found = Slow([], [], [], [])
    for position in np.flatnonzero(row.is_scored).tolist():
        z, target = logits[position - 1], int(row.input_ids[position])
        top = max(z)
        total = math.log(math.fsum(math.exp(value - top) for value in z)) + top
        known = [value - total for value in z]
        found.logp.append(known[target])
        found.hits.append(z.index(top) == target)
        found.means.append(math.fsum(math.exp(value) * value for value in known))
        found.squares.append(math.fsum(math.exp(value) * value**2 for value in known))
    return found


@dataclass(frozen=True)
class Bench:
    """A subject, and what the loop made of its rows."""

    subject: Subject
    rows: dict[tuple[str, str], list[Slow]]
    """Split and kind -> its rows under the model."""
    before: dict[tuple[str, str], list[Slow]]
    """The same of true answers under the reference."""
    found: Collected

    def losses(self, split: str, kind: str = "answer") -> list[float]:
        return [row.loss for row in self.rows[split, kind]]

    def value(self, key: str) -> float:
        return self.found.measurements[key].value

    def scores(self, key: str) -> list[float]:
        found = self.found.measurements[key].per_example
        assert found is not None
        return [float(value) for value in found]


@pytest.fixture(scope="module")
def bench(tiny_model: Callable[..., Path]) -> Bench:
    """Forget rows with everything, real authors with wrong answers alone, and a holdout; computed in float64."""
    model, reference = (load(ModelOptions(model=str(tiny_model(tied=False, seed=s)), device="cpu")) for s in (7, 8))
    encoder = Encoder(model.tokenizer, DataOptions(max_length=80))
    given = {
        "forget": [
            Example(f"forget:{i}", "question", f"What of {i}?", answer, alternates=alternates(i, "forget"))
            for i, answer in enumerate(ANSWERS)
        ],
        "real_authors": [
            Example(f"real_authors:{i}", "question", f"Who is {i}?", answer, alternates=alternates(i, "real_authors"))
            for i, answer in enumerate(ANSWERS[:3])
        ],
        "holdout": [Example(f"holdout:{i}", "question", f"And {i}?", answer) for i, answer in enumerate(HELD_OUT)],
    }
    splits = {split: list(encoder.encode(split, rows).examples) for split, rows in given.items()}
    others = {split: alternates_of(encoder, rows, splits[split]) for split, rows in given.items()}
    for loaded in (model, reference):
        loaded.model.double()
    options = EvaluationOptions(max_new_tokens=GENERATED, per_device_eval_batch_size=3)
    subject = Subject(model, splits, options, others, reference, names=("model", "reference"))
    every = {(split, "answer"): rows for split, rows in splits.items()}
    every |= {(split, kind): made.rows for split, kinds in others.items() for kind, made in kinds.items()}
    return Bench(
        subject,
        {key: [slow(model.model, row) for row in rows] for key, rows in every.items()},
        {key: [slow(reference.model, row) for row in rows] for key, rows in every.items() if key[1] == "answer"},
        collect(subject, suite(subject.contents, ["all"])),
    )


def alternates(i: int, split: str) -> dict[str, tuple[str, ...]]:
    wrong = {"perturbed_answer": WRONG[i]}
    return wrong | {"paraphrased_answer": (PARAPHRASES[i],)} if split == "forget" else wrong


def lowest(values: list[float], count: int) -> float:
    return -math.fsum(sorted(values)[:count]) / count


def standard(row: Slow) -> list[float]:
    parts = zip(row.logp, row.means, row.squares, strict=True)
    return [(logp - mean) / math.sqrt(max(square - mean**2, 1e-6)) for logp, mean, square in parts]


ATTACKS: dict[str, Callable[[Slow, Slow, str], float]] = {
    "mia.loss.auc": lambda row, before, text: row.loss,
    "mia.zlib.auc": lambda row, before, text: row.loss / len(zlib.compress(text.encode())),
    "mia.min_k.auc": lambda row, before, text: lowest(row.logp, max(1, math.floor(0.4 * len(row.logp)))),
    "mia.min_k_plus_plus.auc": lambda row, before, text: lowest(standard(row), max(1, math.floor(0.4 * len(row.logp)))),
    "mia.min_k_ou.auc": lambda row, before, text: lowest(row.logp[:-1], max(1, int(0.4 * (len(row.logp) - 1)))),
    "mia.min_k_plus_plus_ou.auc": lambda row, before, text: lowest(
        standard(row)[:-1], max(1, int(0.4 * (len(row.logp) - 1)))
    ),
    "mia.reference.auc": lambda row, before, text: row.loss - before.loss,
}


def test_every_metric_against_a_slow_loop(bench: Bench) -> None:
    """What is read of the forget rows and of real authors, by the definitions as they stand in the documentation."""
    forget, authors = bench.losses("forget"), bench.losses("real_authors")
    assert bench.value("forget.probability") == pytest.approx(mean(math.exp(-loss) for loss in forget), rel=1e-9)
    tokens = [value for row in bench.rows["forget", "answer"] for value in row.logp]
    assert bench.value("forget.token_probability") == pytest.approx(math.exp(mean(tokens)), rel=1e-9)
    entropies = [-value for row in bench.rows["forget", "answer"] for value in row.means]
    assert bench.value("forget.entropy") == pytest.approx(mean(entropies), rel=1e-9)
    hits = [row.hits[:-1] for row in bench.rows["forget", "answer"]]
    assert bench.value("forget.exact_memorization") == pytest.approx(mean(mean(own) for own in hits), rel=1e-9)

    geometric, arithmetic = [], []
    for i, right in enumerate(bench.losses("forget", "paraphrased_answer")):
        wrong = wrong_losses(bench, "forget", i)
        assert len(wrong) == len(WRONG[i])
        geometric.append(math.exp(-mean(wrong)) / math.exp(-right))
        arithmetic.append(mean(math.exp(-loss) for loss in wrong) / math.exp(-right))
    assert bench.scores("forget.truth_ratio") == pytest.approx(geometric, rel=1e-9)
    assert bench.value("forget.truth_ratio") == pytest.approx(mean(min(r, 1 / r) for r in geometric), rel=1e-9)
    assert bench.scores("forget.truth_ratio_arithmetic") == pytest.approx(arithmetic, rel=1e-9)

    shares, ratios = [], []
    for i, right in enumerate(authors):
        wrong = wrong_losses(bench, "real_authors", i)
        shares.append(math.exp(-right) / (math.exp(-right) + math.fsum(math.exp(-loss) for loss in wrong)))
        ratios.append(math.exp(-mean(wrong)) / math.exp(-right))
    assert bench.scores("real_authors.normalized_probability") == pytest.approx(shares, rel=1e-9)
    assert bench.scores("real_authors.truth_ratio") == pytest.approx(ratios, rel=1e-9)
    assert bench.value("real_authors.truth_ratio") == pytest.approx(mean(max(0, 1 - r) for r in ratios), rel=1e-9)


@pytest.mark.parametrize("key", ATTACKS)
def test_every_attack_against_a_slow_loop(bench: Bench, key: str) -> None:
    """Scores row by row, and the area pair by pair."""
    scores: dict[str, list[float]] = {}
    for split in ("forget", "holdout"):
        rows = zip(bench.rows[split, "answer"], bench.before[split, "answer"], bench.subject.splits[split], strict=True)
        scores[split] = [ATTACKS[key](row, before, example.answer) for row, before, example in rows]
    assert bench.scores(key) == pytest.approx(scores["forget"], rel=1e-7)
    assert bench.found.measurements[key].others["holdout"] == pytest.approx(scores["holdout"], rel=1e-7)
    pairs = [(a < b) + (a == b) / 2 for a in scores["forget"] for b in scores["holdout"]]
    assert bench.value(key) == pytest.approx(mean(pairs), abs=1e-12)


def test_the_perplexity_of_answers_against_a_slow_loop(bench: Bench) -> None:
    """The generated tokens behind each prompt, once more through the reference."""
    generated = bench.found.tables[Generation("forget")]
    reference: Any = bench.subject.reference
    values = []
    for example, tokens in zip(bench.subject.splits["forget"], generated.token_ids, strict=True):
        ids = example.input_ids[: example.prompt_length].tolist() + tokens.tolist()
        with torch.inference_mode():
            logits = reference.model(input_ids=torch.tensor(ids)[None]).logits[0].double()
        logp = logits.log_softmax(-1)
        values += [float(logp[i - 1, ids[i]]) for i in range(example.prompt_length, len(ids))]
    assert 0 < len(values) <= GENERATED * len(ANSWERS)
    assert bench.value("forget.generated_perplexity") == pytest.approx(math.exp(-mean(values)), rel=1e-9)


def test_generations_are_compared_with_the_answers_of_the_data(bench: Bench) -> None:
    generated = bench.found.tables[Generation("forget")]
    assert generated.answers == list(ANSWERS)
    assert generated.generated == [text.strip() for text in generated.generated]


def test_what_lacks_a_model_or_rows_is_listed(bench: Bench) -> None:
    """There is neither a retained split nor a retrained model; everything else is computed."""
    left_out = suite(bench.subject.contents).not_computed
    assert set(left_out) == {"forget_quality", "forget_quality_log10", "privleak"}
    assert all("give --retrained" in reason for reason in left_out.values())


def test_a_name_that_suits_nothing_measured_is_listed(bench: Bench) -> None:
    """No split has passages that go on; asked for by name, that is told, and the others are computed."""
    asked = suite(bench.subject.contents, ("verbmem", "probability"))
    assert asked.not_computed == {
        "verbmem": "nothing that is measured is of the kind that it reads; amnestic list metrics --explain verbmem "
        "tells which."
    }
    assert "forget.probability" in [item.key for item in asked.metrics]
    assert not suite(bench.subject.contents, ("default", "probability")).not_computed.keys() & {"verbmem", "knowmem"}


def test_a_number_that_is_none_is_listed_and_not_lost(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """One NaN among the forget rows: what reads that row has no value, and says so; what reads others has."""
    tables = dict(bench.found.tables)
    broken = tables[Likelihood("forget")]
    tables[Likelihood("forget")] = replace(broken, logp=np.where(np.arange(len(broken.logp)) == 3, np.nan, broken.logp))
    monkeypatch.setattr("amnestic.evaluation.collect.sweep", lambda *_: tables)
    found = collect(bench.subject, suite(bench.subject.contents))
    expected = "its value is nan: some tokens have no probability that is a number."
    assert found.undefined["forget.probability"] == found.undefined["forget.token_probability"] == expected
    for attack in ("loss", "zlib", "min_k", "min_k_plus_plus"):
        assert "some examples have no score" in found.undefined[f"mia.{attack}.auc"]
    kept = ("forget.truth_ratio", "forget.rouge", "real_authors.probability", "forget.extraction_strength")
    assert {key: found.measurements[key].value for key in kept} == {key: bench.value(key) for key in kept}
    assert all(math.isfinite(measured.value) for measured in found.measurements.values())


def test_gradients_that_are_no_numbers_leave_the_rest_its_values(bench: Bench) -> None:
    """One weight so large that losses overflow: the attack says why it has no value, and what reads texts has its."""
    model: Any = bench.subject.loaded.model
    weight = model.get_output_embeddings().weight
    before = weight[5].clone()
    with torch.no_grad():
        weight[5] = 1e308
    try:
        subject = replace(bench.subject, store=Store())
        found = collect(subject, suite(subject.contents, ["mia.grad_norm.auc", "empty_answers"]))
    finally:
        with torch.no_grad():
            weight[5] = before
    assert "of 9 examples is no finite number; measure in a wider precision" in found.undefined["mia.grad_norm.auc"]
    assert "forget.empty_answers" in found.measurements


def wrong_losses(bench: Bench, split: str, i: int) -> list[float]:
    made: Alternates = bench.subject.alternates[split]["perturbed_answer"]
    pairs = zip(made.example, bench.losses(split, "perturbed_answer"), strict=True)
    return [loss for example, loss in pairs if example == i]


def mean(values: Any) -> float:
    listed = [float(value) for value in values]
    return math.fsum(listed) / len(listed)
