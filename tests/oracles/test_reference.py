"""What is read of the reference: cached, live and plain say the same, whatever the model has learned since.

The oracle is one float64 pass an example over a copy of the model, full logits (1, T, V), written out.
"""

from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from problems import Case, packed, rows, seconds

from amnestic.constraints.multiplier import Fixed
from amnestic.constraints.retention import KL, NLL, HiddenDistance, Retention
from amnestic.data.batches import SECOND, Batch, nothing, pack, pad_together
from amnestic.data.cuts import Budget
from amnestic.errors import InputError
from amnestic.methods.base import Method, build
from amnestic.model import blocks
from amnestic.model.compiling import compiled
from amnestic.model.head import CrossEntropyTo, Reference
from amnestic.model.load import adapt, as_saved, checkpointed, load
from amnestic.model.options import AdapterOptions, ModelOptions
from amnestic.model.reference import Asked, Demand
from amnestic.model.signals import Needs, read
from amnestic.training.problem import Problem, forget_term, retain_term
from amnestic.training.remembered import FILE, Remembered

SHIFT = 3.0
BLOCK = 0


@dataclass(frozen=True)
class Reading(Method):
    """A method that reads all kinds of signals of the reference, and a second answer."""

    unit = "answer"
    alternate = "refusal"
    needs = Needs(head=frozenset({"token_logp", CrossEntropyTo(Reference(SHIFT))}), hidden=frozenset({BLOCK}))
    reference_needs = Needs(head=frozenset({"token_logp", "moments"}), hidden=frozenset({BLOCK}))
    retention = ()

    def objective(self, model, reference):
        total = torch.zeros(model.forget.answers)
        for own, other in ((model.forget, reference.forget), (model.alternate, reference.alternate)):
            values = own.cross_entropy + other.moments[:, 0] + (own.token_logp - other.token_logp) * 2
            values = values + (own.hidden(BLOCK) - other.hidden(BLOCK)).square().mean(-1)
            total = total.index_add(0, own.row, values * (1 if own is model.forget else 3))
        return total


@pytest.fixture
def loaded(tiny_model):
    found = load(ModelOptions(model=str(tiny_model(spare_rows=3)), device="cpu"))
    assert found.form.fuses is False  # until it is examined
    return replace(found, form=replace(found.form, fuses=True))


