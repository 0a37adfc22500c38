"""Constrained unlearning for Hugging Face causal language models: the public names, imported when first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .benching.main import bench
    from .comparing import compare
    from .config import BenchConfig, EvalConfig, FinetuneConfig, UnlearnConfig
    from .data.example import Example
    from .errors import AmnesticError, InputError, Interrupted, RunError
    from .judging.main import judge
    from .methods.flattening import PDU
    from .progress import Progress
    from .reproducing.main import reproduce
    from .run import evaluate, finetune, unlearn
    from .sequencing.main import sequence

    __version__: str

__all__ = [
    "PDU",
    "AmnesticError",
    "BenchConfig",
    "EvalConfig",
    "Example",
    "FinetuneConfig",
    "InputError",
    "Interrupted",
    "Progress",
    "RunError",
    "UnlearnConfig",
    "__version__",
    "bench",
    "compare",
    "evaluate",
    "finetune",
    "judge",
    "reproduce",
    "sequence",
    "unlearn",
]

_MODULES = {
    "PDU": "methods.flattening",
    "AmnesticError": "errors",
    "BenchConfig": "config",
    "EvalConfig": "config",
    "Example": "data.example",
    "FinetuneConfig": "config",
    "InputError": "errors",
    "Interrupted": "errors",
    "Progress": "progress",
    "RunError": "errors",
    "UnlearnConfig": "config",
    "bench": "benching.main",
    "compare": "comparing",
    "evaluate": "run",
    "finetune": "run",
    "sequence": "sequencing.main",
    "reproduce": "reproducing.main",
    "judge": "judging.main",
    "unlearn": "run",
}


def __getattr__(name: str) -> Any:
    """Import the public name `name` (PEP 562), so that ``import amnestic`` loads neither torch nor transformers."""
    if name == "__version__":
        value = import_module("importlib.metadata").version("amnestic")
    elif name in _MODULES:
        value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    else:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
