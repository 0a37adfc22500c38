"""Which form a model's logits are read in: heads that may be shown scored positions alone, and heads that may not."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_outputs import CausalLMOutputWithPast

from amnestic.data.batches import pad
from amnestic.data.encode import Encoded
from amnestic.errors import InputError
from amnestic.evaluation.options import EvaluationOptions
from amnestic.evaluation.subject import Subject
from amnestic.evaluation.sweeps import scores
from amnestic.model.form import LONGEST, alike, examine
from amnestic.model.load import Loaded
from amnestic.model.signals import Form, Needs, read

TOKENIZER = range(320)
"""Stands in for a tokenizer: only its length is read."""


class Plain(LlamaForCausalLM):
    """A Llama whose logits go through `finish`, with each position's number and all hidden states at hand."""

    def finish(self, hidden):
        return self.lm_head(hidden)

    def forward(self, input_ids=None, use_cache=None, **unused):
        hidden = self.model(input_ids=input_ids, use_cache=False).last_hidden_state
        return CausalLMOutputWithPast(logits=self.finish(hidden))


class Capped(Plain):
    def finish(self, hidden):
        return 3 * torch.tanh(self.lm_head(hidden) / 3)


class ByPosition(Plain):
    """Logits that grow with their position: right for the first selected row alone."""

    def finish(self, hidden):
        logits = self.lm_head(hidden)
        return logits * (1 + 0.1 * torch.arange(logits.shape[1], device=logits.device))[None, :, None]


class Functional(Plain):
    """A head that is no call of a module."""

    def finish(self, hidden):
        return torch.nn.functional.linear(hidden, self.lm_head.weight)


class Flat(Plain):
    """A head that is shown positions of all rows in one dimension."""

    def finish(self, hidden):
        return self.lm_head(hidden.reshape(-1, hidden.shape[-1])).reshape(*hidden.shape[:2], -1)


class Keyword(Plain):
    """A head that gets its input by name."""

    def finish(self, hidden):
        return self.lm_head(input=hidden)


class Twice(Plain):
    """A sum of two positions: the one before counts as well, so that the row before a selected one is needed."""

    def finish(self, hidden):
        logits = self.lm_head(hidden)
        return logits + torch.nn.functional.pad(logits, (0, 0, 1, 0))[:, :-1]


class LacksARow(Plain):
    """Logits of all positions but the last."""

    def finish(self, hidden):
        return self.lm_head(hidden)[:, :-1]


class LastOnly(Plain):
    def finish(self, hidden):
        return self.lm_head(hidden[:, -1:])


class Mute(Plain):
    def finish(self, hidden):
        return None


class Sighted(Plain):
    def forward(self, input_ids=None, pixel_values=None, **unused):
        if pixel_values is None:
            raise ValueError("You must give pixel_values.\nSee the manual.")


class BothWays(Plain):
    """Each logit depends on the mean over all positions, later ones too."""

    def finish(self, hidden):
        return self.lm_head(hidden - hidden.mean(dim=1, keepdim=True))


class Restless(Plain):
    """A forward pass that halves a weight."""

    def finish(self, hidden):
        with torch.no_grad():
            self.lm_head.weight.mul_(0.5)
        return self.lm_head(hidden)


class Exhausted(Plain):
    def finish(self, hidden):
        raise torch.OutOfMemoryError("out of memory")


def make(architecture: type[Plain], dtype: torch.dtype = torch.float32) -> Loaded:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=328, initializer_range=0.2, max_position_embeddings=1024, **sizes)
    return Loaded(architecture(config).to(dtype).eval(), TOKENIZER, dtype)


def row(length: int, prompt: int, seed: int = 0) -> Encoded:
    ids = np.random.default_rng(seed).integers(3, 320, length)
    return Encoded(f"{seed}", ids, np.arange(length) >= prompt, prompt, False, "", "")


ROWS = [row(12, 7, 1), row(5, 2, 2), row(9, 4, 3)]


def one_by_one(model) -> torch.Tensor:
    """The log-probability of each scored token, from each row alone and the model's own logits of all positions."""
    found = []
    with torch.inference_mode():
        for example in ROWS:
            ids = torch.from_numpy(example.input_ids)
            logp = torch.log_softmax(model(input_ids=ids[None]).logits[0].double(), -1)
            found += [logp[at - 1, ids[at]] for at in range(example.prompt_length, len(ids))]
    return torch.stack(found)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", [Plain, Capped])
def test_a_head_of_single_positions_is_shown_the_scored_ones(architecture, dtype):
    loaded = make(architecture, dtype)
    examine(loaded, ROWS[0])
    assert (loaded.form.selects, loaded.notes) == (True, [])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("architecture", "reason"),
    [
        (ByPosition, "gives other logits where its head is shown some positions alone"),
        (Twice, "gives other logits where its head is shown some positions alone"),
        (Functional, "does not call its head as a module"),
        (Flat, "needs all positions in its head"),
        (Keyword, "needs all positions in its head"),
    ],
)
def test_other_heads_are_read_in_the_plain_form_with_a_note(architecture, reason, dtype):
    loaded = make(architecture, dtype)
    examine(loaded, ROWS[0])
    assert not loaded.form.selects
    note = (
        f"the plain form is used: {architecture.__name__} {reason}, so the logits of all positions are computed, which "
        "takes more memory and time."
    )
    assert loaded.notes == [note]
    assert not loaded.model.lm_head._forward_hooks
    assert not loaded.model.lm_head._forward_pre_hooks


