"""The embedded demonstration: invented people, two small models trained from scratch, one of them made to forget."""

import json
import shlex
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import launch
from .benchmarks.base import Row
from .benchmarks.fiction import Fiction
from .config import DemoConfig, FinetuneConfig, UnlearnConfig, from_mapping
from .errors import InputError, Interrupted
from .progress import Progress
from .reports.run_folder import RunFolder
from .run import Run, run_finetune, run_unlearn

INPUTS = ("data", "start")
RUNS = ("full", "retrained", "unlearned")
SPECIAL = ("<pad>", "<bos>", "<eos>")
VOCABULARY = 768
TRAINING = {
    "learning_rate": 5e-3,
    "lr_scheduler_type": "cosine",
    "warmup_epochs": 1.0,
    "num_train_epochs": 30.0,
    "per_device_train_batch_size": 32,
    "gradient_accumulation_steps": 1,
    "adam_beta2": 0.98,
}
UNLEARNING = {
    "learning_rate": 1.25e-3,
    "num_train_epochs": 24.0,
    "per_device_train_batch_size": 16,
    "gradient_accumulation_steps": 1,
    "retain_per_forget": 4,
    "adam_beta2": 0.98,
}


def demo(config: DemoConfig, progress: Progress | None = None) -> Run:
    """Generate ``fiction``, train a model on all people and one that never saw some, make the first forget these.

    Everything goes into ``config.output_dir``: ``data``, ``start`` (the untrained model's shape and tokenizer), and the
    runs ``full``, ``retrained`` and ``unlearned``; the last one's report shows the three models side by side. Returns
    the last run. No network is used.
    """
    if launch.size() > 1:
        raise InputError("the demonstration runs in one process; start it as amnestic demo, without a launcher.")
    folder = Path(config.output_dir)
    _clear(folder, config.overwrite)
    progress = progress or Progress()
    splits = Fiction(seed=config.seed).splits()
    for name in ("full", "forget", "retain"):
        _write_rows(folder / "data" / f"{name}.jsonl", splits[name])
    write_start(folder / "start", splits["full"])
    with _one_thread(), _repeatable(config):
        for name, rows in (("full", "full"), ("retrained", "retain")):
            progress.note(f"training the model '{name}' from scratch on {len(splits[rows])} answers.")
            run_finetune(_finetune(config, folder, name, rows), progress)
        progress.note(f"making the model 'full' forget {len(splits['forget'])} of its answers.")
        return run_unlearn(_unlearn(config, folder, len(splits["retain"])), progress)


@contextmanager
def _repeatable(config: DemoConfig) -> Iterator[None]:
    """Say how the demonstration, not one of its runs, is started again where it is interrupted."""
    try:
        yield
    except Interrupted as error:
        folder = shlex.quote(config.output_dir)
        raise Interrupted(f"interrupted. Start again with: amnestic demo --output_dir {folder} --overwrite") from error


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread: for models this small, threads that wait for a busy core cost more than they bring."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def write_start(folder: Path, rows: Iterable[Row]) -> None:
    """Write the configuration of a small Llama, and a byte-level tokenizer trained on `rows`, to `folder`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator((f"{row['question']}\n {row['answer']}" for row in rows), trainer)
    bos = SPECIAL.index("<bos>")
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", bos)])
    names: dict[str, Any] = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=256, **names)  # type: ignore[no-untyped-call]
    fast.save_pretrained(folder)
    shape = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        architectures=["LlamaForCausalLM"],
    )
    shape.save_pretrained(folder)


def _finetune(config: DemoConfig, folder: Path, name: str, rows: str) -> FinetuneConfig:
    options = {"model": str(folder / "start"), "from_scratch": True, "data": str(folder / "data" / f"{rows}.jsonl")}
    general = {"output_dir": str(folder / name), "redact": config.redact, "seed": config.seed}
    return from_mapping(FinetuneConfig, general | options | TRAINING)


def _unlearn(config: DemoConfig, folder: Path, retain_rows: int) -> UnlearnConfig:
    options = {
        "output_dir": str(folder / "unlearned"),
        "model": str(folder / "full" / "model"),
        "retrained": str(folder / "retrained" / "model"),
        "forget": str(folder / "data" / "forget.jsonl"),
        "retain": str(folder / "data" / "retain.jsonl"),
        "redact": config.redact,
        "keep": config.keep,
        "probe_size": retain_rows,
        "seed": config.seed,
    }
    return from_mapping(UnlearnConfig, options | UNLEARNING)


def _clear(folder: Path, overwrite: bool) -> None:
    found = {item.name for item in folder.iterdir()} if folder.is_dir() else set()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output_dir {folder} is a file; expected a folder.")
    if found and not overwrite:
        raise InputError(
            f"--output_dir {folder} is not empty; give another folder, or --overwrite an earlier demonstration."
        )
    if strange := sorted(found - {*INPUTS, *RUNS}):
        raise InputError(
            f"--output_dir {folder} holds '{strange[0]}', which no demonstration wrote; give another folder."
        )
    for name in RUNS:
        RunFolder(folder / name, overwrite)  # raises for what no run wrote in any of them, before one is removed
    for name in RUNS:
        if (folder / name).exists():
            shutil.rmtree(folder / name)


def _write_rows(path: Path, rows: Iterable[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
