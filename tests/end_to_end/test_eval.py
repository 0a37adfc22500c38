"""``amnestic eval``: what is measured, what is written, how it goes on, and what it refuses.

The models and rows are the invented people's; losses come from transformers alone, row by row.
"""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import amnestic
from amnestic.evaluation import continuations, sweeps
from amnestic.evaluation.store import FILE
from amnestic.progress import Progress

ROWS = 8
"""Of each split: enough to see everything, few enough to take a second."""


@pytest.fixture(scope="module")
def files(people, as_file, tmp_path_factory) -> dict[str, Path]:
    """The first rows of three splits, with all their answers."""
    folder = tmp_path_factory.mktemp("rows")
    return {
        split: as_file(folder / f"{split}.jsonl", people.rows[split][:ROWS])
        for split in ("forget", "retain", "holdout")
    }


@pytest.fixture(scope="module")
def measure(command, people, files, tmp_path_factory) -> Callable[..., Any]:
    """Run ``amnestic eval`` on the files, into a new folder, unless told otherwise."""

    def run(*more: str, **options: Any) -> Any:
        own = {"model": people.model, **files, "max_new_tokens": 24}
        own["output_dir"] = options.get("output_dir") or tmp_path_factory.mktemp("eval") / "run"
        return command("eval", own | options, *more)

    return run


@pytest.fixture(scope="module")
def whole(measure) -> Any:
    return measure()


@pytest.fixture(scope="module")
def retrained_eval(measure, retrained) -> Any:
    return measure(model=retrained.folder / "model")


def loss(model: Any, tokenizer: Any, question: str, answer: str) -> float:
    """Mean loss of an answer's tokens and its end, by transformers alone."""
    prompt = f"Question: {question}\nAnswer: "
    encoded = tokenizer(prompt + answer, return_offsets_mapping=True)
    ids = torch.tensor([*encoded["input_ids"], tokenizer.eos_token_id])
    first = next(i for i, (_, end) in enumerate(encoded["offset_mapping"]) if end > len(prompt))
    labels = torch.where(torch.arange(len(ids)) >= first, ids, -100)
    with torch.no_grad():
        return float(model(ids[None], labels=labels[None]).loss)


