"""The pages in a real browser, from the file system: nothing leaves, nothing breaks, all works.

Needs Chromium (the environment's STOCKFORMER_BROWSER, or one on the path); skipped without.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from reporting.run_folder import failed_run, finished_run, sweep
from scipy import stats

from stockformer.evaluation.statistics import paired_comparison
from stockformer.reporting import leaderboard, report
from stockformer.runs.recorded_run import read_run
from stockformer.sweeps.trials import read_trials

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (the extra dev)")
if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome")
HOSTILE = "<script>hacked = 1</script><img src=x onerror='hacked = 1'>"
SCREENS = [(width, scheme) for width in (1400, 400) for scheme in ("light", "dark")]
PAGES = ("folder/0/report.html", "folder/6/report.html", "folder/leaderboard.html", "many")
OPENED = [  # each page on a wide light and a narrow dark screen; in full on all four
    pytest.param(*screen, page, marks=[] if screen in SCREENS[::3] else [pytest.mark.full])
    for page in PAGES
    for screen in SCREENS
]

# Texts of a figure that lie over one another, or reach out of it.
OVERLAPS = """() => {
  const found = [];
  const apart = (a, b) => a.right <= b.left + 1 || b.right <= a.left + 1
    || a.bottom <= b.top + 2 || b.bottom <= a.top + 2;
  const within = (a, b) => a.left >= b.left - 1 && a.right <= b.right + 1
    && a.top >= b.top - 1 && a.bottom <= b.bottom + 1;
  const kinds = ['.xtick text', '.ytick text', '.g-xtitle text', '.g-ytitle text', '.legendtext'];
  for (const plot of document.querySelectorAll('.plot, .own-plot')) {
    const texts = [...plot.querySelectorAll(kinds)]
      .map((text) => [text.textContent, text.getBoundingClientRect()]);
    texts.forEach(([a, box], i) => {
      if (!within(box, plot.getBoundingClientRect())) found.push(`${a} reaches out`);
      for (const [b, other] of texts.slice(i + 1)) {
        if (!apart(box, other)) found.push(`${a} over ${b}`);
      }
    });
  }
  return found;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    asked = os.environ.get("STOCKFORMER_BROWSER")
    path = asked or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("no Chromium on the path (apt-get install chromium, or STOCKFORMER_BROWSER)")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep with its leaderboard, a report of its first run and one of a run that failed."""
    tree = sweep(tmp_path_factory.mktemp("multirun") / "a sweep & more")
    failed_run(tree / "6", ValueError(HOSTILE))
    for job in ("0", "6"):
        report.write_report(read_run(tree / job), None)
    leaderboard.write_leaderboard(read_trials(tree), None)
    return tree


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The leaderboard of ten runs whose settings have long names and many values."""
    tree = tmp_path_factory.mktemp("many")
    for job in range(10):
        overrides = [
            f"trainer.early_stopping.patience={job}",
            f"dataset.source.quality.longest_break={10**job}",
            f"optimizer.weight_decay={('1e-5', '1e-4')[job % 2]}",
            f"model={('a_rather_long_name_of_a_model', 'short')[job % 2]}",
            f"dataset.lookback={job % 3}",
        ]
        finished_run(tree / str(job), overrides=overrides, rank_ic=job / 100, seed=job)
    leaderboard.write_leaderboard(read_trials(tree), None)
    return tree


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The leaderboard of five runs that differ in one setting."""
    tree = tmp_path_factory.mktemp("several")
    rates = {"0": "0.001", "1": "0.1000", "2": "12", "3": "word 3", "12": "word 7"}
    for number, (job, rate) in enumerate(rates.items()):
        words = [f"optimizer.lr={rate}"]
        finished_run(tree / job, overrides=words, rank_ic=(number + 5) / 1000, seed=number)
    leaderboard.write_leaderboard(read_trials(tree), None)
    return tree


class Visit:
    """An open page, and everything that it complained of or asked for."""

    def __init__(
        self,
        browser: Browser,
        file: Path,
        width: int = 1400,
        scheme: str = "light",
        fragment: str = "",
    ):
        self.complaints: list[str] = []
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if scheme == "dark" else "light",
            is_mobile=width < 500,
            has_touch=width < 500,
        )
        self.page: Page = context.new_page()
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.requests: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(f"{file.as_uri()}#{fragment}" if fragment else file.as_uri())
        self.page.wait_for_load_state()

    def open_all(self) -> None:
        self.page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")

    def draw_all(self) -> None:
        """Bring every figure into view, as a reader who opens and scrolls through everything."""
        self.open_all()
        for figure in self.page.locator(".plot").all():
            figure.scroll_into_view_if_needed()
            figure.locator(".main-svg").first.wait_for()

    def column(self, name: str) -> list[str]:
        """The shown cells of the board's column."""
        return self.page.evaluate(
            """(name) => {
              const board = document.getElementById('board');
              const cells = [...[...board.tHead.rows].at(-1).cells];
              const column = cells.findIndex((cell) => cell.textContent === name);
              return [...board.tBodies[0].rows].filter((row) => !row.hidden)
                .map((row) => row.cells[column].textContent);
            }""",
            name,
        )


@pytest.mark.parametrize(("width", "scheme", "name"), OPENED)
def test_a_page_opens_whole_and_sends_nothing(
    browser: Browser, folder: Path, many: Path, name: str, width: int, scheme: str
) -> None:
    page = many / "leaderboard.html" if name == "many" else folder / name.removeprefix("folder/")
    visit = Visit(browser, page, width, scheme)
    assert visit.complaints == []
    outside = [u for u in visit.requests if not u.startswith(("file:", "data:", "blob:"))]
    assert outside == []
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    assert visit.page.evaluate("typeof hacked") == "undefined"
    visit.draw_all()
    figures = visit.page.locator(".plot, figure:not([hidden]) .own-plot")
    assert figures.count() == visit.page.locator(".main-svg:first-child").count()
    assert "\n".join(visit.page.evaluate(OVERLAPS)) == ""
    light = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (light == "rgb(251, 251, 250)") == (scheme == "light")


def test_figures_are_drawn_when_they_come_into_view(browser: Browser, folder: Path) -> None:
    visit = Visit(browser, folder / "0/report.html")
    drawn = visit.page.locator(".plot:has(.main-svg)")
    drawn.first.wait_for()
    few = drawn.count()
    assert 0 < few < visit.page.locator(".plot").count() / 2
    visit.open_all()
    before = visit.page.evaluate("document.documentElement.scrollHeight")
    visit.draw_all()
    assert drawn.count() == visit.page.locator(".plot").count()
    after = visit.page.evaluate("document.documentElement.scrollHeight")
    assert after == pytest.approx(before, abs=20)  # the page does not jump under a reader
    assert visit.complaints == []


def test_paper_gets_the_figures_that_were_not_in_view(browser: Browser, folder: Path) -> None:
    visit = Visit(browser, folder / "0/report.html")
    visit.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    drawn = visit.page.locator(".plot:has(.main-svg)").count()
    assert drawn == visit.page.locator(".plot").count()
    assert visit.page.locator("details:not([open])").count() == 0
    visit.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert visit.page.locator("details[open]").count() == 0


def test_tables_and_figures_can_be_downloaded(browser: Browser, folder: Path) -> None:
    visit = Visit(browser, folder / "0/report.html")
    visit.page.get_by_text("All values, tests and p-values").click()
    with visit.page.expect_download() as table:
        visit.page.get_by_role(
            "button", name="Download the table MAE (basis points) as CSV"
        ).click()
    lines = Path(table.value.path()).read_text().splitlines()
    assert table.value.suggested_filename.endswith("MAE-basis-points-.csv")
    assert [line.partition(",")[0] for line in lines[1:4]] == [
        "model",
        "zero return",
        "1-day reversal",
    ]
    assert len({line.count(",") for line in lines}) == 1
    with visit.page.expect_download() as figure:
        visit.page.get_by_role("button", name="Download the figure Equity as PNG").click()
    assert Path(figure.value.path()).read_bytes().startswith(b"\x89PNG")
    assert visit.complaints == []


def test_every_tab_stop_has_a_name(browser: Browser, folder: Path) -> None:
    for name in ("0/report.html", "leaderboard.html"):
        page = Visit(browser, folder / name).page
        unnamed = page.evaluate(
            """() => {
              const stops = 'a[href], button, input, select, summary, [tabindex]';
              const named = (e) => e.ariaLabel || e.textContent.trim() || e.labels?.length;
              return [...document.querySelectorAll(stops)]
                .filter((e) => e.tabIndex >= 0 && !named(e)).map((e) => e.outerHTML.slice(0, 80));
            }"""
        )
        scrolls = page.locator("[tabindex='0']")
        assert unnamed == []
        assert all(scrolls.nth(i).get_attribute("aria-label") for i in range(scrolls.count()))


def test_a_bar_tells_its_date_and_value_under_the_pointer(browser: Browser, folder: Path) -> None:
    page = Visit(browser, folder / "0/report.html").page
    figure = page.locator("figure", has=page.get_by_role("heading", name="Rank IC by day"))
    figure.scroll_into_view_if_needed()
    figure.locator(".main-svg").first.wait_for()
    bars = figure.locator(".bars .point path")
    heights = [bars.nth(i).bounding_box() for i in range(bars.count())]
    box = max((b for b in heights if b), key=lambda b: b["height"])
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    text = figure.locator(".hoverlayer text").first
    text.wait_for()
    assert "2024-03-" in (text.text_content() or "")


def test_headings_sort_up_and_down_with_what_is_missing_last(
    browser: Browser, folder: Path
) -> None:
    visit = Visit(browser, folder / "leaderboard.html")
    heading = visit.page.locator("#board thead tr").last.locator("th").nth(2)
    assert visit.column("run") == ["1", "0", "2"]
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    assert visit.column("rank IC") == ["+0.0200", "+0.0500", "-"]
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    assert visit.column("rank IC") == ["+0.0500", "+0.0200", "-"]
    visit.page.get_by_role("button", name="run", exact=True).click()
    assert visit.column("run") == ["0", "1", "2"]
    assert heading.get_attribute("aria-sort") is None


def test_words_and_lists_filter_rows_and_lines(browser: Browser, folder: Path) -> None:
    visit = Visit(browser, folder / "leaderboard.html")
    search, count = visit.page.get_by_role("searchbox"), visit.page.locator(".filters output")
    search.fill("1e-4")
    assert visit.column("run") == ["1"]
    assert count.text_content() == "1 of 3"
    shown = "document.querySelector('[data-follows] .plot').data.filter((t) => t.visible !== false)"
    visit.page.wait_for_timeout(500)  # the figure follows when the table has been painted
    assert visit.page.evaluate(f"{shown}.map((t) => t.meta).filter(Boolean)") == ["1"]
    search.fill("")
    visit.page.locator(".filters select").select_option("<b>")
    assert visit.column("run") == ["2"]
    visit.page.locator(".filters select").select_option("")
    assert visit.column("run") == ["1", "0", "2"]
    assert visit.complaints == []


def test_numbers_are_searched_as_numbers(browser: Browser, several: Path) -> None:
    visit = Visit(browser, several / "leaderboard.html")
    search = visit.page.get_by_role("searchbox")
    for asked, found in (
        ("1e-3", {"0"}),  # shown as 0.001
        ("0.0010", {"0"}),
        ("12", {"2", "12"}),  # a learning rate and a run, not 0.0012
        ("0.1", {"1"}),
        ("99", set()),
        ("word", {"3", "12"}),
        ("word 7", {"12"}),
    ):
        search.fill(asked)
        assert set(visit.column("run")) == found, asked


def test_the_address_keeps_what_was_chosen(browser: Browser, several: Path) -> None:
    visit = Visit(browser, several / "leaderboard.html")
    visit.page.get_by_role("searchbox").fill("word")
    visit.page.locator(".filters select").select_option("word 3")
    visit.page.locator(".pairs select").nth(2).select_option("1")
    again = Visit(browser, several / "leaderboard.html", fragment=visit.page.url.partition("#")[2])
    assert again.column("run") == visit.column("run") == ["3"]
    assert again.page.get_by_role("searchbox").input_value() == "word"
    assert again.page.locator(".filters select").input_value() == "word 3"
    assert again.page.locator(".pairs select").nth(2).input_value() == "1"
    again.page.get_by_role("searchbox").fill("")
    again.page.locator(".filters select").select_option("")
    again.page.get_by_role("button", name="run", exact=True).click()
    ordered = Visit(
        browser, several / "leaderboard.html", fragment=again.page.url.partition("#")[2]
    )
    assert ordered.column("run") == ["0", "1", "2", "3", "12"]
    ordered.page.get_by_role("link", name="Ranking").click()  # to a section, without the state
    assert ordered.column("run") == ["0", "1", "2", "3", "12"]
    assert ordered.complaints == []


def test_a_long_table_is_laid_out_when_asked_for(browser: Browser, tmp_path: Path) -> None:
    for job in range(3):
        words = [f"optimizer.lr={job + 1}"]
        finished_run(tmp_path / str(job), overrides=words, rank_ic=-job / 100, seed=job)
    file = leaderboard.write_leaderboard(read_trials(tmp_path), None)
    file.write_text(file.read_text().replace("const FIRST = 100;", "const FIRST = 2;"))
    visit = Visit(browser, file)
    rows = visit.page.locator("#board tbody tr:visible th")
    assert rows.all_text_contents() == ["0", "1"]
    visit.page.locator("#board thead button").first.dblclick()
    assert rows.all_text_contents() == ["2", "1"]
    visit.page.get_by_role("searchbox").fill("0")
    assert rows.all_text_contents() == ["0"]
    visit.page.get_by_role("searchbox").fill("")
    visit.page.get_by_role("button", name="show all 3").click()
    assert rows.all_text_contents() == ["2", "1", "0"]
    assert not visit.page.get_by_role("button", name="show all").is_visible()


def test_a_configuration_unfolds_to_its_seeds(browser: Browser, tmp_path: Path) -> None:
    for job in range(4):
        words = [f"seed={job % 2}", f"optimizer.lr=1e-{3 + job // 2}"]
        finished_run(tmp_path / str(job), overrides=words, rank_ic=job / 100, seed=job)
    leaderboard.write_leaderboard(read_trials(tmp_path), None)
    visit = Visit(browser, tmp_path / "leaderboard.html")
    assert visit.column("run") == ["2, 3", "0, 1"]
    visit.page.get_by_role("button", name="its runs").first.press("Enter")
    assert visit.column("run") == ["2, 3", "2", "3", "0, 1"]
    visit.page.get_by_role("button", name="run", exact=True).click()
    assert visit.column("run") == ["0, 1", "2, 3", "2", "3"]
    visit.page.get_by_role("searchbox").fill("3")  # a run under it
    assert visit.column("run") == ["2, 3", "2", "3"]
    visit.page.get_by_role("button", name="its runs", expanded=True).press("Enter")
    assert visit.column("run") == ["2, 3"]
    assert visit.complaints == []


def test_five_runs_are_drawn_over_one_another(browser: Browser, several: Path) -> None:
    visit = Visit(browser, several / "leaderboard.html")
    chooser = visit.page.locator(".pairs")
    for number, run in enumerate(("12", "3", "2", "0", "1")):
        chooser.locator("select").nth(number).select_option(run)
    chooser.scroll_into_view_if_needed()
    chooser.locator(".own-plot .main-svg").first.wait_for()
    drawn = "(i) => document.querySelectorAll('.own-plot')[i].data.map((t) => t.name)"
    names = [list(filter(None, visit.page.evaluate(drawn, figure))) for figure in range(3)]
    assert names[0] == ["12", "3", "2", "0", "1"]
    assert names[1] == [*names[0], "universe"]
    assert names[2] == [f"12 minus {run}" for run in ("3", "2", "0", "1")]
    assert chooser.locator(".verdict span").count() == 4
    settings = chooser.locator("tbody tr.marked th").all_text_contents()
    assert "optimizer.lr" in settings
    chooser.locator("select").nth(4).select_option("")
    assert chooser.locator(".verdict span").count() == 3
    assert visit.complaints == []


def test_any_two_runs_are_compared_as_the_statistics_do(browser: Browser, folder: Path) -> None:
    (group,) = read_trials(folder).groups
    visit = Visit(browser, folder / "leaderboard.html")
    chooser = visit.page.locator(".pairs")
    verdict = chooser.locator(".verdict")
    for a, b in (("1", "2"), ("2", "0")):
        chooser.locator("select").nth(0).select_option(a)
        chooser.locator("select").nth(1).select_option(b)
        test = paired_comparison(group.rank_ic[a], group.rank_ic[b], group.horizon)
        half = test.mean / test.t * stats.t.ppf(0.975, test.n - 1)
        shown = verdict.text_content() or ""
        assert f"{a} minus {b}: {test.mean:+.4f} (95 % interval " in shown
        assert f"t {test.t:+.2f}, p {test.p:.3f}, 25 dates)" in shown
        ends = [float(end) for end in re.findall(r"interval (\S+) to (\S+),", shown)[0]]
        assert ends == pytest.approx([test.mean - abs(half), test.mean + abs(half)], abs=2e-4)
    chooser.scroll_into_view_if_needed()
    chooser.locator(".own-plot .main-svg").last.wait_for()
    last = "[...document.querySelectorAll('.own-plot')].at(-1).data.at(-1).y.at(-1)"
    expected = [group.rank_ic[name].sum() for name in ("2", "0")]
    assert visit.page.evaluate(last) == pytest.approx(expected[0] - expected[1], abs=1e-3)
    chooser.locator("select").nth(1).select_option("2")
    assert verdict.text_content() == "Choose different runs."


def test_a_runs_name_leads_to_its_report(browser: Browser, folder: Path) -> None:
    visit = Visit(browser, folder / "leaderboard.html")
    visit.page.get_by_role("link", name="0", exact=True).click()
    visit.page.wait_for_url("**/0/report.html")
    assert visit.page.get_by_role("heading", name="Lead over each baseline").is_visible()


def test_paper_gets_every_figure_and_no_controls(browser: Browser, folder: Path) -> None:
    visit = Visit(browser, folder / "leaderboard.html", scheme="dark")
    assert visit.page.pdf(format="A4").startswith(b"%PDF")
    visit.page.emulate_media(media="print")
    assert not visit.page.locator(".filters").is_visible()
    paper = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == "rgb(255, 255, 255)"
    assert visit.complaints == []
