"""A study of kind kernel_regression from its file to its report, through the real workflow."""

import os
import shutil

import numpy as np
import pytest

from emergent_equivariance import store
from emergent_equivariance.measures.repeats import training_sets
from emergent_equivariance.study import load_study

from .conftest import Workplace

W_STD, B_STD = 1.5, 0.3
CURVES = {
    "study": "curves",
    "kind": "kernel_regression",
    "task": {"name": "digits", "train": 24, "test": 20, "ood": "none"},
    "network": {"name": "mlp"},
    "sweep": {
        "network": {
            "MLP": {"name": "mlp", "W_std": W_STD, "b_std": B_STD},
            "CNN": {"name": "cnn", "conv_layers": 1, "head": "flatten"},
        }
    },
    "regression": {"sizes": [6, 24], "repeats": 3, "times": [20, "inf"]},
    "tracking": {"wandb": "disabled"},
    "execution": {"kernel_threads": 1},
}


@pytest.fixture(scope="module")
def curves(tmp_path_factory) -> Workplace:
    workplace = Workplace(tmp_path_factory.mktemp("curves"), CURVES)
    done = workplace.snakemake()
    assert done.returncode == 0, done.stdout + done.stderr
    return workplace


@pytest.fixture
def copy(curves, tmp_path) -> Workplace:
    shutil.copytree(curves.folder, tmp_path / "copy", symlinks=True)
    return Workplace(tmp_path / "copy", CURVES)


def relu_ntk(a, b):
    """NTK of [dense, ReLU, dense]: Jacot et al. 2018, with the arc-cosine kernels of Cho & Saul 2009."""

    def first(x, y):
        return W_STD**2 * (x * y).sum(axis=-1) / x.shape[-1] + B_STD**2

    cross = first(a[:, None], b[None])
    norm = np.sqrt(first(a, a))[:, None] * np.sqrt(first(b, b))[None]
    angle = np.arccos(np.clip(cross / norm, -1, 1))
    nngp = norm * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi)
    return nngp + cross * (np.pi - angle) / (2 * np.pi)


def test_the_curves_are_those_of_the_kernel(curves):
    study = load_study(curves.file, curves.folder / "results")
    data = store.task_from_dataset(store.read(study.data_path(study.arms[0])))
    x = data.input.reshape(len(data.input), -1)
    metrics = store.read_netcdf(curves.root / "metrics.nc")
    for size in (6, 24):
        right, errors = [], []
        for rows in training_sets(0, 3, 24, size):
            weights = np.linalg.solve(relu_ntk(x[rows], x[rows]), data.target[rows])
            mean = relu_ntk(x[24:], x[rows]) @ weights
            right.append((mean.argmax(axis=1) == data.label[24:]).mean())
            errors.append(((mean - data.target[24:]) ** 2).mean())
        here = metrics.sel(arm="network~MLP", size=size, time=np.inf)
        assert here["accuracy"].item() == pytest.approx(np.mean(right), abs=1e-12)
        assert here["mse"].item() == pytest.approx(np.mean(errors), rel=1e-8)
        assert (here["rank"] == size).all()
    assert (metrics["accuracy_se"] > 0).all() and np.isfinite(metrics["mse_difference"].values[0, 1]).all()


def test_the_report_is_complete(curves):
    names = {str(path.relative_to(curves.root)) for path in curves.root.rglob("*") if path.is_file()}
    tables = {f"tables/{name}.csv" for name in ("learning_curves", "repeats", "differences")}
    assert tables | {"metrics.nc", "report.html", "figures/learning_curves.svg"} <= names
    assert "CNN" in (curves.root / "report.html").read_text()
    assert not any(name.startswith(("members", "theory", "ensemble")) for name in names), "nothing is trained"
    done = curves.snakemake("--report", str(curves.folder / "report.html"))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_what_is_made_again(copy):
    assert copy.planned() == {}
    published = [{"label": "MLP", "size": 24, "value": 0.5, "source": "a talk"}]
    copy.write(regression={**CURVES["regression"], "published": published})
    assert copy.planned() == {"join_metrics": 1, "draw_figures": 1, "all": 1}
    more = {**CURVES["sweep"]["network"], "deep MLP": {"name": "mlp", "hidden_layers": 2}}
    copy.write(regression=CURVES["regression"], sweep={"network": more})
    assert copy.planned() == {"measure_kernels": 1, "join_metrics": 1, "draw_figures": 1, "all": 1}
    copy.write(sweep=CURVES["sweep"], regression={**CURVES["regression"], "sizes": [6, 12, 24]})
    assert copy.planned() == {"measure_kernels": 2, "join_metrics": 1, "draw_figures": 1, "all": 1}


@pytest.mark.slow
def test_measures_of_another_version_are_made_again_where_snakemake_has_lost_its_records(copy):
    shutil.rmtree(copy.folder / ".snakemake")
    os.utime(copy.file, (0, 0))
    assert copy.planned() == {}
    copy.write(regression={**CURVES["regression"], "repeats": 4})
    os.utime(copy.file, (0, 0))
    assert copy.planned() == {"measure_kernels": 2, "join_metrics": 1, "draw_figures": 1, "all": 1}


@pytest.mark.slow
def test_tiles_give_the_same_curves(copy):
    before = store.read_netcdf(copy.root / "metrics.nc")
    copy.write(study="tiled", execution={**CURVES["execution"], "tiles_above": 10, "tile_size": 9})
    done = copy.snakemake()
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((copy.root / "kernels").glob("*.zarr.zip"))) == 2
    after = store.read_netcdf(copy.root / "metrics.nc")
    np.testing.assert_allclose(after["mse"], before["mse"], rtol=1e-8)
    np.testing.assert_array_equal(after["accuracy"], before["accuracy"])
