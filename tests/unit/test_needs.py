"""What a sweep of generations is compared with."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from amnestic.data.encode import Encoder
from amnestic.data.example import Example
from amnestic.data.options import DataOptions
from amnestic.evaluation import sweeps
from amnestic.evaluation.conditions import Continuing
from amnestic.evaluation.continuations import prompt_key
from amnestic.evaluation.needs import Generation, GradientNorm, Likelihood
from amnestic.evaluation.options import EvaluationOptions
from amnestic.evaluation.plan import planned
from amnestic.evaluation.store import Store
from amnestic.evaluation.subject import CONTINUATIONS, Subject
from amnestic.evaluation.sweeps import row_key, sweep
from amnestic.model.load import load
from amnestic.model.options import ModelOptions


def test_a_chunk_is_compared_with_as_many_tokens_as_may_be_generated(tiny_model: Callable[..., Path]) -> None:
    """One text of 12 tokens or more: the reference is tokens half .. half + 3, not all of the second half."""
    loaded = load(ModelOptions(model=str(tiny_model()), device="cpu"))
    encoder = Encoder(loaded.tokenizer, DataOptions(max_length=64))
    text = encoder.encode("t", [Example("t:0", "text", "", "Ines Marek was born in a harbour town.")]).examples
    asked = encoder.encode("q", [Example("q:0", "question", "Who?", "Ines Marek wrote it all down.")]).examples
    subject = Subject(loaded, {"t": text, "q": asked}, EvaluationOptions(max_new_tokens=3))
    half = (len(text[0].input_ids) + 1) // 2
    assert len(text[0].input_ids) - half > 3
    expected = loaded.tokenizer.decode(text[0].input_ids[half : half + 3])
    tables = sweep(subject, [Generation("t"), Generation("q")], {})
    assert tables[Generation("t")].answers == [expected]
    assert tables[Generation("q")].answers == ["Ines Marek wrote it all down."]


def test_all_that_is_scored_of_a_text_is_what_its_bytes_are_counted_of(tiny_model: Callable[..., Path]) -> None:
    """A corpus text has no prompt: its first half is scored too. An answer's prompt is not."""
    loaded = load(ModelOptions(model=str(tiny_model()), device="cpu"))
    encoder = Encoder(loaded.tokenizer, DataOptions(max_length=64))
    words = "Ines Marek was born in a harbour town."
    text = encoder.encode("t", [Example("t:0", "text", "", words)]).examples
    asked = encoder.encode("q", [Example("q:0", "question", "Who?", "Ines Marek.")]).examples
    subject = Subject(loaded, {"t": text, "q": asked}, EvaluationOptions())
    tables = sweep(subject, [Likelihood("t"), Likelihood("q")], {})
    assert tables[Likelihood("t")].answers == [words]
    assert tables[Likelihood("q")].answers == ["Ines Marek."]


def test_what_ends_an_answer_does_not_depend_on_what_is_left_to_continue(tiny_model: Callable[..., Path]) -> None:
    """One row closes with a token of its own, another was cut: it ends there too, whether or not the first is known."""
    loaded, store = load(ModelOptions(model=str(tiny_model()), device="cpu")), Store()
    encoder = Encoder(loaded.tokenizer, DataOptions(max_length=64))
    rows = encoder.encode("q", [Example(f"q:{i}", "question", f"Who {i}?", "Ines Marek.") for i in range(2)]).examples
    options = EvaluationOptions(max_new_tokens=4)
    plain = sweep(Subject(loaded, {"q": rows}, options), [Generation("q")], {})[Generation("q")]
    closing = int(plain.token_ids[1][1])  # what the second would write as its second token
    own = replace(rows[0], input_ids=np.append(rows[0].input_ids[:-1], closing))
    cut = replace(rows[1], input_ids=rows[1].input_ids[:-1], is_scored=rows[1].is_scored[:-1], closes=False)
    subject = Subject(loaded, {"q": [own, cut]}, options, store=store)
    expected = sweep(subject, [Generation("q")], {})[Generation("q")]
    assert (expected.tokens[1], expected.has_ended[1]) == (1, True)

    first = store.find("model", CONTINUATIONS, [prompt_key(subject, own, subject.continuing("q"))])
    known = Store()
    known.keep("model", CONTINUATIONS, first)
    found = sweep(replace(subject, store=known), [Generation("q")], {})[Generation("q")]
    assert found.tokens.tolist() == expected.tokens.tolist()


def test_gradient_norms_are_found_again(
    tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each distinct row once, and as long as the same parameters are trainable."""
    loaded = load(ModelOptions(model=str(tiny_model()), device="cpu"))
    encoder = Encoder(loaded.tokenizer, DataOptions(max_length=64))
    given = [Example(f"q:{i}", "question", "Who?", answer) for i, answer in enumerate(("Ines.", "Ines.", "No, Jo."))]
    rows, need = encoder.encode("q", given).examples, GradientNorm("q")

    def subject() -> Subject:
        return Subject(loaded, {"q": rows}, EvaluationOptions(), store=Store(tmp_path))

    assert planned(subject(), [need]).gradients == 2
    norms = sweep(subject(), [need], {})[need]
    assert norms[0] == norms[1] != norms[2]
    assert planned(subject(), [need]).gradients == 0
    with monkeypatch.context() as patch:
        patch.setattr(sweeps, "gradient_norms", None)
        np.testing.assert_array_equal(sweep(subject(), [need], {})[need], norms)
    loaded.model.get_input_embeddings().requires_grad_(False)
    assert planned(subject(), [need]).gradients == 2
    assert (sweep(subject(), [need], {})[need] < norms).all()


def test_other_limits_and_other_scored_tokens_have_other_keys(tiny_model: Callable[..., Path]) -> None:
    loaded = load(ModelOptions(model=str(tiny_model()), device="cpu"))
    encoder = Encoder(loaded.tokenizer, DataOptions(max_length=64))
    row = encoder.encode("q", [Example("q:0", "question", "Who?", "Ines Marek.")]).examples[0]
    subject = Subject(loaded, {"q": [row]}, EvaluationOptions())
    ways = [Continuing(3), Continuing(4), Continuing(4, ("\n",)), Continuing(4, ("\n", "?"))]
    assert len({prompt_key(subject, row, continuing) for continuing in ways}) == 4
    less = replace(row, is_scored=row.is_scored & (np.arange(len(row.input_ids)) > row.prompt_length))
    assert row_key(row) != row_key(less)
