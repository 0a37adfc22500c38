"""The files of a run and its report: nothing half written, nothing unescaped, nothing missing, nothing from outside."""

import errno
import json
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amnestic.errors import InputError, RunError
from amnestic.reports import plots
from amnestic.reports.display import duration, measured, percent, pieces, sentence, setting, size, visible
from amnestic.reports.render import render_report
from amnestic.reports.results import (
    JsonLines,
    comparison,
    read_json,
    read_jsonl,
    read_results,
    write_json,
)

STEPS = 12
BOUND = 0.0302
HOSTILE = "<script>alert(1)</script> \u202egnp.exe\u202c \x1b[31m &amp; \ud800"
RIGHT_TO_LEFT = "من هو مؤلف الكتاب؟"


def metrics(**values: float) -> dict[str, float]:
    return {name.replace("_", ".", 1): value for name, value in values.items()}


def run_results(**changes: Any) -> dict[str, Any]:
    """A run that wrote the candidate of step 8."""
    candidates = [
        {"step": 4, "epoch": 1.0, "forget_loss": 40.0, "reached": 0.09, "upper_limit": 0.1, "holds": False},
        {"step": 8, "epoch": 2.0, "forget_loss": 2.0, "reached": 0.02, "upper_limit": 0.025, "holds": True},
        {"step": 12, "epoch": 3.0, "forget_loss": 0.5, "reached": 0.029, "upper_limit": 0.034, "holds": False},
    ]
    results = {
        "schema": 1,
        "command": "unlearn",
        "status": "feasible",
        "verdict": "Bound held: retain loss 0.02; forget probability 0.994 -> 0.000612.",
        "model": "models/target",
        "bound": {
            "kind": "keep",
            "requested": 0.98,
            "L_ref": 0.01,
            "value": BOUND,
            "reached": 0.02,
            "upper_limit": 0.025,
            "probe_size": 256,
            "held_out": True,
            "whole_split": False,
            "confidence": 0.95,
        },
        "metrics": metrics(forget_probability=0.000612, forget_entropy=9.8123, retain_probability=0.98612),
        "reference_metrics": metrics(forget_probability=0.99412, forget_entropy=0.0312, retain_probability=0.99431),
        "retrained_metrics": metrics(forget_probability=0.0931, forget_entropy=1.9307, retain_probability=0.99478),
        "method": {"name": "pdu"},
        "multiplier": {"initial": 100.0, "rate": 5.0, "warmup_epochs": 1.0, "update": "step", "final": 97.5},
        "candidates": candidates,
        "kept_step": 8,
        "data": {
            "forget": {"source": "f.jsonl", "examples": 40, "scored_tokens": 812, "too_long": 0, "longest": 61},
            "retain": {"source": "r.jsonl", "examples": 3600, "scored_tokens": 71204, "too_long": 3, "longest": 512},
        },
        "template": {"kind": "chat", "arguments": {"date_string": "10 Apr 2025"}, "first_prompt_sha256": "9f86d0"},
        "training": {"steps": 12, "epochs": 3.0, "effective_batch": 16, "seconds": 4.1, "seconds_per_step": 0.34},
        "seeds": {"training": 42, "probe": 0},
        "timings": {"load": 0.8, "train": 92.0},
        "peak_memory_bytes": 1331691520,
        "notes": ["3 retain rows are longer than 512 tokens."],
    }
    return {name: value for name, value in (results | changes).items() if value is not None}


def step_records() -> Iterator[dict[str, Any]]:
    """Forget loss falls tenfold every third step, over 3.7 decades; the retain loss stays within a factor of 12."""
    for step in range(1, STEPS + 1):
        yield {
            "step": step,
            "epoch": step / 4,
            "forget_loss": 10 ** (3 - step / 3),
            "retain_loss": 0.01 * step,
            "bound": BOUND,
            "multiplier": 100.0 - max(0, step - 4),
        }


def score_rows(
    split: str, models: tuple[str, ...], texts: Mapping[int, tuple[str, str]], is_generated: bool
) -> list[dict[str, Any]]:
    """96 examples: before unlearning the true answer is given, afterwards "of of of"."""
    rows = []
    for model in models:
        for index in range(96):
            prompt, answer = texts.get(index, (f"Question {index}?", f"Answer {index}."))
            generated = answer if model == "before" or split == "retain" else "of of of"
            rows.append(
                {
                    "id": f"{split}:{index}",
                    "model": model,
                    "prompt": prompt,
                    "answer": answer,
                    "generated": generated if is_generated else None,
                    "probability": 0.5 + index / 1000,
                    "rouge": 0.25 if is_generated else None,
                }
            )
    return rows


