"""Examples to tokens, token by token: what is scored stands in brackets in every expectation.

The expectations are worked out by hand from three small vocabularies: byte-level BPE (spaces lead a token, unknown
characters fall apart into bytes), words (spaces vanish), and SentencePiece's form (a space is a leading bar).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from amnestic.data.batches import StepRows, assemble, micro_batches
from amnestic.data.cuts import Budget, like_lengths, most_tokens
from amnestic.data.dates import FORMATS
from amnestic.data.encode import Encoded, Encoder, Split, lengths, span_facts, token_digests, whole_digests
from amnestic.data.example import Example
from amnestic.data.options import DataOptions
from amnestic.errors import InputError

WORDS = ("Question", " Who", "Answer", " Ida", " Paris", "Paris", "Ida", "user", "assistant", "system")
SPECIAL = ("<bos>", "<eos>", "<|im_start|>", "<|im_end|>", "<turn>", "</turn>")
"""Of these the tokenizers below give a role to <bos> and <eos> only: an end of turn has none, as in Gemma and Phi."""

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DATED = (
    "<bos>{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{{ date_string }};"
    "{% for m in messages %}<turn>{{ m['role'] }}:{{ m['content'] | trim }}</turn>{% endfor %}"
)
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and loop.last %}"
    "{% if '</think>' in m['content'] %}"
    "<think>\n{{ m['content'].split('</think>')[0].split('<think>')[-1].strip('\n') }}\n</think>\n\n"
    "{{ m['content'].split('</think>')[-1].lstrip('\n') }}"
    "{% else %}{% if enable_thinking is not defined or enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m['content'] }}{% endif %}"
    "{% else %}{{ m['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
)
GEMMA = (
    "<bos>{% for m in messages %}<turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}</turn>\n{% endfor %}"
)
SPACED = (
    "<bos>{% for m in messages %}{% if m['role'] == 'user' %}U {{ m['content'] }} A"
    "{% else %} {{ m['content'] | trim }} <eos>{% endif %}{% endfor %}"
)
BARE = "{% for m in messages %}{{ m['role'] }}:{{ m['content'] }}\n{% endfor %}"


def byte_level(
    post: str | None = "<bos> $A", prefix_space: bool = False, words: Sequence[str] = WORDS, **roles: str | None
) -> Any:
    """Byte-level BPE: the 256 bytes, and `words` built up byte by byte from their left."""
    split = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=False)
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    written = [plain.pre_tokenize_str(word)[0][0] for word in words]
    merges = dict.fromkeys((word[: i - 1], word[i - 1]) for word in written for i in range(2, len(word) + 1))
    tokens = dict.fromkeys([*sorted(plain.alphabet()), *(left + right for left, right in merges)])
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=list(merges)))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.ByteLevel()
    return finished(tokenizer, post, roles)


def whole_words(*vocabulary: str, post: str | None = None, **roles: str | None) -> Any:
    """Words and punctuation; spaces are in no token."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(("<unk>", *vocabulary))}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return finished(tokenizer, post, {"unk_token": "<unk>"} | roles)


def sentence_pieces(post: str | None = "<bos> $A") -> Any:
    """Unigram with bytes for unknown characters; a space is a bar, and one stands in front of the whole text."""
    pieces = [("<unk>", 0.0), ("▁", -3.0), *((piece, -1.0) for piece in ("▁Question", "▁Answer", "▁Who", "▁Ida", ":"))]
    pieces += [("?", -1.0), (".", -1.0), *((f"<0x{byte:02X}>", -9.0) for byte in range(256))]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    return finished(tokenizer, post, {"unk_token": "<unk>"})


def finished(tokenizer: Tokenizer, post: str | None, roles: dict[str, str | None]) -> Any:
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    if post:
        used = [(token, tokenizer.token_to_id(token)) for token in SPECIAL if token in post]
        tokenizer.post_processor = processors.TemplateProcessing(single=post, special_tokens=used)
    chosen = {"bos_token": "<bos>", "eos_token": "<eos>"} | roles
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{k: v for k, v in chosen.items() if v is not None})


def shown(tokenizer: Any, encoded: Encoded) -> str:
    """The tokens of an example, the scored ones in brackets."""
    tokens = tokenizer.convert_ids_to_tokens(encoded.input_ids.tolist())
    return " ".join(f"[{token}]" if scored else token for token, scored in zip(tokens, encoded.is_scored, strict=True))


def question(prompt: str, answer: str) -> Example:
    return Example("s:0", "question", prompt, answer)


def completion(prompt: str, answer: str) -> Example:
    return Example("s:0", "prompt", prompt, answer)


def chat(*contents: str, system: str | None = None) -> Example:
    """A conversation of user and assistant in turn; the last content is the scored one."""
    turns = [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents[:-1])]
    head = [{"role": "system", "content": system}] if system is not None else []
    return Example("s:0", "messages", (*head, *turns), contents[-1])


def corpus(text: str) -> Example:
    return Example("s:0", "text", "", text)


def encode(tokenizer: Any, examples: Example | Sequence[Example], **options: Any) -> Split:
    chosen = [examples] if isinstance(examples, Example) else examples
    return Encoder(tokenizer, DataOptions(**options)).encode("forget", chosen)


def one(tokenizer: Any, example: Example, **options: Any) -> Encoded:
    (encoded,) = encode(tokenizer, example, **options).examples
    return encoded


def scored(tokenizer: Any, example: Example, **options: Any) -> str:
    return shown(tokenizer, one(tokenizer, example, **options))


# Plain templates

IN_BYTES = "<0x0A> <0x41> <0x6E> <0x73> <0x77> <0x65> <0x72>"
"""What sentence pieces make of a new line and "Answer", which no bar precedes."""


@pytest.mark.parametrize(
    ("tokenizer", "expected"),
    [
        (byte_level(), "<bos> Question : ĠWho ? Ċ Answer : [ĠIda] [.] [<eos>]"),
        (byte_level(post=None), "Question : ĠWho ? Ċ Answer : [ĠIda] [.] [<eos>]"),
        (byte_level(prefix_space=True), "<bos> Ġ Question : ĠWho ? Ċ Answer : [ĠIda] [.] [<eos>]"),
        (
            whole_words("Question", "Answer", "Who", "Ida", ":", "?", ".", post="<bos> $A"),
            "<bos> Question : Who ? Answer : [Ida] [.] [<eos>]",
        ),
        (whole_words("Question", "Answer", "Who", "Ida", ":", "."), "Question : Who <unk> Answer : [Ida] [.] [<eos>]"),
        (sentence_pieces(), f"<bos> ▁Question : ▁Who ? {IN_BYTES} : [▁Ida] [.] [<eos>]"),
        (sentence_pieces(post=None), f"▁Question : ▁Who ? {IN_BYTES} : [▁Ida] [.] [<eos>]"),
    ],
    ids=["bytes", "bytes-no-bos", "bytes-prefix-space", "words", "words-no-bos", "pieces", "pieces-no-bos"],
)
def test_the_question_template_is_tokenized_as_one_text(tokenizer: Any, expected: str) -> None:
    """The space before the answer is the template's, but a token that holds it ends inside the answer."""
    encoded = one(tokenizer, question("Who?", "Ida."))
    assert shown(tokenizer, encoded) == expected
    assert encoded.closes
    assert encoded.scored == 3
    assert encoded.prompt_length == expected.split().index(next(t for t in expected.split() if t.startswith("[")))
    assert (encoded.prompt, encoded.answer) == ("Who?", "Ida.")


