"""Architectures: one step against plain autograd, the saved model, and greedy answers, from small random models.

The oracle shares no code with ours: rows one by one without padding, full logits, its own mask, margin, loss and
optimiser. `docs/models.md` lists what is tested here.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from amnestic.constraints.multiplier import Bounded
from amnestic.constraints.retention import NLL, Retention
from amnestic.data.batches import micro_batches, pad
from amnestic.data.cuts import Budget
from amnestic.data.encode import Encoded
from amnestic.methods.flattening import PDU
from amnestic.model.blocks import Moves, chosen_by
from amnestic.model.form import examine
from amnestic.model.generate import Settings, generate
from amnestic.model.gradient_norms import gradient_norms
from amnestic.model.load import Loaded, checkpointed, prepare, reload, save
from amnestic.model.packing import examine_packing
from amnestic.model.signals import Needs, read
from amnestic.training.optimizer import Optimizer
from amnestic.training.options import TrainingOptions
from amnestic.training.problem import Problem, forget_term, retain_term
from amnestic.training.step import step

DOCUMENT = Path(__file__).parents[2] / "docs" / "models.md"
KNOWN = 320
"""Tokens of the tokenizer."""
SPARE = 8
"""Rows of each model's vocabulary beyond them."""
LAMBDA, RATE, BOUND, LEARNING_RATE, DECAY, EPSILON = 2.5, 0.5, 1.0, 1e-2, 0.1, 1e-3
NEW = 6
EXACT, NARROW = 1e-9, 5e-5
"""Of the weights' change, relative to its largest; NARROW where parts are in float32 whatever the model's precision.

The eager form takes its softmax in float32; some architectures have norms or recurrences there.
"""

