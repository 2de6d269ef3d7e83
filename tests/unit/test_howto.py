"""The how-to pages: their code is run in a copy of the project, what it prints is compared."""

import re

import pytest
from tests.pages import ROOT, Reader, blocks, copy_project
from tests.workflow.test_tutorial import ABOUT_ITS_STUDY

FOLDER = ROOT / "docs" / "howto"
PAGES = sorted(path for path in FOLDER.glob("*.md") if path.stem != "index")
OWN = [ROOT / "docs" / "custom_task.md", ROOT / "docs" / "custom_network.md"]


#: Pages that take longer.
SLOW = ("jax_network", "custom_network", "slurm")


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.stem, marks=[pytest.mark.slow] if page.stem in SLOW else [])
        for page in [*PAGES, *OWN]
        if page.stem not in ABOUT_ITS_STUDY
    ],
)
def test_the_page_can_be_followed(page, tmp_path):
    copy_project(tmp_path / "clone")
    Reader(tmp_path / "clone").read(page)


def test_the_index_names_every_page():
    links = re.findall(r"\]\(([\w./]+\.md)\)", (FOLDER / "index.md").read_text(encoding="utf-8"))
    assert {(FOLDER / link).resolve() for link in links} == {*PAGES, *OWN}


def test_every_page_runs_something():
    for page in [*PAGES, *OWN]:
        assert any(block.language in ("bash", "python") for block in blocks(page)), page.name
