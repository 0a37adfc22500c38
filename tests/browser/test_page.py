"""The report in a real browser: offline, legible in every window and colour scheme, and deaf to what its texts try."""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

PWNED = "<script>window.pwned=1</script><img src=x onerror='window.pwned=2'><svg onload='window.pwned=3'>"
BREAKOUT = f"</bdi></dd></dl></style></title><h1>owned</h1>{PWNED}"
CONTROLS = "\x00\x07\x1b[31m red \x7f\x85\u2028\u200b"
BIDI = "\u202egnp.exe\u202c \u2067\u200f isolate \u2069 \u061c"
ARABIC = "من هو مؤلف كتاب «المدار» الذي نشر عام 1987؟"
HEBREW = "מי כתב את הספר?"
CHINESE = "谁写了《盐子午线》？伊内斯·马雷克在一九八七年写了这本书。" * 8
EMOJI = "👩🏽‍🚀🏳️‍🌈👨‍👩‍👧‍👦 1️⃣ e\u0301 " * 12
STACKED = "Z\u0336" + "a" + "\u0301\u0316" * 60 + " stacked"
LONG_WORD = "x" * 10_000
HOSTILE = [BREAKOUT, CONTROLS, BIDI, ARABIC, HEBREW, CHINESE, EMOJI, STACKED, LONG_WORD, " \t\n\n  \r\n"]
LONG_PATH = "/data/" + "a-very-long-folder-name_without_any_space" * 6 + "/checkpoint-final"

Results = Callable[..., dict[str, Any]]
Reports = Callable[[str], Path]


def feasible(results: Results) -> dict[str, Any]:
    return {"results": results()}


def infeasible(results: Results) -> dict[str, Any]:
    """Held on average, not with confidence; nothing to compare with."""
    bound = results()["bound"] | {"upper_limit": 0.0352, "held_out": False}
    verdict = (
        "BOUND NOT HELD: held on average, not with 95 % confidence; forget probability 0.994 -> 0.9: almost nothing."
    )
    found = results(status="infeasible", bound=bound, verdict=verdict, retrained_metrics=None)
    return {"results": found, "models": ("before", "after")}


def whole_split(results: Results) -> dict[str, Any]:
    """A tiny bound far above what was reached, stated as --alpha, on the whole retain split."""
    bound = {"kind": "alpha", "requested": 0.5, "value": 1.0841e-7, "L_ref": 7.2273e-8, "reached": 7.3e-8}
    found = results(bound=results()["bound"] | bound | {"whole_split": True, "upper_limit": None, "probe_size": 48})
    for candidate in found["candidates"]:
        candidate |= {"reached": 7.3e-8, "upper_limit": None}
    return {"results": found}


def far_missed(results: Results) -> dict[str, Any]:
    """The bound lies at the left edge of its plot, and the numbers have many digits."""
    bound = {"kind": "bound", "requested": 0.01, "value": 0.01, "L_ref": 0.009, "reached": 98_765.4, "upper_limit": 1e5}
    found = results(status="infeasible", bound=results()["bound"] | bound)
    found["metrics"] |= {"forget.margin": 123_456.7, "retain.margin": -98_765.4, "forget.entropy": 1.0e-12}
    return {"results": found}


def one_step(results: Results) -> dict[str, Any]:
    return {"results": results(steps=1), "steps": 1}


def long_run(results: Results) -> dict[str, Any]:
    return {"results": results(steps=2000), "steps": 2000}


def crowded(results: Results) -> dict[str, Any]:
    """Fifty more metrics, long names, many notes, long settings."""
    found = results(model=LONG_PATH, notes=[f"Note {n}: {LONG_PATH} holds {n} rows that were cut." for n in range(30)])
    names = [f"a_metric_of_ones_own_with_quite_a_long_name_{n}" for n in range(50)]
    for models in ("metrics", "reference_metrics", "retrained_metrics"):
        found[models] |= {f"forget.{name}": 1e-7 * (n + 1) for n, name in enumerate(names)}
    found["not_computed"] = {f"retain.{name}": f"the split {LONG_PATH} is plain text" for name in names[:3]}
    found["method"] = {"name": "mypackage.methods.AMethodOfOnesOwnWithALongName"} | dict.fromkeys(names[:5], LONG_PATH)
    for split in found["data"].values():
        split["source"] = LONG_PATH
    return {"results": found}


