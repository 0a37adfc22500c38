"""The embedded demonstration: invented people, two small models trained from scratch, one of them made to forget."""

import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import launch
from .benchmarks.fiction import Fiction
from .config import DemoConfig, UnlearnConfig, from_mapping
from .errors import InputError, Interrupted
from .progress import Progress
from .reports.run_folder import RunFolder
from .run import Run, run_finetune, run_unlearn
from .scratch import LESSONS, learning_of, write_inputs

INPUTS = ("data", "start")
RUNS = ("full", "retrained", "unlearned")


def demo(config: DemoConfig, progress: Progress | None = None) -> Run:
    """Generate ``fiction``, train a model on all people and one that never saw some, make the first forget these.

    Everything goes into ``config.output_dir``: ``data``, ``start`` (the untrained model's shape and tokenizer), and the
    runs ``full``, ``retrained`` and ``unlearned``; the last one's report shows the three models side by side. Returns
    the last run. No network is used.
    """
    if launch.size() > 1:
        raise InputError("the demonstration runs in one process; start it as amnestic demo, without a launcher.")
    folder = Path(config.output_dir)
    _clear(folder, config.overwrite)
    progress = progress or Progress()
    fiction = Fiction(seed=config.seed)
    splits = fiction.splits()
    write_inputs(folder, fiction)
    with _one_thread(), _repeatable(config):
        for name, split in LESSONS.items():
            progress.note(f"training the model '{name}' from scratch on {len(splits[split])} answers.")
            options = {"redact": config.redact, "seed": config.seed}
            run_finetune(learning_of(fiction, folder, name, options), progress)
        progress.note(f"making the model 'full' forget {len(splits['forget'])} of its answers.")
        return run_unlearn(_unlearn(config, fiction), progress)


@contextmanager
def _repeatable(config: DemoConfig) -> Iterator[None]:
    """Say how the demonstration, not one of its runs, is started again where it is interrupted."""
    try:
        yield
    except Interrupted as error:
        folder = shlex.quote(config.output_dir)
        raise Interrupted(f"interrupted. Start again with: amnestic demo --output_dir {folder} --overwrite") from error


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread: for models this small, threads that wait for a busy core cost more than they bring."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _unlearn(config: DemoConfig, fiction: Fiction) -> UnlearnConfig:
    folder = Path(config.output_dir)
    options = {
        "output_dir": str(folder / "unlearned"),
        "model": str(folder / "full" / "model"),
        "retrained": str(folder / "retrained" / "model"),
        "forget": str(folder / "data" / "forget.jsonl"),
        "retain": str(folder / "data" / "retain.jsonl"),
        "redact": config.redact,
        "keep": config.keep,
        "seed": config.seed,
    }
    return from_mapping(UnlearnConfig, options | dict(fiction.unlearning))


def _clear(folder: Path, overwrite: bool) -> None:
    found = {item.name for item in folder.iterdir()} if folder.is_dir() else set()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output_dir {folder} is a file; expected a folder.")
    if found and not overwrite:
        raise InputError(
            f"--output_dir {folder} is not empty; give another folder, or --overwrite an earlier demonstration."
        )
    if strange := sorted(found - {*INPUTS, *RUNS}):
        raise InputError(
            f"--output_dir {folder} holds '{strange[0]}', which no demonstration wrote; give another folder."
        )
    for name in RUNS:
        RunFolder(folder / name, overwrite)  # raises for what no run wrote in any of them, before one is removed
    for name in RUNS:
        if (folder / name).exists():
            shutil.rmtree(folder / name)