def write_run(
    folder: Path,
    results: Mapping[str, Any],
    models: tuple[str, ...] = ("before", "retrained", "after"),
    texts: Mapping[int, tuple[str, str]] | None = None,
    is_generated: bool = True,
) -> Path:
    """Write a whole run folder and return the path of its report."""
    (folder / "scores").mkdir(parents=True)
    write_json(folder / "results.json", results)
    with JsonLines(folder / "train.jsonl") as log:
        for record in step_records():
            log.append(record)
        for candidate in results.get("candidates", []):
            log.append({"candidate": True} | candidate)
    for split in ("forget", "retain"):
        rows = score_rows(split, models, texts or {}, is_generated)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "scores" / f"{split}.parquet")
    return render_report(folder)


class Page(HTMLParser):
    """A page taken apart: its elements, its texts with the elements around them, and its table of metrics."""

    VOID = frozenset({"meta", "br", "img", "link", "input", "hr"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, tuple[str, ...]]] = []
        self.rows: list[tuple[str, str, list[float | None]]] = []
        self.feed(html)
        self.close()
        assert self.open == [], "an element was left open"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append((tag, dict(attrs)))
        if "metrics" in self.classes and tag == "tr":
            self.rows.append((self.body_class, "", []))
        if "metrics" in self.classes and tag == "data":
            self.rows[-1][2].append(float(str(dict(attrs)["value"])))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        name, _ = self.open.pop()
        assert name == tag, f"</{tag}> closes <{name}>"

    def handle_data(self, data: str) -> None:
        text = " ".join(data.split())
        if text:
            self.texts.append((text, tuple(tag for tag, _ in self.open)))
        if text and "metrics" in self.classes and "th" in [tag for tag, _ in self.open]:
            split, label, values = self.rows[-1]
            self.rows[-1] = (split, label or text, values)

    @property
    def classes(self) -> set[str]:
        return {name for _, attributes in self.open for name in (attributes.get("class") or "").split()}

    @property
    def body_class(self) -> str:
        return next((str(attributes.get("class")) for tag, attributes in self.open if tag == "tbody"), "")

    @property
    def body(self) -> list[tuple[str, tuple[str, ...]]]:
        return [(text, path) for text, path in self.texts if "body" in path]

    @property
    def words(self) -> str:
        return " ".join(text for text, _ in self.body)

    def values_of(self, attribute: str) -> list[str]:
        return [str(attributes[attribute]) for _, attributes in self.elements if attribute in attributes]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The report of a whole, feasible run with a retrained model."""
    return Page(write_run(tmp_path_factory.mktemp("runs") / "run", run_results()).read_text("utf-8"))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The report of a run whose every text tries to be more than text."""
    texts = {
        0: (HOSTILE, f"{HOSTILE}</dd></dl><h1>owned</h1>"),
        9: (RIGHT_TO_LEFT, RIGHT_TO_LEFT),
        19: ("x" * 5000, "y"),
    }
    texts = {index: tuple(text.replace("\ud800", "") for text in pair) for index, pair in texts.items()}
    results = run_results(verdict=HOSTILE, notes=[HOSTILE], model=f'"><img src=x onerror=alert(1)>{HOSTILE}')
    results["not_computed"] = {f"<b>{HOSTILE}": HOSTILE}
    results["method"] = {"name": HOSTILE, "<i>": HOSTILE}
    results["data"]["forget"]["source"] = HOSTILE
    return Page(write_run(tmp_path_factory.mktemp("runs") / "run", results, texts=texts).read_text("utf-8"))


