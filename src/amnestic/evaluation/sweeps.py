"""How needs are met: each distinct row is read once, whoever needs it, and so is each prompt.

``R`` rows, ``N`` scored tokens, ``B`` examples.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from .. import processes
from ..data.alternates import Alternates
from ..data.batches import Batch, nothing, pad
from ..data.cuts import like_lengths, most_tokens
from ..data.encode import Encoded, fact
from ..data.trees import tree, trees
from ..model.decoding import Counts
from ..model.generate import Generated, Settings, agreed_tokens, generate, stops
from ..model.gradient_norms import NotFiniteError, gradient_norms
from ..model.load import Loaded
from ..model.sharding import device_of, forward_only, is_sharded
from ..model.signals import Needs, read
from ..progress import timed
from .conditions import Conditions, Continuing
from .metric import Contents, Generations, Likelihoods, Measurement
from .needs import GeneratedLikelihood, Generation, GradientNorm, Likelihood, SweptNeed
from .options import EvaluationOptions
from .store import Store

EVERY_TOKEN = Needs(head=frozenset({"token_logp", "is_argmax", "margin", "moments"}))
COLUMNS = 5
"""log p, whether the token is the argmax, margin, and the two moments."""
TRUE = "answer"


@dataclass(frozen=True)
class Subject:
    """A model, the splits that it is measured on, and what it is held beside."""

    loaded: Loaded
    splits: Mapping[str, Sequence[Encoded]]
    """The examples with their true answers."""
    options: EvaluationOptions
    alternates: Mapping[str, Mapping[str, Alternates]] = field(default_factory=dict)
    """Split -> kind of other answers -> their rows."""
    reference: Loaded | None = None
    retrained: Mapping[str, Measurement] | None = None
    """Key of results.json -> what was measured of the retrained model, with per-example values."""
    conditions: Conditions = field(default_factory=Conditions)
    """What a benchmark says of the splits."""
    store: Store = field(default_factory=Store)
    names: tuple[str, str] = ("model", "reference")
    """Fingerprints of the model and of the reference, under which the store keeps what they gave."""
    work: Counter[str] = field(default_factory=Counter)
    """Fills with what the sweeps took, in this process: see `Collected.work`."""
    advance: Callable[[int], None] = lambda positions: None
    """Is told how many positions (see `Plan`) are done."""

    @property
    def contents(self) -> Contents:
        """Return what metrics can be computed from."""
        kinds = {split: {TRUE, *self.alternates.get(split, ())} for split in self.splits}
        for split, examples in self.splits.items():
            if (fact(examples, "is_marked") & (fact(examples, "forgotten") > 0)).any():
                kinds[split].add("span")
        return Contents(
            {split: frozenset(found) for split, found in kinds.items()},
            self.reference is not None,
            None if self.retrained is None else frozenset(self.retrained),
            self.conditions,
        )

    @cached_property
    def stops(self) -> Sequence[int]:
        """Return the tokens that end an answer; those that close any example are among them, whichever is continued."""
        rows = [row for examples in self.splits.values() for row in examples]
        return stops(self.loaded.model, self.loaded.tokenizer, rows)

    @cached_property
    def trained(self) -> bytes:
        """Return a hash of the names of the model's trainable parameters."""
        names = [name for name, parameter in self.loaded.model.named_parameters() if parameter.requires_grad]
        return hashlib.blake2b("\n".join(names).encode(), digest_size=16).digest()

    def continuing(self, split: str) -> Continuing:
        """Return how the prompts of a split are continued."""
        return self.conditions.continuing.get(split, Continuing(self.options.max_new_tokens))

    def name(self, loaded: Loaded) -> str:
        """Return the name in the store of the model or of the reference."""
        return self.names[loaded is self.reference]

    def rows(self, need: Likelihood) -> Alternates:
        """Return the rows of the answers that `need` is about."""
        examples = self.splits[need.split]
        if need.answer == TRUE:
            return Alternates(examples, np.arange(len(examples)))
        return self.alternates[need.split][need.answer]

    def reader(self, need: Likelihood) -> Loaded:
        """Return the model that `need` is about."""
        loaded = self.loaded if need.reader == "model" else self.reference
        assert loaded is not None  # suites leave out what is missing
        return loaded


