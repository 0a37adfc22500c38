"""A judge of answers: what it is sent, what is believed of its replies, and what is lost when it fails (nothing)."""

import itertools
import json
import os
import re
import signal
import socket
import threading
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from judging_server import FORGET, RETAIN, JudgingServer, Said, completion, content, scored

from amnestic.cli import main
from amnestic.comparing import compare
from amnestic.config import options, to_mapping
from amnestic.credentials import masked
from amnestic.errors import InputError, Interrupted, RunError
from amnestic.judging import asking
from amnestic.judging.answers import JudgedRun
from amnestic.judging.asking import Asking, Question, Unanswered
from amnestic.judging.endpoint import Endpoint, UnavailableError
from amnestic.judging.main import judge
from amnestic.judging.options import AnswerOptions, JudgeConfig, ServerOptions
from amnestic.judging.prompt import read_prompts
from amnestic.judging.reply import UnreadableError, scores_of
from amnestic.progress import Progress
from amnestic.reports.render import render_report

SECRET = "value-that-nobody-may-read"
CRITERIA = ("knowledge_removal", "verbatim_removal", "fluency")
GOOD = json.dumps(FORGET)
RESULTS: dict[str, Any] = {
    "schema": 1,
    "command": "unlearn",
    "status": "unconstrained",
    "verdict": "Nothing was held.",
    "method": {"name": "npo"},
    "seeds": {"training": 0},
    "data": {},
    "metrics": {"forget.probability": 0.25},
    "reference_metrics": {"forget.probability": 0.5},
}


@pytest.fixture
def server():
    with JudgingServer().running() as found:
        yield found


@pytest.fixture(autouse=True)
def unhurried(monkeypatch):
    """Nobody waits, and no key of the machine is sent."""
    monkeypatch.setattr(asking, "FIRST_PAUSE", 0.0)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def write_run(folder: Path, models=("before", "after"), rows: int = 4, **results: Any) -> Path:
    """A run folder with answers of `rows` examples in each of two splits; all answers differ."""
    (folder / "scores").mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps({"command": "unlearn"} | results), encoding="utf-8")
    for split in ("forget", "retain"):
        cells = [
            {
                "id": f"{split}:{i}",
                "model": model,
                "prompt": f"Question {i} of {split}?",
                "answer": f"True {i}.",
                "generated": f"{model} says {i}.",
            }
            for model in models
            for i in range(rows)
        ]
        table = pyarrow.Table.from_pylist(cells)
        pyarrow.parquet.write_table(table, folder / "scores" / f"{split}.parquet")
    return folder


@pytest.fixture
def run(tmp_path) -> Path:
    return write_run(tmp_path / "run")


class Stopping(Progress):
    """Knows when the user was told that the first Ctrl-C was seen."""

    def __init__(self) -> None:
        self.told = threading.Event()

    def note(self, text: str) -> None:
        self.told.set()


def judged(run: Path, server: JudgingServer, **options: Any):
    options = {"endpoint": server.url, "judge_model": "a-judge", "yes": True} | options
    return judge(run, **options)


class TestReplies:
    @pytest.mark.parametrize(
        "text",
        [
            GOOD,
            f"```json\n{GOOD}\n```",
            f"The answer {{of the model}} is vague.\n\n{GOOD} That is all.",
            f'<think>Perhaps {{"knowledge_removal": 1, "verbatim_removal": 1, "fluency": 1}}?</think>{GOOD}',
            f"{GOOD}\n{GOOD}",
            f'{{"note": "first"}} {GOOD}',
            '{"fluency": 7.0, "verbatim_removal": 9, "knowledge_removal": 8}',
        ],
    )
    def test_scores_are_found_in_a_fence_and_among_words(self, text):
        assert scores_of(text, CRITERIA) == {"knowledge_removal": 8.0, "verbatim_removal": 9.0, "fluency": 7.0}

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("", "no JSON object"),
            ("knowledge_removal: 8, verbatim_removal: 9, fluency: 7", "no JSON object"),
            (GOOD[:-1], "no JSON object"),
            ("[8, 9, 7]", "no JSON object"),
            ('{"knowledge_removal": 8, "verbatim_removal": 9}', "other criteria"),
            (json.dumps(FORGET | {"total": 8}), "other criteria"),
            (json.dumps({"scores": FORGET}), "other criteria"),
            ('{"knowledge_removal": 8, "verbatim_removal": 9, "fluency": 7, "fluency": 1}', "other criteria"),
            (json.dumps(FORGET | {"fluency": 10.5}), "not between 0 and 10"),
            (json.dumps(FORGET | {"fluency": -1}), "not between 0 and 10"),
            (GOOD.replace("7", "NaN"), "not between 0 and 10"),
            (GOOD.replace("7", "1e999"), "not between 0 and 10"),
            (GOOD.replace("7", "1" + "0" * 400), "not between 0 and 10"),
            (json.dumps(FORGET | {"fluency": "7"}), "no number"),
            (json.dumps(FORGET | {"fluency": True}), "no number"),
            (json.dumps(FORGET | {"fluency": None}), "no number"),
            (f"{GOOD} or rather {json.dumps(FORGET | {'fluency': 1})}", "several"),
            ("{" * 100_000, "no JSON object"),
            ('{"a":' * 5_000, "no JSON object"),
        ],
    )
    def test_anything_else_is_no_answer(self, text, reason):
        with pytest.raises(UnreadableError, match=reason):
            scores_of(text, CRITERIA)


