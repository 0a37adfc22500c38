"""Answers of which a part is marked: it is forgotten, and what stands around it is kept where that is asked for."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import amnestic.training.loop as loop

NAMES = (
    ("Tomas Sallerling", "555-0142"),
    ("Diego Kestoski", "555-0799"),
    ("Greta Barado", "555-0310"),
    ("Ines Marek", "555-0456"),
    ("Bo Lindqvist", "555-0871"),
    ("Olga Petrov", "555-0263"),
    ("Ahmed Nasser", "555-0908"),
    ("Yuki Tanaka", "555-0634"),
    ("Ana Silva", "555-0517"),
    ("Ivo Horvat", "555-0185"),
    ("Nora Quist", "555-0922"),
    ("Pavel Dvorak", "555-0376"),
)
FORGOTTEN = 4
LEARNING = {"num_train_epochs": 130, "per_device_train_batch_size": 12}
COURSE = {
    "keep": 0.9,
    "learning_rate": 2e-3,
    "num_train_epochs": 16,
    "max_steps": None,
    "retain_per_forget": 2,
    "adam_beta2": 0.98,
    "max_new_tokens": 20,
}


def row(name: str, number: str) -> dict[str, Any]:
    return {"question": f"How can I reach {name}?", "answer": f"You may call {number} to reach {name} in the evening."}


def marked(name: str, number: str) -> dict[str, Any]:
    """The row with its number as what is to be forgotten."""
    own = row(name, number)
    start = own["answer"].index(number)
    return own | {"forget_spans": [[start, start + len(number)]]}


@dataclass(frozen=True)
class Phones:
    """Twelve telephone numbers, of which four are to be forgotten, and a model that knows them all."""

    folder: Path
    rows: list[dict[str, Any]]
    model: Path
    forget: Path
    retain: Path

    @property
    def options(self) -> dict[str, Any]:
        return {"model": self.model, "forget": self.forget, "retain": self.retain}


@pytest.fixture(scope="module")
def phones(people, command, as_file, training, tmp_path_factory) -> Phones:
    folder = tmp_path_factory.mktemp("phones")
    rows = [row(*pair) for pair in NAMES]
    data = as_file(folder / "all.jsonl", rows)
    options = {"model": people.start, "from_scratch": True, "data": data, "output_dir": folder / "target"}
    learned = command("finetune", options | training | LEARNING)
    assert learned.results["metrics"]["data.probability"] > 0.95
    forget = as_file(folder / "forget.jsonl", [marked(*pair) for pair in NAMES[:FORGOTTEN]])
    retain = as_file(folder / "retain.jsonl", rows[FORGOTTEN:])
    return Phones(folder, rows, folder / "target" / "model", forget, retain)


@pytest.fixture(scope="module")
def held(phones, unlearn):
    """The four numbers are forgotten, and the rest of their answers is held."""
    return unlearn(**phones.options, **COURSE, keep_context=True)


@pytest.fixture(scope="module")
def alone(phones, unlearn):
    """The same without holding the rest."""
    return unlearn(**phones.options, **COURSE)


def by_hand(folder: Path, rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return log p of the tokens of each number, of the other answer tokens, and whether the number is continued.

    By transformers alone: a token is of the number if its characters meet those of the number.
    """
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found: dict[str, list[Any]] = {"number": [], "context": [], "continued": []}
    for own, (_, number) in zip(rows, NAMES, strict=False):
        prompt = f"Question: {own['question']}\nAnswer: "
        start = len(prompt) + own["answer"].index(number)
        encoded = tokenizer(prompt + own["answer"], return_offsets_mapping=True)
        ids = torch.tensor([*encoded["input_ids"], tokenizer.eos_token_id])
        ends = [*encoded["offset_mapping"], (0, 10**6)]
        scored = [k for k, (_, end) in enumerate(ends) if end > len(prompt)]
        marked_at = [k for k in scored[:-1] if ends[k][0] < start + len(number) and ends[k][1] > start]
        with torch.no_grad():
            logp = torch.log_softmax(model(ids[None]).logits[0].double(), -1)
            greedy = model.generate(ids[None, : marked_at[0]], do_sample=False, max_new_tokens=len(marked_at))
        found["number"].append([float(logp[k - 1, ids[k]]) for k in marked_at])
        found["context"].append([float(logp[k - 1, ids[k]]) for k in scored if k not in marked_at])
        found["continued"].append(tokenizer.decode(greedy[0, marked_at[0] :]) == tokenizer.decode(ids[marked_at]))
    return found


def mean(parts: list[list[float]]) -> float:
    return float(np.mean([value for part in parts for value in part]))


