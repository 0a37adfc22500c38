"""No text becomes more than text: not on the page, and not on the terminal."""

import io
import re
import unicodedata
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from rich.console import Console

from amnestic.cli import main
from amnestic.console import LineProgress, LiveProgress, open_console, pairs
from amnestic.outcomes import show_results
from amnestic.reports.display import visible
from amnestic.reports.files import JsonLines, write_json
from amnestic.reports.render import render_report

TEXTS = {
    "markup": "<b>bold</b><script>alert(1)</script><img src=x onerror=alert(1)>",
    "end": "</style></title></head></bdi></dd></dl></article></main></body></html><h1>owned</h1>",
    "attributes": '" onload="alert(1)" x=\' onclick=\'alert(1)\'><a href="javascript:alert(1)">',
    "link": "javascript:alert(1) [x](javascript:alert(1)) data:text/html,<script>",
    "svg": "<svg onload=alert(1)><foreignObject><iframe src=//x></foreignObject></svg><!--",
    "cdata": "<![CDATA[<script>]]> --> <?php ?> &lt;script&gt; &#60;b&#62; &amp;",
    "braces": "{{ 7 * 7 }} {% include '/etc/passwd' %} {# comment #} ${7*7} {{ config | safe }}",
    "style": "}</style><style>*{display:none} url(//x) @import '//x'; expression(alert(1))",
    "controls": "\x00\x01\x07\x08\x0b\x0c\r\x7f\x85\x9b31m",
    "ansi": "\x1b[31mred\x1b[0m\x1b]0;title\x07\x1b]8;;https://x\x07link\x1b]8;;\x07\x1b[2J\x1b[1A",
    "bidi": "\u202egpj.exe\u202c \u2066a\u2069 \u2067b\u2069 \u200ec\u200f \u061cd \u202ae\u202bf\u202dg",
    "invisible": "pass\u200bword\u200c\u200d\u2060\ufeff\u00ad\u180e\u034f\u115f\u3164\uffa0\u2800\U000e0041\ue000",
    "selectors": "a\ufe00\ufe0d\U000e0100\U000e01ef",
    "separators": "one\u2028two\u2029three\x1cfour",
    "surrogate": "\ud800 \udcff",
    "long": "w" * 10_000,
    "rich": "[bold red]x[/bold red] [link=https://x]y[/link] [/] :smile:",
    "regions": "\u0646\u0635 \u05d8\u05e7\u05e1\u05d8 \U0001f1e9\U0001f1ea \U0001f468\u200d\U0001f469",
}
UNSEEN = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\u00ad\u034f\u061c\u115f\u1160\u180b-\u180f\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u206f\u2800\u3164\ufe00-\ufe0d\ufeff\uffa0\ue000\U000e0000-\U000e0fff]"
)
VOID = {"meta", "br"}
HOSTILE = "<i>hostile</i>\x1b[31m\u202e"
EVERYTHING = "".join(text for name, text in TEXTS.items() if name != "long")


class Skeleton(HTMLParser):
    """The elements of a page with their attributes, in order, without the marks that stand for characters."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, tuple[tuple[str, str | None], ...]]] = []
        self.others: list[str] = []
        self.text = ""
        self._open: list[tuple[str, bool]] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        is_mark = tag == "br" or (tag == "span" and dict(attrs).get("class") in ("escape", "cut"))
        if not is_mark:
            self.elements.append((tag, tuple(attrs)))
        if tag not in VOID:
            self._open.append((tag, is_mark))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        self.others.append(data)

    def handle_pi(self, data: str) -> None:
        self.others.append(data)

    def unknown_decl(self, data: str) -> None:
        self.others.append(data)


def results(text: Callable[[str], str]) -> dict[str, Any]:
    """What a run could say with `text` wherever somebody else's words may stand: names as well as values."""
    metric, split = (text(name).replace(".", "") for name in ("metric", "split"))  # a dot ends the split's name
    numbers = {"forget.probability": 0.5, f"forget.{metric}": 0.25, f"{split}.entropy": 1.0}
    bound = {"kind": "keep", "requested": 0.98, "L_ref": 0.01, "value": 0.0302, "reached": 0.02, "upper_limit": 0.025}
    splits = {"examples": 2, "scored_tokens": 9, "too_long": 0, "longest": 7}
    return {
        "schema": 1,
        "command": "unlearn",
        "status": "feasible",
        "verdict": text("verdict"),
        "model": text("model"),
        "bound": bound | {"probe_size": 2, "held_out": True, "whole_split": False, "confidence": 0.95},
        "metrics": numbers,
        "reference_metrics": numbers,
        "retrained_metrics": numbers,
        "not_computed": {text("left out"): text("reason")},
        "method": {"name": text("method"), text("argument"): text("value")},
        "multiplier": {"initial": 1.0, "warmup_epochs": 0.0, "update": text("update")},
        "data": {name: {"source": text(name), **splits} for name in ("forget", text("data"))},
        "template": {"kind": "chat", "arguments": {text("key"): text("date")}, "system_prompt": text("system")},
        "training": {"steps": 2},
        "seeds": {"training": 0},
        "timings": {text("stage"): 1.0},
        "notes": [text("note"), text("second note")],
    }