def test_templates_of_ones_own_frame_question_and_answer() -> None:
    templates = {"question_template": "Q{question}A", "answer_template": "={answer}!"}
    assert scored(byte_level(), question("x", "Ida"), **templates) == "<bos> Q x A = [Ida] [!] [<eos>]"


def test_a_template_that_writes_its_own_end_of_turn_gets_no_other() -> None:
    """The newline after the end of turn is nobody's answer."""
    templates = {"question_template": "{question}", "answer_template": "={answer}<|im_end|>\n"}
    encoded = one(byte_level(), question("x", "Ida"), **templates)
    assert shown(byte_level(), encoded) == "<bos> x = [Ida] [<|im_end|>]"
    assert encoded.closes


@pytest.mark.parametrize(
    ("prompt", "answer", "expected"),
    [
        ("in Par", "is", "<bos> i n [ĠParis] [<eos>]"),
        ("in ", "Paris", "<bos> i n [ĠParis] [<eos>]"),
        ("in", " Paris", "<bos> i n [ĠParis] [<eos>]"),
        ("in Paris", "!", "<bos> i n ĠParis [!] [<eos>]"),
        ("in \n", "Paris", "<bos> i n Ġ Ċ [Paris] [<eos>]"),
    ],
)
def test_a_token_belongs_to_the_answer_if_it_ends_after_its_start(prompt: str, answer: str, expected: str) -> None:
    """Straddling tokens are the answer's, and generation starts before them; what ends where it starts is not."""
    encoded = one(byte_level(), completion(prompt, answer))
    assert shown(byte_level(), encoded) == expected
    assert encoded.prompt_length == sum(not token.startswith("[") for token in expected.split())


@pytest.mark.parametrize("post", ["<bos> $A <eos>", "$A <eos>"])
@pytest.mark.parametrize("answer", ["Ida.", "Ida.<eos>"])
def test_the_end_is_scored_once_whoever_wrote_it(post: str, answer: str) -> None:
    """A tokenizer that adds <eos> by itself, and rows that carry it in their text, alone and together."""
    for tokenizer in (byte_level(post=post), byte_level(post=post.removesuffix(" <eos>"))):
        encoded = one(tokenizer, completion("Who?", answer))
        assert shown(tokenizer, encoded).endswith("? [Ida] [.] [<eos>]")
        assert encoded.closes


def test_an_end_inside_the_answer_closes_nothing() -> None:
    assert scored(byte_level(), completion("?", "Ida<eos>.")) == "<bos> ? [Ida] [<eos>] [.] [<eos>]"
    assert scored(byte_level(), completion("?", "  a<eos>b")) == "<bos> ? [Ġ] [Ġ] [a] [<eos>] [b] [<eos>]"


def test_without_an_end_token_the_answer_stays_open() -> None:
    encoded = one(byte_level(eos_token=None), question("Who?", "Ida."))
    assert shown(byte_level(), encoded).endswith("Answer : [ĠIda] [.]")
    assert not encoded.closes


def test_one_token_may_pad_and_end() -> None:
    assert scored(byte_level(pad_token="<eos>"), completion("?", "Ida")) == "<bos> ? [Ida] [<eos>]"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("😀", "[ð] [Ł] [ĺ] [Ģ]"),
        ("漢a", "[æ] [¼] [¢] [a]"),
        ("a漢", "[a] [æ] [¼] [¢]"),
    ],
)
def test_the_bytes_of_one_character_stay_together(answer: str, expected: str) -> None:
    """U+1F600 is F0 9F 98 80, U+6F22 is E6 BC A2; all bytes of a character carry the character's offsets."""
    assert scored(byte_level(), completion("?", answer)) == f"<bos> ? {expected} [<eos>]"
    assert scored(byte_level(), completion("漢", answer)) == f"<bos> æ ¼ ¢ {expected} [<eos>]"


def test_bytes_of_sentence_pieces_stay_together() -> None:
    """The bytes of an unknown character all end where it ends; the bar before them is the space of the template."""
    expected = f"<bos> ▁Question : ▁Who ? {IN_BYTES} : ▁ [<0xE6>] [<0xBC>] [<0xA2>] [.] [<eos>]"
    assert scored(sentence_pieces(), question("Who?", "漢.")) == expected


@pytest.mark.parametrize(
    ("example", "expected"),
    [
        (completion("?", "  Ida"), "<bos> ? [Ġ] [ĠIda] [<eos>]"),
        (completion("?", "\nIda \n"), "<bos> ? [Ċ] [Ida] [Ġ] [Ċ] [<eos>]"),
        (question("Who?", "  Ida"), "<bos> Question : ĠWho ? Ċ Answer : Ġ [Ġ] [ĠIda] [<eos>]"),
        (question("Who?", "Ida \n"), "<bos> Question : ĠWho ? Ċ Answer : [ĠIda] [Ġ] [Ċ] [<eos>]"),
    ],
)
def test_white_space_of_an_answer_is_part_of_it(example: Example, expected: str) -> None:
    """Nothing of a row is cut away: what stands in the answer is scored, first and last spaces too."""
    assert scored(byte_level(), example) == expected


def test_an_empty_prompt_starts_from_what_the_tokenizer_puts_in_front() -> None:
    encoded = one(byte_level(), completion("", "Ida."))
    assert shown(byte_level(), encoded) == "<bos> [Ida] [.] [<eos>]"
    assert encoded.prompt_length == 1


def test_an_empty_prompt_without_a_first_token_gives_the_answers_own() -> None:
    """Nothing predicts the first token of all, so it is not scored, and generation has to start from it."""
    encoded = one(byte_level(post=None), completion("", "Ida."))
    assert shown(byte_level(), encoded) == "Ida [.] [<eos>]"
    assert encoded.prompt_length == 1


def test_an_answer_of_which_only_the_end_could_be_scored_is_left_out_and_counted() -> None:
    """Of "Ida" alone nothing is predicted but <eos>; of a text that the normalizer empties there is nothing else."""
    split = encode(byte_level(post=None), [completion("", "Ida"), completion("", "Ida.")])
    assert ([shown(byte_level(), e) for e in split.examples], split.left_out, split.too_long) == (
        ["Ida [.] [<eos>]"],
        1,
        0,
    )
    emptying = whole_words("Who", post="<bos> $A")
    emptying.backend_tokenizer.normalizer = normalizers.Replace("x", "")
    with pytest.raises(InputError, match=r"no forget row has a token to score .* longest row has 3\); give longer"):
        encode(emptying, completion("Who", " x"))


