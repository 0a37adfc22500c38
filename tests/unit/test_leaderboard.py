"""The leaderboard of several runs: means and intervals, rows, what must be said with them, and its files."""

import csv
import io
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from amnestic.comparing import compare
from amnestic.errors import InputError
from amnestic.reports.comparability import differences
from amnestic.reports.entries import setting_of
from amnestic.reports.figures import KEPT
from amnestic.reports.labels import Box, placed
from amnestic.reports.leaderboard import FILES, Entry, Leaderboard, write_comparison
from amnestic.reports.seeds import Spread, spread
from amnestic.reports.sizes import size_plots, sweeps_of
from amnestic.reports.tradeoff import Plane, front, marks_of

KEEP = {"kind": "keep", "requested": 0.98, "value": 0.03, "L_ref": 0.01, "reached": 0.02, "upper_limit": 0.025}
BEFORE = {"forget.probability": 0.9, "retain.probability": 0.95, "retain.token_probability": 0.8}

Write = Callable[..., Path]


def results_of(method: str = "npo", seed: int = 0, bound: Mapping[str, Any] | None = KEEP, **more: Any) -> dict:
    """Results of a run of unlearn; `forget` and `kept` set what was forgotten, and the share that was kept."""
    forget, kept = more.pop("forget", 0.1), more.pop("kept", 0.99)
    found = {
        "schema": 1,
        "command": "unlearn",
        "status": "feasible" if bound else "unconstrained",
        "verdict": "Bound held.",
        "method": {"name": method},
        "metrics": {"forget.probability": forget, "retain.probability": 0.9, "retain.token_probability": 0.8 * kept},
        "reference_metrics": BEFORE,
        "seeds": {"training": seed},
        "training": {"seconds": 10.0 + seed},
        "notes": [],
        "measured_on": {"forget": {"content": "c", "tokens": "t"}},
        "prompts": {"forget": {"text": "Who?", "sha256": "s"}},
    }
    return found | ({"bound": dict(bound)} if bound else {}) | more


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a run folder, and return it: ``write("a", method="pdu", seed=1)``."""

    def make(name: str, **more: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps(results_of(**more)), "utf-8")
        return folder

    return make


def entry(method: str = "npo", seed: int = 0, **more: Any) -> Entry:
    results = results_of(method, seed, **more)
    return Entry(method, setting_of(results), seed, Path("run"), results)


def failed(method: str = "npo", setting: str = "keep 0.98", seed: int = 1, error: str = "it broke.") -> Entry:
    return Entry(method, setting, seed, Path("failed"), None, error)


def folded(fold: str, tokens: int, method: str = "npo", seed: int = 0, **more: Any) -> Entry:
    """A run of ``tofu:FOLD`` that was to forget so many tokens."""
    facts = {"benchmark": f"tofu:{fold}", "fold": fold, "data": {"forget": {"scored_tokens": tokens}}}
    return replace(entry(method, seed, **facts | more), fold=fold)


def board(*entries: Entry, **facts: str) -> Leaderboard:
    return Leaderboard.of(entries, facts)


def row_of(found: Leaderboard, method: str) -> Any:
    return next(row for row in found.rows if row.method == method)


class TestSpread:
    def test_the_interval_is_students(self) -> None:
        """1, 2, 3: mean 2, deviation 1, t(0.975; 2) = 4.302653 from a printed table; 4.302653 / sqrt(3) = 2.484138."""
        found = spread([1.0, 2.0, 3.0])
        assert (found.mean, found.count) == (2.0, 3)
        assert found.high == pytest.approx(2 + 2.484138, abs=1e-6)
        assert found.low == pytest.approx(2 - 2.484138, abs=1e-6)

    def test_of_two_seeds_it_reaches_12_7_standard_errors(self) -> None:
        """t(0.975; 1) is tan(0.475 pi), the distribution being Cauchy's; of 0 and 2 the standard error is 1."""
        assert spread([0.0, 2.0]).high == pytest.approx(1 + math.tan(0.475 * math.pi), rel=1e-12)

    def test_it_is_cut_to_what_a_value_can_be(self) -> None:
        assert spread([0.9, 1.0], 0.0, 1.0) == Spread(0.95, spread([0.9, 1.0]).low, 1.0, 2)

    def test_one_value_has_none(self) -> None:
        assert spread([0.25]) == Spread(0.25, None, None, 1)


