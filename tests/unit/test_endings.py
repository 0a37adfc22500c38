"""What ends an answer, against a loop that decodes the whole answer behind each of its tokens.

Two kinds of tokenizers: bytes of characters in any token, and pieces that fall back to single bytes, of which a run
that is no text becomes no character at all.
"""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import write_tokenizer
from tokenizers import Tokenizer, decoders, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from amnestic.errors import InputError
from amnestic.model.endings import AROUND, Endings, StopStrings

STOPS = ("\n\n", "\nQ", "Qa", "é\n", "。", "。\n。", " b", "a ", "a", "\n\n\n\nQ")
BYTES = sorted({*" \nQabé。".encode()})


def pieces() -> Any:
    """A tokenizer as SentencePiece writes them: blanks are letters, and bytes stand for what it does not know."""
    known = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in BYTES), *"▁Qab", "▁Q", "ab", "Qa", "▁▁", "b▁", "。"]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(known)}, [], byte_fallback=True))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>")


def merged() -> Any:
    """A tokenizer of bytes, whose tokens hold parts of characters with what stands beside them."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    whole = ["\n\n", " Q", "\nQ", "ab", "é\n", "。\n", "\n。"]
    halves = ["é\n".encode()[1:], "。\n\n".encode()[1:], "\n。".encode()[:2], "。。".encode()[1:5]]
    parts = [bytes([byte]) for byte in BYTES] + [text.encode() for text in whole] + halves
    known = ["".join(chr(b if b in printable else 256 + others.index(b)) for b in part) for part in parts]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(["<s>", *known])}, []))
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")


TOKENIZERS = {"pieces": pieces(), "merged": merged()}


def by_a_loop(tokenizer: Any, tokens: Sequence[int], stops: Sequence[str]) -> tuple[list[int], bool]:
    """The tokens up to the first one behind which the whole text holds a stop string."""
    for size in range(1, len(tokens) + 1):
        text = tokenizer.decode(tokens[:size], skip_special_tokens=True)
        if any(stop in text for stop in stops):
            return [*tokens[:size]], True
    return [*tokens], False


@pytest.mark.parametrize("name", TOKENIZERS)
@given(data=st.data())
def test_an_answer_ends_with_the_first_token_behind_which_its_text_holds_a_stop_string(
    name: str, data: st.DataObject
) -> None:
    tokenizer = TOKENIZERS[name]
    stops = data.draw(st.lists(st.sampled_from(STOPS), min_size=1, max_size=3, unique=True))
    single = st.sampled_from([[token] for token in range(len(tokenizer))])
    words = data.draw(st.lists(st.one_of(single, st.sampled_from(spelt(tokenizer))), max_size=16))
    tokens = [token for word in words for token in word]
    assert Endings(strings=StopStrings(tokenizer, stops)).cut(tokens) == by_a_loop(tokenizer, tokens, stops)


def spelt(tokenizer: Any) -> list[list[int]]:
    """The two letters beyond ASCII, byte by byte."""
    is_alone = tokenizer is TOKENIZERS["pieces"]
    return [[(2 if is_alone else 1) + BYTES.index(byte) for byte in letter.encode()] for letter in "é。"]


def ids(tokenizer: Any, *written: str) -> list[int]:
    return [tokenizer.convert_tokens_to_ids(piece) for piece in written]


def test_characters_in_front_whose_bytes_are_many_tokens_hide_no_stop_string() -> None:
    """Thirty bytes that are ten letters, then two line breaks as bytes: a tail that began within them were no text."""
    tokenizer = TOKENIZERS["pieces"]
    letter = [f"<0x{byte:02X}>" for byte in "。".encode()]
    tokens = ids(tokenizer, "a", *letter * 10, "<0x0A>", "<0x0A>", "b")
    strings = StopStrings(tokenizer, ["\n\n"])
    assert Endings(strings=strings).cut(tokens) == (tokens[:-1], True)
    broken = ids(tokenizer, "a", letter[0], "<0x0A>", "<0x0A>", "b")
    assert Endings(strings=strings).cut(broken) == (broken, False)


def test_special_tokens_within_a_stop_string_say_nothing() -> None:
    tokenizer = TOKENIZERS["pieces"]
    tokens = ids(tokenizer, "a", *"Qab", *["<s>"] * 20, "Q", "b")
    assert Endings(strings=StopStrings(tokenizer, ["QabQ"])).cut(tokens) == (tokens[:-1], True)


def test_a_blank_that_a_token_loses_in_front_completes_a_stop_string_behind_another() -> None:
    tokenizer = TOKENIZERS["pieces"]
    tokens = ids(tokenizer, *"Qa▁b")
    assert Endings(strings=StopStrings(tokenizer, ["a "])).cut(tokens) == (tokens[:-1], True)


def test_a_token_that_ends_an_answer_counts_where_it_comes_first() -> None:
    tokenizer = TOKENIZERS["pieces"]
    tokens = ids(tokenizer, "a", "<s>", "b", "Q")
    for stop, end, expected in (("b", "Q", 3), ("b", "b", 2), ("Q", "b", 2), ("ab", "Q", 3)):
        ends = Endings(frozenset(ids(tokenizer, end)), StopStrings(tokenizer, [stop]))
        assert ends.cut(tokens) == (tokens[:expected], True)


class Counting:
    """A tokenizer that keeps what it was asked to decode."""

    def __init__(self, own: Any) -> None:
        self.own = own
        self.asked: list[tuple[int, ...]] = []

    def decode(self, tokens: Sequence[int], skip_special_tokens: bool) -> str:
        self.asked.append(tuple(tokens))
        return str(self.own.decode(tokens, skip_special_tokens=skip_special_tokens))


def test_a_tail_is_decoded_only_behind_a_token_that_can_complete_a_stop_string(tmp_path: Any) -> None:
    """Of 300 tokens every tenth is a line break, and the last two are: 31 tails of few tokens, and the end as a whole.

    Each token of the vocabulary is decoded twice, by itself, when it is first met.
    """
    write_tokenizer(tmp_path)
    own = AutoTokenizer.from_pretrained(tmp_path)
    letter, line = own("a").input_ids[-1], own("\n").input_ids[-1]
    tokens = ([letter] * 9 + [line]) * 30 + [line]
    counting = Counting(own)
    strings = StopStrings(counting, ["\n\n"])
    assert [size for size in range(1, len(tokens) + 1) if strings.end_with(tokens[:size])] == [len(tokens)]
    entries = [(letter,), (letter, letter), (line,), (line, line)]
    assert [asked for asked in counting.asked if asked in entries] == entries
    tails = [asked for asked in counting.asked if asked not in entries]
    assert [len(asked) for asked in tails] == [min(10 * turn, 2 + AROUND) for turn in range(1, 31)] + [2 + AROUND, 301]


def test_nothing_is_decoded_without_stop_strings() -> None:
    assert Endings(frozenset([3])).cut([1, 2, 3, 4]) == ([1, 2], True)


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(InputError, match="empty"):
        StopStrings(TOKENIZERS["pieces"], ["\n", ""])
