"""What a benchmark is: named splits of rows, in the field names of TOFU."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from ..registry import Registry

Row = dict[str, Any]


class Benchmark(ABC):
    """A source of named splits; its dataclass fields are its settings."""

    name: ClassVar[str]

    @abstractmethod
    def splits(self) -> dict[str, list[Row]]:
        """Return the rows of each split (``full``, ``forget``, ``retain``, ...), with ``question`` and ``answer``."""


BENCHMARKS: Registry[Benchmark] = Registry("benchmark", "amnestic.benchmarks")
benchmark = BENCHMARKS.register