def moved(model):
    """Change all weights of `model`, as training does."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)


def expected(model, before, known: int) -> list[float]:
    """Return the value of each answer of `Reading`, from both models in float64."""
    model, before = deepcopy(model).double(), deepcopy(before).double()
    found = []
    for row in rows("forget"):
        total = 0.0
        for weight, one in ((1, row), (3, seconds(rows("forget"))[row.id])):
            ids = torch.from_numpy(one.input_ids)[None]
            at = np.flatnonzero(one.is_scored) - 1
            with torch.no_grad():
                outs = [m(input_ids=ids, use_cache=False, output_hidden_states=True) for m in (model, before)]
            own, other = (out.logits[0, at] for out in outs)
            targets = ids[0, at + 1]
            places = torch.arange(len(at))
            shifted = other[:, :known].clone()
            shifted[places, targets] -= SHIFT
            crossed = -(shifted.softmax(-1) * own[:, :known].log_softmax(-1)).sum(-1)
            logp, log_before = own.log_softmax(-1), other.log_softmax(-1)
            entropy = -(log_before.exp() * log_before).sum(-1)
            ratio = logp[places, targets] - log_before[places, targets]
            first, second = (out.hidden_states[BLOCK + 1][0, at] for out in outs)
            values = crossed - entropy + 2 * ratio + (first - second).square().mean(-1)
            total += weight * values.sum().item()
        found.append(total)
    return found


@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize("mode", ["cached", "live"])
@pytest.mark.parametrize("fuses", [False, True])
def test_cached_and_live_say_what_the_model_was(loaded, tmp_path, mode, packs, fuses):
    loaded = packed(replace(loaded, form=replace(loaded.form, fuses=fuses)), packs)
    case = Case(loaded, Reading(), ())
    if mode == "cached" and not fuses:
        with pytest.raises(InputError, match=r"is no plain linear layer, .* --reference_mode live"):
            case.problem(tmp_path, mode)
        return
    before = deepcopy(loaded.model)
    problem = case.problem(tmp_path, mode)
    moved(loaded.model)
    wanted = expected(loaded.model, before, loaded.vocabulary)
    (sums,) = problem.measure("forget", case.rows["forget"], 2)
    np.testing.assert_allclose(sums.sums, wanted, rtol=2e-5)
    for budget in (Budget(1000, packs=packs), Budget(20, packs=packs)):
        batches = case.batches(budget, problem.joint)
        total = sum(problem.values(batch)[0].item() for batch in batches)
        assert total == pytest.approx(sum(wanted), rel=2e-5)
    assert (tmp_path / FILE).exists() == (mode == "cached")


def test_a_run_that_goes_on_reads_what_was_kept(loaded, tmp_path, monkeypatch):
    """Also where so little memory is free by now that it would not be kept in the first place."""
    case = Case(loaded, Reading(), ())
    first = case.problem(tmp_path)
    moved(loaded.model)  # as a model that was loaded anew is not; what was kept decides
    monkeypatch.setattr("amnestic.model.reference.free_memory", lambda device: 0)
    how = Remembered("auto", False, 2, tmp_path / "other", is_written_here=True, earlier=tmp_path)
    again = how.complete(replace(first, reference=None), case.rows)
    for key, value in first.reference.state.items():
        assert torch.equal(value, again.reference.state[key])
    assert not (tmp_path / "other").exists()


def test_a_broken_file_is_one_sentence(loaded, tmp_path):
    case = Case(loaded, Reading(), ())
    (tmp_path / FILE).write_bytes(b"nothing")
    how = Remembered("auto", False, 2, tmp_path / "other", is_written_here=True, earlier=tmp_path)
    with pytest.raises(InputError, match=r"reference.safetensors cannot be read \(.*\); remove it"):
        how.complete(replace(case.problem(tmp_path / "first"), reference=None), case.rows)


@pytest.mark.parametrize("mode", ["cached", "live"])
def test_with_an_adapter_the_same_weights_are_the_reference(loaded, tmp_path, mode):
    """No second model: the base weights are shared, and the adapter is off while the reference is read."""
    before = deepcopy(loaded.model)
    adapt(loaded, AdapterOptions(use_peft=True, lora_r=2, lora_target_modules=("all-linear",)), seed=0)
    case = Case(loaded, Reading(), ())
    problem = case.problem(tmp_path, mode)
    trained = {name for name, parameter in loaded.model.named_parameters() if parameter.requires_grad}
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.02)
    (sums,) = problem.measure("forget", case.rows["forget"], 2)
    assert trained == {name for name, parameter in loaded.model.named_parameters() if parameter.requires_grad}
    with_adapter = deepcopy(loaded.model)
    np.testing.assert_allclose(sums.sums, expected(with_adapter, before, loaded.vocabulary), rtol=2e-5)
    if mode == "live":
        assert problem.reference.model is loaded.model
    else:
        weight = problem.reference.head.pairs[0][1]
        assert weight.data_ptr() == loaded.model.get_output_embeddings().weight.data_ptr()  # frozen: not copied


@pytest.mark.parametrize("mode", ["cached", "live"])
def test_a_merged_adapter_is_no_part_of_the_reference(tiny_model, tmp_path, mode):
    """Candidates are measured merged where the run saves the model so: the head's weights are other ones then, too."""
    loaded = load(ModelOptions(model=str(tiny_model(tied=False, spare_rows=3)), device="cpu"))
    loaded = replace(loaded, form=replace(loaded.form, fuses=True))
    before = deepcopy(loaded.model)
    names = ("q_proj", "down_proj", "lm_head")
    adapt(loaded, AdapterOptions(use_peft=True, merge=True, lora_r=2, lora_target_modules=names), seed=0)
    case = Case(loaded, Reading(), ())
    problem = case.problem(tmp_path, mode)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
    weights = case.weights()
    wanted = expected(deepcopy(loaded.model), before, loaded.vocabulary)
    with as_saved(loaded):
        merged = case.weights()
        (sums,) = problem.measure("forget", case.rows["forget"], 2)
        assert all(torch.equal(merged[name], value) for name, value in case.weights().items())
    np.testing.assert_allclose(sums.sums, wanted, rtol=1e-4)
    assert all(torch.equal(weights[name], value) for name, value in case.weights().items())