class TestRows:
    def test_seeds_of_a_method_and_setting_are_one_row(self) -> None:
        found = board(entry(seed=0, forget=0.1), entry(seed=1, forget=0.3), entry(bound=None, forget=0.5))
        assert [row.name for row in found.rows] == ["model before", "npo, keep 0.98", "npo, free"]
        assert row_of(found, "npo").values["forget.probability"].mean == pytest.approx(0.2)
        assert row_of(found, "npo").values["training_seconds"].mean == 10.5
        assert [row.held for row in found.rows] == ["", "held 2 of 2", "free"]

    def test_what_is_kept_is_a_share_of_what_was_there(self) -> None:
        """0.8 x 0.97 after, 0.8 before: 0.97; the model before has kept all, the retrained one 0.6 / 0.8."""
        found = board(entry(kept=0.97, retrained_metrics={"retain.token_probability": 0.6}))
        kept = {row.method: row.values[KEPT].mean for row in found.rows}
        assert kept == {"model before": 1.0, "retrained model": pytest.approx(0.75), "npo": pytest.approx(0.97)}

    def test_one_model_before_all_seeds_is_one_value_and_one_a_seed_are_several(self) -> None:
        same = board(entry(seed=0), entry(seed=1)).rows[0].values["forget.probability"]
        assert same == Spread(0.9, None, None, 1)
        other = BEFORE | {"forget.probability": 0.7}
        several = board(entry(seed=0), entry(seed=1, reference_metrics=other), entry("pdu", 1, reference_metrics=other))
        found = several.rows[0].values["forget.probability"]
        assert (found.mean, found.count) == (pytest.approx(0.8), 2)

    def test_a_missed_bound_counts_and_comes_first(self) -> None:
        missed = [entry(seed=seed, status="infeasible") for seed in (1, 2)]
        found = board(entry(seed=0), *missed, entry(bound=None))
        assert row_of(found, "npo").held == "missed 2 of 3"
        assert found.status == "infeasible"
        assert found.verdict == (
            "The bound was missed in 2 of 3 bounded runs. 1 run had no bound: nothing held what it kept."
        )

    def test_a_failed_run_stands_in_its_row_with_its_sentence(self) -> None:
        found = board(entry(seed=0), failed(), failed("pdu"))
        assert [row_of(found, name).held for name in ("npo", "pdu")] == ["held 1 of 2, 1 failed", "failed"]
        assert row_of(found, "pdu").missing["forget.probability"] == "the run failed: it broke."
        assert found.sentences[0] == "2 of 3 runs failed."
        assert found.records[1]["runs"][1]["error"] == "it broke."

    def test_other_hyper_parameters_are_another_row(self) -> None:
        runs = [entry(seed=seed) for seed in (0, 1, 0)]
        for run, beta in zip(runs, (0.1, 0.1, 0.5), strict=True):
            run.results["method"]["beta"] = beta
        found = board(*runs)
        assert [row.setting for row in found.rows] == ["", "keep 0.98, beta 0.1", "keep 0.98, beta 0.5"]
        assert [len(row.entries) for row in found.rows] == [0, 2, 1]

    def test_a_method_that_takes_the_seed_of_its_run_is_one_row(self) -> None:
        """The direction of rmu follows from the run's seed, unless one is given: then it is a hyper-parameter."""
        runs = [entry("rmu", seed) for seed in (0, 1)]
        for run in runs:
            run.results["method"]["seed"] = run.seed
        given = [entry("rmu", seed) for seed in (0, 1)]
        for run in given:
            run.results["method"]["seed"] = 7
        assert [row.held for row in board(*runs).rows[1:]] == ["held 2 of 2"]
        assert [row.setting for row in board(*runs, *given).rows[1:]] == ["keep 0.98", "keep 0.98, seed 7"]

    def test_other_training_is_another_row(self) -> None:
        """A mean over seeds of which each had its own learning rate, or its own multiplier, would be of nothing."""
        rates = [entry(seed=seed, training={"seconds": 1.0, "learning_rate": 1e-4 * (1 + seed)}) for seed in (0, 1)]
        assert [row.setting for row in board(*rates).rows[1:]] == [
            "keep 0.98, learning_rate 0.0001",
            "keep 0.98, learning_rate 0.0002",
        ]
        untold = entry(seed=1, training={"seconds": 1.0})  # by an earlier version
        assert [row.held for row in board(rates[0], untold).rows[1:]] == ["held 2 of 2"]
        ends = [entry(seed=seed, multiplier={"kind": "ascent", "final": seed}) for seed in (0, 1)]
        assert [row.held for row in board(*ends).rows[1:]] == ["held 2 of 2"]
        kinds = [entry(seed=seed, multiplier={"kind": kind}) for seed, kind in enumerate(("ascent", "multiplicative"))]
        caps = [entry(seed=seed, multiplier={"cap": cap}) for seed, cap in enumerate((None, 1000.0))]
        assert [len(board(*runs).rows[1:]) for runs in (kinds, caps)] == [2, 2]

    def test_steps_in_place_of_epochs_are_another_row(self) -> None:
        lengths = ({"num_train_epochs": 5.0}, {"max_steps": 5}, {"max_steps": 6})
        runs = [entry(seed=seed, training={"seconds": 1.0} | length) for seed, length in enumerate(lengths)]
        assert [row.setting for row in board(*runs).rows[1:]] == [
            "keep 0.98, num_train_epochs 5",
            "keep 0.98, max_steps 5",
            "keep 0.98, max_steps 6",
        ]

    def test_runs_that_share_everything_are_rows_by_their_folders(self, write: Write) -> None:
        entries = [Entry.of(write(name)) for name in ("a", "b")]
        assert [row.setting for row in board(*entries).rows[1:]] == ["keep 0.98, a", "keep 0.98, b"]

    def test_a_fixed_weight_tells_free_runs_apart(self) -> None:
        weights = [{"retain": {"loss": "nll", "control": "fixed", "weight": weight}} for weight in (1.0, 5.0)]
        found = board(*(entry(bound=None, retentions=retentions) for retentions in weights))
        assert [row.setting for row in found.rows[1:]] == ["free, retain weight 1", "free, retain weight 5"]

    def test_a_second_bound_tells_runs_apart(self) -> None:
        names = {"retain": {"loss": "nll"}, "general": {"loss": "nll"}}
        runs = [entry(retentions=names, general_bound=KEEP | {"requested": keep}) for keep in (0.9, 0.95)]
        assert [row.setting for row in board(*runs).rows[1:]] == [
            "keep 0.98, general bound keep 0.9",
            "keep 0.98, general bound keep 0.95",
        ]

    def test_a_missing_number_has_the_reason_that_the_run_gave(self) -> None:
        with_quality = entry("pdu")
        with_quality.results["metrics"]["forget_quality_log10"] = -2.0
        reason = "there is no retrained model"
        found = board(entry(not_computed={"forget_quality_log10": reason}), with_quality)
        assert row_of(found, "npo").missing == {"forget_quality_log10": reason}
        assert found.records[1]["missing"] == {"forget_quality_log10": reason}
        assert any("Not every run measured forget_quality_log10" in note for note in found.notes)

    def test_a_number_that_no_run_has_is_told_once_with_one_full_stop(self) -> None:
        found = board(entry(not_computed={"forget_quality": "there is no retrained model."}))
        told = [note for note in found.notes if "forget_quality" in note]
        assert told == ["No run has forget_quality: there is no retrained model."]

    def test_columns_are_those_that_were_measured_and_labels_those_of_the_metrics(self) -> None:
        labels = {column.key: (column.label, column.direction) for column in board(entry()).columns}
        assert labels == {
            "forget.probability": ("Probability of an answer, forget", "lower means more forgotten"),
            "retain.probability": ("Probability of an answer, retain", "higher means more kept"),
            KEPT: ("Retention kept", "higher means more kept"),
            "training_seconds": ("Training time", "lower means less time"),
        }


