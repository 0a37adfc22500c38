"""What of a run's configuration may leave the machine: numbers, choices, and names that the Hub knows.

Free text (templates, system prompts, arguments in words) and local paths stay: they may quote or name somebody.
"""

import re
import shlex
import typing
from pathlib import Path
from typing import Any, Literal

from .config import Option, options, to_mapping

NAMES = {
    "model",
    "model_revision",
    "tokenizer",
    "method",
    "benchmark",
    "preset",
    "forget",
    "retain",
    "data",
    "exclude",
    "retrained",
    "device",
}
"""Options whose value may be the name of something public."""
PLACES = {
    "model": "MODEL",
    "benchmark": "BENCHMARK",
    "forget": "FORGET",
    "retain": "RETAIN",
    "data": "DATA",
    "exclude": "EXCLUDE",
    "output_dir": "RUN",
}
"""Options without which a command cannot be repeated -> what stands for a value that stays."""
NUMBERS = {"method_args", "keep_of", "bound_of"}
"""Options that map names to values, of which numbers may be told; retentions have their names in metrics anyway."""
_SILENT = {"overwrite", "save_steps", "save_total_limit", "push_to_hub", "hub_private_repo", "push_infeasible"}
_PUBLIC = re.compile(r"(?:\w[\w.-]*/)?\w[\w.-]*(?::[\w.-]*){0,2}")
_FILE = re.compile(r"\.(jsonl?|csv|parquet|txt|ya?ml)$", re.IGNORECASE)


def public_name(name: str | None) -> str | None:
    """Return `name` where it can only be one of the Hub (or of a class), None for a path or what lies on this disk."""
    if not name or not _PUBLIC.fullmatch(name) or _FILE.search(name) or Path(name.partition(":")[0]).exists():
        return None
    return name


def disclosed(config: Any) -> dict[str, Any]:
    """Return the options of `config` that may leave the machine, by name, without those that change no number."""
    found: dict[str, Any] = {}
    values = to_mapping(config)
    for option in options(type(config)):
        value = values[option.name]
        if option.name in _SILENT:
            continue
        if option.name in NUMBERS:
            found |= {f"{option.name}.{name}": item for name, item in value.items() if _is_number(item)}
        elif value is not None and _is_plain(option):
            found[option.name] = value
        elif option.name in NAMES and isinstance(value, str) and (name := public_name(value)):
            found[option.name] = name
    return found


def command_line(config: Any, command: str) -> str:
    """Return the command that repeats the run, without what stays on this machine: capitals stand for it."""
    shown = disclosed(config)
    defaults = {option.name: option.default for option in options(type(config))}
    flags = {name: shown.get(name, place) for name, place in PLACES.items() if to_mapping(config).get(name)}
    if isinstance(kept := to_mapping(config).get("retain"), dict):
        flags["retain"] = [f"{name}={public_name(source) or PLACES['retain']}" for name, source in kept.items()]
    flags |= {name: value for name, value in shown.items() if value != defaults.get(name)}
    return " \\\n  ".join([f"amnestic {command}", *(_flag(name, value) for name, value in flags.items())])


def _flag(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no_{name}"
    if isinstance(value, list):
        return " ".join(_flag(name, item) for item in value)
    return f"--{name} {shlex.quote(str(value))}"


def _is_plain(option: Option) -> bool:
    """Return whether the option's value can only be a number, true or false, or one of a few words."""
    kinds = {typing.get_origin(kind) or kind for kind in _alternatives(option.annotation)}
    return kinds <= {bool, int, float, Literal, type(None)}


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(annotation) not in (None, Literal, dict, tuple)
    return typing.get_args(annotation) if is_union else (annotation,)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text in ("true", "false")
    return True
