"""What a sweep of generations is compared with."""

from collections.abc import Callable
from pathlib import Path

from amnestic.data.encode import Encoder
from amnestic.data.example import Example
from amnestic.data.options import DataOptions
from amnestic.evaluation.needs import Generation
from amnestic.evaluation.options import EvaluationOptions
from amnestic.evaluation.sweeps import Subject, sweep
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