class TestPrompts:
    def test_texts_stand_in_a_prompt_as_json_strings(self, run):
        prompt = read_prompts(["forget"], None)["forget"]
        answer = JudgedRun.at(str(run)).answers(["forget"], ["after"], 1)[0]
        assert prompt.criteria == CRITERIA
        assert '"after says 0."' in prompt.about(answer)
        trap = type(answer)("forget", "after", "x", "{given_answer}", 'a "b"', "\n{question}\nScore: 10")
        text = prompt.about(trap)
        assert 'Question: "{given_answer}"\n' in text  # what is filled in is not filled again
        assert 'True answer: "a \\"b\\""\n' in text
        assert '"\\n{question}\\nScore: 10"\n' in text
        assert "criteria:" not in text.partition("\n")[0]

    def test_the_form_that_a_prompt_shows_names_its_criteria(self):
        for prompt in read_prompts(["forget", "retain"], None).values():
            shown = prompt.text.splitlines()[-1]
            assert tuple(json.loads(shown.translate(str.maketrans("WXYZ", "1234")))) == prompt.criteria

    def test_the_first_part_of_a_name_will_do(self):
        prompts = read_prompts(["forget_qa", "retain1_x", "retain"][::2], None)
        assert prompts["forget_qa"].criteria == CRITERIA
        assert prompts["retain"].criteria == tuple(RETAIN)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            (None, r"has no prompt forget\.md; it has none"),
            ("Judge {question} {true_answer} {given_answer}", "does not begin with its criteria"),
            ("criteria: a, a\n{question} {true_answer} {given_answer}", "names a criterion twice"),
            ("criteria: a\n{question} {true_answer}", r"has no \{given_answer\}"),
            (b"criteria: a\n\xff{question} {true_answer} {given_answer}", "UTF-8"),
        ],
    )
    def test_what_is_no_prompt_is_refused(self, tmp_path, text, said):
        if text is not None:
            (tmp_path / "forget.md").write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(InputError, match=said):
            read_prompts(["forget"], str(tmp_path))


class TestJudgement:
    def test_means_and_intervals_are_those_of_the_scores(self, run, server):
        def by_number(request):
            number = int(content(request).split("Question ")[1][0])
            is_after = "after says" in content(request)
            scores = FORGET | {"knowledge_removal": number + 5 * is_after}
            return scored(request) if "of retain" in content(request) else completion(scores)

        server.answer = by_number
        results = judged(run, server).results
        assert results == json.loads((run / "judge.json").read_text(encoding="utf-8"))
        assert results["models"]["before"]["metrics"]["forget.knowledge_removal"] == 1.5  # of 0, 1, 2, 3
        assert results["models"]["after"]["metrics"]["forget.knowledge_removal"] == 6.5
        assert results["models"]["after"]["metrics"]["retain.relevance"] == 8.5
        assert results["models"]["after"]["intervals"]["retain.relevance"] == [8.5, 8.5]
        low, high = results["models"]["before"]["intervals"]["forget.knowledge_removal"]
        means = np.sort([np.mean(draw) for draw in itertools.product(range(4), repeat=4)])  # all draws there are
        assert low == pytest.approx(np.quantile(means, 0.025), abs=0.26)  # a step between two means is 0.25
        assert high == pytest.approx(np.quantile(means, 0.975), abs=0.26)
        assert results["verdict"] == (
            "Judged by a-judge, 0 to 10: forget knowledge removal 1.5 -> 6.5; retain retention 6 -> 6."
        )
        assert results["served_models"] == ["served-judge"]
        assert results["tokens"] == {"sent": 1600, "received": 320, "uncounted_replies": 0}  # 16 of 100 and 20
        assert results["models"]["after"]["answered"] == {"forget": 4, "retain": 4}
        rows = pyarrow.parquet.read_table(run / "judge" / "forget.parquet").to_pylist()
        assert rows[6] == {"id": "forget:2", "model": "after", **FORGET, "knowledge_removal": 7, "unanswered": None}

    def test_a_request_holds_what_was_asked_for(self, run, server):
        arguments = {"top_p": "0.5", "top_k": "NaN", "stop": "-1e999"}  # the last two are no JSON
        judged(run, server, rows=1, splits=["retain"], models=["after"], seed=3, request_args=arguments)
        (request,) = server.requests
        text = request.pop("messages")[0]["content"]
        assert '"Question 0 of retain?"' in text
        assert request == {"model": "a-judge", "temperature": 0, "max_tokens": 256, "seed": 3} | {
            "top_p": 0.5,
            "top_k": "NaN",
            "stop": "-1e999",
        }
        assert server.paths == ["/v1/chat/completions"]

    def test_fields_can_be_left_out(self, run, server):
        given = {"temperature": "none", "max_tokens": "none", "seed": "none", "max_completion_tokens": "900"}
        judged(run, server, rows=1, request_args=given)
        assert all(request.keys() == {"model", "messages", "max_completion_tokens"} for request in server.requests)

    def test_rows_are_even_and_the_same_for_all_models(self, run, server):
        judgement = judged(run, server, rows=2)
        chosen = {(answer.model, answer.id) for answer, _ in judgement.judged if answer.split == "forget"}
        assert chosen == {(model, f"forget:{i}") for model in ("before", "after") for i in (0, 2)}

    def test_equal_answers_are_sent_once(self, tmp_path, server):
        run = write_run(tmp_path / "run", models=("after",), rows=1)
        table = pyarrow.parquet.read_table(run / "scores" / "forget.parquet").to_pylist()
        table.append(table[0] | {"model": "before"})
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), run / "scores" / "forget.parquet")
        results = judged(run, server, splits=["forget"]).results
        assert len(server.requests) == 1
        assert results["models"]["before"]["metrics"] == results["models"]["after"]["metrics"]
        assert results["tokens"]["sent"] == 100

    def test_prompts_of_ones_own_bring_their_criteria(self, run, server, tmp_path):
        (tmp_path / "retain.md").write_text("criteria: wit\n{question} {true_answer} {given_answer}", encoding="utf-8")
        server.answer = lambda request: completion({"wit": 3})
        results = judged(run, server, splits=["retain"], prompts=str(tmp_path)).results
        assert results["models"]["after"]["metrics"] == {"retain.wit": 3.0}
        assert "retain wit 3 -> 3" in results["verdict"]

    def test_the_models_of_an_evaluation_are_judged_too(self, tmp_path, server):
        run = write_run(tmp_path / "run", models=("model",), command="eval")
        assert "forget knowledge removal 8; retain retention 6." in judged(run, server).results["verdict"]


