"""Kill runs of ``amnestic unlearn`` without warning and resume them, in processes that share one start.

Called with a JSON file of options. A parent imports everything once and forks: a child a run. Prints a JSON line for
each trial: how it was killed, what was visible then, and how the resumed run ended.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import amnestic.storage as storage
from amnestic.cli import main
from amnestic.resuming import _is_whole
from amnestic.training.checkpoint import found_in

# imported before the first fork
import amnestic.run  # isort: skip  # noqa: F401
import matplotlib.backends.backend_svg  # isort: skip  # noqa: F401
import pyarrow.parquet  # isort: skip  # noqa: F401
import rouge_score.rouge_scorer  # isort: skip  # noqa: F401
import transformers.models.llama.modeling_llama  # isort: skip  # noqa: F401


def start(options: dict, dies_at_flush: int = 0) -> int:
    """Run the command in a child; with `dies_at_flush` it is killed while it flushes so many files to the disk."""
    child = os.fork()
    if child:
        return child
    with Path(options["log"]).open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    if dies_at_flush:
        flush, calls = storage._flush, []

        def dying(path: Path) -> None:
            calls.append(path)
            if len(calls) == dies_at_flush:
                os.kill(os.getpid(), signal.SIGKILL)
            flush(path)

        storage._flush = dying
    status = main(["unlearn", *(part for key, value in options["flags"].items() for part in (f"--{key}", str(value)))])
    sys.stdout.flush()
    os._exit(status)


def wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def ending(folder: Path) -> dict:
    """What the run ended with: its weights, metrics and candidates."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    weights = hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest()
    lines = [json.loads(line) for line in (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [(line["step"], "candidate" in line) for line in lines]
    kept = {name: results[name] for name in ("metrics", "reference_metrics", "candidates", "kept_step", "verdict")}
    names = sorted(str(path.relative_to(folder)) for place in (".", "model") for path in (folder / place).iterdir())
    return {"weights": weights, "results": kept, "steps": steps, "names": names}


def trial(options: dict, folder: Path, seconds: float, flush: int) -> dict:
    """Kill a run after `seconds`, or at a flush; then resume it, and tell everything."""
    own = options | {"flags": options["flags"] | {"output_dir": folder}}
    child = start(own, flush)
    if not flush:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    killed = wait(child)
    found = found_in(folder / "checkpoints")
    visible = {
        "checkpoints": len(found),
        "whole": sum(map(_is_whole, found)),
        "ended": (folder / "results.json").exists(),
    }
    half = [path.name for path in folder.rglob("*.tmp")]
    if visible["ended"] and not found:
        return {"killed": killed, "half": half, **visible, "status": 0, "ending": ending(folder)}
    status = wait(start(own | {"flags": own["flags"] | {"resume_from_checkpoint": "latest"}}))
    return {"killed": killed, "half": half, **visible, "status": status, "ending": ending(folder)}


def run(options: dict) -> None:
    folder = Path(options["folder"])
    draw = random.Random(options["seed"])
    begin = time.monotonic()
    status = wait(start(options | {"flags": options["flags"] | {"output_dir": folder / "whole"}}))
    length = time.monotonic() - begin
    print(json.dumps({"status": status, "ending": ending(folder / "whole")}), flush=True)
    flushes = [0] * options["at_random"] + [draw.randrange(1, options["flushes"]) for _ in range(options["in_saving"])]
    for number, flush in enumerate(flushes):
        print(json.dumps(trial(options, folder / f"trial-{number}", draw.uniform(0, length), flush)), flush=True)


if __name__ == "__main__":
    run(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
