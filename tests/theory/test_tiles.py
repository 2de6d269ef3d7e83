"""Kernels in tiles: the same numbers as at once, one triangle only, nothing computed twice, nothing damaged used."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from emergent_equivariance import kernel_store
from emergent_equivariance.errors import DataError, StoreError, StudyError
from emergent_equivariance.kernels import cross_kernels
from emergent_equivariance.networks import build_network
from emergent_equivariance.study import parse_study
from emergent_equivariance.study.tiling import planned_tiling
from emergent_equivariance.tasks import build_task
from emergent_equivariance.theory import resolve_learning_rate, solve

MLP = {"name": "mlp"}
POOLED = {"name": "cnn", "conv_layers": 2, "head": "global_average_pool"}
GCNN = {"name": "gcnn", "conv_layers": 2}
CUT = {"tiles_above": 10, "tile_size": 4, "tiles_per_job": 5}


def study(tmp_path, network=MLP, augmentation="full", execution=CUT, **sections):
    content = {
        "study": "s",
        "task": {"name": "ising", "lattice": 4, "train": 10, "test": 5},
        "group": "c4",
        "network": network,
        "augmentation": augmentation,
        "training": {"learning_rate": {"critical_fraction": 0.5}, "steps": 30, "record": [0, 3, 30]},
        "evaluate": {"samples": 3},
        "execution": execution,
        **sections,
    }
    return parse_study(content, tmp_path / "study.yaml", tmp_path / "results")


def run(a_study, say=print):
    """All tiles of the first arm's kernels, and the store; returns how many tiles were computed, and the store."""
    (arm, *_), tiling = a_study.arms, planned_tiling(a_study.arms[0].settings)
    data = build_task(arm.settings)
    jobs = tiling.jobs(arm.settings.execution.tiles_per_job)
    made = sum(kernel_store.compute(a_study, arm, data, first, last, say=say) for first, last in jobs)
    kernel_store.assemble(a_study, arm, data)
    return made, kernel_store.read(a_study, arm)


@pytest.mark.parametrize(
    ("network", "group"), [(MLP, "c4"), (MLP, "d4"), (POOLED, "c4"), (POOLED, "d4"), (GCNN, "c4"), (MLP, "trivial")]
)
def test_the_assembled_kernels_are_those_of_all_pairs(float64, tmp_path, network, group):
    a_study = study(tmp_path, network, group=group)
    _, kernels = run(a_study)
    (arm,) = a_study.arms
    data = build_task(arm.settings)
    assert list(kernels["split"].values) == ["train"] * 10 + ["test"] * 3 + ["ood-gaussian"] * 3
    assert list(kernels["train"].values) == list(range(10))
    built = build_network(arm.settings.network, data.input_action.shape, 1)
    samples, orbits = data.input[kernels["sample"].values], data.input_action.orbit(data.input[:10])
    for u, element in enumerate(data.input_action.group.elements):
        expected = cross_kernels(built, samples, orbits[:, u])
        for name, values in zip(("nngp", "ntk"), expected, strict=True):
            np.testing.assert_allclose(kernels[name].sel(element=element), values, rtol=1e-13, atol=1e-13)
    for name in ("nngp", "ntk"):
        square = kernels[name].values[:10]
        mirror = square.swapaxes(0, 1)[..., data.input_action.group.inverse]
        np.testing.assert_array_equal(square, mirror)


@pytest.mark.parametrize("network", [MLP, POOLED, GCNN])
def test_means_and_covariances_are_the_same_with_and_without_tiles(float64, tmp_path, network):
    a_study = study(tmp_path, network, sweep={"augmentation": ["none", "full", {"subset": 2}]})
    _, kernels = run(a_study)
    data = build_task(a_study.arms[0].settings)
    for arm in a_study.arms:
        tiled, inline = solve(arm.settings, data, kernels=kernels), solve(arm.settings, data)
        for name in ("mean", "orbit_covariance"):
            scale = np.abs(inline[name]).max()
            np.testing.assert_allclose(tiled[name] / scale, inline[name] / scale, rtol=0, atol=1e-11)
        rates = resolve_learning_rate(arm.settings, data, kernels=kernels)
        assert rates["learning_rate"] == pytest.approx(inline.attrs["learning_rate"], rel=1e-12)


def test_arms_that_differ_in_augmentation_share_their_kernels(tmp_path):
    a_study = study(tmp_path, sweep={"augmentation": ["none", "full", {"subset": 2}], "network.width": [8, 16]})
    assert len({a_study.kernel_path(arm) for arm in a_study.arms}) == 1
    others = [
        study(tmp_path, {**MLP, "b_std": 0.2}),
        study(tmp_path, evaluate={"samples": 4}),
        study(tmp_path, group="c2"),
    ]
    paths = {s.kernel_path(s.arms[0]) for s in [a_study, *others]}
    assert len(paths) == 4


