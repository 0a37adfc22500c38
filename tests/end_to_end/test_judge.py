"""``amnestic judge``: from a run's own answers to a judge's scores in its folder, its report and comparisons."""

import json
import math
import shutil
from pathlib import Path

import pytest
from judging_server import FORGET, JudgingServer, completion, content, scored

from amnestic.cli import main


@pytest.fixture
def server(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with JudgingServer().running() as found:
        yield found


def judge(run, server, *more: str) -> int:
    return main(["judge", str(run), "--endpoint", server.url, "--judge_model", "a-judge", "--yes", *more])


@pytest.fixture(scope="module")
def made(unlearn):
    return unlearn(bound=9).folder


@pytest.fixture
def run(made, tmp_path):
    """A run of two steps, of a test's own."""
    return Path(shutil.copytree(made, tmp_path / "run"))


def test_a_run_is_judged_and_shows_it_everywhere(run, server, tmp_path, capsys):
    """Every answer gets as many points as it has words in common with the true one, at most 10: computed twice."""

    def shared_words(request):
        lines = content(request).splitlines()
        answers = [
            line.partition(": ")[2] for line in lines if line.startswith(("True answer: ", "The model's answer: "))
        ]
        true, given = (set(json.loads(answer).split()) for answer in answers)
        return completion(FORGET | {"knowledge_removal": min(10, len(true & given))})

    server.answer = shared_words
    before = (run / "results.json").read_bytes()
    assert judge(run, server, "--splits", "forget") == 0
    assert (run / "results.json").read_bytes() == before
    rows = unlearn_rows(run)
    results = json.loads((run / "judge.json").read_text("utf-8"))
    for model in ("before", "after"):
        points = [
            min(10, len(set(row["answer"].split()) & set(row["generated"].split())))
            for row in rows
            if row["model"] == model
        ]
        mean = results["models"][model]["metrics"]["forget.knowledge_removal"]
        assert mean == pytest.approx(math.fsum(points) / len(points), rel=1e-12)
    assert len(server.requests) == len({(r["prompt"], r["answer"], r["generated"]) for r in rows})
    assert "a-judge" in (run / "report.html").read_text("utf-8")
    capsys.readouterr()
    assert main(["compare", str(run), "--json", "--output_dir", str(tmp_path / "out")]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["rows"][-1]["values"]["judge.forget.knowledge_removal"]["mean"] == pytest.approx(mean)
    assert "Knowledge removal (judge), forget" in (tmp_path / "out" / "leaderboard.md").read_text("utf-8")


def unlearn_rows(run) -> list[dict]:
    import pyarrow.parquet

    return pyarrow.parquet.read_table(run / "scores" / "forget.parquet").to_pylist()


def test_tokens_are_counted_by_the_tokenizer_of_the_run(run, server, capsys):
    assert judge(run, server, "--rows", "2", "--splits", "retain", "--models", "after") == 0
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(run / "model" / "tokenizer.json"))
    sent = sum(len(tokenizer.encode(content(request), add_special_tokens=False)) for request in server.requests)
    assert f"{sent:,} to send, 96 to receive (counted by the run's tokenizer" in capsys.readouterr().err


def test_a_run_that_is_made_again_loses_what_was_judged_of_it(run, unlearn, server):
    assert judge(run, server, "--rows", "1") == 0
    assert unlearn("--overwrite", bound=9, output_dir=run).status == 0
    assert not (run / "judge.json").exists()
    assert not (run / "judge").exists()


def test_an_evaluation_is_judged(evaluation, server, capsys):
    run = evaluation().folder
    assert judge(run, server, "--rows", "2", "--quiet") == 0
    assert capsys.readouterr().out == ("Judged by a-judge, 0 to 10: forget knowledge removal 8; retain retention 6.\n")
    assert len(server.requests) <= 4
    assert server.answer is scored


def test_a_redacted_run_holds_no_texts(unlearn, server, capsys):
    assert judge(unlearn("--redact", bound=9).folder, server) == 2
    assert "is redacted: it holds no texts" in capsys.readouterr().err
    assert not server.requests