PLAIN = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 64}
GPT = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "resid_pdrop": 0.1, "embd_pdrop": 0.1}
SHARED = PLAIN | TOKENS | {"num_key_value_heads": 1}
HEADS = SHARED | {"head_dim": 8}
WINDOWS = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
DROPOUTS = {"hidden_dropout": 0.1, "attention_dropout": 0.1}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 8}
STATES = {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}
DEEPSEEK = {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
LINEAR = {"linear_num_value_heads": 2, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 4, "mamba_n_groups": 1, "mamba_chunk_size": 8}


@dataclass(frozen=True)
class Case:
    """A small model of one architecture."""

    config: str
    """Name of the configuration's class."""
    settings: dict[str, Any] = field(compare=False)
    what: str = ""
    """What makes the architecture different, where something does."""
    attention: str = "sdpa"
    """The usual form of attention."""
    checkpointing: bool = True
    label: str = ""

    def tolerance(self, attention: str) -> float:
        return NARROW if attention == "eager" or self.config in HAVE_FLOAT32 else EXACT

    @property
    def name(self) -> str:
        return self.label or self.config.removesuffix("Config")


EAGER = "eager"
HAVE_FLOAT32 = {
    *("GemmaConfig", "Gemma3TextConfig", "Gemma3Config", "CohereConfig", "Cohere2Config", "DeepseekV3Config"),
    *("RecurrentGemmaConfig", "JambaConfig", "BambaConfig", "Qwen3NextConfig"),
}
CASES = (
    Case("LlamaConfig", SHARED | {"attention_dropout": 0.1}),
    Case("MistralConfig", SHARED | {"sliding_window": 4}, "sliding window"),
    Case("Qwen2Config", SHARED),
    Case("Qwen3Config", HEADS),
    Case("SmolLM3Config", SHARED),
    Case("GemmaConfig", HEADS),
    Case(
        "Gemma2Config",
        HEADS | {"sliding_window": 4, "final_logit_softcapping": 3.0, "attn_logit_softcapping": 5.0},
        "soft-capped logits, sliding window",
        EAGER,
    ),
    Case("Gemma3TextConfig", HEADS | WINDOWS | {"final_logit_softcapping": 3.0}, "sliding window", label="Gemma3"),
    Case(
        "Gemma3Config",
        {
            "text_config": HEADS | WINDOWS | {"vocab_size": KNOWN + SPARE},
            "vision_config": PLAIN | {"image_size": 28, "patch_size": 14},
            "mm_tokens_per_image": 4,
            "image_token_id": 325,
            "boi_token_id": 326,
            "eoi_token_id": 327,
        },
        "reads text; its part that sees stays as it is",
        label="Gemma3, text and images",
    ),
    Case("PhiConfig", SHARED | GPT | {"attention_dropout": 0.1}, "bias in the head"),
    Case("Phi3Config", SHARED | GPT | {"attention_dropout": 0.1, "original_max_position_embeddings": 64}),
    Case("GPT2Config", GPT | {"attn_pdrop": 0.1}, "learned positions"),
    Case("GPTBigCodeConfig", GPT | {"attn_pdrop": 0.1}, "learned positions"),
    Case(
        "GPTNeoConfig",
        TOKENS
        | {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "intermediate_size": 32, "window_size": 4}
        | {"attention_types": [[["global", "local"], 1]], "embed_dropout": 0.1, "resid_dropout": 0.1},
        "learned positions, local attention",
        EAGER,
    ),
    Case("GPTNeoXConfig", PLAIN | TOKENS | DROPOUTS),
    Case("GPTJConfig", GPT | {"attn_pdrop": 0.1, "rotary_dim": 4}, "bias in the head", EAGER),
    Case("CodeGenConfig", GPT | {"attn_pdrop": 0.1, "rotary_dim": 4, "n_head": 4}, "bias in the head", EAGER),
    Case("OlmoConfig", SHARED),
    Case("Olmo2Config", SHARED),
    Case("Olmo3Config", SHARED | WINDOWS, "sliding window"),
    Case("FalconConfig", PLAIN | DROPOUTS, "dropout read from the configuration"),
    Case("FalconConfig", PLAIN | DROPOUTS | {"alibi": True}, "ALiBi", label="Falcon, ALiBi"),
    Case("StableLmConfig", SHARED | DROPOUTS),
    Case("Starcoder2Config", SHARED | {"residual_dropout": 0.1, "embedding_dropout": 0.1, "sliding_window": 4}),
    Case("CohereConfig", SHARED | {"logit_scale": 0.25}, "scaled logits"),
    Case("Cohere2Config", SHARED | WINDOWS | {"logit_scale": 0.25}, "scaled logits, sliding window"),
    Case("GraniteConfig", SHARED | {"logits_scaling": 4.0, "residual_multiplier": 0.5}, "scaled logits"),
    Case("NemotronConfig", SHARED),
    Case("GlmConfig", HEADS),
    Case(
        "OPTConfig",
        PLAIN | TOKENS | {"ffn_dim": 32, "word_embed_proj_dim": 8, "dropout": 0.1, "layerdrop": 0.1},
        "projection before the head, whole layers dropped",
    ),
    Case("BloomConfig", {"hidden_size": 16, "n_layer": 2, "n_head": 2} | DROPOUTS, "ALiBi", EAGER),
    Case(
        "MptConfig",
        {"d_model": 16, "n_layers": 2, "n_heads": 2, "max_seq_len": 64, "resid_pdrop": 0.1, "emb_pdrop": 0.1},
        "ALiBi",
        EAGER,
    ),
    Case("BioGptConfig", PLAIN | TOKENS | {"layerdrop": 0.1}, "learned positions"),
    Case("CTRLConfig", GPT | {"dff": 32}, "sinusoidal positions", checkpointing=False),
    Case("OpenAIGPTConfig", GPT | {"attn_pdrop": 0.1}, "learned positions", EAGER, checkpointing=False),
    Case("MixtralConfig", SHARED | EXPERTS | {"num_local_experts": 4, "router_jitter_noise": 0.1}, "experts"),
    Case("Qwen2MoeConfig", SHARED | EXPERTS | {"num_experts": 4, "shared_expert_intermediate_size": 8}, "experts"),
    Case("Qwen3MoeConfig", HEADS | EXPERTS | {"num_experts": 4}, "experts"),
    Case("OlmoeConfig", SHARED | EXPERTS | {"num_experts": 4}, "experts"),
    Case("GraniteMoeConfig", SHARED | EXPERTS | {"num_local_experts": 4}, "experts"),
    Case(
        "PhimoeConfig",
        SHARED | EXPERTS | {"num_local_experts": 4, "router_jitter_noise": 0.1, "input_jitter_noise": 0.1},
        "experts; a router that draws lots in training",
    ),
    Case(
        "DeepseekV3Config",
        SHARED
        | EXPERTS
        | DEEPSEEK
        | {"num_key_value_heads": 2, "n_routed_experts": 4, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1},
        "experts",
    ),
    Case("GptOssConfig", HEADS | EXPERTS | WINDOWS | {"num_local_experts": 4}, "experts, sliding window", EAGER),
    Case("MambaConfig", STATES, "recurrent", EAGER),
    Case("Mamba2Config", STATES | {"num_heads": 4, "head_dim": 8, "n_groups": 1, "chunk_size": 8}, "recurrent", EAGER),
    Case("FalconMambaConfig", STATES, "recurrent", EAGER),
    Case(
        "RecurrentGemmaConfig",
        HEADS | {"lru_width": 16, "attention_window_size": 8, "num_hidden_layers": 3},
        "recurrent and attention",
    ),
    Case(
        "JambaConfig",
        SHARED
        | {"num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2}
        | {"expert_layer_offset": 1, "mamba_d_state": 4, "mamba_dt_rank": 4, "use_mamba_kernels": False},
        "recurrent and attention, experts",
    ),
    Case("BambaConfig", SHARED | MAMBA | {"attn_layer_indices": [1]}, "recurrent and attention"),
    Case(
        "Qwen3NextConfig",
        HEADS
        | EXPERTS
        | LINEAR
        | {"num_experts": 4, "shared_expert_intermediate_size": 8}
        | {"layer_types": ["linear_attention", "full_attention"]},
        "recurrent and attention, experts",
    ),
    Case(
        "Lfm2Config",
        SHARED | {"layer_types": ["conv", "full_attention"], "block_multiple_of": 8},
        "convolution and attention",
    ),
)
BY_NAME = {case.name: case for case in CASES}
PADDED = {
    *("GPTNeo", "GPTJ", "CodeGen", "Falcon", "Falcon, ALiBi", "StableLm", "Bloom", "Mpt", "BioGpt", "OpenAIGPT"),
    *("Mamba", "Mamba2", "FalconMamba", "RecurrentGemma", "Jamba", "Bamba", "Qwen3Next", "Lfm2"),
}
"""Architectures whose answers are decoded by transformers, in padded batches, which a note tells."""
BOTH_FORMS = ("Llama", "GPT2", "Gemma3", "Falcon, ALiBi", "Cohere2", "Mixtral")
"""Architectures that are tested with the eager form of attention too."""


def variant(name: str, is_tied: bool, attention: str) -> Any:
    return pytest.param(name, is_tied, attention, id=f"{name}-{'tied' if is_tied else 'untied'}-{attention}")


EAGER_TOO = [variant(name, False, "eager") for name in BOTH_FORMS]
UNTIED = [variant(case.name, False, case.attention) for case in CASES] + EAGER_TOO
TIED = [variant(case.name, True, case.attention) for case in CASES]
VARIANTS = UNTIED + TIED


@cache
def built(name: str, is_tied: bool, attention: str) -> Any:
    """Return a float64 model with random weights, large enough that no two logits are alike; not to be changed."""
    case = BY_NAME[name]
    torch.manual_seed(0)
    own = {"vocab_size": KNOWN + SPARE} if "text_config" not in case.settings else {}
    config = getattr(transformers, case.config)(**case.settings, **own, tie_word_embeddings=is_tied)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float64, attn_implementation=attention)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.2 if parameter.ndim > 1 else 0.1))
    model.generation_config.eos_token_id = None
    return model.double().eval()


