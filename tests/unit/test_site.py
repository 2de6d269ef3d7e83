"""The documentation site: complete, generated pages up to date, readable from a file without a network."""

import ast
import fnmatch
import html.parser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from emergent_equivariance.cli import app
from emergent_equivariance.reference import commands_markdown

ROOT = Path(__file__).parents[2]
SOURCES = [*ROOT.glob("*.md"), *(ROOT / "config").glob("*.md"), *(ROOT / "docs").rglob("*.md")]
SOURCES += (ROOT / "docs").rglob("*.ipynb")
PAGES = sorted(page for page in SOURCES if not {"_build", ".ipynb_checkpoints"} & set(page.parts))


def toctree(page):
    """Paths, without suffix, that the tables of contents of a page name."""
    for block in re.findall(r"^```\{toctree\}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        for line in block.splitlines():
            if line and not line.startswith(":"):
                entry = re.sub(r".*<(.*)>", r"\1", line)
                yield Path(os.path.normpath(page.parent / entry))


def test_every_page_is_in_a_table_of_contents_and_every_entry_is_a_page():
    pages = {str(page.with_suffix("")) for page in PAGES}
    entries = [str(entry) for page in PAGES if page.suffix == ".md" for entry in toctree(page)]
    assert len(entries) == len(set(entries)) > 30
    for entry in entries:
        assert fnmatch.filter(pages, entry), entry
    listed = {page for entry in entries for page in fnmatch.filter(pages, entry)}
    assert pages - listed == {str(ROOT / "docs" / "index")}, "name new pages in docs/index.md"


def test_the_page_of_the_command_line_is_that_of_the_program():
    page = (ROOT / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")
    assert page == commands_markdown(app), "run `make docs` to write it again"


def test_the_functions_that_the_theory_page_names_exist():
    text = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
    package = ROOT / "src" / "emergent_equivariance"
    named = re.findall(r"`([a-z_]+(?:\.[a-z_]+)*)\.(\w+(?:\.\w+)?)`", text)
    keys = (ROOT / "config" / "reference.md").read_text(encoding="utf-8")
    found = 0
    for module, name in named:
        path = package / module.replace(".", "/")
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if not path.is_file() or f"`{module}.{name}`" in keys:
            continue
        found += 1
        *outer, last = name.split(".")
        source = path.read_text(encoding="utf-8")
        assert re.search(rf"^ *(def|class) {last}\b", source, re.MULTILINE), f"{module}.{name}"
        assert not outer or re.search(rf"^class {outer[0]}\b", source, re.MULTILINE), f"{module}.{name}"
    assert found > 25


def literals(path):
    """Texts in a module, values that are filled in as …; texts that are joined, in one piece."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_the_messages_that_the_faq_explains_are_those_of_the_program():
    text = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")
    of_snakemake = {"Directory cannot be locked."}
    quoted = set(re.findall(r"^> (.*)$", text, re.MULTILINE)) - of_snakemake
    assert len(quoted) > 12
    known = "\n".join(text for path in (ROOT / "src").rglob("*.py") for text in literals(path))
    for message in quoted:
        for piece in message.split("…"):
            words = piece.strip(" .,:;()")
            assert words in known, f"{message}: {words!r}"


class Page(html.parser.HTMLParser):
    """Of a built page the anchors, what it links to, and what it loads."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links, self.loads = set(), [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.anchors |= {values[key] for key in ("id", "name") if values.get(key)}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "link" and values.get("rel") not in ("canonical",):
            self.loads.append(values["href"])
        elif values.get("src"):
            self.loads.append(values["src"])


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The site, built as `make docs` does, warnings as errors."""
    target = tmp_path_factory.mktemp("site") / "html"
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-c", "docs", "-W", "--keep-going", "-q"]
    done = subprocess.run(
        [*command, "-d", target.parent / "doctrees", ".", target], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return target


@pytest.mark.slow
def test_the_site_builds_without_warning_and_its_links_and_anchors_resolve(site):
    pages = {path: Page(path) for path in site.rglob("*.html")}
    assert len(pages) > len(PAGES)
    for path, page in pages.items():
        for link in page.links + page.loads:
            parts = urlsplit(link)
            if parts.scheme in ("https", "mailto", "data"):
                assert link not in page.loads or parts.scheme == "data", f"{path}: {link} is loaded from outside"
                continue
            assert not parts.scheme, f"{path}: {link}"
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.exists(), f"{path}: {link}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].anchors, f"{path}: {link}"


@pytest.mark.slow
def test_pages_work_from_files_in_a_browser(site):
    """No request but to files, no error in the console, formulas drawn, search finds, no page wider than a phone."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 390, "height": 844})
        requests, errors = [], []
        tab.on("request", lambda request: requests.append(request.url))
        tab.on("requestfailed", lambda request: errors.append(f"{request.url}: {request.failure}"))
        tab.on("console", lambda message: message.type in ("error", "warning") and errors.append(message.text))
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.goto((site / "index.html").as_uri())
        tab.wait_for_url((site / "docs" / "index.html").as_uri())
        for path in sorted(set(site.rglob("*.html")) - {site / "index.html"}):
            tab.goto(path.as_uri(), wait_until="networkidle")
            assert tab.evaluate("document.documentElement.scrollWidth") <= 390, path
        tab.goto((site / "docs" / "theory.html").as_uri())
        tab.wait_for_selector("mjx-container svg")
        formulas = tab.locator(".math")
        assert formulas.count() > 20
        assert tab.locator(".math mjx-container").count() == formulas.count()
        assert tab.locator("mjx-merror").count() == 0
        tab.goto((site / "search.html").as_uri() + "?q=augmentation")
        tab.wait_for_selector("#search-results li a")
        assert tab.locator("#search-results li").count() > 3
        browser.close()
    assert errors == [], errors[:5]
    assert {urlsplit(url).scheme for url in requests} <= {"file", "data", "blob"}
