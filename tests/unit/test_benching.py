"""The parts of a comparison that need no run: what trials are judged by, what they read, and how processes end."""

import json
from dataclasses import dataclass, replace

import pytest

from amnestic.benching.plan import Plan, bench_config
from amnestic.benching.tuning import Trial, Tuning, best, judged
from amnestic.benching.validation import SEED, Validation
from amnestic.benching.workers import _sentence
from amnestic.benchmarks.base import BENCHMARKS, Benchmark, Source
from amnestic.benchmarks.fiction import Fiction
from amnestic.benchmarks.folds import chosen_folds, fold_named
from amnestic.data.encode import Encoder
from amnestic.errors import InputError
from amnestic.model.source import read_tokenizer
from amnestic.probing import probe_places
from amnestic.scratch import write_start


def results(forget: float, retain: float, status: str = "unconstrained", **bound) -> dict:
    metrics = {"forget.probability": forget, "retain.token_probability": retain}
    before = {"forget.probability": 0.8, "retain.token_probability": 0.9}
    facts = {"bound": {"value": 0.1, "whole_split": False, **bound}} if bound else {}
    return {"status": status, "metrics": metrics, "reference_metrics": before, **facts}


@pytest.mark.parametrize(
    ("found", "value"),
    [
        # forgotten 1 - 0.2 / 0.8 = 3/4, kept 0.45 / 0.9 = 1/2: the harmonic mean is 3/5
        (results(0.2, 0.45), 0.4),
        (results(0.8, 0.9), 1.0),  # nothing is forgotten
        (results(0.0, 0.0), 1.0),  # nothing is kept
        (results(0.9, 0.95), 1.0),  # more of both is not more than all of it
        (results(0.0, 0.99), 0.0),
        (results(0.3, 0.1, "feasible", reached=0.05), 0.3),
        # of the whole split the loss itself decides, and no limit to what it might be
        (results(0.3, 0.1, "infeasible", reached=0.35, upper_limit=0.5, whole_split=True), 1.25),
        (results(0.3, 0.1, "infeasible", reached=0.05, upper_limit=0.12), 1.02),
    ],
)
def test_a_trial_is_judged_by_one_number(found, value):
    assert judged(found) == pytest.approx(value, abs=1e-12)


def test_the_best_trial_is_the_earliest_of_equals_and_none_that_failed():
    trials = [Trial(number, {}, value, {}) for number, value in enumerate([None, 0.5, 0.25, 0.25])]
    assert best(trials).number == 2
    assert best(trials[:1]) is None


@pytest.fixture
def plan(tmp_path):
    options = {
        "benchmark": "fiction",
        "methods": "pdu",
        "keep": "0.9",
        "trials": 7,
        "output_dir": str(tmp_path / "out"),
    }
    return Plan.of(bench_config(options))


def valley(job) -> None:
    """A run whose forget probability is least at a learning rate of 5e-3 and 12 epochs; that of trial 2 fails."""
    if job.folder.name == "trial-2":
        return "memory ran out."
    training = job.config.training
    value = abs(training.learning_rate / 5e-3 - 1) / 10 + abs(training.num_train_epochs / 12 - 1) / 10
    (job.folder / "model").mkdir(parents=True)
    (job.folder / "results.json").write_text(json.dumps(results(value, 0.9, "feasible", reached=0.0)), encoding="utf-8")
    return None


def test_a_tuning_that_is_interrupted_goes_on_to_the_same_trials(plan):
    tuning = Tuning(plan, plan.contestants[0], Validation.of(plan))
    told = []
    whole = tuning.trials(valley, told.append)
    assert [trial.number for trial in told] == [*range(7)]
    assert whole[0].options == {"learning_rate": 1.25e-3, "num_train_epochs": 24}
    assert [trial.value is None for trial in whole] == [number == 2 for number in range(7)]
    assert best(whole).value < whole[0].value
    lines = tuning.file.read_text(encoding="utf-8").splitlines(keepends=True)
    tuning.file.write_text("".join(lines[:4]) + lines[4][:20], encoding="utf-8")
    for trial in (plan.root / "tuning" / "pdu-keep-0.9").glob("trial-*"):
        assert not (trial / "model").exists()
        (trial / "results.json").unlink()
    told.clear()
    assert tuning.trials(valley, told.append) == whole
    assert [trial.number for trial in told] == [4, 5, 6]