def rows(seed: int, *shapes: tuple[int, int]) -> list[Encoded]:
    """Return random rows; a shape is (tokens, of them in the prompt)."""
    random = np.random.default_rng(seed)
    return [
        Encoded(f"{i}", random.integers(3, KNOWN, length), np.arange(length) >= prompt, prompt, False, "", "")
        for i, (length, prompt) in enumerate(shapes)
    ]


FORGET = rows(1, (12, 7), (5, 2), (17, 10))
RETAIN = rows(2, (9, 4), (14, 3), (3, 1))


def plain_terms(model: Any, examples: list[Encoded], value: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return the mean of `value` over the answers' tokens, each row by itself."""
    found = []
    for example in examples:
        ids = torch.tensor(example.input_ids.tolist())
        logits = model(input_ids=ids[None]).logits[0]
        found += [value(logits[at - 1], ids[at]) for at in range(example.prompt_length, len(ids))]
    return torch.stack(found).mean()


def squared_margin(logits: Tensor, token: Tensor) -> Tensor:
    return (logits[:KNOWN].max() - logits[:KNOWN].mean()) ** 2


def surprise(logits: Tensor, token: Tensor) -> Tensor:
    return logits.logsumexp(0) - logits[token]


def plain_step(model: Any, is_adam: bool) -> tuple[float, float, float]:
    """Take one step in `model` and return the two losses and the multiplier behind it."""
    forget = plain_terms(model, FORGET, squared_margin)
    retain = plain_terms(model, RETAIN, surprise)
    (forget + LAMBDA * retain).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if (gradient := parameter.grad) is not None:
                # the first step of Adam: both moments, once corrected, are the gradient and its square
                move = gradient / (gradient.abs() + EPSILON) if is_adam else gradient
                decay = DECAY * parameter if parameter.ndim > 1 else 0.0
                parameter.sub_(LEARNING_RATE * (move + decay))
    return forget.item(), retain.item(), LAMBDA + RATE * (retain.item() - BOUND)


def our_step(loaded: Loaded, is_adam: bool, is_checkpointed: bool) -> tuple[float, float, float]:
    """The same by `training.step.step`, in padded batches of at most two rows."""
    examine(loaded, FORGET[0])
    control = Bounded(rate=RATE, initial=LAMBDA)
    terms = (forget_term(PDU()), retain_term(Retention(NLL(), control)))
    problem = Problem(terms, loaded.model, KNOWN, loaded.form)
    optim = "adamw_torch" if is_adam else "sgd"
    settings = {"adam_beta1": 0.9 if is_adam else 0.0, "adam_epsilon": EPSILON, "weight_decay": DECAY}
    options = TrainingOptions(optim=optim, learning_rate=LEARNING_RATE, max_grad_norm=0.0, **settings)
    optimizer = Optimizer(loaded.model.parameters(), options)
    multiplier = control.start(BOUND, 1)
    order = {"forget": np.array([1, 2, 0]), "retain": np.array([2, 0, 1])}
    batches = micro_batches({"forget": FORGET, "retain": RETAIN}, order, Budget(34, pass_cost=1000))
    assert [len(batch.input_ids) for batch in batches] == [2, 1, 2, 1]
    with checkpointed(loaded, is_checkpointed):
        losses, *_ = step(problem, batches, [multiplier], optimizer)
    return (*losses.tolist(), float(multiplier.value))


def changes(model: Any, before: Any) -> dict[str, Tensor]:
    pairs = zip(model.named_parameters(), before.parameters(), strict=True)
    return {name: (now - then).detach() for (name, now), then in pairs}


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Callable[..., Path]) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model())


