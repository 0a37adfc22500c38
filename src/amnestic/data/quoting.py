"""Whether a message may quote what a row holds: screens are captured in logs.

Nothing heavy is imported here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_hidden = ContextVar("_hidden", default=False)
HIDDEN = "not shown under --redact"
REDACTED = "[redacted]"
"""Stands in for a text of which nobody needs to see whether it is the same as another."""


@contextmanager
def hiding_rows(on: bool = True) -> Iterator[None]:
    """Let `quoted` hide its texts for as long as the context lasts."""
    token = _hidden.set(on)
    try:
        yield
    finally:
        _hidden.reset(token)


def quoted(text: object, instead: str = HIDDEN) -> str:
    """Return what a message quotes of a row or of its columns' names, or `instead` where rows are hidden.

    The first row of a file without a header stands in the place of its columns' names.
    """
    return instead if _hidden.get() else str(text)