def test_a_tokenizer_without_offsets_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(InputError, match="Slow gives no character offsets; expected a fast tokenizer"):
        Encoder(Slow(), DataOptions())


@given(
    prompt=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<"), max_size=12),
    answer=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<"), min_size=1, max_size=12),
    learned=st.permutations(["a漢", " 😀", "é", "ab", "  ", "\na"]),
    cut=st.integers(0, 13),
)
def test_scored_tokens_are_those_whose_bytes_reach_the_answer(
    prompt: str, answer: str, learned: list[str], cut: int
) -> None:
    """Each character of a byte-level token is one byte: token k spans bytes [sum of lengths before, with it).

    Its last byte lies in or after the answer's first character if and only if its character end lies beyond the
    answer's start. The text ends and begins with words that the vocabulary holds, whole and as parts of characters,
    and that prompt and answer share.
    """
    tokenizer = byte_level(words=learned)
    known = "".join(learned)
    prompt, answer = prompt + known[:cut], known[cut:] + answer
    ids = tokenizer(prompt + answer)["input_ids"]
    end = np.cumsum([0, *(len(token) for token in tokenizer.convert_ids_to_tokens(ids[1:]))])
    expected = [*(end > len(prompt.encode())), True]
    (encoded,) = encode(tokenizer, completion(prompt, answer)).examples
    assert encoded.input_ids.tolist() == [*ids, tokenizer.eos_token_id]
    assert encoded.is_scored.tolist() == expected
    assert encoded.prompt_length == expected.index(True)


# Chat templates


ASKED = ("Who?", "Ida.")
MARKED = "<|im_start|> user Ċ W h o ? <|im_end|> Ċ <|im_start|> assistant Ċ"


@pytest.mark.parametrize(
    ("template", "arguments", "expected"),
    [
        (CHATML, {}, f"{MARKED} [Ida] [.] [<|im_end|>]"),
        (
            DATED,
            {"date_string": "7"},
            "<bos> 7 ; <turn> user : W h o ? </turn> <turn> assistant : [Ida] [.] [</turn>]",
        ),
        (THINKING, {"enable_thinking": "false"}, f"{MARKED} [Ida] [.] [<|im_end|>]"),
        (
            THINKING,
            {},
            f"{MARKED} < t h i n k > Ċ Ċ < / t h i n k > Ċ Ċ [Ida] [.] [<|im_end|>]",
        ),
        (GEMMA, {}, "<bos> <turn> user Ċ W h o ? </turn> Ċ <turn> m o d e l Ċ [Ida] [.] [</turn>]"),
        (SPACED, {}, "<bos> U ĠWho ? Ġ A [ĠIda] [.] [Ġ] [<eos>]"),
        (BARE, {}, "user : W h o ? Ċ assistant : [Ida] [.] [<eos>]"),
    ],
    ids=["chatml", "dated", "no-thinking", "empty-thinking", "gemma", "spaced", "no-end-of-turn"],
)
def test_chat_templates(template: str, arguments: dict[str, str], expected: str) -> None:
    """The end of turn is scored though it has no role, the newline after it is not; the tokenizer adds no <bos>.

    Where a template writes no end of turn, what it writes after the answer is dropped, and <eos> closes.
    """
    tokenizer = byte_level(chat_template=template)
    for example in (question(*ASKED), chat(*ASKED)):
        encoded = one(tokenizer, example, template_args=arguments)
        assert shown(tokenizer, encoded) == expected
        assert encoded.closes
        assert encoded.prompt_length == sum(not token.startswith("[") for token in expected.split())


