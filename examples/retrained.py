"""Unlearning beside retraining, from nothing: invented people, three small models, one page.

The model that never saw the rows to be forgotten is what unlearning is meant to come near to.

python examples/retrained.py side-by-side
"""

import argparse
from pathlib import Path

import amnestic
from amnestic.benchmarks.fiction import Fiction
from amnestic.scratch import write_start

TRAINING = {
    "learning_rate": 1e-2,
    "lr_scheduler_type": "cosine",
    "per_device_train_batch_size": 16,
    "gradient_accumulation_steps": 1,
    "adam_beta2": 0.98,
    "max_new_tokens": 30,
}

parser = argparse.ArgumentParser(description="Train, retrain without some people, unlearn them, and compare.")
parser.add_argument("output_dir", type=Path)
parser.add_argument("--people", type=int, default=12)
parser.add_argument("--epochs", type=float, default=40.0)
arguments = parser.parse_args()
folder = arguments.output_dir

rows = Fiction(people=arguments.people, questions=3, forget_share=1 / 3).splits()
write_start(folder / "start", rows["full"])  # the shape of a small Llama, and a tokenizer

start = {"model": folder / "start", "from_scratch": True, "num_train_epochs": arguments.epochs, **TRAINING}
amnestic.finetune(**start, data=rows["full"], output_dir=folder / "target")
amnestic.finetune(**start, data=rows["full"], exclude=rows["forget"], output_dir=folder / "retrained")
run = amnestic.unlearn(
    folder / "target" / "model",
    forget=rows["forget"],
    retain=rows["retain"],
    keep=0.95,
    retrained=str(folder / "retrained" / "model"),
    retain_per_forget=4,
    num_train_epochs=12,
    **TRAINING | {"learning_rate": 1.25e-3, "lr_scheduler_type": "constant_with_warmup"},
    output_dir=folder / "unlearned",
)

print(run.results["verdict"])
print(f"{'':32}{'before':>10}{'retrained':>10}{'after':>10}")
for key, after in run.results["metrics"].items():
    before, retrained = (run.results[name].get(key) for name in ("reference_metrics", "retrained_metrics"))
    if before is not None and retrained is not None:  # forget quality holds a model beside the retrained one
        print(f"{key:32}{before:10.4f}{retrained:10.4f}{after:10.4f}")
print(run.output_dir / "report.html")
