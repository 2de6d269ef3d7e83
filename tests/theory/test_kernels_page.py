"""docs/kernels.md says truly which layer is checked by which test."""

from __future__ import annotations

import re
from pathlib import Path

import monte_carlo
import test_group_layers

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "kernels.md").read_text()
GROUPS = ("c2", "c4", "d2", "d4")


def rows() -> dict[str, dict[str, list[str]]]:
    """Layer → group → letters."""
    section = PAGE.partition("| layer | c2 | c4 | d2 | d4 |\n")[2].partition("\n\n")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines()[1:]]
    return {layer: dict(zip(GROUPS, (one.split() for one in letters), strict=True)) for layer, *letters in cells}


def test_every_test_named_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    sources = "\n".join(path.read_text() for path in ROOT.glob("tests/**/test_*.py"))
    assert len(named) > 15
    assert not {name for name in named if f"def {name}(" not in sources}


def test_every_letter_is_explained() -> None:
    explained = PAGE.partition("| letter |")[2].partition("\n\n")[0]
    letters = {letter for groups in rows().values() for cell in groups.values() for letter in cell}
    assert letters == set(re.findall(r"[A-Za-z]", " ".join(line.split("|")[1] for line in explained.splitlines()[2:])))


def test_monte_carlo_letters_are_the_cases_that_run() -> None:
    for layer in monte_carlo.HIDDEN:
        quick, slow = (
            {monte_carlo.GEOMETRIES[case[1]][0] for case in cases if case[0] == layer}
            for cases in (monte_carlo.CASES, monte_carlo.REST)
        )
        for group, letters in rows()[layer].items():
            assert ("M" in letters) == (group in quick), f"{layer}, {group}"
            assert ("m" in letters) == (group in slow - quick), f"{layer}, {group}"


def test_definition_letters_are_the_cases_that_run() -> None:
    covered = {geometry[0] for geometry in test_group_layers.GEOMETRIES.values()}
    for layer in ("lifting", "group convolution"):
        assert {group for group, letters in rows()[layer].items() if "D" in letters} == covered
