"""Files and folders that appear whole or not at all, whatever kills the process that writes them."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import RunError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a refusal of the file system within the context into a RunError that names `path`."""
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}.") from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":  # no OSError, though it may mean one
            raise
        raise RunError(f"cannot write {path}: {str(error).rpartition('error: ')[2]}.") from error


def write_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a file under a temporary name, flush it to the disk, and put it in the place of `path`.

    Raises RunError where the file system refuses; `path` then holds what it held before.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with writing(path):
            write(temporary)
            _flush(temporary)
            temporary.replace(path)
            _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def put(temporary: Path, path: Path) -> None:
    """Flush a folder and all it holds, and put it in the place of `path`."""
    for file in temporary.rglob("*"):
        _flush(file)
    _flush(temporary)
    earlier = _set_aside(path)
    temporary.replace(path)
    _flush(path.parent)
    shutil.rmtree(earlier, ignore_errors=True)


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with all it holds; what is not there needs no removing.

    A folder disappears in one step before its files go: nobody finds half of it under its name.
    """
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    shutil.rmtree(path if path.name.endswith(".tmp") else _set_aside(path))


def free_bytes(path: Path) -> int:
    """Return the free space, in bytes, of the file system that holds `path` or would hold it."""
    existing = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    return shutil.disk_usage(existing).free


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    facts = [file.lstat() for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]
    return sum({(fact.st_dev, fact.st_ino): fact.st_size for fact in facts}.values())  # a second name takes no room


def _set_aside(path: Path) -> Path:
    """Give a folder a temporary name, where there is one, and return that name."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    if path.exists():
        path.rename(aside)
    return aside


def _flush(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk; not every system lets folders be flushed."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():
            raise
    finally:
        os.close(descriptor)
