"""A study of kind kernel_convergence from its file to pictures and words, and what a change makes again."""

import pytest

from emergent_equivariance import store

from .conftest import Workplace

TINY = {
    "study": "tiny_kernels",
    "kind": "kernel_convergence",
    "task": {"name": "ising", "lattice": 3, "train": 4, "test": 4, "ood": "none"},
    "network": {"name": "gcnn", "b_std": 0.0},
    "convergence": {"members": 24, "inputs": 2, "resamples": 100},
    "sweep": {"network.width": [1, 4]},
    "tracking": {"wandb": "disabled"},
}


@pytest.fixture(scope="module")
def kernels(tmp_path_factory) -> Workplace:
    """The tiny study, run to its end."""
    workplace = Workplace(tmp_path_factory.mktemp("kernels"), TINY)
    done = workplace.snakemake()
    assert done.returncode == 0, done.stdout + done.stderr
    return workplace


def test_a_study_becomes_metrics_tables_picture_and_words(kernels):
    metrics = store.read_netcdf(kernels.root / "metrics.nc")
    wide, narrow = (metrics.sel(arm=f"width~{width}")["member_error"] for width in (4, 1))
    assert (wide < narrow).all() and (wide > 0).all()
    assert metrics.attrs["study"] == "tiny_kernels" and "versions" in metrics.attrs
    for suffix in ("svg", "png"):
        assert (kernels.root / "figures" / f"kernel_convergence.{suffix}").stat().st_size > 1000
    assert [p.stem for p in (kernels.root / "figures").glob("*.svg")] == ["kernel_convergence"]
    assert {p.stem for p in (kernels.root / "tables").glob("*.csv")} == {"kernel_errors", "exponents"}
    assert "tiny_kernels" in (kernels.root / "report.html").read_text()
    assert kernels.planned() == {}


@pytest.mark.slow
def test_only_what_depends_on_a_change_is_made_again(kernels):
    published = [{"label": "relu", "width": 4, "value": 0.3, "source": "a talk"}]
    try:
        kernels.write(convergence={**TINY["convergence"], "published": published})
        assert kernels.planned() == {"join_metrics": 1, "draw_figures": 1, "all": 1}
        kernels.write(sweep={"network.width": [1, 2, 4]}, convergence=TINY["convergence"])
        assert kernels.planned() == {"measure_kernels": 1, "join_metrics": 1, "draw_figures": 1, "all": 1}
        kernels.write(sweep=TINY["sweep"], convergence={**TINY["convergence"], "members": 25})
        assert kernels.planned() == {"measure_kernels": 2, "join_metrics": 1, "draw_figures": 1, "all": 1}
    finally:
        kernels.write(**TINY)
