"""``amnestic compare``: from runs that ended to a leaderboard and its page."""

import json
import math

import pytest

import amnestic
from amnestic.cli import main


@pytest.fixture(scope="module")
def runs(unlearn):
    """Two seeds of one setting, two steps each, which hold a bound of 9 nats whatever they do."""
    return [unlearn(bound=9, seed=seed).folder for seed in (0, 1)]


def test_two_seeds_of_real_runs_are_one_row(runs, tmp_path, capsys):
    """The mean is that of results.json; the geometric share of retention is exp(before - after) of the mean losses."""
    assert main(["compare", *map(str, runs), "--output_dir", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("The bound was held in both bounded runs.")
    assert "held 2 of 2" in shown
    document = json.loads((tmp_path / "out" / "leaderboard.json").read_text("utf-8"))
    before, row = document["rows"]
    found = [json.loads((run / "results.json").read_text("utf-8")) for run in runs]
    forgotten = [results["metrics"]["forget.probability"] for results in found]
    assert (row["method"], row["setting"], row["bound_held"]) == ("pdu", "bound 9", {"held": 2, "of": 2})
    assert row["values"]["forget.probability"]["mean"] == pytest.approx(sum(forgotten) / 2, rel=1e-12)
    kept = [math.exp(results["bound"]["L_ref"] - results["bound"]["reached"]) for results in found]
    assert row["values"]["retain_kept"]["mean"] == pytest.approx(sum(kept) / 2, rel=1e-5)
    assert (before["method"], before["values"]["retain_kept"]["count"]) == ("model before", 1)
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert page.count('<section class="course"') == 1
    assert page.count("<figure>") == 2 + 3


def test_a_method_that_a_bound_makes_another_is_named(unlearn, tmp_path, capsys):
    run = unlearn(method="grad_diff", bound=9).folder
    assert main(["compare", str(run), "--output_dir", str(tmp_path / "out")]) == 0
    assert "note: Under a bound grad_diff is grad_ascent: " in capsys.readouterr().out


def test_a_free_run_is_called_free(unlearn, tmp_path, capsys):
    run = unlearn(method="grad_diff").folder
    assert main(["compare", str(run), "--output_dir", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("1 run had no bound: nothing held what it kept.")
    assert "Under a bound" not in shown


def test_json_is_what_the_file_holds_and_python_does_the_same(runs, tmp_path, capsys):
    assert main(["compare", str(runs[0]), "--json", "--output_dir", str(tmp_path / "a")]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "a" / "leaderboard.json").read_text("utf-8"))
    board = amnestic.compare([runs[0]], output_dir=tmp_path / "b")
    assert board.document == printed
    for name in ("leaderboard.md", "leaderboard.csv", "runs.csv", "report.html"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_default_folder_and_what_stands_in_it(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", str(runs[0])]) == 0
    assert (tmp_path / "amnestic-comparison" / "report.html").is_file()
    assert main(["compare", str(runs[0])]) == 2
    assert "amnestic-comparison is not empty; give another folder, or --overwrite" in capsys.readouterr().err
    assert main(["compare", str(runs[0]), "--overwrite"]) == 0


def test_other_data_is_one_sentence(runs, unlearn, people, as_file, tmp_path, capsys):
    other = unlearn(bound=9, forget=as_file(tmp_path / "forget.jsonl", people.rows["forget"][:6])).folder
    assert main(["compare", str(runs[0]), str(other), "--output_dir", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "was measured on other rows of the forget split" in line
    assert not (tmp_path / "out").exists()


def test_evaluations_and_no_runs_are_one_sentence(evaluation, tmp_path, capsys):
    assert main(["compare", str(evaluation().folder), "--output_dir", str(tmp_path / "out")]) == 2
    assert "is a run of 'eval'; a comparison takes runs of unlearn." in capsys.readouterr().err
    assert main(["compare"]) == 2
    assert "a comparison needs at least one run" in capsys.readouterr().err


def test_redacted_runs_are_compared(unlearn, tmp_path, capsys):
    run = unlearn("--redact", bound=9).folder
    assert main(["compare", str(run), "--output_dir", str(tmp_path / "out")]) == 0
    assert "1 of 1 runs are redacted" in capsys.readouterr().out
