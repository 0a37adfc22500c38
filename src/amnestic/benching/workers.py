"""Processes that do the runs of a comparison: a crash, or a lack of memory, in one of them leaves the others alone."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from ..errors import InputError
from ..reports.places import lock_folder
from .jobs import Job

T = TypeVar("T")
R = TypeVar("R")

DONE = (0, 3)
"""Exit statuses of a run that has ended with results; a bound that is not held is one."""
ERROR = "error: "
"""What the sentence begins with that a command ends with."""
TAIL = 20_000
"""Bytes at the end of a log in which that sentence is looked for."""
POLL = 0.5
"""Seconds between two looks at a run that another process is doing."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def usable_cores() -> int:
    """Return how many cores of the processor this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Stopped(KeyboardInterrupt):
    """The comparison was interrupted before the run ended."""


class Workers:
    """Does up to `count` runs at once, each in a process with its share of the cores."""

    def __init__(self, count: int, threads: int) -> None:
        """`threads`: of each process, unless the environment says how many."""
        self.count = count
        self._environment = os.environ | {name: os.environ.get(name, str(threads)) for name in THREADS}
        self._live: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._is_stopping = False

    def each(self, do: Callable[[T], R], items: Iterable[T]) -> Generator[tuple[T, R]]:
        """Yield each item with what `do` returned for it, in the order in which they end.

        Where the caller is interrupted, all processes are told to stop, and have stopped when this ends.
        """
        pool = ThreadPoolExecutor(self.count)
        try:
            futures: dict[Future[R], T] = {pool.submit(do, item): item for item in items}
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            self.stop()
            raise
        finally:
            self._join(pool)

    def _join(self, pool: ThreadPoolExecutor) -> None:
        """Wait until no process is left; who interrupts this too does not wait for checkpoints."""
        try:
            pool.shutdown(wait=True, cancel_futures=True)
        except KeyboardInterrupt:
            self.stop()
            pool.shutdown(wait=True)
            raise

    def run(self, job: Job) -> str | None:
        """Do a run that is not done yet, and return why it failed, in a sentence, or None; raises Stopped."""
        self._wait_for_other(job)
        if job.is_current:
            return None
        job.prepare()
        status = self._status(job)
        if self._is_stopping:
            raise Stopped
        return None if status in DONE else _sentence(job.log, status)

    def stop(self) -> None:
        """Ask every process to stop, which writes a checkpoint first, and start no other."""
        with self._lock:
            self._is_stopping = True
            for process in self._live:
                with suppress(ProcessLookupError):
                    process.terminate()

    def _status(self, job: Job) -> int:
        command = [sys.executable, "-m", "amnestic", *job.arguments]
        with job.log.open("wb") as log:
            with self._lock:
                if self._is_stopping:
                    raise Stopped
                # a session of its own: Ctrl-C reaches it through `stop` alone, and a second signal ends a run at once
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=self._environment,
                    start_new_session=True,
                )
                self._live.add(process)
            try:
                return process.wait()
            finally:
                with self._lock:
                    self._live.discard(process)

    def _wait_for_other(self, job: Job) -> None:
        """Wait while another process writes the run: a comparison that was killed leaves its runs behind."""
        while is_locked(job.folder):
            if self._is_stopping:
                raise Stopped
            time.sleep(POLL)


def is_locked(folder: Path) -> bool:
    """Return whether some process holds the lock of a run folder; False where the system knows no locks."""
    try:
        lock = lock_folder(folder)
    except InputError:
        return True
    except OSError:  # there is no such folder
        return False
    if lock is not None:
        os.close(lock)
    return False


def _sentence(log: Path, status: int) -> str:
    """Return how a process ended that failed, by its log, or by the signal that killed it."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL))
        lines = file.read().decode(errors="replace").splitlines()
    if said := [line.removeprefix(ERROR) for line in lines if line.startswith(ERROR)]:
        return said[-1]
    if status < 0:
        why = " (memory may have run out)" if -status == signal.SIGKILL else ""
        return f"the run was killed by {signal.Signals(-status).name}{why}; {log} holds what it said."
    last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
    return f"the run ended with exit status {status} and said: {last[:200]}"
