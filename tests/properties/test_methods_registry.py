"""What every registered method must do, the moment it exists: on three architectures, with and without an adapter."""

import math
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from problems import CONTROLS, Case, packed, rows, seconds
from tiny import write_tokenizer

from amnestic.constraints.multiplier import Bounded, Fixed
from amnestic.constraints.retention import KL, NLL, HiddenDistance, Retention
from amnestic.data.batches import pad_together
from amnestic.data.cuts import Budget
from amnestic.methods.base import METHODS, Method, build
from amnestic.model import blocks
from amnestic.model.form import examine
from amnestic.model.load import adapt, load, prepare
from amnestic.model.options import AdapterOptions, ModelOptions
from amnestic.model.packing import examine_packing
from amnestic.model.signals import Needs, read
from amnestic.training.problem import Problem, forget_term, retain_term

every_method = pytest.mark.parametrize("name", METHODS.names())
SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
TOKENS = {"vocab_size": 328, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 64}
KINDS = {
    "Llama": SMALL | TOKENS | {"num_key_value_heads": 1, "initializer_range": 0.2, "tie_word_embeddings": False},
    "GPT2": TOKENS | {"n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 64, "initializer_range": 0.2},
    "Gemma": SMALL | TOKENS | {"num_key_value_heads": 1, "head_dim": 8, "initializer_range": 0.2},
}
every_kind = pytest.mark.parametrize("kind", KINDS)
CUTS = {
    "padded, one by one": (Budget(1), 1, False),
    "padded, few": (Budget(30), 1, False),
    "packed": (Budget(1000, packs=True), 1, True),
    "packed, two processes": (Budget(40, packs=True), 2, True),
    "packed, three processes": (Budget(25, packs=True), 3, True),
}


@pytest.fixture(scope="module")
def model_of(tmp_path_factory):
    """Make a small random model of an architecture, the same each time, ready to train."""
    import transformers

    @cache
    def folder(kind: str) -> Path:
        made = tmp_path_factory.mktemp(kind)
        write_tokenizer(made)
        torch.manual_seed(0)
        config = getattr(transformers, f"{kind}Config")(**KINDS[kind])
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(made)
        return made

    @cache
    def prepared(kind: str, lora: bool, double: bool):
        found = load(ModelOptions(model=str(folder(kind)), device="cpu"))
        if double:
            found = prepare(found.model.double(), found.tokenizer)
        if lora:
            adapt(found, AdapterOptions(use_peft=True, lora_r=2, lora_target_modules=("all-linear",)), seed=0)
            with torch.no_grad():
                for name, parameter in found.model.named_parameters():
                    if "lora_B" in name:
                        parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))
        examine(found, rows("forget")[0])
        examine_packing(found, [rows("forget"), rows("retain")])
        assert found.form.fuses
        assert found.form.packs
        return found

    def make(kind: str, lora: bool = False, double: bool = False):
        found = prepared(kind, lora, double)
        return replace(found, model=deepcopy(found.model))

    return make


@pytest.fixture(scope="module")
def knowing(model_of):
    """Make a copy of a Llama that knows the answers to be forgotten, and the others, by heart."""
    found = model_of("Llama")
    both = [("forget", row) for row in rows("forget")] + [("forget", replace(row, id=row.id)) for row in rows("retain")]
    batch = pad_together(both)
    optimizer = torch.optim.Adam(found.model.parameters(), lr=1e-2)
    for _ in range(80):
        loss = -read(found.model, batch, {"forget": NLL.needs}, 320, found.form)["forget"].token_logp.mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.05
    return lambda: replace(found, model=deepcopy(found.model))