class TestFolds:
    def test_folds_are_no_seeds_of_each_other(self) -> None:
        """Of three runs two are of one fold: their mean is (0.1 + 0.3) / 2, and the third stands alone."""
        found = board(
            folded("forget01", 100, forget=0.1), folded("forget01", 100, seed=1, forget=0.3), folded("forget05", 500)
        )
        assert [(row.name, len(row.entries)) for row in found.rows[1:]] == [
            ("npo, keep 0.98, forget01", 2),
            ("npo, keep 0.98, forget05", 1),
        ]
        assert found.rows[1].values["forget.probability"].mean == pytest.approx(0.2)
        assert [row.forget_tokens for row in found.rows] == [None, 100.0, 500.0]
        assert any("(forget01, 100 tokens; forget05, 500 tokens)" in note for note in found.notes)
        assert not any("cannot" in note or "Seeds have data" in note for note in found.notes)

    def test_a_model_beside_them_is_one_row_where_all_folds_say_the_same_of_it(self) -> None:
        retrained = [{"forget.probability": value} for value in (0.2, 0.3)]
        found = board(
            folded("forget01", 100, retrained_metrics=retrained[0]),
            folded("forget05", 500, retrained_metrics=retrained[1]),
        )
        assert [row.name for row in found.rows[:3]] == [
            "model before",
            "retrained model, forget01",
            "retrained model, forget05",
        ]

    def test_one_fold_alone_is_no_column(self) -> None:
        found = board(folded("forget01", 100), folded("forget01", 100, "pdu"))
        assert [row.name for row in found.rows] == ["model before", "npo, keep 0.98", "pdu, keep 0.98"]
        assert found.folds == sweeps_of(found) == []

    def test_the_seed_and_the_fold_in_the_name_of_a_benchmark_are_no_other_benchmark(self) -> None:
        def named(seed: int, fold: str) -> Entry:
            return folded(fold, 9, seed=seed, benchmark=f"fiction:passages:{seed}:scal:{fold}")

        same = [named(seed, fold) for seed in (1, 2) for fold in ("forget_1", "forget_12")]
        assert differences(same) == []
        assert (
            "compare runs of one benchmark"
            in differences([same[0], folded("forget_1", 9, benchmark="muse:forget_1")])[0]
        )

    def test_a_line_is_of_one_method_and_setting_over_the_sizes_of_the_folds(self) -> None:
        """Two folds of 100 and 500 tokens; the model before is the same beside both, and so has a point at each."""
        found = board(
            *(folded(fold, tokens, method, forget=forget)
              for method, forgets in (("npo", (0.1, 0.4)), ("pdu", (0.2, 0.3)))
              for (fold, tokens), forget in zip((("forget05", 500), ("forget01", 100)), forgets, strict=True))
        )  # fmt: skip
        sweeps = sweeps_of(found)
        assert [sweep.name for sweep in sweeps] == ["model before", "npo, keep 0.98", "pdu, keep 0.98"]
        plots = {plot.name: plot.caption for plot in size_plots(found, sweeps)}
        assert plots["size-forget-probability"] == (
            "1, model before: 0.9000 at 100, 0.9000 at 500. 2, npo, keep 0.98: 0.4000 at 100, 0.1000 at 500. "
            "3, pdu, keep 0.98: 0.3000 at 100, 0.2000 at 500."
        )
        assert "size-training-seconds" not in plots

    def test_files_know_the_fold(self, tmp_path: Path) -> None:
        runs = [folded("forget01", 100), folded("forget05", 500)]
        write_comparison(tmp_path, runs, {})
        rows, single = (
            list(csv.DictReader((tmp_path / name).read_text("utf-8").splitlines()))
            for name in ("leaderboard.csv", "runs.csv")
        )
        assert [(row["fold"], row["forget_tokens"]) for row in rows] == [
            ("", ""), ("forget01", "100.0"), ("forget05", "500.0"),
        ]  # fmt: skip
        assert [(row["fold"], row["forget_tokens"]) for row in single] == [("forget01", "100"), ("forget05", "500")]
        document = json.loads((tmp_path / "leaderboard.json").read_text("utf-8"))
        assert document["folds"] == ["forget01", "forget05"]
        assert [row.get("fold") for row in document["rows"]] == [None, "forget01", "forget05"]
        text, page = ((tmp_path / name).read_text("utf-8") for name in ("leaderboard.md", "report.html"))
        assert "| npo | keep 0.98 | forget05 | 1 | held 1 of 1 |" in text
        assert 'id="sizes"' in page
        assert len(set(re.findall(r' id="([^"]*)"', page))) == len(re.findall(r' id="([^"]*)"', page))

    def test_whole_texts_are_compared_by_what_is_recited_and_what_is_known_of_others(self) -> None:
        texts = {"forget.verbmem": 0.2, "forget.knowmem": 0.3, "retain.knowmem": 0.6, "forget.rouge": 0.1}
        runs = [entry(metrics={**texts, "forget.probability": 0.1, "retain.token_probability": 0.5}) for _ in range(2)]
        found = board(*runs)
        assert [figure.key for figure in found.axes] == ["forget.verbmem", "retain.knowmem"]
        assert [column.key for column in found.shown()][:4] == [
            "forget.verbmem", "forget.knowmem", "forget.probability", "retain.knowmem",
        ]  # fmt: skip
        del runs[0].results["metrics"]["forget.verbmem"], runs[0].results["metrics"]["retain.knowmem"]
        lacking = board(entry(), runs[1])
        assert [figure.key for figure in lacking.axes] == ["forget.probability", KEPT]


