"""The metrics of MUSE: by hand, against rouge-score to the last digit, and a suite against plain generation."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from amnestic.data.encode import Encoded, Encoder
from amnestic.data.example import Example
from amnestic.data.options import DataOptions
from amnestic.evaluation import continuations
from amnestic.evaluation.collect import Collected, Suite, collect, suite
from amnestic.evaluation.conditions import Conditions, Continuing
from amnestic.evaluation.metric import METRICS, Contents, Generations
from amnestic.evaluation.metrics.text import rouge_f1
from amnestic.evaluation.needs import Generation, Likelihood
from amnestic.evaluation.options import EvaluationOptions
from amnestic.evaluation.plan import planned
from amnestic.evaluation.subject import Subject
from amnestic.measuring import Measured, Recorded
from amnestic.model.load import load
from amnestic.model.options import ModelOptions

WORDS = "Ida's novels, WRITING writes written; 1987 ran runs running national nationality über naïve o'clock x xy ties"
TEXTS = st.lists(st.sampled_from(WORDS.split()), max_size=25).map(" ".join)
ASKED = Continuing(6, ("87", "\n\n"))
CONDITIONS = Conditions(
    continuing={"forget": Continuing(4), "forget_qa": ASKED, "retain": ASKED},
    auxiliary=frozenset({"forget_qa", "forget_texts"}),
)
SPLITS = ("forget", "retain", "holdout", "forget_qa", "forget_texts")
CONTENTS = Contents({split: frozenset({"answer"}) for split in SPLITS}, conditions=CONDITIONS)


# ROUGE-L F1


@pytest.mark.parametrize(
    ("answer", "text", "plain", "stemmed"),
    [
        ("the cat sat", "the cat ran", 2 / 3, 2 / 3),  # P = R = 2/3
        ("a b c d", "a c", 2 / 3, 2 / 3),  # P = 1, R = 1/2
        ("a b", "a x b y z w", 1 / 2, 1 / 2),  # P = 1/3, R = 1
        ("Ida, 1987.", "ida 1987", 1, 1),
        ("running writers", "run writer", 0, 1),
        ("she was writing books", "she was written books", 3 / 4, 3 / 4),  # "write" and "written" are other stems
        ("a b", "c d", 0, 0),
        ("a", "", 0, 0),
        ("時計", "時計", 0, 0),  # no word
    ],
)
def test_f1_by_hand(answer: str, text: str, plain: float, stemmed: float) -> None:
    """2PR / (P + R), with P and R the shares of words in the longest common subsequence."""
    assert rouge_f1(answer, text) == pytest.approx(plain, rel=1e-15)
    assert rouge_f1(answer, text, stems=True) == pytest.approx(stemmed, rel=1e-15)


@given(TEXTS, TEXTS, st.booleans())
def test_f1_is_rouge_score_s_to_the_last_digit(answer: str, text: str, stems: bool) -> None:
    scorer = RougeScorer(["rougeL"], use_stemmer=stems)
    assert rouge_f1(answer, text, stems) == scorer.score(answer, text)["rougeL"].fmeasure


@pytest.mark.parametrize("name", ["verbmem", "knowmem"])
def test_the_mean_over_examples(name: str) -> None:
    """F1 of 2/3 and 0 without stems; and of 1 with them in the second: means of 1/3 and 5/6."""
    answers = Generations(
        ["the cat ran", "run writer"], ["the cat sat", "running writers"], np.array([3, 2]), np.array([True, True])
    )
    found = METRICS.get(name)("forget").compute(answers=answers)
    assert found.per_example == pytest.approx([2 / 3, 0])
    assert found.value == pytest.approx(1 / 3)
    assert found.interval == pytest.approx((0, 2 / 3)), "both or neither drawn twice"
    stemmed = METRICS.get(f"{name}_ou")("forget").compute(answers=answers)
    assert stemmed.value == pytest.approx(5 / 6)


# Which take part


def test_a_benchmark_says_what_is_recited_and_what_is_asked() -> None:
    keys = [item.key for name in ("verbmem", "knowmem") for item in METRICS.get(name).instances(CONTENTS)]
    assert keys == ["forget.verbmem", "forget.knowmem", "retain.knowmem"]
    bare = replace(CONTENTS, conditions=Conditions())
    assert [*METRICS.get("verbmem").instances(bare), *METRICS.get("knowmem").instances(bare)] == []


def test_what_is_asked_of_the_forget_split_are_other_rows() -> None:
    forget, retain = METRICS.get("knowmem").instances(CONTENTS)
    assert (forget.rows, forget.needs()) == ("forget_qa", {"answers": Generation("forget_qa")})
    assert (retain.rows, retain.needs()) == ("retain", {"answers": Generation("retain")})
    recited = METRICS.get("verbmem")("forget")
    assert (recited.rows, recited.needs()) == ("forget", {"answers": Generation("forget")})


def test_questions_that_are_missing_are_told_of() -> None:
    without = {split: kinds for split, kinds in CONTENTS.answers.items() if split != "forget_qa"}
    reasons = suite(replace(CONTENTS, answers=without)).not_computed
    assert reasons["forget.knowmem"] == "there are no forget_qa rows; give --benchmark muse:books."


def test_the_criteria_of_muse_and_every_attack_are_computed_in_full() -> None:
    """PrivLeak alone lacks a model, and its reason says what is given in its place."""
    contents = replace(CONTENTS, has_reference=True)
    found = suite(contents, ["all"])
    keys = {item.key for item in found.metrics}
    assert keys >= {"forget.verbmem", "forget.knowmem", "retain.knowmem", "forget.extraction_strength"}
    attacks = [name for name in METRICS.names() if name.startswith("mia.")]
    assert keys >= set(attacks)
    assert all(item.rows == "forget_texts" for item in found.metrics if item.name in attacks)
    assert not any(key.startswith(("forget_qa.", "forget_texts.")) for key in keys)
    assert set(found.not_computed) == {"privleak", "privleak_ou"}, "nobody looks for TOFU's truth ratios here"
    assert found.not_computed["privleak"] == (
        "there is no retrained model; give --retrained with its folder, or with that of its results; the raw AUC, "
        "mia.min_k.auc, is given instead."
    )
    assert [item.key for item in suite(contents, ["privleak"]).metrics] == ["mia.min_k.auc"]
    beside = suite(replace(contents, retrained=frozenset({"mia.min_k.auc"})), ["privleak"])
    assert [item.key for item in beside.metrics] == ["privleak"]


# A model that is measured


@dataclass(frozen=True)
class Bench:
    """A small random model, what it is measured on, and what was found."""

    subject: Subject
    measured: Measured
    asked: Suite
    found: Collected


@pytest.fixture(scope="module")
def bench(tiny_model: Callable[..., Path]) -> Bench:
    """Passages and questions with answers of several lengths, which the model half knows."""
    loaded = load(ModelOptions(model=str(tiny_model(tied=False, seed=7)), device="cpu"))
    encoder = Encoder(loaded.tokenizer, DataOptions(max_length=200))
    rows = ["a b c", "The Salt Meridian of Ostrava Bay, by Ines Marek, in a harbour town of clocks", "1987"]
    forms = dict.fromkeys(SPLITS, "prompt") | {"holdout": "text", "forget_texts": "text"}
    examples = {
        split: [
            Example(f"{split}:{i}", kind, "" if kind == "text" else f"{split} {i}:", f" {words}")
            for i, words in enumerate(rows)
        ]
        for split, kind in forms.items()
    }
    splits = {split: encoder.encode(split, given).examples for split, given in examples.items()}
    measured = Measured.of(encoder, examples, splits, CONDITIONS)
    half_learn(loaded.model, [row for split in ("forget", "forget_qa", "retain") for row in measured.splits[split]])
    loaded.model.double()
    subject = Subject(loaded, measured.splits, EvaluationOptions(max_new_tokens=9), conditions=CONDITIONS)
    asked = suite(subject.contents)
    return Bench(subject, measured, asked, collect(subject, asked))


def half_learn(model: Any, rows: list[Encoded]) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for row in rows * 4:
        ids = torch.from_numpy(row.input_ids)[None]
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def plain(bench: Bench, split: str) -> list[str]:
    """Greedy continuations by transformers' own loop, in front of the earliest stop string."""
    loaded, continuing, texts = bench.subject.loaded, bench.subject.continuing(split), []
    for row in bench.subject.splits[split]:
        prompt = torch.from_numpy(row.input_ids[: row.prompt_length])[None]
        with torch.inference_mode():
            found = loaded.model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=continuing.max_new_tokens,
                do_sample=False,
                eos_token_id=list(bench.subject.stops),
                pad_token_id=0,
            )
        text = loaded.tokenizer.decode(found[0, row.prompt_length :], skip_special_tokens=True)
        for stop in continuing.stop_strings:
            text = text.split(stop)[0]
        texts.append(text.strip())
    return texts


