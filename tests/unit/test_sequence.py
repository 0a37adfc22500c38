"""Sequences without a model: what a request is, what became of it, and the sentence that says so."""

from pathlib import Path

import numpy as np
import pytest
from sequences import outcome_of, run_of

from amnestic.config import from_mapping
from amnestic.constraints.bound import Bound, Probe, Sums
from amnestic.constraints.options import BoundOptions
from amnestic.data.example import Example
from amnestic.data.options import DataOptions, measured_sources
from amnestic.errors import InputError
from amnestic.inputs import Given, to_forget
from amnestic.probing import outside
from amnestic.sequencing.options import SequenceConfig, SequenceData
from amnestic.sequencing.outcome import Point, Remembered
from amnestic.sequencing.page import lines, markdown, page
from amnestic.sequencing.plan import Plan
from amnestic.sequencing.requests import Arrived, Request, name_of, read, refuse_contradictory, requests_of


def remembered(*values):
    return Remembered("probability", tuple(Point(done, value) for done, value in enumerate(values)))


@pytest.mark.parametrize(
    ("values", "state", "regained"),
    [
        ((1.0, 0.5), "last", 0.0),
        ((1.0, 0.5, 0.53125), "stayed", 0.0625),
        ((1.0, 0.5, 0.9, 0.53125), "stayed", 0.0625),  # after the last, not in between
        ((1.0, 0.5, 0.5625), "came back", 0.125),
        ((1.0, 0.5, 0.25), "stayed", -0.5),
        ((1.0, 0.95, 0.1), "hardly forgotten", -17.0),
        ((0.5, 0.5), "hardly forgotten", None),
        ((1e-6, 1e-6), "last", None),  # forgotten with others before it was asked to be
        ((1e-6, 2e-7, 1e-6), "stayed", 1.0),
        ((1e-6, 1e-6, 0.5), "came back", None),
        ((1e-6, 1e-6, 0.009), "stayed", None),
    ],
)
def test_what_became_of_a_request(values, state, regained):
    """regained = (last - after) / (before - after), by hand; 0.1 is the most that counts as staying.

    Below 0.01 nothing is known, whatever share of an even smaller figure it is.
    """
    found = remembered(*values)
    assert found.state == state
    assert found.regained == (None if regained is None else pytest.approx(regained))


def test_requests_are_named_after_their_files(tmp_path):
    assert [name_of(f"x/{name}") for name in ("may-2024.jsonl", "a.b.csv.gz", "forget.jsonl", "ü.csv")] == [
        "may_2024",
        "a",
        "request_forget",
        "request",
    ]
    for name in ("b.jsonl", "a.csv", ".hidden.csv", "notes.txt"):
        (tmp_path / name).touch()
    found = requests_of(SequenceData(requests=(str(tmp_path),), retain="r"))
    assert [request.name for request in found] == ["a", "b"]
    found = requests_of(SequenceData(requests=("june=b.jsonl", "b.jsonl"), retain="r"))
    assert [(request.name, request.source) for request in found] == [("june", "b.jsonl"), ("b", "b.jsonl")]


def arrived(name, *prompts, spans=()):
    return Arrived(
        Request(name, name), [Example(f"{name}:{n}", "question", p, "a", spans) for n, p in enumerate(prompts)]
    )


def test_requests_are_equal_by_content_in_any_order():
    """Marked spans count: the same rows with other spans to forget are another request."""
    one = arrived("a", "x", "y")
    assert one.content == arrived("b", "y", "x", "x").content
    assert one.content != arrived("b", "x", "y", spans=((0, 1),)).content
    assert one.content != arrived("b", "x").content
    with pytest.raises(InputError, match=r"^request 'c' has the same rows as request 'a', which comes before it;"):
        refuse_contradictory([one, arrived("b", "x"), arrived("c", "y", "x")], {})
    assert refuse_contradictory([one, arrived("b", "y", "z")], {"retain": arrived("r", "w").examples}) == [
        "1 of 2 rows of request 'b' stand in request 'a' as well, which comes before it."
    ]
    with pytest.raises(InputError, match=r"^1 of 2 rows of request 'a' stand in general as well: they cannot be both"):
        refuse_contradictory([one], {"general": arrived("r", "w", "y").examples})


