"""``amnestic bench``: every combination an ordinary run, resumed and told as a whole."""

import contextlib
import json
import os
import re
import sys
from pathlib import Path

import pytest
from muse_folder import write_muse

import amnestic
from amnestic.benching import workers
from amnestic.cli import main

CLASSES = '''
import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from amnestic.benchmarks.base import Benchmark, Source
from amnestic.benchmarks.fiction import Fiction
from amnestic.methods.preference import SimNPO


@dataclass(frozen=True, kw_only=True)
class Few(Fiction):
    """Six people, two questions about each, and as many epochs as change a model."""

    learning = Fiction.learning | {"num_train_epochs": 4}

    @classmethod
    def of(cls, part, data):
        return cls(people=6, questions=2, forget_share=1 / 3, seed=int(part or 0))


@dataclass(frozen=True)
class Known(Benchmark):
    """The people that the tests' model knows."""

    data: str

    @classmethod
    def of(cls, part, data):
        return cls(data)

    def training(self):
        return {split: Source(f"{self.data}/{split}.jsonl") for split in ("forget", "retain")}

    evaluation = training


@dataclass(frozen=True)
class Folded(Known):
    """The same, of whom the first rows to be forgotten are one fold, and all of them another."""

    rows: int | None = None

    @classmethod
    def of(cls, part, data):
        return cls(data, int(part.removeprefix("scal:first_")) if part else None)

    def training(self):
        with open(f"{self.data}/forget.jsonl", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file][: self.rows]
        return super().training() | {"forget": Source("<the first rows>", rows)}

    def evaluation(self):
        return super().training()

    def folds(self, kind):
        return {f"first_{count}": f"{__name__}.Folded:scal:first_{count}" for count in (6, 12)}

    def retrained_of(self, model):
        return {12: f"{self.data}/target/model"}.get(self.rows)  # what it knows does not matter here


@dataclass(frozen=True, kw_only=True)
class FewFolded(Few):
    """The same, of whom the last are forgotten alone in one fold."""

    forgotten: int = 4

    @classmethod
    def of(cls, part, data):
        seed, _, fold = part.partition(":scal:last_")
        return cls(people=6, questions=2, forget_share=1 / 3, seed=int(seed or 0), forgotten=int(fold or 4))

    def splits(self):
        splits = super().splits()
        full = splits["full"]
        return splits | {"forget": full[-self.forgotten :], "retain": full[: -self.forgotten]}

    def folds(self, kind):
        return {f"last_{count}": f"{__name__}.FewFolded:{self.seed}:scal:last_{count}" for count in (2, 4)}


@dataclass(frozen=True)
class Mine(SimNPO):
    """A method of one's own."""


@dataclass(frozen=True)
class Fragile(SimNPO):
    """Its process is killed, or told to stop, in the first step of all: where the file `die` or `stop` is."""

    def objective(self, model, reference):
        for name, number, who in (("die", signal.SIGKILL, os.getpid()), ("stop", signal.SIGTERM, os.getppid())):
            if Path(name).exists():
                Path(name).unlink()
                os.kill(who, number)
        return super().objective(model, reference)


@dataclass(frozen=True)
class Broken(SimNPO):
    """A method with a fault."""

    def objective(self, model, reference):
        raise ArithmeticError("this method has a fault")
'''
QUICK = {
    "num_train_epochs": 1,
    "learning_rate": 1e-3,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "max_new_tokens": 3,
    "metrics": "probability,token_probability,exact_memorization",
}


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A working directory with classes of one's own; ``few.Few`` and its like are found in no other test."""
    module = f"few{abs(hash(tmp_path.name)) % 10**8}"
    (tmp_path / f"{module}.py").write_text(CLASSES, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    return Path(f"{module}.py")


@pytest.fixture
def bench(command, place):
    """Run ``amnestic bench`` on classes of `place`: ``Mine`` stands for its dotted path."""

    def run(*more: str, methods: str = "pdu", benchmark: str = "Few", **options):
        named = [name if name[0].islower() else f"{place.stem}.{name}" for name in methods.split(",")]
        own = {"benchmark": f"{place.stem}.{benchmark}", "methods": ",".join(named), "seeds": 1, "output_dir": "out"}
        return command("bench", own | QUICK | options, *more)

    return run


@pytest.fixture
def known(people) -> dict:
    """The options of a comparison whose model is given."""
    return {"benchmark": "Known", "data": people.folder, "model": people.model}


@pytest.fixture
def in_one_process(monkeypatch) -> list[str]:
    """Do the runs in this process, one after the other, and list their names."""
    done = []

    def status(self, job):
        done.append(job.name)
        with job.log.open("w") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            return main(job.arguments)

    monkeypatch.setattr(workers.Workers, "_status", status)
    return done


def board() -> dict:
    return json.loads(Path("out/leaderboard.json").read_text(encoding="utf-8"))


def states() -> dict[str, str]:
    """The states of the runs in the leaderboard, without the name of the temporary module."""
    rows = [row for row in board()["rows"] if row["runs"]]
    return {f"{row['method'].rpartition('.')[2]} {row['setting']}": row["state"] for row in rows if row["setting"]}


def runs(path: str = "out/runs") -> dict[str, bytes]:
    return {item.parent.name.partition(".")[2]: item.read_bytes() for item in Path(path).glob("*/results.json")}


def test_a_run_that_is_killed_leaves_the_others_alone_and_is_tried_again(bench, known):
    """Processes as they are: a method of a user's file runs by its dotted path, and another one dies in its first."""
    Path("die").touch()
    options = known | {"methods": "Mine,Fragile", "keep": "0.9,none", "jobs": 2}
    first = bench(**options)
    assert first.status == 1, first.err
    (failed,) = [entry for row in board()["rows"] for entry in row["runs"] if entry["state"] == "failed"]
    assert failed["error"].startswith("the run was killed by SIGKILL (memory may have run out); out/logs/")
    before = runs()
    assert len(before) == 3
    second = bench(**options)
    assert second.status == 0, second.err
    assert "3 of 4 runs need no running." in second.err
    assert {name: content for name, content in runs().items() if name in before} == before
    assert set(states()) == {"Mine keep 0.9", "Mine free", "Fragile keep 0.9", "Fragile free"}
    assert {states()["Mine free"], states()["Fragile free"]} == {"unconstrained"}
    for name in ("leaderboard.md", "leaderboard.csv", "report.html"):
        assert "Mine" in (Path("out") / name).read_text(encoding="utf-8")


def test_an_interrupted_comparison_goes_on_from_a_checkpoint(bench, known):
    Path("stop").touch()
    stopped = bench(**known, methods="Fragile", keep="none")
    assert stopped.status == 130
    assert stopped.err.splitlines()[-1] == (
        "error: interrupted. 0 of 1 runs are done and kept; go on with: amnestic bench --config out/bench.yaml"
    )
    (folder,) = Path("out/runs").iterdir()
    assert list(folder.glob("checkpoints/checkpoint-*"))
    assert main(["bench", "--config", "out/bench.yaml", "--quiet"]) == 0
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert len(results["training"]["resumed_after"]) == 1


def test_models_are_trained_for_each_seed_and_a_fault_does_not_stop_the_rest(bench, in_one_process):
    outcome = bench(methods="Mine,Broken", keep="none", seeds=2, seed=3)
    assert outcome.status == 1, outcome.err
    assert len(in_one_process) == 2 * 2 + 4
    for seed in (3, 4):
        for model in ("full", "retrained"):
            results = json.loads(Path(f"out/models/seed-{seed}/{model}/results.json").read_text(encoding="utf-8"))
            assert results["seeds"] == {"training": seed}
    assert states() == {"Mine free": "unconstrained", "Broken free": "failed"}
    faults = [entry["error"] for row in board()["rows"] for entry in row["runs"] if entry["state"] == "failed"]
    told = [re.sub(r" in \w+\.py, line \d+", " in its file", fault).partition(" (")[0] for fault in faults]
    assert told == ["ArithmeticError in its file: this method has a fault"] * 2
    (mine,) = [row for row in board()["rows"] if row["method"].endswith(".Mine")]
    assert [entry["seed"] for entry in mine["runs"]] == [3, 4]
    for results in map(json.loads, runs().values()):
        assert results["benchmark"].endswith(f":{results['seeds']['training']}")
        assert set(results["retrained_metrics"]) >= {"forget.probability"}


def test_the_model_before_is_measured_once(bench, known, in_one_process, monkeypatch):
    """36 rows of one model before, and of two after."""
    import amnestic.evaluation.sweeps as sweeps

    rows, scored = [], sweeps._scored

    def counting(work, run):
        rows.extend(run)
        return scored(work, run)

    monkeypatch.setattr(sweeps, "_scored", counting)
    assert bench(**known, methods="pdu,Mine", keep="0.9").status == 0
    assert len(rows) == 3 * 36


def test_all_methods_of_a_seed_read_the_same_rows_in_the_same_order(bench, known, in_one_process, monkeypatch):
    import amnestic.unlearning as unlearning

    drawn, step_rows = [], unlearning.StepRows

    def listing(*arguments, **named):
        rows = step_rows(*arguments, **named)
        drawn.append([{split: list(chosen) for split, chosen in rows.rows(step).items()} for step in range(3)])
        return rows

    monkeypatch.setattr(unlearning, "StepRows", listing)
    assert bench(**known, methods="pdu,Mine", keep="0.9", seeds=2).status == 0
    assert len(drawn) == 4
    assert drawn[0] == drawn[1] != drawn[2] == drawn[3]


def test_runs_with_other_options_are_replaced_only_by_leave(bench, known, in_one_process):
    assert bench(**known, methods="Mine", keep="none").status == 0
    before = runs()
    refused = bench(**known, methods="Mine", keep="none,0.9", learning_rate=2e-3)
    assert refused.status == 2
    assert "--learning_rate is 0.002 here and was 0.001; give --overwrite to run it again" in refused.err
    assert runs() == before
    planned = bench("--plan", **known, methods="Mine", keep="none,0.9")
    assert planned.out.splitlines()[0] == "2 runs, 1 of them done already."
    assert bench(**known, methods="Mine", keep="none", learning_rate=2e-3, overwrite=True).status == 0
    assert runs() != before
    assert len(in_one_process) == 2


def test_folds_are_forgotten_by_runs_of_their_own(bench, known, in_one_process):
    """12 rows are measured whichever fold is forgotten, and a row of the table is one fold with its seeds."""
    options = known | {"benchmark": "Folded", "methods": "Mine", "keep": "none", "seeds": 2}
    planned = bench("--plan", **options, folds="scal")
    assert planned.out.splitlines()[0] == "4 runs, 0 of them done already."
    assert bench(**options, folds="scal:first_6").status == 0
    assert [row.get("fold") for row in board()["rows"]] == [None, None]
    outcome = bench(**options, folds="scal")
    assert "2 of 4 runs need no running." in outcome.err
    assert len(in_one_process) == 4
    rows = [row for row in board()["rows"] if row["runs"]]
    assert [(row["fold"], [run["seed"] for run in row["runs"]]) for row in rows] == [
        ("first_6", [0, 1]),
        ("first_12", [0, 1]),
    ]
    for row, count in zip(rows, (6, 12), strict=True):
        results = json.loads((Path(row["runs"][0]["folder"]) / "results.json").read_text(encoding="utf-8"))
        assert results["fold"] == row["fold"]
        assert (results["data"]["forget"]["examples"], results["measured_on"]["forget"]["examples"]) == (count, 12)
        assert ("retrained_metrics" in results) == (count == 12)
    compared = {row["fold"]: row["values"] for row in amnestic.compare("out", output_dir="compared").records[-2:]}
    assert json.loads(json.dumps(compared)) == {row["fold"]: row["values"] for row in rows}


def test_each_fold_of_an_embedded_benchmark_has_a_retrained_model_of_its_own(bench, in_one_process):
    assert bench(benchmark="FewFolded", methods="Mine", keep="none", folds="scal").status == 0
    learned = {}
    for path in Path("out/models/seed-0").rglob("results.json"):
        results = json.loads(path.read_text(encoding="utf-8"))
        learned[str(path.parent.relative_to("out/models/seed-0"))] = results["data"]["data"]["examples"]
    assert learned == {"full": 12, "last_2/retrained": 10, "last_4/retrained": 8}
    configs = {path.name: path.read_text("utf-8") for path in Path("out/plan").glob("*free-last_*")}
    for name, text in configs.items():
        fold = name.partition("free-")[2].partition("-seed")[0]
        assert f"retrained: out/models/seed-0/{fold}/retrained/model" in text
        assert "model: out/models/seed-0/full/model" in text
    assert len(configs) == 2


def test_criteria_of_whole_texts_are_compared_over_folds(command, people, tmp_path, in_one_process, monkeypatch):
    """MUSE's criteria are about all that is to be forgotten, so the model before is the same beside each fold."""
    monkeypatch.chdir(tmp_path)
    write_muse(tmp_path / "muse")
    options = {"benchmark": "muse:news", "data": "muse", "model": people.model, "folds": "scal:forget_4,scal:forget_1"}
    own = {"methods": "npo", "keep": "none", "seeds": 1, "output_dir": "out", "max_steps": 1}
    outcome = command("bench", options | own | {"metrics": "verbmem,knowmem,mia.min_k.auc,privleak"})
    assert outcome.status == 0, outcome.err
    before, *rows = board()["rows"]
    assert [(row["method"], row.get("fold")) for row in (before, *rows)] == [
        ("model before", None),
        ("npo", "forget_1"),
        ("npo", "forget_4"),
    ]
    assert 2 * rows[0]["forget_tokens"] < rows[1]["forget_tokens"]
    for row in rows:
        assert {"forget.verbmem", "forget.knowmem", "retain.knowmem", "mia.min_k.auc"} <= row["values"].keys()
    (note,) = [note for note in board()["notes"] if note.startswith("No run has privleak")]
    assert "retrained" in note
    assert " --benchmark muse:news --data muse " in board()["facts"]["command"]
    page = Path("out/report.html").read_text(encoding="utf-8")
    assert "KnowMem, retain, %" in page
    assert 'id="plot-size-forget-verbmem-title"' in page


def test_a_method_has_options_of_its_own(bench, known, place, in_one_process):
    own = {f"{place.stem}.Mine": {"method_args": {"beta": 0.5}}, f"{place.stem}.Mine free": {"learning_rate": 5e-4}}
    Path("own.yaml").write_text(json.dumps(own), encoding="utf-8")
    assert bench(**known, methods="Mine", keep="0.9,none", settings="own.yaml").status == 0
    found = {name: json.loads(text)["method"]["beta"] for name, text in runs().items()}
    assert found == {"Mine-keep-0.9-seed-0": 0.5, "Mine-free-seed-0": 0.5}
    rates = [path.read_text(encoding="utf-8") for path in sorted(Path("out/plan").glob("*.yaml"))]
    assert ["learning_rate: 0.0005" in text for text in rates] == [True, False]


def test_trials_choose_on_what_nothing_else_reads(bench, in_one_process):
    options = {"methods": "Mine", "keep": "none", "trials": 2, "learning_rate": 1e-4}
    assert bench(**options).status == 0
    tuned = json.loads(Path("out/tuning.json").read_text(encoding="utf-8"))
    ((name, trials),) = tuned["trials"].items()
    assert [trials[0]["learning_rate"], trials[0]["num_train_epochs"]] == [1e-4, 1]
    chosen = min(trials, key=lambda trial: trial["value"])
    assert tuned["chosen"][name] == {key: chosen[key] for key in ("learning_rate", "num_train_epochs")}
    (config,) = Path("out/plan").glob("*free-seed-0.yaml")
    assert f"learning_rate: {chosen['learning_rate']}" in config.read_text(encoding="utf-8")
    made = list(in_one_process)
    assert bench(**options).status == 0
    assert in_one_process == made


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"methods": "nopo"}, "unknown method 'nopo'; did you mean 'npo'?"),
        ({"methods": "Nobody"}, "cannot import method '"),
        ({"benchmark": "Nothing"}, "cannot import benchmark '"),
        ({"keep": "0.98,1"}, "--keep holds 1; expected shares between 0 and 1, such as 0.98, or none, with commas."),
        ({"keep": ","}, "--keep is empty;"),
        ({"seeds": 0}, "--seeds is 0; expected at least 1."),
        ({"jobs": 0}, "--jobs is 0; expected at least 1."),
        ({"trials": -1}, "--trials is -1; expected at least 0."),
        ({"trials": 1, "max_steps": 2, "num_train_epochs": None}, "--trials chooses the number of epochs; leave"),
        ({"retrained": "x"}, "trains its own retrained models; leave --retrained out."),
        ({"benchmark": "Known", "data": "."}, "--model is missing: the benchmark "),
        ({"methods": "pdu", "keep": "none"}, "nothing is left to run: pdu was published with a bound"),
        ({"folds": "scal"}, "has no folds of the kind 'scal'; leave --folds out."),
        ({"benchmark": "FewFolded", "folds": "scal:last_3"}, "--folds names scal:last_3, which the benchmark "),
        ({"benchmark": "FewFolded", "folds": "scal,sust"}, "--folds names scal and sust; give the folds of one kind"),
        (
            {"benchmark": "Folded", "data": ".", "model": "x", "retrained": "y", "folds": "scal"},
            "--retrained names one model, and each of 2 folds needs one that never saw it; leave it out, or give one",
        ),
        ({"settings": "absent.yaml"}, "cannot read absent.yaml"),
        ({"output_dir": "."}, "--output_dir . is not empty, and no comparison is in it; give another folder."),
        ({"system_prompt": "x", "redact": True}, "--redact keeps --system_prompt out of all files"),
    ],
)
def test_wrong_input_is_one_sentence(bench, options, sentence):
    outcome = bench(**{"output_dir": "out"} | options)
    assert (outcome.status, outcome.err.count("\n")) == (2, 1), outcome.err
    assert sentence in outcome.err
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("own", "sentence"),
    [
        ({"npo": {"learning_rate": 1e-4}}, "has options of 'npo', which takes no part"),
        ({"pdu": {"probe_size": 3}}, "gives 'pdu' the option 'probe_size', which is not a method's own"),
        ({"pdu": 3}, "has a int for 'pdu'; expected options"),
        ({"pdu": {"learning_rate": -1}}, "pdu keep 0.98 in own.yaml: --learning_rate is -1"),
        ({"pdu": {"method_args": {"beta": 1}}}, "pdu free in own.yaml: method 'pdu' has no hyper-parameter 'beta'"),
        ({"pdu": {"method_args": 3}}, "own.yaml gives 'pdu' the method_args 3; expected a mapping"),
    ],
)
def test_wrong_settings_are_one_sentence(bench, own, sentence):
    Path("own.yaml").write_text(json.dumps(own), encoding="utf-8")
    outcome = bench(settings="own.yaml")
    assert (outcome.status, outcome.err.count("\n")) == (2, 1), outcome.err
    assert sentence in outcome.err


def test_trials_need_optuna(bench, monkeypatch):
    monkeypatch.setattr("amnestic.benching.tuning.find_spec", lambda name: None)
    outcome = bench(trials=1)
    assert outcome.status == 2
    assert "run pip install 'amnestic[bench]'." in outcome.err


def test_python_takes_the_same_options(place, known, in_one_process):
    own = known | {"benchmark": f"{place.stem}.Known", "methods": [f"{place.stem}.Mine"], "seeds": 1}
    comparison = amnestic.bench(**own | QUICK, keep="none", output_dir="out")
    assert comparison.failed == []
    assert [entry.setting for entry in comparison.entries] == ["free"]
    assert os.listdir("out/runs") == [f"{place.stem}.Mine-free-seed-0"]
