"""Mappings as YAML files, read by YAML 1.2's core schema: ``1e-5`` is a number, ``no`` and dates are text."""

import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from .errors import InputError

FORM = "expected YAML, one 'option: value' a line"


class _Loader(yaml.SafeLoader):
    """Refuses a key that comes twice."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (so typed in PyYAML; add_implicit_resolver fills it)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Return the mapping of `node`; raises ConstructorError at the second of two equal keys."""
        keys: list[Any] = []
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in keys:
                raise ConstructorError(problem=f"'{key}' comes twice", problem_mark=key_node.start_mark)
            keys.append(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Puts text in quotes where `_Loader` would read something else."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (so typed in PyYAML; add_implicit_resolver fills it)


_PATTERNS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", ["t", "T", "f", "F"]),
    "int": (r"[-+]?[0-9]+", [*"-+0123456789"]),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        [*"-+.0123456789"],
    ),
}
"""Kind of scalar -> pattern of the whole scalar, and the characters that it may start with (the order matters)."""

for _kind, (_pattern, _starts) in _PATTERNS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(rf"(?:{_pattern})\Z"), _starts)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Put text with line breaks, controls and the like in double quotes: on one line, and read back as it is."""
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _represent_text)
# PyYAML takes 010 for octal
_Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Return the mapping in a YAML file; raises InputError, with the line, where there is none."""
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}; expected a YAML file.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no UTF-8 text; {FORM}.") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(f"{path}, line {line}: {error.problem}; {FORM}.") from error
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{path} is no YAML: {' '.join(str(error).split())}; {FORM}.") from error
    if content is not None and not isinstance(content, dict):
        raise InputError(f"{path} holds no options, but a {type(content).__name__}; {FORM}.")
    return content or {}


def yaml_text(mapping: Mapping[str, Any]) -> str:
    """Return `mapping` as YAML that `read_yaml` reads back as it is, in the same order."""
    return yaml.dump(dict(mapping), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
