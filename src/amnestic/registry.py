"""Names of classes, found by importing the modules of one folder.

A class registers itself with a decorator; nobody keeps a list. A dotted path (``package.module.Class``) reaches
classes of other packages.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Generic, TypeVar, cast

from .errors import InputError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """The classes of one kind, by the name that they carry in code, command and report."""

    def __init__(self, kind: str, package: str) -> None:
        """`kind` is the word for error messages; `package` the folder whose modules register classes when imported."""
        self.kind = kind
        self.package = package
        self._classes: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Return a class decorator that stores the class under `name` and sets its ``name`` attribute.

        Raises ValueError where another class holds the name.
        """

        def store(cls: type[T]) -> type[T]:
            known = self._classes.setdefault(name, cls)
            if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
                raise ValueError(f"{self.kind} '{name}' is already {known.__module__}.{known.__qualname__}")
            self._classes[name] = cls
            cls.name = name  # type: ignore[attr-defined]
            return cls

        return store

    def names(self) -> list[str]:
        """Return the registered names, sorted."""
        self._scan()
        return sorted(self._classes)

    def get(self, name: str) -> type[T]:
        """Return the class called `name`, or the class at the dotted path `name`.

        Raises InputError where there is none.
        """
        self._scan()
        if name in self._classes:
            return self._classes[name]
        if "." in name:
            return self._import(name)
        raise InputError(
            f"unknown {self.kind} '{name}'{nearest(name, self.names()) or '.'} Known: {', '.join(self.names())}."
        )

    def _scan(self) -> None:
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self.package}.{module.name}")

    def _import(self, path: str) -> type[T]:
        module_name, _, class_name = path.rpartition(".")
        try:
            found = getattr(importlib.import_module(module_name), class_name)
        except Exception as error:  # importing runs the user's module, which may fail in any way
            plain = isinstance(error, ImportError | AttributeError | SyntaxError)
            what = str(error) if plain else f"{type(error).__name__}: {error}"
            raise InputError(f"cannot import {self.kind} '{path}': {what.removesuffix('.')}.") from error
        if not inspect.isclass(found) or found.__module__ == "builtins":
            raise InputError(f"{self.kind} '{path}' is {found!r}; expected a class.")
        if "name" not in vars(found):  # an inherited name is another class's
            try:
                found.name = path  # type: ignore[attr-defined]
            except TypeError as error:  # written in C
                raise InputError(f"{self.kind} '{path}' is {found!r}; expected a class of Python's.") from error
        return cast(type[T], found)
