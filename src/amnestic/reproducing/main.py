"""The path of a reproduction, top to bottom: find the setting, run it with every seed, and compare."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import launch, processes
from ..config import ReproduceConfig, UnlearnConfig, from_mapping, override, write_yaml
from ..errors import InputError, Interrupted
from ..identity import BATCH, changes, flag
from ..progress import Progress
from ..reports.files import read_json, write_json, write_text
from ..reports.places import alone, refuse_foreign
from ..resuming import going_on
from ..run import run_unlearn
from .outcome import Reproduction
from .runs import SeedRun, shared
from .settings import Setting, find

CONFIG = "reproduce.yaml"
"""The file that tells the folder of a reproduction from any other, and goes on with it."""
COMMON = "plan/shared.json"
"""What the runs in it have in common."""
FREE = frozenset({"name", "metrics", "retrained", "redact"})
"""Options that may differ from the published ones without a word: they change no number."""
ADAMW = frozenset({"adamw_torch", "adamw_torch_fused", "paged_adamw_32bit"})
"""Names of the same arithmetic."""


def reproduce(name: str, *, output_dir: str | Path, progress: Progress | None = None, **options: Any) -> Reproduction:
    """Run the published setting called `name`, and compare; the same code as ``amnestic reproduce``.

    `options` are those of the command line (``seeds=3``, ``model=...``, ``keep=0.9``, ...). Raises InputError before
    the first step, RunError after it; a bound that is missed is a result, with ``feasible`` False.
    """
    return run_reproduction(reproduce_config({"name": name, "output_dir": output_dir} | options), progress)


def reproduce_config(mapping: Mapping[str, Any], source: str = "") -> ReproduceConfig:
    """Return what `mapping` asks for: the setting that it names, with its other options in the place of published ones.

    The public model is held against the public retrained one, where there is one and no other is named.
    """
    if not isinstance(name := mapping.get("name"), str):
        raise InputError(
            "--name is missing, the published setting to run; amnestic reproduce, with nothing behind it, lists all."
        )
    setting = find(name)
    usual = dict(setting.options)
    if mapping.get("model") in (None, usual["model"]) and mapping.get("benchmark") in (None, usual["benchmark"]):
        usual["retrained"] = setting.retrained
    return from_mapping(ReproduceConfig, override(usual, mapping), source)


def run_reproduction(config: ReproduceConfig, progress: Progress | None = None) -> Reproduction:
    """Do what `config` says, as far as it is not done in its folder."""
    progress = progress or Progress()
    setting, root = find(config.reproduce.name), Path(config.run.output_dir)
    runs = {seed: SeedRun.of(config, seed) for seed in config.seeds}
    processes.join(config.sharding.ddp_timeout)
    with processes.agreed():  # all look at the folder before any of them changes it
        _refuse_unfit(config, root)
        begun = {seed: None if run.is_done else run.beginning for seed, run in runs.items()}
    departed = departures(setting, config)
    if departed:
        progress.note(f"these are not the published conditions: {'; '.join(departed)}.")
    results = {}
    with alone(root):
        for number, (seed, run) in enumerate(runs.items(), start=1):
            progress.note(f"seed {seed}, {number} of {len(runs)}" + (": done before." if begun[seed] is None else "."))
            beginning = begun[seed]
            results[seed] = run.results if beginning is None else _results(run, beginning, config, progress)
        outcome = Reproduction(setting.name, root, departed, results)
        if launch.rank() == 0:
            write_json(root / "reproduction.json", outcome.document)
    return outcome


def _results(run: SeedRun, beginning: UnlearnConfig, config: ReproduceConfig, progress: Progress) -> dict[str, Any]:
    """Do one run and return what it found, without its model: the next one needs the memory."""
    try:
        with _recorded(run, config):
            return run_unlearn(beginning, progress).results
    except KeyboardInterrupt as error:
        raise Interrupted(f"interrupted; go on with: {going_on('reproduce', run.root / CONFIG, config)}") from error


@contextmanager
def _recorded(run: SeedRun, config: ReproduceConfig) -> Iterator[None]:
    """Write what is asked for before the run begins; wrong input leaves the folder as it was."""
    if launch.rank():
        yield
        return
    files = (run.root / CONFIG, run.root / COMMON, run.file)
    before = {path: path.read_text(encoding="utf-8") if path.is_file() else None for path in files}
    run.record()
    write_json(run.root / COMMON, shared(config))
    write_yaml(replace(config, run=replace(config.run, overwrite=False)), run.root / CONFIG)
    try:
        yield
    except InputError:
        _restore(before)
        raise


def _restore(before: Mapping[Path, str | None]) -> None:
    """Make files what they were, None for those that were not there, and drop folders that are empty without them."""
    for path, text in before.items():
        if text is not None:
            write_text(path, text)
        else:
            path.unlink()
    for folder in sorted({path.parent for path in before}, key=lambda folder: -len(folder.parts)):
        if not any(folder.iterdir()):
            folder.rmdir()


def departures(setting: Setting, config: UnlearnConfig) -> list[str]:
    """Return in which options `config` is not the published run, so that published numbers are about another one.

    How a step is cut is none of them; how many rows it has is, over all processes that were started together.
    """
    own, published = _telling(config), _telling(setting.config) | {BATCH: setting.batch}
    if config.data.system_prompt == setting.config.data.system_prompt:
        own["system_prompt"] = published["system_prompt"]  # a redacted run hides its own
    return [
        f"{flag(name)} is {_said(own[name])}, published {_said(published[name])}"
        for name in published
        if own[name] != published[name]
    ]


def _telling(config: UnlearnConfig) -> dict[str, Any]:
    """Return the options that decide what a number is about, by name."""
    found = shared(config)
    found["optim"] = "AdamW" if found["optim"] in ADAMW else found["optim"]
    return {name: value for name, value in found.items() if name not in FREE}


def _said(value: Any) -> str:
    return "not given" if value is None else str(value)


def _refuse_unfit(config: ReproduceConfig, root: Path) -> None:
    """Raise InputError where the folder holds something else, or a reproduction with other options."""
    if config.checkpoints.resume_from_checkpoint is not None:
        raise InputError(
            "a reproduction goes on by itself where it was interrupted; leave --resume_from_checkpoint out."
        )
    refuse_foreign(root, CONFIG, "reproduction")
    if config.run.overwrite or not (root / COMMON).is_file():
        return
    if found := changes(shared(config), read_json(root / COMMON)):
        raise InputError(
            f"{root} is a reproduction with other options: {'; '.join(found)}; give --overwrite to run it again, or "
            "another --output_dir."
        )
