"""The path of a reproduction, top to bottom: find the setting, run it with every seed, and compare."""

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from .. import launch
from ..config import ReproduceConfig, UnlearnConfig, decisive, from_mapping, override, read_yaml, to_mapping, write_yaml
from ..errors import InputError, Interrupted
from ..progress import Progress
from ..reports.files import plain, read_json, write_json, write_text
from ..resuming import LATEST, PAGED
from ..run import run_unlearn
from ..storage import remove
from .outcome import Reproduction
from .settings import Setting, find

CONFIG = "reproduce.yaml"
"""The file that tells the folder of a reproduction from any other."""
NAMED = ("model", "model_revision", "tokenizer", "benchmark", "data", "forget", "retain", "retrained")
"""Options that name what a run reads: with other ones it is about something else."""
FREE = frozenset({"name", "seed", "metrics"})
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
    name = mapping.get("name")
    if not isinstance(name, str):
        return from_mapping(ReproduceConfig, mapping, source)  # raises
    setting = find(name)
    usual = dict(setting.options)
    if mapping.get("model") in (None, usual["model"]) and mapping.get("benchmark") in (None, usual["benchmark"]):
        usual["retrained"] = setting.retrained
    return from_mapping(ReproduceConfig, override(usual, mapping), source)


def run_reproduction(config: ReproduceConfig, progress: Progress | None = None) -> Reproduction:
    """Do what `config` says, as far as it is not done in its folder."""
    progress = progress or Progress()
    setting, root = find(config.reproduce.name), Path(config.run.output_dir)
    _refuse_unfit(config, root)
    departed = departures(setting, config)
    if departed:
        progress.note(f"these are not the published conditions: {'; '.join(departed)}.")
    runs = {seed: _run_of(config, root, seed) for seed in config.seeds}
    done = {seed for seed, run in runs.items() if _is_done(run)}
    results = {}
    with _recorded(config, root):
        for number, (seed, run) in enumerate(runs.items(), start=1):
            progress.note(f"seed {seed}, {number} of {len(runs)}" + (": done before." if seed in done else "."))
            folder = Path(run.run.output_dir)
            results[seed] = read_json(folder / "results.json") if seed in done else _results(run, root, progress)
    outcome = Reproduction(setting.name, root, departed, results)
    if launch.rank() == 0:
        write_json(root / "reproduction.json", outcome.document)
    return outcome


def departures(setting: Setting, config: UnlearnConfig) -> list[str]:
    """Return in which options `config` is not the published run, so that published numbers are about another one.

    How a step is cut is none of them; how many rows it has is, over all processes that were started together.
    """
    own, published = _telling(config, launch.size()), _telling(setting.config, 1)
    return [
        f"{_flag(name)} is {_said(own[name])}, published {_said(published[name])}"
        for name in published
        if own[name] != published[name]
    ]


def _telling(config: UnlearnConfig, processes: int) -> dict[str, Any]:
    """Return the options that decide what a number is about, by name."""
    mapping, training = to_mapping(config), config.training
    found = decisive(config) | plain({name: mapping[name] for name in NAMED if name != "retrained"})
    found["optim"] = "AdamW" if training.optim in ADAMW else training.optim
    found["effective batch"] = training.per_device_train_batch_size * training.gradient_accumulation_steps * processes
    return {name: value for name, value in found.items() if name not in FREE}


def _flag(name: str) -> str:
    return f"the {name}" if " " in name else f"--{name}"


def _said(value: Any) -> str:
    return "not given" if value is None else str(value)


def _run_of(config: ReproduceConfig, root: Path, seed: int) -> UnlearnConfig:
    """Return the run with one seed: it goes on where it was interrupted, if its optimiser's state can be read."""
    parts = {member.name: getattr(config, member.name) for member in fields(UnlearnConfig)}
    folder = root / f"seed-{seed}"
    parts |= {"run": replace(config.run, output_dir=str(folder)), "training": replace(config.training, seed=seed)}
    run = UnlearnConfig(**parts)
    if config.run.overwrite or not folder.exists() or _is_done(run):
        return run
    if config.training.optim.startswith(PAGED):
        return replace(run, run=replace(run.run, overwrite=True))
    return replace(run, checkpoints=replace(config.checkpoints, resume_from_checkpoint=LATEST))


def _is_done(run: UnlearnConfig) -> bool:
    return not run.run.overwrite and (Path(run.run.output_dir) / "results.json").is_file()


@contextmanager
def _recorded(config: ReproduceConfig, root: Path) -> Iterator[None]:
    """Keep what goes on with the reproduction in its folder; wrong input leaves the folder as it was."""
    if launch.rank():
        yield
        return
    path = root / CONFIG
    before = path.read_text(encoding="utf-8") if path.is_file() else None
    root.mkdir(parents=True, exist_ok=True)
    write_yaml(replace(config, run=replace(config.run, overwrite=False)), path)
    try:
        yield
    except InputError:
        if before is not None:
            write_text(path, before)
        else:
            remove(root)
        raise


def _results(run: UnlearnConfig, root: Path, progress: Progress) -> dict[str, Any]:
    """Do one run and return what it found, without its model: the next one needs the memory."""
    try:
        return run_unlearn(run, progress).results
    except KeyboardInterrupt as error:
        again = f"amnestic reproduce --config {shlex.quote(str(root / CONFIG))}"
        raise Interrupted(f"interrupted; go on with: {again}") from error


def _refuse_unfit(config: ReproduceConfig, root: Path) -> None:
    """Raise InputError where the folder holds something else, or a reproduction with other options."""
    if config.checkpoints.resume_from_checkpoint is not None:
        raise InputError(
            "a reproduction goes on by itself where it was interrupted; leave --resume_from_checkpoint out."
        )
    if root.exists() and not root.is_dir():
        raise InputError(f"--output_dir {root} is a file; expected a folder.")
    if not root.is_dir() or not any(root.iterdir()):
        return
    if not (root / CONFIG).is_file():
        raise InputError(f"--output_dir {root} is not empty, and no reproduction is in it; give another folder.")
    if config.run.overwrite:
        return
    earlier = from_mapping(ReproduceConfig, read_yaml(root / CONFIG), str(root / CONFIG))
    own, other = _identity(config), _identity(earlier)
    if found := [f"--{name} is {own[name]} here and was {other[name]}" for name in own if own[name] != other[name]]:
        raise InputError(
            f"{root} is a reproduction with other options: {'; '.join(found)}; give --overwrite to run it again, or "
            "another --output_dir."
        )


def _identity(config: ReproduceConfig) -> dict[str, Any]:
    """Return the options that the runs in one folder share; which seeds there are may change."""
    mapping = to_mapping(config)
    found = decisive(config) | plain({name: mapping[name] for name in NAMED})
    return {name: value for name, value in found.items() if name != "seed"}
