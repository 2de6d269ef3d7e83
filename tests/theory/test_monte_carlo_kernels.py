"""Kernels estimated from many networks: they agree with the analytic ones within their error, and say what they are."""

from pathlib import Path

import jax
import numpy as np
import pytest
import xarray as xr

from emergent_equivariance.errors import StudyError
from emergent_equivariance.figures.words import number
from emergent_equivariance.monte_carlo import estimate, jackknife
from emergent_equivariance.predictions import ArmStores, theory_variables
from emergent_equivariance.report.solutions import analytic_words, theory_words
from emergent_equivariance.study import parse_study
from emergent_equivariance.study.budget import needs
from emergent_equivariance.study.tiling import planned_tiling
from emergent_equivariance.tasks import build_task
from emergent_equivariance.theory import resolve_learning_rate, solve

pytestmark = pytest.mark.usefixtures("float64")

FACTORY = "tests.networks_for_tests:mlp"
CONTENT = {
    "study": "estimated",
    "task": {"name": "ising", "lattice": 3, "target": "local", "train": 5, "test": 3},
    "group": "c4",
    "augmentation": "full",
    "network": {"name": "mlp", "width": 64},
    "training": {"learning_rate": {"critical_fraction": 0.5}, "steps": 300, "record": [0, 3, 30, 300]},
    "evaluate": {"samples": 2},
}
TORCH = {"name": "torch", "factory": FACTORY, "width": 64}


def arm_of(**sections):
    return parse_study({**CONTENT, **sections}, Path("estimated.yaml")).arms[0]


def solved(**sections):
    settings = arm_of(**sections).settings
    return solve(settings, build_task(settings))


@pytest.fixture(scope="module")
def analytic():
    with jax.enable_x64(True):
        return solved()


@pytest.mark.parametrize("network", [CONTENT["network"], TORCH], ids=["jax", "torch"])
def test_mean_agrees_with_the_analytic_one_within_its_error(network, analytic):
    rate = analytic.attrs["learning_rate"]
    training = CONTENT["training"] | {"learning_rate": rate}
    found = solved(network=network, training=training, theory={"monte_carlo": 48})
    error = found["mean_error"].values
    assert found["mean_error"].dims == found["mean"].dims
    assert (error[0] == 0).all() and (error[1:] > 0).all()  # at initialisation the mean is 0 whatever the kernel
    z = (found["mean"].values - analytic["mean"].values)[1:] / error[1:]
    rms = np.sqrt((z**2).mean(axis=(1, 2, 3)))
    assert (rms < 2).all(), rms  # 1 on average, few independent numbers
    assert (rms > 0.25).all(), rms
    relative = np.sqrt(
        (error**2).mean(axis=(1, 2, 3)) / (analytic["mean"].values ** 2).mean(axis=(1, 2, 3)).clip(1e-30)
    )
    assert (relative[1:] < 0.2).all()
    assert found.attrs["networks"] == 48 and "Monte-Carlo" in found.attrs["kernel"] + found.attrs["route"]
    assert "Monte-Carlo" not in analytic.attrs["kernel"] and "mean_error" not in analytic
    variance, expected = (x["orbit_covariance"].values[:2].trace(axis1=2, axis2=3) for x in (found, analytic))
    np.testing.assert_allclose(variance, expected, rtol=0.3)


@pytest.mark.slow
def test_assumptions_hold_for_gaussian_readouts(analytic):
    found = solved(network=TORCH, theory={"monte_carlo": 48})
    assert 0.5 < found.attrs["output_deviation"] / found.attrs["output_deviation_noise"] < 1.5
    assert found.attrs["initial_mean"] < 2.5
    assert "warning" not in found.attrs
    np.testing.assert_allclose(found.attrs["learning_rate"], analytic.attrs["learning_rate"], rtol=0.05)


def test_broken_assumptions_are_reported():
    found = solved(network=TORCH | {"factory": f"{__name__}:lopsided"}, theory={"monte_carlo": 16})
    assert "not a multiple of the identity over outputs" in found.attrs["warning"]
    assert "mean output at initialisation is not 0" in found.attrs["warning"]


