"""Ctrl-C and SIGTERM: a request that training answers once its state is whole."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Requested(KeyboardInterrupt):
    """The answer to a request that was made earlier, raised where nothing is left half done."""


class Interruption:
    """A request to stop; without one of these signals, or outside the main thread, there never is any."""

    def __init__(self, is_shared: bool = False) -> None:
        """Nobody has asked yet.

        `is_shared`: several processes answer together, to what any of them was asked. Then a second signal changes
        nothing: a launcher passes on what the terminal has sent already.
        """
        self._is_asked = False
        self._is_agreed = False
        self._is_deferred = False
        self._is_shared = is_shared

    @property
    def is_requested(self) -> bool:
        """Return whether somebody has asked; of several processes, whether all know it."""
        return self._is_agreed if self._is_shared else self._is_asked

    def agree(self) -> None:
        """Let all processes know what any of them was asked."""
        if self._is_shared and not self._is_agreed:
            from . import processes

            self._is_agreed = any(processes.gathered(self._is_asked))

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Let both signals raise KeyboardInterrupt for as long as the context lasts, or ask where `deferred`."""
        if threading.current_thread() is not threading.main_thread():
            yield  # signals are the main thread's
            return
        earlier = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in earlier.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Let the first signal within the context only set `is_requested`; a second one ends it at once."""
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False

    def check(self) -> None:
        """Raise Requested where somebody has asked: called, by all processes alike, where a run can be left."""
        self.agree()
        if self.is_requested:
            raise Requested

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._is_deferred and (self._is_shared or not self._is_asked):
            self._is_asked = True
            return
        raise KeyboardInterrupt
