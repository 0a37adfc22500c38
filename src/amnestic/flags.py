"""The options of a configuration as flags of a command."""

import inspect
import json
from collections.abc import Callable, Sequence
from operator import getitem
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter, Token
from cyclopts.help import ColumnSpec, DefaultFormatter, DescriptionRenderer, NameRenderer

from .config import Option, names, options
from .data.options import FURTHER, KEPT

NAMES = DefaultFormatter(
    column_specs=(ColumnSpec(NameRenderer(34), style="cyclopts.name"), ColumnSpec(DescriptionRenderer()))
)
GENERAL = Group("General", sort_key=0, help_formatter=NAMES)
WORDED = float | Literal["none"] | None
"""The type of a number that may be switched off by the word none."""
Json = Annotated[bool, Parameter(help="Write JSON to stdout, and nothing else.", negative=(), group=GENERAL)]


def with_flags(command: Callable[..., int], config_class: Any, leading: str | None = None) -> Callable[..., int]:
    """Return `command` with the options of `config_class` as flags, besides ``--config``, ``--json`` and ``--quiet``.

    Its signature gets one keyword for each option, but it is called with those alone that were given. `leading` names
    the option that may also be given without its flag, as the first argument.
    """
    groups = {
        title: Group.create_ordered(title, help_formatter=NAMES)
        for title in dict.fromkeys(o.group for o in options(config_class))
    }
    keywords = [*_general_keywords(), *(_keyword(option, groups[option.group]) for option in options(config_class))]
    keywords.sort(key=lambda keyword: keyword.name != leading)
    if leading is not None:
        keywords[0] = keywords[0].replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD)
    command.__annotations__ = {keyword.name: keyword.annotation for keyword in keywords}
    vars(command)["__signature__"] = inspect.Signature(keywords)
    return command


def _general_keywords() -> list[inspect.Parameter]:
    config = Parameter(help="YAML file of options, named as the flags; flags override it.", group=GENERAL)
    quiet = Parameter(help="Write the verdict and nothing else.", negative=(), group=GENERAL)
    annotations = {"config": Annotated[str | None, config], "json": Json, "quiet": Annotated[bool, quiet]}
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in annotations.items()
    ]


def _keyword(option: Option, group: Group) -> inspect.Parameter:
    shown = _shown(option.default)
    parameter = Parameter(
        group=group,
        help=option.help + (" [required]" if option.required else ""),
        show_default=shown if shown and not option.required else False,
        converter=_converter(option.annotation),
        consume_multiple=option.annotation == tuple[str, ...],
        negative=() if option.annotation == tuple[str, ...] else None,
    )
    is_repeated = option.annotation in (KEPT, FURTHER)
    annotation = getitem(Annotated, (tuple[str, ...] if is_repeated else option.annotation, parameter))
    # the default is never used: Cyclopts hands on what was given and no more
    return inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _shown(default: Any) -> str:
    """Return a default as the help shows it; nothing where the option's description says what happens without it."""
    if default is None or default in ({}, ()):
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return ",".join(default)
    return json.dumps(default) if isinstance(default, str) and default.split() != [default] else str(default)


def _converter(annotation: Any) -> Callable[[Any, Sequence[Token]], Any] | None:
    """Return what reads a flag of this type in place of Cyclopts, if anything does."""
    if annotation in (int, float, int | None, float | None):
        return _exact_number
    if annotation == WORDED:
        return _number_or_none
    if annotation in (KEPT, FURTHER):
        return _texts
    return _names if annotation == tuple[str, ...] else None


def _texts(annotation: Any, tokens: Sequence[Token]) -> list[str]:
    """Return what a flag was given, once for each time."""
    return [token.value for token in tokens]


def _names(annotation: Any, tokens: Sequence[Token]) -> tuple[str, ...]:
    return names([token.value for token in tokens])


def _number_or_none(annotation: Any, tokens: Sequence[Token]) -> int | float | str | None:
    """Return a flag's number, or the word none, which is a value of its own: not that the flag is left out."""
    try:
        number = _exact_number(float | None, tokens)
    except ValueError:
        raise ValueError(f"'{tokens[0].value}' found, a number or none expected.") from None
    return "none" if number is None else number


def _exact_number(annotation: Any, tokens: Sequence[Token]) -> int | float | None:
    """Return a flag's number; unlike Cyclopts' own conversion it does not round ``1.5`` to a whole one."""
    text = tokens[0].value
    if text.lower() in ("none", "null") and annotation not in (int, float):
        return None
    kind, expected = (int, "a whole number") if annotation in (int, int | None) else (float, "a number")
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"'{text}' found, {expected} expected.") from None
