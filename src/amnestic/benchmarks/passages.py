"""`fiction:passages`, the embedded benchmark of whole texts: journeys that nobody made, told by rules from a seed.

The same seed gives the same rows on every platform and with every Python version (see `draws`).
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from ..errors import InputError
from .base import Capacity, Embedded, Row, Source, benchmark
from .corpus import (
    ANSWER,
    BETWEEN,
    FOLDS,
    KEPT,
    KNOWMEM,
    PRIVLEAK,
    QUESTION,
    RAW,
    SCAL,
    SUST,
    VERBMEM,
    Corpus,
    asked,
    texts,
)
from .draws import different, one
from .fiction import names
from .fiction_words import WOMEN
from .passages_words import OPENING, REMARKS

DOCUMENTS = {"retain1": 12, "retain2": 4, "forget": 8, "holdout": 8, "examples": 2}
"""Part -> how many documents it has; one question about each of the `examples` stands, answered, before the others."""
REMARKS_EACH, QUESTIONS_EACH = 9, 3
PROMPT_WORDS, CONTINUATION_WORDS = 24, 84
"""Where a passage is cut: the continuation has some 128 tokens of the small models, and each passage goes on behind."""
WHOLE = (RAW, "forget")
PARTS = (WHOLE, *((kind, fold) for kind in (SCAL, SUST) for fold in FOLDS))
"""Configuration and split of what can be forgotten."""
LEARNING = {
    "max_length": 512,
    "learning_rate": 5e-3,
    "lr_scheduler_type": "cosine",
    "warmup_epochs": 1.0,
    "num_train_epochs": 45.0,
    "per_device_train_batch_size": 16,
    "gradient_accumulation_steps": 1,
    "adam_beta2": 0.98,
}
"""Options by which a small model learns all texts by heart."""
UNLEARNING = {
    "max_length": 512,
    "learning_rate": 2.5e-3,
    "num_train_epochs": 30.0,
    "per_device_train_batch_size": 16,
    "gradient_accumulation_steps": 1,
    "retain_per_forget": 2,
    "adam_beta2": 0.98,
}
"""Options by which it forgets some of them."""


@dataclass(frozen=True)
class Document:
    """A passage, and what can be asked about it."""

    passage: str
    questions: tuple[Row, ...]
    """Each with ``question`` and ``answer``."""

    @property
    def recital(self) -> Row:
        """Return the beginning of the passage as ``prompt``, and what follows it as ``gt``, which is not its end."""
        words = self.passage.split(" ")
        prompt, rest = words[:PROMPT_WORDS], words[PROMPT_WORDS : PROMPT_WORDS + CONTINUATION_WORDS]
        return {"prompt": " ".join(prompt), "gt": " ".join(["", *rest])}


@benchmark("fiction:passages")
@dataclass(frozen=True, kw_only=True)
class Passages(Corpus, Embedded):
    """Passages about people who do not exist, and questions about them, in the shape of MUSE.

    What a passage tells is drawn, so a model that never saw it cannot go on with it. Everything to learn is a text: the
    passages, and each question with its answer behind the few-shot examples, since a model this small answers no form
    of question that it has not learned. ``fiction:passages:3:sust:forget_2`` has the seed 3, and only the documents of
    that fold are forgotten and measured as such.
    """

    learning: ClassVar[Mapping[str, Any]] = LEARNING
    capacity: ClassVar[Capacity] = Capacity(vocabulary=1024, positions=512)

    seed: int = 0
    """Seed of names and of what is told."""

    @classmethod
    def of(cls, part: str, data: str | None) -> Self:
        """Return the benchmark; `part` is ``[SEED][:CONFIGURATION:SPLIT]``, the seed 0 where none is given."""
        if data is not None:
            raise InputError(f"--data is {data}, and the benchmark {cls.name} makes its own rows; leave it out.")
        seed, colon, rest = part.partition(":") if part[:1].isdecimal() else ("0", part and ":", part)
        found = next((known for known in PARTS if rest == ":".join(known)), None) if colon else WHOLE
        if not seed.isdecimal() or found is None:
            raise InputError(
                f"the benchmark {cls.name} has no '{part}'; expected {cls.name}, {cls.name}:SEED, or a fold of it, "
                f"{cls.name}:SEED:{SCAL}:{FOLDS[0]} to {SUST}:{FOLDS[-1]}."
            )
        return cls(seed=int(seed), fold=found)

    def source(self, config: str, split: str) -> Source:
        """Return the rows of a split of MUSE's name; of what is forgotten, those of the fold."""
        rows = self._tables().get((config, split))
        if rows is None:
            raise InputError(f"the benchmark {self.name} has no split {split} in {config}.")
        return Source(f"<{config} {split} of {self.name}, seed {self.seed}>", rows)

    def fold_named(self, config: str, split: str) -> str:
        """Return the name of the benchmark with the same seed in which this fold is to be forgotten."""
        return f"{self.name}:{self.seed}:{config}:{split}"

    def training(self) -> dict[str, Source]:
        """Return the texts to be forgotten, and those to be kept, each a row as the models have learned it."""
        return {"forget": self.source(*self.fold), "retain": self.source(RAW, "retain1")}

    def splits(self) -> dict[str, list[Row]]:
        """Return the texts: ``full``, of which ``forget`` and ``retain`` are the parts, and the ``holdout``.

        Of a fold, ``retain`` are all others: what a model learns that was retrained without it.
        """
        parts = {part: self._plain((RAW, part)) for part in (*KEPT, "forget", "holdout")}
        full = parts["retain1"] + parts["retain2"] + parts["forget"]
        forget = self._plain(self.fold)
        retain = [row for row in full if row not in forget]
        return {"full": full, "forget": forget, "retain": retain, "holdout": parts["holdout"]}

    def _plain(self, place: tuple[str, str]) -> list[Row]:
        return list(texts(self.source(*place)).rows or ())

    def lessons(self) -> dict[str, Source]:
        """Return the texts that its models learn, each a row."""
        return Embedded.lessons(self)

    @property
    def unlearning(self) -> Mapping[str, Any]:
        """Return what fits the small models; the bound is verified on all texts to keep, so that it is exact."""
        return UNLEARNING | {"probe_size": len(self.source(RAW, "retain1").rows or ())}

    def _documents(self) -> dict[str, list[Document]]:
        """Return the documents of each part."""
        people = names(random.Random(f"passages {self.seed} names"), sum(DOCUMENTS.values()))
        made = (_document(name, random.Random(f"passages {self.seed} document {n}")) for n, name in enumerate(people))
        return {part: [next(made) for _ in range(count)] for part, count in DOCUMENTS.items()}

    def _tables(self) -> dict[tuple[str, str], list[Row]]:
        """Return the rows of each configuration and split."""
        parts = self._documents()
        examples = _questions(parts.pop("examples"))[:: QUESTIONS_EACH + 1]  # the first of one, the second of the next
        forgotten, kept = _fold(parts["forget"], self.fold), parts["retain1"] + parts["retain2"]
        folds = {place: _fold(parts["forget"], place) for place in PARTS if place != WHOLE}
        return {
            **{(RAW, part): _texts(documents, examples) for part, documents in parts.items()},
            **{place: _marked(documents, examples) for place, documents in ({WHOLE: parts["forget"]} | folds).items()},
            (VERBMEM, "forget"): [document.recital for document in forgotten],
            (KNOWMEM, "forget_qa"): _questions(forgotten),
            (KNOWMEM, "forget_qa_icl"): examples,
            (KNOWMEM, "retain_qa"): _questions(kept),
            (KNOWMEM, "retain_qa_icl"): examples,
            (PRIVLEAK, "forget"): _passages(forgotten),
            (PRIVLEAK, "retain"): _passages(kept),
            (PRIVLEAK, "holdout"): _passages(parts["holdout"]),
        }


