"""Tiles and budgets, counted before anything runs."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from emergent_equivariance.errors import StudyError
from emergent_equivariance.study import parse_study
from emergent_equivariance.study.budget import job_memory, needs
from emergent_equivariance.study.tiling import Tiling, planned_tiling

CONTENT = {
    "study": "s",
    "task": {"name": "ising", "lattice": 4, "train": 100, "test": 60},
    "network": {"name": "mlp"},
    "training": {"learning_rate": 0.1, "steps": 3},
    "execution": {"tiles_above": 100, "tile_size": 16, "tiles_per_job": 4},
}
REGRESSION = {
    **{key: CONTENT[key] for key in ("study", "task", "network", "execution")},
    "kind": "kernel_regression",
    "regression": {"sizes": [10, 100]},
}


def settings(content=CONTENT, **sections):
    return parse_study({**content, **sections}, Path("study.yaml")).arms[0].settings


@pytest.mark.parametrize("rows", [12, 15, 17, 40])
@pytest.mark.parametrize("train", [1, 4, 11, 12])
@pytest.mark.parametrize("side", [1, 4, 5, 12, 50])
def test_tiles_and_their_mirror_images_cover_the_matrix_once(rows, train, side):
    tiling = Tiling(rows, train, side, 4)
    seen = np.zeros((rows, train), dtype=int)
    for tile in tiling.tiles:
        assert tile.pairs == seen[tile.rows, tile.columns].size <= side**2
        seen[tile.rows, tile.columns] += 1
        if tile.block_column < tile.block_row:
            inside = slice(tile.rows.start, min(tile.rows.stop, train))
            seen[tile.columns, inside] += 1
    np.testing.assert_array_equal(seen, 1)
    assert len(tiling.tiles) == tiling.count
    assert tiling.pairs == 4 * sum(tile.pairs for tile in tiling.tiles)


def test_beside_the_diagonal_no_pair_is_evaluated_twice():
    tiling = Tiling(3000, 2000, 100, 1)
    assert tiling.pairs == 2000 * 2100 // 2 + 1000 * 2000


def test_jobs_cover_the_tiles():
    tiling = Tiling(100, 50, 9, 1)
    jobs = tiling.jobs(7)
    assert [index for first, last in jobs for index in range(first, last + 1)] == list(range(tiling.count))
    assert {last - first + 1 for first, last in jobs[:-1]} == {7}


def test_counting_60000_samples_is_quick():
    tiling = Tiling(61_500, 60_000, 256, 4)
    assert tiling.count == len(tiling.tiles) == 235 * 236 // 2 + 6 * 235


def test_rows_are_the_training_samples_and_the_others_that_are_evaluated():
    tiling = planned_tiling(settings())
    assert (tiling.rows, tiling.train, tiling.elements) == (100 + 2 * 60, 100, 4)
    assert planned_tiling(settings(evaluate={"samples": 7})).rows == 100 + 2 * 7
    assert planned_tiling(settings(group="d4")).elements == 8
    tiling = planned_tiling(settings(REGRESSION))
    assert (tiling.rows, tiling.train, tiling.elements) == (100 + 60, 100, 1), "test samples alone are predicted"


@pytest.mark.parametrize(
    ("sections", "planned"),
    [
        ({}, True),
        ({"execution": {"tiles_above": 219}}, True),
        ({"execution": {"tiles_above": 220}}, False),
        ({"theory": {"mean": False}}, False),
        ({"theory": {"mean": False}, "training": {"steps": 3}}, True),
        ({"theory": {"route": "direct"}}, False),
        ({"training": {"optimizer": "adam", "learning_rate": 0.1, "epochs": 3}}, False),
        ({"network": {"name": "cnn"}}, True),
        ({"network": {"name": "gcnn"}}, True),
        ({"task": {"name": "custom", "factory": "a:b", "train": 100, "test": 60, "ood": ["x"]}}, True),
        (
            {
                "task": {"name": "custom", "factory": "a:b", "train": 100, "test": 60, "ood": ["x"]},
                "network": {"name": "cnn"},
            },
            False,
        ),
    ],
)
def test_tiles_are_used_for_large_matrices_of_kernels_known_to_be_invariant(sections, planned):
    assert (planned_tiling(settings(**sections)) is not None) == planned


# ---------------------------------------------------------------------------------------------- budgets


def test_what_the_budget_counts():
    """Largest arrays by hand: N = 20,000, R = 20,128, C4, in numbers of 8 bytes."""
    task = {"name": "ising", "lattice": 4, "train": 20_000, "test": 64}
    n, r = 20_000, 20_128
    common = {"task": task, "execution": {"memory": 1e4, "tiles_above": 10**6}}
    program = 400_000_000 + 512 * 2**20

    def numbers(**sections):
        return (needs(settings(**common, **sections)).solution - program) / 8

    assert numbers(augmentation="full") == 2 * 4 * r * n + 4 * n**2 + 4 * 2 * n**2
    assert numbers(augmentation="none") == pytest.approx(6 * n**2, rel=0.02)
    assert numbers(augmentation={"subset": 2}) == pytest.approx(7 * (2 * n) ** 2 + 2 * 4 * r * n, rel=0.02)
    assert numbers(augmentation="full", theory={"route": "direct"}) == pytest.approx(6 * (4 * n) ** 2, rel=0.02)


def test_what_a_job_asks_the_scheduler_for():
    """By hand, in MB: a job of tiles 937 (program, blocks) and 7 copies of a tile, 64 bytes a pair."""
    assert job_memory(settings(), "tiles") == job_memory(settings(), "solution") == 1000
    task = {"name": "ising", "lattice": 4, "train": 5000, "test": 64}
    execution = {"tile_size": 1024, "memory": 20.0}
    found = settings(task=task, execution=execution)
    assert job_memory(found, "tiles") == 937 + 470, "400 + 536.87 + 7 · 64 · 1024² / 10⁶ = 1406.6"
    assert job_memory(found, "solution") == -(-needs(found).solution // 10**6) > 1407
    content = {key: CONTENT[key] for key in ("study", "task", "network")} | {"kind": "kernel_convergence"}
    assert job_memory(settings({**content, "execution": {"memory": 2.5}}), "solution") == 2500


BIG = {"name": "fashion_mnist", "train": 60000, "test": 10000}


def test_a_matrix_beyond_the_budget_is_refused_with_tiles_and_disk():
    with pytest.raises(StudyError) as refused:
        settings(task=BIG, execution={}, augmentation="full")
    said = str(refused.value)
    for text in (
        "study.yaml: execution.memory: 8 GB",
        "60000 training samples",
        "27965 tiles of 256 × 256",
        "231 GB on disk",
        "Raise execution.memory",
        "task.train",
        "theory.mean: false",
    ):
        assert text in said, said
    settings(task=BIG, execution={}, augmentation="full", theory={"mean": False})
    settings(task=BIG, execution={"memory": 2000.0}, augmentation="full")


def test_regression_counts_the_largest_training_set():
    regression = {"sizes": [100, 60000]}
    with pytest.raises(StudyError, match=r"execution\.memory: 8 GB.*tiles.*on disk.*regression\.sizes"):
        settings(REGRESSION, task=BIG, regression=regression, execution={})
    settings(REGRESSION, task={**BIG, "train": 4000, "test": 2000}, regression={"sizes": [4000]}, execution={})


def test_tiles_beyond_the_budget_are_refused():
    task = {"name": "ising", "lattice": 4, "train": 5000, "test": 64}
    with pytest.raises(StudyError, match=r"tiles of 5000 × 5000 samples.*4 group elements.*execution\.tile_size"):
        settings(task=task, execution={"tile_size": 5000, "memory": 7.5})
    settings(task=task, execution={"tile_size": 256, "memory": 7.5})


def test_counting_imports_nothing_heavy():
    code = (
        "import sys; from emergent_equivariance.study import budget, tiling;"
        "print([m for m in ('jax', 'numba', 'xarray', 'torch', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
