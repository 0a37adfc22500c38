"""What a watched run writes: plain lines without escape codes, or a live bar that leaves lines behind."""

import io
import re

import pytest
from rich.console import Console

from amnestic import console
from amnestic.console import LineProgress, LiveProgress, open_console, status, watching
from amnestic.outcomes import environment_facts, show_results

STEP = {
    "step": 4,
    "epoch": 0.5,
    "learning_rate": 1e-5,
    "forget_loss": 123.456,
    "retain_loss": 0.03,
    "bound": 0.02,
    "multiplier": 99.5,
    "seconds": 0.1,
}
CANDIDATE = {"step": 8, "epoch": 1.0, "forget_loss": 0.5, "reached": 0.015, "upper_limit": 0.018, "holds": True}
ESCAPE = "\x1b"


class Clock:
    """Counts the seconds that it is told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def plain():
    return open_console(io.StringIO())


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    return Console(file=io.StringIO(), force_terminal=True, width=100, markup=False, highlight=False, emoji=False)


def written(on: Console) -> list[str]:
    """Return the lines on a console, without trailing blanks."""
    return [line.rstrip() for line in on.file.getvalue().splitlines()]


def test_lines_come_at_the_start_about_every_tenth_and_at_the_end(plain):
    clock = Clock()
    progress = LineProgress(plain, clock)
    progress.start("unlearn", 40)
    for step in range(1, 41):
        clock.now = 0.5 * step
        progress.step(STEP | {"step": step})
        progress.advance()
    progress.stop()
    progress.stop()
    values = "epoch 0.50, forget loss 123.5, retain loss 0.03 (bound 0.02), multiplier 99.5"
    assert written(plain) == ["unlearn ..."] + [
        f"unlearn, {done} of 40, {seconds}: {values}"
        for done, seconds in ((n, f"{n / 2:.1f} s") for n in range(4, 41, 4))
    ]


def test_a_short_stage_takes_two_lines(plain):
    progress = LineProgress(plain, Clock())
    progress.start("measure", 10)
    for _ in range(10):
        progress.advance()
    progress.start("save", 0)
    progress.advance()
    progress.close()
    assert written(plain) == [
        "measure ...",
        "measure, 10 of 10, 0 ms",
        "save ...",
    ]


def test_notes_candidates_and_plans_are_plain(plain):
    progress = LineProgress(plain)
    progress.note("a file called \x1b[31mred")
    progress.candidate(CANDIDATE)
    progress.candidate(CANDIDATE | {"epoch": 2.0, "step": 16, "upper_limit": None, "holds": False})
    progress.plan({"forget split": "40 examples", "steps": 12000, "rate": 0.5})
    assert written(plain) == [
        r"note: a file called \x1b[31mred",
        "epoch 1, step 8: forget loss 0.5, retain loss 0.015 (at most 0.018): bound held",
        "epoch 2, step 16: forget loss 0.5, retain loss 0.015: bound not held",
        "forget split  40 examples",
        "steps         12,000",
        "rate          0.5",
        "",
    ]


def test_preview_marks_merged_scored_tokens(plain):
    tokens = [
        ("Q: [bold]who?", False),
        ("\nA:", False),
        (" Ana", True),
        ("\x1b", True),
        ("<eos>", True),
        (" pad", False),
    ]
    LineProgress(plain).preview(tokens)
    assert written(plain) == [
        "First example, scored tokens in [[ ]]:",
        "Q: [bold]who?",
        r"A:[[ Ana\x1b<eos>]] pad",
        "",
    ]


def test_preview_leaves_out_the_middle_of_a_long_text(plain, monkeypatch):
    monkeypatch.setattr(console, "PREVIEW", 4)
    LineProgress(plain).preview([("abcdef", True)])
    assert written(plain)[1] == "[[ab [...] ef]]"


def test_preview_underlines_on_a_terminal(terminal):
    LiveProgress(terminal).preview([("Q", False), ("A", True), ("B", True)])
    assert terminal.file.getvalue() == f"First example, scored tokens underlined:\nQ{ESCAPE}[1;4mAB{ESCAPE}[0m\n\n"


def test_finetuning_has_one_loss():
    assert status({"step": 1, "epoch": 1.5, "loss": 2.0}).plain == "epoch 1.50, loss 2"


def test_a_retain_loss_above_its_bound_is_red():
    def red(record):
        text = status(record)
        return [text.plain[span.start : span.end] for span in text.spans if span.style == "red"]

    assert red(STEP) == ["0.03"]
    assert red(STEP | {"bound": 0.03}) == []


def test_a_bar_shows_the_step_and_leaves_a_line(terminal):
    with watching(terminal, quiet=False) as progress:
        assert isinstance(progress, LiveProgress)
        progress.start("unlearn", 8)
        progress.step(STEP)
        progress.advance(4)
        progress.candidate(CANDIDATE)
        progress.start("measure", 2)
        progress.stop()
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.file.getvalue())
    lines = [line.strip() for line in re.split(r"[\r\n]+", text)]
    assert any(re.fullmatch(r"unlearn .* 4/8 .* left", line) for line in lines)
    values = "epoch 0.50, forget loss 123.5, retain loss 0.03 (bound 0.02), multiplier 99.5"
    assert any(re.fullmatch(rf"unlearn, [\d.]+ m?s: {re.escape(values)}", line) for line in lines)
    assert any(line.endswith("(at most 0.018): bound held") for line in lines)
    assert any(re.fullmatch(r"measure, [\d.]+ m?s", line) for line in lines)


def test_an_error_removes_the_bar_and_claims_nothing(terminal):
    def fail():
        with watching(terminal, quiet=False) as progress:
            progress.start("unlearn", 8)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    text = terminal.file.getvalue()
    assert "unlearn, " not in text
    assert text.count(f"{ESCAPE}[?25l") == text.count(f"{ESCAPE}[?25h") == 1


def test_quiet_shows_nothing_and_no_terminal_gets_lines(plain):
    with watching(plain, quiet=True) as progress:
        progress.start("unlearn", 8)
        progress.note("x")
    assert written(plain) == []
    with watching(plain, quiet=False) as progress:
        assert isinstance(progress, LineProgress)


def test_results_have_a_column_for_each_measured_model(plain, tmp_path):
    (tmp_path / "report.html").touch()
    results = {
        "status": "infeasible",
        "verdict": "BOUND MISSED.",
        "metrics": {"retain.probability": 0.5, "forget.probability": 1e-7, "forget.margin": 612.3456},
        "reference_metrics": {"forget.probability": 0.9},
        "retrained_metrics": {"forget.probability": 0.25},
    }
    show_results(plain, results, tmp_path, quiet=False)
    assert written(plain) == [
        "BOUND MISSED.",
        "",
        "                    before  retrained  after",
        "forget.probability     0.9       0.25  1e-07",
        "forget.margin            -          -  612.3",
        "retain.probability       -          -    0.5",
        "",
        f"report  {tmp_path}/report.html",
    ]


def test_long_lines_stay_whole_where_nobody_watches(plain):
    text = "word " * 100 + "end"
    LineProgress(plain).note(text)
    assert written(plain) == [f"note: {text}"]


def test_environment_is_told_in_words():
    facts = {
        "amnestic": "0.1.0",
        "python": "3.11.7 (CPython)",
        "system": "Linux",
        "processor": {"model": "A", "usable_cores": 2, "cores": 4, "flags": ["avx2", "fma"]},
        "memory_bytes": 8 * 2**30,
        "accelerators": [{"name": "B"}, {"name": "C"}],
        "torch": {"version": "2.13.0", "cuda": "13.0", "hip": None, "threads": 2},
        "packages": {"transformers": "5.23.0"},
    }
    told = environment_facts(facts)
    assert told["processor"] == "A, 2 of 4 cores"
    assert told["instructions"] == "avx2 fma"
    assert told["memory"] == "8 GiB"
    assert told["accelerators"] == "B, C"
    assert told["torch"] == "2.13.0 (cuda 13.0, 2 threads)"
    assert (told["transformers"], told["bitsandbytes"]) == ("5.23.0", "not installed")
