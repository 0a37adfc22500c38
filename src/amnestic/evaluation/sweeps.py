"""How needs are met: each distinct row is read once, whoever needs it, and so is each prompt.

``R`` rows, ``N`` scored tokens, ``B`` examples.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from .. import processes
from ..data.alternates import Alternates
from ..data.batches import Batch, nothing, pad
from ..data.cuts import like_lengths, most_tokens
from ..data.encode import Encoded, fact
from ..data.trees import tree, trees
from ..model.gradient_norms import NotFiniteError, gradient_norms
from ..model.load import Loaded
from ..model.sharding import device_of, forward_only, is_sharded
from ..model.signals import Needs, read
from ..progress import timed
from .continuations import generations
from .metric import Generations, Likelihoods
from .needs import GeneratedLikelihood, Generation, GradientNorm, Likelihood, SweptNeed
from .options import EvaluationOptions
from .subject import NORMS, SCORES, Subject

EVERY_TOKEN = Needs(head=frozenset({"token_logp", "is_argmax", "margin", "moments"}))
COLUMNS = 5
"""log p, whether the token is the argmax, margin, and the two moments."""


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
