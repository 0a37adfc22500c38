"""A benchmark in the place of files: the folder that the tests write has TOFU's names, and invented people's rows."""

from pathlib import Path

import pytest

BENCHMARK = "tofu:forget01"


@pytest.fixture(scope="module")
def folder(people, as_file, tmp_path_factory) -> Path:
    """Forget 6 rows, keep 12; of the rows about authors and the world only wrong answers are known."""
    folder = tmp_path_factory.mktemp("tofu")
    forget, retain, other = (people.rows[split] for split in ("forget", "retain", "holdout"))
    asked = [{name: row[name] for name in ("question", "answer", "perturbed_answer")} for row in other]
    files = {
        "forget01": [{name: row[name] for name in ("question", "answer")} for row in forget[:6]],
        "forget01_perturbed": forget[:6],
        "retain99": retain[:12],
        "retain_perturbed": retain[2:8],
        "real_authors_perturbed": asked[:3],
        "world_facts_perturbed": asked[3:6],
        "holdout01": retain[8:12],
    }
    for name, rows in files.items():
        as_file(folder / f"{name}.json", rows)
    return folder


@pytest.fixture(scope="module")
def evaluated(command, retrained, folder, tmp_path_factory):
    """The retrained model on the benchmark."""
    options = {"model": retrained.folder / "model", "benchmark": BENCHMARK, "data": folder, "max_new_tokens": 24}
    return command("eval", options | {"output_dir": tmp_path_factory.mktemp("benchmark") / "retrained"})


def test_model_utility_is_the_harmonic_mean_of_its_nine_parts(evaluated):
    found = evaluated.results["metrics"]
    parts = [found["retain.probability"], found["retain.rouge"], found["retain.truth_ratio"]]
    for split in ("real_authors", "world_facts"):
        parts += [found[f"{split}.{name}"] for name in ("normalized_probability", "rouge", "truth_ratio")]
    expected = 9 / sum(1 / part for part in parts) if all(parts) else 0.0
    assert found["model_utility"] == pytest.approx(expected)
    assert evaluated.results["benchmark"] == BENCHMARK


def test_what_reads_the_holdout_carries_its_warning(evaluated):
    notes = evaluated.results["metric_notes"]
    assert {"mia.loss.auc", "mia.min_k.auc", "mia.zlib.auc", "holdout.probability"} <= notes.keys()
    assert "forget.probability" not in notes
    assert "note on " in evaluated.out


def test_unlearning_takes_its_rows_and_its_measurements_from_a_benchmark(command, people, folder, evaluated, tmp_path):
    """Training takes 6 and 12 rows; all five splits are measured before and after, beside the retrained model's."""
    options = {
        "model": people.model,
        "benchmark": BENCHMARK,
        "data": folder,
        "retrained": evaluated.folder,
        "max_steps": 2,
        "learning_rate": 1e-3,
        "max_new_tokens": 24,
        "output_dir": tmp_path / "run",
        "bound": 20,
    }
    run = command("unlearn", options)
    results = run.results
    assert {split: facts["examples"] for split, facts in results["data"].items()} == {"forget": 6, "retain": 12}
    assert set(results["measured_on"]) == {"forget", "retain", "real_authors", "world_facts", "holdout"}
    for name in ("metrics", "reference_metrics"):
        assert {"forget_quality", "model_utility", "privleak", "forget.truth_ratio"} <= results[name].keys()
    assert results["benchmark"] == BENCHMARK
    alone = command(
        "eval",
        {
            "model": run.folder / "model",
            "benchmark": BENCHMARK,
            "data": folder,
            "retrained": evaluated.folder,
            "max_new_tokens": 24,
            "output_dir": tmp_path / "alone",
        },
    )
    assert alone.results["metrics"] == pytest.approx(results["metrics"], rel=1e-4)


def test_the_embedded_benchmark_needs_no_files(command, people, tmp_path):
    options = {"model": people.model, "benchmark": "fiction", "metrics": "probability"}
    found = command("eval", options | {"output_dir": tmp_path / "run"})
    assert {"forget.probability", "retain.probability", "holdout.probability"} <= found.results["metrics"].keys()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"benchmark": "tofu:forget02"}, "forget02"),
        ({"benchmark": "tufo:forget01"}, "unknown benchmark 'tufo'; did you mean 'tofu'?"),
        ({"benchmark": "tofu:forget10"}, "forget10"),
        ({"benchmark": BENCHMARK, "data": "nowhere/at/all"}, "nowhere/at/all"),
    ],
)
@pytest.mark.parametrize("name", ["eval", "unlearn"])
def test_what_is_no_benchmark_is_refused_in_a_sentence(command, people, folder, tmp_path, name, options, sentence):
    refused = command(name, {"model": people.model, "data": folder, "output_dir": tmp_path / "run"} | options)
    assert (refused.status, sentence in refused.err) == (2, True), refused.err
    assert len(refused.err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()