class TestFiles:
    def test_numbers_of_numpy_become_plain_ones(self, tmp_path: Path) -> None:
        content = {
            "a": np.float32(0.5),
            "b": [np.int64(3), np.bool_(True)],
            "c": np.arange(2),
            "d": Path("x"),
            "e": (None,),
        }
        write_json(tmp_path / "f.json", content)
        assert read_json(tmp_path / "f.json") == {"a": 0.5, "b": [3, True], "c": [0, 1], "d": "x", "e": [None]}

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float64("-inf"), np.float32("nan"), object()])
    def test_what_json_does_not_know_is_refused_by_name(self, tmp_path: Path, value: Any) -> None:
        write_json(tmp_path / "f.json", {"old": 1})
        with pytest.raises(RunError, match=r"cannot write metrics\.forget\.rouge\[1\]"):
            write_json(tmp_path / "f.json", {"metrics": {"forget.rouge": [0.5, value]}})
        assert read_json(tmp_path / "f.json") == {"old": 1}

    def test_a_failure_while_writing_leaves_the_old_file_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_json(tmp_path / "f.json", {"old": 1})

        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(RunError, match=r"f\.json: No space left on device"):
            write_json(tmp_path / "f.json", {"new": 2})
        assert read_json(tmp_path / "f.json") == {"old": 1}
        assert os.listdir(tmp_path) == ["f.json"]

    def test_a_file_is_replaced_and_not_written_over(self, tmp_path: Path) -> None:
        """Whoever opened the old file, here under a second name, never sees half of the new one."""
        write_json(tmp_path / "f.json", {"old": 1})
        os.link(tmp_path / "f.json", tmp_path / "opened.json")
        write_json(tmp_path / "f.json", {"new": 2})
        assert [read_json(tmp_path / name) for name in ("f.json", "opened.json")] == [{"new": 2}, {"old": 1}]

    def test_a_record_is_on_disk_once_it_is_appended(self, tmp_path: Path) -> None:
        with JsonLines(tmp_path / "log") as log:
            log.append({"step": np.int64(1)})
            assert list(read_jsonl(tmp_path / "log")) == [{"step": 1}]
            with pytest.raises(RunError, match="loss"):
                log.append({"step": 2, "loss": float("nan")})
        assert (tmp_path / "log").read_text() == '{"step": 1}\n'

    @pytest.mark.parametrize("rest", ["", '{"step": 2, "lo', '{"step": 2}'])
    def test_a_half_line_is_neither_read_nor_continued(self, tmp_path: Path, rest: str) -> None:
        (tmp_path / "log").write_text('{"step": 1}\n' + rest)
        assert list(read_jsonl(tmp_path / "log")) == [{"step": 1}]
        with JsonLines(tmp_path / "log") as log:
            log.append({"step": 3})
        assert (tmp_path / "log").read_text() == '{"step": 1}\n{"step": 3}\n'

    def test_a_broken_line_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "log").write_text('{"step": 1}\n{"step"\n{"step": 3}\n')
        with pytest.raises(InputError, match="log, line 2, is no JSON"):
            list(read_jsonl(tmp_path / "log"))

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, "holds no results.json"),
            ("{", "is no JSON"),
            ("[1]", "holds a list; expected a JSON object"),
            ('{"schema": 2}', "has schema 2; this version of amnestic reads schema 1"),
        ],
    )
    def test_unusable_results_are_wrong_input(self, tmp_path: Path, content: str | None, message: str) -> None:
        if content is not None:
            (tmp_path / "results.json").write_text(content)
        with pytest.raises(InputError, match=message):
            read_results(tmp_path)


class TestComparison:
    def test_forget_comes_first_and_unknown_metrics_come_last(self) -> None:
        rows = comparison(
            {
                "metrics": metrics(retain_probability=0.9, forget_mine=1.0, forget_entropy=9.0, forget_probability=0.1),
                "reference_metrics": metrics(forget_probability=0.99, other_probability=0.2),
            }
        )
        assert [(row.key, row.before, row.retrained, row.after) for row in rows] == [
            ("forget.probability", 0.99, None, 0.1),
            ("forget.entropy", None, None, 9.0),
            ("forget.mine", None, None, 1.0),
            ("retain.probability", None, None, 0.9),
            ("other.probability", 0.2, None, None),
        ]
        assert [row.direction for row in rows] == [
            "lower means more forgotten",
            "higher means flatter",
            "",
            "higher means more kept",
            "",
        ]


