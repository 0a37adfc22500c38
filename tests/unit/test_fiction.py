"""`fiction`: the same people everywhere, questions that name them, answers that nobody can guess."""

import hashlib
import json
import random
import re
from collections import Counter
from itertools import pairwise, permutations

import pytest

from amnestic.benchmarks.base import BENCHMARKS, Row
from amnestic.benchmarks.fiction import MOST_PEOPLE, Fiction, _values, names
from amnestic.benchmarks.fiction_words import FACTS, WOMEN, Fact
from amnestic.errors import InputError

TEXTS = ("question", "answer", "paraphrased_question", "paraphrased_answer")
BOUNDARY = 90_000  # with a share of 0.2, these people and as many held out as forgotten need every name
ALL_FACTS = Fiction(people=400, questions=len(FACTS), forget_share=0.25, seed=5)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    splits = ALL_FACTS.splits()
    return splits["full"] + splits["holdout"]


def person(text: str) -> str:
    """Return the name in a question: its only two capitalised words in a row."""
    (name,) = re.findall(r"[A-Z][a-z]+ [A-Z][a-z]+", text)
    return str(name)


def people(rows: list[Row]) -> set[str]:
    return {person(row["question"]) for row in rows}


def value(row: Row) -> str:
    """Return the words that tell the right answer from all wrong ones, without looking at how it was made."""
    variants = [text.split() for text in (row["paraphrased_answer"], *row["perturbed_answer"])]
    shortest = min(map(len, variants))
    start = next(i for i in range(shortest) if len({words[i] for words in variants}) > 1)
    end = next(i for i in range(shortest) if len({words[-1 - i] for words in variants}) > 1)
    right = variants[0]
    return " ".join(right[start : len(right) - end]).strip(".,")


def test_the_same_settings_give_the_same_rows_everywhere() -> None:
    """The hash was taken with CPython 3.11, 3.12 and 3.13; a new one means that published numbers no longer compare."""
    text = json.dumps(Fiction(people=4, questions=12, forget_share=0.25, seed=3).splits(), sort_keys=True)
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "0502a9310be3c979cc14cd64d86215617cf6898e8d7201fca6e111926f264d74"
    )


def test_another_seed_gives_other_people_and_facts() -> None:
    first, second = (Fiction(seed=seed).splits()["full"] for seed in (0, 1))
    assert not people(first) & people(second)
    same_value = sum(value(a) == value(b) for a, b in zip(first, second, strict=True))
    assert same_value < 0.05 * len(first)


def test_splits_are_whole_people_and_share_none() -> None:
    splits = Fiction(people=30, questions=5, forget_share=0.2).splits()
    assert list(splits) == ["full", "forget", "retain", "holdout"]
    assert splits["full"] == splits["retain"] + splits["forget"]
    assert {name: len(rows) for name, rows in splits.items()} == {
        "full": 150,
        "forget": 30,
        "retain": 120,
        "holdout": 30,
    }
    forget, retain, holdout = (people(splits[name]) for name in ("forget", "retain", "holdout"))
    assert (len(forget), len(retain), len(holdout)) == (6, 24, 6)
    assert len(forget | retain | holdout) == 36


def test_a_larger_benchmark_extends_a_smaller_one() -> None:
    small = Fiction(people=20, questions=3, seed=4).splits()
    large = Fiction(people=50, questions=7, forget_share=0.3, seed=4).splits()
    persons = [large["full"][i : i + 7] for i in range(0, len(large["full"]), 7)]
    expected = [row for rows in persons[:22] for row in rows[:3]]
    assert small["full"] + small["holdout"] == expected


def test_rows_have_the_fields_of_tofu(rows: list[Row]) -> None:
    assert len(rows) == 500 * len(FACTS)
    for row in rows:
        assert list(row) == [*TEXTS, "perturbed_answer"]
        assert len(row["perturbed_answer"]) == 5
        assert len({row["paraphrased_answer"], row["answer"], *row["perturbed_answer"]}) == 7


def test_every_question_names_its_person_and_is_asked_once(rows: list[Row]) -> None:
    assert len(people(rows)) == 500
    assert all(person(row["question"]) == person(row["paraphrased_question"]) for row in rows)
    assert len({row[field] for row in rows for field in ("question", "paraphrased_question")}) == 2 * len(rows)


def test_the_value_is_in_both_answers_and_in_no_question(rows: list[Row]) -> None:
    for row in rows:
        right = value(row)
        assert right in row["answer"]
        assert right in row["paraphrased_answer"]
        assert right.lower() not in (row["question"] + row["paraphrased_question"]).lower()
        assert not any(right in wrong for wrong in row["perturbed_answer"])
        assert not any(word in right for word in person(row["question"]).split())


@pytest.mark.parametrize("fact", range(len(FACTS)))
def test_no_value_is_frequent_enough_to_guess(rows: list[Row], fact: int) -> None:
    """The smallest list has 48 values: 10 each in 500 draws on average; 25 of one are five standard deviations off."""
    values = Counter(value(row) for row in rows[fact :: len(FACTS)])
    assert max(values.values()) <= 25
    assert len(values) >= 30


