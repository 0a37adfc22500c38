"""The loop: how many steps, which rates, what is recorded when, and how it ends where numbers fail."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3Config

from amnestic.constraints.multiplier import Bounded, Fixed
from amnestic.constraints.retention import NLL, Retention
from amnestic.data.batches import StepRows
from amnestic.data.encode import Encoded
from amnestic.errors import InputError, RunError
from amnestic.methods.flattening import PDU
from amnestic.model.load import load
from amnestic.model.options import ModelOptions
from amnestic.training.loop import Loop, Plan
from amnestic.training.options import FinetuneTraining, TrainingOptions, UnlearnTraining
from amnestic.training.problem import Problem, forget_term, retain_term

SIZES = {"forget": 10, "retain": 14}


def rows(split: str) -> list[Encoded]:
    rng = np.random.default_rng(len(split))
    return [
        Encoded(f"{split}:{i}", rng.integers(3, 320, 4 + i % 5), np.arange(4 + i % 5) >= 2, 2, False, "", "")
        for i in range(SIZES[split])
    ]


class Observed:
    """A loop of two terms over 10 forget rows, 4 a step and so 3 steps an epoch, and everything that it reports."""

    def __init__(self, folder, **options) -> None:
        self.events: list[tuple[str, int]] = []
        self.records: list[dict] = []
        self.candidates: list[tuple[int, float]] = []
        self.options = TrainingOptions(**{"per_device_train_batch_size": 4, "learning_rate": 1e-3} | options)
        self.model = load(ModelOptions(model=str(folder), device="cpu")).model
        terms = (forget_term(PDU()), retain_term(Retention(NLL(), Bounded())))
        self.problem = Problem(terms, self.model, 320)
        self.splits = {split: rows(split) for split in SIZES}
        self.rows = StepRows(SIZES, batch_size=4, seed=self.options.seed)
        self.plan = Plan.of(self.options, self.rows.steps_per_epoch)
        self.multiplier = Bounded(rate=2.0, initial=3.0, warmup_epochs=1.0).start(4.0, self.rows.steps_per_epoch)

    def record(self, values: dict) -> None:
        self.events.append(("record", values["step"]))
        self.records.append(values)

    def candidate(self, step: int, epoch: float) -> None:
        self.events.append(("candidate", step))
        self.candidates.append((step, epoch))

    def run(self, record=None) -> float:
        return Loop(
            self.problem,
            self.splits,
            self.rows,
            self.plan,
            self.options,
            [self.multiplier],
            record or self.record,
            self.candidate,
        ).run()


@pytest.fixture
def observe(tiny_model):
    return lambda **options: Observed(tiny_model(), **options)


@pytest.mark.parametrize(
    ("options", "plan"),
    [
        ({}, Plan(30, 3, 3)),
        ({"num_train_epochs": 2.5}, Plan(8, 3, 3)),
        ({"num_train_epochs": 0.1}, Plan(1, 3, 0)),
        ({"num_train_epochs": 0.5, "warmup_epochs": 0.5}, Plan(2, 3, 1)),
        ({"max_steps": 7}, Plan(7, 3, 3)),
        ({"max_steps": 2}, Plan(2, 3, 1)),
        ({"warmup_epochs": 0.0}, Plan(30, 3, 0)),
        ({"warmup_steps": 0}, Plan(30, 3, 0)),
        ({"warmup_steps": 5, "warmup_epochs": 9.0}, Plan(30, 3, 5)),
    ],
)
def test_plan_by_hand(options, plan):
    assert Plan.of(TrainingOptions(**options), steps_per_epoch=3) == plan


def test_candidates_come_at_each_epochs_end_and_at_the_last_step():
    plan = Plan(steps=8, steps_per_epoch=3, warmup_steps=0)
    assert [done for done in range(1, 9) if plan.is_candidate(done)] == [3, 6, 8]


def test_a_run_reports_every_step_and_every_candidate(observe):
    observed = observe(num_train_epochs=2.5, warmup_steps=2, lr_scheduler_type="linear")
    seconds = observed.run()
    assert observed.candidates == [(3, 1.0), (6, 2.0), (8, pytest.approx(8 / 3))]
    assert [record["step"] for record in observed.records] == list(range(1, 9))
    assert [record["epoch"] for record in observed.records] == pytest.approx([k / 3 for k in range(1, 9)])
    # two steps up, then six down
    shares = [1 / 2, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
    assert [record["learning_rate"] for record in observed.records] == pytest.approx([1e-3 * s for s in shares])
    assert sum(record["seconds"] for record in observed.records) == pytest.approx(seconds)
    for done, _ in observed.candidates:  # everything is known of a step before it is measured
        assert observed.events.index(("candidate", done)) == observed.events.index(("record", done)) + 1


def test_records_hold_losses_of_the_steps_rows_and_the_multiplier(observe):
    observed = observe(max_steps=4)
    drawn = observed.rows.rows(0)
    expected = [
        observed.problem.measure(split, [observed.splits[split][i] for i in drawn[split]], 4)[k].mean
        for k, split in enumerate(("forget", "retain"))
    ]
    observed.run()
    first = observed.records[0]
    assert [first["forget_loss"], first["retain_loss"]] == pytest.approx(expected, rel=1e-5)
    multiplier = 3.0
    for done, record in enumerate(observed.records, start=1):
        if done > 3:  # one epoch of warm start
            multiplier = max(0.0, multiplier + 2.0 * (record["retain_loss"] - 4.0))
        assert record["multipliers"] == [pytest.approx(multiplier, rel=1e-6)]
    assert observed.multiplier.value.item() == pytest.approx(multiplier, rel=1e-6)


def test_most_steps_replace_epochs(observe):
    observed = observe(max_steps=2, num_train_epochs=50.0)
    observed.run()
    assert len(observed.records) == 2
    assert observed.candidates == [(2, pytest.approx(2 / 3))]


def test_an_epoch_passes_over_the_forget_rows_once_each_with_a_retain_row(observe, monkeypatch):
    observed = observe(max_steps=3)
    read = {"forget": [], "retain": []}
    original = Problem.values

    def values(problem, batch):
        read[next(iter(batch.shares))] += batch.input_ids.tolist()
        return original(problem, batch)

    monkeypatch.setattr(Problem, "values", values)
    observed.run()
    longest = max(map(len, read["forget"]))
    expected = [row.input_ids.tolist() for row in observed.splits["forget"]]
    padded = [row + [0] * (longest - len(row)) for row in read["forget"]]
    assert sorted(padded) == sorted(row + [0] * (longest - len(row)) for row in expected)
    assert len(read["retain"]) == len(read["forget"]) == 10


def test_the_cut_does_not_change_the_weights(observe):
    """The rows of a step depend on the whole batch; how many fit in one pass moves only the rounding."""
    whole, cut = observe(max_steps=3), observe(max_steps=3, per_device_train_batch_size=1)
    for observed in (whole, cut):
        observed.run()
    for a, b in zip(whole.model.parameters(), cut.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-5)


def test_seed_changes_the_rows(observe):
    first, second = observe(max_steps=1), observe(max_steps=1, seed=7)
    for observed in (first, second):
        observed.run()
    assert first.records[0]["forget_loss"] != second.records[0]["forget_loss"]


def test_one_term_without_multipliers_trains(tiny_model):
    """The plain likelihood of one split falls; this is what finetuning is."""
    model = load(ModelOptions(model=str(tiny_model()), device="cpu")).model
    problem = Problem((retain_term(Retention(NLL(), Fixed(), "data")),), model, 320)
    options = TrainingOptions(max_steps=8, learning_rate=5e-3, per_device_train_batch_size=10, warmup_steps=0)
    records: list[dict] = []
    data = StepRows({"data": 10}, batch_size=10, seed=0)
    plan = Plan.of(options, data.steps_per_epoch)
    Loop(problem, {"data": rows("forget")}, data, plan, options, [], records.append, lambda *_: None).run()
    losses = [record["data_loss"] for record in records]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 1
    assert records[0]["multipliers"] == []


def test_a_model_that_sees_too_may_be_trained_whole_where_gradients_are_checked():
    """As with --gradient_checkpointing: its eyes get no gradient from text, and stay as they are."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = Gemma3Config(
        text_config=sizes | {"head_dim": 8, "num_key_value_heads": 1, "vocab_size": 330}, mm_tokens_per_image=4,
        vision_config=sizes | {"image_size": 28, "patch_size": 14}, image_token_id=327, boi_token_id=328,
        eoi_token_id=329,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    problem = Problem((retain_term(Retention(NLL(), Fixed(), "data")),), model, 320)
    options = TrainingOptions(max_steps=2, per_device_train_batch_size=10, warmup_steps=0)
    data, records = StepRows({"data": 10}, batch_size=10, seed=0), []
    plan = Plan.of(options, 1)
    loop = Loop(problem, {"data": rows("forget")}, data, plan, options, [], records.append, lambda *_: None)
    loop.reaches_all = True
    loop.run()
    assert [record["step"] for record in records] == [1, 2]


