"""Checks of hyper-parameters, so that a value that no run could use is refused before anything is read."""

import math

from ..errors import InputError
from .base import Method


def above_zero(method: Method, *names: str) -> None:
    """Raise InputError where one of the hyper-parameters `names` is not a finite number above 0."""
    for name in names:
        if not 0 < getattr(method, name) < math.inf:
            raise InputError(f"--method_args.{name} is {getattr(method, name)}; expected a finite number above 0.")


def at_least_zero(method: Method, *names: str) -> None:
    """Raise InputError where one of the hyper-parameters `names` is neither open nor a finite number of at least 0."""
    for name in names:
        value = getattr(method, name)
        if value is not None and not 0 <= value < math.inf:
            raise InputError(f"--method_args.{name} is {value}; expected a finite number of at least 0.")