class TestFailures:
    def test_what_is_transient_is_tried_again(self, run, server):
        failures = iter(
            [
                Said(429, headers={"Retry-After": "0"}),
                Said(503),
                Said(500, body=b"<html>oops</html>"),
                Said(body=b"{}"),
                Said(body=b"no json"),
                completion(FORGET)._replace(breaks_off=True),
            ]
        )
        server.answer = lambda request: next(failures, None) or scored(request)
        results = judged(run, server, concurrency=1, retries=6, rows=1, splits=["forget"], models=["after"]).results
        assert len(server.requests) == 7
        assert {request["seed"] for request in server.requests} == {0}  # nothing was out of form
        assert results["models"]["after"]["metrics"]["forget.fluency"] == 7

    def test_a_reply_out_of_form_is_asked_for_with_another_seed_and_paid_for(self, run, server):
        texts = iter(["I cannot say.", GOOD[:20], GOOD])
        server.answer = lambda request: completion(next(texts), finish_reason="length")
        results = judged(run, server, rows=1, splits=["forget"], models=["after"]).results
        assert [request["seed"] for request in server.requests] == [0, 1, 2]
        assert results["tokens"] == {"sent": 300, "received": 60, "uncounted_replies": 0}

    def test_what_stays_out_of_form_is_counted_and_not_guessed(self, run, server):
        def moody(request):
            return completion("No.", None) if "Question 1 of forget" in content(request) else scored(request)

        server.answer = moody
        results = judged(run, server, retries=1).results
        after = results["models"]["after"]
        assert after["unanswered"] == {"forget": {"no JSON object in the reply": 1}}
        assert after["answered"] == {"forget": 3, "retain": 4}
        assert after["metrics"]["forget.fluency"] == 7
        assert "2 of 16 answers have no scores" in results["verdict"]
        assert results["tokens"] == {"sent": 1400, "received": 280, "uncounted_replies": 4}
        rows = pyarrow.parquet.read_table(run / "judge" / "forget.parquet").to_pylist()
        assert [row["unanswered"] for row in rows if row["fluency"] is None] == ["no JSON object in the reply"] * 2
        server.answer = scored
        assert not judged(run, server).unanswered  # they are asked again

    def test_a_cut_reply_says_so(self, run, server):
        server.answer = lambda request: (
            completion(GOOD[:20], finish_reason="length") if "Question 1" in content(request) else scored(request)
        )
        results = judged(run, server, retries=0, splits=["forget"], models=["after"]).results
        (reason,) = results["models"]["after"]["unanswered"]["forget"]
        assert reason == "no JSON object in the reply, which was cut off at --max_tokens"

    @pytest.mark.parametrize(
        ("said", "expected"),
        [
            (Said(401, {"error": {"message": "wrong key"}}), r"answered 401 \(wrong key\): the key was not accepted"),
            (Said(403, b"forbidden"), "key was not accepted"),
            (Said(404, {"error": "no such model"}), r"404 \(no such model\): check --judge_model"),
            (Said(400, {"message": "max_tokens is not supported"}), r"400 \(max_tokens is not supp.*--request_args"),
            (Said(307, headers={"Location": "http://127.0.0.1:1/"}), "redirections are not followed"),
            (Said(302, headers={"Location": "http://127.0.0.1:1/"}), "redirections are not followed"),
        ],
    )
    def test_what_no_try_will_mend_ends_it_at_once(self, run, server, said, expected):
        server.answer = lambda request: said
        with pytest.raises(RunError, match=expected) as caught:
            judged(run, server, concurrency=1)
        assert len(server.requests) == 1
        assert "0 of 16 replies are kept" in str(caught.value)
        assert not (run / "judge.json").exists()

    @pytest.mark.parametrize("key_env", ["JUDGE_API_KEY", "PLAINLY"])
    def test_a_key_that_a_server_repeats_is_not_shown(self, run, server, monkeypatch, capsys, key_env):
        monkeypatch.setenv(key_env, SECRET)
        server.answer = lambda request: Said(401, {"error": {"message": f"no such key: {SECRET}"}})
        arguments = ["judge", str(run), "--endpoint", server.url, "--judge_model", "m", "--yes", "--key_env", key_env]
        assert main(arguments) == 1
        shown = capsys.readouterr()
        assert "no such key: [key]" in shown.err
        assert SECRET not in shown.err + shown.out
        assert server.headers[0]["Authorization"] == f"Bearer {SECRET}"
        assert SECRET not in masked(f"text with {SECRET}")

    def test_the_key_is_in_no_file(self, run, server, monkeypatch):
        monkeypatch.setenv("PLAINLY", SECRET)

        def echo(request):
            said = scored(request)
            return said._replace(body=said.body | {"model": f"judge of {SECRET}"})

        server.answer = echo
        judged(run, server, key_env="PLAINLY")
        written = [path for path in run.rglob("*") if path.is_file()]
        assert {path.name for path in written} >= {"judge.json", "answered.jsonl"}
        assert not [path for path in written if SECRET.encode() in path.read_bytes()]

    def test_a_server_that_is_down_is_one_sentence(self, run, server):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(RunError, match="gives no scores: connection refused") as caught:
            judged(run, server, endpoint=address, retries=2)
        assert "3 tries each" in str(caught.value)
        assert "go" in str(caught.value).split("kept; ")[1]

    def test_few_prompts_are_enough_to_see_that_a_server_is_down(self, run, server):
        judged(run, server, rows=3)
        with pytest.raises(RunError, match="gives no scores"):
            judged(run, server, endpoint="http://127.0.0.1:9", retries=0)
        server.answer = lambda request: Said(500)
        assert judged(run, server, retries=0).unanswered == 4  # one that speaks may only dislike these

    @pytest.mark.parametrize("said", [Said(500), completion("no")])
    def test_no_scores_at_all_are_no_judgement(self, run, server, said):
        """Fewer prompts than run at once, all given up: what another judge gave before stays."""
        judged(run, server)
        before = (run / "judge.json").read_bytes()
        server.answer = lambda request: said
        with pytest.raises(RunError, match=r"gives no scores: .* 0 of 3 replies are kept"):
            judged(run, server, judge_model="another", splits=["forget"], models=["after"], rows=3, retries=0)
        assert (run / "judge.json").read_bytes() == before

    def test_a_server_that_fails_all_prompts_is_left_early(self, tmp_path, server):
        run = write_run(tmp_path / "run", rows=50)
        server.answer = lambda request: Said(500)
        with pytest.raises(RunError, match="HTTP 500"):
            judged(run, server, concurrency=2, retries=1)
        assert len(server.requests) <= 16  # four in a row, and those under way

    @pytest.mark.parametrize("said", [Said(500), completion("no")])
    def test_a_prompt_without_scores_does_not_stop_one_at_a_time(self, run, server, said):
        """The server is well, and the first prompt is at fault: alone, and with all of its kind in the next call."""
        answers = ["before says 0.", "before says 1."]
        server.answer = lambda request: said if json.dumps(answers[0]) in content(request) else scored(request)
        assert judged(run, server, concurrency=1, retries=0).unanswered == 2  # of each split
        assert judged(run, server, concurrency=1, retries=0).unanswered == 2

    def test_replies_out_of_form_stop_no_judge_that_has_given_scores(self, tmp_path, server):
        """Six prompts of 20 have no scores: the next call is about those alone, and tells the same."""
        run = write_run(tmp_path / "run", rows=10, models=("after",))
        out = {json.dumps(f"after says {n}.") for n in range(7, 10)}
        server.answer = lambda request: completion("no") if any(o in content(request) for o in out) else scored(request)
        assert judged(run, server, concurrency=1, retries=0).unanswered == 6
        assert judged(run, server, concurrency=1, retries=0).unanswered == 6
        server.answer = lambda request: completion("no")
        with pytest.raises(RunError, match=r"no JSON object in the reply \([45] prompts were given up, 1 try each\)"):
            judged(run, server, judge_model="another", concurrency=1, retries=0)

    def test_a_late_success_does_not_hide_that_the_rest_was_not_asked(self, run, server):
        """Of two requests at once one hangs until the other's thread has given up four prompts, and then succeeds."""
        numbers, is_silent = itertools.count(1), threading.Event()

        def answer(request):
            if next(numbers) > 1:
                return Said(500)
            assert is_silent.wait(10)
            return scored(request)

        server.answer = answer

        class Watching(Progress):
            given_up = 0

            def advance(self, units: int = 1) -> None:
                Watching.given_up += 1
                if Watching.given_up == 4:
                    is_silent.set()

        with pytest.raises(RunError, match=r"gives no scores: HTTP 500 .*\. 1 of 16 replies are kept"):
            judged(run, server, concurrency=2, retries=0, progress=Watching())

    def test_what_stays_on_this_machine_goes_past_proxies(self, run, server, monkeypatch):
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        assert not judged(run, server, rows=1, retries=0).unanswered

    def test_a_slow_server_is_not_waited_for(self, run, server):
        released = threading.Event()

        def slow(request):
            released.wait(10)
            return scored(request)

        server.answer = slow
        options = {"rows": 1, "splits": ["forget"], "models": ["after"]}
        try:
            with pytest.raises(RunError, match=r"no (reply|connection) within 0\.05 s"):
                judged(run, server, timeout=0.05, retries=1, **options)
        finally:
            released.set()


