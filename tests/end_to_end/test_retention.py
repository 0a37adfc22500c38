"""What is kept, and how: runs without a bound, fixed weights, and several retentions, from arguments to files."""

import json
import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import amnestic
from amnestic.config import UnlearnConfig, from_mapping, read_yaml, to_mapping
from amnestic.constraints.multiplier import Bounded, Fixed
from amnestic.constraints.retention import KL, NLL, Retention
from amnestic.methods.base import Method
from amnestic.model.signals import Needs

COURSE = {"learning_rate": 2e-3, "max_steps": 6}


@dataclass(frozen=True)
class Ascent(Method):
    """Lower the probability of answers; published without a retention."""

    scale: float = 1.0
    is_bounded_below: ClassVar[bool] = False
    needs: ClassVar[Needs] = Needs(head=frozenset({"token_logp"}))
    retention: ClassVar[tuple] = ()
    bounded: ClassVar[Bounded] = Bounded(rate=1000.0, initial=1.0, cap=3.0)

    def objective(self, model, reference):
        return self.scale * model.forget.token_logp


@dataclass(frozen=True)
class Difference(Ascent):
    """The same, published with a retention of fixed weight."""

    retention: ClassVar[tuple] = (Retention(NLL(), Fixed(2.0)),)


@dataclass(frozen=True)
class Twice(Ascent):
    """The same, published with two retentions of one split."""

    retention: ClassVar[tuple] = (Retention(NLL(), Fixed(2.0)), Retention(KL(), Fixed(1.0)))


ASCENT, DIFFERENCE = f"{__name__}.Ascent", f"{__name__}.Difference"


@pytest.fixture(scope="module")
def split(people, as_file, tmp_path_factory):
    """The rows that are kept in two files: 16 of the one kind, 8 of the other."""
    folder, rows = tmp_path_factory.mktemp("split"), people.rows["retain"]
    return as_file(folder / "most.jsonl", rows[:16]), as_file(folder / "rest.jsonl", rows[16:])


@pytest.fixture(scope="module")
def free(unlearn):
    """A run as the method is published: six steps, three an epoch."""
    return unlearn(**COURSE, method=DIFFERENCE)


@pytest.fixture(scope="module")
def several(unlearn, split):
    """A run that holds two splits, one of them more tightly."""
    names = ("--retain", f"retain={split[0]}", "--retain", f"rest={split[1]}")
    return unlearn(*names, **COURSE, retain=None, keep=0.9, keep_of={"rest": 0.95}, multiplier_warmup_epochs=0)


def held(outcome, name: str) -> bool:
    bound = outcome.results[name]
    return bound["reached"] <= bound["value"]


def mean_loss(answers, folder, rows) -> float:
    return -np.concatenate([answer["logp"] for answer in answers(folder, rows)]).mean()


def test_a_run_without_a_bound_ends_well_and_says_what_it_kept(free):
    before, after = free.results["reference_metrics"], free.results["metrics"]
    assert (free.status, free.results["status"]) == (0, "unconstrained")
    kept, forgotten = "retain.token_probability", "forget.probability"
    assert free.out.splitlines()[0] == free.results["verdict"]
    assert free.results["verdict"].startswith(
        f"No bound was asked for: retain token probability {before[kept]:.3g} -> {after[kept]:.3g}; "
        f"forget probability {before[forgotten]:.3g} -> {after[forgotten]:.3g}"
    )


def test_two_retentions_of_one_split_are_told_apart(unlearn):
    """The divergence from the model before is 0 in the first step, and then is not; the likelihood never is."""
    run = unlearn(method=f"{__name__}.Twice", max_steps=2)
    assert list(run.results["retentions"]) == ["retain", "retain_kl"]
    first, second = run.steps
    assert first["retain_kl_loss"] == pytest.approx(0.0, abs=1e-5)
    assert second["retain_kl_loss"] > 1e-5
    assert first["retain_loss"] > 1e-4


def test_its_results_have_a_retention_and_no_bound(free):
    results = free.results
    assert not {"bound", "multiplier"} & results.keys()
    assert results["retentions"] == {"retain": {"loss": "nll", "split": "retain", "control": "fixed", "weight": 2.0}}
    assert len(results["probe_ids"]) == 24
    assert not any({"bound", "multiplier", "multipliers"} & step.keys() for step in free.steps)
    assert all(step["retain_loss"] > 0 for step in free.steps)


