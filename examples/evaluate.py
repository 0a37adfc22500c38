"""Measuring a model beside one that never saw what should be forgotten, with a metric of one's own among the others.

python examples/evaluate.py path/or/id retrained/model forget.jsonl retain.jsonl evaluations
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import amnestic
from amnestic.evaluation.metric import Likelihoods, Measurement, Metric, metric
from amnestic.evaluation.needs import Likelihood


@metric("first_token")
@dataclass(frozen=True)
class FirstToken(Metric):
    """Mean probability of an answer's first token: what a reader sees first."""

    split: str

    def needs(self):
        """Return the one need: the likelihoods of the split's true answers, which other metrics read too."""
        return {"answers": Likelihood(self.split)}

    def compute(self, answers: Likelihoods) -> Measurement:
        """Return the mean, and the value of each example."""
        values = np.array([np.exp(logp[0]) for logp in answers.per_example(answers.logp)])
        return Measurement(float(values.mean()), values)


parser = argparse.ArgumentParser(description="Evaluate two models on the same rows, the second beside the first.")
parser.add_argument("model")
parser.add_argument("retrained")
parser.add_argument("forget", type=Path)
parser.add_argument("retain", type=Path)
parser.add_argument("output_dir", type=Path)
arguments = parser.parse_args()

rows = {"forget": arguments.forget, "retain": arguments.retain}
settings = {"cache_dir": str(arguments.output_dir / "cache"), "max_new_tokens": 32}

first = amnestic.evaluate(arguments.retrained, **rows, **settings, output_dir=arguments.output_dir / "retrained")
second = amnestic.evaluate(
    arguments.model, **rows, **settings, retrained=str(first.output_dir), output_dir=arguments.output_dir / "model"
)

for key, value in second.results["metrics"].items():
    low, high = second.results.get("intervals", {}).get(key, ("", ""))
    beside = first.results["metrics"].get(key)
    print(
        f"{key:36}{value:12.4g}",
        f"[{low:.4g}, {high:.4g}]" if low != "" else "",
        "" if beside is None else f"{beside:.4g}",
    )
for key, reason in second.results.get("not_computed", {}).items():
    print(f"{key}: {reason}")
