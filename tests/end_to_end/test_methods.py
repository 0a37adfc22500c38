"""Every method on a small model that knows its answers by heart: by its defaults it forgets, and holds its bound."""

import pytest

from amnestic.methods.base import METHODS

SETTINGS = {"keep": 0.95, "num_train_epochs": 24, "metrics": "probability,token_probability,rouge"}
"""Twice as many steps as the tests of one method take: what is gentle needs them."""
FASTER = {"rmu": {"learning_rate": 1e-2}}
"""It moves a few matrices, and was published with five times the learning rate of others."""
KNOWS = 0.9


@pytest.mark.parametrize("name", [name for name in METHODS.names() if METHODS.get(name).in_all])
def test_every_method_forgets_and_holds(unlearn, forgetting, name):
    """The bound is held on the whole retain split; answers have half the probability, or half the words, at most."""
    run = unlearn(method=name, **forgetting | SETTINGS | FASTER.get(name, {}))
    assert run.status == 0, run.results["verdict"]
    results = run.results
    before, after = results["reference_metrics"], results["metrics"]
    assert before["forget.probability"] > KNOWS
    assert after["retain.token_probability"] >= 0.95 * before["retain.token_probability"] - 1e-6
    forgotten = {key: after[key] / before[key] for key in ("forget.probability", "forget.rouge")}
    assert min(forgotten.values()) < 0.5, forgotten
