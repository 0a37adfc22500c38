"""Going on from a checkpoint: which one, whether it belongs to this run, and what need not be measured again."""

import hashlib
import json
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .config import FinetuneConfig, UnlearnConfig, to_mapping
from .data.fingerprint import fingerprint
from .errors import InputError
from .identity import changes, computed
from .inputs import Inputs
from .reports.files import write_text
from .training.checkpoint import found_in, read_state

LATEST = "latest"


def goes_on_within(config: UnlearnConfig | FinetuneConfig) -> bool:
    """Return whether the run goes on in the folder that holds the checkpoint, and not from there into another one."""
    asked = config.checkpoints.resume_from_checkpoint
    if asked is None or asked == LATEST:
        return asked is not None
    return Path(asked).resolve().is_relative_to(Path(config.run.output_dir).resolve())


def source_of(config: UnlearnConfig | FinetuneConfig, checkpoints: Path, note: Callable[[str], None]) -> Path | None:
    """Return the checkpoint that the configuration asks to go on from; None where the run starts anew.

    `checkpoints` is the run's own folder of them. Raises InputError where there is none, or none that is whole; of
    several, damaged ones are passed over, with a note.
    """
    asked = config.checkpoints.resume_from_checkpoint
    if asked is None:
        return None
    if not config.training.is_resumable:
        raise InputError(
            f"--optim {config.training.optim} cannot be resumed: bitsandbytes does not restore its paged state; start "
            "anew without --resume_from_checkpoint, or train with --optim adamw_torch."
        )
    if config.run.overwrite:
        raise InputError("--overwrite starts anew and --resume_from_checkpoint goes on; give one of the two.")
    if asked != LATEST and (Path(asked) / "state.json").exists():
        read_state(Path(asked))
        return Path(asked)
    folders = [checkpoints] if asked == LATEST else [Path(asked), Path(asked) / "checkpoints"]
    found = [path for folder in folders for path in found_in(folder)]
    for path in found:
        if _is_whole(path):
            return path
        note(f"{path} is damaged: an earlier checkpoint is looked for.")
    if found:
        raise InputError(f"none of the {len(found)} checkpoints in {found[0].parent} is whole; start anew instead.")
    if asked != LATEST:
        raise InputError(
            f"--resume_from_checkpoint {asked} is no checkpoint; expected latest, a folder checkpoint-N, or a run "
            "folder with one."
        )
    note(f"{checkpoints} holds no checkpoint yet: the run starts at its beginning.")
    return None


def going_on(command: str, file: Path, config: Any, *arguments: str) -> str:
    """Return the command line that goes on with what `config` asked for, and `file` holds of it."""
    line = shlex.join(["amnestic", command, "--config", str(file), *arguments])
    given = to_mapping(config)
    is_hidden = given["redact"] and given["system_prompt"] is not None
    return line + (" --system_prompt ... (whose text the file does not hold)" if is_hidden else "")


def identity_of(command: str, config: UnlearnConfig | FinetuneConfig, inputs: Inputs, weights: str) -> dict[str, Any]:
    """Return what decides the result of a run, as JSON holds it; `weights` is the hash of those it starts from."""
    content = {
        "command": command,
        "model": weights,
        "trainable": _trainable(inputs.loaded.model),
        "data": {
            name: {"examples": len(split.examples), "hash": fingerprint(split.examples)}
            for name, split in inputs.splits.items()
        },
        "options": computed(config) | {"order of the splits": [*inputs.splits]},
    }
    return dict(json.loads(json.dumps(content)))


def refuse_other(checkpoint: Path, saved: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raise InputError, naming the difference, where a checkpoint was made from something else."""
    if saved["command"] != own["command"]:
        raise InputError(f"{checkpoint} was written by amnestic {saved['command']}, and this is {own['command']}.")
    if saved["model"] != own["model"]:
        raise InputError(
            f"the weights of --model are not those that the run of {checkpoint} started from; give the model as it was "
            "before that run."
        )
    if saved["trainable"] != own["trainable"]:
        raise InputError(f"{checkpoint} was made with other parameters trainable; set requires_grad as it was then.")
    for name, split in own["data"].items():
        if (other := saved["data"].get(name)) != split:
            there = "none" if other is None else str(other["examples"])
            kind = "other ones" if other and other["examples"] == split["examples"] else f"{there} there"
            raise InputError(
                f"the {name} split is not that of {checkpoint}: {split['examples']} examples here, {kind}; give the "
                "same data and template."
            )
    if found := changes(own["options"], saved["options"]):
        raise InputError(f"{checkpoint} belongs to a run with other options: {'; '.join(found)}.")


def _trainable(model: Any) -> str:
    """Return a hash of the names of the trainable parameters."""
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    return hashlib.blake2b("\n".join(names).encode(), digest_size=16).hexdigest()


def _is_whole(checkpoint: Path) -> bool:
    try:
        read_state(checkpoint)
    except InputError:
        return False
    return True


class Memory:
    """What was measured before the first step, in ``checkpoints/measured.json``: a resumed run takes it from there."""

    def __init__(self, identity: Mapping[str, Any], path: Path | None = None) -> None:
        """Read `path` where it is given, exists, and belongs to a run of the same identity."""
        self.identity = identity
        self.content: dict[str, Any] = {}
        if path is None:
            return
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        if saved.get("identity") == identity:
            self.content = saved["content"]

    def recall(self, name: str, measure: Callable[[], Any]) -> Any:
        """Return what was measured under `name`; where nothing was, `measure` it, as JSON holds it."""
        if name not in self.content:
            self.content[name] = measure()
        return self.content[name]

    def write(self, path: Path) -> None:
        """Write all that was measured; raises RunError where the file system refuses."""
        text = json.dumps({"identity": self.identity, "content": self.content})
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
