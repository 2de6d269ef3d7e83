"""The tutorial does what it says: its commands are run in a copy of the project, what they print is compared.

The how-to pages that use its study are read before it is deleted.
"""

import re

import pytest

from tests.pages import ROOT, Reader, blocks, copy_project

PAGE = ROOT / "docs" / "tutorial.md"

#: Pages of docs/howto/ about the study of the tutorial.
ABOUT_ITS_STUDY = ("read_results", "wandb")


@pytest.mark.slow
def test_the_tutorial_can_be_followed(tmp_path):
    copy_project(tmp_path / "clone")
    reader = Reader(tmp_path / "clone")
    *steps, clean_up = blocks(PAGE)
    for block in steps:
        reader.follow(block)
    for page in ABOUT_ITS_STUDY:
        reader.read(PAGE.with_name("howto") / f"{page}.md")
    reader.follow(clean_up)
    assert "rm -r results/first" in clean_up.code and not any((tmp_path / "clone" / "results").iterdir())


def test_only_the_installation_is_not_run():
    skipped = re.findall(r"<!-- test: skip.*-->\n```bash\n(\w+ \w+)", PAGE.read_text(encoding="utf-8"))
    assert skipped == ["git clone"]
    assert sum(block.language in ("bash", "python") for block in blocks(PAGE)) >= 10