def page(folder: Path, text: Callable[[str], str], redacted: bool = False) -> str:
    """The report of a run in which `text` gives each text by its name."""
    (folder / "scores").mkdir(parents=True)
    write_json(folder / "results.json", results(text) | ({"redacted": True} if redacted else {}))
    with JsonLines(folder / "train.jsonl") as log:
        log.append({"step": 1, "epoch": 0.5, "forget_loss": 2.0, text("record"): text("recorded")})
    rows = [
        {name: text(f"{name} {model} {n}").encode(errors="replace").decode() for name in ("prompt", "answer")}
        | {"id": f"{text('id')} {n}".encode(errors="replace").decode(), "model": model, "probability": 0.5}
        | {"generated": text("generated").encode(errors="replace").decode(), "rouge": 0.25}
        for model in ("before", "after")
        for n in range(2)
    ]
    for split in ("forget", "retain"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "scores" / f"{split}.parquet")
    return render_report(folder).read_text("utf-8")


@pytest.fixture(scope="module")
def harmless(tmp_path_factory: pytest.TempPathFactory) -> Skeleton:
    """The page of a run whose texts are plain words."""
    return Skeleton(page(tmp_path_factory.mktemp("harmless"), lambda name: name))


def sorts_last(name: str, text: str) -> str:
    """A text for the place `name` that keeps names apart, and metrics and splits in the order of the plain words."""
    return f"{name} {text}"


@pytest.mark.parametrize("name", [*TEXTS, "everything"])
def test_no_element_and_no_attribute_stems_from_data(harmless: Skeleton, tmp_path: Path, name: str) -> None:
    """A page of hostile texts has the very elements and attributes of one of plain words."""
    text = TEXTS.get(name, EVERYTHING)
    html = page(tmp_path / "run", lambda place: sorts_last(place, text))
    found = Skeleton(html)
    assert found.elements == harmless.elements
    assert found.others == []
    assert not UNSEEN.search(html)
    html.encode("utf-8")
    shown = visible(text).replace("\\ud800", "?").replace("\\udcff", "?")[:500]
    assert found.text.replace("\\ud800", "?").replace("\\udcff", "?").count(shown) >= 15


def test_the_page_is_as_strict_where_texts_are_hashes(tmp_path: Path) -> None:
    redacted = [
        Skeleton(page(tmp_path / name, lambda place, name=name: sorts_last(place, TEXTS.get(name, "")), redacted=True))
        for name in ("plain", "markup", "attributes")
    ]
    assert redacted[0].elements == redacted[1].elements == redacted[2].elements
    assert sum(tag == "code" for tag, _ in redacted[0].elements) == 2 * 2 * 4
    assert "This run is redacted" in redacted[0].text


def test_a_page_that_escapes_nothing_fails_these_tests(harmless: Skeleton, tmp_path: Path, monkeypatch: Any) -> None:
    from amnestic.reports import render

    environment = render.template_environment()
    monkeypatch.setattr(environment, "autoescape", False)
    environment.cache.clear()
    try:
        html = page(tmp_path / "run", lambda place: sorts_last(place, "<b>x</b>"))
    finally:
        environment.cache.clear()
    try:
        found = Skeleton(html).elements
    except AssertionError:  # an element is closed that was not open
        return
    assert found != harmless.elements