SCORES, CONTINUATIONS, NORMS = "scores", "continuations", "gradient norms"
"""Kinds of what the store keeps."""


@dataclass(frozen=True)
class Reading:
    """What one model must read to score some rows: each distinct row once, and none that is known."""

    loaded: Loaded
    name: str
    """Of the model, in the store."""
    rows: list[Encoded]
    keys: list[bytes]
    passes: list[tuple[list[int], int]]
    """Of each forward pass the rows, and its positions, padding included."""

    @property
    def positions(self) -> int:
        """Return the positions that the model is fed."""
        return sum(size for _, size in self.passes)

    def vocabulary_rows(self) -> int:
        """Return for how many positions, or pairs of a position and a scored token, logits are computed."""
        return sum(len(self.batch(run)[0].targets) for run, _ in self.passes)

    def batch(self, run: Sequence[int]) -> tuple[Batch, np.ndarray]:
        """Return the pass over the rows `run`, and which of its scored tokens each of theirs is, row after row."""
        rows = [self.rows[i] for i in run]
        if self.loaded.form.packs:
            made = tree(rows)
            return made.batch, made.place
        batch = pad("", rows)
        return batch, np.arange(len(batch.targets))


def reading(subject: Subject, loaded: Loaded, rows: Sequence[Encoded]) -> Reading:
    """Return what `loaded` must read to score `rows`; rows of no scored token need no reading."""
    name = subject.name(loaded)
    distinct = {row_key(row): row for row in rows if row.scored}
    known = subject.store.find(name, SCORES, distinct)
    left = {key: row for key, row in distinct.items() if key not in known}
    chosen = list(left.values())
    return Reading(loaded, name, chosen, list(left), _passes(chosen, loaded, subject.options))


def _passes(rows: list[Encoded], loaded: Loaded, options: EvaluationOptions) -> list[tuple[list[int], int]]:
    many = options.per_device_eval_batch_size
    if loaded.form.packs:
        return [*trees(rows, most_tokens([rows], many))]
    padded = [*like_lengths(rows, many)] if rows else []
    return [(run, len(run) * max(len(rows[i].input_ids) for i in run)) for run in padded]


def row_key(row: Encoded) -> bytes:
    """Return a hash of what the scores of a row depend on: its tokens, and which of them are scored."""
    found = hashlib.blake2b(row.input_ids.astype("<i8").tobytes(), digest_size=16)
    found.update(np.packbits(row.is_scored).tobytes())
    return found.digest()


def scores(subject: Subject, loaded: Loaded, rows: Sequence[Encoded]) -> list[np.ndarray]:
    """Return the values of the scored tokens of each row, (n, COLUMNS) float64.

    Several processes share the work, and all return the whole. What a pass found is kept in the store at once.
    """
    work = reading(subject, loaded, rows)
    for together in processes.rounds(work.passes):
        own = processes.own(together)
        found = {} if own is None and not is_sharded(loaded.model) else _scored(work, [] if own is None else own[0])
        for part in processes.gathered(found):
            subject.store.keep(work.name, SCORES, part)
        subject.work["positions_scored"] += sum(size for _, size in together)
        subject.advance(sum(size for _, size in together))
    known = subject.store.find(work.name, SCORES, [row_key(row) for row in rows if row.scored])
    return [known[row_key(row)] if row.scored else np.zeros((0, COLUMNS)) for row in rows]