def test_kernel_regression_has_the_identity_alone(float64, tmp_path):
    a_study = parse_study(
        {
            "study": "s",
            "kind": "kernel_regression",
            "task": {"name": "ising", "lattice": 4, "train": 9, "test": 5},
            "network": POOLED,
            "regression": {"sizes": [3, 9]},
            "execution": CUT,
        },
        tmp_path / "study.yaml",
        tmp_path / "results",
    )
    made, kernels = run(a_study)
    assert made == 3 * 4 // 2 + 3
    data = build_task(a_study.arms[0].settings)
    built = build_network(a_study.arms[0].settings.network, data.input_action.shape, 1)
    expected = cross_kernels(built, data.input[kernels["sample"].values], data.input[:9])
    assert dict(kernels.sizes) == {"sample": 14, "train": 9, "element": 1}
    assert set(kernels["split"].values) == {"train", "test"}, "samples of other splits are read by nobody"
    for name, values in zip(("nngp", "ntk"), expected, strict=True):
        np.testing.assert_allclose(kernels[name][..., 0], values, rtol=1e-13, atol=1e-13)


# ------------------------------------------------------------------------------- what is evaluated, and how often


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The store of tiles that nothing has disturbed."""
    with jax.enable_x64(True):
        return run(study(tmp_path_factory.mktemp("undisturbed")))[1].load()


@pytest.fixture
def evaluated(monkeypatch):
    """Pairs of samples evaluated so far, tile by tile."""
    counts = []
    original = kernel_store.tile_kernels

    def counted(kappa, samples, train, tile, inverse):
        def counting(rows, columns):
            counts.append(len(rows) * len(columns))
            return kappa(rows, columns)

        return original(counting, samples, train, tile, inverse)

    monkeypatch.setattr(kernel_store, "tile_kernels", counted)
    return counts


def test_one_triangle_is_evaluated(float64, tmp_path, evaluated):
    """Blocks of 4, 4, 2 of 10 training samples and rows up to 16: beside the diagonal each pair once."""
    made, _ = run(study(tmp_path))
    assert made == len(evaluated) == 1 + 2 + 3 + 3
    blocks, rows = [4, 4, 2], [4, 4, 4, 4]
    assert sum(evaluated) == sum(rows[r] * blocks[c] for r in range(4) for c in range(min(r + 1, 3)))
    (train,) = [sum(evaluated) - 6 * 10]  # without the other samples
    assert train == 10 * 11 // 2 + (6 + 6 + 1), "the upper halves of the tiles on the diagonal come on top"


KILLED = """
import os, signal, sys
import jax; jax.config.update("jax_enable_x64", True)
sys.path.insert(0, {tests!r})
from pathlib import Path
from emergent_equivariance import kernel_store, store
from emergent_equivariance.tasks import build_task
from test_tiles import study
where, seen = sys.argv[1], []
def before(function):
    def wrapped(*arguments, **named):
        seen.append(1)
        if len(seen) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **named)
    return wrapped
if where == "computing":
    kernel_store.tile_kernels = before(kernel_store.tile_kernels)
else:
    store.os.replace = before(os.replace)
