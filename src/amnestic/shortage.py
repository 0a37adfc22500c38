"""Too little memory or disk: what was short, and the cheapest remedies."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from .config import EvalConfig, FinetuneConfig, UnlearnConfig
from .errors import RunError, UnexpectedError
from .model.load import Loaded
from .reports.display import size
from .storage import free_bytes, size_of
from .training.checkpoint import checkpoint_bytes

SMALL_FILES = 16 * 2**20
"""Bytes allowed for the tokenizer, scores, logs and the report."""


@contextmanager
def memory_explained(
    config: UnlearnConfig | FinetuneConfig | EvalConfig, stages: Mapping[str, float], go_on: Callable[[], str]
) -> Iterator[None]:
    """Turn a lack of memory within the context into a RunError that names the cheapest remedies for its stage.

    `stages` holds the stages that began, in order; `go_on` returns a sentence on how the run is resumed, or nothing.
    """
    message, is_shared = "", False
    try:
        yield
    except (MemoryError, RuntimeError, UnexpectedError) as error:
        if not _is_memory(error):
            raise
        is_shared = isinstance(error, UnexpectedError)
        current = list(stages)[-1] if stages else "load"
        ways = "; or ".join(_remedies(config, current))
        message = f"out of memory in the stage '{current}'; try {ways}.{go_on()}"
    if message:
        raise RunError(message, is_shared)  # outside the handler, whose traceback holds on to the tensors


def _is_memory(error: BaseException) -> bool:
    text = str(error).lower()
    signs = ("out of memory", "memoryerror", "can't allocate memory", "cannot allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(sign in text for sign in signs)


def _remedies(config: UnlearnConfig | FinetuneConfig | EvalConfig, stage: str) -> list[str]:
    """Return what helps, the cheapest first: what changes nothing of the result before what does."""
    found: list[str] = []
    eval_rows = config.evaluation.per_device_eval_batch_size
    if isinstance(config, EvalConfig):
        found += [f"--per_device_eval_batch_size {eval_rows // 2} (the same numbers)"] if eval_rows > 1 else []
        found += ["--dtype bfloat16"] if config.model.dtype != "bfloat16" else []
        return [*found, "a smaller model or a larger machine"]
    training = config.training
    rows, accumulation = training.per_device_train_batch_size, training.gradient_accumulation_steps
    if stage == "train" and (most := training.max_tokens_per_batch) is not None:
        found.append(f"a --max_tokens_per_batch below {most} (the same steps)")
    elif stage == "train" and rows > 1:
        fewer, more = (rows // 2, accumulation * 2) if rows % 2 == 0 else (1, accumulation * rows)
        found.append(f"--per_device_train_batch_size {fewer} --gradient_accumulation_steps {more} (the same steps)")
    if eval_rows > 1 and stage != "load":
        found.append(f"--per_device_eval_batch_size {eval_rows // 2} (the same numbers)")
    if stage == "train" and not training.gradient_checkpointing:
        found.append("--gradient_checkpointing (the same steps, a third slower)")
    if stage != "load":
        found.append(f"a --max_length below {config.data.max_length}")
    if stage == "train" and not training.optim.endswith("8bit"):
        found.append("--optim paged_adamw_8bit on an NVIDIA GPU")
    if config.model.dtype != "bfloat16":
        found.append("--dtype bfloat16")
    return [*found, "a smaller model or a larger machine"]


def refuse_full_disk(folder: Path, loaded: Loaded, config: UnlearnConfig | FinetuneConfig) -> None:
    """Raise RunError where the run folder's file system lacks room for the result and the checkpoints.

    Counted are the model, and one checkpoint more than are kept, each with the best candidate of its time, since the
    oldest is removed once the newest is whole; what the folder holds already counts as free.
    """
    each, saved_bytes = checkpoint_bytes(loaded.model, config.training), loaded.saved_bytes
    kept = config.checkpoints.save_total_limit + 1
    candidates = kept if isinstance(config, UnlearnConfig) else 0  # each checkpoint may hold another one
    need = saved_bytes + candidates * loaded.candidate_bytes + kept * each + SMALL_FILES
    free = free_bytes(folder) + (size_of(folder) if folder.is_dir() else 0)
    if need > free:
        raise RunError(
            f"--output_dir {folder} has room for {_size(free)}, and the run may need {_size(need)}: "
            f"{_size(saved_bytes)} for the model, and {kept} checkpoints of {_size(each)}"
            f"{' with as much for a candidate' if candidates else ''}; make room, or give a folder on another disk."
        )


def _size(count: int) -> str:
    """Return bytes with plain blanks: logs are searched."""
    return size(count).replace("\u00a0", " ")