class TestNotes:
    def test_a_method_that_a_bound_makes_another_is_named(self) -> None:
        method = {"name": "grad_diff", "same_when_bounded": "grad_ascent"}
        sentence = "Under a bound grad_diff is grad_ascent"
        bounded, free = entry("grad_diff"), entry("grad_diff", bound=None)
        for run in (bounded, free):
            run.results["method"] = method
        assert any(note.startswith(sentence) for note in board(bounded).notes)
        assert not any(note.startswith(sentence) for note in board(free).notes)

    def test_a_cap_that_binds_is_said(self) -> None:
        runs = [entry("wga", seed, multiplier={"cap_binds": share}) for seed, share in ((0, 0.25), (1, 0.5), (2, 0.0))]
        assert board(*runs).notes[0] == "The cap held the multiplier of wga, keep 0.98 in up to 50\u00a0% of the steps."
        assert board(entry("wga", multiplier={"cap_binds": 0.0})).notes == board(entry("wga")).notes

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            ({"bound": KEEP | {"kind": "bound", "requested": 0.3}}, "The bounds differ (keep 0.98 and bound 0.3)"),
            ({"probe_ids": ["b"]}, "The verdicts were not all reached on the same retain probe."),
            ({"seed": 1}, "Not every row has the same seeds."),
            ({"model": "other"}, "Not all runs of a seed started from the same model: model and other."),
            ({"redacted": True}, "1 of 2 runs are redacted"),
            ({"benchmark": "tofu:forget10"}, "run was measured on tofu:forget10, and run on files of one's own"),
            ({"measured_on": {"forget": {"content": "x"}}}, "run was measured on other rows of the forget split"),
            (
                {"measured_on": {"forget": {"content": "c", "tokens": "x"}}},
                "run was measured on other tokens of the forget split",
            ),
            ({"prompts": {"forget": {"text": "Whom?", "sha256": "x"}}}, "run has another first prompt of the split"),
        ],
    )
    def test_what_cannot_be_compared_is_said(self, change: dict[str, Any], sentence: str) -> None:
        same = {"model": "model", "probe_ids": ["a"]}
        assert not any(note.startswith(sentence) for note in board(entry(**same), entry("pdu", **same)).notes)
        notes = board(entry(**same), entry("pdu", **same | change)).notes
        assert any(note.startswith(sentence) for note in notes), notes

    def test_data_of_ones_own_for_each_seed_are_compared_seed_by_seed(self) -> None:
        runs = [
            entry(
                method,
                seed,
                benchmark=f"fiction:{seed}",
                probe_ids=[f"{seed}"],
                measured_on={"forget": {"content": f"of {seed}", "tokens": "t"}},
            )
            for method in ("npo", "pdu")
            for seed in (0, 1)
        ]
        (note,) = board(*runs).notes[:-1]
        assert note.startswith("Seeds have data of their own (fiction:0 and fiction:1): ")
        runs[3].results["measured_on"]["forget"]["content"] = "others"
        assert board(*runs).notes[0].startswith("run was measured on other rows of the forget split than run")

    def test_intervals_are_explained_and_their_absence_is_too(self) -> None:
        assert board(entry()).notes[-1].startswith("One seed: nothing tells how far another one would lie")
        assert board(entry(), entry(seed=1)).notes[-1].startswith("Intervals are 95 % t intervals over seeds")