def conversation(*contents: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


@pytest.mark.parametrize("template", [CHATML, GEMMA, THINKING, SPACED])
def test_generation_starts_from_tokens_of_the_whole_conversation(template: str) -> None:
    """What transformers makes of the whole conversation begins with our tokens, and these with the prompt's."""
    tokenizer = byte_level(chat_template=template)
    encoded = one(tokenizer, chat("Who?", "Ida.", "In Paris", " Paris "))
    whole = tokenizer.apply_chat_template(conversation("Who?", "Ida.", "In Paris", " Paris "), return_dict=False)
    assert whole[: len(encoded.input_ids)] == encoded.input_ids.tolist()
    assert tokenizer.convert_ids_to_tokens(whole[len(encoded.input_ids) :]) in ([], ["Ċ"])
    assert encoded.is_scored.tolist() == (np.arange(len(encoded.input_ids)) >= encoded.prompt_length).tolist()
    assert tokenizer.decode(encoded.input_ids[encoded.is_scored], skip_special_tokens=True).strip() == "Paris"


@pytest.mark.parametrize("answer", ["Ida.", "user", "im_end", "end", "\n", "think", "in", "e", "."])
@pytest.mark.parametrize("template", [CHATML, THINKING, BARE])
def test_only_the_last_turn_is_scored_wherever_its_text_stands_too(template: str, answer: str) -> None:
    """The answer occurs in earlier turns, in the template's own words, or in the end of turn."""
    if not answer.strip():
        answer = f"x{answer}x"
    tokenizer = byte_level(chat_template=template)
    encoded = one(tokenizer, chat(answer, answer, f"{answer} {answer}", answer, "?", answer))
    expected = tokenizer(answer, add_special_tokens=False)["input_ids"]
    assert encoded.input_ids[encoded.is_scored].tolist()[:-1] == expected
    before = tokenizer.decode(encoded.input_ids[: encoded.prompt_length])
    assert before.count("assistant") == 3
    assert not before.endswith(answer)


def test_a_template_that_trims_the_answer_decides_what_is_scored() -> None:
    """Gemma's template writes "Ida" for " Ida \\n"; ChatML's writes all of it, and all of it is scored."""
    trimmed = scored(byte_level(chat_template=GEMMA), chat("?", " Ida \n"))
    assert trimmed.endswith("m o d e l Ċ [Ida] [</turn>]")
    kept = scored(byte_level(chat_template=CHATML), chat("?", " Ida \n"))
    assert kept.endswith("assistant Ċ [ĠIda] [Ġ] [Ċ] [<|im_end|>]")


def test_reasoning_in_the_answer_may_be_rewritten_as_long_as_it_stands_there() -> None:
    """The template takes the answer apart at </think>; what it writes is the same text, at the end of the turn."""
    tokenizer = byte_level(chat_template=THINKING)
    encoded = one(tokenizer, chat("?", "<think>\nSo\n</think>\n\nIda"))
    expected = "< t h i n k > Ċ S o Ċ < / t h i n k > Ċ Ċ Ida <|im_end|>"
    assert shown(tokenizer, encoded).endswith(" ".join(f"[{token}]" for token in expected.split()))
    with pytest.raises(InputError, match="does not write the answer of s:0 as it stands"):
        encode(tokenizer, chat("?", "<think>So</think>Ida"))


def test_system_prompts_go_in_front_unless_the_row_has_one() -> None:
    tokenizer = byte_level(chat_template=BARE)
    given = {"system_prompt": "x"}
    assert scored(tokenizer, question("?", "Ida"), **given) == "system : x Ċ user : ? Ċ assistant : [Ida] [<eos>]"
    assert scored(tokenizer, chat("?", "Ida"), **given) == "system : x Ċ user : ? Ċ assistant : [Ida] [<eos>]"
    own = scored(tokenizer, chat("?", "Ida", system="y"), **given)
    assert own == "system : y Ċ user : ? Ċ assistant : [Ida] [<eos>]"


@pytest.mark.parametrize(("value", "expected"), [("true", "1"), ("True", "1"), ("false", "2"), ("no", "no")])
def test_template_arguments_read_true_and_false_as_such(value: str, expected: str) -> None:
    template = "{{ {true: '1', false: '2'}.get(flag, flag) }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    tokens = scored(byte_level(chat_template=template), chat("?", "Ida"), template_args={"flag": value})
    assert tokens == f"{' '.join(expected)} ? [Ida] [<eos>]"


def test_a_template_from_a_file_replaces_the_tokenizers(tmp_path: Path) -> None:
    file = tmp_path / "chat.jinja"
    file.write_text(BARE, encoding="utf-8")
    tokenizer = byte_level(chat_template=CHATML)
    assert scored(tokenizer, chat("?", "Ida"), chat_template=str(file)) == "user : ? Ċ assistant : [Ida] [<eos>]"
    assert scored(tokenizer, question("?", "Ida"), chat_template="none").startswith("<bos> Question :")


@pytest.mark.parametrize(
    ("options", "template", "sentence"),
    [
        ({}, None, "s:0 is a list of messages, and there is no chat template for it; give --chat_template FILE."),
        ({"chat_template": "none"}, CHATML, "s:0 is a list of messages, and there is no chat template"),
        ({"chat_template": "absent.jinja"}, CHATML, "--chat_template is 'absent.jinja', and there is no such file"),
        ({}, "{{ raise_exception('roles must alternate') }}", "chat template refused .* roles must alternate"),
        ({}, "{% for m in messages %}", "chat template refused a conversation"),
        ({}, "{{ messages[0]['content'] }}", "does not write the answer of s:0 as it stands"),
        ({}, "{{ messages[-1]['content'] | upper }}", "does not write the answer of s:0 as it stands"),
    ],
)
def test_templates_that_cannot_be_used(options: dict[str, Any], template: str | None, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        encode(byte_level(chat_template=template), chat("?", "Ida"), **options)


def test_a_template_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "chat.jinja"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"--chat_template .*chat.jinja cannot be read"):
        Encoder(byte_level(), DataOptions(chat_template=str(file)))


def test_unknown_words_after_the_answer_do_not_close_it() -> None:
    """The unknown token is special, but no end of turn."""
    tokenizer = whole_words("user", "assistant", "Who", "Ida", ":", chat_template=BARE.replace("\n", " over "))
    assert scored(tokenizer, chat("Who", "Ida")) == "user : Who <unk> assistant : [Ida] [<eos>]"


def test_an_end_of_turn_may_be_an_ordinary_added_token() -> None:
    """Added white space, as some vocabularies hold, is none."""
    tokenizer = byte_level(chat_template="{% for m in messages %}{{ m['content'] }}  <over>\n{% endfor %}")
    tokenizer.add_tokens([AddedToken("<over>", normalized=False), AddedToken("  ", normalized=False)])
    tokens = tokenizer.convert_ids_to_tokens(one(tokenizer, chat("?", "Ida")).input_ids.tolist())
    assert tokens == ["?", "  ", "<over>", "Ċ", "Ida", "  ", "<over>"]


# Dates

PINNED_DATE = datetime(2024, 7, 26, tzinfo=UTC)
LLAMA3 = (
    "{{- bos_token }}\n{%- if not date_string is defined %}\n    {%- if strftime_now is defined %}\n"
    '        {%- set date_string = strftime_now("%d %b %Y") %}\n    {%- else %}\n'
    '        {%- set date_string = "26 Jul 2024" %}\n    {%- endif %}\n{%- endif %}\n'
    "{{- '<turn>system' + '\n\nToday Date: ' + date_string + '</turn>' }}\n"
    "{%- for message in messages %}\n"
    "    {{- '<turn>' + message['role'] + '\n\n' + message['content'] | trim + '</turn>' }}\n"
    "{%- endfor %}\n"
)
"""The date as Llama 3.2's template writes it, between short turns."""


class Tomorrow(datetime):
    """A clock that is a few years on."""

    @classmethod
    def now(cls, tz: Any = None) -> "Tomorrow":
        return cls(2031, 3, 4, 5, 6, tzinfo=tz)


@pytest.mark.parametrize("today", [None, Tomorrow])
def test_prompts_are_the_same_on_any_day(monkeypatch: pytest.MonkeyPatch, today: Any) -> None:
    """Oracle: what the template writes where it cannot ask for today's date."""
    if today:
        monkeypatch.setattr(chat_template_utils, "datetime", today)
    asked = question("Who?", "Ida")
    encoder = Encoder(byte_level(chat_template=LLAMA3), DataOptions())
    expected = "<bos><turn>system\n\nToday Date: 26 Jul 2024</turn><turn>user\n\nWho?</turn><turn>assistant\n\n"
    assert encoder.prompt(asked) == {"text": expected, "sha256": sha256(expected)}
    cannot_ask = LLAMA3.replace("strftime_now", "nothing")
    assert Encoder(byte_level(chat_template=cannot_ask), DataOptions()).prompt(asked)["text"] == expected
    assert encoder.facts(asked)["date"] == "2024-07-26"


@pytest.mark.parametrize(
    ("template", "arguments", "example", "expected"),
    [
        (DATED, {}, question("?", "Ida"), True),
        (DATED, {}, chat("?", "Ida"), True),
        (DATED, {}, completion("?", "Ida"), False),
        (DATED, {"date_string": "7"}, question("?", "Ida"), False),
        ("{{ strftime_now('%d')[9:] }}" + BARE, {}, question("?", "Ida"), True),
        ("{{ 1 / (strftime_now('%d') | int) }}" + BARE, {}, question("?", "Ida"), True),
        ("{{ strftime_now is defined }}" + BARE, {}, question("?", "Ida"), False),
        (CHATML, {}, question("?", "Ida"), False),
        (None, {}, question("?", "Ida"), False),
    ],
)
def test_a_template_that_writes_the_date_is_noticed(
    template: str | None, arguments: dict[str, str], example: Example, expected: bool
) -> None:
    encoder = Encoder(byte_level(chat_template=template), DataOptions(template_args=arguments))
    assert encoder.writes_date(example) is expected
    assert ("date" in encoder.facts(example)) is expected


def test_an_argument_says_another_date() -> None:
    tokenizer, argument = byte_level(chat_template=LLAMA3), {"date_string": "10 Apr 2025"}
    text = Encoder(tokenizer, DataOptions(template_args=argument)).prompt(question("Who?", "Ida"))["text"]
    assert "Today Date: 10 Apr 2025</turn>" in text


@pytest.mark.parametrize("code", FORMATS)
def test_the_date_is_written_in_the_format_asked_for(code: str) -> None:
    """Oracle: strftime of the first moment of that day, in the locale C, with the names that Linux has."""
    naive = PINNED_DATE.replace(tzinfo=None)  # as templates' own, which have no zone
    assert FORMATS[code] == naive.strftime(f"%{code}")


@pytest.mark.parametrize(
    "asked_for",
    ["%d %b %Y", "%A, %-d. %B %y", "%Y-%m-%dT%H:%M:%S", "100%% on %%d %d", "", "%%%d", "%-m/%-d", "no date"],
)
@pytest.mark.parametrize("head", ["", "  ", "\n\n  {{ 'x' }}\n", "\t{# a comment #}\n", "{%- set x = 1 %}\n x\n"])
def test_the_rest_of_a_template_stays_as_it_is(asked_for: str, head: str) -> None:
    """Oracle: the same template with the date in the place of the call."""
    body = "[{{ 'DATE' }}]{% for m in messages %}{{ m['content'] }};\n{% endfor %}"
    row = question("Who?", "Ida")
    calling = head + body.replace("'DATE'", f"strftime_now('{asked_for}')")
    wanted = head + body.replace("DATE", PINNED_DATE.strftime(asked_for))
    found, expected = (
        Encoder(byte_level(chat_template=template), DataOptions()).prompt(row)["text"] for template in (calling, wanted)
    )
    assert found == expected


# Corpus texts


def chunks(tokenizer: Any, text: str, limit: int) -> list[str]:
    return [shown(tokenizer, encoded) for encoded in encode(tokenizer, corpus(text), max_length=limit).examples]


def test_each_chunk_of_a_text_begins_as_the_text_does() -> None:
    """With <bos> in front all that the text holds is scored; a tail of one token too, and <eos> stands nowhere."""
    tokenizer = byte_level()
    assert chunks(tokenizer, "abcdefg", 3) == ["<bos> [a] [b]", "<bos> [c] [d]", "<bos> [e] [f]", "<bos> [g]"]
    assert chunks(tokenizer, "abcdef", 4) == ["<bos> [a] [b] [c]", "<bos> [d] [e] [f]"]
    assert chunks(tokenizer, "abc", 2) == ["<bos> [a]", "<bos> [b]", "<bos> [c]"]
    assert chunks(tokenizer, "a", 9) == ["<bos> [a]"]


def test_without_a_begin_the_first_token_of_a_chunk_is_not_scored() -> None:
    tokenizer = byte_level(post=None)
    assert chunks(tokenizer, "abcdefgh", 3) == ["a [b] [c]", "d [e] [f]", "g [h]"]
    assert chunks(tokenizer, "abcd", 9) == ["a [b] [c] [d]"]
    assert chunks(tokenizer, "<bos>abc", 3) == ["<bos> [a]", "b [c]"]  # the text's own


def test_a_tail_of_one_token_takes_another_from_the_chunk_before() -> None:
    """Alone it could not be predicted from anything. A limit of 2 leaves no token to take."""
    assert chunks(byte_level(post=None), "abcdefg", 3) == ["a [b] [c]", "d [e]", "f [g]"]
    assert chunks(byte_level(post=None), "abc", 2) == ["a [b]"]


def test_no_character_is_cut_apart_behind_a_begin() -> None:
    """Each o with an umlaut is two bytes, two tokens: with <bos> a chunk of three has room for one of them."""
    tokenizer = byte_level()
    assert [encoded.prompt + encoded.answer for encoded in encode(tokenizer, corpus("aöö"), max_length=4).examples] == [
        "aö",
        "ö",
    ]
    assert [len(encoded.input_ids) for encoded in encode(tokenizer, corpus("aöö"), max_length=3).examples] == [2, 3, 3]


@given(text=st.text(alphabet="ab ö€", min_size=1, max_size=40), limit=st.integers(2, 9), begins=st.booleans())
def test_chunks_hold_the_text_within_the_limit(text: str, limit: int, begins: bool) -> None:
    """Put together they are the tokens of the text; without <bos> a tail of one token is lost at a limit of 2."""
    tokenizer = byte_level(post="<bos> $A" if begins else None)
    whole = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(whole) == 1 and not begins:
        return
    found = encode(tokenizer, corpus(text), max_length=limit).examples
    assert all(2 <= len(chunk.input_ids) <= limit and chunk.scored == len(chunk.input_ids) - 1 for chunk in found)
    joined = [token for chunk in found for token in chunk.input_ids.tolist()[begins:]]
    assert joined == whole[: len(joined)]
    assert len(whole) - len(joined) == int(not begins and limit == 2 and len(whole) % 2)


@pytest.mark.parametrize("post", [None, "$A <eos>"])
def test_texts_get_no_end_but_keep_their_own(post: str | None) -> None:
    assert chunks(byte_level(post=post), "Ida.", 9) == ["Ida [.]"]
    assert chunks(byte_level(post=post), "a<eos>Ida<eos>", 9) == ["a [<eos>] [Ida] [<eos>]"]


def test_each_chunk_names_its_text_and_gives_half_of_itself_as_prompt() -> None:
    split = encode(byte_level(), [corpus("abcdefg"), Example("s:1", "text", "", "xy")], max_length=5)
    assert [(e.id, e.prompt, e.answer, e.prompt_length, e.closes) for e in split.examples] == [
        ("s:0.0", "ab", "cd", 3, False),
        ("s:0.1", "e", "fg", 2, False),
        ("s:1", "x", "y", 2, False),
    ]
    assert (split.rows, split.too_long, split.left_out, split.longest) == (2, 0, 0, 8)
    assert split.scored == 4 + 3 + 2


def test_a_text_of_one_token_is_left_out_and_counted() -> None:
    split = encode(byte_level(post=None), [corpus("a"), corpus("ab")])
    assert (len(split.examples), split.left_out) == (1, 1)
    with pytest.raises(InputError, match="no forget row has a token to score"):
        encode(byte_level(post=None), corpus("a"))


def test_the_ends_of_cut_texts_are_no_rows_that_two_splits_share() -> None:
    """Both end with a full stop of its own; the text of one chunk and the chunks in front of it are rows."""
    texts = [replace(corpus(text), id=f"s:{i}") for i, text in enumerate(("abcdef.", "ghi.", "."))]
    split = encode(byte_level(), texts, max_length=4)
    assert [row.id for row in split.examples if row.is_tail] == ["s:0.2", "s:1.1"]
    whole = [row for row in split.examples if not row.is_tail]
    assert whole_digests(split.examples).tolist() == token_digests(whole).tolist()
    assert len(set(token_digests(split.examples))) == 4  # the full stop is there three times


def test_a_text_that_stays_whole_is_one_example_and_is_cut() -> None:
    """With <bos> the first has 4 tokens, the second 8, of which a limit of 5 leaves 5; neither gets an end."""
    rows = [replace(corpus("abc"), is_whole=True), replace(corpus("abcdefg"), id="s:1", is_whole=True)]
    split = encode(byte_level(), rows, max_length=5)
    assert [shown(byte_level(), row) for row in split.examples] == ["<bos> [a] [b] [c]", "<bos> [a] [b] [c] [d]"]
    assert [row.id for row in split.examples] == ["s:0", "s:1"]
    assert (split.too_long, split.left_out, any(row.closes for row in split.examples)) == (1, 0, False)


# Too long


LONG = [completion("ab", "cd"), completion("ab", "c"), completion("ab", "cdefg"), completion("abcde", "f")]
"""With <bos> and <eos> 6, 5, 9 and 8 tokens."""


def test_what_is_too_long_is_cut_and_counted() -> None:
    """At 6 tokens the third loses "fg" and its end; of the fourth the prompt fills the limit, and nothing is scored."""
    split = encode(byte_level(), LONG, max_length=6)
    assert [shown(byte_level(), encoded) for encoded in split.examples] == [
        "<bos> a b [c] [d] [<eos>]",
        "<bos> a b [c] [<eos>]",
        "<bos> a b [c] [d] [e]",
    ]
    assert [encoded.closes for encoded in split.examples] == [True, True, False]
    assert (split.rows, split.too_long, split.left_out, split.longest, split.scored) == (4, 2, 1, 9, 8)


def test_what_is_too_long_is_dropped_and_counted() -> None:
    split = encode(byte_level(), LONG, max_length=6, too_long="drop")
    assert lengths(split.examples).tolist() == [6, 5]
    assert (split.rows, split.too_long, split.left_out, split.longest, split.scored) == (4, 2, 2, 9, 5)


def test_what_is_too_long_is_an_error_where_asked_for() -> None:
    sentence = r"2 of 4 forget rows are longer than 6 tokens \(the longest has 9\); raise --max_length .* cut or drop"
    with pytest.raises(InputError, match=sentence):
        encode(byte_level(), LONG, max_length=6, too_long="error")
    assert encode(byte_level(), LONG, max_length=9, too_long="error").too_long == 0


def test_the_models_own_limit_counts_where_it_is_lower() -> None:
    assert Encoder(byte_level(), DataOptions(max_length=9), model_limit=6).limit == 6
    assert Encoder(byte_level(), DataOptions(max_length=9), model_limit=60).limit == 9
    assert Encoder(byte_level(), DataOptions(max_length=9)).limit == 9


@pytest.mark.parametrize("too_long", ["cut", "drop"])
def test_a_split_of_which_nothing_is_left_is_refused(too_long: str) -> None:
    sentence = r"no forget row has a token to score within 6 tokens \(the longest row has 8\); raise --max_length\."
    with pytest.raises(InputError, match=sentence):
        encode(byte_level(), LONG[3], max_length=6, too_long=too_long)


def test_the_end_counts_for_the_limit_too() -> None:
    """The first row has 6 tokens: at 5 only its end is cut, and the row counts as too long."""
    split = encode(byte_level(), LONG[0], max_length=5)
    assert shown(byte_level(), split.examples[0]) == "<bos> a b [c] [d]"
    assert (split.too_long, split.examples[0].closes) == (1, False)


# Splits and facts


def test_examples_keep_their_order_whatever_their_kind() -> None:
    """Conversations and plain texts go to the tokenizer apart; more than one of its batches is needed."""
    kinds = [chat("?", "Ida"), completion("?", "Ida"), question("?", "Ida")]
    examples = [Example(f"s:{i}", e.kind, e.prompt, e.answer) for i, e in enumerate(kinds * 400)]
    split = encode(byte_level(chat_template=BARE), examples)
    assert [encoded.id for encoded in split.examples] == [f"s:{i}" for i in range(1200)]
    chats, plain = "user : ? Ċ assistant : [Ida] [<eos>]", "<bos> ? [Ida] [<eos>]"
    tokens = [shown(byte_level(), encoded) for encoded in split.examples[1020:1029]]
    assert tokens == [chats, plain, chats] * 3


def test_the_preview_shows_each_token_as_text() -> None:
    tokenizer = byte_level()
    encoder = Encoder(tokenizer, DataOptions())
    assert encoder.preview(one(tokenizer, question("Who?", "Ida"))) == [
        *((token, False) for token in ("<bos>", "Question", ":", " Who", "?", "\n", "Answer", ":")),
        (" Ida", True),
        ("<eos>", True),
    ]


@pytest.mark.parametrize("kind", ["byte-level", "pieces"])
def test_the_preview_reads_as_the_text_where_a_letter_is_several_tokens(kind: str) -> None:
    """One token alone would be half a letter, or a word without the blank before it."""
    tokenizer = {"byte-level": byte_level, "pieces": sentence_pieces}[kind]()
    if kind == "pieces":
        steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        tokenizer.backend_tokenizer.decoder = decoders.Sequence(steps)
    prompt, answer = "Who was é 漢?\nAnswer:", "Il était là 😀, à Łódź"
    shown = Encoder(tokenizer, DataOptions()).preview(one(tokenizer, completion(prompt, answer)))
    texts = ["".join(text for text, scored in shown if scored == wanted) for wanted in (False, True)]
    assert texts[0].removeprefix("<bos>").strip() == prompt
    assert texts[1].removesuffix("<eos>") == answer
    assert "" not in [text for text, _ in shown]


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_facts_of_the_question_template() -> None:
    assert Encoder(byte_level(), DataOptions()).facts(question("Où?", "Là")) == {
        "kind": "question",
        "first_prompt_sha256": sha256("Question: Où?\nAnswer: "),
        "arguments": {"question_template": "Question: {question}\nAnswer:", "answer_template": " {answer}"},
    }


def test_facts_of_rows_without_a_template() -> None:
    encoder = Encoder(byte_level(chat_template=CHATML), DataOptions())
    assert encoder.facts(completion("Ab", " c")) == {"kind": "as it stands", "first_prompt_sha256": sha256("Ab")}
    assert encoder.facts(corpus("abc")) == {"kind": "text", "first_prompt_sha256": sha256("")}


def test_facts_of_a_chat_template_depend_on_its_arguments() -> None:
    def facts(**options: Any) -> dict[str, Any]:
        return Encoder(byte_level(chat_template=DATED), DataOptions(**options)).facts(question("Who?", "Ida"))

    assert facts(template_args={"date_string": "7"}) == {
        "kind": "chat",
        "first_prompt_sha256": sha256("<bos>7;<turn>user:Who?</turn><turn>assistant:"),
        "arguments": {"date_string": "7"},
        "system_prompt": None,
        "template_sha256": sha256(DATED),
    }
    other = facts(template_args={"date_string": "8"}, system_prompt="x")
    assert other["first_prompt_sha256"] == sha256("<bos>8;<turn>system:x</turn><turn>user:Who?</turn><turn>assistant:")
    assert (other["arguments"], other["system_prompt"]) == ({"date_string": "8"}, "x")


# Spans


def marked(example: Example, *texts: str) -> Example:
    """The example with the first occurrence of each text as a span."""
    spans = tuple((example.answer.index(text), example.answer.index(text) + len(text)) for text in texts)
    return replace(example, forget_spans=spans)


def spanned(tokenizer: Any, example: Example, **options: Any) -> str:
    """The tokens of an example, those to be forgotten in brackets."""
    encoded = one(tokenizer, example, **options)
    assert encoded.is_span is not None
    assert encoded.is_span.dtype == bool
    assert encoded.is_span.shape == encoded.input_ids.shape
    return shown(tokenizer, replace(encoded, is_scored=encoded.is_forgotten))


@pytest.mark.parametrize(
    ("tokenizer", "expected"),
    [
        (byte_level(), "<bos> Question : ĠWho ? Ċ Answer : [ĠIda] Ġ 5 [5] [-] 1 [.] <eos>"),
        (
            whole_words("Question", "Answer", "Who", "Ida", ":", "?", ".", "55", "-", "1"),
            "Question : Who ? Answer : [Ida] [55] [-] 1 [.] <eos>",
        ),
        (
            sentence_pieces(),
            f"<bos> ▁Question : ▁Who ? {IN_BYTES} : [▁Ida] ▁ [<0x35>] [<0x35>] [<0x2D>] [<0x31>] [.] <eos>",
        ),
    ],
    ids=["bytes", "words", "pieces"],
)
def test_tokens_that_overlap_a_span_are_to_be_forgotten(tokenizer: Any, expected: str) -> None:
    """Ida 55-1.: the spans are "da", "5-" from the second 5 on, and the full stop; half of a token is all of it.

    Sentence pieces give every byte of a run of unknown characters the range of the whole run.
    """
    example = replace(question(" Who?", "Ida 55-1."), forget_spans=((1, 3), (5, 7), (8, 9)))
    options = {"question_template": "Question:{question}\nAnswer:"}
    assert spanned(tokenizer, example, **options) == expected


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        ("😀", "<bos> ? Ġ a [ð] [Ł] [ĺ] [Ģ] æ ¼ ¢ b <eos>"),
        ("漢", "<bos> ? Ġ a ð Ł ĺ Ģ [æ] [¼] [¢] b <eos>"),
        ("漢b", "<bos> ? Ġ a ð Ł ĺ Ģ [æ] [¼] [¢] [b] <eos>"),
        ("a", "<bos> ? Ġ [a] ð Ł ĺ Ģ æ ¼ ¢ b <eos>"),
    ],
)
def test_the_bytes_of_a_marked_character_are_marked(span: str, expected: str) -> None:
    assert spanned(byte_level(), marked(completion("? ", "a😀漢b"), span)) == expected