@pytest.mark.parametrize("architecture", [Plain, Capped, ByPosition, Twice, Functional, Flat, Keyword])
def test_signals_are_the_models_own_in_either_form(architecture):
    loaded = make(architecture, torch.float64)
    examine(loaded, ROWS[0])
    values = np.concatenate(scores(Subject(loaded, {}, EvaluationOptions()), loaded, ROWS))
    assert values[:, 0].tolist() == pytest.approx(one_by_one(loaded.model).tolist(), abs=1e-12)


@pytest.mark.parametrize("architecture", [ByPosition, Twice])
def test_without_the_plain_form_these_would_be_wrong(architecture):
    """So that the test above can fail."""
    loaded = make(architecture, torch.float64)
    batch = pad("", ROWS)
    with torch.inference_mode():
        found = read(loaded.model, batch, {"": Needs(head=frozenset({"token_logp"}))}, 320)[""].token_logp
    assert (found - one_by_one(loaded.model)).abs().max() > 0.1


@pytest.mark.parametrize(
    ("architecture", "sentence"),
    [
        (LacksARow, r"\(LacksARow\) gives logits of shape \(2, 11, 328\) for \(2, 12\) tokens; expected logits over"),
        (LastOnly, r"\(LastOnly\) gives logits of shape \(2, 1, 328\) for \(2, 12\) tokens; expected logits over"),
        (Mute, r"\(Mute\) gives no logits for \(2, 12\) tokens; expected logits over the vocabulary for each token"),
        (Sighted, r"\(Sighted\) cannot read tokens alone: You must give pixel_values; expected a causal language mod"),
        (BothWays, r"\(BothWays\) lets later tokens change the logits of earlier ones; expected a causal language mod"),
        (Restless, r"\(Restless\) changes its own weights while it reads, so what is saved would not be what was tra"),
    ],
)
def test_what_neither_form_reads_is_refused(architecture, sentence):
    with pytest.raises(InputError, match=sentence):
        examine(make(architecture), ROWS[0])


def test_a_lack_of_memory_is_no_fault_of_the_model():
    with pytest.raises(torch.OutOfMemoryError):
        examine(make(Exhausted), ROWS[0])


def test_of_a_long_text_the_beginning_is_read():
    """All logits of two rows are held at once: with 256 positions, not with those of a book."""
    shapes = []
    loaded = make(Plain)
    loaded.model.register_forward_hook(lambda _, __, output: shapes.append(tuple(output.logits.shape)))
    examine(loaded, row(900, 880))
    assert shapes[0] == (2, LONGEST, 328)
    assert max(rows * positions for rows, positions, _ in shapes) == 2 * LONGEST


@pytest.mark.parametrize("length", [2, 3])
@pytest.mark.parametrize(("architecture", "selects"), [(Plain, True), (Functional, False), (Keyword, False)])
def test_the_shortest_texts_suffice(architecture, selects, length):
    loaded = make(architecture)
    examine(loaded, row(length, 1))
    assert loaded.form.selects is selects


def test_masked_vocabulary_rows_are_no_difference():
    """Logits of -inf, as some models give them to rows of padding."""

    class Masked(Plain):
        def finish(self, hidden):
            return self.lm_head(hidden).index_fill(-1, torch.tensor([325, 326]), -torch.inf)

    loaded = make(Masked)
    examine(loaded, ROWS[0])
    assert (loaded.form.selects, loaded.notes) == (True, [])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_of_the_head_that_the_model_leaves_out_have_no_part_in_any_signal(dtype):
    """Eight rows of zeros are cut off: seldom enough to hide in the rounding of log p, yet they move the entropy."""

    class Sliced(Plain):
        def finish(self, hidden):
            return self.lm_head(hidden)[..., :320]

    loaded = make(Sliced, dtype)
    with torch.no_grad():
        loaded.model.lm_head.weight.mul_(4)[320:] = 0
    examine(loaded, ROWS[0])
    needs = {"": Needs(head=frozenset({"moments", "token_logp"}))}
    with torch.inference_mode():
        found, expected = (
            read(loaded.model, pad("", ROWS), needs, 320, form)[""] for form in (loaded.form, Form(selects=False))
        )
    torch.testing.assert_close(found.moments, expected.moments, rtol=1e-4, atol=0.0)


@pytest.mark.parametrize(("dtype", "share"), [(torch.float64, 1e-5), (torch.float32, 1e-3), (torch.bfloat16, 5e-2)])
def test_alike_is_up_to_a_share_of_the_largest_logit(dtype, share):
    expected = torch.linspace(-4, 4, 40, dtype=torch.float64).reshape(4, 10)
    near, far = (expected + scale * share * 4 * torch.eye(4, 10) for scale in (0.9, 1.1))
    assert alike(near, expected, dtype)
    assert not alike(far, expected, dtype)
    assert not alike(expected * torch.nan, expected, dtype)


def test_most_rows_alike_are_enough_where_rounding_may_choose_another_expert():
    expected = torch.ones(4, 3)
    two = expected + torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    three = expected + torch.tensor([[0.0], [1.0], [1.0], [1.0]])
    assert alike(two, expected, torch.float32, most=True)
    assert not alike(two, expected, torch.float32)
    assert not alike(three, expected, torch.float32, most=True)