class TestDisplay:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (0.99412, "0.9941"),
            (0.99999, "1.000"),
            (0.000612, "0.0006120"),
            (0.0, "0"),
            (-0.25, "−0.2500"),
            (3.104e-7, "3.104 ×\u00a010⁻⁷"),
            (612.34, "612.3"),
            (9999.9, "10,000"),
            (71204.3, "71,204"),
            (71204, "71,204"),
            (2.5e9, "2.500 ×\u00a010⁹"),
            (None, "–"),
        ],
    )
    def test_measured(self, value: float | None, text: str) -> None:
        assert measured(value) == text

    @pytest.mark.parametrize(
        ("value", "text"),
        [(3e-4, "0.0003"), (1e-5, "1e-05"), (284.565855861, "284.566"), (100.0, "100"), (4096, "4096"), (True, "yes")],
    )
    def test_settings_read_as_they_are_typed(self, value: float, text: str) -> None:
        assert setting(value) == text

    def test_percentages_durations_and_sizes(self) -> None:
        assert [percent(share) for share in (0.98, 0.99567, 1.0)] == ["98\u00a0%", "99.57\u00a0%", "100\u00a0%"]
        seconds = [0.0123, 9.16, 59.96, 92, 7500]
        shown = ["12.3\u00a0ms", "9.2\u00a0s", "1\u00a0min 0\u00a0s", "1\u00a0min 32\u00a0s", "2\u00a0h 5\u00a0min"]
        assert [duration(value) for value in seconds] == shown
        assert [size(count) for count in (900, 1331691520)] == ["900\u00a0B", "1.24\u00a0GiB"]

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("\x1b[31mred\x00", "\\x1b[31mred\\x00"),
            ("a\u202eb\u2066", "a\\u202eb\\u2066"),
            ("one\ntwo\n\n\n", "one↵two↵×3"),
            ("\u200b" * 40, "\\u200b×40"),
            ("\ud800\ue000\U000e0041", "\\ud800\\ue000\\U000e0041"),
            ("می\u200cخواهم é 👩\u200d🚀", "می\u200cخواهم é 👩\u200d🚀"),
            (
                "1\u061c2\u061c\u061c",
                "1\\u061c2\\u061c×2",
            ),  # moves letters, for all its ordinary name: Arabic letter mark
            (
                "\u0600\u0661\u0662 \u06dd\u0663",
                "\u0600\u0661\u0662 \u06dd\u0663",
            ),  # signs that are drawn around numbers
            ("a\u3164b\u115fc\u034f", "a\\u3164b\\u115fc\\u034f"),
        ],
    )
    def test_what_cannot_be_seen_is_shown(self, text: str, shown: str) -> None:
        assert visible(text) == shown

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("0.999 -> 5.68e-06.", "0.999 → 5.68\u00a0×\u00a010⁻⁶."),
            ("1e+03 at 95 % (2.5e-05)", "1\u00a0×\u00a010³ at 95\u00a0% (2.5\u00a0×\u00a010⁻⁵)"),
            ("commit 5e1b7e-06c, file-2e.json", "commit 5e1b7e-06c, file-2e.json"),
        ],
    )
    def test_sentences_are_set_as_print_does(self, text: str, shown: str) -> None:
        assert sentence(text) == shown

    @given(st.text())
    def test_nothing_invisible_remains(self, text: str) -> None:
        categories = {
            unicodedata.category(character) for character in visible(text).replace("\u200c", "").replace("\u200d", "")
        }
        assert not categories & {"Cc", "Cs", "Co", "Cn", "Zl", "Zp"}
        visible(text).encode("utf-8")

    def test_a_cut_says_how_much_is_missing(self) -> None:
        assert [tuple(piece) for piece in pieces("x" * 1600, 100)] == [
            ("text", "x" * 100),
            ("cut", "… 1,500 more characters"),
        ]


