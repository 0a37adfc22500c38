"""``amnestic sequence``: requests one after another, within the bound of the first model."""

import json
import math
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

import amnestic
from amnestic.benchmarks.base import Benchmark, Source
from amnestic.methods.preference import SimNPO

NAMES = ("may", "june", "july")
QUICK = {
    "max_steps": 2,
    "learning_rate": 1e-3,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "metrics": "probability",
    "keep": 0.5,
}


class Stopped(SimNPO):
    """A method that is told to stop in the first step in which the file `stop` is there."""

    def objective(self, model, reference):
        if Path("stop").exists():
            Path("stop").unlink()
            os.kill(os.getpid(), signal.SIGTERM)
        return super().objective(model, reference)


class Parts(Benchmark):
    """The people that the tests' model knows, one request for each of two."""

    def __init__(self, part, data):
        self.part, self.data = part, data

    @classmethod
    def of(cls, part, data):
        return cls(part, data)

    def training(self):
        return {"forget": Source(f"{self.data}/{self.part or 'may'}.jsonl"), "retain": Source(f"{self.data}/r.jsonl")}

    evaluation = training

    def requests(self):
        return {name: f"{__name__}.Parts:{name}" for name in NAMES[:2]}


@pytest.fixture(autouse=True)
def in_reach(monkeypatch):
    """Classes of this file are found by their dotted paths."""
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or sys.modules[Parts.__module__])


@pytest.fixture(scope="module")
def files(people, as_file, tmp_path_factory):
    """Three requests: one person, another, and two."""
    folder = tmp_path_factory.mktemp("requests")
    parts = zip(NAMES, (slice(0, 3), slice(3, 6), slice(6, 12)), strict=True)
    return {name: as_file(folder / f"{name}.jsonl", people.rows["forget"][part]) for name, part in parts}


@pytest.fixture(scope="module")
def met(people, forgetting, command, files, tmp_path_factory):
    """The sequence of all three, with as many steps as forgetting takes."""
    own = {"model": people.model, "retain": people.file("retain"), "metrics": "probability,token_probability"}
    own |= forgetting | {"num_train_epochs": 20, "output_dir": tmp_path_factory.mktemp("sequence") / "out"}
    return command("sequence", own | {"requests": ",".join(map(str, files.values()))})


@pytest.fixture
def sequence(people, files, command, tmp_path, monkeypatch):
    """Run two steps for each request, into the same folder, unless told otherwise."""
    monkeypatch.chdir(tmp_path)

    def run(*names, more=(), **options):
        own = {"model": people.model, "retain": people.file("retain"), "output_dir": tmp_path / "out"}
        own["requests"] = ",".join(str(files.get(name, name)) for name in names) or None
        return command("sequence", own | QUICK | options, *more)

    return run


def told(outcome):
    assert outcome.status in (0, 3), outcome.err
    return json.loads((outcome.folder / "sequence.json").read_text(encoding="utf-8"))


def of_run(outcome, number, name):
    return json.loads((outcome.folder / "requests" / f"{number}-{name}" / "results.json").read_text(encoding="utf-8"))


def weights(outcome, run):
    return (outcome.folder / "requests" / run / "model" / "model.safetensors").read_bytes()


def loss_of(found):
    """The mean of -log p over all scored tokens."""
    return -np.concatenate([row["logp"] for row in found]).mean()


def probability_of(found):
    """The mean over answers of exp(mean log p)."""
    return np.mean([math.exp(row["logp"].mean()) for row in found])


def test_every_request_is_held_to_the_bound_of_the_first_model(met, people, answers):
    """Losses of the saved models by transformers alone; the bound is the first model's, and not the one before's."""
    assert met.status == 0, met.err
    first = loss_of(answers(people.model, people.rows["retain"]))
    start = first
    for number, name in enumerate(NAMES, start=1):
        results = of_run(met, number, name)
        bound, reached = results["bound"], results["bound"]["reached"]
        assert bound["L_ref"] == pytest.approx(first, rel=1e-4)
        assert bound["value"] == pytest.approx(first - math.log(0.95), rel=1e-4)
        assert bound.get("L_start", bound["L_ref"]) == pytest.approx(start, rel=1e-4)
        assert bound.get("bound_model") == (None if number == 1 else str(people.model))
        start = loss_of(answers(met.folder / "requests" / f"{number}-{name}" / "model", people.rows["retain"]))
        assert reached == pytest.approx(start, rel=1e-3)
    held = told(met)["held"]["retain"]
    assert [point["done"] for point in held["course"]] == [0, 1, 2, 3]
    assert held["bound"] == pytest.approx(first - math.log(0.95), rel=1e-4)


