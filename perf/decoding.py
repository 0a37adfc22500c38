"""Greedy answers: transformers' `generate` the plain way against ours, in turn, in one process, on the same prompts.

    python perf/decoding.py --model MODEL --data FOLDER [--rows 1000] [--turns 5] [--new_tokens 200] [--dtype float32]

The prompts are those of TOFU's evaluation with forget10: forget, retain, real authors and world facts, at most `--rows`
of each. Plain (`perf/plain_tofu.py`) takes them in the order of the files, 32 at once, padded on the left. Ours decodes
all of them at once, from the prompts alone, and from drafts: as much of the true answers as the model gives by itself.
That is known from their scores, so that the pass that finds it is not part of the time.

One line each: seconds, passes, rows of all passes, tokens that the answers need, positions of prompts with padding. The
texts must be the same.
"""

import argparse
import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import plain_tofu
import torch
from turns import in_turn, ratio

from amnestic.data.batches import pad
from amnestic.data.encode import Encoded, Encoder
from amnestic.data.example import Example
from amnestic.data.options import DataOptions
from amnestic.model.decoding import Counts
from amnestic.model.form import examine
from amnestic.model.generate import Settings, agreed_tokens, generate
from amnestic.model.load import Loaded, load
from amnestic.model.options import ModelOptions
from amnestic.model.sharding import device_of, forward_only
from amnestic.model.signals import scored_logits

SPLITS = ("forget", "retain", "real_authors", "world_facts")


def prompts(loaded: Loaded, folder: Path, rows: int) -> list[Encoded]:
    """Return the encoded rows of all splits, in the order of the files."""
    encoder, found = Encoder(loaded.tokenizer, DataOptions(), loaded.position_limit), []
    for split, lines in plain_tofu.read_tofu(folder, rows=rows).items():
        if split in SPLITS:
            written = [Example(f"{split}:{i}", "question", r["question"], r["answer"]) for i, r in enumerate(lines)]
            found += [*encoder.encode(split, written).examples]
    return found


def drafts(loaded: Loaded, examples: Sequence[Encoded]) -> list[int]:
    """Return how much of each true answer the model gives by itself."""
    found = []
    for example in examples:
        batch = pad("", [example]).to(device_of(loaded.model))
        with forward_only(loaded.model):
            likeliest = scored_logits(loaded.model, batch, loaded.form).argmax(-1)
        found.append(agreed_tokens(example, (likeliest == batch.targets).cpu().numpy()))
    return found


def main() -> None:
    """Measure one model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--new_tokens", type=int, default=200)
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    loaded = load(ModelOptions(model=options.model, dtype=options.dtype))
    examples = prompts(loaded, options.data, options.rows)
    examine(loaded, examples[0])
    agreed = drafts(loaded, examples)
    whole = sum(count == len(row.input_ids) - row.prompt_length for row, count in zip(examples, agreed, strict=True))
    print(f"{len(examples)} prompts, {whole} answers known by heart; {torch.get_num_threads()} threads")
    texts: dict[str, list[str]] = {}
    counts: dict[str, plain_tofu.Counts | Counts] = {}

    def plain() -> None:
        counts["plain"] = own = plain_tofu.Counts()
        rows = [plain_tofu.Row(row.input_ids.tolist(), row.prompt_length, row.answer) for row in examples]
        texts["plain"] = plain_tofu.Reader(loaded.model, loaded.tokenizer, own).generate(rows, options.new_tokens)

    def ours(name: str, known: Sequence[int] | None) -> None:
        settings = Settings(options.new_tokens, plain_tofu.BATCH)
        found = generate(loaded, loaded.tokenizer, examples, settings, known)
        texts[name], counts[name] = [answer.text for answer in found], settings.counts

    forms = {"plain": plain, "ours": partial(ours, "ours", None), "drafts": partial(ours, "drafts", agreed)}
    seconds = in_turn(forms, options.turns)
    for name, taken in seconds.items():
        print(f"{name:7} {statistics.median(taken):8.2f} s  {ratio(seconds['plain'], taken):>24}  {counts[name]}")
        different = sum(a != b for a, b in zip(texts["plain"], texts[name], strict=True))
        if different:
            print(f"        {different} texts differ from plain")
    for note in loaded.notes:
        print(note)


if __name__ == "__main__":
    main()