def benchmark(results: Results) -> dict[str, Any]:
    """What a benchmark measures: five splits, and the model as a whole; with a sign or a power in each column."""
    found = results()
    shares = ("probability", "normalized_probability", "truth_ratio", "truth_ratio_arithmetic", "extraction_strength")
    splits = ("real_authors", "world_facts", "holdout")
    many = {f"{split}.{name}": 2.905e-7 for split in splits for name in shares}
    many |= dict.fromkeys(("forget_quality_log10", "privleak", "privleak_ou"), -70.3125)
    many |= {"forget_quality": 0.00098002}
    many |= dict.fromkeys(("model_utility", "mia.min_k_plus_plus_ou.auc", "mia.grad_norm.auc"), 0.52109)
    for models in ("metrics", "reference_metrics", "retrained_metrics"):
        found[models] |= many
    return {"results": found}


def hostile(results: Results) -> dict[str, Any]:
    """Each text that nobody checked tries to be more than text."""
    everything = " ".join(HOSTILE).replace("\x00", "")
    found = results(verdict=BREAKOUT + BIDI + STACKED, notes=HOSTILE, model=everything)
    found["not_computed"] = {text: text for text in HOSTILE}
    found["method"] = {"name": everything} | {f"{text} name": text for text in HOSTILE}
    found["template"]["arguments"] = {"question_template": everything}
    found["data"]["forget"]["source"] = everything
    found["metrics"] |= {f"forget.{BREAKOUT}": 0.5, f"{BIDI}.mine": 0.5}
    texts = [
        {"id": f"row-{place}-{text}", "prompt": text, "answer": text, "generated": text * 2}
        for place, text in enumerate(HOSTILE)
    ]
    return {"results": found, "texts": texts}


def bare(results: Results) -> dict[str, Any]:
    """No training record, no scores."""
    return {"results": results(candidates=None, kept_step=None), "steps": 0, "models": ()}


def training(results: Results) -> dict[str, Any]:
    """A run of plain training, which has neither bound nor verdict."""
    left_out = ("bound", "reference_metrics", "retrained_metrics", "multiplier", "candidates", "kept_step")
    found = results(command="finetune", status="done", verdict="Trained for 12 steps.", **dict.fromkeys(left_out))
    return {"results": found | {"metrics": {"data.probability": 0.994}}, "models": ("after",)}


REPORTS = (
    feasible,
    infeasible,
    whole_split,
    far_missed,
    one_step,
    long_run,
    crowded,
    benchmark,
    hostile,
    bare,
    training,
)
NAMES = [make.__name__ for make in REPORTS]
VIEWS = [(320, "light"), (400, "light"), (1000, "light"), (1600, "light"), (1600, "dark"), (400, "dark")]
BOUND_PLOT, FORGET, RETAIN, MULTIPLIER, LOSS = (
    "Loss on the retain probe",
    "Forget loss",
    "Retain loss",
    "Multiplier",
    "Loss",
)
COURSE = [FORGET, RETAIN, MULTIPLIER, LOSS]
PLOTS = {name: [BOUND_PLOT, *COURSE] for name in NAMES} | {"bare": [BOUND_PLOT], "training": COURSE}

MARKS = """(plots) => plots.map((plot) => {
  const size = (selector) => [...plot.querySelectorAll(selector)].map((shape) => {
    const box = shape.getBoundingClientRect();
    return Math.max(box.width, box.height);
  });
  return {
    title: plot.querySelector("title").textContent,
    width: plot.getBoundingClientRect().width,
    shapes: size("[id$='-line'] path, [id$='-line'] use, [id$='-before'] use"),
    ticks: plot.querySelectorAll("[id*='tick_'] text").length,
  };
})"""
PLACES = """(text) => {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) {
    const start = walker.currentNode.data.indexOf(text);
    if (start < 0 || !walker.currentNode.parentElement.checkVisibility()) continue;
    found.push([...text].map((_, i) => {
      const range = document.createRange();
      range.setStart(walker.currentNode, start + i);
      range.setEnd(walker.currentNode, start + i + 1);
      const box = range.getBoundingClientRect();
      return 10000 * box.top + box.left;
    }));
  }
  return found;
}"""
"""For each place that shows a text: how far its letters stand down, then along, in the order that they are stored."""


@pytest.fixture(scope="module")
def reports(results: Results, write_report: Callable[..., Path]) -> Reports:
    """The path of the report called by its name, written when it is first asked for."""

    @cache
    def report(name: str) -> Path:
        make = next(make for make in REPORTS if make.__name__ == name)
        return write_report(**make(results))

    return report


