"""docs/kernels.md says truly which layer is checked by which test."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import monte_carlo
import test_augmentation_is_group_convolution as augmented
import test_group_layers
import test_monte_carlo
import test_monte_carlo_dense
import test_networks

from emergent_equivariance.groups import Action

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


def groups_of(*tests: Callable[..., None], which: Callable[[tuple[Any, ...]], bool] = lambda case: True) -> set[str]:
    """Groups of those cases of parametrized tests for which ``which`` holds."""
    found = set()
    for test in tests:
        (mark,) = [mark for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
        cases = [case if isinstance(case, tuple) else (case,) for case in mark.args[1]]
        found |= {group for case in cases if which(case) for group in map(group_named, case) if group}
    return found


def group_named(parameter: Any) -> str | None:
    """The group that a parameter of a test is, acts by, or names a case of."""
    if isinstance(parameter, Action):
        return parameter.group.name
    if not isinstance(parameter, str):
        return None
    return parameter if parameter in GROUPS else augmented.CASES.get(parameter, (None,))[0]


def test_letters_of_whole_networks_are_the_cases_that_run() -> None:
    alone = augmented.test_mlp_and_convolution_over_the_group
    exact, tail = (groups_of(alone, which=lambda case, t=t: (case[-1] > 0) is t) for t in (False, True))
    means = groups_of(augmented.test_means_agree, augmented.test_means_agree_in_production)
    expected = {
        ("whole gcnn", "I"): groups_of(test_networks.test_members_of_a_gcnn_are_invariant),
        ("whole gcnn", "M"): groups_of(test_monte_carlo.test_gcnn),
        ("whole gcnn", "A"): groups_of(augmented.test_kernel_is_the_average_of_ordinary_ones),
        ("whole gcnn", "P"): groups_of(augmented.test_production_kernels_are_those_of_the_full_recursion),
        ("group alone", "M"): groups_of(test_monte_carlo_dense.test_group_alone),
        ("group alone", "A"): exact,
        ("augmented cnn or mlp = group convolution", "U"): means | exact,
        ("augmented cnn or mlp = group convolution", "X"): tail
        | groups_of(augmented.test_control_nonlinearity_after_the_pool),
    }
    page = rows()
    for layer in {layer for layer, _ in expected}:
        letters = {letter for cell in page[layer].values() for letter in cell}
        assert letters == {letter for row, letter in expected if row == layer}
    for (layer, letter), groups in expected.items():
        assert {group for group, cell in page[layer].items() if letter in cell} == groups, f"{layer}, {letter}"
