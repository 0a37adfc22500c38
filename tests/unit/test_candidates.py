"""Which candidate is kept, and whether its weights really come back."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open

from amnestic.constraints.bound import Bound, Probe, Reached, Sums
from amnestic.errors import RunError
from amnestic.model.load import load
from amnestic.model.options import ModelOptions
from amnestic.training.candidates import Candidate, Candidates

LIMIT = 0.5


def one(loss: float) -> Sums:
    """Return the losses of a probe of one example with one token: its mean and its upper limit are `loss`."""
    return Sums(np.array([loss]), np.array([1]))


PROBE = Probe(Bound("bound", LIMIT), one(0.1), whole_split=False)
PROBES = {"retain": PROBE}
TWO = {"retain": PROBE, "context": Probe(Bound("bound", 0.2), one(0.1), whole_split=True)}


class Script:
    """Returns one measurement after another, and notes the weights that it was taken on."""

    def __init__(self, loaded, measurements) -> None:
        self.loaded = loaded
        self.measurements = iter(measurements)
        self.seen: list[dict[str, torch.Tensor]] = []

    def __call__(self) -> tuple[float, dict[str, Sums]]:
        self.seen.append(weights(self.loaded))
        forget, *losses = next(self.measurements)
        return forget, {name: one(loss) for name, loss in zip(TWO, losses, strict=False)}


def weights(loaded) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in loaded.model.named_parameters()}


def shift(loaded, by: float) -> None:
    with torch.no_grad():
        for value in loaded.model.parameters():
            value.add_(by)


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


@pytest.fixture
def tiny(tiny_model):
    """Load a tiny model: tied or not, computed and saved in these precisions."""

    def make(tied: bool = True, dtype: str = "float32", saved: str = "float32"):
        return load(ModelOptions(model=str(tiny_model(tied=tied, dtype=saved)), dtype=dtype, device="cpu"))

    return make


@pytest.mark.parametrize(
    ("measurements", "kept"),
    [
        pytest.param([(3.0, 0.4), (2.0, 0.4), (2.5, 0.4)], 2, id="lowest forget loss of those that hold"),
        pytest.param([(2.0, 0.4), (2.0, 0.45), (3.0, 0.1)], 2, id="tie goes to the later"),
        pytest.param([(3.0, 0.4), (1.0, 0.6), (0.0, 0.51)], 1, id="holding comes before forgetting"),
        pytest.param([(1.0, 0.6), (9.0, 0.5), (0.5, 0.7)], 2, id="a loss at the bound holds it"),
        pytest.param([(1.0, 0.7), (9.0, 0.6), (0.5, 0.65)], 2, id="none holds: smallest violation"),
        pytest.param([(1.0, 0.6), (9.0, 0.6), (0.5, 0.7)], 2, id="none holds: tie goes to the later"),
        pytest.param([(1.0, 0.9)], 1, id="the only one"),
    ],
)
def test_rules_of_choice(tiny, tmp_path, measurements, kept):
    loaded = tiny()
    candidates = Candidates(loaded, PROBES, Script(loaded, measurements), tmp_path)
    states = {}
    for step in range(1, len(measurements) + 1):
        shift(loaded, 0.25)
        states[step] = weights(loaded)
        candidates.add(step, step / 2)
    chosen = candidates.restore()
    assert chosen.step == kept
    assert (chosen.forget_loss, chosen.reached["retain"].reached) == measurements[kept - 1]
    assert [candidate.step for candidate in candidates.all] == list(states)
    assert_same(weights(loaded), states[kept])


@pytest.mark.parametrize(
    ("measurements", "kept"),
    [
        pytest.param([(3.0, 0.4, 0.1), (1.0, 0.4, 0.3), (0.5, 0.6, 0.1)], 1, id="both must hold"),
        pytest.param([(3.0, 0.4, 0.1), (2.0, 0.4, 0.2), (9.0, 0.1, 0.1)], 2, id="lowest forget loss where both hold"),
        pytest.param([(1.0, 0.1, 0.5), (1.0, 0.7, 0.1), (1.0, 0.1, 0.6)], 2, id="the larger violation counts"),
    ],
)
def test_rules_of_choice_with_several_bounds(tiny, tmp_path, measurements, kept):
    """The bounds are 0.5 and 0.2; the violations of the last case are 0.3, 0.2 and 0.4."""
    loaded = tiny()
    candidates = Candidates(loaded, TWO, Script(loaded, measurements), tmp_path)
    for step in range(1, len(measurements) + 1):
        shift(loaded, 0.25)
        candidates.add(step, step / 2)
    assert candidates.restore().step == kept
    again = Candidates(loaded, TWO, Script(loaded, []), tmp_path / "again")
    again.resume(json.loads(json.dumps(candidates.states)), candidates.path)
    assert again.all == candidates.all
    assert again.restore().step == kept


def test_confidence_decides_where_the_probe_is_a_sample(tiny, tmp_path):
    """Means 0.45 and 0.4 are below 0.5, but the first's upper limit is not: its forget loss does not count."""
    uncertain = Sums(np.array([0.0, 0.9] * 10), np.ones(20, dtype=np.int64))
    certain = Sums(np.full(20, 0.4), np.ones(20, dtype=np.int64))
    measurements = iter([(1.0, {"retain": uncertain}), (2.0, {"retain": certain})])
    probe = Probe(Bound("bound", LIMIT), certain, whole_split=False)
    candidates = Candidates(tiny(), {"retain": probe}, lambda: next(measurements), tmp_path)
    assert not candidates.add(1, 1.0).holds
    assert candidates.add(2, 2.0).holds
    assert candidates.restore().step == 2