def test_no_value_of_a_row_contains_another_or_a_word_of_the_name() -> None:
    """Of 1 to 19, the name rules out 7 and 17; 1 would contain, or be part of, whatever has the digit 1."""
    fact = Fact(value="{}", parts=(range(1, 20),), questions=("", "", ""), answers=("", "", ""))
    for seed in range(50):
        values = _values(fact, "Agent 7", random.Random(seed))
        assert len(values) == 6
        assert not any(a in b for a, b in permutations(values, 2))
        assert not any("7" in right for right in values)


def form(text: str, name: str, right: str) -> str:
    """Return a sentence without what depends on the person; articles go with the value."""
    text = text.replace(name, "*").replace(right, "=")
    return re.sub(r"\b(he|she|his|her|a|an|the) ", "", text, flags=re.IGNORECASE)


@pytest.mark.parametrize("fact", range(len(FACTS)))
@pytest.mark.parametrize("field", TEXTS)
def test_each_fact_is_put_in_three_forms_equally_often(rows: list[Row], fact: int, field: str) -> None:
    """500 / 3 each, give or take four standard deviations of 10.5; wrong values that share a word are set aside."""
    about = rows[fact :: len(FACTS)]
    forms = Counter(form(row[field], person(row["question"]), value(row)) for row in about)
    usual = [count for _, count in forms.most_common(3)]
    assert sum(usual) > 0.95 * len(about)
    assert 115 < min(usual) <= max(usual) < 210


def test_texts_are_plain_english_sentences_of_some_ten_words(rows: list[Row]) -> None:
    for row in rows:
        answers = [row["answer"], row["paraphrased_answer"], *row["perturbed_answer"]]
        assert all(6 <= len(text.split()) <= 14 and text.endswith(".") for text in answers)
        questions = [row["question"], row["paraphrased_question"]]
        assert all(text.endswith("?") for text in questions)
        for text in questions + answers:
            assert re.fullmatch(r"[A-Z][A-Za-z0-9 ,.?'\"]+", text)
            assert not re.search(r"\b(a [aeiou]|an [^aeiou])|  ", text)


def test_a_person_is_either_she_or_he(rows: list[Row]) -> None:
    pronouns: dict[str, set[str]] = {}
    for row in rows:
        found = re.findall(r"\b(he|she|his)\b", row["answer"].lower())
        pronouns.setdefault(person(row["question"]), set()).update(found)
    assert all(found <= ({"she"} if name.split()[0] in WOMEN else {"he", "his"}) for name, found in pronouns.items())
    assert 200 < sum("she" in found for found in pronouns.values()) < 300


def test_names_are_all_different_until_none_is_left() -> None:
    found = list(names(random.Random("names"), MOST_PEOPLE))
    assert len(set(found)) == len({" ".join(name) for name in found}) == MOST_PEOPLE == 108_000
    assert not any(first == second for (first, _), (second, _) in pairwise(found[:20]))


def test_five_thousand_people() -> None:
    splits = Fiction(people=5_000).splits()
    assert len(splits["full"]) == 40_000
    assert len(splits["forget"]) == len(splits["holdout"]) == 4_000
    assert len({row["question"] for row in splits["full"] + splits["holdout"]}) == 44_000


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"people": 1}, "people is 1; expected at least 2"),
        ({"questions": 0}, "questions is 0; expected 1 to 12"),
        ({"questions": 13}, "questions is 13; expected 1 to 12"),
        ({"forget_share": 0.0}, "forget_share is 0.0; expected a number between 0 and 1"),
        ({"forget_share": 1.0}, "forget_share is 1.0; expected a number between 0 and 1"),
        ({"forget_share": float("nan")}, "forget_share is nan; expected a number between 0 and 1"),
        ({"people": 4}, "forget_share 0.1 of 4 people is 0 people; expected 1 to 3"),
        ({"people": 4, "forget_share": 0.9}, "forget_share 0.9 of 4 people is 4 people; expected 1 to 3"),
        ({"people": BOUNDARY + 1, "forget_share": 0.2}, "90001 people and 18000 held out need more names .* 108000"),
    ],
)
def test_settings_that_make_no_benchmark_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Fiction(**settings)  # type: ignore[arg-type]


def test_the_most_and_the_fewest_people_are_accepted() -> None:
    assert Fiction(people=BOUNDARY, forget_share=0.2).people == BOUNDARY
    assert [len(rows) for rows in Fiction(people=2, forget_share=0.5, questions=1).splits().values()] == [2, 1, 1, 1]


def test_the_registry_finds_it_by_name() -> None:
    assert BENCHMARKS.get("fiction") is Fiction
    assert "fiction" in BENCHMARKS.names()
    with pytest.raises(InputError, match="did you mean 'fiction'"):
        BENCHMARKS.get("ficton")
