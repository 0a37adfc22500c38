"""Named tensors in a folder, whole or spread over processes: safetensors, by torch.distributed.checkpoint.

Each process writes the part that it holds, and any number of processes reads them again, each what it needs. Nothing is
pickled.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from .. import processes

FILE = 2**30
"""Bytes that one process writes to one file: they pass through its host's memory, file by file."""


def write_tensors(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write `tensors`, which every process names alike, to a folder that is there; raises OSError."""
    writer = HuggingFaceStorageWriter(str(folder), _files(tensors), save_distributed=True)
    with _plain_errors():
        save(dict(tensors), storage_writer=writer, no_dist=processes.count() == 1)


def names_in(folder: Path) -> list[str]:
    """Return the names of the tensors in a folder; none where there is no such folder."""
    if not folder.is_dir():
        return []
    with _plain_errors():
        return list(HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata)


@torch.no_grad()
def read_tensors(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Fill `tensors` in place, in their own precision, from the folder; raises KeyError for one that is not in it.

    Where one of several processes cannot read its part, all raise.
    """
    with processes.agreed():
        known = set(names_in(folder))
        if absent := [name for name in tensors if name not in known]:
            raise KeyError(absent[0])
    with _plain_errors():
        reader = HuggingFaceStorageReader(str(folder))
        load(dict(tensors), storage_reader=reader, no_dist=processes.count() == 1)


def _files(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the number of the file, from 1, that each tensor goes to."""
    found, number, room = {}, 1, FILE * processes.count()
    for name, value in tensors.items():
        size = value.numel() * value.element_size()
        if size > room and room < FILE * processes.count():
            number, room = number + 1, FILE * processes.count()
        found[name] = number
        room -= size
    return found


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Raise what went wrong on the first process that failed, in place of a report that is no Exception."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a single process writes alone
            yield
    except CheckpointException as error:
        cause, _ = next(iter(error.failures.values()))
        raise cause from error
