"""Whether the first step reaches what is trained: which tensors are named, and that nothing moves."""

import re

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3Config

from amnestic.errors import RunError
from amnestic.model.reading import read_parameters
from amnestic.training.gradients import refuse_unreached, watch_first_step
from amnestic.training.optimizer import Optimizer
from amnestic.training.options import TrainingOptions


def test_a_gradient_of_zero_is_one():
    refuse_unreached(["a", "b"], [torch.zeros(2), torch.ones(2)])


def test_experts_that_nobody_was_sent_to_may_have_none():
    refuse_unreached(["layers.0.experts.3.up.weight", "b"], [None, torch.ones(2)])


def test_the_first_names_are_shown():
    names = [f"w{number}" for number in range(6)]
    with pytest.raises(
        RunError, match=re.escape("no gradient to 5 of the 6 tensors that are trained: w0, w1, w2 and 2 ")
    ):
        refuse_unreached(names, [None] * 5 + [torch.ones(1)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_the_first_step_is_watched_and_fails_before_anything_moves(dtype):
    """Of bfloat16 parameters the gradients stand at their float32 masters."""
    model = torch.nn.Linear(2, 2).to(dtype)
    frozen = torch.nn.Parameter(torch.ones(1), requires_grad=False)
    named = [*model.named_parameters(), ("frozen", frozen)]
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = Optimizer([parameter for _, parameter in named], TrainingOptions(learning_rate=0.1))
    watch_first_step(optimizer, named)
    model.weight.float().sum().backward()
    with pytest.raises(
        RunError, match=r"no gradient to 1 of the 2 tensors that are trained: bias; leave --gradient_ch"
    ):
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    optimizer = Optimizer(model.parameters(), TrainingOptions(learning_rate=0.1))
    watch_first_step(optimizer, model.named_parameters())
    (model.weight.float().sum() + model.bias.float().sum()).backward()
    optimizer.step()
    model.weight.float().sum().backward()
    optimizer.step()
    assert not torch.equal(before[0], model.weight)


def test_what_no_text_reaches_may_have_none():
    """Of a model that sees too: its eyes, and what brings their tokens to the text's width."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = Gemma3Config(
        text_config=sizes | {"head_dim": 8, "num_key_value_heads": 1, "vocab_size": 320}, mm_tokens_per_image=4,
        vision_config=sizes | {"image_size": 28, "patch_size": 14}, image_token_id=317, boi_token_id=318,
        eoi_token_id=319, tie_word_embeddings=False,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    read = read_parameters(model)
    assert [name for name, _ in read if "vision" in name or "projector" in name] == []
    optimizer = Optimizer(model.parameters(), TrainingOptions(learning_rate=0.1))
    watch_first_step(optimizer, read)
    logits = model(input_ids=torch.tensor([[5, 9, 200]])).logits
    logits.sum().backward()
    assert [name for name, parameter in read if parameter.grad is None] == []
    assert "lm_head.weight" in dict(read)
    optimizer.step()
    watch_first_step(optimizer, read)
    model.lm_head.weight.float().sum().backward()
    with pytest.raises(RunError, match=f"no gradient to {len(read) - 1} of the {len(read)} tensors"):
        optimizer.step()