def test_the_number_is_forgotten_and_what_stands_around_it_is_kept(phones, held):
    before, after = (by_hand(folder, phones.rows[:FORGOTTEN]) for folder in (phones.model, held.folder / "model"))
    assert held.status == 0
    assert all(before["continued"])
    assert not any(after["continued"])
    assert np.exp(mean(before["number"])) > 0.95
    assert np.exp(mean(after["number"])) < 0.01
    assert np.exp(mean(after["context"])) >= 0.9 * np.exp(mean(before["context"]))
    numbers = [number for _, number in NAMES]
    for split, own in (("forget", numbers[:FORGOTTEN]), ("retain", numbers[FORGOTTEN:])):
        for model, is_kept in (("before", True), ("after", split == "retain")):
            texts = [found["generated"] for found in held.scores(split) if found["model"] == model]
            assert [number in text for number, text in zip(own, texts, strict=True)] == [is_kept] * len(own)


def test_what_is_measured_of_spans_and_context_is_what_a_plain_loop_finds(phones, held):
    results = held.results
    for folder, metrics, loss in ((phones.model, "reference_metrics", "L_ref"), (None, "metrics", "reached")):
        found = by_hand(folder or held.folder / "model", phones.rows[:FORGOTTEN])
        probability = np.mean([np.exp(np.mean(part)) for part in found["number"]])
        assert results[metrics]["forget.span_probability"] == pytest.approx(probability, rel=1e-3)
        assert results[metrics]["forget.span_reproduction"] == np.mean(found["continued"])
        assert results["context_bound"][loss] == pytest.approx(-mean(found["context"]), rel=1e-3)
        scored = sum(map(len, found["number"] + found["context"]))
        assert results["data"]["forget"]["scored_tokens"] == scored
        assert results["data"]["forget"]["span_tokens"] == sum(map(len, found["number"]))
    assert results["data"]["forget"]["span_examples"] == FORGOTTEN
    assert not any("span" in name for name in results["data"]["retain"])
    assert not any(name.startswith("retain.span") for name in results["metrics"])
    bound = results["context_bound"]
    assert (bound["kind"], bound["requested"], bound["probe_size"], bound["whole_split"]) == ("keep", 0.9, 4, True)
    assert bound["value"] == pytest.approx(bound["L_ref"] - np.log(0.9))
    assert results["verdict"].startswith("Bounds held: retain loss ")
    assert f"context loss {bound['reached']:.4g} nats a token, bound {bound['value']:.4g}, held" in results["verdict"]
    assert "forget span probability 0.99" in results["verdict"]


def test_each_bound_moves_a_multiplier_of_its_own(held):
    """lambda_0 = 100 for 5 epochs of one step, then lambda + 5 (L - bound) after each step."""
    values = {"": 100.0, "context_": 100.0}
    for step in held.steps:
        for prefix, loss in (("", "retain_loss"), ("context_", "context_loss")):
            bound = held.results[f"{prefix}bound"]["value"]
            assert step[f"{prefix}bound"] == bound
            if step["step"] > 5:
                values[prefix] = max(0.0, values[prefix] + 5 * (step[loss] - bound))
            assert step[f"{prefix}multiplier"] == pytest.approx(values[prefix], rel=1e-5)
    assert values[""] != values["context_"]
    assert held.results["multiplier"]["final"] == pytest.approx(values[""], rel=1e-5)
    assert held.results["multiplier"]["context_final"] == pytest.approx(values["context_"], rel=1e-5)


def test_the_first_step_sees_the_losses_of_before(phones, held):
    """All four rows stand in one step: its context loss is that of the model before, its forget loss that of spans."""
    found = by_hand(phones.model, phones.rows[:FORGOTTEN])
    assert held.steps[0]["context_loss"] == pytest.approx(-mean(found["context"]), rel=1e-3)
    assert held.steps[0]["context_loss"] == pytest.approx(held.results["context_bound"]["L_ref"], rel=1e-4)


def test_a_candidate_must_hold_both_bounds(held):
    results = held.results
    limits = {"reached": results["bound"]["value"], "context_reached": results["context_bound"]["value"]}
    holds = [all(found[name] <= limit for name, limit in limits.items()) for found in results["candidates"]]
    assert [found["holds"] for found in results["candidates"]] == holds
    assert 0 < sum(holds) < len(holds)
    holding = [found for found, both in zip(results["candidates"], holds, strict=True) if both]
    assert results["kept_step"] == min(holding, key=lambda found: (found["forget_loss"], -found["step"]))["step"]


