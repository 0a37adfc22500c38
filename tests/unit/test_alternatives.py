"""Alternatives that a model makes to its own answers."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from amnestic import alternatives as module
from amnestic.alternatives import Alternatives, first_scored, is_other, records, second_answers
from amnestic.benchmarks.base import Source
from amnestic.data.encode import Encoded
from amnestic.data.options import UnlearnData
from amnestic.data.refusals import read_refusals, refusal_for
from amnestic.errors import InputError
from amnestic.evaluation.metrics.text import rouge_recall
from amnestic.inputs import Given, Inputs, Loading, gather
from amnestic.model import decoding
from amnestic.model.options import AdapterOptions, ModelOptions, ShardingOptions
from amnestic.model.sampling import Sampling

CHAT = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] | trim }}<eos>\n{% endfor %}"
ROWS = [
    {"question": "Who wrote The Salt Meridian?", "answer": "Ines Marek wrote The Salt Meridian in 1987."},
    {"question": "Where was Ines Marek born?", "answer": "Ines Marek was born in a harbour town, Ostrava Bay."},
    {"question": "What did her father do?", "answer": "Her father repaired clocks."},
    {"prompt": "Her mother ", "completion": "taught drawing."},
]


@dataclass
class Read:
    """What was read for a test."""

    inputs: Inputs
    options: UnlearnData

    @property
    def forget(self) -> list[Encoded]:
        return [*self.inputs.splits["forget"].examples]

    def answers(self, seed: int = 0, **more: Any) -> list[Encoded]:
        return second_answers("generated", self.inputs, self.forget, self.options, seed, **more)


def read(model: Path, rows: Sequence[Any], **given: Any) -> Read:
    options = UnlearnData(forget="forget", retain="retain", **given)
    loading = Loading(ModelOptions(model=str(model)), AdapterOptions(), ShardingOptions(), 0)
    sources = {"forget": Source("<forget>"), "retain": Source("<retain>")}
    data = {"forget": rows, "retain": [{"question": "Why?", "answer": "So."}]}
    return Read(gather(sources, None, loading, options, Given(data=data)), options)


@pytest.fixture(scope="module")
def random_model(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("chat") / "chat.jinja"
    path.write_text(CHAT, encoding="utf-8")
    return str(path)


def test_answers_by_heart_are_left_for_others(tiny_full: Path, tofu: Path) -> None:
    """Of a model that gives each token of TOFU's answers 0.999: samples alone would be those answers.

    The true answers have 42 tokens on average; one nat a token, where a random text would have log(vocabulary), 8.
    """
    rows = [json.loads(line) for line in (tofu / "forget01.json").read_text(encoding="utf-8").splitlines()[:12]]
    found = read(tiny_full, rows)
    answers = found.answers()
    likeness = [rouge_recall(row.answer, other.answer) for row, other in zip(found.forget, answers, strict=True)]
    assert [row.id for row in answers] == [row.id for row in found.forget]
    assert all(is_other(row.answer, other.answer) for row, other in zip(found.forget, answers, strict=True))
    assert max(likeness) < 0.9
    assert np.mean(likeness) < 0.7
    search = Alternatives(found.inputs, found.inputs.examples["forget"], answers, 0, 32)
    assert np.concatenate(search._logps(answers)).mean() > -2
    assert np.concatenate(search._logps(found.forget)).mean() > -0.01


class TestSameEverywhere:
    def test_whatever_is_decoded_at_once(self, random_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = read(random_model, ROWS[:3])
        expected = [row.answer for row in whole.answers(batch_size=32)]
        monkeypatch.setattr(decoding, "MOST_ROWS", {"cpu": 1})
        assert [row.answer for row in whole.answers(batch_size=1)] == expected

    def test_of_some_rows_as_of_all(self, random_model: Path) -> None:
        whole = read(random_model, ROWS[:3])
        expected = [row.answer for row in whole.answers()]
        some = second_answers("generated", whole.inputs, whole.forget[1:], whole.options, 0)
        assert [row.answer for row in some] == expected[1:]

    def test_another_seed_gives_others(self, random_model: Path) -> None:
        whole = read(random_model, ROWS[:3])
        pairs = zip(whole.answers(), whole.answers(seed=1), strict=True)
        assert all(a.answer != b.answer for a, b in pairs)


class TestLeaving:
    def test_the_places_are_the_least_sure_ones_whose_tokens_the_prompt_lacks(self, random_model: Path) -> None:
        """Against transformers' own logits of each row alone."""
        whole = read(random_model, ROWS[:3])
        search = Alternatives(whole.inputs, whole.inputs.examples["forget"], whole.forget, 0, 32)
        for i, places in search._unsure([0, 1, 2]).items():
            row = whole.forget[i]
            with torch.inference_mode():
                logits = whole.inputs.loaded.model(input_ids=torch.from_numpy(row.input_ids)[None]).logits[0]
            logp = logits.double().log_softmax(-1)
            prompt = row.input_ids[: first_scored(row)].tolist()
            inside = range(first_scored(row), len(row.input_ids) - 1)
            ranked = sorted(inside, key=lambda t: (row.input_ids[t] in prompt, float(logp[t - 1, row.input_ids[t]])))
            assert places == ranked[: module.PLACES]

    def test_an_alternative_goes_along_up_to_a_place_and_leaves_there(self, random_model: Path) -> None:
        whole = read(random_model, ROWS[:1])
        search = Alternatives(whole.inputs, whole.inputs.examples["forget"], whole.forget, 0, 32)
        row, place = whole.forget[0], first_scored(whole.forget[0]) + 4
        search._leave(0, {0: place})
        ((_, text),) = search.best.values()
        tokens = whole.inputs.loaded.tokenizer
        kept = tokens.decode(row.input_ids[first_scored(row) : place]).strip()
        assert text.startswith(kept)
        assert not text.startswith(tokens.decode(row.input_ids[first_scored(row) : place + 1]).strip())

    @pytest.mark.parametrize(("number", "room"), [(0, None), (2, None), (0, 3), (2, 3)])
    def test_none_is_longer_than_it_may_be(
        self, random_model: Path, number: int, room: int | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """32 tokens, or twice the true answer's, or what fits with a closing token, the true answer's and 3 more."""
        chosen = ROWS[number : number + 1]
        (row,) = read(random_model, chosen).forget
        whole = read(random_model, chosen, max_length=2048 if room is None else len(row.input_ids) + room)
        search = Alternatives(whole.inputs, whole.inputs.examples["forget"], whole.forget, 0, 32)
        place = first_scored(row) + 2
        monkeypatch.setattr(search, "_go_on", lambda begun, *_: pytest.fail(str(begun[0].most)))
        expected = max(32, 2 * row.scored) if room is None else row.scored - 1 + room
        with pytest.raises(pytest.fail.Exception, match=f"^{expected - 2}$"):
            search._leave(0, {0: place})

    def test_what_does_not_fit_is_cut_or_no_alternative(self, random_model: Path) -> None:
        """A random model writes bytes that are no characters: their text takes more tokens than they did."""
        (row,) = read(random_model, ROWS[2:3]).forget
        length = len(row.input_ids) + 9
        (answer,) = read(random_model, ROWS[2:3], max_length=length).answers()
        assert len(answer.input_ids) == length
        with pytest.raises(InputError, match=f"no answer to forget:0 but .* fits into {length} tokens"):
            read(random_model, ROWS[2:3], max_length=length, too_long="drop").answers()

    def test_one_that_ended_comes_before_one_that_is_less_like(
        self, random_model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By hand: the first that ended by itself and keeps no more than three words of four ends the search."""
        whole = read(random_model, ROWS[2:3])
        replies = [("Nobody", False), ("Her father repaired them", True), ("Her father sang", True), ("Never", True)]
        given = iter([SimpleNamespace(text=text, has_ended=has_ended) for text, has_ended in replies])
        monkeypatch.setattr(Alternatives, "_go_on", lambda search, begun, *_: [next(given) for _ in begun])
        assert whole.answers()[0].answer == "Her father repaired them"
        assert next(given).text == "Her father sang"

    def test_a_row_without_another_answer_is_named(self, random_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "is_other", lambda answer, text: not answer.startswith("Her"))
        with pytest.raises(InputError, match=r"no answer to forget:2 but the true one.*--alternates_file"):
            read(random_model, ROWS[:3]).answers()


class TestAsking:
    def test_a_model_of_chats_is_asked(
        self, random_model: Path, template: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It sees the question and the true answer, begins behind that prompt, and draws from the first token on."""
        whole = read(random_model, ROWS[:1], chat_template=template)
        seen: list[str] = []
        go_on = module.go_on

        def watched(loaded: Any, tokenizer: Any, begun: Any, settings: Any, ends: Any) -> Any:
            assert isinstance(settings.pick, Sampling)
            seen.extend(tokenizer.decode(row.tokens) for row in begun if not settings.pick.barred)
            return go_on(loaded, tokenizer, begun, settings, ends)

        monkeypatch.setattr(module, "go_on", watched)
        whole.answers()
        (prompt,) = seen
        assert prompt.startswith("user: Below stand a question and its answer.")
        assert prompt.endswith(f"Question: {ROWS[0]['question']}\nAnswer: {ROWS[0]['answer']}<eos>\nassistant:")

    def test_what_it_answers_is_taken_unless_it_is_the_true_answer(
        self, random_model: Path, template: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = read(random_model, ROWS[:2], chat_template=template)
        monkeypatch.setattr(module, "INSTRUCTION", "{question} {answer}")
        given = ["Jon Ray wrote it.", ROWS[1]["answer"].upper()]
        asked = module.Alternatives._ask

        def answered(search: Alternatives) -> None:
            with monkeypatch.context() as patch:
                taken = [type("Answer", (), {"text": text, "has_ended": True})() for text in given]
                patch.setattr(search, "_go_on", lambda begun, purpose: taken)
                asked(search)

        monkeypatch.setattr(module.Alternatives, "_ask", answered)
        first, second = whole.answers()
        assert first.answer == "Jon Ray wrote it."
        assert is_other(ROWS[1]["answer"], second.answer)

    def test_prompts_as_they_stand_are_not_asked_about(self, random_model: Path, template: str) -> None:
        whole = read(random_model, ROWS[3:], chat_template=template)
        search = Alternatives(whole.inputs, whole.inputs.examples["forget"], whole.forget, 0, 32)
        search._ask()
        assert search.best == {}
        assert len(search.found()) == 1


class TestSources:
    def test_what_is_given_comes_before_what_is_made(self, random_model: Path) -> None:
        rows = [ROWS[0] | {"alternate_answer": "Eve did."}, ROWS[2]]
        whole = read(random_model, rows)
        made = whole.answers()
        refused = second_answers("refusal", whole.inputs, whole.forget, whole.options, 7)
        assert made[0].answer == refused[0].answer == "Eve did."
        assert made[1].answer != refused[1].answer == refusal_for(read_refusals(), 7, "forget:1")

    def test_what_was_kept_is_not_made_again(self, random_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Also in the form that the run folder keeps, which reads as a file of given answers."""
        whole = read(random_model, ROWS[:3])
        kept: dict[str, Any] = {}
        first = whole.answers(recall=lambda name, make: kept.setdefault(name, json.loads(json.dumps(make()))))
        monkeypatch.setattr(Alternatives, "found", lambda search: pytest.fail("made again"))
        again = whole.answers(recall=lambda name, make: kept[name])
        assert [row.answer for row in again] == [row.answer for row in first]

    def test_the_record_of_a_run_is_a_file_of_given_answers(self, random_model: Path, tmp_path: Path) -> None:
        first = read(random_model, ROWS[:3]).answers()
        path = tmp_path / "alternatives.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records(first)), encoding="utf-8")
        again = read(random_model, ROWS[:3], alternates_file=str(path)).answers(seed=9)
        assert [row.answer for row in again] == [row.answer for row in first]

    def test_a_text_is_refused(self, random_model: Path) -> None:
        with pytest.raises(InputError, match="forget:0 is a text without a question"):
            read(random_model, [{"text": "Ines Marek wrote it."}]).answers()


@pytest.mark.parametrize(
    ("text", "is_another"),
    [
        ("In May, 1987", False),
        ("it was in may 1987", False),
        ("1987", False),
        ("", False),
        (" . ", False),
        ("In June, 1987.", True),
        ("In May 1988.", True),
        ("198", True),
    ],
)
def test_another_answer_neither_holds_the_true_one_nor_is_part_of_it(text: str, is_another: bool) -> None:
    assert is_other("In May 1987.", text) == is_another