@pytest.mark.parametrize("tied", [True, False])
def test_tied_weights_are_kept_once_and_stay_tied(tiny, tmp_path, tied):
    loaded = tiny(tied=tied)
    candidates = Candidates(loaded, PROBES, Script(loaded, [(1.0, 0.1)]), tmp_path)
    before = weights(loaded)
    candidates.add(1, 1.0)
    with safe_open(next(candidates.path.iterdir()), "pt") as file:
        assert set(file.keys()) == set(before)
        assert ("lm_head.weight" in file.keys()) is not tied  # noqa: SIM118
    shift(loaded, 1.0)
    candidates.restore()
    assert_same(weights(loaded), before)
    embedding, head = loaded.model.get_input_embeddings().weight, loaded.model.get_output_embeddings().weight
    assert (embedding is head) is tied


def test_the_folder_holds_the_best_weights_and_nothing_else(tiny, tmp_path):
    loaded = tiny()
    candidates = Candidates(loaded, PROBES, Script(loaded, [(2.0, 0.1), (1.0, 0.1)]), tmp_path / "checkpoints")
    candidates.add(1, 1.0)
    candidates.add(2, 2.0)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["candidate"]
    candidates.restore()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["candidate"]


def test_candidates_go_on_from_a_checkpoint(tiny, tmp_path):
    """The third candidate forgets less than the best of the two before: the weights of that one come back."""
    loaded = tiny()
    first = Candidates(loaded, PROBES, Script(loaded, [(2.0, 0.1), (1.0, 0.1)]), tmp_path / "first")
    first.add(1, 1.0)
    shift(loaded, 0.5)
    first.add(2, 2.0)
    best = weights(loaded)
    second = Candidates(loaded, PROBES, Script(loaded, [(1.5, 0.1)]), tmp_path / "second")
    second.resume(json.loads(json.dumps(first.states)), first.path)
    shift(loaded, 0.5)
    second.add(3, 3.0)
    assert [candidate.step for candidate in second.all] == [1, 2, 3]
    assert second.all[:2] == first.all
    assert second.restore().step == 2
    assert_same(weights(loaded), best)


def test_measured_on_weights_as_saved_and_trained_on_with_exact_ones(tiny, tmp_path):
    """A bfloat16 model that is computed in float32 moves by less than bfloat16 can hold."""
    loaded = tiny(dtype="float32", saved="bfloat16")
    script = Script(loaded, [(1.0, 0.1), (1.0, 0.2)])
    candidates = Candidates(loaded, PROBES, script, tmp_path)
    for step in (1, 2):
        shift(loaded, 1e-3)
        exact = weights(loaded)
        rounded = {name: value.bfloat16().float() for name, value in exact.items()}
        assert not all(torch.equal(exact[name], rounded[name]) for name in exact)
        candidates.add(step, step)
        assert_same(script.seen[-1], rounded)
        assert_same(weights(loaded), exact)
    with safe_open(next(candidates.path.iterdir()), "pt") as file:
        assert {file.get_tensor(name).dtype for name in exact} == {torch.bfloat16}
    candidates.restore()
    assert_same(weights(loaded), rounded)
    assert loaded.model.dtype == torch.float32


def test_a_model_computed_in_less_than_it_is_saved_in_is_kept_as_it_is(tiny, tmp_path):
    loaded = tiny(dtype="bfloat16", saved="float32")
    candidates = Candidates(loaded, PROBES, Script(loaded, [(1.0, 0.1)]), tmp_path)
    before = weights(loaded)
    candidates.add(1, 1.0)
    shift(loaded, 1.0)
    candidates.restore()
    assert_same(weights(loaded), before)
    assert loaded.model.dtype == torch.bfloat16


def test_exact_weights_come_back_where_measuring_fails(tiny, tmp_path):
    loaded = tiny(dtype="float32", saved="bfloat16")
    shift(loaded, 1e-3)
    exact = weights(loaded)

    def fail():
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        Candidates(loaded, PROBES, fail, tmp_path).add(1, 1.0)
    assert_same(weights(loaded), exact)
    assert list(tmp_path.iterdir()) == []


def test_without_a_candidate_there_is_nothing_to_restore(tiny, tmp_path):
    loaded = tiny()
    with pytest.raises(RunError, match=r"^no candidate was measured; expected at least one optimiser step\.$"):
        Candidates(loaded, PROBES, Script(loaded, []), tmp_path).restore()


def test_kept_weights_that_cannot_be_read_are_one_sentence(tiny, tmp_path):
    loaded = tiny()
    candidates = Candidates(loaded, PROBES, Script(loaded, [(1.0, 0.1)]), tmp_path)
    candidates.add(1, 1.0)
    (file,) = candidates.path.iterdir()
    file.write_bytes(b"\xff" * file.stat().st_size)
    sentence = rf"^the best candidate's weights in {candidates.path} cannot be read \(.*header.*\)\.$"
    with pytest.raises(RunError, match=sentence):
        candidates.restore()


def test_record_of_a_candidate():
    candidate = Candidate(8, 2.0, 0.25, {"retain": Reached(0.1, 0.2, True, -0.3)})
    assert candidate.record == {
        "step": 8,
        "epoch": 2.0,
        "forget_loss": 0.25,
        "reached": 0.1,
        "upper_limit": 0.2,
        "holds": True,
    }


def test_record_of_a_candidate_under_several_bounds():
    """It holds where all are held."""
    reached = {"retain": Reached(0.1, 0.2, True, -0.3), "context": Reached(0.4, 0.45, False, 0.2)}
    assert Candidate(8, 2.0, 0.25, reached).record == {
        "step": 8,
        "epoch": 2.0,
        "forget_loss": 0.25,
        "reached": 0.1,
        "upper_limit": 0.2,
        "context_reached": 0.4,
        "holds": False,
    }
