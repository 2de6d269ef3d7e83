"""Metrics on cases small enough to compute by hand, and on exactly equivariant functions."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from emergent_equivariance import metrics
from emergent_equivariance.errors import StoreError
from emergent_equivariance.groups import get_group, grid_action, invariant_action, line_action
from emergent_equivariance.metrics import Reference, Statistic, evaluate
from emergent_equivariance.tasks.base import Readout, TaskData

DIMS = ("step", "sample", "element", "output")


def make_task(group="c4", outputs=1, samples=4, label=None, sites=False, test=2):
    """A task with as many samples in train as in test; only its symmetry and labels matter here."""
    group = get_group(group)
    output_action = grid_action(group, 3, 3) if sites else invariant_action(group, (outputs,))
    outputs = output_action.source.shape[1]
    split = np.array(["train"] * (samples - test) + ["test"] * test)
    matrix = np.ones((1, outputs)) if sites else np.eye(outputs)
    return TaskData(
        input=np.zeros((samples, 3, 3)),
        target=np.zeros((samples, outputs)),
        split=split,
        input_action=grid_action(group, 3, 3),
        output_action=output_action,
        output_name="f",
        readout=Readout("h", matrix),
        label=label,
    )


def make_theory(task, mean, covariance=None, steps=(0, 1)):
    coords = {
        "step": list(steps),
        "sample": np.arange(len(task.input)),
        "element": list(task.output_action.group.elements),
    }
    theory = xr.Dataset({"mean": (DIMS, mean)}, coords=coords)
    if covariance is not None:
        theory["orbit_covariance"] = (("step", "sample", "element", "element_"), covariance)
    return theory


def predictions(values, steps=(0, 1)):
    return xr.DataArray(values, {"step": list(steps)}, DIMS)


def test_hand_computed_orbit_metrics():
    task = make_task("c2", outputs=1, samples=2, test=1)
    values = np.zeros((2, 2, 2, 1))
    values[:, 0, :, 0] = [1.0, 3.0]  # train: variance 1, mean 2
    values[:, 1, :, 0] = [-2.0, 4.0]  # test: variance 9, mean 1
    result = evaluate(predictions(values), Reference.of(task, samples=9, loss="mse")).sel(step=1)
    expected = {
        "orbit_variance": [1.0, 9.0],
        "normalized_orbit_std": [0.5, 3.0],
        "relative_orbit_std": [0.5, 3.0],
        "orbit_mse": [2.0, 18.0],  # mean over {e, r2} of (0, 2²) and (0, 6²)
        "loss": [0.5, 2.0],
    }
    for name, value in expected.items():
        np.testing.assert_allclose(result[name], value, err_msg=name)
        assert np.isnan(result[f"{name}_se"]).all(), "one sample has no jackknife"
    assert list(result["split"].values) == ["train", "test"]
    assert "orbit_kl" not in result and "difference_to_ntk" not in result
    assert np.isnan(result["orbit_variance_unbiased"]).all()


def test_samples_are_combined_before_the_ratio():
    """Root mean squares are formed over samples, the papers' ratio sample by sample."""
    task = make_task("c2", samples=2, test=0)
    values = np.array([[[[1.0], [3.0]], [[-2.0], [4.0]]]])
    result = evaluate(predictions(values, [5]), Reference.of(task, samples=9, loss="mse")).squeeze()
    assert result["orbit_variance"] == 5
    assert np.isclose(result["normalized_orbit_std"], np.sqrt(5 / 2.5))
    assert np.isclose(result["relative_orbit_std"], (0.5 + 3) / 2)


def test_jackknife_is_the_standard_error_of_a_mean_and_of_a_ratio():
    rng = np.random.default_rng(0)
    a, b = rng.normal(2, 1, 400), rng.normal(5, 0.5, 400)
    splits = {"train": np.arange(400)}
    plain = Statistic(lambda x: x, (xr.DataArray(a, dims="sample"),))
    value, error = plain.summary(splits)
    assert np.isclose(value[0], a.mean()) and np.isclose(error[0], a.std(ddof=1) / 20)
    ratio = Statistic(lambda x, y: x / y, (xr.DataArray(a, dims="sample"), xr.DataArray(b, dims="sample")))
    value, error = ratio.summary(splits)
    delta = (a - value[0] * b).std() / b.mean() / 20  # delta method
    assert np.isclose(value[0], a.mean() / b.mean()) and np.isclose(error[0], delta, rtol=0.02)


