"""The machine and the software of a run, for environment.json and for bug reports.

Environment variables are left out, since they may hold secrets; so is the name of the machine.
"""

import hashlib
import importlib.metadata
import os
import platform
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

CPU_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_bf16",
    "avx512_vnni",
    "amx_bf16",
    "amx_tile",
    "bf16",
    "f16c",
    "fma",
    "asimd",
    "sve",
)
"""Instructions that decide the speed or the precision of a model on a processor, as Linux names them."""
CPUINFO = Path("/proc/cpuinfo")


def environment() -> dict[str, Any]:
    """Return versions of everything installed, the system, the hardware, torch's build and the command line.

    Imports torch.
    """
    packages = installed()
    return {
        "amnestic": packages.get("amnestic"),
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "system": platform.platform(),
        "command": sys.argv,
        "processor": _processor(),
        "memory_bytes": _memory(),
        "torch": _torch(),
        "accelerators": _accelerators(),
        "packages": packages,
    }


def installed() -> dict[str, str]:
    """Return the version of each installed distribution, by its normalized name (PEP 503), sorted."""
    # the first of two folders on the path that hold a distribution is the one that is imported
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        found.setdefault(re.sub(r"[-_.]+", "-", distribution.name).lower(), distribution.version)
    return dict(sorted(found.items()))


def file_hashes(paths: Iterable[str | Path]) -> dict[str, str]:
    """Return SHA-256, in hexadecimal, by path; a folder stands for the files in it, at any depth.

    Raises OSError where a file cannot be read.
    """
    files = [file for path in map(Path, paths) for file in ([path] if not path.is_dir() else _files(path))]
    return {str(file): _sha256(file) for file in files}


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _processor() -> dict[str, Any]:
    facts = _cpuinfo()
    flags = set((facts.get("flags") or facts.get("Features") or "").split())
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "model": facts.get("model name") or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "usable_cores": usable,
        "flags": [flag for flag in CPU_FLAGS if flag in flags],
    }


def _cpuinfo() -> dict[str, str]:
    """Return what Linux says of the first processor; empty elsewhere."""
    try:
        text = CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _memory() -> int | None:
    """Return the machine's memory in bytes, where the system tells."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _torch() -> dict[str, Any]:
    import torch

    return {
        "version": str(torch.__version__),
        "commit": torch.version.git_version,
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
    }


def _accelerators() -> list[dict[str, Any]]:
    import torch

    if torch.backends.mps.is_available():
        return [{"name": "Apple MPS"}]
    found = []
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        capability = f"{facts.major}.{facts.minor}"
        found.append({"name": facts.name, "memory_bytes": facts.total_memory, "capability": capability})
    return found