@pytest.mark.parametrize("split", ["forget", "forget_qa", "retain"])
def test_each_split_is_continued_as_the_benchmark_says(bench: Bench, split: str) -> None:
    generated: Generations = bench.found.tables[Generation(split)]
    assert generated.generated == plain(bench, split)
    assert max(generated.tokens) <= bench.subject.continuing(split).max_new_tokens


def test_some_answers_end_at_a_stop_string(bench: Bench) -> None:
    """Else nothing was told of them: their tokens hold it, two of them, and their texts do not."""
    ended = 0
    for split in ("forget_qa", "retain"):
        found: Generations = bench.found.tables[Generation(split)]
        for text, tokens, has_ended in zip(found.generated, found.token_ids, found.has_ended, strict=True):
            said = bench.subject.loaded.tokenizer.decode(tokens, skip_special_tokens=True)
            assert "87" not in text
            if "87" in said:
                assert said.endswith("87")
                assert has_ended
                ended += 1
    assert ended


@pytest.mark.parametrize(
    ("key", "split"), [("forget.verbmem", "forget"), ("forget.knowmem", "forget_qa"), ("retain.knowmem", "retain")]
)
def test_the_scores_are_those_of_rouge_score(bench: Bench, key: str, split: str) -> None:
    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    pairs = zip(bench.subject.splits[split], plain(bench, split), strict=True)
    expected = [scorer.score(row.answer, text)["rougeL"].fmeasure for row, text in pairs]
    assert any(expected), "nothing is told by answers that have no word in common with the true ones"
    assert bench.found.measurements[key].per_example.tolist() == expected
    assert bench.found.measurements[key].value == pytest.approx(sum(expected) / 3, rel=1e-12)