class TestTradeOff:
    def test_the_front_is_of_those_that_nothing_beats(self) -> None:
        """c keeps less than b and forgets less; d forgets less than b and keeps more; e is d again."""
        places = {"a": (0.1, 0.5), "b": (0.2, 0.8), "c": (0.3, 0.7), "d": (0.4, 0.9), "e": (0.4, 0.9)}
        found = board(*(entry(name, forget=forget, kept=kept) for name, (forget, kept) in places.items()))
        marks = marks_of(found.rows, Plane(*found.axes))
        assert [mark.row.method for mark in front(marks)] == ["a", "b", "d"]
        assert [mark.row.number for mark in marks] == [0, 1, 2, 3, 4, 5]

    def test_marks_of_one_name_and_kind_are_told_apart_by_their_settings(self, tmp_path: Path) -> None:
        loose = KEEP | {"requested": 0.9}
        write_comparison(tmp_path, [entry("my.Mine", bound=bound) for bound in (KEEP, loose, None)], {})
        plots = (tmp_path / "report.html").read_text("utf-8").split("<figure>")
        texts = re.findall(r"<text[^>]*>(Mine[^<]*)<", plots[1])
        assert texts == ["Mine keep 0.98", "Mine keep 0.9", "Mine"]

    def test_labels_lie_within_the_frame_and_on_nothing(self) -> None:
        marks = [(50.0 + 3 * number, 95.0) for number in range(12)]
        frame, sizes = Box(0, 0, 300, 100), [(30.0, 12.0)] * 12
        obstacles = [Box.around(x, y, 8, 8) for x, y in marks]
        boxes = [Box.around(x, y, 30.0, 12.0) for x, y in placed(marks, sizes, frame, obstacles)]
        assert all(box.is_within(frame) for box in boxes)
        everything = [*boxes, *obstacles]
        assert [box.overlap(other) for box in boxes for other in everything if other is not box] == [0] * 12 * 23


