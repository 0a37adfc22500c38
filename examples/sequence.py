"""Forget requests that arrive one after another, within the bound of the first model.

python examples/sequence.py path/or/id retain.jsonl requests may.jsonl june.jsonl july.jsonl
"""

import argparse

import amnestic

parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument("model", help="folder or Hub id of the first model")
parser.add_argument("retain", help="what to keep throughout")
parser.add_argument("output_dir", help="folder of the sequence; the same call goes on in it")
parser.add_argument("requests", nargs="+", help="what to forget, in the order of arrival")
parser.add_argument("--keep", type=float, default=0.98)
parser.add_argument("--learning_rate", type=float, default=1e-5)
arguments = parser.parse_args()

outcome = amnestic.sequence(
    arguments.model,
    requests=arguments.requests,
    retain=arguments.retain,
    output_dir=arguments.output_dir,
    keep=arguments.keep,
    learning_rate=arguments.learning_rate,
)
print(outcome.verdict)
for request in outcome.results["requests"]:
    for metric, course in (request["memory"] or {}).items():
        values = ", ".join(f"{point['value']:.3g}" for point in course)
        print(f"{request['name']}: {metric} {values} ({request['state']})")