def test_trials_of_other_options_are_made_again(plan):
    validation = Validation.of(plan)
    Tuning(plan, plan.contestants[0], validation).trials(valley, lambda trial: None)
    other = replace(plan.contestants[0], options={"weight_decay": 0.5})
    for trial in (plan.root / "tuning" / "pdu-keep-0.9").glob("trial-*/model"):
        trial.rmdir()
    told = []
    Tuning(plan, other, validation).trials(lambda job: "it failed.", told.append)
    assert len(told) == 7


def test_fiction_is_validated_on_people_and_a_model_of_their_own(plan):
    validation = Validation.of(plan)
    names = {row["question"] for row in Fiction(seed=SEED).splits()["full"]}
    assert not names & {row["question"] for seed in range(3) for row in Fiction(seed=seed).splits()["full"]}
    assert validation.options["benchmark"] == f"fiction:{SEED}"
    assert validation.options["retrained"] is None
    assert [job.folder.name for job in validation.jobs] == ["full"]
    assert not plan.root.exists()


@dataclass(frozen=True)
class Listed(Benchmark):
    """A hundred rows to keep, the last ten of which are measured, and one of them stands twice."""

    name = "listed"

    @classmethod
    def of(cls, part, data):
        return cls()

    def rows(self, split, numbers):
        return Source(f"<{split}>", [{"question": f"{split} {n}?", "answer": str(n)} for n in numbers])

    def training(self):
        return {"forget": self.rows("forget", range(12)), "retain": self.rows("retain", [*range(100), 95])}

    def evaluation(self):
        return {"forget": self.rows("forget", range(12)), "retain": self.rows("retain", range(90, 100))}


@pytest.fixture
def listed(tmp_path, monkeypatch):
    monkeypatch.setitem(BENCHMARKS._classes, "listed", Listed)

    def make(**options):
        own = {"benchmark": "listed", "model": "m", "methods": "pdu", "keep": "0.9", "trials": 1}
        return Plan.of(bench_config(own | {"output_dir": str(tmp_path / "out")} | options))

    return make