@pytest.fixture(scope="module")
def trained(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a real run: two steps of a small random model."""
    import amnestic

    rows = [{"question": f"Who wrote book {n}?", "answer": f"Ines Marek wrote book {n}."} for n in range(6)]
    run = amnestic.unlearn(
        str(tiny_model()),
        forget=rows[:2],
        retain=rows[2:],
        bound=100.0,
        max_steps=2,
        learning_rate=1e-3,
        max_new_tokens=8,
        output_dir=str(tmp_path_factory.mktemp("trained") / "run"),
    )
    return run.output_dir / "report.html"


def assert_legible(visit: Any, path: Path) -> None:
    """Nothing to object to in any view, nothing asked for but the file, no complaint of the browser's."""
    visit.open(path)
    found = {view: visit.look(*view).faults() for view in VIEWS}
    assert {view: faults for view, faults in found.items() if faults} == {}
    assert visit.requests == [path.as_uri()]
    assert visit.complaints == []


class TestEveryReport:
    @pytest.mark.parametrize("name", NAMES)
    def test_it_opens_offline_and_is_legible_at_every_width_in_both_schemes(
        self, visit: Any, reports: Reports, name: str
    ) -> None:
        assert_legible(visit, reports(name))

    def test_so_does_that_of_a_real_run(self, visit: Any, trained: Path) -> None:
        assert_legible(visit, trained)
        assert visit.page.locator("figure > svg").count() == 4
        assert visit.page.get_by_text("Who wrote book 0?").is_visible()

    @pytest.mark.parametrize("name", NAMES)
    def test_its_plots_are_drawn(self, visit: Any, reports: Reports, name: str) -> None:
        """A line runs over most of its plot; of a single step there is a dot, of the bound a mark for each value."""
        plots = visit.open(reports(name)).page.locator("figure > svg").evaluate_all(MARKS)
        assert [plot["title"] for plot in plots] == PLOTS[name]
        for plot in plots:
            is_point = name == "one_step" or plot["title"] == BOUND_PLOT
            assert plot["width"] > 300
            assert plot["ticks"] >= 3, plot
            assert max(plot["shapes"]) > (4 if is_point else 0.6 * plot["width"]), plot

    def test_a_long_run_stays_a_small_file(self, reports: Reports) -> None:
        """Lines are thinned to 1,000 points of some 25 bytes; four lines of 2,000 alone would take 200 kB."""
        assert reports("long_run").stat().st_size < 100_000 + 4 * 1000 * 25

    def test_a_word_of_10_000_letters_is_cut_with_a_mark(self, visit: Any, reports: Reports) -> None:
        """500 characters of a question are shown, 600 of an answer, which was given twice as long."""
        page = visit.open(reports("hostile")).page
        assert page.get_by_text("… 9,500 more characters").count() == 1
        assert page.get_by_text("… 9,400 more characters").count() == 2
        assert page.get_by_text("… 19,400 more characters").count() == 2
        assert reports("hostile").stat().st_size < 300_000


class TestColours:
    def test_the_page_and_its_plots_follow_the_scheme(self, visit: Any, reports: Reports) -> None:
        """Light paper and dark ink, or the other way around: the sum of red, green and blue tells which."""
        page = visit.open(reports("feasible")).page
        colours = """() => ["body", "figure text", "[id$='multiplier-line'] path"].map((selector) => {
          const style = getComputedStyle(document.querySelector(selector));
          const name = { body: "backgroundColor", "figure text": "fill" }[selector] || "stroke";
          return style[name].match(/[0-9]+/g).map(Number).reduce((a, b) => a + b);
        })"""
        for scheme, is_light in (("light", [True, False, False]), ("dark", [False, True, True])):
            visit.look(1600, scheme)
            assert [total > 384 for total in page.evaluate(colours)] == is_light

    def test_high_contrast_reaches_the_plots(self, visit: Any, reports: Reports) -> None:
        page = visit.open(reports("infeasible")).look(1600, "dark").page
        page.emulate_media(color_scheme="dark", forced_colors="active")
        badge = "getComputedStyle(document.querySelector('.status'))"
        assert page.evaluate(f"{badge}.backgroundColor") == "rgba(0, 0, 0, 0)", "its letters cannot be told from it"
        strokes = "(paths) => [...new Set(paths.map((path) => getComputedStyle(path).stroke))]"
        ink = page.evaluate("getComputedStyle(document.querySelector('h2')).color")
        assert page.locator("[id$='-line'] path").evaluate_all(strokes) == [ink]
        assert visit.faults() == []


class TestPaper:
    @pytest.mark.parametrize("name", ["feasible", "infeasible", "crowded"])
    def test_it_prints_in_ink_on_white_and_nothing_is_cut(self, visit: Any, reports: Reports, name: str) -> None:
        """A4 between margins of 1 cm is 718 pixels wide; letters of 8 points are 10.67 pixels high.

        A printer leaves backgrounds out: the badge of an infeasible run must not need its own.
        """
        page = visit.open(reports(name)).look(718, "dark").page
        page.emulate_media(media="print", color_scheme="dark")
        assert visit.faults(smallest=10.6) == []
        body, badge = (f"getComputedStyle(document.querySelector('{place}'))" for place in ("body", ".status"))
        assert page.evaluate(f"[{body}.backgroundColor, {body}.color]") == ["rgb(253, 253, 252)", "rgb(22, 25, 29)"]
        assert page.evaluate(f"{badge}.backgroundColor") == "rgba(0, 0, 0, 0)"

    def test_it_becomes_a_pdf_of_a_few_pages(self, visit: Any, reports: Reports) -> None:
        printed = visit.open(reports("feasible")).page.pdf(format="A4", margin=dict.fromkeys(("top", "bottom"), "1cm"))
        assert printed.startswith(b"%PDF-")
        assert 2 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 12


class TestReadersWithoutAScreen:
    def test_what_a_screen_reader_says(self, visit: Any, reports: Reports) -> None:
        """The browser's own tree: headings in order, named tables and regions, plots with their numbers."""
        page = visit.open(reports("feasible")).page
        said = page.locator("body").aria_snapshot()
        for line in (
            'heading "Feasible The retention bound was held." [level=1]',
            'heading "The bound" [level=2]',
            'heading "Loss on the retain probe nats a token" [level=3]',
            'region "The bound"',
            'columnheader "Metric"',
            'columnheader "Retrained"',
            'rowheader "ROUGE-L recall"',
            'table "Losses on the retain probe and the bound, in nats a token"',
            'img "Loss on the retain probe Before 0.01000, after 0.02800, upper limit 0.02900, bound 0.03020."',
            'img "Multiplier 100.0 at step 1. 99.33 at step 12."',
        ):
            assert line in said, line
        assert page.evaluate("document.documentElement.lang") == "en"
        assert page.title() == "Feasible – amnestic unlearn – models/target"

    def test_the_keyboard_reaches_the_link_and_what_it_names(self, visit: Any, reports: Reports) -> None:
        page = visit.open(reports("feasible")).page
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "What was not tested"
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
        page.keyboard.press("Enter")
        assert page.url.endswith("#limits")
        assert -1 < page.locator("#limits").bounding_box()["y"] < 900


class TestHostileTexts:
    def test_nothing_runs_and_nothing_becomes_markup(self, visit: Any, reports: Reports) -> None:
        page = visit.open(reports("hostile")).page
        assert page.evaluate("window.pwned") is None
        assert page.locator("script, img, [onload], [onerror]").count() == 0
        assert page.get_by_role("heading", level=1).all_inner_texts() == ["Feasible\nThe retention bound was held."]
        for place in (".lead", ".notes", ".reasons", ".example h3", ".example dd", ".facts", ".source", ".id"):
            assert PWNED in "".join(page.locator(place).all_inner_texts()), place
        assert "<h1>owned</h1>" in page.inner_text("body")

    def test_a_page_that_failed_to_escape_would_be_seen_and_would_still_not_run(
        self, visit: Any, reports: Reports, tmp_path: Path
    ) -> None:
        """The page's policy is the second lock: without the first, nothing runs; without both, everything does."""
        page = reports("feasible").read_text("utf-8")
        call_home = "<style>@import url(http://127.0.0.1:9/a); body { background: url(http://127.0.0.1:9/b) }</style>"
        unescaped = page.replace("</main>", f"{PWNED}{call_home}</main>")
        (tmp_path / "unescaped.html").write_text(unescaped, "utf-8")
        visit.open(tmp_path / "unescaped.html")
        assert visit.page.evaluate("window.pwned") is None
        assert any("Content Security Policy" in complaint for complaint in visit.complaints)
        calls = [complaint for complaint in visit.complaints if complaint.startswith("failed: http")]
        assert len(calls) == 2
        assert all(call.endswith("csp") for call in calls), "an address was called"

        (tmp_path / "open.html").write_text(re.sub("<meta http-equiv[^>]*>", "", unescaped), "utf-8")
        visit.open(tmp_path / "open.html")
        assert visit.page.evaluate("window.pwned") in (1, 2, 3)
        assert "failed: http://127.0.0.1:9/b: net::ERR_UNSAFE_PORT" in visit.complaints  # a port that no browser calls

    def test_no_mark_turns_letters_around(self, visit: Any, reports: Reports) -> None:
        """What follows a right-to-left override stays in the order in which it is stored."""
        page = visit.open(reports("hostile")).page
        shown = page.evaluate(PLACES, "gnp.exe")
        assert len(shown) >= 10
        page.evaluate("document.querySelector('.lead').textContent = '\u202ctxt.\u202epiz.txt'")
        (turned,) = page.evaluate(PLACES, "piz.txt")
        assert turned == sorted(turned, reverse=True)
        assert [places for places in shown if places != sorted(places)] == []

    def test_right_to_left_texts_keep_their_direction_to_themselves(self, visit: Any, reports: Reports) -> None:
        """Arabic runs from the right; the names and numbers around it do not move."""
        page = visit.open(reports("hostile")).page
        example = page.locator("article", has_text="row-3-")
        directions = "(quotes) => quotes.map((quote) => getComputedStyle(quote).direction)"
        assert set(example.locator(".quote").evaluate_all(directions)) == {"rtl"}
        score = example.locator(".score span").first
        assert score.inner_text() == "p 0.5000"
        left = page.locator("article", has_text="row-0-").locator(".score span").first.bounding_box()["x"]
        assert score.bounding_box()["x"] == left


FAULTS = [
    ("scrolls sideways", "main { width: 3000px }"),
    ("outside the window", ".caption { position: relative; left: -60px }"),
    ("small text", ".score { font-size: 11px }"),
    ("small text", "figure > svg { width: 60% !important }"),
    ("faint text", ".caption { color: #8a8a8a }"),
    ("faint text", ".caption { opacity: 0.5 }"),
    ("faint text", "figure > svg text { fill: #999 !important }"),
    ("faint line", ":root { --retain: #bcd }"),
    ("overlap", ".example dt { height: 0 }"),
    ("cut", ".lead { height: 1em; overflow: hidden }"),
    ("cut", ".quote { max-height: 1em }"),
    ("sticks out", ".facts dd { width: 1em; overflow-wrap: normal }"),
    ("small plot", "figure > svg { display: none !important }"),
    ("outside its figure", "figure > svg { margin-left: 6rem }"),
    ("text without a box", "h2 { font-size: 0 }"),
]
MARKUP_FAULTS = [
    ("table without a caption", "document.querySelector('caption').remove()"),
    ("row without a header", "document.querySelector('.ledger th').removeAttribute('scope')"),
    ("heading skips a level", "document.querySelector('h2').outerHTML = '<p>The bound</p>'"),
    ("image without words", "document.querySelector('figure > svg').removeAttribute('aria-labelledby')"),
    ("two elements of one id", "document.querySelector('h1').id = 'bound'"),
    ("empty plot", "document.querySelector('figure > svg').querySelectorAll('path, use').forEach((e) => e.remove())"),
    ("no plot", "document.querySelector('figure > svg').remove()"),
]


class TestTheAuditItself:
    """Each fault that it looks for is found where it is planted."""

    @pytest.mark.parametrize(("kind", "style"), FAULTS)
    def test_a_fault_of_the_style_is_found(self, visit: Any, reports: Reports, kind: str, style: str) -> None:
        visit.open(reports("feasible")).look(1000).page.add_style_tag(content=style)
        assert kind in {fault.partition(":")[0] for fault in visit.faults()}

    @pytest.mark.parametrize(("kind", "change"), MARKUP_FAULTS)
    def test_a_fault_of_the_markup_is_found(self, visit: Any, reports: Reports, kind: str, change: str) -> None:
        visit.open(reports("feasible")).look(1000).page.evaluate(f"() => {{ {change} }}")
        assert kind in {fault.partition(":")[0] for fault in visit.faults()}
