"""What the runs hold: aggregates of a shard, what the theory expects of them under the same keys, key numbers."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from emergent_equivariance.tracking import curves
from tests.tracking.conftest import data_of, shard_of, tiny

HERE = Path()


def test_rows_hold_mean_and_quantiles_over_members_and_the_mean_prediction():
    study = tiny(HERE, "offline")
    arm, shard = study.arms[0], shard_of(study)
    rows = curves.shard_curves(arm, shard, data_of(study))
    assert [row["step"] for row in rows] == [0, 1, 5, 20]
    loss = shard["loss"].values
    assert [row["training_loss/mean"] for row in rows] == pytest.approx(loss.mean(axis=0))
    assert [row["training_loss/q90"] for row in rows] == pytest.approx(np.quantile(loss, 0.9, axis=0))
    data = data_of(study)
    test = np.flatnonzero(data.split[shard["sample"].values] == "test")
    outputs = shard["prediction"].values.astype(float)[:, :, test] @ np.asarray(data.readout.matrix, float).T
    deviation = np.sqrt(outputs.var(axis=3).mean(axis=(2, 3)))  # (member, step)
    found = [[row[f"orbit_deviation/test/{name}"] for row in rows] for name in ("mean", "q50", "ensemble")]
    assert found[0] == pytest.approx(np.sqrt((deviation**2).mean(axis=0)))
    assert found[1] == pytest.approx(np.median(deviation, axis=0))
    assert found[2] == pytest.approx(np.sqrt(outputs.mean(axis=0).var(axis=2).mean(axis=(1, 2))))
    error = shard["prediction"].values[:, :, test, 0] - data.target[shard["sample"].values][test]
    assert [row["loss/test/mean"] for row in rows] == pytest.approx((error**2).mean(axis=(0, 2, 3)) / 2)


def test_rows_do_not_depend_on_how_many_members_are_read_at_once(monkeypatch):
    study = tiny(HERE, "offline")
    shard, data = shard_of(study), data_of(study)
    whole = curves.shard_curves(study.arms[0], shard, data)
    monkeypatch.setattr(curves, "CHUNK_BYTES", 1)
    for row, again in zip(whole, curves.shard_curves(study.arms[0], shard, data), strict=True):
        assert row == pytest.approx(again)


def test_diverged_members_are_left_out():
    study = tiny(HERE, "offline")
    shard, data = shard_of(study), data_of(study)
    fewer = curves.shard_curves(study.arms[0], shard.isel(member=[0, 2, 3]), data)
    shard["diverged"][1] = True
    shard["prediction"][1] = np.nan
    shard["loss"][1] = np.nan
    assert curves.shard_curves(study.arms[0], shard, data) == fewer
    shard["diverged"][:] = True
    assert curves.shard_curves(study.arms[0], shard, data) == [{"step": step} for step in (0, 1, 5, 20)]


def test_classification_has_accuracy_and_the_loss_of_mean_probabilities():
    content = {
        "task": {"name": "digits", "train": 10, "test": 10},
        "training": {"loss": "cross_entropy", "optimizer": "sgd", "learning_rate": 0.1, "epochs": 2, "batch_size": 5},
        "evaluate": {"ensemble_mean": "softmax"},
        "network": {"name": "mlp", "width": 4},
    }
    study = tiny(HERE, "offline", **content)
    shard, data = shard_of(study), data_of(study)
    rows = curves.shard_curves(study.arms[0], shard, data)
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    test = np.flatnonzero(data.split[shard["sample"].values] == "test")
    label = data.label[shard["sample"].values][test]
    logits = shard["prediction"].values[:, :, test, 0].astype(float)
    probability = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    right = (probability.mean(axis=0).argmax(axis=-1) == label).mean(axis=-1)
    assert [row["accuracy/test/ensemble"] for row in rows] == pytest.approx(right)
    loss = -np.log(probability[..., np.arange(len(label)), label]).mean(axis=(0, 2))
    assert [row["loss/test/mean"] for row in rows] == pytest.approx(loss)


def gaussian(study, members: int):
    """A theory store of random μ_t and Σ_t, and members drawn from it."""
    rng = np.random.default_rng(3)
    shape = shard_of(study, members=1)["prediction"].shape[1:]
    factor = rng.normal(size=(*shape[:3], shape[2])) / 2
    mean = rng.normal(size=shape)
    covariance = np.einsum("...gk,...hk->...gh", factor, factor)
    noise = np.einsum("tsgk,mtsko->mtsgo", factor, rng.normal(size=(members, *shape)))
    shard = shard_of(study, members=members)
    shard["prediction"] = (shard["prediction"].dims, mean + noise)
    elements = list(data_of(study).output_action.group.elements)
    coords = {"step": shard["step"], "sample": shard["sample"], "element": elements}
    solution = xr.Dataset(
        {
            "mean": (("step", "sample", "element", "output"), mean),
            "orbit_covariance": (("step", "sample", "element", "element_"), covariance),
        },
        coords,
    )
    return solution, shard


def test_the_theory_expects_under_the_same_keys_what_gaussian_members_show():
    """Members drawn from N(μ_t, Σ_t): squares of the theory's curves are the expectations of theirs."""
    members, size = 480, 4
    study = tiny(HERE, "offline", ensemble={"members": members}, execution={"shard_size": size})
    arm, data = study.arms[0], data_of(study)
    solution, shard = gaussian(study, members)
    theory = curves.theory_curves(arm, solution, data, size)
    shards = [curves.shard_curves(arm, shard.isel(member=slice(i, i + size)), data) for i in range(0, members, size)]
    for t, row in enumerate(theory):
        for key, power in (("orbit_deviation/test", 2), ("loss/train", 1)):
            for name in ("mean", "ensemble"):
                seen = np.array([rows[t][f"{key}/{name}"] for rows in shards]) ** power
                error = seen.std() / np.sqrt(len(seen))
                assert abs(seen.mean() - row[f"{key}/{name}"] ** power) < 4 * error, (t, key, name)
            assert row[f"{key}/limit"] < row[f"{key}/ensemble"] < row[f"{key}/mean"]