def test_classification_metrics_by_hand():
    label = np.array([0, 1, 1, -1])
    task = make_task("c2", outputs=2, samples=4, label=label)
    values = np.zeros((1, 4, 2, 2))
    values[0, 0] = [[np.log(3), 0], [0, 0]]  # p = (¾, ¼) and (½, ½); argmax of a tie is the first
    values[0, 1] = [[0, 1], [1, 0]]
    values[0, 2] = [[5, 0], [5, 0]]
    result = evaluate(predictions(values, [7]), Reference.of(task, samples=9, loss="cross_entropy")).squeeze("step")
    np.testing.assert_allclose(result["orbit_same_predictions"].sel(split="train"), 1.5)  # 2 and 1
    np.testing.assert_allclose(result["accuracy"], [1.0, 0.0])  # the unlabelled sample does not count
    log_e = np.log1p(np.exp(-1.0))
    np.testing.assert_allclose(result["loss"].sel(split="train"), (np.log(4 / 3) + log_e) / 2)
    p, q = np.array([0.75, 0.25]), np.array([0.5, 0.5])
    first = 0.25 * ((p * np.log(p / q)).sum() + (q * np.log(q / p)).sum())  # ½ symmetric, ½ mean over {e, r2}
    p = np.array([1 - np.e / (1 + np.e), np.e / (1 + np.e)])
    second = 0.25 * 2 * (p * np.log(p / p[::-1])).sum()
    np.testing.assert_allclose(result["orbit_kl"].sel(split="train"), (first + second) / 2)


def test_softmax_and_logits_agree_for_one_member():
    label = np.array([0, 1, 2, 0])
    task = make_task("c4", outputs=3, samples=4, label=label)
    logits = predictions(np.random.default_rng(1).normal(size=(2, 4, 4, 3)))
    p = np.exp(logits) / np.exp(logits).sum("output")
    of_logits = evaluate(logits, Reference.of(task, samples=9, loss="cross_entropy"))
    theory = make_theory(task, np.ones((2, 4, 4, 3)))
    softmax = Reference.of(task, samples=9, loss="cross_entropy", averaged="softmax", theory=theory)
    of_probabilities = evaluate(p, softmax)
    for name in ("orbit_kl", "loss", "accuracy", "orbit_same_predictions"):
        np.testing.assert_allclose(of_logits[name], of_probabilities[name], rtol=1e-12)
    assert "difference_to_ntk" not in of_probabilities
    assert of_probabilities["orbit_variance"].attrs["observable"] == "probabilities"


def test_no_labels_no_targets_no_number():
    task = make_task("c2", outputs=2, label=np.array([0, 1, -1, -1]))
    task.target[2:] = np.nan
    values = predictions(np.random.default_rng(2).normal(size=(2, 4, 2, 2)))
    for loss in ("mse", "cross_entropy"):
        result = evaluate(values, Reference.of(task, samples=9, loss=loss))
        assert np.isfinite(result["loss"].sel(split="train")).all()
        assert np.isnan(result["loss"].sel(split="test")).all()
        assert np.isnan(result["accuracy"].sel(split="test")).all()


@pytest.mark.parametrize("sites", [False, True])
@pytest.mark.parametrize("group", ["trivial", "c2", "c4", "d4"])
def test_equivariant_predictions_have_no_orbit_deviation(group, sites):
    task = make_task(group, outputs=3, sites=sites, label=np.array([0, 1, 0, 1]))
    base = np.random.default_rng(3).integers(-9, 9, size=(8, *task.output_action.shape)).astype(float)
    orbit = task.output_action.orbit(base).reshape(2, 4, task.output_action.group.order, -1)
    result = evaluate(predictions(orbit), Reference.of(task, samples=9, loss="mse"))
    zero = ["orbit_variance", "normalized_orbit_std", "orbit_mse"] + ([] if sites else ["orbit_kl"])
    for name in zero:
        values = result[name].sel(step=1)
        assert (values == 0).all() and (result[f"{name}_se"].sel(step=1) == 0).all(), name
    if not sites:
        assert (result["orbit_same_predictions"] == task.output_action.group.order).all()


def test_step_zero_rule_is_by_label_and_not_by_position():
    task = make_task("c2")
    values = np.random.default_rng(4).normal(size=(2, 4, 2, 1))
    mean = np.ones((2, 4, 2, 1))
    for steps, undefined in (((0, 3), [True, False]), ((3, 9), [False, False])):
        reference = Reference.of(task, samples=9, loss="mse", theory=make_theory(task, mean, steps=steps))
        result = evaluate(predictions(values, steps), reference)
        for name in metrics.UNDEFINED_AT_START:
            for key in (name, f"{name}_se"):
                assert (np.isnan(result[key]).all("split").values == undefined).all(), key
        assert "zscore_to_ntk" not in result and np.isfinite(result["orbit_variance"]).all()