@pytest.mark.parametrize(("name", "is_tied", "attention"), VARIANTS)
def test_one_step_is_that_of_plain_autograd(
    name: str, is_tied: bool, attention: str, tokenizer: Any, tmp_path: Path
) -> None:
    """Plain descent with untied embeddings; AdamW, and activations computed again, with tied ones. Then save and load.

    The tied ones include all dropout of the configuration in the mode in which it would be active.
    """
    model = built(name, is_tied, attention)
    expected, loaded = copy.deepcopy(model), prepare(copy.deepcopy(model), tokenizer)
    if hasattr(expected, "set_experts_implementation"):
        expected.set_experts_implementation("eager")  # the only one with float64
    is_checkpointed = is_tied and BY_NAME[name].checkpointing
    *losses, multiplier = our_step(loaded, is_adam=is_tied, is_checkpointed=is_checkpointed)
    *plain_losses, plain_multiplier = plain_step(expected, is_adam=is_tied)
    tolerance = BY_NAME[name].tolerance(attention)
    assert losses == pytest.approx(plain_losses, rel=tolerance)
    assert multiplier == pytest.approx(plain_multiplier, rel=1e-6)  # the multiplier is float32
    found, correct = changes(loaded.model, model), changes(expected, model)
    largest = max(change.abs().max().item() for change in correct.values())
    for key, change in correct.items():
        assert (found[key] - change).abs().max().item() <= tolerance * largest, key
    assert (loaded.form.selects, loaded.notes) == (True, [])
    save(loaded, tmp_path)
    again = reload(loaded, tmp_path)
    assert type(again.model) is type(model)
    assert (again.model.get_input_embeddings().weight is again.model.get_output_embeddings().weight) is is_tied
    ids = torch.from_numpy(FORGET[2].input_ids)[None]
    with torch.inference_mode():
        live, reloaded = (model(input_ids=ids).logits for model in (loaded.model, again.model))
    rounding = 1e-12 if tolerance == EXACT else 1e-6
    torch.testing.assert_close(reloaded, live, rtol=0, atol=rounding * live.abs().max().item())


