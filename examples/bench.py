"""Compare methods on the embedded benchmark, one of them a class of your own.

python examples/bench.py --methods pdu,npo --keep 0.98,none --seeds 2 --output_dir comparison
"""

import argparse

import amnestic

parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument("--benchmark", default="fiction")
parser.add_argument("--methods", default="pdu,npo", help="names, or dotted paths of classes, with commas between them")
parser.add_argument("--keep", default="0.98,none", help="shares of the probability to keep; none: without a bound")
parser.add_argument("--seeds", type=int, default=2)
parser.add_argument("--output_dir", default="comparison")
arguments = parser.parse_args()

comparison = amnestic.bench(
    arguments.benchmark,
    methods=arguments.methods,
    keep=arguments.keep,
    seeds=arguments.seeds,
    output_dir=arguments.output_dir,
)
for row in comparison.leaderboard.records:
    if row["setting"]:  # the first rows are the model before and the retrained one
        print(row["method"], row["setting"], row["state"], row["values"]["forget.probability"]["mean"])
for run in comparison.failed:
    print(f"{run.method} {run.setting}, seed {run.seed}: {run.error}")
