"""Make a model forget one file of rows while it keeps another; the files are those of ``amnestic unlearn``.

python examples/unlearn.py path/or/id forget.jsonl retain.jsonl run
"""

import argparse

import amnestic

parser = argparse.ArgumentParser(description="Make a model forget one file of rows while it keeps another.")
parser.add_argument("model", help="folder or Hub id of a causal language model")
parser.add_argument("forget", help="file of the rows to forget")
parser.add_argument("retain", help="file of the rows to keep")
parser.add_argument("output_dir", help="the run folder")
arguments = parser.parse_args()

run = amnestic.unlearn(
    arguments.model,
    forget=arguments.forget,
    retain=arguments.retain,
    method=amnestic.PDU(),
    keep=0.98,
    output_dir=arguments.output_dir,
)

print(run.results["verdict"])
print("feasible:", run.feasible)

row = next(iter(run.results["candidates"]))
print(f"after epoch {row['epoch']:g} the retain loss was {row['reached']:.4g} nats a token")

inputs = run.tokenizer("Question: Who are you?\nAnswer:", return_tensors="pt").to(run.model.device)
answer = run.model.generate(**inputs, do_sample=False, max_new_tokens=20)
print(run.tokenizer.decode(answer[0], skip_special_tokens=True))
