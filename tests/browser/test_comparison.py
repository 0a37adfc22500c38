"""The page of a comparison in a real browser: legible in every window, sorted by click and key, deaf to its texts."""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

METHODS = ("grad_ascent", "grad_diff", "npo", "simnpo", "dpo", "altpo", "wga", "satimp", "undial", "ceu", "rmu", "pdu")
VIEWS = [(320, "dark"), (800, "light"), (1600, "light"), (1600, "dark")]
PWNED = "<script>window.pwned=1</script><img src=x onerror='window.pwned=2'></bdi></td></table><h1>owned</h1>"
KEPT, FORGOTTEN = "Retention kept", "Probability of an answer, forget"

Results = Callable[..., dict[str, Any]]
Pages = Callable[[str], Path]


def run_of(results: Results, method: str, number: int, seed: int, is_bounded: bool) -> dict[str, Any]:
    """A run whose figures depend on its number, and on its seed a little: the free ones forget more and keep less."""
    forget = 0.9 ** (number + 1) * (0.5 if is_bounded else 0.002) * (1 + 0.2 * seed)
    forget = 0.0 if method == "grad_ascent" and not is_bounded else forget  # a logarithm has no place for it
    kept = (0.999 - 0.004 * (number % 6)) if is_bounded else 0.95 - 0.07 * number
    bound = results()["bound"] if is_bounded else None
    status = "unconstrained" if not is_bounded else "feasible" if kept > 0.98 else "infeasible"
    found = results(status=status, bound=bound, method={"name": method}, seeds={"training": seed})
    found["metrics"] = found["metrics"] | {"forget.probability": forget, "retain.token_probability": 0.99431 * kept}
    if method == "grad_diff":
        found["method"]["same_when_bounded"] = "grad_ascent"
    return found


