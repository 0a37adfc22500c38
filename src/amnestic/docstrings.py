"""Docstrings of fields: the string literals below them, which Python itself does not keep."""

import ast
import functools
import inspect
import itertools
import textwrap
import typing
from typing import Any


@functools.cache
def field_docstrings(cls: Any) -> dict[str, str]:
    """Return field name -> the string literal below the field, its own or inherited; needs the class's source."""
    found = {}
    for base in reversed(cls.__mro__[:-1]):
        definition = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        for statement, following in itertools.pairwise(typing.cast(ast.ClassDef, definition).body):
            match statement, following:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[name] = inspect.cleandoc(text)
    return found
