"""A method of one's own is one class with one loss; the bound, the training loop and the report come with it.

python examples/own_method.py path/or/id forget.jsonl retain.jsonl run --learning_rate 1e-5

On the command line the same class is ``amnestic unlearn --method own_method.Floored --method_args.floor -8 ...``, with
this folder on PYTHONPATH.
"""

import argparse
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

import amnestic
from amnestic.constraints.multiplier import Bounded
from amnestic.constraints.retention import NLL, Retention
from amnestic.methods.base import Method, Passes
from amnestic.model.signals import Needs


@dataclass(frozen=True)
class Floored(Method):
    """Gradient ascent on the answers' tokens, each only until its log-probability has fallen to a floor."""

    floor: float = -8.0
    """Log-probability, in nats, below which a token is left alone."""

    needs: ClassVar[Needs] = Needs(head=frozenset({"token_logp"}))
    bounded: ClassVar[Bounded] = Bounded(rate=5.0, initial=10.0)
    retention: ClassVar[tuple[Retention, ...]] = (Retention(NLL(), bounded),)

    def objective(self, model: Passes, reference: Passes) -> Tensor:
        """Return log p of each scored token, (N,), and no gradient where it is below the floor."""
        return model.forget.token_logp.clamp(min=self.floor)


def main() -> None:
    """Forget with the method above."""
    parser = argparse.ArgumentParser(description="Unlearn with a method that this file defines.")
    for name in ("model", "forget", "retain", "output_dir"):
        parser.add_argument(name)
    parser.add_argument("--learning_rate", type=float, default=1e-5)
    parser.add_argument("--floor", type=float, default=Floored.floor)
    arguments = parser.parse_args()
    run = amnestic.unlearn(
        arguments.model,
        forget=arguments.forget,
        retain=arguments.retain,
        method=Floored(floor=arguments.floor),
        keep=0.95,
        learning_rate=arguments.learning_rate,
        retain_per_forget=2,
        output_dir=arguments.output_dir,
    )
    print(run.results["method"])
    print(run.results["verdict"])


if __name__ == "__main__":
    main()