a_study = study(Path({folder!r}))
kernel_store.compute(a_study, a_study.arms[0], build_task(a_study.arms[0].settings), 0, 4, say=print)
"""


@pytest.mark.parametrize("where", ["computing", "writing"])
def test_after_a_kill_the_finished_tiles_are_used(float64, tmp_path, undisturbed, evaluated, where):
    code = KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code, where], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == -signal.SIGKILL, done.stderr
    a_study = study(tmp_path)
    folder = a_study.kernel_path(a_study.arms[0]).parent / a_study.arms[0].kernel_key
    left = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    assert left == ["tile-000000.zarr.zip", "tile-000001.zarr.zip"]
    said = []
    made, kernels = run(a_study, said.append)
    assert made == len(evaluated) == 9 - 2
    assert said == []
    assert kernels.load().drop_attrs().identical(undisturbed.drop_attrs())
    assert sorted(path.name for path in folder.iterdir()) == [
        "tiles-000000-000004.zarr.zip",
        "tiles-000005-000008.zarr.zip",
    ]


def leave_tiles(a_study, monkeypatch):
    """Tiles 0…4 as an interrupted job leaves them."""
    with monkeypatch.context() as patch:
        patch.setattr(kernel_store, "_pack", lambda *arguments: None)
        kernel_store.compute(a_study, a_study.arms[0], build_task(a_study.arms[0].settings), 0, 4, say=print)
    return sorted((a_study.root / "kernels").rglob("tile-*.zarr.zip"))


def test_damaged_left_overs_are_noticed_and_computed_again(float64, tmp_path, monkeypatch, undisturbed, evaluated):
    a_study = study(tmp_path)
    tiles = leave_tiles(a_study, monkeypatch)
    contents = [tile.read_bytes() for tile in tiles]
    middle = len(contents[3]) // 2
    tiles[0].write_bytes(contents[1])
    tiles[1].write_bytes(contents[1][:middle])
    tiles[3].write_bytes(contents[3][:middle] + bytes([contents[3][middle] ^ 0xFF]) + contents[3][middle + 1 :])
    tiles[4].write_bytes(b"")
    evaluated.clear()
    said = []
    made, kernels = run(a_study, said.append)
    assert made == len(evaluated) == 4 + 4, "four of the first five tiles, and the four of the second job"
    assert len(said) == 4
    for message, tile in zip(said, [tiles[0], tiles[1], tiles[3], tiles[4]], strict=True):
        assert str(tile) in message and "computed again" in message
    assert kernels.load().drop_attrs().identical(undisturbed.drop_attrs())


@pytest.mark.parametrize("change", ["study", "cut"])
def test_tiles_of_another_study_or_another_cut_are_not_used(float64, tmp_path, monkeypatch, evaluated, change):
    a_study = study(tmp_path)
    tiles = leave_tiles(a_study, monkeypatch)
    if change == "study":
        other = study(tmp_path, {**MLP, "b_std": 0.3})
        folder = other.kernel_path(other.arms[0]).parent / other.arms[0].kernel_key
        folder.mkdir()
        for tile in tiles:
            (folder / tile.name).write_bytes(tile.read_bytes())
    else:
        other = study(tmp_path, execution={**CUT, "tile_size": 5})
    evaluated.clear()
    said = []
    made, kernels = run(other, said.append)
    count = planned_tiling(other.arms[0].settings).count
    assert made == len(evaluated) == count
    assert len(said) == min(5, count)
    reference = run(study(tmp_path / "other", other.arms[0].settings.network.model_dump()))[1]
    np.testing.assert_allclose(kernels["ntk"], reference["ntk"], rtol=1e-13, atol=1e-13)


# ---------------------------------------------------------------------------------------------- bad input


def test_a_damaged_or_foreign_job_file_is_refused_by_name(float64, tmp_path):
    a_study = study(tmp_path)
    (arm,), data = a_study.arms, build_task(a_study.arms[0].settings)
    for first, last in ((0, 4), (5, 8)):
        kernel_store.compute(a_study, arm, data, first, last, say=print)
    path = a_study.tiles_path(arm, 0, 4)
    content = path.read_bytes()
    path.write_bytes(content[:1000])
    with pytest.raises(StoreError, match=r"tiles-000000-000004\.zarr\.zip: is damaged"):
        kernel_store.assemble(a_study, arm, data)
    path.write_bytes(content)
    other = study(tmp_path, execution={**CUT, "tile_size": 3})
    with pytest.raises(StoreError, match=r"tiles-000000-000004.*tiling \[16, 10, 4, 4\].*now gives \[16, 10, 3, 4\]"):
        kernel_store.assemble(other, other.arms[0], data)
    path.unlink()
    with pytest.raises(StoreError, match=r"tiles-000000-000004\.zarr\.zip: does not exist"):
        kernel_store.assemble(a_study, arm, data)
    assert not a_study.kernel_path(arm).exists()


def test_what_is_not_planned_is_refused(float64, tmp_path):
    a_study = study(tmp_path, execution={**CUT, "tiles_above": 100})
    (arm,) = a_study.arms
    assert kernel_store.read(a_study, arm) is None
    with pytest.raises(StudyError, match=r"not computed in tiles.*execution\.tiles_above"):
        kernel_store.compute(a_study, arm, build_task(arm.settings), 0, 0, say=print)
    a_study = study(tmp_path)
    with pytest.raises(StudyError, match="have the tiles 0 to 8"):
        kernel_store.compute(a_study, a_study.arms[0], build_task(arm.settings), 8, 9, say=print)
    with pytest.raises(
        StoreError, match=r"--first 0 --last 4` \(and so on, 2 ranges of 5 tiles up to tile 8\), then `emeq assemble"
    ):
        kernel_store.read(a_study, a_study.arms[0])


def test_a_task_with_other_samples_than_the_study_file_says_is_refused(float64, tmp_path):
    a_study = study(tmp_path)
    smaller = study(tmp_path, task={"name": "ising", "lattice": 4, "train": 9, "test": 5})
    with pytest.raises(DataError, match=r"9 training samples and 6 others.*study file says 10 and 6.*task\.train"):
        kernel_store.compute(a_study, a_study.arms[0], build_task(smaller.arms[0].settings), 0, 0, say=print)


def test_a_kernel_that_is_not_invariant_is_refused(float64, tmp_path, monkeypatch):
    monkeypatch.setattr(kernel_store, "noninvariance", lambda network, action: 0.02)
    a_study = study(tmp_path)
    with pytest.raises(StudyError, match=r"changes by up to 0.02 under c4.*execution\.tiles_above"):
        kernel_store.compute(a_study, a_study.arms[0], build_task(a_study.arms[0].settings), 0, 0, say=print)