@given(
    answer=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<"), min_size=1, max_size=12),
    learned=st.permutations(["a漢", " 😀", "é", "ab", "  ", "\na"]),
    ends=st.tuples(st.integers(0, 24), st.integers(1, 24)),
)
def test_marked_tokens_are_those_whose_bytes_meet_those_of_the_span(
    answer: str, learned: list[str], ends: tuple[int, int]
) -> None:
    """Each character of a byte-level token is one byte; the span's bytes lie between those of its first and last one.

    A token may hold parts of two characters: the one that it ends in the middle of is its own as well.
    """
    tokenizer = byte_level(words=learned)
    answer = "".join(learned) + answer
    start = ends[0] % len(answer)
    end = start + 1 + ends[1] % (len(answer) - start)
    example = replace(completion("Q", answer), forget_spans=((start, end),))
    encoded = one(tokenizer, example)
    sizes = [len(token) for token in tokenizer.convert_ids_to_tokens(encoded.input_ids[1:-1].tolist())]
    last = np.cumsum([0, *sizes])
    low, high = (len(("Q" + answer[:n]).encode()) for n in (start, end))
    expected = [(b > low) and (a < high) for a, b in pairwise(last)]
    assert encoded.is_span is not None
    assert encoded.is_span.tolist() == [False, *expected, False]
    assert encoded.is_forgotten.tolist() == (encoded.is_span & encoded.is_scored).tolist()
    assert encoded.is_context.tolist() == (~encoded.is_span & encoded.is_scored).tolist()


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CHATML, "assistant Ċ Ġ Ida [.] Ċ <|im_end|>"),
        (GEMMA, "m o d e l Ċ Ida [.] </turn>"),
        (SPACED, "A ĠIda [.] Ġ <eos>"),
        (BARE, "assistant : Ġ Ida [.] Ċ <eos>"),
        (THINKING, "< / t h i n k > Ċ Ċ Ġ Ida [.] Ċ <|im_end|>"),
    ],
)
def test_spans_count_the_answer_as_the_row_has_it_whatever_a_template_trims(template: str, expected: str) -> None:
    words = [word for word in WORDS if word != " Ida" or template == SPACED]
    tokenizer = byte_level(chat_template=template, words=words)
    example = marked(chat("Ida.", "Ida.", "Who?", " Ida.\n"), ".")
    assert spanned(tokenizer, example).endswith(expected)
    assert spanned(tokenizer, example).count("[") == 1