def test_earlier_requests_are_measured_again(met, people, answers):
    """What is remembered of each request before its run, after it and after each later one, by transformers alone."""
    models = [people.model, *(met.folder / "requests" / f"{n}-{name}" / "model" for n, name in enumerate(NAMES, 1))]
    parts = (slice(0, 3), slice(3, 6), slice(6, 12))
    for number, (one, part) in enumerate(zip(told(met)["requests"], parts, strict=True)):
        rows = people.rows["forget"][part]
        expected = [probability_of(answers(model, rows)) for model in models[number:]]
        assert [point["done"] for point in one["memory"]["probability"]] == [*range(number, 4)]
        assert [point["value"] for point in one["memory"]["probability"]] == pytest.approx(expected, rel=1e-3)
        assert one["memory"]["probability"][0]["value"] > 0.3
        assert one["memory"]["probability"][-1]["value"] < 0.01
    assert [one["state"] for one in told(met)["requests"]] == ["stayed", "stayed", "last"]
    verdict = told(met)["verdict"]
    assert verdict.startswith("Bound of the first model held after each of 3 requests: retain loss 0.")
    assert re.search(r"Stayed forgotten: may probability 0\.\d+ -> \S+, \S+ after the last; june ", verdict)
    assert met.out.startswith(verdict)


def test_the_model_before_a_request_is_known_from_the_one_before(met, people, files, command, tmp_path):
    """Of the model of the first run nothing is computed again but the rows of the second request."""
    options = {"model": met.folder / "requests" / "1-may" / "model", "retain": people.file("retain")}
    options |= {"cache_dir": met.folder / "cache", "metrics": "probability", "output_dir": tmp_path / "eval"}
    plan = json.loads(command("eval", options | {"forget": files["may"]}, "--plan", "--json").out)["plan"]
    assert (plan["rows"], plan["known_rows"], plan["positions"]) == (27, 27, 0)
    before = re.findall(r"measure the model before, (\d+) of", met.err)
    after = re.findall(r"measure the model after, (\d+) of", met.err)
    assert int(before[1]) < 0.2 * int(after[1])  # 3 of 30 rows
    assert int(before[2]) < 0.3 * int(after[2])  # 6 of 36


def test_each_request_is_a_run_that_its_configuration_repeats(met, command, tmp_path):
    config = met.folder / "requests" / "2-june" / "config.yaml"
    again = command("unlearn", {"config": config, "output_dir": tmp_path / "again"})
    assert again.status == 0, again.err
    assert (again.folder / "model" / "model.safetensors").read_bytes() == weights(met, "2-june")
    assert again.results["metrics"]["may.probability"] == of_run(met, 2, "june")["metrics"]["may.probability"]


def test_what_is_written_is_whole(met):
    page = (met.folder / "sequence.html").read_text(encoding="utf-8")
    assert page.count("<svg") >= 3
    assert re.findall(r'(?:src|href)="(?!#|requests/)[^"]*"|url\((?!#)[^)]*\)|<script', page) == []
    assert 'href="requests/1-may/report.html"' in page
    assert (met.folder / "requests" / "1-may" / "report.html").is_file()
    table = (met.folder / "sequence.md").read_text(encoding="utf-8")
    assert re.search(r"\| 1 \| may \| 3 \| held \| .* \| stayed forgotten \|", table)
    assert "First model" in (met.folder / "requests" / "2-june" / "report.html").read_text(encoding="utf-8")