class TestFiles:
    @pytest.fixture
    def written(self, tmp_path: Path, write: Write) -> tuple[Path, Leaderboard]:
        entries = [Entry.of(write("a", forget=0.1)), Entry.of(write("b", seed=1, forget=0.3)), failed("pdu", seed=0)]
        return tmp_path / "out", write_comparison(tmp_path / "out", entries, {"Benchmark": "fiction"})

    def test_all_of_them_are_there_and_nothing_else(self, written: tuple[Path, Leaderboard]) -> None:
        assert {item.name for item in written[0].iterdir()} == set(FILES)

    def test_json_holds_everything(self, written: tuple[Path, Leaderboard]) -> None:
        document = json.loads((written[0] / "leaderboard.json").read_text("utf-8"))
        assert document == json.loads(json.dumps(written[1].document))
        assert document["facts"] == {"Benchmark": "fiction"}
        npo = document["rows"][1]
        assert npo["bound_held"] == {"held": 2, "of": 2}
        assert npo["values"]["forget.probability"] | {"low": 0, "high": 0} == {
            "mean": pytest.approx(0.2), "low": 0, "high": 0, "count": 2,
        }  # fmt: skip
        assert [run["values"]["forget.probability"] for run in npo["runs"]] == [0.1, 0.3]

    def test_csv_has_a_line_for_each_row_and_one_for_each_run(self, written: tuple[Path, Leaderboard]) -> None:
        rows, runs = (
            list(csv.DictReader((written[0] / name).read_text("utf-8").splitlines()))
            for name in ("leaderboard.csv", "runs.csv")
        )
        assert [row["method"] for row in rows] == ["model before", "npo", "pdu"]
        assert float(rows[1]["forget.probability"]) == pytest.approx(0.2)
        assert float(rows[1]["forget.probability.high"]) == 1.0  # 0.2 + 12.7 x 0.1, cut
        assert (rows[1]["seeds"], rows[1]["held"], rows[1]["state"]) == ("2", "2", "feasible")
        assert rows[2]["forget.probability"] == ""
        assert [(run["method"], run["seed"], run["state"]) for run in runs] == [
            ("npo", "0", "feasible"),
            ("npo", "1", "feasible"),
            ("pdu", "0", "failed"),
        ]
        assert runs[2]["error"] == "it broke."

    def test_markdown_is_one_table_with_means_and_intervals(self, written: tuple[Path, Leaderboard]) -> None:
        text = (written[0] / "leaderboard.md").read_text("utf-8")
        lines = [line for line in text.splitlines() if line.startswith("|")]
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
        assert "| npo | keep 0.98 | 2 | held 2 of 2 | 0.2000 (0 to 1.000) |" in text
        assert "- pdu, keep 0.98, seed 0: it broke." in text
        assert "- Benchmark: fiction" in text

    def test_the_terminals_table_fits_80_columns(self, written: tuple[Path, Leaderboard]) -> None:
        console = Console(width=80, file=io.StringIO())
        console.print(written[1].table())
        shown = console.file.getvalue()
        assert max(map(len, shown.splitlines())) <= 80
        assert re.search(r"npo +keep 0.98 +held 2 of 2 +0.2 ", shown)
        assert re.search(r"pdu +keep 0.98 +failed +- ", shown)

    def test_texts_are_no_markup(self, tmp_path: Path) -> None:
        """A method is named by its user, an error by whatever broke: neither adds a cell, a tag or a link."""
        hostile = "a|b <b>x</b> [l](http://x) `c`\n# d\x1b[31m\u202e _e_"
        runs = [entry(hostile), failed(hostile, error=hostile)]
        write_comparison(tmp_path, runs, {hostile: hostile})
        markdown, page = ((tmp_path / name).read_text("utf-8") for name in ("leaderboard.md", "report.html"))
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in markdown.splitlines() if line[:1] == "|"}) == 1
        assert not re.search(r"(?<!\\)<|(?<!\\)\[|(?<!\\)`|\n# d|\x1b|\u202e|(?<!\\)_e", markdown)
        assert "<b>" not in page
        assert not re.search(r"[\x1b\u202e]", page)

    def test_a_redacted_run_is_compared_and_says_so(self, tmp_path: Path) -> None:
        hidden = {"redacted": True, "measured_on": {"forget": {}}, "prompts": {"forget": {"text": "ab12"}}}
        found = write_comparison(tmp_path, [entry(**hidden), entry("pdu", **hidden)], {})
        assert "2 of 2 runs are redacted" in " ".join(found.notes)
        assert "Some of these runs are redacted." in (tmp_path / "report.html").read_text("utf-8")

    def test_the_same_runs_make_the_same_files(self, written: tuple[Path, Leaderboard], tmp_path: Path) -> None:
        write_comparison(tmp_path / "again", written[1].entries, written[1].facts)
        for name in FILES:
            assert (tmp_path / "again" / name).read_bytes() == (written[0] / name).read_bytes()


