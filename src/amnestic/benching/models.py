"""The models of an embedded benchmark: for each seed one that knows everything, and one that never saw what goes."""

from collections.abc import Sequence
from pathlib import Path

from ..benchmarks.base import Benchmark, Embedded
from ..config import BenchConfig, FinetuneConfig, options, to_mapping
from ..data.options import DataOptions
from ..errors import InputError
from ..model.options import ModelOptions
from ..scratch import LESSONS, learning_of, write_inputs
from .jobs import Job

UNSHARED = frozenset({"data", "exclude", "benchmark", "without_forget", "from_scratch", "model"})
"""Options of ``amnestic finetune`` that follow from which model is trained."""


def opened(name: str, seed: int) -> Embedded:
    """Return the embedded benchmark `name` as a seed makes it."""
    found = Benchmark.open(f"{name}:{seed}")
    if not isinstance(found, Embedded):
        raise InputError(f"the benchmark {name}:{seed} trains no models, and {name} does.")
    return found


def learning(
    config: BenchConfig, benchmark: Embedded, folder: Path, seed: int, names: Sequence[str] = tuple(LESSONS)
) -> list[Job]:
    """Return the runs that train the models `names` of LESSONS on `benchmark`, into `folder`."""
    own = to_mapping(config)
    shared = {o.name for o in options(FinetuneConfig) if issubclass(o.owner, DataOptions | ModelOptions)}
    given = {name: own[name] for name in shared - UNSHARED}
    model = {} if config.model.model is None else {"model": config.model.model}
    given |= model | {"redact": config.run.redact, "seed": seed}
    root = Path(config.run.output_dir)
    parts = folder.relative_to(root).parts
    return [Job("-".join((*parts, name)), learning_of(benchmark, folder, name, given), root) for name in names]


def write_lessons(jobs: Sequence[Job], benchmark: Embedded) -> None:
    """Write what the runs of `learning` read, unless all are done."""
    if not all(job.is_done for job in jobs):
        write_inputs(jobs[0].folder.parent, benchmark)