def test_elsewhere_trials_forget_rows_to_keep_that_nothing_measures(listed):
    plan = listed(probe_size=30)
    forgotten, kept = (list(rows) for rows in Validation.of(plan).rows.values())
    probe = {f"retain {place}?" for place in probe_places(101, plan.config.probe)}
    measured = {f"retain {n}?" for n in range(90, 100)}
    free = [f"retain {n}?" for n in range(100) if f"retain {n}?" not in probe | measured]
    found = [row["question"] for row in (*kept, *forgotten)]
    assert found == free
    assert len(forgotten) == min(12, len(free) // 4)
    assert not plan.root.exists()


@dataclass(frozen=True)
class Parted(Listed):
    """The same with two folds; names suggest a retrained model for all rows and, the same, for `big`."""

    name = "parted"
    part: str = ""

    def folds(self, kind):
        return {fold: f"parted:scal:{fold}" for fold in ("small", "big")} if kind == "scal" else super().folds(kind)

    @classmethod
    def of(cls, part, data):
        return cls(part)

    def retrained_of(self, model):
        return f"{model}-{'small' if self.part.endswith('small') else 'all'}"


def test_a_fold_is_held_against_a_model_that_lacks_it_alone(tmp_path, monkeypatch):
    monkeypatch.setitem(BENCHMARKS._classes, "parted", Parted)
    for name in ("m-small", "m-all"):
        (tmp_path / name).mkdir()
    own = {"benchmark": "parted", "model": str(tmp_path / "m"), "methods": "pdu", "keep": "0.9", "folds": "scal"}
    plan = Plan.of(bench_config(own | {"output_dir": str(tmp_path / "out")}))
    found = {fold: plan.unlearning(plan.contestants[0], 0, fold) for fold in (None, *plan.folds)}
    assert [(config.data.benchmark, config.evaluation.retrained) for config in found.values()] == [
        ("parted", str(tmp_path / "m-all")),
        ("parted:scal:small", str(tmp_path / "m-small")),
        ("parted:scal:big", None),
    ]


@pytest.mark.parametrize(
    ("asked", "names"),
    [((), []), (["scal"], ["small", "big"]), (["scal:big", "scal:small"], ["small", "big"]), (["scal:big"], ["big"])],
)
def test_folds_are_chosen_in_the_order_of_the_benchmark(asked, names):
    assert [fold.name for fold in chosen_folds(Parted(), asked)] == names


def test_a_benchmark_knows_that_its_name_is_that_of_a_fold():
    assert [fold_named(Parted(), name) for name in ("parted", "parted:scal:big")] == [None, "big"]
    assert fold_named(Fiction(), "fiction") is None


def test_elsewhere_trials_forget_pieces_of_texts_that_nothing_measures(tmp_path, monkeypatch):
    """One text of 60 words, cut into pieces of 8 tokens: those of the probe are in neither file, and none is twice."""
    folder = tmp_path / "start"
    words = [f"w{n // 26 + 1}{chr(97 + n % 26)}" for n in range(60)]
    write_start(folder, [{"question": " ".join(words), "answer": "x"}])

    class Told(Listed):
        def training(self):
            texts = {"forget": " ".join(words[:12]), "retain": " ".join(words)}
            return {split: Source(f"<{split}>", [{"text": text}]) for split, text in texts.items()}

        def evaluation(self):
            return {"retain": self.rows("retain", range(3))}

    monkeypatch.setitem(BENCHMARKS._classes, "told", Told)
    own = {"benchmark": "told", "model": str(folder), "methods": "pdu", "keep": "0.9", "trials": 1}
    plan = Plan.of(bench_config(own | {"output_dir": str(tmp_path / "out"), "max_length": 8, "probe_size": 5}))
    texts = plan.benchmark.training()["retain"].read("retain", plan.config.template)
    encoder = Encoder(read_tokenizer(plan.config.model), plan.config.template)
    pieces = [piece.prompt + piece.answer for piece in encoder.encode("retain", texts).examples]
    probe = {pieces[place] for place in probe_places(len(pieces), plan.config.probe)}
    forgotten, kept = ([row["text"] for row in rows] for rows in Validation.of(plan).rows.values())
    assert [*kept, *forgotten] == [piece for piece in pieces if piece not in probe]
    assert 1 <= len(forgotten) <= len([*kept, *forgotten]) // 4


def test_too_few_rows_for_trials_are_told(listed):
    with pytest.raises(InputError, match="0 of 101 are left; lower --probe_size"):
        Validation.of(listed(probe_size=101))


@pytest.mark.parametrize(
    ("log", "status", "sentence"),
    [
        ("note: x\nerror: first.\nerror: the loss is nan.\n", 1, "the loss is nan."),
        ("loading\n", -9, "the run was killed by SIGKILL (memory may have run out); {log} holds what it said."),
        ("", -15, "the run was killed by SIGTERM; {log} holds what it said."),
        ("Traceback\nImportError: no torch\n\n", 1, "the run ended with exit status 1 and said: ImportError: no torch"),
        ("", 1, "the run ended with exit status 1 and said: nothing"),
    ],
)
def test_a_process_that_failed_ends_with_a_sentence(tmp_path, log, status, sentence):
    path = tmp_path / "log.txt"
    path.write_text(log, encoding="utf-8")
    assert _sentence(path, status) == sentence.format(log=path)