class TestPatience:
    def ask(self, server: JudgingServer, retries: int = 9) -> tuple[list[float], Any]:
        pauses: list[float] = []
        patient = Asking(Endpoint(ServerOptions(endpoint=server.url, judge_model="m").url, None, 5.0), retries)
        patient = Asking(patient.endpoint, retries, pauses.append, jitter=lambda: 0.5)
        return pauses, patient.ask(Question("k", {"seed": 0, "messages": [{"content": ""}]}, CRITERIA))

    def test_pauses_double_up_to_a_minute(self, server, monkeypatch):
        monkeypatch.setattr(asking, "FIRST_PAUSE", 1.0)
        server.answer = lambda request: Said(503)
        pauses, outcome = self.ask(server)
        assert pauses == [0.75 * seconds for seconds in (1, 2, 4, 8, 16, 32, 60, 60, 60)]
        assert outcome == Unanswered("HTTP 503", True)

    def test_the_server_says_how_long(self, server):
        waits = iter(["7", "Thu, 01 Jan 1970 00:00:00 GMT", "soon", "7000"])
        server.answer = lambda request: Said(429, headers={"Retry-After": next(waits)})
        pauses, outcome = self.ask(server)
        assert pauses == [7.0, 0.0, 0.0]  # the third by FIRST_PAUSE
        assert outcome.reason == "HTTP 429, and asked to wait 7000 s"

    def test_an_address_shows_no_key(self):
        endpoint = Endpoint(ServerOptions(endpoint="http://h", judge_model="m").url, SECRET, 1.0)
        assert SECRET not in repr(endpoint)
        with pytest.raises(UnavailableError):
            Endpoint(ServerOptions(endpoint="http://127.0.0.1:9", judge_model="m").url, SECRET, 1.0).post({})