def test_it_goes_on_within_a_request(sequence, command, tmp_path):
    """Stopped in the second request, and again: the same weights as without."""
    whole = sequence("may", "june", method=f"{__name__}.Stopped", output_dir=tmp_path / "whole")
    assert whole.status == 0, whole.err
    first = sequence("may", method=f"{__name__}.Stopped")
    assert first.status == 0, first.err
    (tmp_path / "stop").touch()
    stopped = sequence("may", "june", method=f"{__name__}.Stopped")
    file = tmp_path / "out" / "sequence.yaml"
    assert stopped.status == 130
    assert stopped.err.splitlines()[-1] == (
        f"error: interrupted. 1 of 2 requests are met; go on with amnestic sequence --config {file}"
    )
    assert (tmp_path / "out" / "requests" / "2-june" / "checkpoints").is_dir()
    assert told(first)["done"] == 1
    again = command("sequence", {"config": file, "output_dir": tmp_path / "out"})
    assert again.status == 0, again.err
    assert "going on after step 1" in again.err
    assert weights(again, "2-june") == weights(whole, "2-june")
    assert told(again)["requests"][0]["memory"] == told(whole)["requests"][0]["memory"]


def test_what_a_killed_process_left_is_finished(sequence):
    """The results of the last request were written, its report was not, and its checkpoints are still there."""
    done = sequence("may", "june", keep_models="last")
    assert done.status == 0, done.err
    first, last = (done.folder / "requests" / name for name in ("1-may", "2-june"))
    assert not (first / "model").exists()
    assert (last / "model").is_dir()
    (last / "report.html").unlink()
    (last / "checkpoints").mkdir()
    (done.folder / "sequence.json").unlink()
    again = sequence("may", "june", keep_models="last")
    assert again.status == 0, again.err
    assert "unlearn" not in again.err
    assert told(again)["done"] == 2
    assert (last / "report.html").is_file()
    assert not (last / "checkpoints").exists()


def test_other_options_rows_or_requests_are_refused_and_new_requests_are_added(sequence, files, tmp_path, as_file):
    mine = shutil.copy(files["may"], tmp_path / "mine.jsonl")
    assert sequence(mine).status == 0
    other = sequence(mine, learning_rate=2e-3)
    assert other.status == 2
    assert "with other options: --learning_rate is 0.002 here and was 0.001; give --overwrite" in other.err
    assert "the effective batch is " in sequence(mine, "june", gradient_accumulation_steps=3).err
    assert "'june', was 'mine'" in sequence("june").err
    added = sequence(mine, "june")
    assert added.status == 0, added.err
    assert re.findall(r"request \d of 2: \w+", added.err) == ["request 2 of 2: june"]
    assert "has the requests mine, june, and fewer were given" in sequence(mine).err
    rows = [json.loads(line) for line in files["may"].read_text(encoding="utf-8").splitlines()]
    as_file(tmp_path / "mine.jsonl", rows[:2])
    changed = sequence(mine, "june")
    assert changed.status == 2
    assert "'mine', has other rows now; add requests behind those that were given" in changed.err
    anew = sequence(mine, more=["--overwrite"])
    assert anew.status == 0, anew.err
    assert [one["rows"] for one in told(anew)["requests"]] == [2]
    assert sorted(path.name for path in (tmp_path / "out" / "requests").iterdir()) == ["1-mine"]


def test_a_request_that_is_wrong_input_in_its_turn_can_be_corrected(sequence, files, tmp_path, as_file):
    """Its run never began; the one before it is neither lost nor done again."""
    rows = [json.loads(line) for line in files["june"].read_text(encoding="utf-8").splitlines()]
    mine = as_file(tmp_path / "mine.jsonl", [rows[0] | {"answer": "long " * 100}, *rows[1:]])
    options = {"too_long": "error", "max_length": 64}
    wrong = sequence("may", mine, more=["--quiet"], **options)
    assert wrong.status == 2
    assert wrong.err.startswith("error: request 'mine': 1 of 3 forget rows are longer than 64 tokens")
    assert json.loads((wrong.folder / "sequence.json").read_text(encoding="utf-8"))["done"] == 1
    as_file(mine, rows)
    again = sequence("may", mine, **options)
    assert again.status == 0, again.err
    assert re.findall(r"request \d of 2: \w+", again.err) == ["request 2 of 2: mine"]
    as_file(mine, rows[1:])
    assert "'mine', has other rows now" in sequence("may", mine, **options).err


