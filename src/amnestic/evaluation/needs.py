"""What a metric can read: each need is one sweep over one split, whoever reads it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .. import processes
from ..data.batches import turns
from ..data.encode import Encoded, fact
from ..model.generate import generate
from ..model.load import Loaded
from ..model.sharding import device_of, forward_only
from ..model.signals import Needs, name_of, read
from .metric import Generations, Likelihoods
from .options import EvaluationOptions

EVERY_TOKEN = Needs(head=frozenset({"token_logp", "is_argmax", "margin", "moments"}))
Advance = Callable[[int], None]


@dataclass(frozen=True)
class Subject:
    """A model, and the splits that it is measured on."""

    loaded: Loaded
    splits: Mapping[str, Sequence[Encoded]]
    options: EvaluationOptions
    advance: Advance = lambda rows: None
    """Is told how many rows of a sweep are done."""


class Need(Protocol):
    """A sweep; two equal needs are one."""

    @property
    def split(self) -> str:
        """Return the name of the split that is swept."""
        ...

    def measure(self, subject: Subject) -> Any:
        """Run the sweep and return its table."""
        ...


@dataclass(frozen=True)
class Likelihood:
    """Teacher-forced values of the answers of a split."""

    split: str

    def measure(self, subject: Subject) -> Likelihoods:
        """Return the values of all scored tokens, from one forward pass over each example."""
        examples = subject.splits[self.split]
        values = sweep(subject, examples, EVERY_TOKEN)
        return Likelihoods(
            logp=values["token_logp"],
            is_argmax=values["is_argmax"] > 0.5,
            margin=values["margin"],
            entropy=-values["moments"][:, 0],
            counts=np.array([example.scored for example in examples]),
            closes=np.array([example.closes for example in examples]),
            is_span=_marked(examples),
        )


@dataclass(frozen=True)
class Generation:
    """Greedy answers to the prompts of a split."""

    split: str

    def measure(self, subject: Subject) -> Generations:
        """Return the generated and the true answers."""
        examples, options = subject.splits[self.split], subject.options
        texts = generate(
            subject.loaded.model,
            subject.loaded.tokenizer,
            examples,
            options.max_new_tokens,
            options.per_device_eval_batch_size,
            subject.advance,
        )
        return Generations(texts, [self._answer(subject, example) for example in examples])

    def _answer(self, subject: Subject, example: Encoded) -> str:
        """Return the true answer; of a corpus chunk, which goes on for long, as many tokens as may be generated."""
        start = example.prompt_length
        if not example.is_scored[:start].any():
            return example.answer
        end = start + subject.options.max_new_tokens
        return str(subject.loaded.tokenizer.decode(example.input_ids[start:end], skip_special_tokens=True))


def _marked(examples: Sequence[Encoded]) -> np.ndarray | None:
    """Return (N,) bool: the scored token overlaps a marked span; None where no example has one."""
    if not fact(examples, "is_marked").any():
        return None
    none = np.zeros(0, dtype=bool)
    parts = [
        np.zeros(example.scored, dtype=bool) if example.is_span is None else example.is_span[example.is_scored]
        for example in examples
    ]
    return np.concatenate([none, *parts])


def sweep(subject: Subject, examples: Sequence[Encoded], needs: Needs) -> dict[str, np.ndarray]:
    """Return each signal of `needs` for all scored tokens of `examples`, in their order, (N,) or (N, 2) float64.

    Several processes share the work, and all return the whole.
    """
    loaded, packs = subject.loaded, subject.loaded.form.packs
    own = []
    for together, chosen, made in turns("", examples, subject.options.per_device_eval_batch_size, packs):
        batch = made.to(device_of(loaded.model))
        with forward_only(loaded.model):
            signals = read(loaded.model, batch, {"": needs}, loaded.vocabulary, loaded.form)
        if chosen is not None:
            own.append((chosen, {name: value.cpu().double().numpy() for name, value in signals[""].values.items()}))
        subject.advance(len(together))
    found: dict[str, list[np.ndarray]] = {name_of(need): [np.empty(0)] * len(examples) for need in needs.head}
    for chosen, values in (batch for share in processes.gathered(own) for batch in share):
        ends = np.cumsum([examples[i].scored for i in chosen])[:-1]
        for name, array in values.items():
            for i, part in zip(chosen, np.split(array, ends), strict=True):
                found[name][i] = part
    return {name: np.concatenate(parts) for name, parts in found.items()}
