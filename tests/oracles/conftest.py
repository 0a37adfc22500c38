"""Tables of likelihoods made by hand, without a model."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from amnestic.evaluation.metric import Likelihoods

Table = Callable[..., Likelihoods]


@pytest.fixture(scope="session")
def table() -> Table:
    """Make a table: ``table([-0.1, -0.2], [-3.0])`` has two rows, with these log-probabilities of their tokens.

    A token is the argmax where `hits` say so, or else where its probability exceeds a half. Every row closes unless
    `closes` says otherwise; moments are 0 unless given for each token.
    """

    def make(
        *rows: Sequence[float],
        hits: Sequence[Sequence[bool]] | None = None,
        closes: Sequence[bool] | None = None,
        moments: Sequence[Sequence[float]] | None = None,
        example: Sequence[int] | None = None,
        answers: Sequence[str] | None = None,
    ) -> Likelihoods:
        logp = np.concatenate([np.asarray(row, dtype=float) for row in rows])
        return Likelihoods(
            logp=logp,
            is_argmax=np.concatenate([np.asarray(row, dtype=bool) for row in hits]) if hits else logp > np.log(0.5),
            margin=np.zeros(len(logp)),
            moments=np.zeros((len(logp), 2)) if moments is None else np.asarray(moments, dtype=float),
            counts=np.array([len(row) for row in rows]),
            closes=np.array([True] * len(rows) if closes is None else closes),
            example=np.arange(len(rows)) if example is None else np.asarray(example),
            answers=[f"answer {i}" for i in range(len(rows))] if answers is None else list(answers),
        )

    return make


@pytest.fixture(scope="session")
def losses(table: Table) -> Table:
    """Make a table of answers of one token each, from their losses: ``losses([0.5, 1.0], example=[0, 0])``."""

    def make(values: Sequence[float], **more: Sequence[int]) -> Likelihoods:
        return table(*([-value] for value in values), **more)

    return make
