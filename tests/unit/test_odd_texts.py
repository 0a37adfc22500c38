"""Texts as they come: long ones, other scripts, emoji, answers that begin alike, and rows that repeat."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from amnestic.data import encode as encoding
from amnestic.data.encode import Encoded, Encoder, Split
from amnestic.data.example import Example
from amnestic.data.options import DataOptions
from amnestic.data.records import MEMORY
from amnestic.data.sources import read_examples, shared_rows

CHAT = "{% for m in messages %}<eos>{{ m['role'] }}:{{ m['content'] }}{% endfor %}<eos>"


def of_bytes(post: str | None = None, chat_template: str | None = None) -> Any:
    """A token a byte, whatever the script."""
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(sorted(split.alphabet()))}, merges=[]))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.ByteLevel()
    return finished(tokenizer, post, chat_template)


def of_pieces() -> Any:
    """Unigram as SentencePiece writes it, with bytes for unknown characters; a space is a bar."""
    pieces = [
        ("<unk>", 0.0),
        ("▁", -3.0),
        ("▁Question", -1.0),
        ("▁Answer", -1.0),
        ("▁Who", -1.0),
        (":", -1.0),
        ("?", -1.0),
    ]
    pieces += [(f"<0x{byte:02X}>", -9.0) for byte in range(256)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return finished(tokenizer, None, None)


def finished(tokenizer: Tokenizer, post: str | None, chat_template: str | None) -> Any:
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in ("<bos>", "<eos>")])
    if post:
        bos = ("<bos>", tokenizer.token_to_id("<bos>"))
        tokenizer.post_processor = processors.TemplateProcessing(single=post, special_tokens=[bos])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>")
    fast.chat_template = chat_template
    return fast


def question(prompt: str, answer: str) -> Example:
    return Example("s:0", "question", prompt, answer)


def completion(prompt: str, answer: str) -> Example:
    return Example("s:0", "prompt", prompt, answer)


def chat(prompt: str, answer: str) -> Example:
    return Example("s:0", "messages", ({"role": "user", "content": prompt},), answer)


def corpus(text: str) -> Example:
    return Example("s:0", "text", "", text)


def encode(tokenizer: Any, examples: Example | Sequence[Example], **options: Any) -> Split:
    chosen = [examples] if isinstance(examples, Example) else examples
    return Encoder(tokenizer, DataOptions(**options)).encode("forget", chosen)


def one(tokenizer: Any, example: Example, **options: Any) -> Encoded:
    (encoded,) = encode(tokenizer, example, **options).examples
    return encoded


SCRIPTS = {
    "emoji": "🙂",
    "emoji of several": "👩‍👩‍👧‍👦 and 🏳️‍🌈",
    "Chinese": "你好，世界。",
    "Japanese": "彼女は京都で生まれた。",
    "combining": "e\u0301 n\u0303",
    "Hindi": "उसका जन्म",
    "Arabic": "وُلِد هنا",
}


@pytest.mark.parametrize("answer", SCRIPTS.values(), ids=SCRIPTS)
@pytest.mark.parametrize("prompt", ["Who 你🙂", "Who?"])
@pytest.mark.parametrize("form", ["bytes", "pieces", "chat"])
def test_of_any_script_the_answer_and_nothing_else_is_scored(form: str, prompt: str, answer: str) -> None:
    """Oracle: what the scored tokens decode to; bytes that were scored or left out too many would leave a mark."""
    tokenizer = of_pieces() if form == "pieces" else of_bytes(chat_template=CHAT if form == "chat" else None)
    example = chat(prompt, answer) if form == "chat" else question(prompt, answer)
    encoded = one(tokenizer, example)
    scored = tokenizer.decode(encoded.input_ids[encoded.is_scored], skip_special_tokens=True)
    assert scored.strip() == answer
    before = tokenizer.decode(encoded.input_ids[~encoded.is_scored], skip_special_tokens=True)
    assert prompt in before
    assert "\ufffd" not in before


@pytest.mark.parametrize("answer", SCRIPTS.values(), ids=SCRIPTS)
def test_a_preview_shows_every_character_whole_and_scored_where_it_is(answer: str) -> None:
    tokenizer = of_bytes()
    encoder = Encoder(tokenizer, DataOptions())
    encoded = one(tokenizer, completion("Q 你🙂 ", answer))
    pieces = encoder.preview(encoded)
    assert "".join(text for text, _ in pieces) == f"Q 你🙂 {answer}<eos>"
    assert "".join(text for text, scored in pieces if scored) == f"{answer}<eos>"


def test_a_preview_shows_a_part_of_a_character_where_there_is_no_more() -> None:
    """Of the four bytes of an emoji the limit leaves three; the text after them begins anew."""
    tokenizer = of_bytes()
    encoded = one(tokenizer, completion("a", "🙂"), max_length=4)
    assert Encoder(tokenizer, DataOptions()).preview(encoded) == [("a", False), ("\ufffd", True)]


def test_a_corpus_is_cut_between_characters() -> None:
    """By hand: 8 tokens of 3 bytes a character are 2 characters; 9 of them halved after 4 are cut after 3."""
    tokenizer = of_bytes()
    examples = encode(tokenizer, corpus("你好世界再见"), max_length=8).examples
    assert [(row.prompt, row.answer) for row in examples] == [("你", "好"), ("世", "界"), ("再", "见")]
    assert [row.prompt_length for row in examples] == [3, 3, 3]
    whole = encode(tokenizer, corpus("你好世"), max_length=9).examples[0]
    assert (whole.prompt, whole.answer, whole.prompt_length) == ("你", "好世", 3)
    tokens = np.concatenate([row.input_ids for row in examples])
    assert tokens.tolist() == tokenizer("你好世界再见")["input_ids"]


def test_a_corpus_of_characters_longer_than_a_chunk_is_cut_all_the_same() -> None:
    examples = encode(of_bytes(), corpus("🙂🙂🙂"), max_length=3).examples
    assert all(2 <= len(row.input_ids) <= 3 for row in examples)
    assert np.concatenate([row.input_ids for row in examples]).tolist() == of_bytes()("🙂🙂🙂")["input_ids"]


LONG = "word " * 100_000 + "a" * 250_000 + "你" * 85_000
"""More than a megabyte: words, a word without end, and another script."""


@pytest.mark.parametrize("form", ["answer", "question", "text", "chat"])
def test_a_row_of_a_megabyte_is_cut_at_the_limit(form: str) -> None:
    """A search that grew with the square of the length would take hours. Oracle: one token a byte, BOS and EOS."""
    tokenizer = of_bytes("<bos> $A", CHAT if form == "chat" else None)
    examples = {
        "answer": completion("a", LONG),
        "question": completion(LONG, "a"),
        "text": corpus(LONG),
        "chat": chat("a", LONG),
    }
    short = completion("a", "b")
    split = encode(tokenizer, [examples[form], short], max_length=600)
    size = len(LONG.encode())
    if form == "text":
        assert (split.too_long, split.longest) == (0, size + 1)
        assert split.scored >= size - len(split.examples) + 1
        return
    assert split.too_long == 1
    assert split.longest >= size + 3
    assert [len(row.input_ids) for row in split.examples] == [*([600] if form != "question" else []), 4]
    assert split.left_out == (form == "question")


def test_long_texts_are_tokenized_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tokens of a batch are Python objects for a while: a thousand rows of a megabyte must not be together."""
    tokenizer = of_bytes()
    asked: list[list[int]] = []

    class Watched:
        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer, name)

        def __call__(self, texts: list[str], **options: Any) -> Any:
            asked.append([len(text) for text in texts])
            return tokenizer(texts, **options)

    monkeypatch.setattr(encoding, "BATCH_CHARACTERS", 1000)
    monkeypatch.setattr(encoding, "BATCH", 8)
    sizes = [300] * 5 + [5000] + [10] * 20 + [700, 700]
    examples = [Example(f"s:{i}", "text", "", "x" * size) for i, size in enumerate(sizes)]
    split = encode(Watched(), examples, max_length=10_000)
    assert [size for batch in asked for size in batch] == sizes
    assert asked == [[300] * 3, [300] * 2, [5000], [10] * 8, [10] * 8, [10] * 4 + [700], [700]]
    assert [row.id for row in split.examples] == [f"s:{i}" for i in range(len(sizes))]


def test_an_answer_that_begins_as_another_is_another() -> None:
    """Neither refused as shared nor left out: contents are compared, not their beginnings."""
    short = read_examples([{"question": "Who?", "answer": "Ida"}], "a", DataOptions())
    long = read_examples(
        [{"question": "Who?", "answer": "Ida Paris"}, {"question": "Who?", "answer": "Ida."}], "b", DataOptions()
    )
    assert shared_rows(short, long) == shared_rows(long, short) == 0
    assert shared_rows(short, read_examples([{"question": "Who?", "answer": " Ida\n"}], "c", DataOptions())) == 1


def test_an_answer_that_stands_in_its_question_is_scored_where_it_is_the_answer() -> None:
    for template in (None, CHAT):
        row = one(of_bytes(chat_template=template), question("Ida Ida", "Ida"))
        assert row.is_scored[-4:].all()  # three letters and the end
        assert not row.is_scored[:-4].any()


def test_the_memory_of_small_data_is_not_a_file() -> None:
    rows = read_examples([{"text": "a"}] * 3, "s", DataOptions())
    assert rows._file is None
    assert MEMORY >= 2**20