def lopsided(input_shape, outputs, width):
    """The first output in other units, the last one displaced."""
    import torch
    from tests.networks_for_tests import mlp

    class Lopsided(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = mlp(input_shape, outputs, width)

        def forward(self, x):
            y = self.inner(x)
            return torch.cat([3 * y[:, :1], y[:, 1:-1], y[:, -1:] + 5], dim=1)

    return Lopsided()


def test_layers_that_depend_on_the_mode_are_reported():
    network = {"name": "torch", "factory": "tests.networks_for_tests:normalised"}
    found = solved(network=network, theory={"monte_carlo": 8})
    assert "BatchNorm1d, Dropout: its kernel is that of evaluation mode" in found.attrs["warning"]


def test_critical_learning_rate_is_that_of_the_estimated_kernel():
    settings = arm_of(network=TORCH, theory={"monte_carlo": 16}).settings
    data = build_task(settings)
    rates = resolve_learning_rate(settings, data)
    np.testing.assert_allclose(rates["learning_rate"], solve(settings, data).attrs["learning_rate"], rtol=1e-12)


@pytest.mark.slow
def test_estimate_does_not_depend_on_the_memory_and_counts_networks():
    settings = arm_of(network=TORCH, theory={"monte_carlo": 20}).settings
    x = np.random.default_rng(0).standard_normal((7, 3, 3, 1))
    orbits = np.random.default_rng(1).standard_normal((2, 4, 3, 3, 1))
    seen = []
    whole, little = (
        estimate(settings.network, x, orbits, 3, 20, memory=m, progress=lambda *at: seen.append(at))
        for m in (10**9, 20_000)
    )
    for a, b in zip((*whole.ntk, *whole.nngp, whole.initial), (*little.ntk, *little.nngp, little.initial), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)
    assert seen[19] == (20, 20)
    assert len(whole.blocks) == 16 and sum(number for number, _ in whole.blocks) == 20
    left_out = np.stack([kernels.train for kernels in whole.without_blocks()])
    np.testing.assert_allclose(np.average(left_out, axis=0, weights=[20 - n for n, _ in whole.blocks]), whole.ntk.train)


def test_jackknife_of_a_mean_is_its_standard_error():
    x = np.random.default_rng(0).standard_normal(40)
    without = (x.sum() - x) / 39
    np.testing.assert_allclose(jackknife(without), x.std(ddof=1) / np.sqrt(40))


def test_networks_are_none_of_the_ensemble():
    from emergent_equivariance.monte_carlo import STREAM_KERNELS
    from emergent_equivariance.networks.factories import member_module

    section = arm_of(network=TORCH, theory={"monte_carlo": 8}).settings.network
    member, other = (member_module(section, (3, 3, 1), 3, 0, 0, **at) for at in ({}, {"purpose": STREAM_KERNELS}))
    assert not np.array_equal(*(m[1].weight.detach().numpy() for m in (member, other)))


def test_keys():
    plain, sampled, more = (arm_of(theory={"monte_carlo": k}) for k in (None, 16, 17))
    assert len({plain.theory_key, sampled.theory_key, more.theory_key}) == 3
    assert len({plain.learning_rate_key, sampled.learning_rate_key, more.learning_rate_key}) == 3
    assert arm_of().theory_key == arm_of(network={"name": "mlp", "width": 65}).theory_key
    wider = arm_of(network={"name": "mlp", "width": 65}, theory={"monte_carlo": 16})
    assert wider.theory_key != sampled.theory_key  # the kernel is that of this width
    assert arm_of(network=TORCH, theory={"monte_carlo": 16}, ensemble={"seed": 5}).theory_key == (
        arm_of(network=TORCH, theory={"monte_carlo": 16}).theory_key
    )


def test_estimated_kernels_are_not_cut_into_tiles_and_are_counted():
    large = {"task": CONTENT["task"] | {"train": 40}, "execution": {"tiles_above": 10}}
    plain, sampled = (arm_of(theory={"monte_carlo": k}, **large).settings for k in (None, 10))
    assert planned_tiling(plain) is not None and planned_tiling(sampled) is None
    found = needs(sampled)
    rows, points = 160, 4 * (2 + 2 * 2)  # evaluated: train, test and one set out of distribution
    assert found.pairs == 10 * (rows * (rows + 1) // 2 + rows * points)
    assert found.solution > 8 * (10 + 2) * (rows + points) * rows  # the blocks alone


def test_torch_networks_have_a_mean_only_on_request():
    number = CONTENT["training"] | {"learning_rate": 0.1}
    assert not arm_of(network=TORCH, training=number).settings.has_mean
    assert arm_of(network=TORCH, training=number, theory={"monte_carlo": 8}).settings.has_mean
    with pytest.raises(StudyError, match=r"critical_fraction needs the NTK.*theory\.monte_carlo"):
        arm_of(network=TORCH)


def test_the_report_says_that_kernels_are_estimated(analytic):
    study = parse_study(
        {**CONTENT, "theory": {"monte_carlo": 16}, "sweep": {"theory.mean": [True, False]}}, Path("estimated.yaml")
    )
    found = solve(study.arms[0].settings, build_task(study.arms[0].settings))
    said, other = theory_words(study)
    assert "not analytic" in said and "Monte-Carlo kernel of 16 networks" in said
    assert "no analytic mean" in other

    def listed(theory):
        stores = {study.arms[0].path: ArmStores(xr.Dataset(), theory, xr.Dataset())}
        metrics = xr.Dataset(theory_variables(study, stores), {"arm": [arm.path for arm in study.arms]})
        return " ".join(map(str, analytic_words(metrics)))

    error = float(np.sqrt((found["mean_error"].isel(step=-1) ** 2).mean()))
    assert f"root mean square: {number(error)}" in listed(found)
    assert "Analytic and estimated solutions" in listed(found)
    assert "estimated" not in listed(analytic) and "Monte-Carlo" not in listed(analytic)
