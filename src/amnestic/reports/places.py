"""Folders to write in: whether they may be written, what wrote what is there, and who else is writing."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from .. import processes
from ..errors import InputError, RunError
from ..storage import writing


def refuse_foreign(root: Path, marker: str, what: str) -> None:
    """Raise InputError where `root` is no folder, or holds something and not the file `marker` that `what` writes.

    Raises RunError where the file system lets nobody write there.
    """
    refuse_place(root)
    if root.is_dir() and any(root.iterdir()) and not (root / marker).is_file():
        raise InputError(f"--output_dir {root} is not empty, and no {what} is in it; give another folder.")


def refuse_place(path: Path) -> None:
    """Raise InputError where no folder can be made at `path`, and RunError where none may be written."""
    if path.exists() and not path.is_dir():
        raise InputError(f"--output_dir {path} is a file; expected a folder.")
    existing = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    if not existing.is_dir():
        raise InputError(f"--output_dir {path} lies below {existing}, which is a file; give another folder.")
    if not os.access(existing, os.R_OK | os.W_OK | os.X_OK):
        raise RunError(f"--output_dir {path} cannot be written: {existing} is read-only; give another folder.")


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Make the folder, and keep the processes of others out of it; raises InputError where one is in."""
    with ExitStack() as stack:
        with processes.agreed():
            if processes.is_first():
                with writing(folder):
                    folder.mkdir(parents=True, exist_ok=True)
                if (lock := lock_folder(folder)) is not None:
                    stack.callback(os.close, lock)
        yield


def lock_folder(folder: Path) -> int | None:
    """Keep other processes out of the folder until the returned descriptor is closed; raises InputError if one is in.

    Where the system or the file system knows no locks, there is none.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise InputError(
            f"another process is writing in {folder}; let it end first, or give another folder."
        ) from error
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