def test_divergence_and_distance_begin_at_0_and_are_what_they_say(loaded, tmp_path):
    """KL(before || now) over the whole vocabulary, in float64; the squared distance of block 1."""
    retentions = (Retention(KL(), Fixed()), Retention(HiddenDistance(1), Fixed()))
    case = Case(loaded, Reading(), retentions)
    before = deepcopy(loaded.model)
    problem = case.problem(tmp_path).of(list(map(retain_term, retentions)))
    for sums in problem.measure("retain", case.rows["retain"], 2):
        np.testing.assert_allclose(sums.sums, 0.0, atol=2e-5)
    moved(loaded.model)
    found = problem.measure("retain", case.rows["retain"], 2)
    models = [deepcopy(model).double() for model in (loaded.model, before)]
    for i, row in enumerate(case.rows["retain"]):
        ids, at = torch.from_numpy(row.input_ids)[None], np.flatnonzero(row.is_scored) - 1
        with torch.no_grad():
            outs = [model(input_ids=ids, use_cache=False).logits[0, at].log_softmax(-1) for model in models]
        own, other = outs
        assert found[0].sums[i] == pytest.approx((other.exp() * (other - own)).sum().item(), rel=1e-4)
        hidden = []
        for model in models:
            kept = []
            hook = model.model.layers[1].register_forward_hook(lambda _, __, out, kept=kept: kept.append(out))
            with torch.no_grad():
                model(input_ids=ids, use_cache=False)
            hook.remove()
            hidden.append((kept[0][0] if isinstance(kept[0], tuple) else kept[0])[0, at])
        distance = (hidden[0] - hidden[1]).square().mean(-1).sum().item()
        assert found[1].sums[i] == pytest.approx(distance, rel=1e-4)


@pytest.mark.parametrize("fuses", [False, True])
@pytest.mark.parametrize("name", ["undial", "ceu"])
def test_a_method_and_a_divergence_may_read_the_same_rows(loaded, tmp_path, name, fuses):
    """As where the context of marked spans is held: each term is what it is alone."""
    loaded = replace(loaded, form=replace(loaded.form, fuses=fuses))
    held = Retention(KL(), Fixed(), "forget")
    case = Case(loaded, build(name, {}), (held,))
    problem = case.problem(tmp_path, "live")
    moved(loaded.model)
    both = problem.measure("forget", case.rows["forget"], 2)
    for term, sums in zip(problem.terms, both, strict=True):
        (alone,) = problem.of([term]).measure("forget", case.rows["forget"], 2)
        np.testing.assert_allclose(sums.sums, alone.sums, rtol=1e-6)
    assert not np.allclose(both[0].mean, both[1].mean)


def counted(model) -> dict[str, int]:
    """Count the calls of each block, and the rows that are multiplied with the head's weights."""
    calls: dict[str, int] = {}
    for number, block in enumerate(model.model.layers):
        name = f"block {number}"
        calls[name] = 0
        block.register_forward_hook(lambda *_, name=name: calls.__setitem__(name, calls[name] + 1))
    return calls


def test_no_block_behind_the_one_that_is_read_runs_nor_the_head(loaded, monkeypatch):
    calls = counted(loaded.model)
    products = []
    original = torch.nn.functional.linear
    head = loaded.model.get_output_embeddings().weight

    def linear(hidden, weight, *rest):
        products.append(weight.data_ptr() == head.data_ptr())
        return original(hidden, weight, *rest)

    monkeypatch.setattr(torch.nn.functional, "linear", linear)
    batch = pad_together([("forget", row) for row in rows("forget")])
    found = read(loaded.model, batch, {"forget": Needs(hidden=frozenset({0}))}, 320, loaded.form)["forget"]
    assert calls == {"block 0": 1, "block 1": 0}
    assert not any(products)
    assert found.hidden(0).shape == (len(batch.targets), 32)
    found.hidden(0).sum().backward()
    assert loaded.model.model.layers[0].mlp.down_proj.weight.grad is not None
    assert loaded.model.model.layers[1].mlp.down_proj.weight.grad is None
    assert len(loaded.model.model.layers) == 2