def test_a_passage_is_measured_as_far_as_it_is_continued(bench: Bench) -> None:
    """Four tokens behind the prompt, without an end; answers to questions, and shorter passages, whole."""
    passages, questions = bench.measured.splits["forget"], bench.measured.splits["forget_qa"]
    long = passages[1]
    assert (long.scored, long.closes, len(long.input_ids)) == (4, False, long.prompt_length + 4)
    decoded = bench.subject.loaded.tokenizer.decode(long.input_ids[long.prompt_length :])
    assert long.answer == decoded.strip()
    assert "The Salt Meridian of Ostrava".startswith(long.answer[:3])
    assert questions[1].answer == " The Salt Meridian of Ostrava Bay, by Ines Marek, in a harbour town of clocks"
    assert questions[1].closes
    assert bench.found.tables[Likelihood("forget")].counts.tolist() == [row.scored for row in passages]
    assert bench.measured.facts["forget"]["tokens"] != bench.measured.facts["forget_qa"]["tokens"]


def test_values_stand_beside_the_examples_that_they_are_of(bench: Bench) -> None:
    recorded = Recorded.of(bench.found, bench.asked, bench.measured)
    columns = recorded.columns
    texts = bench.found.tables[Generation("forget_qa")].generated
    assert columns["forget_qa"]["generated"] == texts
    assert "knowmem" in columns["forget_qa"]
    assert "knowmem" not in columns["forget"]
    assert "verbmem" in columns["forget"]
    assert "mia.min_k.auc" in columns["forget_texts"]
    assert "mia.min_k.auc" in columns["holdout"]
    assert "mia.min_k.auc" not in columns["forget"]
    assert columns["forget_texts"]["generated"] == [None] * 3
    again = Recorded(recorded.values, columns).measurements
    kept = {key: found.per_example for key, found in bench.found.measurements.items() if found.per_example is not None}
    assert {"forget.verbmem", "forget.knowmem", "retain.knowmem", "mia.min_k.auc", "forget.probability"} <= set(kept)
    for key, values in kept.items():
        np.testing.assert_array_equal(again[key].per_example, values, err_msg=key)


def test_each_way_of_continuing_is_one_generation(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passages by themselves; questions of both splits together. What is known is not generated again."""
    calls = []

    def generate(loaded: Any, tokenizer: Any, examples: Any, settings: Any, agreed: Any, keep: Any) -> None:
        calls.append((len(examples), settings.max_new_tokens, settings.stop_strings))
        original(loaded, tokenizer, examples, settings, agreed, keep)

    original = continuations.generate
    monkeypatch.setattr(continuations, "generate", generate)
    subject = replace(bench.subject, store=type(bench.subject.store)())
    asked = suite(subject.contents, ["verbmem", "knowmem"])
    before = planned(subject, asked.needs)
    assert (before.prompts, before.known_prompts) == (9, 0)
    collect(subject, asked)
    assert sorted(calls) == [(3, 4, ()), (6, 6, ASKED.stop_strings)]
    assert planned(subject, asked.needs).known_prompts == 9
    collect(subject, asked)
    assert len(calls) == 2