def numbers() -> Any:
    """A tokenizer whose texts are the numbers of the tokens."""
    return SimpleNamespace(
        pad_token_id=0, eos_token_id=None, decode=lambda row, skip_special_tokens: " ".join(map(str, row))
    )


def naive(model: Any, example: Encoded) -> str:
    """One token after the other, each from a pass over the whole text."""
    ids = example.input_ids[: example.prompt_length].tolist()
    for _ in range(NEW):
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits
        ids.append(int(logits[0, -1].argmax()))
    return " ".join(map(str, ids[example.prompt_length :]))


@pytest.mark.parametrize(("name", "is_tied", "attention"), UNTIED)
def test_greedy_answers_are_those_of_one_row_without_padding(
    name: str, is_tied: bool, attention: str, tokenizer: Any
) -> None:
    """Prompts of four lengths, longer and shorter than any window; the float64 logits have no ties.

    Three of them share a batch where they are padded. The eager form gives no number for padding on the left in
    float64: batches of one length are tested along with it.
    """
    loaded = prepare(copy.deepcopy(built(name, is_tied, attention)), tokenizer)
    prompts = rows(3, (9, 7), (4, 2), (12, 10), (6, 2))
    found = generate(loaded, numbers(), prompts, Settings(NEW, 3))
    assert [answer.text for answer in found] == [naive(loaded.model, example) for example in prompts]
    assert bool(loaded.notes) is (name in PADDED)


def plain_norms(model: Any, examples: list[Encoded]) -> list[float]:
    """Return the norm of each row's gradient, from its own loss alone."""
    norms = []
    for example in examples:
        model.zero_grad()
        plain_terms(model, [example], surprise).backward()
        found = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        norms.append(sum(gradient.square().sum().item() for gradient in found) ** 0.5)
    return norms


SHARES_NO_PASS = {
    *("OPT", "BioGpt", "GptOss", "Mamba", "Mamba2", "FalconMamba", "RecurrentGemma", "Jamba", "Bamba", "Qwen3Next"),
    *("Lfm2", *(case.name for case in CASES if "experts" in case.what)),
}
"""Architectures with weights whose gradients are not known row by row."""