def test_numbers_are_those_of_the_formulas(people, whole):
    """Probability, and the truth ratio of both kinds of splits, from losses of single rows."""
    model = AutoModelForCausalLM.from_pretrained(people.model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(people.model)
    found = whole.results["metrics"]
    for split in ("forget", "retain"):
        rows = people.rows[split][:ROWS]
        right = [loss(model, tokenizer, row["question"], row["answer"]) for row in rows]
        assert found[f"{split}.probability"] == pytest.approx(np.mean(np.exp(-np.array(right))), rel=1e-5)
        ratios = []
        for row in rows:
            wrong = [loss(model, tokenizer, row["question"], text) for text in row["perturbed_answer"]]
            ratios.append(math.exp(loss(model, tokenizer, row["question"], row["paraphrased_answer"]) - np.mean(wrong)))
        values = [min(r, 1 / r) if split == "forget" else max(0, 1 - r) for r in ratios]
        assert found[f"{split}.truth_ratio"] == pytest.approx(np.mean(values), rel=1e-4)
        assert [row["truth_ratio"] for row in whole.scores(split)] == pytest.approx(ratios, rel=1e-4)


def test_the_folder_holds_everything_and_nothing_else(whole, people):
    assert whole.status == 0
    names = {path.name for path in whole.folder.iterdir()}
    assert names == {"config.yaml", "environment.json", "results.json", "scores"}
    assert {path.stem for path in (whole.folder / "scores").iterdir()} == {"forget", "retain", "holdout"}
    results = whole.results
    assert results["command"] == "eval"
    assert results["intervals"].keys() <= results["metrics"].keys()
    low, high = results["intervals"]["forget.rouge"]
    assert low <= results["metrics"]["forget.rouge"] <= high
    assert {"forget_quality", "privleak", "model_utility", "mia.reference.auc"} <= results["not_computed"].keys()
    assert "--retrained" in results["not_computed"]["forget_quality"]
    assert all(isinstance(value, float) and not math.isnan(value) for value in results["metrics"].values())
    prompt = results["prompts"]["forget"]["text"]
    assert prompt.endswith(f"Question: {people.rows['forget'][0]['question']}\nAnswer: ")
    assert "Measured: forget probability" in whole.out


def test_the_configuration_repeats_the_evaluation(whole, command, tmp_path):
    again = command("eval", {"config": whole.folder / "config.yaml", "output_dir": tmp_path / "again"})
    assert again.results["metrics"] == whole.results["metrics"]


def test_a_retrained_model_gives_what_its_evaluation_gives(measure, retrained, retrained_eval):
    """And both give forget quality; the model itself, 1."""
    by_results = measure(retrained=retrained_eval.folder).results["metrics"]
    for named in (retrained.folder / "model", retrained.folder):
        by_model = measure(retrained=named).results["metrics"]
        assert by_model == pytest.approx(by_results, rel=1e-6)
    assert 0 < by_results["forget_quality"] < 1
    own = measure(model=retrained.folder / "model", retrained=retrained_eval.folder / "results.json").results["metrics"]
    assert (own["forget_quality"], own["forget_quality_log10"], own["privleak"]) == (1.0, 0.0, 0.0)


def test_results_of_something_else_are_no_retrained_model(
    measure, retrained, retrained_eval, people, files, as_file, tmp_path
):
    other = measure(model=retrained.folder / "model", forget=files["retain"], retain=files["forget"])
    cases = {
        "was measured on another forget split (8 rows": {"retrained": other.folder},
        "another question_template": {"retrained": retrained_eval.folder, "question_template": "Q: {question}\nA:"},
        "no results.json of an evaluation": {"retrained": files["forget"].with_suffix(".json")},
        "--retrained nowhere": {"retrained": "nowhere"},
    }
    for text, options in cases.items():
        refused = measure(output_dir=tmp_path / "refused", **options)
        assert refused.status == 2, refused.err
        assert text.replace("question_template", "") in refused.err or "question" in refused.err
        assert "Traceback" not in refused.err
        assert not (tmp_path / "refused").exists()


def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Count the rows that are scored, and the prompts that are continued."""
    counts = {"rows": 0, "prompts": 0}
    scored, generate = sweeps._scored, continuations.generate

    def count_rows(work, run):
        counts["rows"] += len(run)
        return scored(work, run)

    def count_prompts(loaded, tokenizer, examples, *more):
        counts["prompts"] += len(examples)
        return generate(loaded, tokenizer, examples, *more)

    monkeypatch.setattr(sweeps, "_scored", count_rows)
    monkeypatch.setattr(continuations, "generate", count_prompts)
    return counts


def test_a_cache_spares_what_another_evaluation_of_the_same_weights_did(
    measure, whole, retrained, tmp_path, monkeypatch
):
    """Another choice of splits and metrics is made of the same rows; of other weights nothing is known."""
    counts = counted(monkeypatch)
    cache = tmp_path / "cache"
    first = measure(cache_dir=cache)
    everything = dict(counts)
    assert everything == {"rows": 3 * ROWS * 7, "prompts": 2 * ROWS}  # an answer, a paraphrase, five wrong ones
    again = measure(cache_dir=cache)
    assert counts == everything
    assert again.results["metrics"] == first.results["metrics"] == whole.results["metrics"]
    measure(cache_dir=cache, metrics="probability", retain=None, holdout=None)
    assert counts == everything
    measure(cache_dir=cache, metrics="probability", retain=None, holdout=None, model=retrained.folder / "model")
    assert counts["rows"] == everything["rows"] + ROWS


def test_an_interrupted_evaluation_goes_on_with_what_is_missing(measure, whole, tmp_path, monkeypatch):
    """Stopped behind the second pass of scoring, and behind the scoring: the same command does the rest."""
    folder = tmp_path / "run"
    scored, passes = sweeps._scored, []

    def stopped(work, run):
        if len(passes) == 2:
            raise KeyboardInterrupt
        passes.append(len(run))
        return scored(work, run)

    monkeypatch.setattr(sweeps, "_scored", stopped)
    first = measure(output_dir=folder, per_device_eval_batch_size=4)
    assert (first.status, "the same command goes on" in first.err) == (130, True)
    assert (folder / "checkpoints" / FILE).is_file()
    assert not (folder / "results.json").exists()
    monkeypatch.undo()
    counts = counted(monkeypatch)
    second = measure(output_dir=folder, per_device_eval_batch_size=4)
    assert counts == {"rows": 3 * ROWS * 7 - sum(passes), "prompts": 2 * ROWS}
    assert second.results["metrics"] == pytest.approx(whole.results["metrics"], rel=1e-4)
    assert not (folder / "checkpoints").exists()
    assert measure(output_dir=folder).status == 2  # it has ended


@pytest.mark.parametrize("stops", ["", "scored"])
def test_an_interrupted_evaluation_with_a_cache_goes_on_in_its_folder(measure, whole, tmp_path, monkeypatch, stops):
    """Nothing of the folder tells what was scored: the cache has it."""
    folder, cache = tmp_path / "run", tmp_path / "cache"

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(*((continuations, "generate") if stops else (sweeps, "_scored")), stop)
    assert measure(output_dir=folder, cache_dir=cache).status == 130
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "environment.json"}
    (folder / "config.yaml").unlink()  # as a kill between the two files leaves it
    monkeypatch.undo()
    counts = counted(monkeypatch)
    second = measure(output_dir=folder, cache_dir=cache)
    assert counts["rows"] == (0 if stops else 3 * ROWS * 7)
    assert second.results["metrics"] == whole.results["metrics"]


def test_a_folder_that_is_no_interrupted_evaluation_is_left_alone(measure, tmp_path):
    """A configuration of the user's, and a run of another command."""
    own, trained = tmp_path / "own", tmp_path / "trained"
    for folder, files in ((own, {"config.yaml": "seed: 1"}), (trained, {"environment.json": '{"weights": "w"}'})):
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)
    (trained / "train.jsonl").write_text("")
    (trained / "checkpoints").mkdir()
    for folder in (own, trained):
        refused = measure(output_dir=folder)
        assert (refused.status, "is not empty; give another folder" in refused.err) == (2, True), refused.err
        assert "resume_from_checkpoint" not in refused.err  # which this command does not have
    assert (own / "config.yaml").read_text() == "seed: 1"