@pytest.fixture(scope="module")
def pages(
    results: Results, step_lines: Callable[[int], Iterator[Mapping[str, Any]]], tmp_path_factory: pytest.TempPathFactory
) -> Pages:
    """The page called by its name: ``many``, ``one``, ``hostile`` or ``bare``."""
    from amnestic.reports.files import JsonLines
    from amnestic.reports.leaderboard import Entry, write_comparison

    def entry(method: str, found: dict[str, Any] | None, folder: Path, setting: str, steps: int) -> Entry:
        folder.mkdir(parents=True)
        if steps:
            with JsonLines(folder / "train.jsonl") as log:
                for record in step_lines(steps):
                    log.append(record if setting == "free" else record | {"bound": 0.0302})
        seed = found["seeds"]["training"] if found else 1
        return Entry(method, setting, seed, folder, found, None if found else f"{method} became NaN.")

    @cache
    def page(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        methods = {"many": METHODS, "one": METHODS[2:3], "hostile": (PWNED, "a." * 60 + "Method"), "bare": METHODS[:1]}
        settings = ("keep 0.98",) if name == "one" else ("free", "keep 0.98")
        entries = [
            entry(
                method,
                run_of(results, method, number, seed, setting != "free"),
                folder / f"{number}-{setting}-{seed}",
                setting,
                0 if name == "bare" else 40,
            )
            for number, method in enumerate(methods[name])
            for setting in settings
            for seed in ((0, 1) if name == "many" else (0,))
        ]
        if name in ("many", "hostile"):
            entries.append(entry(methods[name][0], None, folder / "failed", "bound 0.3", 0))
        if name == "bare":
            for found in entries:
                found.results["metrics"].pop("retain.token_probability")
        text = PWNED if name == "hostile" else "amnestic bench --benchmark fiction --methods all"
        write_comparison(folder, entries, {"Command": text})
        return folder / "report.html"

    return page


class TestEveryPage:
    @pytest.mark.parametrize("name", ["many", "one", "hostile", "bare"])
    def test_it_opens_offline_and_is_legible_at_every_width_in_both_schemes(
        self, visit: Any, pages: Pages, name: str
    ) -> None:
        visit.open(pages(name))
        found = {view: visit.look(*view).faults() for view in VIEWS}
        assert {view: faults for view, faults in found.items() if faults} == {}
        assert visit.requests == [pages(name).as_uri()]
        assert visit.complaints == []

    def test_many_runs_stay_a_small_file(self, pages: Pages) -> None:
        """72 plots of some 7 kB, and 144 lines of 40 points."""
        assert pages("many").stat().st_size < 1_500_000

    @pytest.mark.parametrize("name", ["many", "one"])
    def test_it_prints_and_nothing_is_cut(self, visit: Any, pages: Pages, name: str) -> None:
        page = visit.open(pages(name)).look(718).page
        page.emulate_media(media="print")
        assert visit.faults(smallest=10.6) == []

    def test_what_a_screen_reader_says(self, visit: Any, pages: Pages) -> None:
        said = visit.open(pages("many")).page.locator("body").aria_snapshot()
        for line in (
            'heading "Missed The bound was missed in 4 of 24 bounded runs." [level=1]',
            'heading "Leaderboard" [level=2]',
            'table "Means over seeds, with 95 % intervals. A dash was not measured, which is no zero.',
            'button "Retention kept"',
            'rowheader "1 grad_ascent"',
            'heading "pdu, keep 0.98 missed 2 of 2" [level=3]',
            "26 means, whose numbers the leaderboard holds. From most forgotten to most kept: grad_ascent, free;",
        ):
            assert line in said, line

    def test_of_a_few_marks_each_is_told(self, visit: Any, pages: Pages) -> None:
        """npo, the third: 0.5 x 0.9 is forgotten to, and 0.999 kept."""
        said = visit.open(pages("one")).page.locator("body").aria_snapshot()
        assert "npo, keep 0.98: forgotten 0.4500, kept 0.9990; bound: held 1 of 1." in said


class TestPlots:
    def test_kinds_of_runs_are_told_apart_by_shape(self, visit: Any, pages: Pages) -> None:
        """matplotlib draws a mark as a shape that is defined once and used: two kinds, two definitions."""
        plot = visit.open(pages("many")).look(1600).page.locator("figure > svg").first
        shape = "(uses) => uses.map((use) => document.querySelector(use.getAttribute('href')).getAttribute('d'))"
        shapes = plot.locator("[id*='-mean-'] use").evaluate_all(shape)
        assert len(shapes) == 26
        assert len(set(shapes)) == 5, "free, held, missed, the model before, the retrained one"

    def test_every_method_is_named_in_a_wide_window_and_numbered_in_a_narrow_one(
        self, visit: Any, pages: Pages
    ) -> None:
        figures = visit.open(pages("many")).look(1600).page.locator(".tradeoff figure:visible")
        assert set(METHODS) <= set(figures.first.locator("text").all_text_contents())
        visit.look(400)
        assert {str(number) for number in range(1, 25)} <= set(figures.first.locator("text").all_text_contents())

    def test_each_row_has_its_curves(self, visit: Any, pages: Pages) -> None:
        page = visit.open(pages("many")).page
        lines = ".course:has(#course-4) [id$='-line']"
        assert page.locator(".course figure").count() == 3 * 24
        assert page.locator(lines).count() == 3 * 2
        assert page.locator(".course:has(#course-4) [id$='-bound']").count() == 1
        assert page.locator(".course:has(#course-3) [id$='-bound']").count() == 0

    def test_without_records_and_without_retention_the_page_says_so(self, visit: Any, pages: Pages) -> None:
        page = visit.open(pages("bare")).page
        assert page.get_by_text("None of its run folders holds a training record (train.jsonl).").count() == 2
        assert page.get_by_text("No run measured both what was forgotten and what was kept.").count() == 1


class TestTable:
    def column(self, page: Any, name: str) -> list[str]:
        """The cells of a column, from the top, as the numbers that the page sorts by."""
        return page.evaluate(
            "(name) => [...document.querySelectorAll(`td[data-label='${name}']`)].map((cell) => cell.dataset.value)",
            name,
        )

    def test_a_click_sorts_and_another_turns_the_order_around(self, visit: Any, pages: Pages) -> None:
        """The row of the failed runs has no number, and stays at the end either way."""
        page = visit.open(pages("many")).page
        header, button = page.locator("th", has_text=KEPT).first, page.get_by_role("button", name=KEPT)
        page.get_by_role("button", name="Method").click()  # which takes that row away from the end
        assert self.column(page, KEPT)[-1] != ""
        button.click()
        *falling, last = self.column(page, KEPT)
        assert [float(value) for value in falling] == sorted(map(float, falling), reverse=True)
        assert (last, header.get_attribute("aria-sort")) == ("", "descending")
        button.click()
        *rising, last = self.column(page, KEPT)
        assert rising == falling[::-1]
        assert (last, header.get_attribute("aria-sort")) == ("", "ascending")
        assert page.locator("#sorted").inner_text() == "Sorted by Retention kept, ascending."

    def test_the_keyboard_sorts_too_and_only_one_column_is_sorted(self, visit: Any, pages: Pages) -> None:
        page = visit.open(pages("many")).page
        page.get_by_role("button", name=KEPT).click()
        page.get_by_role("button", name="Method").focus()
        page.keyboard.press("Enter")
        names = page.locator(".board tbody th bdi").all_inner_texts()
        assert names == sorted(names)
        assert page.locator("[aria-sort]").all_inner_texts() == ["Method"]
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Setting"
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"

    def test_it_sorts_in_a_narrow_window(self, visit: Any, pages: Pages) -> None:
        page = visit.open(pages("many")).look(320).page
        page.get_by_role("button", name=FORGOTTEN).click()
        *falling, _ = self.column(page, FORGOTTEN)
        assert falling == sorted(falling, key=float, reverse=True)
        assert visit.faults() == []

    def test_without_scripts_it_is_a_plain_table(self, browser: Any, pages: Pages) -> None:
        context = browser.new_context(java_script_enabled=False, viewport={"width": 1600, "height": 900})
        page = context.new_page()
        page.goto(pages("many").as_uri())
        assert page.locator("button").count() == 0
        assert page.locator("th", has_text=KEPT).first.is_visible()
        assert page.locator(".board tbody tr").count() == 27
        assert not page.get_by_text("A heading sorts.").is_visible()
        context.close()


class TestHostileTexts:
    def test_nothing_runs_and_nothing_becomes_markup(self, visit: Any, pages: Pages) -> None:
        page = visit.open(pages("hostile")).page
        assert page.evaluate("window.pwned") is None
        assert page.locator("img, [onerror]").count() == 0
        assert page.locator("script").count() == 1
        assert page.locator("h1").count() == 1
        assert PWNED in page.locator(".board tbody").inner_text()
        assert PWNED in page.locator(".facts").inner_text()

    def test_the_policy_lets_no_script_run_but_that_of_the_page(self, visit: Any, pages: Pages, tmp_path: Path) -> None:
        unescaped = pages("one").read_text("utf-8").replace("</main>", f"{PWNED}</main>")
        (tmp_path / "unescaped.html").write_text(unescaped, "utf-8")
        page = visit.open(tmp_path / "unescaped.html").page
        assert page.evaluate("window.pwned") is None
        assert page.get_by_role("button", name=KEPT).count() == 1
        (tmp_path / "open.html").write_text(re.sub("<meta http-equiv[^>]*>", "", unescaped), "utf-8")
        assert visit.open(tmp_path / "open.html").page.evaluate("window.pwned") in (1, 2)