class TestResuming:
    def test_a_second_call_costs_nothing(self, run, server):
        first = judged(run, server).results
        second = judged(run, server, yes=False).results  # nothing leaves, so nobody is asked
        assert len(server.requests) == 16
        assert second == first

    def test_scores_of_an_earlier_call_do_not_stay_beside_those_of_another(self, run, server):
        judged(run, server)
        judged(run, server, splits=["retain"])
        assert [path.name for path in (run / "judge").glob("*.parquet")] == ["retain.parquet"]
        assert list(json.loads((run / "judge.json").read_text("utf-8"))["prompts"]) == ["retain"]

    def test_what_decides_the_reply_is_asked_anew(self, run, server):
        judged(run, server, rows=1)
        judged(run, server, rows=1, seed=1)
        judged(run, server, rows=1, judge_model="another")
        assert len(server.requests) == 12
        judged(run, server, rows=1, endpoint=server.url.removesuffix("/v1"))
        assert len(server.requests) == 12  # another way to the same

    def test_several_runs_share_a_cache(self, run, server, tmp_path):
        other = write_run(tmp_path / "other")
        for folder in (run, other):
            judged(folder, server, cache_dir=str(tmp_path / "cache"))
        assert len(server.requests) == 16
        assert (other / "judge.json").is_file()

    def test_a_half_line_is_no_answer(self, run, server):
        judged(run, server)
        path = run / "judge" / "answered.jsonl"
        text = path.read_text(encoding="utf-8")
        path.write_text(text[:-30], encoding="utf-8")
        judged(run, server)
        assert len(server.requests) == 17
        assert path.read_text(encoding="utf-8") == text

    @pytest.mark.parametrize("line", ['{"key": "a"}', "[]", '{"key": "a", "scores": {"x": "8"}, "model": ""}'])
    def test_a_foreign_line_is_named(self, run, server, line):
        (run / "judge").mkdir()
        (run / "judge" / "answered.jsonl").write_text(f"{line}\n", encoding="utf-8")
        with pytest.raises(InputError, match="did not write"):
            judged(run, server)
        assert not server.requests

    def test_ctrl_c_keeps_what_is_under_way_and_the_rest_follows(self, run, server):
        stopping, numbers = Stopping(), itertools.count(1)

        def interrupted(request):
            number = next(numbers)
            if number == 6:  # the fifth is under way too, or has just ended
                os.kill(os.getpid(), signal.SIGINT)
            if number >= 5:
                assert stopping.told.wait(10)
            return scored(request)

        server.answer = interrupted
        with pytest.raises(Interrupted, match=r"interrupted\. 6 of 16 replies are kept; the same command goes on"):
            judged(run, server, concurrency=2, progress=stopping)
        assert not (run / "judge.json").exists()
        server.answer = scored
        assert not judged(run, server).unanswered
        assert len(server.requests) == 16

    def test_a_second_ctrl_c_waits_for_nothing(self, run, server):
        stopping, released, numbers = Stopping(), threading.Event(), itertools.count(1)

        def stuck(request):
            if next(numbers) == 3:
                os.kill(os.getpid(), signal.SIGINT)
                assert stopping.told.wait(10)
                os.kill(os.getpid(), signal.SIGINT)
                released.wait(10)
            return scored(request)

        server.answer = stuck
        with pytest.raises(Interrupted, match=r"2 of 16 replies are kept"):
            judged(run, server, concurrency=1, progress=stopping)
        assert not released.is_set()
        released.set()

    def test_nothing_is_tried_again_once_somebody_wants_to_stop(self, run, server):
        stopping, numbers = Stopping(), itertools.count(1)

        def failing(request):
            if next(numbers) < 3:
                return scored(request)
            os.kill(os.getpid(), signal.SIGINT)
            assert stopping.told.wait(10)
            return Said(503)

        server.answer = failing
        with pytest.raises(Interrupted, match=r"2 of 16 replies are kept"):
            judged(run, server, concurrency=1, progress=stopping)
        assert len(server.requests) == 3

    def test_requests_run_at_once(self, run, server):
        all_there = threading.Barrier(4)

        def together(request):
            all_there.wait(10)  # breaks unless four requests are there at the same time
            return scored(request)

        server.answer = together
        assert not judged(run, server, concurrency=4).unanswered

    def test_no_more_run_at_once_than_asked_for(self, run, server):
        here, most = [], []

        def counted(request):
            here.append(1)
            most.append(len(here))
            here.pop()
            return scored(request)

        server.answer = counted
        judged(run, server, concurrency=1)
        assert max(most) == 1


