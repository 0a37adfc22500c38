"""Processes that run a function together, as torchrun would start them: gloo, on this processor.

Starting one takes seconds, which is why they stay, and take one function after the other.
"""

import faulthandler
import importlib.util
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

LIMIT = 120.0
"""Seconds after which processes that did not answer are killed."""


class Pool:
    """`count` processes; a function of a test module runs on all of them at once."""

    def __init__(self, count: int = 2) -> None:
        self.count = count
        self._workers: list[tuple[Any, Connection]] = []

    def run(self, function: Callable[..., Any], *arguments: Any, limit: float = LIMIT) -> list[Any]:
        """Return what `function` returns on each process; raises AssertionError with the traceback of one that failed.

        After a failure the processes are killed, and new ones take the next function.
        """
        if not self._workers:
            self._start()
        path, name = sys.modules[function.__module__].__file__, function.__name__
        for _, pipe in self._workers:
            pipe.send((path, name, arguments))
        found: dict[int, Any] = {}
        pending = {pipe: number for number, (_, pipe) in enumerate(self._workers)}
        while pending:
            ready = wait([*pending], timeout=limit)
            if not ready:
                self.stop()
                raise AssertionError(f"processes {sorted(pending.values())} did not answer within {limit} seconds")
            for pipe in ready:
                number = pending.pop(pipe)
                is_done, value = _received(self._workers[number])
                if not is_done:
                    self.stop()
                    raise AssertionError(f"process {number}:\n{value}")
                found[number] = value
        return [found[number] for number in range(self.count)]

    def stop(self) -> None:
        """Kill all processes."""
        for process, _ in self._workers:
            process.kill()
            process.join()
        self._workers = []

    def _start(self) -> None:
        context = get_context("spawn")
        meeting = tempfile.mktemp(prefix="amnestic-test-")
        for rank in range(self.count):
            pipe, end = context.Pipe()
            process = context.Process(target=_work, args=(rank, self.count, meeting, end), daemon=True)
            process.start()
            self._workers.append((process, pipe))


def _received(worker: tuple[Any, Connection]) -> tuple[bool, Any]:
    process, pipe = worker
    try:
        return pipe.recv()
    except EOFError:
        process.join(timeout=10)
        return False, f"died of {_cause(process.exitcode)}; its errors show where"


def _cause(code: int | None) -> str:
    """What ended a process, from its exit status."""
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit status {code}"


def _work(rank: int, count: int, meeting: str, pipe: Connection) -> None:
    faulthandler.enable()
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1")
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count))
    import torch

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=count)
    modules: dict[str, Any] = {}
    while True:
        path, name, arguments = pipe.recv()
        try:
            if path not in modules:
                modules[path] = _loaded(path)
            pipe.send((True, getattr(modules[path], name)(*arguments)))
        except BaseException:
            pipe.send((False, traceback.format_exc()))


def _loaded(path: str) -> Any:
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