def test_rows_in_memory_are_read_in_their_place():
    rows = [{"question": "q", "answer": "a"}]
    (found,) = read(
        [Request("may", "<list in memory>")], SequenceData(requests=("m",), retain="r"), DataOptions(), {"may": rows}
    )
    assert [example.id for example in found.examples] == ["may:0"]
    assert found.record["rows"] == 1


def test_what_is_measured_besides_has_names():
    assert measured_sources(["a=x.jsonl", "b=y=z.jsonl"]) == {"a": "x.jsonl", "b": "y=z.jsonl"}
    assert measured_sources("a=x") == {"a": "x"}
    assert measured_sources({"a": Path("x")}) == {"a": "x"}
    assert measured_sources([]) is measured_sources(None) is None
    for wrong in ("x.jsonl", ["a=x", 1], {"a": 1}, 3):
        with pytest.raises(TypeError):
            measured_sources(wrong)
    with pytest.raises(InputError, match="which a run calls something else"):
        measured_sources({"forget": "x"})


def test_a_source_is_a_file_before_it_is_a_benchmark(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert to_forget("fiction:3", None).rows is not None
    Path("fiction:3").touch()
    assert to_forget("fiction:3", None).rows is None
    for name in ("may.jsonl", "owner/name:config:split", "<list in memory>"):
        assert to_forget(name, None).name == name
    with pytest.raises(InputError, match="the benchmark fiction has no 'x'"):
        to_forget("fiction:x", None)


def test_a_start_outside_of_the_bound_is_told():
    """keep 0.5 of a loss of 1: bound 1 + log 2 = 1.693; starts of 1.5 and 2 on the whole split, by hand."""
    counts = np.array([2, 2])
    reference = Sums(np.array([2.0, 2.0]), counts)
    inside, beyond = (Sums(np.array([total, total]), counts) for total in (3.0, 4.0))
    bound = Bound("keep", 0.5)
    assert outside("retain", Probe(bound, reference, True)) == ""
    assert outside("retain", Probe(bound, reference, True, inside)) == ""
    assert outside("retain", Probe(bound, reference, True, beyond)) == (
        "the model that this run starts from is outside of the bound already: retain loss 2 nats a token, bound 1.693."
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"keep": "none"}, "this run has none; leave it out"),
        ({"retain_weight": 1.0}, "this run has none; leave it out"),
        ({"retention": "hidden", "bound": 1.0}, "since hidden compares with the model that the run starts from"),
        ({"bound_model": ""}, "--bound_model is empty"),
    ],
)
def test_a_model_of_the_bound_needs_a_bound(options, sentence):
    with pytest.raises(InputError, match=sentence):
        BoundOptions(**{"bound_model": "m"} | options)


def test_the_verdict_says_what_held_and_what_stayed():
    one = run_of(1, "may", {"may": (0.9, 0.1)})
    two = run_of(2, "june", {"may": (0.1, 0.5), "june": (0.8, 0.2)}, held=(0.3, 0.5, 0.4))
    found = outcome_of(one, two)
    assert found.verdict == (
        "Bound of the first model held after each of 2 requests: retain loss 0.3 nats a token, at most 0.4 with 95 % "
        "confidence, bound 0.5 after the last. CAME BACK: may probability 0.9 -> 0.1, 0.5 after the last. Forgotten "
        "last: june probability 0.8 -> 0.2."
    )
    assert found.results["held"]["retain"]["course"] == [
        {"done": 0, "value": 0.1},
        {"done": 1, "value": 0.2},
        {"done": 2, "value": 0.3, "upper_limit": 0.4},
    ]
    assert found.results["utility"] == {
        "retain.probability": [{"done": 0, "value": 0.8}, {"done": 1, "value": 0.9}, {"done": 2, "value": 0.9}]
    }
    missed = outcome_of(one, run_of(2, "june", {"june": (0.8, 0.75)}, "infeasible", held=(0.6, 0.5)))
    assert not missed.feasible
    assert missed.verdict == (
        "BOUND OF THE FIRST MODEL MISSED after 1 of 2 requests: june. Farthest after june: retain loss 0.6 nats a "
        "token, bound 0.5. Hardly forgotten: june probability 0.8 -> 0.75. Not measured: may."
    )
    many = outcome_of(*(run_of(n, f"r{n}", {}, "infeasible", held=(0.5 + n / 100, 0.5)) for n in range(1, 8)))
    assert many.verdict == (
        "BOUND OF THE FIRST MODEL MISSED after 7 of 7 requests: r1, r2, r3, r4, r5, 2 more. Farthest after r7: retain "
        "loss 0.57 nats a token, bound 0.5. Not measured: r1; r2; r3; r4; r5; 2 more."
    )
    free = outcome_of(run_of(1, "may", {"may": (0.9, 0.1)}, "unconstrained", held=None), asked=["may", "june"])
    assert free.feasible
    assert free.verdict == (
        "No bound was asked for. Forgotten last: may probability 0.9 -> 0.1. 1 request is still to be met."
    )