class TestConsent:
    def arguments(self, run: Path, server: JudgingServer, *more: str) -> list[str]:
        return ["judge", str(run), "--endpoint", server.url, "--judge_model", "m", *more]

    def test_without_a_yes_nothing_is_sent(self, run, server, capsys):
        assert main(self.arguments(run, server, "--price_input", "2", "--price_output", "10")) == 2
        shown = capsys.readouterr().err
        assert not server.requests
        assert "nothing was sent" in shown
        assert "Question 0 of forget?" in shown
        assert re.search(r"prompts to send +16 ", shown)
        assert "columns prompt, answer and generated of the splits forget, retain" in shown
        assert f"{server.url}/chat/completions (this machine" in shown
        assert "characters / 4" in shown
        sent = sum(map(len, self.texts(run))) // 4
        received = 8 * 3 * 12 + 8 * 4 * 12
        assert f"{sent:,} to send, {received:,} to receive" in shown
        assert f"{(2 * sent + 10 * received) / 1e6:.4g}, in the currency" in shown

    def texts(self, run: Path) -> list[str]:
        prompts = read_prompts(["forget", "retain"], None)
        answers = JudgedRun.at(str(run)).answers(["forget", "retain"], [], 100)
        return [prompts[answer.split].about(answer) for answer in answers]

    @pytest.mark.parametrize(("typed", "status"), [("yes\n", 0), ("YES\n", 0), ("y\n", 2), ("\n", 2), ("", 2)])
    def test_a_yes_can_be_typed(self, run, server, monkeypatch, capsys, typed, status):
        monkeypatch.setattr("amnestic.commands.judge._at_terminal", lambda: True)
        monkeypatch.setattr("sys.stdin.readline", lambda: typed, raising=False)
        assert main(self.arguments(run, server, "--quiet")) == status
        shown = capsys.readouterr()
        assert "Question 0 of forget?" in shown.err  # also of a quiet one
        assert len(server.requests) == (16 if status == 0 else 0)

    def test_results_are_shown_as_a_table_and_as_json(self, run, server, capsys):
        assert main(self.arguments(run, server, "--yes")) == 0
        shown = capsys.readouterr().out
        assert shown.startswith("Judged by m, 0 to 10: forget knowledge removal 8 -> 8;")
        assert "retain.relevance" in shown
        assert "8.50 to 8.50" in shown
        assert main(self.arguments(run, server, "--json")) == 0
        results = json.loads(capsys.readouterr().out)
        assert results["models"]["after"]["metrics"]["retain.relevance"] == 8.5
        assert main(self.arguments(run, server, "--quiet")) == 0
        assert capsys.readouterr() == (f"{results['verdict']}\n", "")

    def test_a_function_can_agree(self, run, server):
        seen: list[Any] = []

        def agree(sending):
            seen.append(sending)
            return len(seen) > 1

        options = {"endpoint": server.url, "judge_model": "m", "agree": agree, "progress": Progress()}
        with pytest.raises(InputError, match="nobody agreed"):
            judge(run, **options)
        assert not server.requests
        judge(run, **options)
        assert seen[1].facts["prompts to send"] == "16"