def test_distance_to_the_mean_by_hand():
    task = make_task("trivial", samples=2, test=0)
    mean, variance = np.array([[[[2.0]], [[-4.0]]]]), np.array([[[[0.25]], [[1.0]]]])
    theory = make_theory(task, mean, variance, steps=[1])
    reference = Reference.of(task, samples=9, loss="mse", theory=theory)
    result = evaluate(predictions(mean * [[[[1.25]], [[1.25]]]], [1]), reference, member_count=4).squeeze()
    assert np.isclose(result["difference_to_ntk"], np.sqrt(1.25 / 20))
    assert np.isclose(result["relative_difference_to_ntk"], 0.25)
    assert np.isclose(result["zscore_to_ntk"], np.sqrt((0.25 * 4 / 0.25 + 4) / 2))
    frozen = Reference.of(task, samples=9, loss="mse", theory=make_theory(task, mean, variance * [[[[1]], [[0]]]], [1]))
    result = evaluate(predictions(mean + 0.5, [1]), frozen, member_count=4).squeeze()
    assert np.isclose(result["zscore_to_ntk"], 2.0), "points without variance are left out"


@pytest.mark.parametrize("sites", [False, True])
def test_predictions_of_finite_ensembles_agree_with_monte_carlo(sites):
    """E Var_g and E orbit MSE for an arbitrary Σ, with a mean that is not equivariant."""
    rng = np.random.default_rng(5)
    task = make_task("c4", outputs=2, samples=3, sites=sites, test=1)
    outputs, m, draws = task.target.shape[1], 3, 40_000
    mean = rng.normal(size=(1, 3, 4, outputs)) * 0.3
    root = rng.normal(size=(1, 3, 4, 4))
    covariance = root @ root.swapaxes(-1, -2)
    reference = Reference.of(task, samples=9, loss="mse", theory=make_theory(task, mean, covariance, steps=[1]))
    noise = np.einsum("tsgh,dtsho->dtsgo", root, rng.normal(size=(draws, 1, 3, 4, outputs))) / np.sqrt(m)
    drawn = xr.DataArray(mean + noise, {"step": [1]}, ("subset", *DIMS))
    measured = evaluate(drawn, reference, member_count=m)
    predicted = metrics.predict(reference, xr.DataArray([1, m], dims="ensemble_size")).sel(ensemble_size=m)
    for name in ("orbit_variance", "orbit_mse"):
        sample = measured[name]
        error = sample.std("subset") / np.sqrt(draws)
        z = (sample.mean("subset") - predicted[f"predicted_{name}"]) / error
        assert (abs(z) < 4).all(), (name, z.values)
        assert predicted[f"predicted_{name}"].dims == ("step", "split")
    z2 = (measured["zscore_to_ntk"] ** 2).mean("subset")
    np.testing.assert_allclose(z2, 1, atol=0.02)


def test_pull_back_of_a_sign_action():
    action = line_action(get_group("c2"))
    odd = xr.DataArray([[2.0], [-2.0]], dims=("element", "output"))
    assert (metrics.pull_back(odd, action) == 2).all()
    assert (metrics.pull_back(odd.transpose(), action) == 2).all()


def test_theory_of_other_samples_is_refused():
    task = make_task("c2")
    theory = make_theory(task, np.ones((2, 4, 2, 1))).assign_attrs(file="theory/abc.zarr.zip")
    for wrong in (theory.isel(sample=[1, 0, 2, 3]), theory.isel(element=[1, 0]), theory.isel(sample=slice(3))):
        with pytest.raises(StoreError, match=r"theory/abc\.zarr\.zip"):
            Reference.of(task, samples=9, loss="mse", theory=wrong)


def test_attributes_name_the_observable():
    task = make_task("c4", sites=True)
    result = evaluate(predictions(np.ones((2, 4, 4, 9))), Reference.of(task, samples=9, loss="mse"))
    for name, variable in result.data_vars.items():
        assert {"long_name", "units", "observable"} <= set(variable.attrs), name
    assert result["orbit_variance"].attrs["observable"] == "h" and result["orbit_mse"].attrs["observable"] == "f"