def test_the_plan_of_a_folder_in_use_is_printed(measure, whole):
    planned = measure("--plan", output_dir=whole.folder)
    assert (planned.status, "Nothing was computed." in planned.out) == (0, True), planned.err
    assert whole.results["status"] == "done"


def test_progress_ends_where_the_plan_said(measure, retrained, people, files, tmp_path):
    """With a reference that judges generated answers, and gradients."""

    class Counting(Progress):
        total = done = 0

        def start(self, title, total):
            self.total, self.done = total, 0

        def advance(self, units=1):
            self.done += units

    progress = Counting()
    options = {"reference": str(retrained.folder / "model"), "metrics": ["all"], "max_new_tokens": 24}
    amnestic.evaluate(str(people.model), output_dir=tmp_path / "run", progress=progress, **files, **options)
    assert progress.done == progress.total > 0


def test_the_plan_is_printed_and_nothing_is_written(measure, tmp_path):
    planned = measure("--plan", "--json", output_dir=tmp_path / "run")
    plan = json.loads(planned.out)["plan"]
    assert plan["prompts"] == 2 * ROWS
    assert plan["positions"] > plan["scored_tokens"] / 2 > 0
    assert not (tmp_path / "run").exists()


def test_metrics_are_chosen_by_name_and_by_path(measure, monkeypatch):
    """One name: nothing is generated. Variants and gradients take part where they are asked for."""
    counts = counted(monkeypatch)
    chosen = measure(metrics="probability,truth_ratio").results
    assert chosen["metrics"].keys() == {
        *(f"{split}.probability" for split in ("forget", "retain", "holdout")),
        *(f"{split}.truth_ratio" for split in ("forget", "retain", "holdout")),
    }
    assert counts["prompts"] == 0
    more = measure(metrics="mia.grad_norm.auc,extraction_strength_ou").results["metrics"]
    assert {"mia.grad_norm.auc", "forget.extraction_strength_ou"} <= more.keys()
    own = measure(metrics=f"{__name__}.Letters").results["metrics"]
    assert own["forget.letters"] > 0


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("probabilty", "unknown metric 'probabilty'; did you mean 'probability'?"),
        ("forget.rouge", "unknown metric 'forget.rouge'; 'rouge' is measured on every split that it suits."),
        ("none", "--metrics names no metric"),
        ("amnestic.evaluation.metric.Metric", "expected a subclass of Metric"),
        ("collections.UserDict", "expected a subclass of Metric"),
        ("collections.OrderedDict", "expected a class of Python's"),
    ],
)
def test_what_is_no_metric_is_refused_by_every_command_and_leaves_nothing(
    measure, unlearn, finetune, tmp_path, name, sentence
):
    for run in (measure, unlearn, finetune):
        refused = run(metrics=name, output_dir=tmp_path / "run")
        assert (refused.status, sentence in refused.err) == (2, True), refused.err
        assert not (tmp_path / "run").exists()


