"""Trained ensembles against the analytic mean and covariance (acceptance tests 4 and 5).

The setting is lazy: a scalar target, early steps, wide networks. What is asserted are standard errors and
a stated finite-width term, not fitted tolerances.
"""

from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest
import xarray as xr

from emergent_equivariance.ensemble import aggregate, reference
from emergent_equivariance.study import parse_study
from emergent_equivariance.summary import orbit_scaling
from emergent_equivariance.tasks import build_task
from emergent_equivariance.theory import solve
from emergent_equivariance.training import build_problem, train_members

MEMBERS = 256
STEPS = [0, 3, 10]
WIDTHS = (32, 128, 512)


def settings_of(width: int, augmentation: str, target: str = "total"):
    content = {
        "study": "lazy",
        "task": {"name": "ising", "lattice": 4, "target": target, "train": 16, "test": 16},
        "network": {"name": "mlp", "width": width},
        "augmentation": augmentation,
        "training": {"learning_rate": {"critical_fraction": 0.5}, "steps": STEPS[-1], "record": STEPS},
        "ensemble": {"members": MEMBERS},
        "evaluate": {"samples": 16},
    }
    return parse_study(content, Path("lazy.yaml")).arms[0].settings


@cache
def theory_of(augmentation: str, target: str = "total") -> xr.Dataset:
    with jax.enable_x64(True):
        settings = settings_of(WIDTHS[0], augmentation, target)
        return solve(settings, build_task(settings)).load()


@cache
def ensemble_of(width: int, augmentation: str, target: str = "total") -> xr.Dataset:
    settings = settings_of(width, augmentation, target)
    theory = theory_of(augmentation, target)
    data = build_task(settings)
    problem = build_problem(settings, data, theory.attrs["learning_rate"])
    shard = train_members(problem, range(MEMBERS)).to_dataset(problem, range(MEMBERS))
    return aggregate([shard], reference(settings, data, theory), settings, MEMBERS)


def rms(values) -> float:
    return float(np.sqrt((np.asarray(values) ** 2).mean()))


@pytest.mark.parametrize("augmentation", ["none", "full"])
def test_the_mean_of_a_wide_ensemble_is_the_analytic_mean(augmentation):
    theory, ensemble = theory_of(augmentation), ensemble_of(WIDTHS[-1], augmentation)
    sigma = np.sqrt(np.diagonal(theory["orbit_covariance"], axis1=-2, axis2=-1) / MEMBERS)[..., None]
    for step in range(len(STEPS)):
        deviation = np.abs(ensemble["mean"][step] - theory["mean"][step]).values
        width_term = 5 / WIDTHS[-1] * max(rms(theory["mean"][step]), rms(sigma[step] * np.sqrt(MEMBERS)))
        assert (deviation < 4 * sigma[step] + width_term).all()
    wrong = np.abs(0.5 * theory["mean"][-1]).values
    assert not (wrong < 4 * sigma[-1] + width_term).all(), "the bound can fail: a mean half as large breaks it"


@pytest.mark.parametrize("augmentation", ["none", "full"])
def test_the_variance_over_members_is_the_analytic_variance(augmentation):
    theory, ensemble = theory_of(augmentation), ensemble_of(WIDTHS[-1], augmentation)
    predicted = np.diagonal(theory["orbit_covariance"], axis1=-2, axis2=-1)
    variance = (ensemble["second_moment"] - ensemble["mean"] ** 2)[..., 0] * MEMBERS / (MEMBERS - 1)
    ratio = (variance.values / predicted).mean(axis=(1, 2))
    # one point's sample variance has relative error √(2/(M−1)) = 0.09; points are correlated, so no better is claimed
    assert np.abs(ratio - 1).max() < 4 * np.sqrt(2 / (MEMBERS - 1)), ratio


def test_the_distance_to_the_analytic_mean_falls_with_the_width():
    """On the training inputs, where Σ_t is small, so that the noise of 256 members does not hide the width."""
    distance = []
    for width in WIDTHS:
        ensemble = ensemble_of(width, "full")
        full = ensemble["difference_to_ntk"].sel(subset=ensemble["member_count"] == MEMBERS)
        distance.append(float(full.sel(step=10, split="train").squeeze()))
    assert distance[0] > distance[1] > distance[2], distance


@pytest.mark.parametrize("split", ["train", "test", "ood-gaussian"])
def test_orbit_deviation_falls_as_one_over_root_m_with_the_predicted_prefactor(split):
    for width in (128, 512):
        scaling = orbit_scaling(ensemble_of(width, "full")).sel(split=split)
        assert (np.abs(scaling["orbit_slope"] + 0.5) < 3 * scaling["orbit_slope_se"]).all(), scaling["orbit_slope"]
        assert (scaling["orbit_slope_se"] < 0.06).all()
    ratio = scaling["orbit_variance_ratio"]
    assert (np.abs(ratio - 1) < 0.15).all(), ratio.values
    assert (scaling["orbit_variance_ratio_se"] < 0.1).all()


def test_the_control_without_augmentation_has_a_plateau_that_is_predicted():
    ensemble = ensemble_of(WIDTHS[-1], "none")
    measured = (
        ensemble["orbit_variance"].sel(subset=ensemble["member_count"] == MEMBERS, split="test", step=10).squeeze()
    )
    predicted = ensemble["predicted_orbit_variance"].sel(split="test", step=10)
    assert float(measured) == pytest.approx(float(predicted.sel(ensemble_size=MEMBERS)), rel=0.15)
    noise = predicted.sel(ensemble_size=1) - predicted.sel(ensemble_size=MEMBERS)
    assert float(predicted.sel(ensemble_size=MEMBERS)) > 3 * float(noise) / MEMBERS


def test_the_infinite_ensemble_is_invariant_at_any_width():
    """The U-statistic that subtracts member noise is zero at width 32, though the distance to μ_t is not."""
    for split in ("train", "test", "ood-gaussian"):
        ensemble = ensemble_of(WIDTHS[0], "full")
        sizes = ensemble["member_count"].values
        values = ensemble["orbit_variance_unbiased"].sel(subset=sizes == 16, split=split, step=10).values
        assert abs(values.mean()) < 4 * values.std(ddof=1) / np.sqrt(len(values))
        member = ensemble["orbit_variance"].sel(subset=sizes == 1, split=split, step=10).values.mean()
        assert values.std(ddof=1) / np.sqrt(len(values)) < 0.05 * member


def test_site_energies_too():
    """Equivariant outputs: 16 local energies, judged pulled back and through the total energy.

    They leave the lazy regime early: the excess over the prediction is O(1/width) and grows with the steps.
    """
    excess = {}
    for width in (128, 512):
        ensemble = ensemble_of(width, "full", "local")
        sizes = ensemble["member_count"].values
        for name in ("orbit_mse", "orbit_variance"):
            measured = ensemble[name].sel(subset=sizes == 1)
            predicted = ensemble[f"predicted_{name}"].sel(ensemble_size=1)
            error = measured.std("subset", ddof=1) / np.sqrt(MEMBERS) / predicted
            ratio = measured.mean("subset") / predicted
            assert (np.abs(ratio - 1) < 4 * error + 16 / width).sel(step=[0, 3]).all(), (width, name, ratio.values)
            excess[width, name] = ratio.sel(step=10) - 1
    for name in ("orbit_mse", "orbit_variance"):
        assert (excess[512, name] < 0.5 * excess[128, name]).all(), excess
