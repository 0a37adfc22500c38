"""Keeps what libraries say off the screen, and texts of a redacted run out of errors."""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from typing import Any

from ..data.quoting import HIDDEN
from ..errors import AmnesticError, RunError, UnexpectedError, outline


def debugging() -> bool:
    """Return whether the environment asks for tracebacks."""
    return os.environ.get("AMNESTIC_DEBUG", "") not in ("", "0")


@contextmanager
def discreet(is_redacted: bool) -> Iterator[None]:
    """Show no text of an error that is not ours, where the run is redacted: it may quote a row."""
    try:
        yield
    except UnexpectedError as error:
        if is_redacted:
            raise RunError(f"{error.outline} (its text: {HIDDEN}).", is_shared=True) from None
        raise
    except AmnesticError as error:
        if is_redacted:
            raise error from None
        raise
    except Exception as error:
        if not is_redacted:
            raise
        raise RunError(f"{outline(error)} (its text: {HIDDEN}).") from None


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep libraries off stdout, and silence their progress bars, logs and warnings."""
    with redirect_stdout(sys.stderr), warnings.catch_warnings():
        if not debugging():
            # datasets reads this when it is imported, which most runs never do
            os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
            logging: Any = import_module("transformers.utils.logging")
            logging.disable_progress_bar()
            logging.set_verbosity_error()
            import_module("huggingface_hub.utils.logging").set_verbosity_error()
            warnings.simplefilter("ignore")
        yield
