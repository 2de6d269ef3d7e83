"""Metrics of one's own predictions: the same numbers as those of a study, and predictions that hold."""

import numpy as np
import pytest
import xarray as xr
from xarray import DataArray

from emergent_equivariance.analysis import ensemble_metrics, expected_metrics
from emergent_equivariance.ensemble import aggregate
from emergent_equivariance.errors import DataError
from emergent_equivariance.groups import get_group, grid_action
from emergent_equivariance.metrics import Reference
from emergent_equivariance.settings import IsingTask
from emergent_equivariance.study import parse_study
from emergent_equivariance.summary import summarise
from emergent_equivariance.tasks import ising

DIMS = ("member", "sample", "element", "output")
STUDY = {
    "study": "s",
    "task": {"name": "ising", "lattice": 3, "target": "local", "train": 5, "test": 6},
    "network": {"name": "mlp", "width": 4},
    "training": {"learning_rate": 0.1, "steps": 7, "record": [0, 7]},
    "ensemble": {"members": 40},
}


def noise(members=4096, samples=6, elements=4, outputs=2, seed=0):
    """Members around an invariant mean: correlated along the orbit, independent over samples and outputs."""
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((elements, elements)) / 2
    mean = np.broadcast_to(rng.standard_normal((samples, 1, outputs)), (samples, elements, outputs))
    drawn = rng.standard_normal((members, samples, elements, outputs))
    values = mean + np.einsum("gh,msho->msgo", root, drawn)
    covariance = np.broadcast_to(root @ root.T, (samples, elements, elements))
    return (
        DataArray(values, dims=DIMS),
        DataArray(mean, dims=DIMS[1:]),
        DataArray(covariance, dims=("sample", "element", "element_")),
    )


def test_the_numbers_are_those_of_a_study_of_the_same_members():
    (arm,) = parse_study(STUDY, "s.yaml").arms
    data = ising.build(IsingTask(name="ising", lattice=3, target="local", train=5, test=6), get_group("c4"))
    reference = Reference.of(data, samples=64, loss="mse")
    samples = reference.split["sample"].values
    rng = np.random.default_rng(1)
    values = rng.standard_normal((40, 2, len(samples), 4, 9)).astype(np.float32)
    labels = {"member": np.arange(40), "step": [0, 7], "sample": samples, "element": list(get_group("c4").elements)}
    prediction = DataArray(values, labels, ("member", "step", *DIMS[1:]))
    shard = xr.Dataset(
        {
            "prediction": prediction,
            "loss": (("member", "step"), np.ones((40, 2), np.float32)),
            "done": ("member", np.ones(40, bool)),
            "diverged": ("member", np.zeros(40, bool)),
        }
    )
    expected = summarise(aggregate([shard], reference, arm.settings, 40))
    found = ensemble_metrics(
        prediction.transpose("element", ..., "member"),
        split=reference.split.values,
        target=reference.target.values,
        readout=reference.readout.values,
        action=reference.output_action,
    )
    for name, value in found.data_vars.items():
        xr.testing.assert_allclose(value.transpose(*expected[name].dims), expected[name], rtol=1e-6)
    assert set(expected.data_vars) - set(found.data_vars) == {"member_loss_train"}


def test_invariance_emerges_as_one_over_the_root_of_the_number_of_members_and_as_predicted():
    prediction, mean, covariance = noise()
    found = ensemble_metrics(prediction, mean=mean, covariance=covariance).sel(split="test")
    assert "step" not in found.dims
    for name, truth in (("orbit_slope", -0.5), ("orbit_variance_ratio", 1.0)):
        assert abs(found[name] - truth) < 5 * found[f"{name}_se"], name
        assert found[f"{name}_se"] < 0.05
    size = found["member_count"]
    difference = found["orbit_variance"] - found["predicted_orbit_variance"]
    enough = found.where(size <= 128, drop=True)  # sizes share their members: the larger ones deviate together
    assert (abs(difference) < 5 * enough["orbit_variance_se"]).all()
    expected = found["predicted_orbit_variance"].sel(member_count=1)
    np.testing.assert_allclose(found["predicted_orbit_variance"], expected / size, rtol=1e-12)


