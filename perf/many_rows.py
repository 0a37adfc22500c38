"""Memory and time of reading, encoding and drawing from a million rows.

    python perf/many_rows.py --model MODEL [--rows 1000000] [--suffix .jsonl]

Writes the rows to a temporary folder, and prints for each stage the seconds of its process and the megabytes that it
holds itself (RssAnon), at most held (VmHWM), and grew by for each row. Linux only.
"""

import argparse
import json
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import AutoTokenizer

from amnestic.constraints.options import BoundOptions
from amnestic.data.batches import StepRows, micro_batches
from amnestic.data.cuts import Budget
from amnestic.data.encode import Encoder
from amnestic.data.options import DataOptions
from amnestic.data.sources import read_examples
from amnestic.probing import draw_probe

STEPS = 100


def held() -> dict[str, int]:
    """Return the bytes that this process holds, and held at most."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = {name: re.search(rf"{name}:\s+(\d+) kB", status) for name in ("RssAnon", "VmHWM")}
    return {name: int(match[1]) * 1024 for name, match in found.items() if match}


@contextmanager
def stage(name: str, rows: int) -> Iterator[None]:
    """Print what the context took."""
    begin, before = time.process_time(), held()
    yield
    seconds, after = time.process_time() - begin, held()
    grown = (after["RssAnon"] - before["RssAnon"]) / rows
    memory = ", ".join(f"{name} {size >> 20} MB" for name, size in after.items())
    print(f"{name:8} {seconds:8.2f} s   {memory}   {grown:+.0f} bytes a row")


def write(path: Path, rows: int) -> None:
    """Write short questions and answers, as JSON Lines or as one array."""
    begin, between, end = ("[", ",\n", "]\n") if path.suffix == ".json" else ("", "\n", "\n")
    with path.open("w", encoding="utf-8") as file:
        for i in range(rows):
            row = {"question": f"Who is person {i}?", "answer": f"Person {i} is the one with number {i}."}
            file.write((between if i else begin) + json.dumps(row))
        file.write(end)


def main() -> None:
    """Read, encode and draw, and print what each of them took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder of a model, for its tokenizer")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--suffix", choices=(".jsonl", ".json"), default=".jsonl")
    arguments = parser.parse_args()
    rows: int = arguments.rows
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"rows{arguments.suffix}"
        write(path, rows)
        with stage("read", rows):
            examples = read_examples(path, "retain", DataOptions())
        with stage("encode", rows):
            split = Encoder(tokenizer, DataOptions()).encode("retain", examples)
    with stage("probe", rows):
        _, training = draw_probe(split.examples, BoundOptions())
    order = StepRows({"retain": len(training)}, 32, seed=0)
    with stage("steps", rows):
        for step in range(STEPS):
            assert micro_batches({"retain": training}, order.rows(step), Budget(1024))
    print(f"{STEPS} steps of 32 rows were gathered")


if __name__ == "__main__":
    main()
