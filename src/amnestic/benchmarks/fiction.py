"""`fiction`, the embedded benchmark: people who do not exist, made by rules from a seed.

The same settings give the same rows on every platform and with every Python version (see `draws`).
"""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from ..errors import InputError
from .base import Embedded, Row, Source, benchmark
from .draws import different, one, two
from .fiction_words import FACTS, MEN, SURNAME_ENDS, SURNAME_STARTS, WOMEN, Fact

WRONG_ANSWERS = 5
"""Wrong answers of a row, as in TOFU."""
MOST_PEOPLE = len(WOMEN + MEN) * len(SURNAME_STARTS) * len(SURNAME_ENDS)
"""Different names that there are."""
LEARNING = {
    "learning_rate": 5e-3,
    "lr_scheduler_type": "cosine",
    "warmup_epochs": 1.0,
    "num_train_epochs": 30.0,
    "per_device_train_batch_size": 32,
    "gradient_accumulation_steps": 1,
    "adam_beta2": 0.98,
}
"""Options by which a small model learns all answers by heart."""
UNLEARNING = {
    "learning_rate": 1.25e-3,
    "num_train_epochs": 24.0,
    "per_device_train_batch_size": 16,
    "gradient_accumulation_steps": 1,
    "retain_per_forget": 4,
    "adam_beta2": 0.98,
}
"""Options by which it forgets some of them."""


@benchmark("fiction")
@dataclass(frozen=True, kw_only=True)
class Fiction(Embedded):
    """People who do not exist: dates, places, professions, parents, works, awards, homes.

    With the fields of TOFU (Maini et al., 2024, arXiv:2401.06121). Facts are drawn independently of each other and of
    the name, so a model that never saw a person cannot know them. A benchmark with more people or questions and the
    same seed contains the smaller one: person k and question j of a person never change, their splits may.
    """

    learning: ClassVar[Mapping[str, Any]] = LEARNING

    people: int = 60
    """People in the full split."""
    questions: int = 8
    """Questions about each of them."""
    forget_share: float = 0.1
    """Share of the people who are to be forgotten, rounded to whole people."""
    seed: int = 0
    """Seed of names, facts and sentence forms."""

    def __post_init__(self) -> None:
        """Raise InputError for settings that make no benchmark."""
        if self.people < 2:
            raise InputError(f"fiction: people is {self.people}; expected at least 2, one to forget and one to keep.")
        if not 1 <= self.questions <= len(FACTS):
            raise InputError(f"fiction: questions is {self.questions}; expected 1 to {len(FACTS)} for each person.")
        if not 0 < self.forget_share < 1:
            raise InputError(f"fiction: forget_share is {self.forget_share}; expected a number between 0 and 1.")
        if not 0 < self._forgotten < self.people:
            raise InputError(
                f"fiction: forget_share {self.forget_share} of {self.people} people is {self._forgotten} people;"
                f" expected 1 to {self.people - 1}, so change the share or ask for more people."
            )
        if self.people + self._forgotten > MOST_PEOPLE:
            raise InputError(
                f"fiction: {self.people} people and {self._forgotten} held out need more names than there are;"
                f" expected at most {MOST_PEOPLE} in all."
            )

    @property
    def _forgotten(self) -> int:
        """Number of people to forget."""
        return round(self.people * self.forget_share)

    @classmethod
    def of(cls, part: str, data: str | None) -> Self:
        """Return the benchmark with its default settings; `part` is the seed, a whole number, 0 where none is given."""
        if data is not None:
            raise InputError(f"--data is {data}, and the benchmark {cls.name} makes its own rows; leave it out.")
        if part and not part.isdecimal():
            raise InputError(f"the benchmark {cls.name} has no '{part}'; expected {cls.name}, or {cls.name}:SEED.")
        return cls(seed=int(part or 0))

    def training(self) -> dict[str, Source]:
        """Return the rows about the people to be forgotten, and about the others."""
        splits = self.splits()
        return {name: self._source(name, splits[name]) for name in ("forget", "retain")}

    def evaluation(self) -> dict[str, Source]:
        """Return the same rows, and the holdout, about people that no model has seen."""
        splits = self.splits()
        return {name: self._source(name, splits[name]) for name in ("forget", "retain", "holdout")}

    @property
    def unlearning(self) -> Mapping[str, Any]:
        """Return what fits the small models; the bound is verified on all rows to keep, so that it is exact."""
        return UNLEARNING | {"probe_size": (self.people - self._forgotten) * self.questions}

    def _source(self, split: str, rows: list[Row]) -> Source:
        return Source(f"<{split} of {self.name}, seed {self.seed}>", rows)

    def splits(self) -> dict[str, list[Row]]:
        """Return full (retain, then forget), forget, retain, and holdout: as many other people as in forget.

        Each row has ``question``, ``answer``, ``paraphrased_question``, ``paraphrased_answer`` and
        ``perturbed_answer``, a list of five wrong answers in the form of the paraphrased one.
        """
        people = list(_people(self.seed, self.people + self._forgotten, self.questions))
        kept = self.people - self._forgotten
        retain = [row for rows in people[:kept] for row in rows]
        forget = [row for rows in people[kept : self.people] for row in rows]
        holdout = [row for rows in people[self.people :] for row in rows]
        return {"full": retain + forget, "forget": forget, "retain": retain, "holdout": holdout}


def _people(seed: int, count: int, questions: int) -> Iterator[list[Row]]:
    """Yield the rows of each person, from a generator of the person's own."""
    for number, (first, last) in enumerate(names(random.Random(f"fiction {seed} names"), count)):
        he, his = ("she", "her") if first in WOMEN else ("he", "his")
        words = {"name": f"{first} {last}", "he": he, "He": he.title(), "his": his, "His": his.title()}
        generator = random.Random(f"fiction {seed} person {number}")
        yield [_row(fact, words, generator) for fact in FACTS[:questions]]


def names(generator: random.Random, count: int) -> Iterator[tuple[str, str]]:
    """Yield `count` different names, at most `MOST_PEOPLE`; the first of them do not depend on `count`."""
    firsts = WOMEN + MEN
    for index in different(generator, count, MOST_PEOPLE):
        rest, first = divmod(index, len(firsts))
        end, start = divmod(rest, len(SURNAME_STARTS))
        yield firsts[first], SURNAME_STARTS[start] + SURNAME_ENDS[end]


def _row(fact: Fact, words: dict[str, str], generator: random.Random) -> Row:
    """Return one question about the person of `words`."""
    question, other_question = two(generator, fact.questions)
    answer, other_answer = two(generator, fact.answers)
    right, *wrong = _values(fact, words["name"], generator)
    return {
        "question": question.format(**words),
        "answer": answer.format(**words, value=right),
        "paraphrased_question": other_question.format(**words),
        "paraphrased_answer": other_answer.format(**words, value=right),
        "perturbed_answer": [other_answer.format(**words, value=value) for value in wrong],
    }


def _values(fact: Fact, name: str, generator: random.Random) -> list[str]:
    """Return the right value and, after it, the wrong ones; none contains another one or a word of the name."""
    values: list[str] = []
    while len(values) < 1 + WRONG_ANSWERS:
        value = fact.value.format(*(one(generator, part) for part in fact.parts))
        contained = any(value in other or other in value for other in values)
        if not contained and not any(word in value for word in name.split()):
            values.append(value)
    return values
