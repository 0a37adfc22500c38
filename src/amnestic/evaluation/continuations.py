"""How prompts are continued: each distinct one once, as the conditions of its split say.

``B`` examples of a split.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .. import processes
from ..data.encode import Encoded
from ..model.decoding import Counts
from ..model.generate import Generated, Settings, agreed_tokens, before_stop, generate
from .conditions import Continuing
from .metric import Generations, Likelihoods
from .needs import Generation, Likelihood, SweptNeed
from .subject import CONTINUATIONS, Subject


def generations(subject: Subject, needs: Sequence[Generation], tables: Mapping[SweptNeed, Any]) -> dict[SweptNeed, Any]:
    """Return the greedy answers of each need; a prompt that several continue in one way is continued once.

    What a model gives of the true answer by itself was told by its scores, and is not generated.
    """
    found: dict[bytes, np.ndarray] = {}
    for continuing in dict.fromkeys(subject.continuing(need.split) for need in needs):
        examples: dict[bytes, Encoded] = {}
        agreed: dict[bytes, int] = {}
        for need in (need for need in needs if subject.continuing(need.split) == continuing):
            counts = agreement(subject, need, tables)
            for row, count in zip(subject.splits[need.split], counts, strict=True):
                key = prompt_key(subject, row, continuing)
                examples[key], agreed[key] = row, count
        found |= continuations(subject, examples, agreed, continuing)
    return {need: _answers(subject, need, found) for need in needs}


def prompt_key(subject: Subject, row: Encoded, continuing: Continuing) -> bytes:
    """Return a hash of what a greedy answer depends on besides the model."""
    tokens = row.input_ids[: row.prompt_length].astype("<i8").tobytes()
    limits = f"{continuing.max_new_tokens} {subject.stops}"
    if continuing.stop_strings:
        limits += f" {continuing.stop_strings}"
    return hashlib.blake2b(b"|".join([tokens, limits.encode()]), digest_size=16).digest()


def agreement(subject: Subject, need: Generation, tables: Mapping[SweptNeed, Any]) -> list[int]:
    """Return how many tokens of each true answer, from its first, the model gives by itself, one after the other."""
    scored: Likelihoods = tables[Likelihood(need.split)]
    hits = scored.per_example(scored.is_argmax)
    return [agreed_tokens(row, own) for row, own in zip(subject.splits[need.split], hits, strict=True)]


def continuations(
    subject: Subject, examples: Mapping[bytes, Encoded], agreed: Mapping[bytes, int], continuing: Continuing
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
        counts = Counts()
        settings = Settings(
            continuing.max_new_tokens,
            subject.options.per_device_eval_batch_size,
            subject.stops,
            counts,
            stop_strings=continuing.stop_strings,
        )
        generate(
            subject.loaded,
            subject.loaded.tokenizer,
            [examples[key] for key in left],
            settings,
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
    examples, continuing = subject.splits[need.split], subject.continuing(need.split)
    rows = [found[prompt_key(subject, row, continuing)] for row in examples]
    return Generations(
        [_text(subject, row[:-1], continuing) for row in rows],
        [true_answer(subject, example, continuing) for example in examples],
        np.array([len(row) - 1 for row in rows], dtype=np.int64),
        np.array([row[-1] for row in rows], dtype=bool),
        [row[:-1] for row in rows],
    )


def _text(subject: Subject, tokens: np.ndarray, continuing: Continuing) -> str:
    """Return what generated tokens say, in front of the first stop string: the tokens that complete it are kept."""
    text = str(subject.loaded.tokenizer.decode(tokens, skip_special_tokens=True))
    return before_stop(text, continuing.stop_strings).strip()


def true_answer(subject: Subject, example: Encoded, continuing: Continuing) -> str:
    """Return the true answer; of a corpus chunk, which goes on for long, as many tokens as may be generated."""
    start = example.prompt_length
    if not example.is_scored[:start].any():
        return example.answer
    end = start + continuing.max_new_tokens
    return str(subject.loaded.tokenizer.decode(example.input_ids[start:end], skip_special_tokens=True))