@every_method
@every_kind
@pytest.mark.parametrize("lora", [False, True], ids=["weights", "LoRA"])
@pytest.mark.parametrize("control", CONTROLS)
def test_every_method_takes_a_step(model_of, tmp_path, name, kind, lora, control):
    """What should move moves, all else and the reference stay, and a multiplier rises by rate x (loss - bound)."""
    case = Case.of(model_of(kind, lora), name, *CONTROLS[control])
    problem = case.problem(tmp_path)
    batches = case.batches(Budget(1000, packs=True), problem.joint)
    before, kept = case.weights(), _reference(problem)
    trained = {key for key, value in case.loaded.model.named_parameters() if value.requires_grad}
    if case.method.moves is not None:
        trained = blocks.chosen_by(case.loaded.model, case.method.moves)
    found, multipliers = case.taken(problem, batches, rate=1e-2)
    assert torch.isfinite(found.losses).all()
    assert 0 < found.norm.item() < math.inf
    after = case.weights()
    moved = {key for key in after if not torch.equal(before[key], after[key])}
    assert moved <= trained
    assert trained - moved <= _untouched(case.loaded.model, trained)
    for held, value, loss in zip(case.retentions, multipliers, found.losses[1:].tolist(), strict=True):
        start = held.control.initial if isinstance(held.control, Bounded) else held.control.weight
        rise = held.control.rate * (loss - case.bound) if control == "Bounded" else 0.0
        assert control != "Bounded" or value == pytest.approx(max(0.0, start + rise), rel=1e-5)
        assert control != "Fixed" or value == start
    for key, value in _reference(problem).items():
        assert torch.equal(value, kept[key])


def _reference(problem: Problem) -> dict[str, torch.Tensor]:
    if problem.reference is None:
        return {}
    head = [] if problem.reference.head is None else problem.reference.head.tensors
    everything = dict(problem.reference.state) | {f"head {i}": tensor for i, tensor in enumerate(head)}
    return {key: value.clone() for key, value in everything.items()}


def _untouched(model, trained: set[str]) -> set[str]:
    """Return the parameters that a step may leave as they are: of positions that no row reaches, and so on.

    With a method that moves some blocks: an adapter's matrices there that its objective does not reach.
    """
    return {key for key in trained if "wpe" in key or "lora_" in key}


@every_method
@every_kind
@pytest.mark.parametrize("control", ["none", "Bounded"])
def test_no_cut_changes_gradient_losses_or_multiplier(model_of, tmp_path, name, kind, control):
    """In float64; the reference is one padded batch for each split. Batches of all processes, one behind the other."""
    case = Case.of(model_of(kind, double=True), name, *CONTROLS[control])
    plain = packed(case.loaded, packs=False)
    problem = replace(case, loaded=plain).problem(tmp_path)
    expected, found, multipliers = case.gradients(problem, case.batches(Budget(1000), problem.joint))
    largest = max(value.abs().max().item() for value in expected.values())
    for budget, processes, packs in CUTS.values():
        cut = replace(problem, form=packed(case.loaded, packs).form)
        shares = [case.batches(budget, cut.joint, (rank, processes)) for rank in range(processes)]
        gradient, again, moved = case.gradients(cut, [batch for share in shares for batch in share])
        torch.testing.assert_close(again.losses, found.losses, rtol=1e-6, atol=1e-9)
        assert again.units.tolist() == found.units.tolist()
        assert moved == pytest.approx(multipliers, rel=1e-6)
        for key, value in gradient.items():
            torch.testing.assert_close(
                value, expected[key], rtol=0, atol=2e-6 * largest, msg=lambda m, k=key: f"{k} {m}"
            )


@every_method
def test_answers_become_less_likely_step_by_step(knowing, tmp_path, name):
    """Plain descent on the method alone, in steps of one length."""
    case = replace(Case.of(knowing(), name), retentions=())
    problem = case.problem(tmp_path)
    batches = case.batches(Budget(1000, packs=True), problem.joint)
    likelihood = replace(problem, terms=(retain_term(Retention(NLL(), Fixed(), "forget")),))
    found = [likelihood.measure("forget", case.rows["forget"], 4)[0].mean]
    for _ in range(4):
        gradient, *_ = case.gradients(problem, batches)
        norm = math.sqrt(sum(value.double().square().sum().item() for value in gradient.values()))
        case.taken(problem, batches, rate=0.2 / norm)
        found.append(likelihood.measure("forget", case.rows["forget"], 4)[0].mean)
    assert found == sorted(found)
    assert found[-1] > 1.5 * found[0]


@every_method
def test_there_is_one_value_for_each_unit(model_of, tmp_path, name):
    case = replace(Case.of(model_of("Llama"), name), retentions=())
    problem = case.problem(tmp_path)
    (batch,) = case.batches(Budget(1000, packs=True), problem.joint)
    ((values, owners),) = problem.unreduced(batch)
    scored = [row.scored - case.method.skips_first for row in case.rows["forget"]]
    assert len(values) == (sum(scored) if case.method.unit == "token" else len(scored))
    assert problem.counts(batch) == [len(values)]
    assert values.dtype == torch.float32
    assert values.requires_grad
    by_number = dict(zip([row.id for row in case.rows["forget"]], scored, strict=True))
    for number, id in enumerate(batch.shares["forget"].ids):
        assert (owners == number).sum() == (by_number[id] if case.method.unit == "token" else 1)