@pytest.mark.parametrize(("name", "is_tied", "attention"), TIED)
def test_gradient_norms_are_those_of_plain_autograd(name: str, is_tied: bool, attention: str, tokenizer: Any) -> None:
    """Packed where the model allows it, padded elsewhere; rows share a pass wherever that gives the same."""
    model, examples = built(name, is_tied, attention), FORGET + RETAIN
    expected, loaded = copy.deepcopy(model), prepare(copy.deepcopy(model), tokenizer)
    if hasattr(expected, "set_experts_implementation"):
        expected.set_experts_implementation("eager")
    examine(loaded, FORGET[0])
    examine_packing(loaded, [examples])
    loaded.notes.clear()
    found = gradient_norms(loaded, examples)
    rounding = 1e-12 if BY_NAME[name].tolerance(attention) == EXACT else 1e-6
    np.testing.assert_allclose(found, plain_norms(expected, examples), rtol=rounding)
    assert bool(loaded.notes) is (name in SHARES_NO_PASS)


STEERED = {
    "GPT2": {"mlp.c_proj.weight", "mlp.c_proj.bias"},
    "GPTNeoX": {"mlp.dense_4h_to_h.weight", "mlp.dense_4h_to_h.bias"},
    "Gemma3": {"mlp.down_proj.weight"},
    "Gemma3, text and images": {"mlp.down_proj.weight"},
    "GptOss": {"mlp.experts.down_proj", "mlp.experts.down_proj_bias"},
    "OPT": {"fc2.weight", "fc2.bias"},
    "OpenAIGPT": {"mlp.c_proj.weight", "mlp.c_proj.bias"},
    "Qwen2Moe": {"mlp.experts.down_proj", "mlp.shared_expert.down_proj.weight"},
}
"""Architecture -> the down projections of a block's MLP, by the architecture's own names."""


@pytest.mark.parametrize("name", STEERED)
def test_a_block_is_found_and_its_down_projections_alone_move(name: str, tokenizer: Any) -> None:
    """A part that sees has as many blocks; experts hold their projections in one tensor; some blocks return lists."""
    loaded = prepare(copy.deepcopy(built(name, True, BY_NAME[name].attention)).float(), tokenizer)
    batch, needs = pad("forget", FORGET), {"forget": Needs(hidden=frozenset({0}))}
    found = read(loaded.model, batch, needs, KNOWN)["forget"].hidden(0)
    states = loaded.model(batch.input_ids, output_hidden_states=True, use_cache=False).hidden_states
    torch.testing.assert_close(found, states[1].flatten(0, 1)[batch.positions])
    moved = chosen_by(loaded.model, Moves(frozenset({0})))
    assert {own.partition(".0.")[2] for own in moved} == STEERED[name]


def test_the_documentation_lists_what_is_tested() -> None:
    """The table of docs/models.md, made anew from the cases above."""
    text = DOCUMENT.read_text(encoding="utf-8")
    found = text.partition("<!-- architectures -->\n")[2].partition("<!-- /architectures -->")[0]
    assert found == table()


def table() -> str:
    header = "| architecture | class in transformers | embeddings | attention | checkpointing | of note |\n"
    lines = [header, "| --- | --- | --- | --- | --- | --- |\n"]
    for case in sorted(CASES, key=lambda case: case.name.lower()):
        forms = [case.attention] + ["eager"] * (case.name in BOTH_FORMS)
        cells = [case.name, f"`{architecture(case)}`", "untied, tied", ", ".join(forms)]
        cells += ["yes" if case.checkpointing else "no", case.what]
        lines.append(f"| {' | '.join(cells)} |".replace("|  |", "| |") + "\n")
    return "".join(lines)


def architecture(case: Case) -> str:
    config = getattr(transformers, case.config)
    return str(AutoModelForCausalLM._model_mapping[config].__name__)
