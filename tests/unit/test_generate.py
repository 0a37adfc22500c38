"""Greedy answers against a loop that knows no cache, no batch and no padding."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from amnestic.data.encode import Encoded, Encoder
from amnestic.data.example import Example
from amnestic.data.options import DataOptions
from amnestic.model import generate as module
from amnestic.model.generate import Settings, before_stop, generate
from amnestic.model.load import Loaded
from amnestic.model.slot_fit import Fit

REFUSED = Fit("is refused")
NEW = 12
LENGTHS = (3, 9, 1, 6, 9, 2, 5)


def numbers(pad: int | None = None, eos: int | None = None) -> Any:
    """A tokenizer whose texts are the numbers of the tokens."""
    return SimpleNamespace(
        pad_token_id=pad, eos_token_id=eos, decode=lambda row, skip_special_tokens: " ".join(map(str, row))
    )


def prompt(ids: Sequence[int], last: int | None = None) -> Encoded:
    """An example whose prompt is `ids`; two tokens of an answer follow, and the closing token `last`."""
    whole = np.array([*ids, 4, 5, *([] if last is None else [last])])
    return Encoded("", whole, np.arange(len(whole)) >= len(ids), len(ids), last is not None, "", "")


def prompts(last: int | None = None) -> list[Encoded]:
    random = np.random.default_rng(0)
    return [prompt(random.integers(3, 300, length).tolist(), last) for length in LENGTHS]


def naive(model: Any, example: Encoded, most: int = NEW) -> list[int]:
    """One token after the other, each from a pass over the whole text, and none of them ends it."""
    ids = example.input_ids[: example.prompt_length].tolist()
    found: list[int] = []
    for _ in range(most):
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([ids + found]), use_cache=False).logits
        found.append(int(logits[0, -1].argmax()))
    return found


def texts(model: Any, tokenizer: Any, examples: Sequence[Encoded], batch_size: int, **watchers: Any) -> list[str]:
    """The generated texts, of at most NEW tokens."""
    loaded = Loaded(model, tokenizer, torch.float32)
    return [answer.text for answer in generate(loaded, tokenizer, examples, Settings(NEW, batch_size), **watchers)]


def text(tokens: list[int], *stops: int) -> str:
    """What `numbers` makes of the tokens before the first of `stops`."""
    end = next((i for i, token in enumerate(tokens) if token in stops), len(tokens))
    return " ".join(map(str, tokens[:end]))


@pytest.fixture(autouse=True, params=["slots", "padded"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test holds of both ways to decode."""
    if request.param == "padded":
        monkeypatch.setattr(module, "examine_decoding", lambda *_: REFUSED)
    return str(request.param)


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path]) -> Any:
    model = AutoModelForCausalLM.from_pretrained(tiny_model(tied=False, seed=3))
    model.generation_config.eos_token_id = None
    return model.eval()


@pytest.fixture(scope="module")
def rows(model: Any) -> list[list[int]]:
    """The naive loop's tokens for each of `prompts`."""
    return [naive(model, example) for example in prompts()]


@pytest.fixture(scope="module")
def stops(rows: list[list[int]]) -> tuple[int, int, int]:
    """Three tokens that end three of the texts: where one is left out, its text goes on."""
    tokens = rows[0][4], rows[1][2], rows[3][7]
    for i, token in zip((0, 1, 3), tokens, strict=True):
        assert text(rows[i], *tokens) != text(rows[i], *(set(tokens) - {token}))
    return tokens