def _scored(work: Reading, run: list[int]) -> dict[bytes, np.ndarray]:
    """Return the values of the rows `run` by key; of none where a process only keeps step with the others."""
    loaded = work.loaded
    batch, place = work.batch(run) if run else (nothing([""]), np.zeros(0, dtype=np.int64))
    with forward_only(loaded.model):
        found = read(loaded.model, batch.to(device_of(loaded.model)), {"": EVERY_TOKEN}, loaded.vocabulary, loaded.form)
        values = found[""].values
        table = torch.cat([values[n][:, None] for n in ("token_logp", "is_argmax", "margin")] + [values["moments"]], 1)
    found_values = table.cpu().double().numpy()[place]
    ends = np.cumsum([work.rows[i].scored for i in run])
    return {work.keys[i]: part for i, part in zip(run, np.split(found_values, ends[:-1]), strict=True)} if run else {}


def likelihoods(subject: Subject, needs: Sequence[Likelihood]) -> dict[SweptNeed, Any]:
    """Return the table of each need; rows that several have in common are read once."""
    tables: dict[SweptNeed, Any] = {}
    for loaded in {id(subject.reader(need)): subject.reader(need) for need in needs}.values():
        own = [need for need in needs if subject.reader(need) is loaded]
        asked = [subject.rows(need) for need in own]
        values = iter(scores(subject, loaded, [row for rows in asked for row in rows.rows]))
        tables |= {need: table(rows, [next(values) for _ in rows.rows]) for need, rows in zip(own, asked, strict=True)}
    return tables


def table(rows: Alternates, values: Sequence[np.ndarray]) -> Likelihoods:
    """Return the values of the scored tokens of each row, (n, COLUMNS), as metrics read them."""
    joined = np.concatenate([np.zeros((0, COLUMNS)), *values])
    return Likelihoods(
        logp=joined[:, 0],
        is_argmax=joined[:, 1] > 0.5,
        margin=joined[:, 2],
        moments=joined[:, 3:],
        counts=np.array([len(part) for part in values], dtype=np.int64),
        closes=np.array([row.closes for row in rows.rows], dtype=bool),
        example=rows.example,
        answers=[_scored_text(row) for row in rows.rows],
        is_span=_marked(rows.rows),
    )


def _scored_text(row: Encoded) -> str:
    """Return the answer; of a corpus chunk, of which its first half is scored too, the whole text."""
    return row.prompt + row.answer if row.is_scored[: row.prompt_length].any() else row.answer


def _marked(rows: Sequence[Encoded]) -> np.ndarray | None:
    """Return (N,) bool: the scored token overlaps a marked span; None where no row has one."""
    if not fact(rows, "is_marked").any():
        return None
    parts = [np.zeros(row.scored, bool) if row.is_span is None else row.is_span[row.is_scored] for row in rows]
    return np.concatenate([np.zeros(0, dtype=bool), *parts])


def generations(subject: Subject, needs: Sequence[Generation], tables: Mapping[SweptNeed, Any]) -> dict[SweptNeed, Any]:
    """Return the greedy answers of each need; a prompt that several have in common is continued once.

    What a model gives of the true answer by itself was told by its scores, and is not generated.
    """
    examples = {prompt_key(subject, row): row for need in needs for row in subject.splits[need.split]}
    agreed = {
        prompt_key(subject, row): count
        for need in needs
        for row, count in zip(subject.splits[need.split], agreement(subject, need, tables), strict=True)
    }
    found = continuations(subject, examples, agreed)
    return {need: _answers(subject, need, found) for need in needs}


def prompt_key(subject: Subject, row: Encoded) -> bytes:
    """Return a hash of what a greedy answer depends on besides the model."""
    tokens = row.input_ids[: row.prompt_length].astype("<i8").tobytes()
    limits = f"{subject.options.max_new_tokens} {subject.stops}"
    return hashlib.blake2b(b"|".join([tokens, limits.encode()]), digest_size=16).digest()