def test_its_only_candidate_is_the_last_step(people, free, answers):
    """The forget loss is that of the saved model: the mean of log p over the answers' tokens."""
    (candidate,) = free.results["candidates"]
    assert candidate.keys() == {"step", "epoch", "forget_loss"}
    assert (candidate["step"], free.results["kept_step"]) == (6, 6)
    assert candidate["forget_loss"] == pytest.approx(
        -mean_loss(answers, free.folder / "model", people.rows["forget"]), rel=1e-4
    )
    assert [record["step"] for record in free.records if "candidate" in record] == [6]


def test_its_screen_and_its_page_speak_of_no_bound(free):
    assert re.search(r"^bound +none *$", free.err, re.MULTILINE)
    assert re.search(r"^retention +nll x 2 on retain *$", free.err, re.MULTILINE)
    assert "step 6: forget loss" in free.err
    page = (free.folder / "report.html").read_text(encoding="utf-8")
    assert "No retention bound was asked for." in page
    assert "Retain loss" in page
    assert 'id="bound"' not in page
    card = (free.folder / "model" / "README.md").read_text(encoding="utf-8")
    assert "by unlearning without a bound" in card
    assert "The bound" not in card


def test_its_configuration_repeats_it(free, command, tmp_path):
    config = to_mapping(from_mapping(UnlearnConfig, read_yaml(free.folder / "config.yaml")))
    assert (config["keep"], config["method_args"]) == ("none", {"scale": "1.0"})
    again = command("unlearn", {"config": free.folder / "config.yaml", "output_dir": tmp_path / "run"})
    assert again.digest == free.digest
    assert again.results["verdict"] == free.results["verdict"]


def test_a_weight_of_ones_own_replaces_the_published_one(unlearn, free):
    """Of the same weight the same run; of none the run of the method that has no retention."""
    same, none = (unlearn(**COURSE, method=DIFFERENCE, retain_weight=weight) for weight in (2, 0))
    assert (same.digest, same.results["status"]) == (free.digest, "unconstrained")
    assert none.steps[0]["retain_loss"] == free.steps[0]["retain_loss"]
    assert none.digest != free.digest


def test_without_a_retention_the_rows_to_keep_are_measured_and_not_drawn(people, unlearn, split):
    first, second = (unlearn(**COURSE, method=ASCENT, retain=path) for path in (people.file("retain"), split[1]))
    assert first.digest == second.digest
    assert first.results["retentions"] == {}
    assert not any("retain_loss" in step for step in first.steps)
    assert first.results["metrics"]["retain.probability"] != second.results["metrics"]["retain.probability"]
    assert "No bound was asked for: retain token probability" in first.results["verdict"]


def test_a_bound_replaces_what_is_published(unlearn):
    """Both methods are the same under one, and the multiplier's cap, from their defaults, is told of."""
    outcomes = [unlearn(**COURSE, method=method, bound=0.021) for method in (ASCENT, DIFFERENCE)]
    assert outcomes[0].digest == outcomes[1].digest
    results = outcomes[0].results
    assert results["retentions"] == {"retain": {"loss": "nll", "split": "retain", "control": "bounded"}}
    weights = [step["multiplier"] for step in outcomes[0].steps]
    free_weights = [1.0]
    for step in outcomes[0].steps:
        free_weights.append(max(0.0, min(3.0, free_weights[-1]) + 1000 * (step["retain_loss"] - 0.021)))
    capped = sum(weight > 3.0 for weight in free_weights)
    assert weights == pytest.approx([min(3.0, weight) for weight in free_weights[1:]], rel=1e-3)
    assert results["multiplier"]["cap_binds"] == pytest.approx(capped / 6)
    assert capped > 0
    assert results["notes"][-1] == (
        f"the cap of 3 held the multiplier in {capped} of 6 steps: the bound asked for more than it may pull; raise "
        "--multiplier_cap."
    )


def test_a_cap_can_be_taken_away(unlearn, free):
    outcome = unlearn(**COURSE, method=ASCENT, bound=0.021, multiplier_cap="none")
    assert max(step["multiplier"] for step in outcome.steps) > 3
    assert outcome.results["multiplier"]["cap"] is None
    assert "cap_binds" not in outcome.results["multiplier"]
    assert read_yaml(outcome.folder / "config.yaml")["multiplier_cap"] == "none"


