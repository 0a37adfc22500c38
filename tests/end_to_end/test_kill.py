"""Runs that are killed without warning: whatever is left is whole, and the run goes on to the same end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

AT_RANDOM, IN_SAVING = 10, 10
FLAGS = {
    "max_steps": 9,
    "keep": 0.92,
    "learning_rate": 2e-3,
    "warmup_epochs": 1.5,
    "multiplier_warmup_epochs": 1.5,
    "retain_per_forget": 3,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "max_new_tokens": 3,
    "save_steps": 2,
    "save_total_limit": 2,
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_run_that_is_killed_at_twenty_moments_goes_on_to_the_same_end(people, tmp_path):
    """Half of the moments are drawn from the run's whole time, half fall into the writing of a file."""
    flags = FLAGS | {"model": people.model, "forget": people.file("forget"), "retain": people.file("retain")}
    options = {
        "flags": {name: str(value) for name, value in flags.items()},
        "folder": str(tmp_path),
        "log": str(tmp_path / "log.txt"),
        "seed": 11,
        "at_random": AT_RANDOM,
        "in_saving": IN_SAVING,
        "flushes": 50,
    }
    (tmp_path / "options.json").write_text(json.dumps(options), encoding="utf-8")
    script = Path(__file__).with_name("kill_runs.py")
    done = subprocess.run(
        [sys.executable, script, tmp_path / "options.json"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:] + (tmp_path / "log.txt").read_text(encoding="utf-8")[-2000:]
    whole, *trials = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(trials) == AT_RANDOM + IN_SAVING
    for number, trial in enumerate(trials):
        assert trial["whole"] == trial["checkpoints"], number
        assert trial["status"] == whole["status"], number
        assert trial["ending"] == whole["ending"], number
    killed = [trial for trial in trials if trial["killed"] == -9]
    assert len(killed) >= IN_SAVING
    assert any(trial["half"] for trial in killed)
    assert {bool(trial["checkpoints"]) for trial in killed} == {True, False}