def test_a_theory_without_covariance_says_what_it_knows():
    study = tiny(HERE, "offline")
    solution, _ = gaussian(study, 1)
    rows = curves.theory_curves(study.arms[0], solution.drop_vars("orbit_covariance"), data_of(study), 4)
    assert {key for key in rows[-1] if "test" in key} == {"orbit_deviation/test/limit", "loss/test/limit"}


def test_names_of_arms_in_keys_are_plain_and_unique():
    swept = {"training.learning_rate": [0.1, 0.5], "network.width": [4, 8]}
    study = tiny(HERE, "offline", sweep=swept)
    names = curves.arm_keys(study)
    assert list(names.values()) == [f"learning_rate-0_{r}_width-{w}" for r in (1, 5) for w in (4, 8)]
    assert set(curves.curve_keys(study).values()) == {"learning_rate-0_1", "learning_rate-0_5"}
    clash = curves._unique({"one": {"rate": "0.1"}, "two": {"rate": "0_1"}})
    assert clash == {"one": "rate-0_1", "two": "rate-0_1_2"}
    assert set(curves.curve_keys(tiny(HERE, "offline")).values()) == {"all"}


def test_the_configuration_names_no_place():
    study = tiny(
        HERE, "offline", task={"name": "fashion_mnist", "train": 4, "test": 4, "data_dir": "/home/somebody/data"}
    )
    described = curves.describe(study.arms[0])
    assert "somebody" not in str(described)
    assert described["network"]["width"] == 4
    assert curves.without_folders({"a": ["/home/x/y.npz", "~/z", "C:\\u\\v", "a/b", 1]}) == {
        "a": ["y.npz", "z", "v", "a/b", 1]
    }


def joined(study) -> tuple[xr.Dataset, pd.DataFrame]:
    """Metrics of two arms, one of which lost a member and was trained for a shorter time."""
    names = [arm.path for arm in study.arms]
    dims = ("arm", "step", "split", "member_count")
    values = np.arange(1.0, 1 + 2 * 2 * 1 * 3).reshape(2, 2, 1, 3)
    metrics = xr.Dataset(
        {
            "orbit_variance": (dims, values),
            "predicted_orbit_variance": (dims, values / 4),
            "members": ("arm", [4, 3]),
            "diverged": ("arm", [0, 1]),
        },
        {"arm": names, "step": [1, 20], "split": ["test"], "member_count": [1, 2, 4], "network_width": ("arm", [4, 8])},
    )
    metrics["orbit_variance"][1, :, :, 2] = np.nan
    numbers = pd.DataFrame(
        {"arm": names, "width": [4, 8], "split": "test", "step": [20, 1], "difference_to_ntk": [0.5, np.nan]}
    )
    return metrics, numbers


def test_the_summary_has_curves_by_members_and_by_width_and_flat_key_numbers():
    study = tiny(HERE, "offline")
    metrics, numbers = joined(study)
    rows = curves.by_members(study, metrics, numbers)
    assert [row[curves.MEMBER_COUNT] for row in rows] == [1, 2, 4]
    assert rows[0][f"{curves.BY_MEMBERS}/test/width-4"] == pytest.approx(2.0)  # √4: the last step of that arm
    assert rows[0][f"{curves.BY_MEMBERS}/test/width-8"] == pytest.approx(np.sqrt(7))
    assert rows[0][f"{curves.PREDICTED}/test/width-4"] == pytest.approx(1.0)
    assert f"{curves.BY_MEMBERS}/test/width-8" not in rows[2]
    assert curves.by_width(study, metrics, numbers) == [{"width": 4, f"{curves.BY_WIDTH}/test/all": 0.5}]
    values = curves.key_values(study, metrics, numbers)
    assert values["difference_to_ntk/test/width-4"] == 0.5
    assert "difference_to_ntk/test/width-8" not in values
    assert {key: values[key] for key in ("arms", "members_total", "diverged_total", "diverged/width-8")} == {
        "arms": 2,
        "members_total": 7,
        "diverged_total": 1,
        "diverged/width-8": 1,
    }
    metrics["missing"] = ("arm", [0, 4])
    assert curves.failures(metrics)[1] == {
        "arm": "width~8",
        "asked": 8,
        "valid": 3,
        "diverged": 1,
        "missing": 4,
    }


def test_studies_of_kernels_have_their_errors_by_width_or_no_such_curve():
    study = tiny(HERE, "offline")
    names = [arm.path for arm in study.arms]
    errors = xr.Dataset(
        {"relative_error": (("arm", "kind"), [[0.1, 0.2], [0.3, 0.4]])},
        {"arm": names, "kind": ["nngp", "ntk"], "network_width": ("arm", [4, 8])},
    )
    assert curves.by_width(study, errors, None)[1] == {
        "width": 8,
        f"{curves.BY_WIDTH}/nngp/all": 0.3,
        f"{curves.BY_WIDTH}/ntk/all": 0.4,
    }
    regression = errors.drop_vars(["relative_error", "network_width"])
    assert curves.by_width(study, regression, None) == []
    assert curves.key_values(study, regression, None) == {"arms": 2}
    assert curves.failures(regression) == []