@every_method
def test_what_stands_after_the_last_scored_token_is_not_read(model_of, tmp_path, name):
    case = replace(Case.of(packed(model_of("Llama"), packs=False), name), retentions=())
    problem = case.problem(tmp_path)
    second = problem.second or {}
    placed = [("forget", row) for row in case.rows["forget"]] + [("alternate", row) for row in second.values()]
    batch = pad_together(placed)
    ((values, _),) = problem.unreduced(batch)
    lengths = torch.tensor([len(row.input_ids) - (name != "pdu_unshifted") for _, row in placed])
    after = torch.arange(batch.input_ids.shape[1]) >= lengths[:, None]
    batch.input_ids[after] = 77
    ((again, _),) = problem.unreduced(batch)
    torch.testing.assert_close(again, values, rtol=1e-5, atol=1e-5)


@every_method
def test_frozen_parameters_stay_as_they_are(model_of, tmp_path, name):
    case = Case.of(model_of("Llama"), name, Bounded())
    frozen = {key for key, _ in case.loaded.model.named_parameters() if "layers.0" in key or "embed" in key}
    for key, value in case.loaded.model.named_parameters():
        value.requires_grad_(key not in frozen)
    before = case.weights()
    problem = case.problem(tmp_path)
    case.taken(problem, case.batches(Budget(1000, packs=True), problem.joint))
    after = case.weights()
    same = {key for key, value in before.items() if torch.equal(after[key], value)}
    assert frozen <= same
    assert len(same) < len(before)
    assert all(case.loaded.model.get_parameter(key).grad is None for key in frozen)


@every_method
def test_undeclared_signals_are_an_error(model_of, tmp_path, name):
    """The same objective, declared to read something else, finds nothing of what it reads."""
    method = build(name, {}).fitted(3, seed=0)
    others = {"needs": Needs(head=frozenset({"is_argmax"})), "reference_needs": Needs(), "alternate": None}
    blind = type("Blind", (type(method),), others)
    case = Case(model_of("Llama"), blind(**vars(method)), ())
    (batch,) = case.batches(Budget(1000, packs=True), case.problem(tmp_path).joint)
    with pytest.raises(AttributeError, match="was not declared"):
        case.problem(tmp_path).values(batch)


@every_method
@pytest.mark.parametrize("loss", [KL(), HiddenDistance(1)], ids=["kl", "hidden"])
def test_every_method_runs_under_every_retention(model_of, tmp_path, name, loss):
    """Beside a retain loss that reads the reference, which is 0 before the first step."""
    case = replace(Case.of(model_of("Llama"), name), retentions=(Retention(loss, Bounded(initial=1.0)),))
    problem = case.problem(tmp_path)
    found, _ = case.taken(problem, case.batches(Budget(1000, packs=True), problem.joint), rate=1e-2)
    assert found.losses[1].item() == pytest.approx(0.0, abs=1e-5)
    assert found.norm > 0


@every_method
def test_every_method_is_described(name):
    cls = METHODS.get(name)
    method = build(name, {})
    assert cls.name == name
    assert "arXiv:" in (cls.__doc__ or "")
    assert method.fitted(4, seed=0).needs
    if not method.is_bounded_below:
        assert method.bounded.cap is not None


def test_second_answers_are_asked_for_where_they_are_read():
    assert {name for name in METHODS.names() if METHODS.get(name).alternate} == {"dpo", "altpo"}
    assert len(seconds(rows("forget"))) == len(rows("forget"))


def test_a_signal_that_another_term_declared_is_no_way_around_a_declaration(model_of):
    """Both terms read the forget split; the objective sees only what it declared itself."""

    class Undeclared(Method):
        needs = Needs(head=frozenset({"margin"}))

        def objective(self, model, reference):
            return model.forget.token_logp

    loaded = model_of("Llama")
    terms = (forget_term(Undeclared()), retain_term(Retention(NLL(), Fixed(1.0), split="forget")))
    problem = Problem(terms, loaded.model, loaded.vocabulary)
    with pytest.raises(AttributeError, match="signal 'token_logp' was not declared; declared: margin"):
        problem.values(pad_together([("forget", row) for row in rows("forget")]))