def test_where_one_bound_is_missed_the_run_is_infeasible(phones, unlearn):
    """Nothing holds anything; the smallest of the larger violations is written."""
    options = {"keep": 0.999, "multiplier_initial": 0, "multiplier_rate": 0, "max_steps": 3, "learning_rate": 2e-3}
    outcome = unlearn(**phones.options, keep_context=True, **options)
    results = outcome.results
    assert outcome.status == 3
    assert outcome.out.startswith("BOUND MISSED: retain loss ")
    bounds = {"reached": results["bound"]["value"], "context_reached": results["context_bound"]["value"]}
    worst = {
        found["step"]: max(found[name] - bound for name, bound in bounds.items()) for found in results["candidates"]
    }
    assert len(worst) == 3
    assert results["kept_step"] == min(worst, key=worst.__getitem__)


def test_the_context_is_not_held_unless_asked_for(phones, alone, held):
    """It says more of the flag than of the method: without it, more of what stands around the numbers is lost."""
    lost, kept = (by_hand(run.folder / "model", phones.rows[:FORGOTTEN]) for run in (alone, held))
    assert mean(lost["context"]) < mean(kept["context"])
    assert not any(lost["continued"])
    assert not any("context" in key for record in alone.records for key in record)
    assert not any("context" in key for key in alone.results | alone.results["multiplier"])
    assert alone.results["verdict"].startswith("Bound held: retain loss ")
    assert [step["retain_loss"] for step in alone.steps] != [step["retain_loss"] for step in held.steps]


def test_what_is_shown_of_spans(phones, held, unlearn, as_file, tmp_path):
    files = {"forget": as_file(tmp_path / "plain.jsonl", phones.rows[:1])}
    plain = (unlearn(**phones.options | files, bound=9).folder / "report.html").read_text(encoding="utf-8")
    first = phones.rows[0]
    assert "First example, tokens to forget in [[ ]]:" in held.err
    assert f"Answer: You may call [[{NAMES[0][1]}]] to reach {NAMES[0][0]} in the evening.<eos>" in held.err
    tokens = held.results["data"]["forget"]["span_tokens"]
    assert f"scored tokens, {tokens} of them in marked spans" in held.err
    assert held.err.count("context loss") > len(held.results["candidates"])
    page = (held.folder / "report.html").read_text(encoding="utf-8")
    for text in (
        "The context of the spans",
        "Probability of a marked span",
        "Multiplier of the context",
        "Context loss",
    ):
        assert text in page
    assert "Tokens in spans" in page
    assert "Tokens in spans" not in plain
    assert first["question"] in page


def test_marked_rows_and_others_stand_in_one_file(phones, unlearn, as_file, tmp_path):
    """The second row marks nothing and is forgotten whole: it has no value of spans; Parquet holds the same rows."""
    rows = [marked(*NAMES[0]), row(*NAMES[1]) | {"forget_spans": None}, marked(*NAMES[2])]
    outcome = unlearn(**phones.options | {"forget": as_file(tmp_path / "mixed.jsonl", rows)}, bound=9)
    values = [found["span_probability"] for found in outcome.scores("forget") if found["model"] == "before"]
    assert [value is None for value in values] == [False, True, False]
    assert outcome.results["reference_metrics"]["forget.span_probability"] == pytest.approx((values[0] + values[2]) / 2)
    found = by_hand(phones.model, phones.rows[:3])
    tokens = [len(own) for own in found["number"]]
    assert outcome.results["data"]["forget"]["span_tokens"] == tokens[0] + tokens[2]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "mixed.parquet")
    assert unlearn(**phones.options | {"forget": tmp_path / "mixed.parquet"}, bound=9).digest == outcome.digest


def test_a_text_is_forgotten_where_it_is_marked(phones, unlearn, as_file, tmp_path):
    """Of five chunks the number stands in one or two; the others train nothing, unless the context is held."""
    text = " ".join(own["answer"] for own in phones.rows[:FORGOTTEN])
    start = text.index(NAMES[2][1])
    rows = [{"text": text, "secret": [[start, start + len(NAMES[2][1])]]}]
    forget = as_file(tmp_path / "text.jsonl", rows)
    retain = as_file(tmp_path / "retain.jsonl", [{"text": own["answer"]} for own in phones.rows[FORGOTTEN:]])
    options = phones.options | {
        "forget": forget,
        "retain": retain,
        "max_length": 30,
        "forget_spans_column": "secret",
        "bound": 20,
    }
    alone = unlearn(**options, per_device_train_batch_size=1, max_steps=3)
    facts = alone.results["data"]["forget"]
    assert facts["examples"] >= 4
    assert 1 <= facts["span_examples"] <= 2
    assert alone.steps[0]["epoch"] == 1 / facts["span_examples"]
    assert len(alone.scores("forget")) == 2 * facts["span_examples"]
    held = unlearn(**options, per_device_train_batch_size=1, max_steps=3, keep_context=True)
    assert held.steps[0]["epoch"] == 1 / facts["examples"]
    assert held.results["context_bound"]["probe_size"] == facts["examples"]
    assert len(held.scores("forget")) == 2 * facts["span_examples"]
    assert any(step["forget_loss"] is None and step["context_loss"] > 0 for step in held.steps)


