"""What can go wrong, told apart by what a caller should do about it."""

from pathlib import Path
from traceback import walk_tb


class AmnesticError(Exception):
    """Base of every error that amnestic raises on purpose; its text is one clear sentence."""

    exit_status = 1

    def __init__(self, text: str, is_shared: bool = False) -> None:
        """`is_shared`: every process of the run raises it."""
        super().__init__(text)
        self.is_shared = is_shared


class InputError(AmnesticError):
    """Wrong input, found before the first optimiser step; nothing was left behind (exit status 2)."""

    exit_status = 2


class RunError(AmnesticError):
    """A run that started could not end as it should (exit status 1)."""

    exit_status = 1


class UnexpectedError(RunError):
    """An error that nobody foresaw, on one of several processes; all of them raise this in its place."""

    def __init__(self, text: str, outline: str) -> None:
        """`outline`: what it is and where, without its text, which may quote a row."""
        super().__init__(text, is_shared=True)
        self.outline = outline


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM ended a run that can be resumed; its text says how (exit status 130)."""

    exit_status = 130


def outline(error: BaseException) -> str:
    """Return what an error is and where it was raised, without its text, which may quote a row."""
    *_, place = walk_tb(error.__traceback__)
    frame, line = place
    return f"{type(error).__name__} in {Path(frame.f_code.co_filename).name}, line {line}"


def nearest(word: str, known: list[str] | tuple[str, ...]) -> str:
    """Return ``; did you mean 'x'?`` for the known word closest to `word`, or an empty string."""
    import difflib

    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""