def test_a_sequence_of_which_nobody_knows_what_it_began_with_is_refused(sequence, tmp_path):
    """Its requests could be other ones, and its results would be told of them."""
    assert sequence("may").status == 0
    for damage in (lambda file: file.write_text("{}", encoding="utf-8"), Path.unlink):
        damage(tmp_path / "out" / "plan" / "identity.json")
        outcome = sequence("may")
        assert outcome.status == 2
        assert "out is damaged: no sound plan/identity.json tells what its requests were;" in outcome.err


def test_a_bound_that_is_missed_is_told_and_not_forgotten(sequence):
    """The first request misses the bound by far; the second starts outside of it, and is held to the same one."""
    outcome = sequence("may", "june", method="grad_ascent", learning_rate=2e-2, keep=0.98, max_steps=3)
    found = told(outcome)
    assert outcome.status == 3
    assert found["status"] == "infeasible"
    assert found["verdict"].startswith("BOUND OF THE FIRST MODEL MISSED after 2 of 2 requests: may, june. Farthest")
    assert "note: the model that this run starts from is outside of the bound already: retain loss " in outcome.err
    one, two = (found["requests"][place]["bounds"]["retain"] for place in (0, 1))
    assert one["value"] == two["value"]
    assert two["L_start"] > two["value"]


@pytest.mark.parametrize(
    ("names", "options", "sentence"),
    [
        ((), {}, "missing --requests; expected on the command line"),
        (("absent.jsonl",), {}, "there is no file or folder absent.jsonl"),
        (("may", "twin.jsonl"), {}, "request 'twin' has the same rows as request 'may', which comes before it"),
        (("may", "a/may.jsonl"), {}, "two requests are called 'may'"),
        (("may", "retain.jsonl"), {}, "24 of 24 rows of request 'request_retain' stand in retain as well"),
        (("retain=may.jsonl",), {}, "a request is called 'retain', as something that is kept or measured"),
        (("may",), {"retention": "kl", "bound": 1, "keep": None}, "--retention kl compares with the model before a"),
        (("may",), {"use_peft": True}, "give --merge as well"),
        (("may",), {"resume_from_checkpoint": "latest"}, "a sequence goes on by itself"),
        (("may",), {"keep": 1.5}, "--keep is 1.5; expected a share between 0 and 1"),
        (("may",), {"model": "absent/model/folder"}, "absent/model/folder"),
    ],
)
def test_wrong_input_is_one_sentence_and_leaves_nothing(sequence, people, files, tmp_path, names, options, sentence):
    (tmp_path / "a").mkdir()
    for name in ("may.jsonl", "a/may.jsonl"):
        shutil.copy(files["may"], tmp_path / name)
    rows = files["may"].read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "twin.jsonl").write_text("".join(reversed(rows)), encoding="utf-8")
    shutil.copy(people.file("retain"), tmp_path / "retain.jsonl")
    outcome = sequence(*names, **options)
    assert outcome.status == 2
    (line,) = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert sentence in line
    assert not (tmp_path / "out").exists()


def test_what_is_read_is_not_overwritten(sequence, files, tmp_path):
    (tmp_path / "out").mkdir()
    shutil.copy(files["may"], tmp_path / "out" / "may.jsonl")
    outcome = sequence("out/may.jsonl", more=["--overwrite"])
    assert outcome.status == 2
    assert "holds out/may.jsonl, which the sequence reads; give another folder." in outcome.err
    assert (tmp_path / "out" / "may.jsonl").is_file()


