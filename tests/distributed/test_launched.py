"""What torchrun starts: a run of two processes, one of which is killed without warning, and goes on alone."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from test_runs import OPTIONS, data, people  # noqa: F401 (a fixture)

LIMIT = 120.0


def flags(options):
    return [text for key, value in options.items() for text in (f"--{key}", str(value))]


def children(parent: int) -> list[int]:
    """The processes that `parent` started."""
    return [int(number) for number in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def steps(folder: Path) -> int:
    """How many steps a run has logged."""
    path = folder / "train.jsonl"
    return path.read_text(encoding="utf-8").count('"grad_norm"') if path.exists() else 0


def test_a_killed_process_ends_the_run_with_one_line_and_a_checkpoint(tiny_model, data, tmp_path):  # noqa: F811
    """The other one notices, says how the run goes on, and that command works: here with a single process."""
    folder = tmp_path / "run"
    options = OPTIONS | data | {"num_train_epochs": 500, "save_steps": 1, "output_dir": folder, "model": tiny_model()}
    each = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 1}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [*launcher, "-m", "amnestic", "unlearn", *flags(options | each)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        begin = time.monotonic()
        while steps(folder) < 3:
            assert running.poll() is None, running.communicate()
            assert time.monotonic() - begin < LIMIT
            os.sched_yield()
        os.kill(children(running.pid)[1], signal.SIGKILL)
        out, err = running.communicate(timeout=LIMIT)
    assert running.returncode == 1
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "another process of the run was lost, or did not answer in time. Its state after step " in lines[0]
    assert lines[0].endswith(
        f"go on with: amnestic unlearn --config {folder}/config.yaml --resume_from_checkpoint latest"
    )
    again = [sys.executable, "-m", "amnestic", "unlearn", "--config", str(folder / "config.yaml")]
    # the same effective batch, in fewer epochs
    other = {"resume_from_checkpoint": "latest", "gradient_accumulation_steps": 2}
    done = subprocess.Popen([*again, *flags(other)], env=environment, stderr=subprocess.PIPE, text=True)
    before = steps(folder)
    while steps(folder) < before + 2:
        assert done.poll() is None, done.communicate()
        assert time.monotonic() - begin < 2 * LIMIT
        os.sched_yield()
    done.send_signal(signal.SIGTERM)
    _, err = done.communicate(timeout=LIMIT)
    assert done.returncode == 130, err
    records = [json.loads(line) for line in (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    numbers = [record["step"] for record in records if "grad_norm" in record]
    assert numbers == list(range(1, len(numbers) + 1))


TWICE = """
from amnestic import processes
for _ in range(2):
    processes.join(20)
    print(processes.gathered(processes.rank()))
"""


def test_a_script_may_start_several_runs(tmp_path):
    """The second run finds the processes joined: they could not meet again where they met first."""
    (tmp_path / "twice.py").write_text(TWICE, encoding="utf-8")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    started = [*launcher, str(tmp_path / "twice.py")]
    done = subprocess.run(started, check=True, env=environment, stdout=subprocess.PIPE, timeout=LIMIT)
    assert done.stdout.count(b"[0, 1]") == 4