def test_a_run_that_trains_takes_any_choice_of_metrics(unlearn, finetune):
    """Its sentence needs the probability, which is measured besides."""
    unlearned = unlearn(metrics="exact_memorization")
    assert unlearned.status in (0, 3), unlearned.err
    names = {key.partition(".")[2] for key in unlearned.results["metrics"]}
    assert names == {"exact_memorization", "probability"}
    tuned = finetune(metrics="exact_memorization")
    assert (tuned.status, *tuned.results["metrics"]) == (0, "data.exact_memorization", "data.probability")


def test_a_cache_that_cannot_be_used_is_refused_and_leaves_nothing(measure, unlearn, files, tmp_path):
    """A file; and a folder in that of the run, which goes with the run."""
    folder = tmp_path / "run"
    for run in (measure, unlearn):
        for cache, sentence in ((files["forget"], "cannot be used"), (folder / "cache", "lies in --output_dir")):
            refused = run(cache_dir=cache, output_dir=folder)
            assert (refused.status, sentence in refused.err) == (2, True), refused.err
            assert not folder.exists()


def test_a_metric_that_fails_is_named(measure, people):
    """And is silent about the rows where texts are to stay out."""
    for name, sentence in (("Fails", "ValueError: not "), ("Mere", "AttributeError: 'float' object")):
        failed = measure(metrics=f"{__name__}.{name}")
        assert (failed.status, f"the metric forget.{name.lower()} failed: {sentence}" in failed.err) == (1, True)
        assert "Traceback" not in failed.err
    hidden = measure("--redact", metrics=f"{__name__}.Fails")
    assert "the metric forget.fails failed: ValueError in test_eval.py" in hidden.err
    assert people.rows["forget"][0]["answer"] not in hidden.err


def damaged(folder: Path, to: Path, change: Callable[[dict[str, Any]], Any], rows: int | None = None) -> Path:
    """Copy an evaluation with other results, or with the first `rows` of its forget scores."""
    shutil.copytree(folder, to)
    results = json.loads((to / "results.json").read_text())
    change(results)
    (to / "results.json").write_text(json.dumps(results))
    if rows is not None:
        path = to / "scores" / "forget.parquet"
        pyarrow.parquet.write_table(pyarrow.parquet.read_table(path).slice(0, rows), path)
    return to


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.pop("metrics"),
        lambda r: r["metrics"].update({"mia.min_k.auc": None}),
        lambda r: r.update(measured_on=[]),
        lambda r: r["measured_on"].update(forget=5),
        lambda r: r["measured_on"]["forget"].pop("tokens"),
        lambda r: r["measured_on"]["holdout"].pop("content"),
        lambda r: r.pop("template"),
        lambda r: r.update(prompts=[]),
    ],
)
def test_damaged_results_are_no_retrained_model(measure, retrained_eval, tmp_path, change):
    broken = damaged(retrained_eval.folder, tmp_path / "broken", change)
    refused = measure(retrained=broken, output_dir=tmp_path / "run")
    assert (refused.status, "is damaged: its results.json has no sound '" in refused.err) == (2, True), refused.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["retrained", "reference"])
def test_what_a_model_is_held_beside_is_not_overwritten(measure, retrained_eval, people, tmp_path, option):
    beside = tmp_path / "beside"
    shutil.copytree(retrained_eval.folder if option == "retrained" else people.model, beside)
    folder = beside
    if option == "reference":
        (tmp_path / "run").mkdir()
        folder = beside.rename(tmp_path / "run" / "model").parent
        beside = folder / "model"
    before = sorted(path.name for path in beside.iterdir())
    refused = measure("--overwrite", output_dir=folder, **{option: beside})
    assert (refused.status, "which this run reads; give another folder" in refused.err) == (2, True), refused.err
    assert sorted(path.name for path in beside.iterdir()) == before


def test_scores_of_fewer_rows_are_no_retrained_model(measure, retrained_eval, tmp_path):
    """Forget quality would be that of other rows."""
    for rows in (0, 4):
        broken = damaged(retrained_eval.folder, tmp_path / f"broken{rows}", dict, rows)
        refused = measure(retrained=broken, output_dir=tmp_path / "run")
        assert (refused.status, f"has {rows} rows of the model; expected {ROWS}" in refused.err) == (2, True)
        assert not (tmp_path / "run").exists()