def test_several_retentions_are_each_held_by_their_own_bound(people, several, answers):
    """The bounds by a plain loop: L_ref - log 0.9 on 16 rows, L_ref - log 0.95 on the 8 others."""
    rows = people.rows["retain"]
    for key, own, keep in (("bound", rows[:16], 0.9), ("rest_bound", rows[16:], 0.95)):
        bound = several.results[key]
        before, after = (mean_loss(answers, path, own) for path in (people.model, several.folder / "model"))
        assert bound["L_ref"] == pytest.approx(before, rel=1e-4)
        assert bound["value"] == pytest.approx(before - np.log(keep), rel=1e-5)
        assert bound["reached"] == pytest.approx(after, rel=1e-4)
        assert (bound["probe_size"], bound["requested"]) == (len(own), keep)
    assert several.results["retentions"].keys() == {"retain", "rest"}
    assert several.results["probe_ids"] == [f"retain:{i}" for i in range(16)] + [f"rest:{i}" for i in range(8)]


def test_each_moves_a_multiplier_of_its_own(several):
    """From 100, by 5 times what its loss exceeds its bound by."""
    values = {"": 100.0, "rest_": 100.0}
    for step in several.steps:
        for prefix, loss in (("", "retain_loss"), ("rest_", "rest_loss")):
            residual = step[loss] - several.results[f"{prefix}bound"]["value"]
            values[prefix] = max(0.0, values[prefix] + 5 * residual)
            assert step[f"{prefix}multiplier"] == pytest.approx(values[prefix], rel=1e-5)
    assert values[""] != values["rest_"]
    assert several.results["multiplier"]["final"] == pytest.approx(values[""], rel=1e-5)
    assert several.results["multiplier"]["rest_final"] == pytest.approx(values["rest_"], rel=1e-5)


def test_all_must_hold(several):
    results = several.results
    assert (several.status == 0) == (held(several, "bound") and held(several, "rest_bound"))
    limits = {"reached": results["bound"]["value"], "rest_reached": results["rest_bound"]["value"]}
    for candidate in results["candidates"]:
        assert candidate["holds"] == all(candidate[name] <= limit for name, limit in limits.items())


def test_each_is_measured_told_and_drawn(several):
    results = several.results
    assert {"retain.probability", "rest.probability"} <= results["metrics"].keys()
    assert (several.folder / "scores" / "rest.parquet").is_file()
    assert "rest loss" in results["verdict"]
    page = (several.folder / "report.html").read_text(encoding="utf-8")
    for text in ("The bound of rest", "Rest loss", "Multiplier of rest", "Loss on the rest probe"):
        assert text in page
    card = (several.folder / "model" / "README.md").read_text(encoding="utf-8")
    assert "| rest split | nats a token |" in card
    assert "--retain retain=RETAIN --retain rest=RETAIN" in card


def test_several_are_repeated_by_their_configuration_and_by_python(people, several, split, command, tmp_path):
    again = command("unlearn", {"config": several.folder / "config.yaml", "output_dir": tmp_path / "run"})
    assert again.digest == several.digest
    assert again.results["rest_bound"] == several.results["rest_bound"]
    quick = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "max_new_tokens": 3}
    run = amnestic.unlearn(
        people.model,
        forget=people.rows["forget"],
        retain={"retain": people.rows["retain"][:16], "rest": split[1]},
        output_dir=tmp_path / "python",
        keep=0.9,
        keep_of={"rest": 0.95},
        multiplier_warmup_epochs=0,
        **quick,
        **COURSE,
    )
    assert run.results["bound"] == several.results["bound"]
    assert run.results["rest_bound"] == several.results["rest_bound"]
    assert run.results["data"]["retain"]["source"] == "<list in memory>"


def test_the_first_leads_whatever_it_is_called(unlearn, split):
    outcome = unlearn("--retain", f"most={split[0]}", "--retain", f"rest={split[1]}", retain=None, bound=9)
    results = outcome.results
    assert results["verdict"].startswith("Bounds held: most loss ")
    assert (results["bound"]["probe_size"], results["rest_bound"]["probe_size"]) == (16, 8)
    assert "most.probability" in results["metrics"]
    assert 'class="retain"' in (outcome.folder / "report.html").read_text(encoding="utf-8")