@pytest.mark.parametrize("batch_size", [1, 3, 7, 50])
def test_tokens_are_those_of_a_loop_without_cache(
    model: Any, rows: list[list[int]], stops: tuple[int, int, int], batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tokenizer's end, the model's list of ends and the token that closes the examples all end a text."""
    eos, configured, last = stops
    monkeypatch.setattr(model.generation_config, "eos_token_id", [configured, 300])
    expected = [text(row, *stops) for row in rows]
    assert len({len(found.split()) for found in expected}) >= 3
    assert texts(model, numbers(0, eos), prompts(last), batch_size) == expected


def test_each_end_counts_by_itself(
    model: Any, rows: list[list[int]], stops: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for stop in stops:
        expected = [text(row, stop) for row in rows]
        assert texts(model, numbers(0, stop), prompts(), 4) == expected
        assert texts(model, numbers(0), prompts(stop), 4) == expected
        with monkeypatch.context() as patch:
            patch.setattr(model.generation_config, "eos_token_id", stop)
            assert texts(model, numbers(0), prompts(), 4) == expected


@pytest.mark.parametrize("pad", [None, 0, 17])
def test_padding_on_the_left_changes_nothing(
    model: Any, rows: list[list[int]], stops: tuple[int, int, int], pad: int | None
) -> None:
    """With a token of its own, with a token that texts use, and with none, even where there is no end either."""
    assert texts(model, numbers(pad), prompts(), 7) == [text(row) for row in rows]
    assert texts(model, numbers(pad, stops[0]), prompts(), 7) == [text(row, stops[0]) for row in rows]


def test_order_and_batch_size_change_nothing(model: Any, stops: tuple[int, int, int]) -> None:
    order = np.random.default_rng(1).permutation(len(LENGTHS)).tolist()
    done: list[int] = []
    found = texts(model, numbers(0, stops[1]), prompts(), 2, keep=done.extend)
    shuffled = texts(model, numbers(0, stops[1]), [prompts()[i] for i in order], 3)
    assert shuffled == [found[i] for i in order]
    assert sorted(done) == [*range(len(LENGTHS))]


def test_the_models_own_generation_settings_are_not_used_and_stay(
    model: Any, rows: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A penalty on repetition, forbidden tokens, sampling: none of these is greedy decoding."""
    own = model.generation_config
    for name, value in {
        "repetition_penalty": 20.0,
        "no_repeat_ngram_size": 1,
        "suppress_tokens": [rows[0][0]],
        "do_sample": True,
        "temperature": 9.0,
        "max_length": 3,
    }.items():
        monkeypatch.setattr(own, name, value)
    assert texts(model, numbers(0), prompts(), 7) == [text(row) for row in rows]
    assert model.generation_config is own
    monkeypatch.setattr(model, "forward", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        texts(model, numbers(0), prompts(), 7)
    assert model.generation_config is own


@pytest.mark.parametrize("batch_size", [1, 7])
def test_a_text_ends_where_the_model_knows_no_further_position(batch_size: int) -> None:
    """Of 16 positions, 9 are a prompt's: the last token is read off position 16, so 8 new ones; others get all 12."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=300, n_positions=16, n_embd=16, n_layer=2, n_head=2, initializer_range=0.5)
    model = GPT2LMHeadModel(config).eval()
    model.generation_config.eos_token_id = None
    expected = [naive(model, example, min(NEW, 17 - example.prompt_length)) for example in prompts()]
    assert sorted(map(len, expected)) == [8, 8, 11, 12, 12, 12, 12]
    assert texts(model, numbers(0), prompts(), batch_size) == [text(row) for row in expected]


def test_texts_are_decoded_without_special_tokens(model: Any, tiny_model: Callable[..., Path]) -> None:
    """With the real tokenizer: the naive loop's tokens, decoded, without <bos> and the like, and without outer spaces.

    Generation starts from the prompt's tokens as they stand in the encoded conversation.
    """
    tokenizer = AutoTokenizer.from_pretrained(tiny_model(tied=False, seed=3))
    rows = [Example(f"s:{i}", "question", f"Who wrote {i}?", "Ines Marek") for i in range(4)]
    encoded = Encoder(tokenizer, DataOptions()).encode("s", rows).examples
    for example, found in zip(encoded, texts(model, tokenizer, encoded, 3), strict=True):
        assert tokenizer.decode(example.input_ids[: example.prompt_length]) == (
            f"<bos>Question: {example.prompt}\nAnswer:"
        )
        tokens = [int(token) for token in text(naive(model, example), tokenizer.eos_token_id).split()]
        assert found == tokenizer.decode(tokens, skip_special_tokens=True).strip()


def spoken(tokens: Sequence[int], stop: str) -> tuple[list[int], str, bool]:
    """What `numbers` makes of the first tokens whose text holds `stop`, whole and in front of it; or of all."""
    for size in range(1, len(tokens) + 1):
        said = " ".join(map(str, tokens[:size]))
        if stop in said:
            return [*tokens[:size]], said[: said.index(stop)].strip(), True
    return [*tokens], " ".join(map(str, tokens)), False


def across(tokens: Sequence[int], place: int) -> str:
    """A text that begins within the token at `place`, holds the next, and ends within the one behind."""
    first, second, third = map(str, tokens[place : place + 3])
    return f"{first[-1]} {second} {third[0]}"


@pytest.mark.parametrize("agreed", [0, 3, 9])
@pytest.mark.parametrize("drawn", [False, True])
def test_stop_strings_end_answers(model: Any, rows: list[list[int]], drawn: bool, agreed: int) -> None:
    """Across tokens and within one, in what decoding finds and in what is known; the others go on to their limit."""
    loaded = Loaded(model, numbers(0), torch.float32)

    def pick(logits: torch.Tensor, begun: Sequence[Any], found: Sequence[Sequence[int]]) -> list[int]:
        """The likeliest token by a function that is not known to be greedy."""
        return logits.double().argmax(-1).tolist()  # type: ignore[no-any-return]

    stops = [across(rows[0], 5), across(rows[1], 0), across(rows[3], NEW - 3)]
    expected = []
    for row in rows:
        ends = [found for stop in stops if (found := spoken(row, stop))[2]]
        expected.append(min(ends, key=lambda end: len(end[0])) if ends else spoken(row, "-"))
    assert len({len(tokens) for tokens, _, has_ended in expected if has_ended}) == 3
    examples = [
        Encoded("", np.array([*ids, *row[:agreed], 1]), np.zeros(0, dtype=bool), len(ids), False, "", "")
        for ids, row in zip((own.input_ids[: own.prompt_length] for own in prompts()), rows, strict=True)
    ]
    extra = {"pick": pick} if drawn else {}
    settings = Settings(NEW, 3, stop_strings=tuple(stops), **extra)
    found = generate(loaded, loaded.tokenizer, examples, settings, [agreed] * len(rows))
    assert [(answer.tokens.tolist(), answer.text, answer.has_ended) for answer in found] == expected
    needed = sum(max(0, len(tokens) - agreed) for tokens, *_ in expected)
    assert settings.counts.new_tokens == needed


def test_a_text_in_front_of_the_first_stop_string() -> None:
    assert before_stop("a. Q: b\n\nc", ("\n\n", "Q:")) == "a. "
    assert before_stop("a. Q: b", ("\n\n",)) == "a. Q: b"
    assert before_stop("a", ()) == "a"
