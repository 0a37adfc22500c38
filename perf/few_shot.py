"""Answers behind a few-shot block: transformers' `generate` the plain way against ours, in turn, on the same prompts.

    python perf/few_shot.py --model FOLDER [--block 800] [--rows 100] [--new_tokens 32] [--turns 5] [--dtype float32]

The model is a random one with the configuration and the tokenizer of `FOLDER`, and as many positions as the case takes:
what it answers means nothing, and is known to no draft. The block and the questions behind it, of 8 to 24 tokens, are
random tokens; `--stop_strings` end answers. Plain takes the prompts in their order, 32 at once, padded on the left, and
looks for stop strings with transformers' own criterion. Ours is measured with the block read in once, and with each
prompt read in whole.

One line each: seconds, the ratio of the first of `--forms` to it, positions that were read in, padding included, and
the rows of all passes of one token. The texts must be the same. `--cpu_time` counts the seconds that the processor
spent, for a machine that is busy with other work.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from functools import partial
from unittest.mock import patch

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from turns import in_turn, ratio

from amnestic.data.encode import Encoded
from amnestic.model import slot_fit
from amnestic.model.decoding import Counts
from amnestic.model.form import examine
from amnestic.model.generate import Settings, before_stop, generate
from amnestic.model.load import Loaded
from amnestic.model.sharding import device_of

BATCH = 32
SEED = 0


def random_model(folder: str, positions: int, dtype: str) -> Loaded:
    """Return a model with random weights that answers with various tokens, and ends no answer by itself."""
    config = AutoConfig.from_pretrained(folder)
    config.max_position_embeddings = positions
    torch.manual_seed(SEED)
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3.0)
    model.generation_config.eos_token_id = None
    return Loaded(
        model.eval().to("cuda" if torch.cuda.is_available() else "cpu"),
        AutoTokenizer.from_pretrained(folder),
        getattr(torch, dtype),
    )


def prompts(vocabulary: int, block: int, rows: int) -> list[Encoded]:
    """Return questions behind one block, each with an answer that nothing knows."""
    random = np.random.default_rng(SEED)
    shared, found = random.integers(5, vocabulary, block), []
    for i in range(rows):
        ids = np.concatenate([shared, random.integers(5, vocabulary, random.integers(8, 25)), [4]])
        found.append(Encoded(f"{i}", ids, np.arange(len(ids)) == len(ids) - 1, len(ids) - 1, False, "", ""))
    return found


def plain(loaded: Loaded, examples: Sequence[Encoded], new_tokens: int, stops: tuple[str, ...]) -> list[str]:
    """Return the answers of transformers' own loop."""
    device, texts = device_of(loaded.model), list[str]()
    for first in range(0, len(examples), BATCH):
        rows = [row.input_ids[: row.prompt_length] for row in examples[first : first + BATCH]]
        longest = max(map(len, rows))
        ids = torch.from_numpy(np.stack([np.pad(row, (longest - len(row), 0)) for row in rows])).to(device)
        mask = torch.from_numpy(np.stack([np.arange(longest) >= longest - len(row) for row in rows])).long().to(device)
        with torch.inference_mode():
            found = loaded.model.generate(
                ids,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=new_tokens,
                pad_token_id=0,
                stop_strings=[*stops],
                tokenizer=loaded.tokenizer,
            )
        decoded = loaded.tokenizer.batch_decode(found[:, longest:].tolist(), skip_special_tokens=True)
        texts += [before_stop(text, stops).strip() for text in decoded]
    return texts


def main() -> None:
    """Measure one case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--block", type=int, default=800)
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--new_tokens", type=int, default=32)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--cpu_time", action="store_true")
    parser.add_argument("--forms", nargs="+", default=["plain", "whole", "ours"])
    parser.add_argument("--stop_strings", nargs="+", default=["\n\n", "\nQuestion", ". "])
    options = parser.parse_args()
    stops = tuple(options.stop_strings)
    loaded = random_model(options.model, options.block + 25 + options.new_tokens, options.dtype)
    examples = prompts(len(loaded.tokenizer), options.block, options.rows)
    examine(loaded, examples[0])
    texts: dict[str, list[str]] = {}
    counts: dict[str, Counts] = {}

    def transformers() -> None:
        texts["plain"] = plain(loaded, examples, options.new_tokens, stops)

    def ours(name: str, least: int) -> None:
        settings = Settings(options.new_tokens, BATCH, [], stop_strings=stops)
        with patch.object(slot_fit, "LEAST_SHARED", least):
            found = generate(loaded, loaded.tokenizer, examples, settings)
        texts[name], counts[name] = [answer.text for answer in found], settings.counts

    forms = {
        "plain": transformers,
        "whole": partial(ours, "whole", options.block + 1000),
        "ours": partial(ours, "ours", slot_fit.LEAST_SHARED),
    }
    seconds = in_turn(
        {name: forms[name] for name in options.forms},
        options.turns,
        time.process_time if options.cpu_time else time.perf_counter,
    )
    for name, taken in seconds.items():
        own = counts.get(name, Counts())
        print(
            f"{name:6} {statistics.median(taken):8.2f} s  {ratio(seconds[options.forms[0]], taken):>24}  "
            f"read in {own.read}, row-steps {own.row_steps}, new tokens {own.new_tokens}"
        )
        different = sum(a != b for a, b in zip(texts[options.forms[0]], texts[name], strict=True))
        if different:
            print(f"       {different} texts differ from {options.forms[0]}")
    print(f"{torch.get_num_threads()} threads")
    for note in loaded.notes:
        print(note)


if __name__ == "__main__":
    main()