def test_a_file_whose_name_has_an_equals_sign_is_a_file(people, unlearn, as_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    as_file(tmp_path / "a=b.jsonl", people.rows["retain"])
    outcome = unlearn(retain="a=b.jsonl", bound=9, max_steps=1)
    assert outcome.results["data"]["retain"]["source"] == "a=b.jsonl"


def test_rows_that_are_to_be_forgotten_are_in_none_of_them(people, unlearn, as_file, split, tmp_path):
    rest = as_file(tmp_path / "rest.jsonl", people.rows["retain"][16:] + people.rows["forget"][:2])
    outcome = unlearn("--retain", str(split[0]), "--retain", f"rest={rest}", retain=None)
    assert outcome.status == 2
    assert "forget and rest share 2 rows of 12 and 10; take them out of one of the two." in outcome.err


def compared(people, folder, rows, layer: int) -> dict[str, float]:
    """Divergence from the model before, and squared distance of its hidden rows, by transformers alone, row by row."""
    models = [AutoModelForCausalLM.from_pretrained(path).eval() for path in (people.model, folder)]
    tokenizer = AutoTokenizer.from_pretrained(people.model)
    found: dict[str, list[torch.Tensor]] = {"kl": [], "hidden": []}
    for row in rows:
        prompt = f"Question: {row['question']}\nAnswer: "
        encoded = tokenizer(prompt + row["answer"], return_offsets_mapping=True)
        ids = torch.tensor([*encoded["input_ids"], tokenizer.eos_token_id])
        first = next(i for i, (_, end) in enumerate(encoded["offset_mapping"]) if end > len(prompt))
        with torch.no_grad():
            before, after = (model(ids[None], output_hidden_states=True) for model in models)
        logp = [out.logits[0, first - 1 : -1].double().log_softmax(-1) for out in (before, after)]
        hidden = [out.hidden_states[layer + 1][0, first - 1 : -1].double() for out in (before, after)]
        found["kl"].append((logp[0].exp() * (logp[0] - logp[1])).sum(-1))
        found["hidden"].append((hidden[0] - hidden[1]).square().mean(-1))
    return {name: float(torch.cat(values).mean()) for name, values in found.items()}


@pytest.mark.parametrize(
    ("name", "more"), [("kl", {"bound": 0.5}), ("hidden", {"bound": 9, "retention_layer": 0})], ids=["kl", "hidden"]
)
def test_what_compares_with_the_model_before_starts_at_zero_and_ends_as_a_plain_loop_says(
    people, unlearn, command, tmp_path, name, more
):
    outcome = unlearn(**COURSE, retention=name, **more)
    results = outcome.results
    assert outcome.status == 0
    assert results["bound"]["L_ref"] == 0
    assert outcome.steps[0]["retain_loss"] == pytest.approx(0.0, abs=1e-6)
    expected = compared(people, outcome.folder / "model", people.rows["retain"], layer=0)[name]
    assert results["bound"]["reached"] == pytest.approx(expected, rel=1e-3)
    assert results["retentions"]["retain"]["loss"] == name
    assert read_yaml(outcome.folder / "config.yaml")["retention"] == name
    again = command("unlearn", {"config": outcome.folder / "config.yaml", "output_dir": tmp_path / "run"})
    assert again.digest == outcome.digest


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"keep": "none"},
            (
                "pdu is published with a bound, and --keep none takes it away; give --retain_weight, a fixed weight in "
                "its place, or a bound."
            ),
        ),
        (
            {"retention": "kl"},
            "--retention kl says what is kept, and not how; give --bound or --retain_weight.",
        ),
        (
            {"method": ASCENT, "retention": "nll"},
            "--retention nll says what is kept, and not how; give --keep, --alpha, --bound or --retain_weight.",
        ),
        (
            {"retention": "hidden", "keep": 0.9},
            (
                "--keep goes with --retention nll alone, since the loss of hidden is 0 before the first step; give "
                "--bound."
            ),
        ),
        (
            {"retention": "hidden", "bound": 0.1, "retention_layer": 2},
            "--retention_layer is 2, and the model has 2 blocks; expected at most 1.",
        ),
        (
            {"retain_weight": 1, "keep": 0.9},
            (
                "--retain_weight is a weight that does not move, and --keep a bound, whose multiplier does; give one "
                "of the two."
            ),
        ),
        (
            {"bound_of": {"rest": 1}, "keep": 0.9},
            "--bound_of.rest names no retention of this run; it has retain.",
        ),
        (
            {"multiplier_kind": "multiplicative", "multiplier_initial": 0},
            "--multiplier_initial is 0; expected a number above 0, since a multiplicative step multiplies it.",
        ),
    ],
)
def test_what_does_not_say_what_is_kept_and_how_is_refused(unlearn, tmp_path, options, sentence):
    outcome = unlearn(**options, output_dir=tmp_path / "run")
    assert outcome.status == 2
    assert outcome.err.splitlines()[-1] == f"error: {sentence}"
    assert not (tmp_path / "run").exists()


def test_options_of_a_multiplier_that_is_not_there_are_told(unlearn):
    outcome = unlearn(method=DIFFERENCE, multiplier_rate=2, max_steps=1)
    note = "--multiplier_rate: this run holds no bound, and so has no multiplier; nothing is changed by that."
    assert note in outcome.results["notes"]
    assert json.loads((outcome.folder / "results.json").read_text())["status"] == "unconstrained"