def test_a_reference_model_judges_and_is_compared_with(measure, retrained):
    found = measure(reference=retrained.folder / "model").results["metrics"]
    assert found["forget.generated_perplexity"] > 1
    assert 0 <= found["mia.reference.auc"] <= 1


def test_nothing_of_a_redacted_evaluation_says_what_rows_say(measure, people, tmp_path):
    hidden = measure("--redact", cache_dir=tmp_path / "cache")
    texts = [row[name] for row in people.rows["forget"][:ROWS] for name in ("question", "answer")]
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    written += b"".join(path.read_bytes() for path in hidden.folder.rglob("*") if path.is_file())
    assert not [text for text in texts if text.encode() in written]
    assert "content" not in hidden.results["measured_on"]["forget"]
    refused = measure(retrained=hidden.folder)
    assert (refused.status, "is redacted" in refused.err) == (2, True)


def test_python_takes_models_and_rows_in_memory_and_leaves_them_as_they_are(people, whole, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(people.model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(people.model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    splits = {split: people.rows[split][:ROWS] for split in ("forget", "retain", "holdout")}
    found = amnestic.evaluate(model, tokenizer=tokenizer, output_dir=tmp_path / "run", max_new_tokens=24, **splits)
    assert found.results["metrics"] == pytest.approx(whole.results["metrics"], rel=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert found.feasible


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"forget": None, "retain": None, "holdout": None}, "nothing to measure on was given; expected --benchmark"),
        ({"benchmark": "tofu:forget10"}, "--benchmark brings its own data, and --forget was given too"),
        ({"data": "somewhere"}, "--data is the folder of a benchmark's files, and --benchmark was not given"),
        ({"eval_rows": 0}, "--eval_rows is 0; expected at least 1"),
        ({"reference": "nowhere"}, "--reference nowhere cannot be loaded"),
    ],
)
def test_wrong_options_are_refused_in_a_sentence(measure, tmp_path, options, sentence):
    refused = measure(output_dir=tmp_path / "run", **options)
    assert (refused.status, sentence in refused.err) == (2, True), refused.err
    assert not (tmp_path / "run").exists()


def test_a_model_with_another_vocabulary_than_its_tokenizer_is_refused(measure, people, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(people.model)
    tokenizer.add_tokens([f"<filler {number}>" for number in range(1000)])
    tokenizer.add_tokens([row["answer"].split()[0] for row in people.rows["forget"][:ROWS]])
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    refused = measure(tokenizer=tmp_path / "tokenizer", output_dir=tmp_path / "run")
    assert (refused.status, "give the tokenizer that belongs to the model" in refused.err) == (2, True), refused.err


@pytest.mark.parametrize("options", [{"per_device_eval_batch_size": 1}, {"per_device_eval_batch_size": 100}])
def test_the_size_of_a_pass_changes_no_number(measure, whole, options):
    assert measure(**options).results["metrics"] == pytest.approx(whole.results["metrics"], rel=1e-4)


def test_bfloat16_gives_the_same_numbers_within_its_tolerance(measure, whole):
    """Shares to 0.05, which is what 8 bits of a mantissa leave of answers that are known by heart."""
    found = measure(dtype="bfloat16", metrics="probability,exact_memorization,rouge").results["metrics"]
    assert found == pytest.approx({key: whole.results["metrics"][key] for key in found}, abs=0.05)


from dataclasses import dataclass  # noqa: E402

from amnestic.evaluation.metric import Generations, Measurement, Metric  # noqa: E402
from amnestic.evaluation.needs import Generation  # noqa: E402


@dataclass(frozen=True)
class Letters(Metric):
    """Mean number of letters of a generated answer: a metric of one's own."""

    name = "letters"
    split: str = "forget"

    def needs(self):
        return {"answers": Generation(self.split)}

    def compute(self, answers: Generations) -> Measurement:
        return Measurement(float(np.mean([len(text) for text in answers.generated])))


@dataclass(frozen=True)
class Fails(Letters):
    """A metric with a fault, which quotes a row."""

    name = "fails"

    def compute(self, answers: Generations) -> Measurement:
        raise ValueError(f"not {answers.answers[0]}")


@dataclass(frozen=True)
class Mere(Letters):
    """A metric that gives a number in place of a measurement."""

    name = "mere"

    def compute(self, answers: Generations) -> Measurement:
        return 3.0