class TestPage:
    def test_the_verdict_comes_first(self, report: Page) -> None:
        status, path = report.body[0]
        assert status == "Feasible"
        assert "h1" in path
        sentence = next(place for place, (text, _) in enumerate(report.body) if "forget probability 0.994" in text)
        assert sentence < next(place for place, (_, path) in enumerate(report.body) if "h2" in path or "table" in path)

    def test_an_infeasible_run_says_so_in_words_before_anything_else(self, tmp_path: Path) -> None:
        bound = run_results()["bound"] | {"reached": 0.03, "upper_limit": 0.0352, "held_out": False}
        page = Page(write_run(tmp_path / "run", run_results(status="infeasible", bound=bound)).read_text("utf-8"))
        assert [text for text, _ in page.body[:2]] == ["Infeasible", "The retention bound was not held."]
        # 0.0352 - 0.0302 = 0.005
        limit = "on average, but not with 95 % confidence: the upper limit exceeds it by 0.005000"
        assert limit in page.words
        assert "training drew as well" in page.words

    def test_the_bound_is_explained_with_its_numbers(self, report: Page) -> None:
        words = report.words
        # bound - L_ref = 0.0302 - 0.01 = 0.0202; exp(0.01 - 0.02) = 0.99005
        for phrase in (
            "98 %",
            "= 0.02020 nats a token",
            "Reached: 0.02000",
            "99 % of its probability",
            "256 retain examples",
        ):
            assert phrase in words, phrase
        assert "that training never drew" in words
        assert "not proof of deletion" in words

    @pytest.mark.parametrize(
        ("kind", "requested", "phrase"),
        [("alpha", 0.5, "rises by at most 50 % of what it was"), ("bound", 0.3, "is at most 0.3 nats a token")],
    )
    def test_other_forms_of_the_bound(self, tmp_path: Path, kind: str, requested: float, phrase: str) -> None:
        bound = run_results()["bound"] | {"kind": kind, "requested": requested, "whole_split": True}
        page = Page(write_run(tmp_path / "run", run_results(bound=bound)).read_text("utf-8"))
        assert phrase in page.words
        assert "the whole retain split (256 examples)" in page.words
        assert "Upper limit" not in page.words

    def test_the_table_holds_every_metric_of_every_model(self, report: Page) -> None:
        assert [row for row in report.rows if row[2]] == [
            ("forget", "Probability of an answer", [0.99412, 0.0931, 0.000612]),
            ("forget", "Entropy, nats", [0.0312, 1.9307, 9.8123]),
            ("retain", "Probability of an answer", [0.99431, 0.99478, 0.98612]),
        ]

    def test_it_loads_nothing(self, report: Page) -> None:
        tags = {tag for tag, _ in report.elements}
        assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form", "video", "audio"}
        assert report.values_of("src") == []
        assert all(target.startswith("#") for target in report.values_of("href"))
        assert set(re.findall(r"url\((.)", report.html)) == {"#"}
        assert "@import" not in report.html
        assert "://" not in report.html
        policy = next(a["content"] for tag, a in report.elements if a.get("http-equiv") == "Content-Security-Policy")
        assert str(policy).startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:;")

    def test_ids_are_unique_and_every_reference_has_its_target(self, report: Page) -> None:
        ids = report.values_of("id")
        assert len(ids) == len(set(ids)) > 100
        labels = {name for labels in report.values_of("aria-labelledby") for name in labels.split()}
        targets = {
            *re.findall(r"url\(#([^)]*)\)", report.html),
            *(href[1:] for href in report.values_of("href")),
            *labels,
        }
        assert targets <= set(ids)

    def test_ten_questions_of_each_split_evenly_spaced(self, report: Page) -> None:
        shown = [text for text, path in report.body if re.fullmatch(r"(forget|retain):\d+", text)]
        places = [0, 9, 19, 28, 38, 48, 57, 67, 76, 86]  # floor(96 i / 10)
        assert shown == [f"{split}:{place}" for split in ("forget", "retain") for place in places]
        start = report.words.index("forget:9 ")
        question = report.words[start : report.words.index("forget:19 ")]
        order = [
            "Question 9?",
            "True answer Answer 9.",
            "Before Answer 9.",
            "word for word",
            "Retrained of of of",
            "After of",
        ]
        assert sorted(order, key=question.index) == order
        assert "p 0.5090 ROUGE-L 0.2500" in question

    def test_settings_and_facts_are_listed(self, report: Page) -> None:
        for fact in (
            "71,204",
            "warmup_epochs 1",
            "arguments.date_string 10 Apr 2025",
            "1 min 32 s",
            "1.24 GiB",
            "training 42",
        ):
            assert fact in report.words, fact
        assert "3 retain rows are longer than 512 tokens." in report.words

    def test_equal_runs_give_equal_pages_whatever_matplotlib_was_told(self, report: Page, tmp_path: Path) -> None:
        with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path"}):
            settings = dict(matplotlib.rcParams)
            again = write_run(tmp_path / "elsewhere", run_results()).read_text("utf-8")
            assert dict(matplotlib.rcParams) == settings
        assert again == report.html

    def test_a_failure_while_writing_leaves_the_old_report(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = write_run(tmp_path / "run", run_results(candidates=None))
        before = path.read_text("utf-8")

        def fail(_: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(RunError, match=r"report\.html: Input/output error"):
            render_report(path.parent)
        assert path.read_text("utf-8") == before


class TestHostileTexts:
    def test_no_text_becomes_markup(self, hostile: Page) -> None:
        tags = [tag for tag, _ in hostile.elements]
        assert not {"script", "img", "b", "i "} & set(tags)
        assert tags.count("h1") == 1
        assert not [name for _, attributes in hostile.elements for name in attributes if name.startswith("on")]
        assert "<script>alert(1)</script>" in hostile.words
        assert hostile.words.count("&amp;") >= 8

    def test_no_text_hides_or_moves_anything(self, hostile: Page) -> None:
        assert not re.search(
            "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]", hostile.html
        )
        assert "\\u202egnp.exe\\u202c" in hostile.words
        assert "\\x1b[31m" in hostile.words.replace("\\x1b [", "\\x1b[")

    def test_right_to_left_text_is_isolated(self, hostile: Page) -> None:
        paths = [path for text, path in hostile.body if text == RIGHT_TO_LEFT]
        assert len(paths) >= 3
        assert all("bdi" in path for path in paths)

    def test_long_text_is_cut_with_a_mark(self, hostile: Page) -> None:
        assert "x" * 500 in hostile.words
        assert "x" * 501 not in hostile.words
        assert "… 4,500 more characters" in hostile.words

    def test_so_is_every_other_text(self, tmp_path: Path) -> None:
        """Notes, names and paths are shown up to 1,000 characters."""
        word = "y" * 3000
        results = run_results(notes=[word], model=word, not_computed={word: word}, method={word: word})
        html = write_run(tmp_path / "run", results).read_text("utf-8")
        assert set(map(len, re.findall("yyy+", html))) == {1000}
        assert html.count("… 2,000 more characters") == 7  # the note, title, source, and two names with their texts


class TestMissingPieces:
    def test_no_training_record_and_no_scores(self, tmp_path: Path) -> None:
        write_json(tmp_path / "results.json", run_results(candidates=None))
        page = Page(render_report(tmp_path).read_text("utf-8"))
        assert "no training record" in page.words
        assert "no scores of single examples" in page.words
        assert len(page.rows) == 6  # the head, two splits, three metrics

    def test_no_retrained_model_and_no_generated_answers(self, tmp_path: Path) -> None:
        results = run_results(retrained_metrics=None, not_computed={"forget.rouge": "the split is plain text"})
        texts = {0: ("", "A text.")}
        page = Page(write_run(tmp_path / "run", results, ("before", "after"), texts, False).read_text("utf-8"))
        assert "etrained" not in page.words
        assert "No answers were generated" in page.words
        assert "A text without a prompt" in page.words
        assert "forget.rouge the split is plain text" in page.words

    def test_plain_training(self, tmp_path: Path) -> None:
        results = run_results(
            command="finetune",
            status="done",
            verdict="Trained for 12 steps.",
            metrics=metrics(data_probability=0.994),
            **dict.fromkeys(
                ("bound", "reference_metrics", "retrained_metrics", "multiplier", "candidates", "kept_step")
            ),
        )
        write_json(tmp_path / "results.json", results)
        with JsonLines(tmp_path / "train.jsonl") as log:
            for step in (1, 2, 3):
                log.append({"step": step, "epoch": step / 3, "loss": 1 / step})
        page = Page(render_report(tmp_path).read_text("utf-8"))
        assert [text for text, _ in page.body[:2]] == ["Done", "The training ran to its end."]
        assert [row for row in page.rows if row[2]] == [("data", "Probability of an answer", [0.994])]
        assert "plot-loss-line" in page.values_of("id")
        assert "deletion" not in page.words

    @pytest.mark.parametrize("name", ["id", "model"])
    def test_foreign_scores_are_refused(self, tmp_path: Path, name: str) -> None:
        write_json(tmp_path / "results.json", run_results())
        (tmp_path / "scores").mkdir()
        columns = {"id": ["forget:0"], "model": ["after"]}
        del columns[name]
        pyarrow.parquet.write_table(pyarrow.table(columns | {"x": [1]}), tmp_path / "scores" / "forget.parquet")
        with pytest.raises(InputError, match=f"forget.parquet has no column '{name}'"):
            render_report(tmp_path)

    def test_a_broken_file_of_scores_is_named(self, tmp_path: Path) -> None:
        write_json(tmp_path / "results.json", run_results())
        (tmp_path / "scores").mkdir()
        (tmp_path / "scores" / "retain.parquet").write_bytes(b"no parquet")
        with pytest.raises(InputError, match=r"cannot read .*retain\.parquet"):
            render_report(tmp_path)


COURSE = plots.Course(candidates=run_results()["candidates"], kept_step=8, warmup_epochs=1.0)


def test_parts_of_splits_stand_under_their_own_names_in_the_colour_of_the_whole(tmp_path: Path) -> None:
    measured = {"forget.verbmem": 0.25, "forget_2.verbmem": 0.5, "mine_2.verbmem": 0.75, "retain.knowmem": 1.0}
    page = Page(write_run(tmp_path / "run", run_results(metrics=measured), ("after",)).read_text("utf-8"))
    found = {values[-1]: split for split, _, values in page.rows if values and values[-1] in measured.values()}
    assert found == {0.25: "forget", 0.5: "forget", 0.75: "", 1.0: "retain"}
    assert "Forget 2 split" in page.words


def test_what_all_prompts_begin_with_is_left_out_of_each(tmp_path: Path) -> None:
    """29 characters of an example stand in front of every question; prompts of one paragraph are shown whole."""
    front = "Question: Who?\nAnswer: Ida.\n\nQuestion: 0"
    assert len(front[: -len("Question: 0")]) == 29
    texts = {index: (f"{front}{index}\nAnswer:", "Jo") for index in range(96)}
    page = Page(write_run(tmp_path / "run", run_results(), texts=texts).read_text("utf-8"))
    assert "Every prompt begins with the same 29 characters, which are left out here." in page.words
    assert "Ida." not in page.words
    assert "Question: 00" in page.words
    plain = Page(write_run(tmp_path / "plain", run_results()).read_text("utf-8"))
    assert "left out here" not in plain.words
    assert "Question 0?" in plain.words


def element(plot: plots.Plot | None, name: str) -> ElementTree.Element:
    """The group of a drawing that matplotlib was told to call `name`."""
    assert plot is not None
    (found,) = (
        group for group in ElementTree.fromstring(plot.svg).iter("g") if group.get("id") == f"plot-{plot.name}-{name}"
    )
    return found


def points(plot: plots.Plot | None, name: str) -> list[tuple[float, float]]:
    """The corners of the path called `name`, in units of the drawing; y points down."""
    (path,) = element(plot, name).iter("path")
    return [(float(x), float(y)) for x, y in re.findall(r"[ML] (\S+) (\S+)", str(path.get("d")))]


def marks(plot: plots.Plot | None, name: str) -> list[tuple[float, float]]:
    """The places of the markers called `name`."""
    return [(float(str(use.get("x"))), float(str(use.get("y")))) for use in element(plot, name).iter("use")]


class TestPlots:
    def test_a_line_has_a_point_for_each_step_and_stands_where_its_values_are(self) -> None:
        """On a linear scale the height of a point is an affine function of its value, and so is the bound's."""
        plot = plots.held_plot(list(step_records()), COURSE, {"value": BOUND})
        line = points(plot, "line")
        assert len(line) == STEPS
        (x_first, y_first), (x_last, y_last) = line[0], line[-1]  # 0.01 at step 1, 0.12 at step 12

        def place(step: float, value: float) -> Any:
            x = x_first + (step - 1) / 11 * (x_last - x_first)
            return pytest.approx((x, y_first + (value - 0.01) / 0.11 * (y_last - y_first)), abs=1e-3)

        assert line[5] == place(6, 0.06)
        left, right = points(plot, "bound")
        assert (x_first, left[1]) == place(1, BOUND)
        assert (x_first, right[1]) == place(1, BOUND)
        candidates = COURSE.candidates
        assert marks(plot, "candidates") == [place(c["step"], c["reached"]) for c in candidates]
        assert marks(plot, "limit-ends") == [place(c["step"], c["upper_limit"]) for c in candidates]
        assert marks(plot, "written-candidate") == [place(8, 0.02)]
        assert (points(plot, "written")[0][0], marks(plot, "written-candidate")[0][1]) == place(8, 0.02)
        assert plot is not None
        assert "bound 0.03020" in [key.text for key in plot.key]
        assert plot.caption == "0.01000 at step 1. 0.1200 at step 12. Written: 0.02000 (step\u00a08)."

    def test_more_than_two_decades_are_drawn_on_a_log_scale(self) -> None:
        """The values fall by a constant factor, so on a log scale all rises are equal."""
        plot = plots.forget_plot(list(step_records()), plots.Course())
        heights = [y for _, y in points(plot, "line")]
        assert np.diff(heights) == pytest.approx([(heights[-1] - heights[0]) / 11] * 11, abs=1e-4)
        assert plot is not None
        assert plot.unit == "log scale"

    def test_the_warm_start_is_shaded_up_to_its_last_step(self) -> None:
        plot = plots.multiplier_plot(list(step_records()), COURSE)
        line, shade = points(plot, "line"), points(plot, "warm-start")
        assert {x for x, _ in shade} == {line[0][0], line[3][0]}  # steps 1 and 4: one epoch
        assert line[3][1] == line[0][1] != line[4][1]

    def test_a_step_that_was_taken_twice_counts_once_with_its_later_value(self) -> None:
        """A resumed run repeats the steps after its checkpoint."""
        repeated = [*step_records(), {"step": 12, "epoch": 3.0, "multiplier": 100.0}]
        line = points(plots.multiplier_plot(repeated, COURSE), "line")
        assert len(line) == STEPS
        assert line[-1][1] == line[0][1]

    def test_long_runs_are_thinned_without_losing_their_extremes(self) -> None:
        records = [{"step": step, "loss": 1.0 + (step == 7777) - 0.5 * (step == 1234)} for step in range(1, 20_001)]
        line = points(plots.loss_plot(records), "line")
        assert len(line) <= 1000
        heights = [y for _, y in line]
        flat = max(set(heights), key=heights.count)
        assert flat - min(heights) == pytest.approx(2 * (max(heights) - flat), rel=1e-4)  # +1 above, -0.5 below

    def test_the_bound_stands_between_what_holds_it_and_what_does_not(self) -> None:
        """Before 0.01, after 0.02, limit 0.025, bound 0.0302: the distances keep their ratios."""
        plot = plots.bound_plot(run_results()["bound"])
        (before,), (after,), (limit,) = (marks(plot, name) for name in ("before", "after", "upper-limit"))
        bound = points(plot, "bound")[0][0]
        unit = (after[0] - before[0]) / 0.01
        assert limit[0] - before[0] == pytest.approx(0.015 * unit, abs=1e-3)
        assert bound - before[0] == pytest.approx(0.0202 * unit, abs=1e-3)
        assert max(x for x, _ in points(plot, "allowed")) == pytest.approx(bound, abs=1e-3)

    @pytest.mark.parametrize(("value", "anchor"), [(0.0005, "start"), (0.05, "middle"), (0.9, "end")])
    def test_the_name_of_the_bound_stays_inside_its_plot(self, value: float, anchor: str) -> None:
        """It starts at the bound, lies across it or ends there: the other values are 0.001 and 0.1."""
        bound = run_results()["bound"] | {"L_ref": 0.001, "reached": 0.1, "upper_limit": 0.1, "value": value}
        root = ElementTree.fromstring(plots.bound_plot(bound).svg)
        (name,) = [text for text in root.iter("text") if (text.text or "").startswith("bound ")]
        found = re.search(r"text-anchor: (\w+)", name.get("style") or "")
        assert found is not None
        assert found[1] == anchor

    def test_drawings_take_the_colours_of_the_page(self) -> None:
        plot = plots.held_plot(list(step_records()), COURSE, {"value": BOUND})
        assert plot is not None
        assert set(re.findall(r"(?:fill|stroke): (#\w+)", plot.svg)) == set()
        assert {"var(--retain)", "var(--bound)", "var(--muted)"} <= set(re.findall(r"var\(--\w+\)", plot.svg))
        assert "font-family" not in plot.svg
        root = ElementTree.fromstring(plot.svg)
        assert [root.findtext("title"), root.findtext("desc")] == [plot.title, plot.caption]

    def test_nothing_to_draw(self) -> None:
        empty = plots.Course()
        assert plots.forget_plot([], empty) is None
        assert plots.held_plot([], empty, {"value": BOUND}) is None
        assert plots.multiplier_plot([{"step": 1, "multiplier": None}], empty) is None
        assert plots.loss_plot([]) is None


def test_results_are_plain_json(tmp_path: Path) -> None:
    """The fixture of this file is what the schema describes, and survives the way to disk and back."""
    write_json(tmp_path / "results.json", run_results())
    assert read_results(tmp_path) == json.loads(json.dumps(run_results()))