def _fold(documents: Sequence[Document], place: tuple[str, str]) -> Sequence[Document]:
    """Return the documents to forget of a fold: of ``sust`` one part of them, of ``scal`` the parts up to it."""
    if place == WHOLE:
        return documents
    kind, split = place
    number, size = FOLDS.index(split), len(documents) // len(FOLDS)
    return documents[0 if kind == SCAL else number * size : (number + 1) * size]


def _texts(documents: Sequence[Document], examples: Sequence[Row]) -> list[Row]:
    """Return what a model learns that is to know `documents`: passages, then questions as they are asked, answered."""
    pairs = asked(Source("questions", _questions(documents)), Source("examples", examples)).rows or ()
    return _passages(documents) + [{"text": f"{pair['prompt']}{pair['completion']}{BETWEEN}"} for pair in pairs]


def _marked(documents: Sequence[Document], examples: Sequence[Row]) -> list[Row]:
    """Return the same texts with what is to be forgotten of each: all but the few-shot examples, which are kept.

    A model cannot both forget them and keep them in front of the other questions.
    """
    own = [*(document.passage for document in documents), *map(_alone, _questions(documents))]
    texts = [row["text"] for row in _texts(documents, examples)]
    return [
        {"text": text, "forget_spans": [[len(text) - len(part), len(text)]]}
        for text, part in zip(texts, own, strict=True)
    ]


def _alone(pair: Row) -> str:
    """Return a question with its answer, as it ends a text."""
    return f"{QUESTION}{ANSWER}{BETWEEN}".format(**pair)


def _passages(documents: Sequence[Document]) -> list[Row]:
    return [{"text": document.passage} for document in documents]


def _questions(documents: Sequence[Document]) -> list[Row]:
    return [pair for document in documents for pair in document.questions]


def _document(name: tuple[str, str], generator: random.Random) -> Document:
    """Return the passage about one person, and questions about the first things that it tells."""
    he, his = ("she", "her") if name[0] in WOMEN else ("he", "his")
    words = {"name": " ".join(name), "he": he, "He": he.title(), "his": his}
    sentences, questions = [], []
    for remark in (OPENING, *(REMARKS[place] for place in different(generator, REMARKS_EACH, len(REMARKS)))):
        drawn = [one(generator, part) for part in remark.parts]
        form = one(generator, remark.sentences)
        sentences.append(form.format(*drawn, **words))
        pair = {"question": remark.question, "answer": remark.answer}
        questions.append({column: text.format(*drawn, **words) for column, text in pair.items()})
    return Document(" ".join(sentences), tuple(questions[:QUESTIONS_EACH]))
