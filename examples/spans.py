r"""Make a model forget what a pattern finds in its answers, and keep what stands around it.

python examples/spans.py path/or/id rows.jsonl retain.jsonl run --pattern '\d{3}-\d{4}'
"""

import argparse
import json
import re
from pathlib import Path

import amnestic

parser = argparse.ArgumentParser(description="Make a model forget what a pattern finds in its answers.")
parser.add_argument("model", help="folder or Hub id of a causal language model")
parser.add_argument("rows", help="JSON Lines with question and answer")
parser.add_argument("retain", help="file of the rows to keep")
parser.add_argument("output_dir", help="the run folder")
parser.add_argument("--pattern", default=r"\d{3}-\d{4}", help="regular expression of what is to be forgotten")
parser.add_argument("--learning_rate", type=float, default=1e-5, help="peak learning rate")
arguments = parser.parse_args()

rows = [json.loads(line) for line in Path(arguments.rows).read_text(encoding="utf-8").splitlines()]
marked = [
    row | {"forget_spans": [match.span() for match in re.finditer(arguments.pattern, row["answer"])]} for row in rows
]
found = [row for row in marked if row["forget_spans"]]  # a row that marks nothing would be forgotten whole
print(f"{sum(len(row['forget_spans']) for row in found)} spans in {len(found)} of {len(rows)} rows")

run = amnestic.unlearn(
    arguments.model,
    forget=found,
    retain=arguments.retain,
    keep=0.9,
    keep_context=True,
    learning_rate=arguments.learning_rate,
    output_dir=arguments.output_dir,
)

print(run.results["verdict"])
for name in ("span_probability", "span_reproduction"):
    before, after = (run.results[key][f"forget.{name}"] for key in ("reference_metrics", "metrics"))
    print(f"{name} {before:.3g} -> {after:.3g}")
