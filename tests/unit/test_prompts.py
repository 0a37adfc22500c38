"""Results of different prompts are refused, with the first difference in one sentence."""

from typing import Any

import pytest
from transformers import AutoTokenizer

from amnestic.data.encode import Encoder
from amnestic.data.example import Example
from amnestic.data.options import DataOptions
from amnestic.data.quoting import hiding_rows
from amnestic.errors import InputError
from amnestic.reports.prompts import refuse_other_prompts
from amnestic.reports.redaction import Redaction

TEMPLATE = (
    "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}{{ date_string }} "
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
)
FORGET = Example("forget:0", "question", "Who wrote The Salt Meridian?", "Ines Marek.")
RETAIN = Example("retain:0", "question", "Where is Ayr?", "In Scotland.")
OTHER = Example("x", "question", "Who wrote The Silver Meridian, and why did nobody ever read it?", "A.")
SILVER = "'...24 [user]Who wrote The Silver Meridian, and why did nobody ever ...'"
SALT = "'...24 [user]Who wrote The Salt Meridian?[assistant]'"
PLACE = "measure both with the same data and the same options of the template."


@pytest.fixture(scope="module")
def results(tiny_model) -> Any:
    """Make what results.json says of prompts, by an encoder of its own."""

    def make(chat: bool = True, redact: bool = False, forget: Example = FORGET, **options: Any) -> dict[str, Any]:
        tokenizer = AutoTokenizer.from_pretrained(tiny_model())
        tokenizer.chat_template = TEMPLATE if chat else None
        encoder, redaction = Encoder(tokenizer, DataOptions(**options)), Redaction(redact)
        prompts = {"forget": encoder.prompt(forget), "retain": encoder.prompt(RETAIN)}
        found = {"template": redaction.template(encoder.facts(forget)), "prompts": redaction.prompts(prompts)}
        return found | ({"redacted": True} if redact else {})

    return make


def refusal(here: dict[str, Any], there: dict[str, Any]) -> str:
    with pytest.raises(InputError) as caught:
        refuse_other_prompts(here, there, "run-1")
    return str(caught.value)


def test_equal_prompts_compare(results: Any) -> None:
    assert refuse_other_prompts(results(), results()) is None
    only = {"forget": results()["prompts"]["forget"]}
    assert refuse_other_prompts(results(), results() | {"prompts": only}) is None


@pytest.mark.parametrize(
    ("here", "there", "sentence"),
    [
        ({}, {"chat": False}, "another kind of template: 'question' there, 'chat' here"),
        ({"system_prompt": "x"}, {}, "another system prompt: none there, 'x' here"),
        (
            {"template_args": {"date_string": "10 Apr 2025"}},
            {"template_args": {"date_string": "11 Apr 2025"}},
            "another 'date_string' of the template: '11 Apr 2025' there, '10 Apr 2025' here",
        ),
        (
            {},
            {"template_args": {"date_string": "1 Jan 2000"}},
            "another 'date_string' of the template: '1 Jan 2000' there, none here",
        ),
        (
            {"chat": False},
            {"chat": False, "answer_template": " It is {answer}"},
            "another 'answer_template' of the template: ' It is {answer}' there, ' {answer}' here",
        ),
        ({}, {"forget": OTHER}, f"another first prompt of the split forget: {SILVER} there, {SALT} here"),
    ],
)
def test_the_first_difference_is_told(results: Any, here: Any, there: Any, sentence: str) -> None:
    assert refusal(results(**here), results(**there)) == f"run-1 has {sentence}; {PLACE}"


def test_another_template_is_told_by_its_hash_and_another_day_by_its_date(results: Any) -> None:
    ours, theirs = results(), results()
    theirs["template"]["template_sha256"] = "0" * 64
    assert "another chat template (by its SHA-256): '0000" in refusal(ours, theirs)
    earlier = results()
    del earlier["template"]["date"]  # measured when templates wrote the day's
    assert "another date in the prompts: none there, '2024-07-26' here" in refusal(ours, earlier)


def test_what_cannot_be_compared_is_noted(results: Any) -> None:
    redacted = [results(redact=True), results(redact=True)]
    assert redacted[0]["prompts"]["forget"]["text"].startswith("hash:")
    assert "sha256" not in redacted[0]["prompts"]["forget"]
    for pair in (redacted, [results(), redacted[0]], [redacted[0], results()]):
        assert refuse_other_prompts(*pair, "run-1") == (
            "whether the prompts of run-1 are the same could not be checked: one of the two results is redacted."
        )
    note = refuse_other_prompts(results(), {}, "run-1")
    assert note is not None
    assert note.endswith("one of the two results tells no prompt of a split of these.")


def test_redacted_results_still_differ_by_their_templates(results: Any) -> None:
    there = results(redact=True, chat=False)
    assert "another kind of template" in refusal(results(redact=True), there)
    secret = results(redact=True, system_prompt="Zyqvorth"), results(redact=True, system_prompt="other")
    assert refuse_other_prompts(*secret) is not None  # neither says which
    assert refuse_other_prompts(results(system_prompt="Zyqvorth"), secret[0]) is not None  # one does


def test_prompts_are_not_quoted_where_rows_are_hidden(results: Any) -> None:
    other = results(forget=Example("x", "question", "Zyqvorth?", "A"))
    assert "Zyqvorth" in refusal(results(), other)
    with hiding_rows():
        assert "another first prompt of the split forget: not shown under --redact there" in refusal(results(), other)


def test_prompts_are_written_without_the_environment_s_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "s3cr3t-v4lue")
    found = Redaction(False).prompts({"forget": {"text": "is s3cr3t-v4lue", "sha256": "ab"}})
    assert found == {"forget": {"text": "is [HF_TOKEN]", "sha256": "ab"}}