def spoil(observed: Observed, after: int):
    """Return a recorder that makes a weight no number once step `after` is recorded, which is one step later."""

    def record(values: dict) -> None:
        observed.record(values)
        if values["step"] == after:
            with torch.no_grad():
                observed.model.get_output_embeddings().weight[5] = torch.nan

    return record


def test_a_loss_that_is_no_number_ends_the_run_with_the_step(observe):
    observed = observe(max_steps=6)
    sentence = (
        r"^step 3: forget_loss nan, retain_loss nan, gradient norm nan are not all finite, in examples "
        r"forget:\d, forget:\d, retain:\d+, retain:\d+; lower --learning_rate, or use --dtype float32\.$"
    )
    with pytest.raises(RunError, match=sentence):
        observed.run(spoil(observed, after=1))
    assert observed.events == [("record", 1), ("record", 2)]


def test_a_last_step_that_fails_is_no_candidate(observe):
    observed = observe(max_steps=3)
    with pytest.raises(RunError, match=r"^step 3: "):
        observed.run(spoil(observed, after=1))
    assert observed.candidates == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"learning_rate": 0.0}, "--learning_rate is 0.0; expected a finite number above 0."),
        ({"learning_rate": float("nan")}, "--learning_rate is nan; expected a finite number above 0."),
        ({"num_train_epochs": float("inf")}, "--num_train_epochs is inf; expected a finite number above 0."),
        ({"per_device_train_batch_size": 0}, "--per_device_train_batch_size is 0; expected a finite number above 0."),
        ({"warmup_steps": -1}, "--warmup_steps is -1; expected a finite number of at least 0."),
        ({"max_grad_norm": -1.0}, "--max_grad_norm is -1.0; expected a finite number of at least 0."),
        ({"adam_beta2": 1.0}, "--adam_beta2 is 1.0; expected a number from 0 to below 1."),
        ({"max_steps": 0}, "--max_steps is 0; expected at least 1 step."),
    ],
)
def test_options_that_no_run_could_use_are_refused(options, sentence):
    with pytest.raises(InputError) as caught:
        TrainingOptions(**options)
    assert str(caught.value) == sentence


def test_every_unlearning_pairs_at_least_one_retain_example():
    with pytest.raises(InputError, match=r"^--retain_per_forget is 0; expected at least 1 example\.$"):
        UnlearnTraining(retain_per_forget=0)


def test_defaults_are_the_papers():
    """arXiv:2506.05314 on TOFU: AdamW, 1e-5, 10 epochs of which one warms up, decay 0.01, norm 1; on MUSE: constant."""
    paper = UnlearnTraining()
    assert (paper.learning_rate, paper.num_train_epochs, paper.warmup_epochs) == (1e-5, 10.0, 1.0)
    assert (paper.weight_decay, paper.max_grad_norm, paper.lr_scheduler_type) == (0.01, 1.0, "constant_with_warmup")
    assert paper.retain_per_forget == 1
    assert FinetuneTraining().num_train_epochs == 5.0