def agreement(subject: Subject, need: Generation, tables: Mapping[SweptNeed, Any]) -> list[int]:
    """Return how many tokens of each true answer, from its first, the model gives by itself, one after the other."""
    scored: Likelihoods = tables[Likelihood(need.split)]
    hits = scored.per_example(scored.is_argmax)
    return [agreed_tokens(row, own) for row, own in zip(subject.splits[need.split], hits, strict=True)]


def continuations(
    subject: Subject, examples: Mapping[bytes, Encoded], agreed: Mapping[bytes, int]
) -> dict[bytes, np.ndarray]:
    """Return the greedy tokens behind each prompt, and a last entry that says whether the model ended by itself."""
    name = subject.name(subject.loaded)
    known = subject.store.find(name, CONTINUATIONS, examples)
    left = [key for key in examples if key not in known]

    def keep(found: dict[int, Generated]) -> None:
        part = {left[i]: np.append(answer.tokens, answer.has_ended) for i, answer in found.items()}
        subject.store.keep(name, CONTINUATIONS, part)
        subject.advance(sum(examples[key].scored for key in part))

    if left:
        options, counts = subject.options, Counts()
        generate(
            subject.loaded,
            subject.loaded.tokenizer,
            [examples[key] for key in left],
            Settings(options.max_new_tokens, options.per_device_eval_batch_size, subject.stops, counts),
            [agreed[key] for key in left],
            keep,
        )
        subject.work.update(decoded_of(processes.gathered(counts)))
    return subject.store.find(name, CONTINUATIONS, examples)


def decoded_of(counts: Sequence[Counts]) -> dict[str, int]:
    """Return what decoding took, of all processes together."""
    return {
        "answers_decoded": sum(found.prompts for found in counts),
        "positions_read_in": sum(found.read for found in counts),
        "decode_row_steps": sum(found.row_steps for found in counts),
        "tokens_decoded": sum(found.new_tokens for found in counts),
    }


def _answers(subject: Subject, need: Generation, found: Mapping[bytes, np.ndarray]) -> Generations:
    examples, tokenizer = subject.splits[need.split], subject.loaded.tokenizer
    rows = [found[prompt_key(subject, row)] for row in examples]
    texts = [str(tokenizer.decode(row[:-1], skip_special_tokens=True)).strip() for row in rows]
    return Generations(
        texts,
        [true_answer(subject, example) for example in examples],
        np.array([len(row) - 1 for row in rows], dtype=np.int64),
        np.array([row[-1] for row in rows], dtype=bool),
        [row[:-1] for row in rows],
    )


def true_answer(subject: Subject, example: Encoded) -> str:
    """Return the true answer; of a corpus chunk, which goes on for long, as many tokens as may be generated."""
    start = example.prompt_length
    if not example.is_scored[:start].any():
        return example.answer
    end = start + subject.options.max_new_tokens
    return str(subject.loaded.tokenizer.decode(example.input_ids[start:end], skip_special_tokens=True))


def generated_likelihoods(
    subject: Subject, needs: Sequence[GeneratedLikelihood], tables: Mapping[SweptNeed, Any]
) -> dict[SweptNeed, Any]:
    """Return what the reference gives the tokens of the generated answers of each need."""
    assert subject.reference is not None  # suites leave out what is missing
    asked = {need: _generated_rows(subject, need, tables[Generation(need.split)]) for need in needs}
    silent = replace(subject, advance=lambda positions: None)  # the plan counts true answers, which have other lengths
    values = iter(scores(silent, subject.reference, [row for rows in asked.values() for row in rows.rows]))
    subject.advance(sum(judged_positions(subject, need) for need in needs))
    return {need: table(rows, [next(values) for _ in rows.rows]) for need, rows in asked.items()}


def judged_positions(subject: Subject, need: GeneratedLikelihood) -> int:
    """Return what `Plan` counts for `need`: the positions of the true answers, which stand for the generated ones."""
    return sum(len(row.input_ids) for row in subject.splits[need.split])