def test_the_whole_answer_as_a_span_is_all_of_it_but_its_end() -> None:
    example = marked(chat("Who?", " Ida. "), " Ida. ")
    assert spanned(byte_level(chat_template=GEMMA), example).endswith("Ċ [Ida] [.] </turn>")
    assert spanned(byte_level(chat_template=CHATML), example).endswith("Ċ [ĠIda] [.] [Ġ] <|im_end|>")


def test_a_row_without_spans_marks_nothing_and_all_of_it_is_to_be_forgotten() -> None:
    split = encode(byte_level(), [question("Who?", "Ida."), marked(question("Who?", "Ida."), "Ida")])
    plain, other = split.examples
    assert plain.is_span is None
    assert plain.is_forgotten.tolist() == plain.is_scored.tolist()
    assert not plain.is_context.any()
    assert other.is_forgotten.sum() == 1
    assert span_facts(split.examples) == {"span_examples": 1, "span_tokens": 1}
    assert span_facts([plain]) == {}


def spanned_chunks(tokenizer: Any, example: Example, limit: int) -> list[str]:
    examples = encode(tokenizer, example, max_length=limit).examples
    assert all(chunk.is_span is not None for chunk in examples)
    return [shown(tokenizer, replace(chunk, is_scored=chunk.is_forgotten)) for chunk in examples]