@pytest.mark.parametrize("make", [pad_together, pack])
def test_splits_of_which_fewer_blocks_are_read_run_apart(loaded, make, tmp_path):
    """Forget rows end at block 0; the likelihood of retain rows needs the whole model."""

    class Shallow(Method):
        needs = Needs(hidden=frozenset({0}))

        def objective(self, model, reference):
            return model.forget.hidden(0).square().mean(-1)

    loaded = packed(loaded, make is pack)
    case = Case(loaded, Shallow(), (Retention(NLL(), Fixed()),))
    problem = case.problem(tmp_path)
    batches = case.batches(Budget(1000, packs=make is pack), problem.joint)
    assert [set(batch.shares) for batch in batches] == [{"forget"}, {"retain"}]
    calls = counted(loaded.model)
    for batch in batches:
        problem.values(batch)
    assert calls == {"block 0": 2, "block 1": 1}


@pytest.mark.parametrize("last", [0, 1])
def test_hidden_rows_have_their_gradient_with_activations_computed_again(loaded, last):
    batch = pad_together([("forget", row) for row in rows("forget")])
    needs = {"forget": Needs(hidden=frozenset({last}))}

    def gradient() -> torch.Tensor:
        read(loaded.model, batch, needs, 320, loaded.form)["forget"].hidden(last).square().sum().backward()
        weight = loaded.model.model.layers[0].mlp.down_proj.weight
        found, weight.grad = weight.grad, None
        loaded.model.zero_grad()
        return found

    plain = gradient()
    with checkpointed(loaded, on=True):
        torch.testing.assert_close(gradient(), plain)


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch's own tracing looks at it
def test_hidden_rows_are_read_of_compiled_blocks_as_well(loaded):
    batch = pad_together([("forget", row) for row in rows("forget")])
    needs = {"forget": Needs(hidden=frozenset({0}))}
    plain = read(loaded.model, batch, needs, 320, loaded.form)["forget"].hidden(0)
    with compiled(loaded.model, "eager"):
        for _ in range(2):  # compiled by the first pass
            found = read(loaded.model, batch, needs, 320, loaded.form)["forget"].hidden(0)
            torch.testing.assert_close(found, plain)
            loaded.model(input_ids=batch.input_ids, use_cache=False)


@pytest.mark.parametrize("fuses", [False, True])
def test_unshifted_margins_stand_one_position_later(loaded, fuses):
    batch = pad_together([("forget", row) for row in rows("forget")] + [("retain", row) for row in rows("retain")])
    needs = {
        "forget": Needs(head=frozenset({"token_logp"}), unshifted=frozenset({"margin"})),
        "retain": Needs(head=frozenset({"margin"})),
    }
    found = read(loaded.model, batch, needs, loaded.vocabulary, replace(loaded.form, fuses=fuses))
    plain = loaded.model(input_ids=batch.input_ids, use_cache=False).logits.double()
    for split, later, values in (
        ("forget", 1, found["forget"].unshifted_margin),
        ("retain", 0, found["retain"].margin),
    ):
        at = batch.shares[split].of(batch.positions) + later
        logits = plain.flatten(0, 1)[at][:, : loaded.vocabulary]
        torch.testing.assert_close(values.double(), logits.max(-1).values - logits.mean(-1), rtol=1e-5, atol=1e-5)
    logp = plain.flatten(0, 1)[batch.shares["forget"].of(batch.positions)].log_softmax(-1)
    wanted = logp.gather(-1, batch.shares["forget"].of(batch.targets)[:, None]).squeeze(-1)
    torch.testing.assert_close(found["forget"].token_logp.double(), wanted, rtol=1e-5, atol=1e-5)
    with pytest.raises(
        AttributeError, match=r"signal 'margin' was not declared; declared: token_logp, unshifted_margin"
    ):
        found["forget"].margin  # noqa: B018


