"""What an evaluation will do, counted before it starts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .continuations import prompt_key
from .needs import SweptNeed
from .subject import CONTINUATIONS, SCORES, Subject
from .sweeps import Order, judged_positions, norms_left, reading, row_key


@dataclass(frozen=True)
class Plan:
    """The work of a suite on one model, as far as it is known beforehand; what the store knows costs nothing."""

    sweeps: int
    """Distinct needs."""
    asked_rows: int
    """Rows that metrics read: one a need and row."""
    rows: int
    """Distinct ones."""
    known_rows: int
    """Of these, those that the store knows."""
    scored_tokens: int
    """Of the distinct rows, closing tokens among them."""
    positions: int
    """Fed to the model, padding included."""
    prompts: int
    """To be continued."""
    known_prompts: int
    answer_tokens: int
    """Of the true answers to the prompts that are not known: what a model that gives them all would generate."""
    gradients: int
    """Rows that take a backward pass."""
    judged: int = 0
    """Positions that the reference is fed to judge generated answers, were these the true ones."""

    @property
    def units(self) -> int:
        """Return what the sweeps tell of as their progress: positions, tokens of true answers, and rows backward."""
        return self.positions + self.answer_tokens + self.gradients + self.judged

    @property
    def facts(self) -> dict[str, Any]:
        """Return the plan in words, for people."""
        facts: dict[str, Any] = {
            "sweeps": self.sweeps,
            "rows to score": f"{self.rows:,} distinct ones of {self.asked_rows:,}" + _known(self.known_rows),
            "tokens to score": f"{self.scored_tokens:,}",
            "positions to feed": f"{self.positions:,}",
            "prompts to continue": f"{self.prompts:,}" + _known(self.known_prompts),
        }
        return facts | ({"rows to differentiate": f"{self.gradients:,}"} if self.gradients else {})


def planned(subject: Subject, needs: Sequence[SweptNeed]) -> Plan:
    """Return the work of `needs`; what the reference makes of generated answers is not known beforehand."""
    order = Order.of(needs)
    asked, distinct, positions, known, tokens = 0, 0, 0, 0, 0
    for loaded in {id(subject.reader(need)): subject.reader(need) for need in order.scored}.values():
        rows = [row for need in order.scored if subject.reader(need) is loaded for row in subject.rows(need).rows]
        every = {row_key(row): row.scored for row in rows}
        found = subject.store.find(subject.name(loaded), SCORES, every)
        asked, distinct, known = asked + len(rows), distinct + len(every), known + len(found)
        tokens += sum(every.values())
        positions += reading(subject, loaded, rows).positions
    prompts = {
        prompt_key(subject, row, subject.continuing(need.split)): row
        for need in order.continued
        for row in subject.splits[need.split]
    }
    continued = subject.store.find(subject.name(subject.loaded), CONTINUATIONS, prompts)
    left = [row for key, row in prompts.items() if key not in continued]
    return Plan(
        sweeps=len(order.scored) + len(order.continued) + len(order.generated) + len(order.norms),
        asked_rows=asked,
        rows=distinct,
        known_rows=known,
        scored_tokens=tokens,
        positions=positions,
        prompts=len(prompts),
        known_prompts=len(continued),
        answer_tokens=sum(row.scored for row in left),
        gradients=sum(len(norms_left(subject, subject.splits[need.split])) for need in order.norms),
        judged=sum(judged_positions(subject, need) for need in order.generated),
    )


def vocabulary_rows(subject: Subject, needs: Sequence[SweptNeed]) -> int:
    """Return for how many rows logits are computed: of tokens that several rows share, once."""
    order, found = Order.of(needs), 0
    for loaded in {id(subject.reader(need)): subject.reader(need) for need in order.scored}.values():
        rows = [row for need in order.scored if subject.reader(need) is loaded for row in subject.rows(need).rows]
        found += reading(subject, loaded, rows).vocabulary_rows()
    return found


def _known(count: int) -> str:
    return f", of which {count:,} are known" if count else ""
