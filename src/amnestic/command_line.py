"""A configuration as the command that makes it."""

import shlex
from collections.abc import Collection, Mapping
from typing import Any

from .config import options, to_mapping

SEVERAL = ("retain", "measure")
"""Options whose mappings are written as NAME=FILE."""


def command_line(command: str, config: Any, usual: Mapping[str, Any], left_out: Collection[str]) -> str:
    """Return the command of this name that makes `config`: what is as `usual`, or is to be left out, is not said.

    A benchmark and the place of its files always are.
    """
    own, parts = to_mapping(config), ["amnestic", command]
    for name in (option.name for option in options(type(config)) if option.name not in left_out):
        is_named = name in ("benchmark", "data") and own[name] is not None
        if is_named or own[name] != usual[name]:
            parts += _flags(name, own[name])
    return shlex.join(parts)


def _flags(name: str, value: Any) -> list[str]:
    """Return an option as arguments of the command line."""
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no_{name}"]
    if isinstance(value, Mapping):
        if name in SEVERAL:
            return [part for key, item in value.items() for part in (f"--{name}", f"{key}={item}")]
        return [part for key, item in value.items() for part in (f"--{name}.{key}", str(item))]
    return [f"--{name}", ",".join(value) if isinstance(value, tuple) else str(value)]