def test_the_first_token_of_each_answer_is_left_out_of_sum_and_count(loaded, tmp_path):
    """Answers of 5, 3, 2 and 6 tokens: 12 units, and each mean as if the first token did not exist."""

    class Later(Method):
        needs = Needs(head=frozenset({"token_logp"}))
        skips_first = True

        def objective(self, model, reference):
            return model.forget.token_logp

    case = Case(loaded, Later(), ())
    problem = case.problem(tmp_path)
    batch = pad_together([("forget", row) for row in case.rows["forget"]])
    assert problem.counts(batch) == [12]
    logp = read(loaded.model, batch, {"forget": Later.needs}, 320, loaded.form)["forget"]
    is_later = torch.cat([torch.tensor([False]), logp.row[1:] == logp.row[:-1]])
    assert problem.values(batch)[0].item() == pytest.approx(logp.token_logp[is_later].sum().item(), rel=1e-6)
    (sums,) = problem.measure("forget", case.rows["forget"], 2)
    assert sums.counts.tolist() == [4, 2, 1, 5]
    assert sums.sums.sum() == pytest.approx(logp.token_logp[is_later].sum().item(), rel=1e-6)


def test_second_answers_stand_beside_their_own_in_every_cut(loaded):
    forget = rows("forget")
    case = Case(loaded, Reading(), ())
    for packs in (False, True):
        for tokens in (1, 20, 30, 1000):
            joint = Problem((forget_term(Reading()),), loaded.model, 320, second=seconds(forget)).joint
            for batch in case.batches(Budget(tokens, packs=packs), joint):
                if "forget" not in batch.shares:
                    continue
                first, second = batch.shares["forget"], batch.shares[SECOND]
                assert sorted(first.ids) == sorted(second.ids)
                _targets_are_those_of(batch, forget)


def _targets_are_those_of(batch: Batch, forget) -> None:
    """Each answer of both splits, told by the number that it has among the first, is that example's."""
    by_id = {row.id: row for row in forget}
    for split, source in (("forget", by_id), (SECOND, seconds(forget))):
        share = batch.shares[split]
        targets = share.of(batch.targets)
        for number, id in enumerate(batch.shares["forget"].ids):
            row = source[id]
            assert targets[share.row == number].tolist() == row.input_ids[row.is_scored].tolist()


def test_the_reference_is_cached_where_it_is_small(loaded, monkeypatch):
    examples = {"retain": rows("retain")}
    rows_of = sum(row.scored for row in examples["retain"])
    asked = Asked(loaded.model, loaded.form, 320, {"retain": Demand(Needs(), projects=True)}, examples)
    assert asked.bytes == rows_of * 32 * 4
    for free, is_cached in ((None, True), (asked.bytes * 4, True), (asked.bytes * 4 - 4, False)):
        monkeypatch.setattr("amnestic.model.reference.free_memory", lambda device, free=free: free)
        assert asked.is_cached("auto") is is_cached
        assert asked.is_cached("cached")
        assert not asked.is_cached("live")
    monkeypatch.setattr("amnestic.processes.gathered", lambda size: [size, asked.bytes * 4 - 4])
    monkeypatch.setattr("amnestic.model.reference.free_memory", lambda device: asked.bytes * 4)
    assert not asked.is_cached("auto")  # another process of the run has less
    numbers = replace(asked, demands={"retain": Demand(Needs(head=frozenset({"token_logp"})))})
    monkeypatch.setattr("amnestic.model.reference.free_memory", lambda device: 0)
    assert numbers.bytes == 0
    assert numbers.is_cached("auto")


def test_only_what_a_method_moves_has_gradients(loaded):
    names = {name for name, parameter in loaded.model.named_parameters() if parameter.requires_grad}
    with blocks.moving(loaded.model, blocks.Moves(frozenset({1}))):
        found = {name for name, parameter in loaded.model.named_parameters() if parameter.requires_grad}
        assert found == {"model.layers.1.mlp.down_proj.weight"}
    assert names == {name for name, parameter in loaded.model.named_parameters() if parameter.requires_grad}


def test_a_batch_without_rows_has_no_second_answers_either(loaded, tmp_path):
    problem = Case(loaded, Reading(), ()).problem(tmp_path)
    values = problem.values(nothing(["forget"]))
    assert values.tolist() == [0.0]
    assert values.requires_grad