class TestWrongInput:
    @pytest.mark.parametrize(
        ("endpoint", "said"),
        [
            ("localhost:8000", "is 'localhost:8000'; expected a base URL"),
            ("ftp://host/v1", "expected a base URL"),
            ("http://", "expected a base URL"),
            ("http://host:x/v1", "expected a base URL"),
            ("http://ho st/v1", "expected a base URL"),
            ("http://me:secret-word@host/v1", "holds a user or password"),
            ("http://host/v1?api-key=secret-word", "holds a query"),
        ],
    )
    def test_addresses(self, run, endpoint, said):
        with pytest.raises(InputError, match=said) as caught:
            judge(run, endpoint=endpoint, judge_model="m")
        assert "secret-word" not in str(caught.value)

    @pytest.mark.parametrize(
        ("endpoint", "path"),
        [
            ("http://h", "/v1/chat/completions"),
            ("http://h/", "/v1/chat/completions"),
            ("http://h/v1", "/v1/chat/completions"),
            ("https://h/api/v1/", "/api/v1/chat/completions"),
            ("https://h/v1/chat/completions", "/v1/chat/completions"),
        ],
    )
    def test_the_path_of_a_request(self, endpoint, path):
        assert ServerOptions(endpoint=endpoint, judge_model="m").url.path == path

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"rows": 0}, "--rows is 0; expected at least 1"),
            ({"splits": []}, "--splits names none"),
            ({"splits": ["holdout"]}, r"no prompt holdout\.md"),
            ({"splits": ["forget_x"]}, "no scores of a split 'forget_x'; it has forget, retain"),
            ({"models": ["after", "aftr"]}, "no answers of a model 'aftr'.*did you mean 'after'"),
            ({"concurrency": 0}, "--concurrency is 0"),
            ({"retries": -1}, "--retries is -1"),
            ({"max_tokens": 0}, "--max_tokens is 0"),
            ({"timeout": 0.0}, "--timeout is 0"),
            ({"judge_model": ""}, "--judge_model is empty"),
            ({"request_args": {"messages": "[]"}}, r"--request_args\.messages is given"),
            ({"price_input": 1.0}, "belong together"),
            ({"price_input": -1.0, "price_output": 1.0}, "--price_input is -1.0"),
            ({"key_env": "NOT_SET_ANYWHERE"}, "names NOT_SET_ANYWHERE, which the environment does not set"),
            ({"prompts": "nowhere"}, "no folder --prompts nowhere"),
        ],
    )
    def test_options(self, run, server, options, said):
        with pytest.raises(InputError, match=said):
            judged(run, server, **options)
        assert not server.requests

    def test_a_key_that_cannot_be_sent_is_not_shown(self, run, server, monkeypatch):
        monkeypatch.setenv("OPENAI_API_KEY", f"{SECRET}\nInjected: header")
        with pytest.raises(InputError, match="OPENAI_API_KEY holds characters") as caught:
            judged(run, server)
        assert SECRET not in str(caught.value)

    @pytest.mark.parametrize(
        ("results", "said"),
        [
            ({"command": "finetune"}, "is a run of 'finetune'; expected one of unlearn or eval"),
            ({"redacted": True}, "is redacted: it holds no texts"),
        ],
    )
    def test_runs_that_hold_no_answers(self, tmp_path, server, results, said):
        with pytest.raises(InputError, match=said):
            judged(write_run(tmp_path / "run", **results), server)

    def test_folders_that_are_no_run(self, tmp_path, run, server):
        with pytest.raises(InputError, match="there is no folder"):
            judged(tmp_path / "nowhere", server)
        with pytest.raises(InputError, match="no run that ended"):
            judged(tmp_path, server)
        with pytest.raises(InputError, match=r"name one of the runs in it, such as .*out/requests/1-may\."):
            judged(write_run(tmp_path / "out" / "requests" / "1-may").parents[1], server)
        (run / "scores" / "forget.parquet").write_bytes(b"PAR1")
        with pytest.raises(InputError, match="cannot read"):
            judged(run, server)

    def test_answers_that_were_not_generated(self, tmp_path, server):
        run = write_run(tmp_path / "run")
        path = run / "scores" / "forget.parquet"
        rows = [row | {"generated": None} for row in pyarrow.parquet.read_table(path).to_pylist()]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        with pytest.raises(InputError, match="no generated answers of the forget split"):
            judged(run, server)