def test_a_bound_of_another_model_is_not_called_that_of_the_first():
    """The course begins with the loss of the first model (L_start), and not of the one whose bound it is (L_ref)."""
    one = run_of(1, "may", {"may": (0.9, 0.1)})
    one.results["bound"] |= {"L_start": 0.15, "bound_model": "other"}
    found = outcome_of(one, bound_model="other", keep=0.9)
    assert found.verdict.startswith("Bound held after the one request: retain loss 0.2 nats a token, bound 0.5.")
    assert found.results["held"]["retain"]["course"][0] == {"done": 0, "value": 0.15}
    assert "first model" not in markdown(found).replace("- first model: m", "")
    assert "The bound is the same for every request" in page(found)


def test_the_page_and_the_table_say_the_same():
    hostile = run_of(1, "may", {"may": (0.9, 0.1)})
    found = outcome_of(hostile, run_of(2, "june", {"may": (0.1, 0.11), "june": (0.8, 0.2)}, held=(0.3, 0.5, 0.4)))
    (one, two) = lines(found)
    assert (one.held, one.retained, one.limit, one.figures, one.state, one.utility) == (
        *("held", "0.2000", "–", ("0.9000", "0.1000", "0.1100"), "stayed forgotten", "0.9000"),
    )
    assert (two.limit, two.state) == ("0.4000", "the last one")
    text = markdown(found)
    assert "- a \\| note" in text
    assert "| 1 | may | 2 | held | 0.2000 | – | 0.9000 | 0.1000 | 0.1100 | stayed forgotten | 0.9000 |" in text
    html = page(found)
    assert html == page(found)
    assert 'id="plot-memory-request-1"' in html
    assert 'id="plot-held-retain-bound"' in html
    assert "Request 1: 0.9000 before, 0.1000 after, 0.1100 after the last." in html
    assert "VerbMem" not in html


def test_what_a_benchmark_measures_of_every_request_alike_is_drawn():
    """Rows that differ from request to request are no course."""
    runs = [run_of(1, "a", {"a": (0.9, 0.1), "forget": (0.9, 0.1)}), run_of(2, "b", {"b": (0.9, 0.1)})]
    for contents, drawn in ((("x", "x"), True), (("x", "y"), False), ((None, None), False)):
        for run, content in zip(runs, contents, strict=True):
            run.results["metrics"]["forget.verbmem"] = 0.5
            run.results["measured_on"] = {"forget": {} if content is None else {"content": content}}
        assert ('id="plot-course-forget-verbmem-line"' in page(outcome_of(*runs))) == drawn


def test_a_sequence_goes_on_with_its_own_model_tokenizer_and_rows_in_a_step():
    def identity(**options):
        config = from_mapping(
            SequenceConfig, {"model": "owner/name", "requests": ["a.jsonl"], "retain": "r.jsonl"} | options
        )
        return Plan(config, Given(), (), (), {}, (), False).identity

    own = identity()
    assert identity(output_dir="elsewhere", per_device_train_batch_size=2, gradient_accumulation_steps=8) == own
    for other in ({"model": "owner/other"}, {"model_revision": "v2"}):
        assert identity(**other)["model"] != own["model"]
    for other in ({"tokenizer": "t"}, {"per_device_train_batch_size": 2}, {"system_prompt": "Hm."}):
        assert identity(**other)["options"] != own["options"]