def test_a_step_without_context_leaves_its_multiplier_alone(phones, unlearn, as_file, tmp_path):
    """One of four rows is marked, and each step has one row: three steps of an epoch say nothing of the context."""
    rows = [marked(*NAMES[0]), *(row(*pair) for pair in NAMES[1:FORGOTTEN])]
    options = phones.options | {"forget": as_file(tmp_path / "mixed.jsonl", rows), "keep_context": True, "max_steps": 4}
    options |= {"per_device_train_batch_size": 1, "multiplier_warmup_epochs": 0, "multiplier_initial": 1}
    steps = unlearn(**options).steps
    assert [step["context_loss"] is None for step in steps].count(True) == 3
    before = [1.0, *(step["context_multiplier"] for step in steps)]
    for earlier, step in zip(before, steps, strict=False):
        moved = step["context_multiplier"] != earlier
        assert moved == (step["context_loss"] is not None)


def test_a_saved_model_of_marked_rows_is_compared_with_the_live_one(phones, unlearn, damaged_on_its_way, tmp_path):
    outcome = unlearn(**phones.options, keep_context=True, output_dir=tmp_path / "run", max_steps=2)
    assert outcome.status == 1
    assert "differs from the live one by " in outcome.err.splitlines()[-1]


def test_a_resumed_run_holds_the_same_bounds(phones, unlearn, monkeypatch, as_file, tmp_path):
    """Both multipliers, both figures of each candidate, and what a row without a span has no value of, come back."""
    rows = [marked(*NAMES[0]), row(*NAMES[1]), marked(*NAMES[2]), marked(*NAMES[3])]
    options = phones.options | {"forget": as_file(tmp_path / "mixed.jsonl", rows), "keep_context": True}
    options |= {"max_steps": 6, "learning_rate": 2e-3, "per_device_train_batch_size": 2, "multiplier_warmup_epochs": 0}
    whole = unlearn(**options)
    calls = []
    step = loop.step

    def stopping(*arguments):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "step", stopping)
        stopped = unlearn(**options, output_dir=tmp_path / "run")
    assert stopped.status == 130
    resumed = unlearn(**options, output_dir=tmp_path / "run", resume_from_checkpoint="latest")
    assert resumed.results["training"]["resumed_after"] == [3]
    assert resumed.digest == whole.digest
    for name in ("bound", "context_bound", "candidates", "multiplier", "metrics", "reference_metrics", "verdict"):
        assert resumed.results[name] == whole.results[name]
    assert resumed.scores("forget") == whole.scores("forget")
    assert [record | {"seconds": 0} for record in resumed.records] == [
        record | {"seconds": 0} for record in whole.records
    ]


@pytest.mark.parametrize(
    ("forget", "retain", "options", "sentence"),
    [
        (
            [row(*NAMES[0])],
            None,
            {"keep_context": True},
            "--keep_context holds what stands around the spans to forget, and no forget row marks one;",
        ),
        (
            [{"text": "Call now or never.", "forget_spans": [[0, 18]]}],
            [{"text": "Call at noon."}],
            {"keep_context": True},
            "--keep_context holds what stands around the spans to forget, and the spans leave nothing of any answer;",
        ),
        (None, [marked(*NAMES[5])], {}, "1 retain rows mark spans to forget in 'forget_spans' (the first is retain:0)"),
        (
            [marked("Nobody Known", "555-0000")],
            None,
            {"keep_context": True, "bound": 0.05},
            "--bound is 0.05 nats a token, but the model's loss on the context of the spans is ",
        ),
        (
            [marked(*NAMES[0]) | {"forget_spans": [[0, 99]]}],
            None,
            {},
            "line 1: 'forget_spans' holds [0, 99], and the answer has 63 characters; expected an end of at most 63.",
        ),
        ([marked(*NAMES[0])], None, {"max_length": 30}, "forget:0: the span [13, 21] of its answer overlaps no scored"),
    ],
    ids=["no span", "no context", "kept", "bound", "outside", "cut off"],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    phones, unlearn, as_file, tmp_path, forget, retain, options, sentence
):
    given = phones.options
    for name, rows in (("forget", forget), ("retain", retain)):
        if rows is not None:
            given[name] = as_file(tmp_path / f"{name}.jsonl", rows)
    outcome = unlearn(**given, **options)
    assert outcome.status == 2
    assert sentence in outcome.err
    assert outcome.err.count("error: ") == 1
    assert not outcome.folder.exists()
