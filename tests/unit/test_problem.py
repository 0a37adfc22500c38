"""What a problem takes of the losses that others write: one value for each unit, or a sentence."""

import re

import pytest
import torch
from problems import rows

from amnestic.data.batches import pad_together
from amnestic.errors import RunError
from amnestic.model.reference import Seen
from amnestic.model.signals import Needs, Signals
from amnestic.training.problem import Term

BATCH = pad_together([("forget", row) for row in rows("forget")])
"""Four answers of 5, 3, 2 and 6 scored tokens."""


def values(unit, loss, **given):
    share = BATCH.shares["forget"]
    signals = Signals({"token_logp": torch.linspace(-2, -1, 16)}, share.row, 4)
    term = Term("forget", unit, Needs(head=frozenset({"token_logp"})), lambda model, _: loss(model[0]), **given)
    return term.values({"forget": signals}, Seen({"forget": Signals({}, share.row, 4)}, {}), BATCH)


@pytest.mark.parametrize(
    ("unit", "loss", "found", "expected"),
    [
        ("token", lambda model: model.token_logp.mean(), "values of shape ()", "(16,), one value for each token"),
        ("token", lambda model: model.token_logp[1:], "values of shape (15,)", "(16,), one value for each token"),
        ("answer", lambda model: model.token_logp, "values of shape (16,)", "(4,), one value for each answer"),
        ("token", lambda model: None, "NoneType", "(16,), one value for each token"),
        ("token", lambda model: 0.5, "float", "(16,), one value for each token"),
    ],
)
def test_a_loss_of_another_shape_is_refused(unit, loss, found, expected):
    """A mean in place of the values would otherwise be divided by their number once more, and nobody would see it."""
    sentence = f"the loss on the forget split returned {found}; expected shape {expected}: "
    with pytest.raises(RunError, match=f"^{re.escape(sentence)}"):
        values(unit, loss)


def test_first_tokens_that_do_not_count_have_values_too():
    """The loss is asked for all 16 tokens; of each of the four answers the first is then 0."""
    found = values("token", lambda model: model.token_logp, skips_first=True)
    assert [int(place) for place in (found == 0).nonzero().flatten()] == [0, 5, 8, 10]