class TestCompare:
    def test_runs_are_compared(self, write: Write, tmp_path: Path) -> None:
        found = compare([write("a"), str(write("b", method="pdu"))], output_dir=tmp_path / "out")
        assert [row.method for row in found.rows] == ["model before", "npo", "pdu"]
        assert found.facts == {"Runs": "2", "Seeds": "0"}

    def test_the_folder_of_a_bench_stands_for_its_runs_that_have_ended(self, write: Write, tmp_path: Path) -> None:
        (tmp_path / "bench" / "runs" / "failed").mkdir(parents=True)
        (tmp_path / "bench" / "bench.yaml").touch()
        with pytest.raises(
            InputError, match=r"no run in .*runs has ended; go on with amnestic bench --config .*\.yaml"
        ):
            compare(tmp_path / "bench", output_dir=tmp_path / "out")
        write("bench/runs/b", method="pdu")
        found = compare([tmp_path / "bench", write("a")], output_dir=tmp_path / "out")
        assert [row.method for row in found.rows[1:]] == ["pdu", "npo"]
        assert found.facts["Left out"] == "1 of a bench's runs, which have not ended"

    def test_one_run_may_stand_alone(self, write: Write, tmp_path: Path) -> None:
        assert compare(str(write("a")), output_dir=tmp_path / "out").verdict == (
            "The bound was held in the one bounded run."
        )

    @pytest.mark.parametrize(
        ("results", "sentence"),
        [
            ({"command": "eval"}, "is a run of 'eval'; a comparison takes runs of unlearn."),
            ({"schema": 9}, "has schema 9; this version of amnestic reads schema 1."),
            ({"method": {}}, "is damaged: its results.json has no sound 'method'; run it again."),
            ({"status": "done"}, "is damaged: its results.json has no sound 'status'; run it again."),
            ({"metrics": {"a": "b"}}, "is damaged: its results.json has no sound 'metrics'; run it again."),
            ({"bound": {"kind": "keep"}}, "is damaged: its results.json has no sound 'bound'; run it again."),
            ({"benchmark": "fiction"}, "compare runs of one benchmark."),
        ],
    )
    def test_a_folder_that_is_no_such_run_is_refused(
        self, write: Write, tmp_path: Path, results: dict[str, Any], sentence: str
    ) -> None:
        folder = write("a")
        other = write("b", method="pdu")
        content = json.loads((other / "results.json").read_text("utf-8")) | results
        (other / "results.json").write_text(json.dumps(content), "utf-8")
        with pytest.raises(InputError) as caught:
            compare([folder, other], output_dir=tmp_path / "out")
        assert str(caught.value).endswith(sentence)
        assert not (tmp_path / "out").exists()

    def test_what_stands_in_the_way_is_named(self, write: Write, tmp_path: Path) -> None:
        run, out = write("a"), tmp_path / "out"
        (tmp_path / "stopped" / "checkpoints").mkdir(parents=True)
        (tmp_path / "empty").mkdir()
        (tmp_path / "file").write_text("", "utf-8")
        for runs, folder, sentence in (
            ([], out, "a comparison needs at least one run"),
            ([tmp_path / "none"], out, "there is no folder"),
            ([tmp_path / "empty"], out, "holds no results.json; expected the folder of a run that ended."),
            ([tmp_path / "stopped"], out, "has not ended; go on with it by --resume_from_checkpoint latest"),
            ([run, tmp_path / "x" / ".." / "a"], out, "is the same run as"),
            ([run], run, "is one of the runs; give a folder of its own."),
            ([run], tmp_path / "file" / "out", "is, or lies below, the file"),
            ([run], tmp_path, "which no comparison wrote; give another folder."),
        ):
            with pytest.raises(InputError, match=re.escape(sentence)):
                compare(runs, output_dir=folder)

    def test_an_earlier_comparison_is_replaced_where_that_is_said(self, write: Write, tmp_path: Path) -> None:
        run, out = write("a"), tmp_path / "out"
        compare([run], output_dir=out)
        with pytest.raises(InputError, match="is not empty; give another folder, or --overwrite the comparison in it"):
            compare([run], output_dir=out)
        compare([write("b", method="pdu")], output_dir=out, overwrite=True)
        assert "| pdu |" in (out / "leaderboard.md").read_text("utf-8")