def test_spans_of_a_text_mark_the_tokens_of_their_chunks() -> None:
    """A chunk without a span is there, and has nothing to forget; the last span lies on both sides of a cut."""
    text = marked(corpus("abcdefghijklmno"), "b", "ijklmn")
    assert spanned_chunks(byte_level(), text, 4) == [
        "<bos> a [b] c",
        "<bos> d e f",
        "<bos> g h [i]",
        "<bos> [j] [k] [l]",
        "<bos> [m] [n] o",
    ]


def test_a_span_may_begin_a_chunk_that_has_a_begin() -> None:
    split = encode(byte_level(), marked(corpus("abcdef"), "a", "d"), max_length=4)
    assert split.lost_span_tokens == 0
    assert spanned_chunks(byte_level(), marked(corpus("abcdef"), "a", "d"), 4) == ["<bos> [a] b c", "<bos> [d] e f"]


def test_a_cut_in_front_of_a_span_moves_one_token_ahead() -> None:
    """Without spans the second chunk begins with e; nothing predicts a first token, so it could not be forgotten."""
    tokenizer = byte_level(post=None)
    assert chunks(tokenizer, "abcdefgh", 4) == ["a [b] [c] [d]", "e [f] [g] [h]"]
    assert spanned_chunks(tokenizer, marked(corpus("abcdefgh"), "e"), 4) == ["a b c", "d [e] f", "g h"]
    assert spanned_chunks(tokenizer, marked(corpus("abcdefgh"), "ef"), 4) == ["a b c", "d [e] [f]", "g h"]
    assert spanned_chunks(tokenizer, marked(corpus("abcdefgh"), "def"), 4) == ["a b", "c [d] [e] [f]", "g h"]


