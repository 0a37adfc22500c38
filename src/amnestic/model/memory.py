"""Memory that is free on the device that computes."""

from pathlib import Path

import torch

from .. import processes

MEMORY = Path("/proc/meminfo")
"""What Linux says of the machine's memory."""
GROUP = Path("/sys/fs/cgroup")
"""What it says of the memory that a container may take."""


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that this process may still take on `device`, or None where nobody tells.

    On a GPU they include what torch holds and does not use. Processes that share a host's memory share what is free.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    if device.type != "cpu":
        return None
    known = [size for size in (_of_machine(), _of_container()) if size is not None]
    return min(known) // processes.count() if known else None


def _of_machine() -> int | None:
    kilobytes = _numbers(MEMORY).get("MemAvailable:")
    return None if kilobytes is None else kilobytes * 1024


def _of_container() -> int | None:
    """Return what a control group leaves; the files that it has read are given up first."""
    limit, used = (_number(GROUP / name) for name in ("memory.max", "memory.current"))
    if limit is None or used is None:
        return None
    return max(0, limit - used + _numbers(GROUP / "memory.stat").get("inactive_file", 0))


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _numbers(path: Path) -> dict[str, int]:
    """Return the first two words of each line that begins with a name and a number."""
    lines = [line.split() for line in _text(path).splitlines()]
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
