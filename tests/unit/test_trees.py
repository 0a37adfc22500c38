"""Rows that share beginnings are read once as far as they do, and nothing of them changes.

The oracle of positions is a set of all beginnings; that of values is each row by itself.
"""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig

from amnestic.data.batches import pad
from amnestic.data.encode import Encoded
from amnestic.data.trees import LAID_OUT, common, in_order, read_tokens, tree, trees
from amnestic.model.signals import Form, Needs, read

NEEDS = Needs(head=frozenset({"token_logp", "is_argmax", "margin", "moments"}))
FORM = Form(selects=True, fuses=True, packs=True)
SMALL = {
    "vocab_size": 48,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


def row(tokens: Sequence[int], prompt: int, name: str = "r") -> Encoded:
    ids = np.array(tokens, dtype=np.int64)
    return Encoded(name, ids, np.arange(len(ids)) >= prompt, prompt, False, "", "")


def model_of(config: type, **settings: object) -> torch.nn.Module:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config(**SMALL, **settings), dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.eval()


@pytest.fixture(scope="module")
def llama() -> torch.nn.Module:
    return model_of(LlamaConfig)


@pytest.fixture(scope="module")
def mistral() -> torch.nn.Module:
    """Looks back four tokens and no further."""
    return model_of(MistralConfig, sliding_window=4)


def values(model: torch.nn.Module, batch: object) -> dict[str, np.ndarray]:
    with torch.inference_mode():
        found = read(model, batch, {"": NEEDS}, 48, FORM)[""].values
    return {name: value.numpy() for name, value in found.items()}


def assert_same(model: torch.nn.Module, rows: list[Encoded]) -> None:
    """The tree of `rows` gives each of their scored tokens what it has in the row alone, up to rounding."""
    rows = [rows[i] for i in in_order(rows)]
    made = tree(rows)
    found = values(model, made.batch)
    alone = [values(model, pad("", [one])) for one in rows]
    for name, expected in {name: np.concatenate([one[name] for one in alone]) for name in found}.items():
        np.testing.assert_allclose(found[name][made.place], expected, rtol=1e-9, atol=1e-9, err_msg=name)


def beginnings(rows: Sequence[Encoded]) -> set[tuple[int, ...]]:
    """All beginnings of what must be read: each is one position."""
    return {tuple(r.input_ids[: n + 1]) for r in rows for n in range(int(np.flatnonzero(r.is_scored)[-1]))}


QUESTION = [1, 7, 9, 4]
ANSWERS = {
    "answers to one question": [[5, 6, 2], [5, 6, 8, 2], [5, 11, 2], [12, 2], [13, 14, 15, 16, 17, 2]],
    "one answer begins another": [[5, 6], [5, 6, 7, 2], [5, 6, 7], [5]],
    "the same row twice": [[5, 6, 2], [5, 6, 2]],
    "one token each": [[5], [6], [7]],
}


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("which", ["llama", "mistral"])
def test_each_row_has_the_values_that_it_has_alone(request: pytest.FixtureRequest, which: str, name: str) -> None:
    rows = [row(QUESTION + answer, len(QUESTION)) for answer in ANSWERS[name]]
    assert_same(request.getfixturevalue(which), [*rows, row([1, 8, 9, 5, 2], 3), row([3, 7, 2], 1)])


@given(st.data())
def test_any_rows_have_the_values_that_they_have_alone(llama: torch.nn.Module, data: st.DataObject) -> None:
    """Of three letters, so that beginnings, whole rows and prompts of any length are shared."""
    letters = st.lists(st.integers(1, 3), min_size=2, max_size=7)
    rows = [
        row(tokens, data.draw(st.integers(1, len(tokens) - 1)))
        for tokens in data.draw(st.lists(letters, min_size=1, max_size=7))
    ]
    assert_same(llama, rows)


@given(st.lists(st.lists(st.integers(1, 2), min_size=2, max_size=6), min_size=1, max_size=9), st.integers(1, 12))
def test_each_beginning_is_one_position_and_runs_keep_to_their_limit(tokens: list[list[int]], most: int) -> None:
    rows = [row(ids, 1) for ids in tokens]
    runs = list(trees(rows, most))
    assert sorted(i for run, _ in runs for i in run) == list(range(len(rows)))
    for run, positions in runs:
        chosen = [rows[i] for i in run]
        made = tree(chosen)
        assert made.batch.input_ids.numel() == positions == len(beginnings(chosen))
        assert positions <= most or len({tuple(read_tokens(one)) for one in chosen}) == 1
        distinct = {tuple(one.input_ids[: n + 1]) for one in chosen for n in np.flatnonzero(one.is_scored)}
        assert len(made.batch.targets) == len(distinct)


def test_the_last_token_is_not_read() -> None:
    """Nothing follows it: of 1 7 | 5 2 the tokens 1 7 5 are read; of a prompt with one token behind it, the prompt."""
    assert read_tokens(row([1, 7, 5, 2], 2)).tolist() == [1, 7, 5]
    assert read_tokens(row([1, 7, 5], 2)).tolist() == [1, 7]
    unscored = row([1, 7, 5], 3)
    assert read_tokens(unscored).tolist() == []


def test_what_two_rows_have_in_common_ends_at_the_first_difference() -> None:
    one = np.array([4, 5, 6])
    assert [common(one, np.array(other)) for other in ([4, 5, 7], [4], [5, 5, 6], [4, 5, 6, 7], [])] == [2, 1, 0, 3, 0]


def test_a_long_beginning_of_many_rows_is_not_laid_out_for_all_of_them_at_once() -> None:
    """Attention holds each row whole, however much the rows share: a pass must not grow with their number."""
    beginning = [1] * 100
    rows = [row([*beginning, 2 + i // 40, 2 + i % 40], 101) for i in range(600)]
    budget = 4 * 102
    runs = [run for run, _ in trees(rows, budget)]
    assert sorted(i for run in runs for i in run) == list(range(600))
    assert max(sum(len(rows[i].input_ids) - 1 for i in run) for run in runs) <= LAID_OUT * budget
    assert sum(used for _, used in trees(rows, budget)) < 600 * 101 / 5  # shared parts are still read once a pass