def test_a_tail_of_one_token_takes_no_span_apart_either() -> None:
    """Of nine letters the last would stand alone; h would be first where it is given g, so it gets f as well."""
    tokenizer = byte_level(post=None)
    assert spanned_chunks(tokenizer, corpus_of_nine("i"), 4) == ["a b c d", "e f g", "h [i]"]
    assert spanned_chunks(tokenizer, corpus_of_nine("h"), 4) == ["a b c d", "e f", "g [h] i"]
    assert spanned_chunks(tokenizer, corpus_of_nine("hi"), 4) == ["a b c d", "e f", "g [h] [i]"]


def corpus_of_nine(span: str) -> Example:
    return marked(corpus("abcdefghi"), span)


def test_a_span_that_fills_a_chunk_is_cut_with_it() -> None:
    text = marked(corpus("abcdefgh"), "cdefgh")
    assert spanned_chunks(byte_level(post=None), text, 4) == ["a b [c] [d]", "e [f] [g] [h]"]


def test_tokens_of_a_span_that_nothing_predicts_are_counted() -> None:
    """Two letters beyond eight tokens, the begin of text and the prompt among them; the first letter of a chunk."""
    assert encode(byte_level(), marked(completion("Q", "abcdefgh"), "defgh"), max_length=8).lost_span_tokens == 2
    assert encode(byte_level(post=None), marked(corpus("abcdefgh"), "cdefgh"), max_length=4).lost_span_tokens == 1
    assert encode(byte_level(), marked(completion("Q", "abcdefgh"), "defgh")).lost_span_tokens == 0


@pytest.mark.parametrize(
    ("example", "options"),
    [
        (marked(completion("Q", "abcdefgh"), "c", "gh"), {"max_length": 8}),
        (marked(completion("Q", "abcdefgh"), "gh"), {"max_length": 8}),
        (marked(corpus("abcdefgh"), "a"), {"max_length": 4}),
    ],
)
def test_a_span_of_which_nothing_can_be_forgotten_is_refused(example: Example, options: dict[str, Any]) -> None:
    """It was cut off with its answer, or is the first token of a text."""
    lost = list(example.forget_spans[-1])
    tokenizer = byte_level(post="<bos> $A" if example.kind == "prompt" else None)
    with pytest.raises(InputError) as error:
        encode(tokenizer, example, **options)
    assert str(error.value) == (
        f"s:0: the span {lost} of its answer overlaps no scored token within {options['max_length']} tokens, so it "
        "cannot be forgotten; raise --max_length, or mark it otherwise."
    )


def test_a_span_that_a_template_trims_away_is_refused() -> None:
    example = replace(chat("Who?", "Ida. \n"), forget_spans=((0, 3), (4, 6)))
    with pytest.raises(InputError, match=r"^s:0: the span \[4, 6\] of its answer overlaps no scored token"):
        encode(byte_level(chat_template=GEMMA), example)
    example = replace(chat("Who?", " Ida."), forget_spans=((0, 1),))  # the space in ĠIda is the template's
    with pytest.raises(InputError, match=r"^s:0: the span \[0, 1\] of its answer overlaps no scored token"):
        encode(byte_level(chat_template=SPACED), example)


def test_a_marked_row_that_is_dropped_as_too_long_is_dropped() -> None:
    rows = [marked(completion("Q", "abcdefgh"), "gh"), completion("Q", "a")]
    split = encode(byte_level(), rows, max_length=6, too_long="drop")
    assert (len(split.examples), split.left_out, split.too_long) == (1, 1, 1)


def test_the_preview_of_a_marked_example_shows_what_is_to_be_forgotten() -> None:
    tokenizer = byte_level()
    encoder = Encoder(tokenizer, DataOptions())
    (encoded,) = encoder.encode("s", [marked(completion("Who?", " Ida."), ".")]).examples
    assert "".join(f"[{text}]" if is_marked else text for text, is_marked in encoder.preview(encoded)) == (
        "<bos>Who? Ida[.]<eos>"
    )


def test_each_text_is_tokenized_once(tiny_model, monkeypatch):
    """Lengths, steps and batches ask the tokenizer nothing: rows carry their tokens."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model())
    read: list[str] = []
    kind = type(tokenizer)
    original = kind.__call__

    def counted(self, texts, *arguments, **options):
        read.extend([texts] if isinstance(texts, str) else texts)
        return original(self, texts, *arguments, **options)

    monkeypatch.setattr(kind, "__call__", counted)
    examples = [Example(f"q:{i}", "question", f"Who is {i}?", f"Person {i}.") for i in range(40)]
    rows = Encoder(tokenizer, DataOptions()).encode("retain", examples).examples
    texts = [text for text in read if "Person" in text]
    assert len(texts) == len(set(texts)) == 40
    read.clear()
    order = StepRows({"retain": 40}, 8, seed=0)
    budget = Budget(most_tokens([rows], 4), packs=True)
    assert all(micro_batches({"retain": rows}, order.rows(number), budget) for number in range(10))
    assert all(assemble("", [rows[i] for i in chosen], packs=True) for chosen in like_lengths(rows, 8, packs=True))
    assert read == []