def test_a_folder_without_a_sequence_is_left_alone(sequence, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").touch()
    outcome = sequence("may", more=["--overwrite"])
    assert outcome.status == 2
    assert "is not empty, and no sequence is in it; give another folder." in outcome.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_a_benchmark_brings_its_requests(sequence, people, files, tmp_path):
    for name in NAMES[:2]:
        shutil.copy(files[name], tmp_path / f"{name}.jsonl")
    shutil.copy(people.file("retain"), tmp_path / "r.jsonl")
    options = {"benchmark": f"{__name__}.Parts", "data": tmp_path, "retain": None}
    wrong = sequence("junes", **options)
    assert "has no request 'junes'; did you mean 'june'? Known: may, june." in wrong.err
    outcome = sequence(**options)
    assert [one["name"] for one in told(outcome)["requests"]] == ["may", "june"]
    results = of_run(outcome, 2, "june")
    assert results["benchmark"] == f"{__name__}.Parts:june"
    assert {"may.probability", "june.probability", "forget.probability"} <= results["metrics"].keys()
    assert results["metrics"]["june.probability"] == results["metrics"]["forget.probability"]


def test_in_python_rows_may_be_in_memory(people, tmp_path):
    rows = people.rows["forget"]
    outcome = amnestic.sequence(
        people.model,
        requests={"first": rows[:3], "second": rows[2:6]},
        retain=people.rows["retain"],
        output_dir=tmp_path / "out",
        use_peft=True,
        merge=True,
        lora_r=2,
        **QUICK,
    )
    assert [one.request.name for one in outcome.met] == ["first", "second"]
    assert outcome.results["notes"] == [
        "1 of 4 rows of request 'second' stand in request 'first' as well, which comes before it."
    ]
    assert outcome.feasible
    assert outcome.met[1].results["data"]["first"]["rows"] == 3
    with pytest.raises(amnestic.InputError, match=r"^the model of a sequence is a name"):
        amnestic.sequence(object(), requests={"a": rows}, retain=rows, output_dir=tmp_path / "no")


def test_further_rows_are_measured_and_not_trained_on(unlearn, people, files, answers, as_flags):
    """The weights are those without them; the numbers those of transformers, before and after."""
    plain = unlearn()
    more = as_flags({"measure": f"may={files['may']}"}) + as_flags({"measure": f"all={people.file('full')}"})
    measured = unlearn(*more, metrics="probability")
    assert measured.digest == plain.digest
    results = measured.results
    for name, rows in {"may": people.rows["forget"][:3], "all": people.rows["full"]}.items():
        before, after = (probability_of(answers(model, rows)) for model in (people.model, measured.folder / "model"))
        assert results["reference_metrics"][f"{name}.probability"] == pytest.approx(before, rel=1e-4)
        assert results["metrics"][f"{name}.probability"] == pytest.approx(after, rel=1e-4)
    assert len(measured.scores("may")) == 2 * 3
    for names, sentence in {
        ("retain=x.jsonl",): "which a run calls something else",
        ("a=x.jsonl", "a=y.jsonl"): "two sources of --measure are called 'a'",
        ("x.jsonl",): "measure is ['x.jsonl']; expected a name for what is measured",
    }.items():
        wrong = unlearn(*[flag for name in names for flag in ("--measure", name)])
        assert wrong.status == 2
        assert sentence in wrong.err


def test_a_bound_may_start_from_an_earlier_model(unlearn, people, unlearned, answers):
    """Both forms that are relative; the bound's model is the full one, and the run starts from an unlearned one."""
    first = loss_of(answers(people.model, people.rows["retain"]))
    start = loss_of(answers(unlearned.folder / "model", people.rows["retain"]))
    for form, value in {"keep": first - math.log(0.5), "alpha": 3 * first}.items():
        options = {form: 0.5 if form == "keep" else 2.0, "model": unlearned.folder / "model"}
        bound = unlearn(bound_model=people.model, **options).results["bound"]
        assert bound["value"] == pytest.approx(value, rel=1e-4)
        assert bound["L_ref"] == pytest.approx(first, rel=1e-4)
        assert bound["L_start"] == pytest.approx(start, rel=1e-4)
    for options, sentence in (
        ({"keep": "none", "method": "npo"}, "--bound_model is where a bound starts from, and this run has none"),
        ({"method": "npo"}, "--bound_model is where a bound starts from, and this run has none; give --keep"),
        ({"retention": "kl", "bound": 1}, "--bound_model goes with --retention nll alone"),
        ({"keep": 0.9, "bound_model": "absent/model/folder"}, "--bound_model absent/model/folder cannot be loaded"),
    ):
        wrong = unlearn(**{"bound_model": people.model} | options)
        assert wrong.status == 2, wrong.err
        assert sentence in wrong.err