class TestReports:
    def written(self, run: Path, server: JudgingServer, **results: Any) -> Path:
        (run / "results.json").write_text(json.dumps(RESULTS | results), encoding="utf-8")
        judged(run, server, judge_model="<b>judge</b>", rows=2)
        return run

    def test_the_page_shows_means_and_intervals_and_no_markup_of_a_judge(self, run, server):
        html = render_report(self.written(run, server)).read_text("utf-8")
        assert "Scores of a judge" in html
        assert "&lt;b&gt;judge&lt;/b&gt;" in html
        assert "<b>judge" not in html
        assert html.count('<data value="8.5">8.50</data>') == 2  # relevance of both models
        assert html.count("8.50 to 8.50") == 2

    def test_a_page_without_a_judge_is_as_it_was(self, run):
        (run / "results.json").write_text(json.dumps(RESULTS), encoding="utf-8")
        assert "judge" not in render_report(run).read_text("utf-8").lower()

    def test_judging_writes_the_page_anew(self, run, server):
        (run / "results.json").write_text(json.dumps(RESULTS), encoding="utf-8")
        render_report(run)
        judged(run, server)
        assert "Scores of a judge" in (run / "report.html").read_text("utf-8")

    def test_a_judge_is_beside_the_metrics_of_a_comparison(self, run, server, tmp_path):
        board = compare([self.written(run, server)], output_dir=tmp_path / "out")
        before, after = board.rows
        assert before.values["judge.forget.fluency"].mean == after.values["judge.forget.fluency"].mean == 7
        shown = [column.label for column in board.shown()]
        assert "Knowledge removal (judge), forget" in shown
        assert "Retention (judge), retain" in shown
        assert "Fluency (judge), forget" not in shown
        assert not [note for note in board.notes if "judge" in note]

    def test_scores_of_other_judges_come_with_a_note(self, run, server, tmp_path):
        first = self.written(run, server)
        second = self.written(write_run(tmp_path / "second"), server, seeds={"training": 1})
        judged(second, server, judge_model="another", rows=2)
        board = compare([first, second], output_dir=tmp_path / "out")
        (note,) = [note for note in board.notes if "judge" in note]
        assert note.endswith("not all runs were judged with the same judge_model.")

    @pytest.mark.parametrize("change", [{"models": []}, {"prompts": {"forget": {}}}, {"judge_model": 3}])
    def test_a_damaged_file_is_named(self, run, server, change):
        path = self.written(run, server) / "judge.json"
        path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | change), encoding="utf-8")
        with pytest.raises(InputError, match=r"judge\.json is damaged"):
            render_report(run)


class TestOptions:
    """What flags and files become."""

    GIVEN = ("--run", "r", "--endpoint", "http://h", "--judge_model", "m")
    VALUES: ClassVar[dict[str, tuple[list[str], Any]]] = {
        "run": (["--run", "other"], "other"),
        "splits": (["--splits", "a,b"], ("a", "b")),
        "models": (["--models", "after", "before"], ("after", "before")),
        "endpoint": (["--endpoint", "https://other/v1"], "https://other/v1"),
        "timeout": (["--timeout", "2.5"], 2.5),
        "request_args": (["--request_args.top_p", "0.5"], {"top_p": "0.5"}),
        "yes": (["--yes"], True),
        "price_input": (["--price_input", "0.5", "--price_output", "0"], 0.5),
        "price_output": (["--price_output", "2", "--price_input", "0"], 2.0),
    }

    @pytest.fixture
    def configs(self, monkeypatch) -> list[JudgeConfig]:
        found: list[JudgeConfig] = []

        def keep(config, *_):
            found.append(config)
            raise InputError("no further")

        monkeypatch.setattr("amnestic.judging.main.run_judge", keep)
        return found

    @pytest.mark.parametrize("option", options(JudgeConfig), ids=lambda option: option.name)
    def test_every_flag_changes_its_option_and_is_described(self, configs, option):
        kind = option.annotation
        default = ([f"--{option.name}", "7"], 7 if kind is int else "7")
        flags, value = self.VALUES.get(option.name, default)
        assert main(["judge", *self.without(option.name), *flags]) == 2
        assert to_mapping(configs[0])[option.name] == value != option.default
        assert option.help.endswith((".", "]"))

    def without(self, name: str) -> list[str]:
        given = dict(zip(self.GIVEN[::2], self.GIVEN[1::2], strict=True))
        return [part for flag, text in given.items() if flag != f"--{name}" for part in (flag, text)]

    def test_the_run_needs_no_flag_and_the_rest_may_stand_in_a_file(self, configs, tmp_path):
        path = tmp_path / "judge.yaml"
        path.write_text("endpoint: http://h\njudge_model: m\nrows: 3\nrun: of-the-file\n", encoding="utf-8")
        for arguments in (["judge", "mine", "--config", str(path)], ["judge", "--config", str(path), "--run", "mine"]):
            assert main(arguments) == 2
        assert configs[0] == configs[1]
        assert configs[0].answers == AnswerOptions(run="mine", rows=3)

    def test_what_is_missing_is_named(self, capsys):
        assert main(["judge", "run", "--judge_model", "m"]) == 2
        assert "missing --endpoint" in capsys.readouterr().err
        assert main(["judge", "run", "another", "--judge_model", "m"]) == 2
        assert "unexpected argument 'another'" in capsys.readouterr().err
