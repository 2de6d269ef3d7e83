"""The report page in a real browser: nothing fails, nothing is asked of the network, and all can use it."""

from __future__ import annotations

import dataclasses
import shutil
from urllib.parse import urlparse

import pytest
from report_pages import blank_figures
from synthetic_results import classification_study, cosine_study, make_study, make_whole

from emergent_equivariance.figures import draw_all, figure_data
from emergent_equivariance.figures.interactive import chart
from emergent_equivariance.report import figure_files, report_html

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(NAMES)} is installed")

PHONE, DESK = 390, 1280


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield started
        started.close()


class Opened:
    """A page that is open, and what went wrong or was asked for while it was."""

    def __init__(self, browser, path, width=DESK, **options):
        self.context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        self.page = self.context.new_page()
        self.wrong: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.wrong.append(message.text) if message.type != "info" else None)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())
        if options.get("java_script_enabled", True):
            self.page.wait_for_selector("html[data-ready]", state="attached", timeout=60_000)

    def __enter__(self):
        return self.page

    def __exit__(self, *_):
        self.context.close()
        assert self.wrong == []
        assert {urlparse(url).scheme for url in self.asked} <= {"file", "data", "blob"}
        assert len([url for url in self.asked if url.startswith("file:")]) == 1, "the page itself"


def overflow(page):
    """By how many pixels the page is wider than the window."""
    return page.evaluate("document.documentElement.scrollWidth - innerWidth")


def broken_images(page):
    return page.eval_on_selector_all("img", "all => all.filter(i => !i.complete || !i.naturalWidth).map(i => i.alt)")


def dead_links(page):
    script = "all => all.map(a => a.getAttribute('href')).filter(h => !document.getElementById(h.slice(1)))"
    return page.eval_on_selector_all("a[href^='#']", script)


def column(page, index):
    cells = f"table.sortable >> nth=0 >> tbody tr td:nth-child({index + 1})"
    return [float(cell.get_attribute("data-value")) for cell in page.query_selector_all(cells)]


def check_sorting(page):
    """By a click and by the keyboard, in both directions, by value."""
    index = 5  # ensemble mean
    button = page.locator("table.sortable").first.locator("th button").nth(index)
    values = column(page, index)
    assert values != sorted(values) and len(values) > 3
    button.click()
    assert column(page, index) == sorted(values)
    assert button.locator("..").get_attribute("aria-sort") == "ascending"
    button.focus()
    page.keyboard.press("Enter")
    assert column(page, index) == sorted(values, reverse=True)
    assert page.locator("th[aria-sort]").count() == 1
    assert button.locator("..").get_attribute("aria-sort") == "descending"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A page with one chart; pictures show nothing."""
    study = make_study()
    metrics = make_whole(study)
    first, *others = blank_figures(study)
    table = figure_data(first.name, metrics)
    path = tmp_path_factory.mktemp("report") / "report.html"
    charted = dataclasses.replace(first, chart=chart(table))
    path.write_text(report_html(study, metrics, [charted, *others]), encoding="utf-8")
    return path


def test_the_page_works_in_a_browser(browser, small):
    with Opened(browser, small) as page:
        assert broken_images(page) == [] and dead_links(page) == [] and overflow(page) <= 0
        assert page.get_by_role("img", name="orbit_scaling in words").is_visible(), (
            "the chart has the words of the picture"
        )
        assert page.locator("svg.marks").count() == 1 and page.locator("img.static:visible").count() == 4
        check_sorting(page)
        page.locator("button.swap:visible").click()
        assert page.locator("img.static:visible").count() == 5 and not page.locator("svg.marks").is_visible()
        page.set_viewport_size({"width": PHONE, "height": 800})
        page.locator("button.swap:visible").click()
        assert overflow(page) <= 0


def test_a_chart_that_fails_leaves_its_picture_and_the_others(browser, small, tmp_path):
    broken = small.read_text(encoding="utf-8").replace('"name": "colours"', '"name": "colors"')
    path = tmp_path / "report.html"
    path.write_text(broken, encoding="utf-8")
    opened = Opened(browser, path, color_scheme="dark")
    assert opened.page.locator("img.static:visible").count() == 5
    assert not opened.page.locator("button.swap:visible").count()
    assert opened.wrong
    opened.context.close()


def test_accessibility_of_the_page(browser, small):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    for scheme in ("light", "dark"):
        with Opened(browser, small, color_scheme=scheme, bypass_csp=True) as page:
            found = axe.Axe().run(page).response["violations"]
            assert [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in found] == []


# ------------------------------------------------------------------------------------ whole pages, with all pictures

STUDIES = {"ising": make_study, "digits": classification_study, "cosine": cosine_study}


@pytest.fixture(scope="module", params=STUDIES)
def whole(request, tmp_path_factory):
    """The page of a study as `emeq figures` makes it."""
    folder = tmp_path_factory.mktemp(request.param)
    study = dataclasses.replace(STUDIES[request.param](sweep={"augmentation": ["none", "full"]}), results=folder)
    metrics = make_whole(study)
    draw_all(study, metrics, study.figures_folder)
    study.report_path.write_text(report_html(study, metrics, figure_files(study, metrics)), encoding="utf-8")
    return study.report_path


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_whole_pages_at_two_widths_light_and_dark(browser, whole, width, scheme):
    assert whole.stat().st_size < 5e6
    with Opened(browser, whole, width, color_scheme=scheme) as page:
        assert broken_images(page) == [] and dead_links(page) == [] and overflow(page) <= 0
        assert page.locator("svg.marks").count() >= 4
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, ground[4:-1].split(", "))) < 150) == (scheme == "dark")
        texts = page.eval_on_selector_all(
            "svg.marks .role-axis-title text", "all => all.map(t => t.getAttribute('fill'))"
        )
        ink = {"light": "#1f1f1f", "dark": "#e6e6e6"}
        assert texts and {fill.lower() for fill in texts} == {ink[scheme]}
        other = "dark" if scheme == "light" else "light"
        page.emulate_media(color_scheme=other)
        page.wait_for_selector(f"svg.marks .role-axis-title text[fill='{ink[other]}' i]")


@pytest.mark.slow
def test_whole_pages_without_scripts_and_in_print(browser, whole):
    with Opened(browser, whole, java_script_enabled=False) as page:
        pictures = page.locator("figure").count()
        assert pictures >= 4 and page.locator("img.static:visible").count() == pictures
        assert page.locator("button").count() == page.locator("button[hidden]").count()
        page.emulate_media(media="print")
        assert page.locator("img.static:visible").count() == pictures
    with Opened(browser, whole) as page:
        page.emulate_media(media="print")
        assert page.locator("img.static:visible").count() == pictures and not page.locator("nav").is_visible()


@pytest.mark.slow
def test_downloads_are_the_files_of_the_study(browser, whole):
    with Opened(browser, whole) as page:
        links = page.locator("figure a[download]")
        assert links.count() >= 8
        for link in links.all():
            with page.expect_download() as download:
                link.click()
            name = download.value.suggested_filename
            file = whole.parent / "figures" / name.removeprefix("synthetic-")
            assert download.value.path().read_bytes() == file.read_bytes()


@pytest.mark.slow
def test_a_tooltip_says_value_and_error(browser, whole):
    with Opened(browser, whole) as page:
        marks = page.locator("figure").first.locator("svg.marks .mark-symbol.role-mark path")
        marks.last.hover(force=True)
        page.wait_for_selector("#vg-tooltip-element.visible")
        assert "±" in page.locator("#vg-tooltip-element").inner_text()