@pytest.mark.parametrize("timed", [False, True])
def test_what_is_expected_needs_no_members(timed):
    prediction, mean, covariance = noise(8)
    if timed:
        prediction, mean, covariance = (
            array.expand_dims(step=[0, 5]) * DataArray([1.0, 2.0], dims="step")
            for array in (prediction, mean, covariance)
        )
    expected = expected_metrics(mean, covariance, [1, 2, 4, 8])
    found = ensemble_metrics(prediction, mean=mean, covariance=covariance).sel(split="test", drop=True)
    for name, value in expected.data_vars.items():
        np.testing.assert_allclose(value.transpose(*found[name].dims).values, found[name].values, rtol=1e-12)
    assert ("step" in expected.dims) == timed
    with pytest.raises(DataError, match=r"member_counts: \[0\]. Give"):
        expected_metrics(mean, covariance, [0])


def test_labels_give_the_metrics_of_classification():
    logits = np.zeros((2, 3, 4, 3))
    logits[:, :, :, 1] = 5.0
    logits[:, 2, 3] = [9.0, 0.0, 0.0]
    found = ensemble_metrics(DataArray(logits, dims=DIMS), label=[1, 0, 1], member_counts=[2])
    assert found["accuracy"].sel(split="test", member_count=2) == pytest.approx(2 / 3)
    assert found["orbit_same_predictions"].sel(split="test", member_count=2) == pytest.approx((4 + 4 + 3) / 3)
    assert found["member_count"].values.tolist() == [1, 2]


def test_outputs_that_the_group_acts_on_are_pulled_back():
    action = grid_action(get_group("c4"), 2, 2)
    fields = np.random.default_rng(0).standard_normal((3, 2, 4))
    equivariant = np.stack([action.orbit(field.reshape(2, 2, 2)).reshape(2, 4, 4) for field in fields])
    prediction = DataArray(equivariant, dims=DIMS)
    assert float(ensemble_metrics(prediction, action=action)["orbit_mse"].max()) < 1e-30
    assert float(ensemble_metrics(prediction)["orbit_mse"].min()) > 0.1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prediction": noise(8)[0].rename(member="network")}, "prediction: has the dimensions step, network"),
        ({"prediction": noise(8)[0].where(noise(8)[0] < 2)}, "not finite"),
        ({"prediction": DataArray(np.zeros((2, 0, 4, 1)), dims=DIMS)}, "prediction: holds no numbers .*'sample': 0"),
        ({"prediction": DataArray(np.zeros((2, 2, 4, 1), complex), dims=DIMS)}, "holds complex numbers"),
        ({"prediction": DataArray(np.zeros((2, 2, 65, 1)), dims=DIMS)}, "65 elements. Give action"),
        ({"member_counts": [9]}, r"member_counts: \[9\], but there are 8 members"),
        ({"split": ["train"] * 5}, r"split: has the shape \(5,\). Give it the shape \(6,\)"),
        ({"target": np.zeros((6, 3))}, "target: has the shape"),
        ({"label": [0]}, "label: has the shape"),
        ({"label": [0, 0, 0, 0, 0, 9]}, "label: holds values that are no class"),
        ({"label": [0, 0, 0, 0, 0, 0.5]}, "label: holds values that are no class"),
        ({"member_counts": [2.5]}, "Give whole numbers"),
        ({"mean": noise(1)[1] * np.nan}, "mean: holds values that are not finite"),
        ({"readout": np.ones(3)}, "readout: has the shape"),
        ({"action": grid_action(get_group("c4"), 2, 2)}, "action: has the shape"),
        ({"mean": noise(1)[1].isel(sample=[0])}, "mean: has the shape"),
        ({"covariance": noise(1)[2]}, "without mean"),
    ],
)
def test_what_does_not_fit_is_named(change, said):
    given = {"prediction": noise(8)[0], **change}
    with pytest.raises(DataError, match=said):
        ensemble_metrics(given.pop("prediction"), **given)
