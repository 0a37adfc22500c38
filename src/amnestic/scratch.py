"""The small models of an embedded benchmark: their shape, their tokenizer, and how they are trained from scratch."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .benchmarks.base import Capacity, Embedded, Row
from .config import FinetuneConfig, from_mapping

LESSONS = {"full": "full", "retrained": "retain"}
"""Model -> the split that it learns."""
SPECIAL = ("<pad>", "<bos>", "<eos>")


def write_inputs(folder: Path, benchmark: Embedded) -> None:
    """Write the rows that train, as ``data/SPLIT.jsonl``, and the untrained model, as ``start``, to `folder`."""
    splits = benchmark.splits()
    for name in ("full", "forget", "retain"):
        write_rows(folder / "data" / f"{name}.jsonl", splits[name])
    write_start(folder / "start", splits["full"], benchmark.capacity)


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write `rows` as JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_start(folder: Path, rows: Iterable[Row], capacity: Capacity | None = None) -> None:
    """Write the configuration of a small Llama, and a byte-level tokenizer trained on `rows`, to `folder`.

    `rows` are texts, or questions with their answers; without a `capacity` it is the usual one.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    capacity = capacity or Capacity()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=capacity.vocabulary, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(map(_read, rows), trainer)
    bos = SPECIAL.index("<bos>")
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", bos)])
    names: dict[str, Any] = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}
    names["model_max_length"] = capacity.positions
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)  # type: ignore[no-untyped-call]
    fast.save_pretrained(folder)
    shape = LlamaConfig(
        vocab_size=capacity.vocabulary,
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=capacity.positions,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        architectures=["LlamaForCausalLM"],
    )
    shape.save_pretrained(folder)


def _read(row: Row) -> str:
    """Return what a tokenizer learns of a row."""
    return str(row["text"]) if "text" in row else f"{row['question']}\n {row['answer']}"


def learning_of(benchmark: Embedded, folder: Path, name: str, options: Mapping[str, Any]) -> FinetuneConfig:
    """Return the training of the model `name` of LESSONS from what `write_inputs` wrote to `folder`, into `folder`.

    `options` are further ones of ``amnestic finetune``.
    """
    own = {"model": str(folder / "start"), "from_scratch": True, "output_dir": str(folder / name)}
    data = {"data": str(folder / "data" / f"{LESSONS[name]}.jsonl")}
    return from_mapping(FinetuneConfig, own | data | dict(benchmark.learning) | dict(options))