def _generated_rows(subject: Subject, need: GeneratedLikelihood, answers: Generations) -> Alternates:
    rows = []
    for example, tokens, text in zip(subject.splits[need.split], answers.token_ids, answers.generated, strict=True):
        begin = example.prompt_length
        ids = np.concatenate([example.input_ids[:begin], tokens])
        is_scored = np.arange(len(ids)) >= begin
        rows.append(replace(example, input_ids=ids, is_scored=is_scored, closes=False, answer=text, is_span=None))
    return Alternates(rows, np.arange(len(rows)))


def gradients(subject: Subject, needs: Sequence[GradientNorm]) -> dict[SweptNeed, Any]:
    """Return the gradient norms of the true answers of each need; what one split's rows gave is kept in the store."""
    return {need: _norms(subject, subject.splits[need.split]) for need in needs}


def _norms(subject: Subject, rows: Sequence[Encoded]) -> np.ndarray:
    left = norms_left(subject, rows)
    if left:
        try:
            found = gradient_norms(subject.loaded, [*left.values()], subject.advance)
        except NotFiniteError as error:  # metrics that read other things have their values all the same
            found = error.norms
        parts = {key: np.array([norm]) for key, norm in zip(left, found, strict=True)}
        subject.store.keep(subject.name(subject.loaded), NORMS, parts)
    keys = [_norm_key(subject, row) for row in rows]
    known = subject.store.find(subject.name(subject.loaded), NORMS, keys)
    return np.array([known[key][0] for key in keys], dtype=float)


def norms_left(subject: Subject, rows: Sequence[Encoded]) -> dict[bytes, Encoded]:
    """Return the distinct ones of `rows` whose gradient norms are not known, by key."""
    distinct = {_norm_key(subject, row): row for row in rows}
    known = subject.store.find(subject.name(subject.loaded), NORMS, distinct)
    return {key: row for key, row in distinct.items() if key not in known}


def _norm_key(subject: Subject, row: Encoded) -> bytes:
    """Return a hash of what the norm of a row's gradient depends on besides the model: its tokens, and what trains."""
    return hashlib.blake2b(row_key(row) + subject.trained, digest_size=16).digest()


@dataclass(frozen=True)
class Order:
    """What is swept, in the order in which one sweep's outcome serves the next."""

    scored: list[Likelihood]
    continued: list[Generation]
    generated: list[GeneratedLikelihood]
    norms: list[GradientNorm]

    @classmethod
    def of(cls, needs: Sequence[SweptNeed]) -> "Order":
        """Return `needs`, each once, and what these need themselves."""
        wanted = list(dict.fromkeys(needs))
        scored = [need for need in wanted if isinstance(need, Likelihood)]
        continued = [need for need in wanted if isinstance(need, Generation)]
        generated = [need for need in wanted if isinstance(need, GeneratedLikelihood)]
        norms = [need for need in wanted if isinstance(need, GradientNorm)]
        continued = list(dict.fromkeys([*continued, *(Generation(need.split) for need in generated)]))
        scored = list(dict.fromkeys([*scored, *(Likelihood(need.split) for need in continued)]))
        return cls(scored, continued, generated, norms)


def sweep(subject: Subject, needs: Sequence[SweptNeed], seconds: dict[str, float]) -> dict[SweptNeed, Any]:
    """Return the table of each of `needs`, and of what these need themselves; `seconds` fills with what each took."""
    order = Order.of(needs)
    with timed(seconds, "score"):
        tables = likelihoods(subject, order.scored)
    if order.continued:
        with timed(seconds, "generate"):
            tables |= generations(subject, order.continued, tables)
    if order.generated:
        with timed(seconds, "score"):
            tables |= generated_likelihoods(subject, order.generated, tables)
    if order.norms:
        with timed(seconds, "gradients"):
            tables |= gradients(subject, order.norms)
    return tables
