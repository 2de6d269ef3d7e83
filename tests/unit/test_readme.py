"""What the documentation names exists, and what it shows runs."""

import fnmatch
import re
import shlex
from pathlib import Path

import pytest
import typer
import xarray as xr
import yaml
from synthetic_results import make_metrics
from tests.pages import Reader, copy_project

from emergent_equivariance import store
from emergent_equivariance.cli import app
from emergent_equivariance.study import load_study, parse_study

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "config").glob("*.md")),
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in page.parts),
]
SUBCOMMANDS = set(typer.main.get_command(app).commands)
TEXT = {page: page.read_text(encoding="utf-8") for page in PAGES}

#: Names that stand for the reader's own file or study.
PLACEHOLDERS = {
    "config/first.yaml",
    "config/learning_curves.yaml",
    "config/mine.yaml",
    "config/my_study.yaml",
    "config/STUDY.yaml",
    "docs/_build/html/index.html",
    "profiles/slurm/cluster.yaml",
}


def fenced(language):
    """Contents of the README's fenced blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


def code(text):
    """All code in a page: fenced blocks line by line, and inline spans."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines()] + re.findall(r"`([^`\n]+)`", rest)


def anchors(text):
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    words = re.sub(r"^```.*?^```", "", TEXT[page], flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", words):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_files_named_exist(page):
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)[1].split()
    for span in code(TEXT[page]):
        for target in re.findall(r"\bmake (?:-C \S+ |PYTHON=\S+ )?([a-z][\w-]*)", span):
            assert target in targets, span
        for name in re.findall(r"\bemeq ([a-z][a-z-]*)", span):
            assert name in SUBCOMMANDS, span
        for path in re.findall(r"(?:config|docs|examples|profiles|src|tests|workflow)/[\w./-]*[\w/]", span):
            assert path in PLACEHOLDERS or (ROOT / path).exists(), span


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_snakemake_targets_come_before_configfile_and_belong_to_the_study(page):
    for span in code(TEXT[page]):
        if "snakemake" not in span or "--configfile" not in span:
            continue
        words = shlex.split(span.split("#")[0])
        at = words.index("--configfile")
        assert at + 2 >= len(words) or words[at + 2].startswith("--"), span
        targets = [word for word in words[:at] if word.startswith("results/")]
        if targets:
            study = load_study(ROOT / words[at + 1])
            assert set(targets) <= {str(study.ensemble_path(arm)) for arm in study.arms}, span


def test_the_study_shown_is_the_shipped_one_under_another_name():
    (text,) = fenced("yaml")
    shown = parse_study(yaml.safe_load(text), Path("README.md"))
    shipped = load_study(ROOT / "config" / "ising.yaml")
    assert shown.name == "my_study"
    assert [arm.settings for arm in shown.arms] == [arm.settings for arm in shipped.arms]


def test_the_commands_of_an_own_study_work(tmp_path):
    copy_project(tmp_path / "clone")
    activate, *commands, run = next(block for block in fenced("sh") if "emeq new" in block).splitlines()
    assert activate == "source .venv/bin/activate" and run.startswith("snakemake --configfile ")  # run by test_tutorial
    reader = Reader(tmp_path / "clone")
    reader.run("\n".join(commands))
    assert "study 'my_study'" in reader.printed and "under results/my_study" in reader.printed


def test_the_demo_names_its_reports():
    recipe = re.search(r"^demo:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)[1]
    studies = re.search(r"^DEMO := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)[1].split()
    (shown,) = fenced("text")
    assert 'echo "report: results/$$study/report.html"' in recipe
    assert shown.splitlines() == [f"report: results/{study}/report.html" for study in studies]


def test_the_python_shown_runs(tmp_path, monkeypatch, capsys):
    study = load_study(ROOT / "config" / "ising.yaml", tmp_path / "results")
    store.write_netcdf(make_metrics(study), study.metrics_path, {})
    for arm in study.arms:
        store.write(xr.Dataset({"mean": 0.0}), study.ensemble_path(arm), store.provenance(study, arm))
    monkeypatch.chdir(tmp_path)
    (text,) = fenced("python")
    exec(compile(text, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "member_count" in printed and "predicted_orbit_variance" in printed and "256" in printed


def test_every_shipped_study_is_described():
    described, measured = (ROOT / "config" / "README.md").read_text(encoding="utf-8").split("## What each takes")
    for file in (ROOT / "config").glob("*.yaml"):
        assert f"**[{file.name}]({file.name})**" in described, file.name
        assert f"[{file.stem}]({file.name})" in measured, file.name


def test_the_workflow_page_explains_every_rule_and_wildcard():
    page = TEXT[ROOT / "docs" / "workflow.md"]
    rules = re.findall(r"^rule (\w+):", "".join(p.read_text() for p in ROOT.glob("workflow/rules/*.smk")), re.MULTILINE)
    constraints = re.search(r"wildcard_constraints:\n((?:    .*\n)+)", (ROOT / "workflow" / "study.smk").read_text())[1]
    for name in [*rules, *re.findall(r"^ +(\w+)=", constraints, re.MULTILINE)]:
        assert f"`{name}`" in page, name


def failures():
    """Fault → the tests that its line of the failure matrix names, as (file, name; "" for all, "test_a…" for any)."""
    section = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8").split("\n## ")[1]
    assert section.startswith("Failure matrix\n")
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    (_, *header), *rows = rows
    assert header == ["what happens", "data lost", "tested by"]
    named = {}
    for fault, _, _, tests in rows:
        file, named[fault] = "", []
        for span in re.findall(r"`([^`]+)`", tests):
            place, _, name = span.partition("::")
            file = place or file
            named[fault].append((file if "/" in file else f"tests/reliability/{file}", name))
    return named


def test_the_tests_that_the_failure_matrix_names_exist():
    named = failures()
    assert len(named) >= 25
    for fault, tests in named.items():
        assert tests, fault
        for file, name in tests:
            assert (ROOT / file).is_file(), f"{fault}: {file}"
            there = re.findall(r"^(?:async )?def (test_\w*)", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
            assert fnmatch.filter(there, name.replace("…", "*") or "*"), f"{fault}: {file}::{name}"
