"""A folder that all processes of a run write together, and that appears whole or not at all."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import processes
from .storage import put, remove, writing


def write_folder(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a folder under a temporary name, flush all its files, and put it in the place of `path`.

    All processes of the run do so together: `write` is called on each, and when it returns on the first, the others are
    done. Raises RunError, on all, where the file system refuses; `path` then holds what it held before.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with processes.agreed(), writing(path):
            if processes.is_first():
                remove(temporary)
                temporary.mkdir(parents=True)
        with processes.agreed(), writing(path):
            write(temporary)
            if processes.is_first():
                put(temporary, path)
    except BaseException:
        if processes.is_first():
            shutil.rmtree(temporary, ignore_errors=True)
        raise