def test_the_policy_allows_neither_scripts_nor_anything_from_outside(harmless: Skeleton) -> None:
    (policy,) = (
        dict(attributes)["content"] for tag, attributes in harmless.elements if "http-equiv" in dict(attributes)
    )
    rules = dict(rule.strip().split(" ", 1) for rule in str(policy).split(";"))
    assert rules.pop("default-src") == "'none'"
    assert rules == {
        "style-src": "'unsafe-inline'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def is_safe(text: str) -> bool:
    """Whether every character but the line break is one that a terminal shows, and that moves no other."""
    return not UNSEEN.search(text) and all(c == "\n" or unicodedata.category(c) not in ("Cc", "Cs") for c in text)


@pytest.fixture(params=["lines", "terminal"])
def console(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Console:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    if request.param == "lines":
        return open_console(io.StringIO())
    return Console(
        file=io.StringIO(), force_terminal=True, width=20_000, markup=False, highlight=False, emoji=False, no_color=True
    )


def said(console: Console) -> str:
    """What was written, without rich's own switches of bold and underlined text, of the cursor and of lines."""
    return re.sub(r"\x1b\[(?:[014];?)*m|\x1b\[\?25[lh]|\x1b\[2K|\x1b\[1A|\r", "", console.file.getvalue())


@pytest.mark.parametrize("name", TEXTS)
def test_a_terminal_gets_text_alone(console: Console, tmp_path: Path, name: str) -> None:
    text = TEXTS[name]
    progress = (LiveProgress if console.is_terminal else LineProgress)(console)
    progress.note(text)
    progress.plan({text: text})
    progress.preview([(text, False), (text, True)])
    progress.candidate({"epoch": 1, "step": 1, "forget_loss": 1, "reached": 1, "holds": True, text: text})
    console.print(pairs({text: Path(text.replace("\0", ""))}))
    found = {"status": "done", "verdict": text, "metrics": {f"{text}.{text}": 1.0}}
    show_results(console, found, tmp_path / "x", quiet=False)
    assert is_safe(said(console))
    assert said(console).count(visible(text)[:400]) >= 5


TYPED = {
    "output_dir": ["--output_dir", f"{HOSTILE}\0"],
    "forget": ["--forget", f"{HOSTILE}.jsonl"],
    "method": ["--method", HOSTILE],
    "config": ["--config", f"{HOSTILE}.yaml"],
    "number": ["--learning_rate", HOSTILE],
    "flag": [f"--{HOSTILE}", "1"],
    "choice": ["--dtype", HOSTILE],
    "word": [HOSTILE],
}


@pytest.mark.parametrize(
    ("name", "debug"), [*((name, "0") for name in TYPED), ("method", "1"), ("choice", "1"), ("forget", "1")]
)
def test_errors_show_what_was_typed_as_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, name: str, debug: str
) -> None:
    monkeypatch.setenv("AMNESTIC_DEBUG", debug)
    monkeypatch.chdir(tmp_path)
    given = {"--model": "m", "--forget": "f.jsonl", "--retain": "r.jsonl", "--output_dir": "o"}
    arguments = TYPED[name]
    given |= dict(zip(arguments[::2], arguments[1::2], strict=False))
    rest = arguments[2 * (len(arguments) // 2) :]
    status = main(["unlearn", *(part for pair in given.items() for part in pair), *rest])
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert is_safe(err)
    assert "<i>hostile</i>\\x1b[31m\\u202e" in err.splitlines()[-1]
    assert ("Traceback" in err) == (debug == "1")


def test_files_of_names_that_are_no_text_are_shown(tmp_path: Path, capfd: Any) -> None:
    """A name in another encoding than UTF-8 reaches Python as lone surrogates."""
    status = main(["unlearn", "--model", "m", "--forget", "f\udcff.jsonl", "--retain", "r", "--output_dir", "o"])
    assert status == 2
    assert capfd.readouterr().err.startswith("error: there is no file or folder f\\udcff.jsonl")


def hidden_joiners() -> Iterator[tuple[str, str]]:
    yield "pass\u200dword", "pass\\u200dword"
    yield "\u200cx", "\\u200cx"
    yield "\u200b\u200d", "\\u200b\\u200d"
    yield "می\u200c\u200cخ", "می\u200c\\u200cخ"
    yield "❤\ufe0f\u200d🔥", "❤\ufe0f\u200d🔥"
    yield "क\u094d\u200dष", "क\u094d\u200dष"


@pytest.mark.parametrize(("text", "shown"), list(hidden_joiners()))
def test_joiners_stay_only_where_a_writing_uses_them(text: str, shown: str) -> None:
    assert visible(text) == shown
