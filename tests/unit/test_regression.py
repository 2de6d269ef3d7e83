"""Studies of kind kernel_regression: predictions, training sets, errors, pairs of kernels, words and pictures."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from report_pages import page

from emergent_equivariance import store
from emergent_equivariance.errors import DataError, StudyError
from emergent_equivariance.figures import draw_all
from emergent_equivariance.figures.learning_curves import learning_curves
from emergent_equivariance.figures.words import number
from emergent_equivariance.measures import get_measure, regression
from emergent_equivariance.measures.repeats import estimate, overlap, training_sets
from emergent_equivariance.study import parse_study
from emergent_equivariance.tasks import build_task

FILE = Path("my_study.yaml")
TRAIN, TEST, OUTPUTS = 40, 25, 10
BASE = {
    "study": "curves",
    "kind": "kernel_regression",
    "task": {"name": "digits", "train": TRAIN, "test": TEST},
    "group": "c4",
    "network": {"name": "mlp"},
    "sweep": {"network": {"A": {"name": "mlp"}, "B": {"name": "mlp", "hidden_layers": 2}}},
    "regression": {"sizes": [5, 20, 40], "repeats": 3, "times": [0, 7, "inf"], "form": "descent"},
}


def parsed(**sections):
    return parse_study({**BASE, **{key: value for key, value in sections.items() if value is not None}}, FILE)


def kernel_store(data, kernel) -> xr.Dataset:
    """A store of kernels as tiles give it, with numbers of no meaning at the other elements."""
    train = np.flatnonzero(data.split == "train")
    used = np.flatnonzero(np.isin(data.split, ["train", "test"]))
    flat = data.input.reshape(len(data.input), -1)
    ntk = np.full((len(used), len(train), 4), np.nan)
    ntk[..., 0] = kernel(flat[used], flat[train])
    coords = {"sample": used, "train": train, "element": list(data.input_action.group.elements)}
    return xr.Dataset({"ntk": (("sample", "train", "element"), ntk)}, coords)


def laplace(a, b, scale=4.0):
    return np.exp(-np.abs(a[:, None] - b[None]).sum(axis=-1) / (scale * a.shape[1]))


def gauss(a, b):
    return np.exp(-((a[:, None] - b[None]) ** 2).sum(axis=-1) / (2.0 * a.shape[1]))


def measured(study, kernels=(laplace, gauss)):
    data = build_task(study.arms[0].settings)
    known = [kernel_store(data, kernel) for kernel in kernels]
    return data, [
        regression.measure(a.settings, data, kernels=k) for a, k in zip(study.arms, known, strict=True)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def study():
    return parsed()


@pytest.fixture(scope="module")
def curves(study):
    return measured(study)


@pytest.fixture(scope="module")
def metrics(study, curves):
    return regression.join(study, curves[1])


# ------------------------------------------------------------------------------------------ predictions


@pytest.mark.parametrize("size", [5, 20, 40])
def test_trained_to_the_end_it_is_kernel_regression(study, curves, size):
    data, (found, _) = curves
    train, test = (data.input[data.split == split].reshape(-1, 64) for split in ("train", "test"))
    target, label = data.target[data.split == "train"], data.label[data.split == "test"]
    for repeat, rows in enumerate(training_sets(0, 3, TRAIN, size)):
        weights = np.linalg.solve(laplace(train[rows], train[rows]), target[rows])
        prediction = laplace(test, train[rows]) @ weights
        here = found.sel(size=size, repeat=repeat, time=np.inf)
        error = ((prediction - data.target[data.split == "test"]) ** 2).mean(axis=1)
        np.testing.assert_allclose(here["squared_error"], error, rtol=1e-9)
        np.testing.assert_array_equal(here["correct"], prediction.argmax(axis=1) == label)
        assert here["rank"] == size and here["negative_eigenvalues"] == 0


@pytest.mark.parametrize("size", [5, 40])
def test_at_finite_times_it_is_gradient_descent(curves, size):
    data, (found, _) = curves
    train, test = (data.input[data.split == split].reshape(-1, 64) for split in ("train", "test"))
    target, goal = data.target[data.split == "train"], data.target[data.split == "test"]
    rows = training_sets(0, 3, TRAIN, size)[1]
    gram = laplace(train[rows], train[rows])
    eta = 0.5 * 2 * size * OUTPUTS / np.linalg.eigvalsh(gram)[-1]
    assert found["learning_rate"].sel(size=size, repeat=1).item() == pytest.approx(eta, rel=1e-12)
    at_train, at_test = np.zeros((size, OUTPUTS)), np.zeros((TEST, OUTPUTS))
    for _ in range(7):
        step = eta / (size * OUTPUTS) * (target[rows] - at_train)
        at_train, at_test = at_train + gram @ step, at_test + laplace(test, train[rows]) @ step
    here = found["squared_error"].sel(size=size, repeat=1)
    np.testing.assert_allclose(here.sel(time=7), ((at_test - goal) ** 2).mean(axis=1), rtol=1e-10)
    np.testing.assert_allclose(here.sel(time=0), (goal**2).mean(axis=1), rtol=1e-12)


def test_a_kernel_of_low_rank_is_fitted_on_its_modes_alone(study):
    def linear(a, b):
        return a[:, :6] @ b[:, :6].T + 1.0

    data = build_task(study.arms[0].settings)
    data.input[:, :, :, :] += np.random.default_rng(0).standard_normal(data.input.shape)  # no constant pixels
    found = regression.measure(study.arms[0].settings, data, kernels=kernel_store(data, linear))
    assert (found["rank"].values == [[5] * 3, [7] * 3, [7] * 3]).all()
    assert (found["smallest_kept_eigenvalue"] > 1e-3).all()
    train, test = (data.input[data.split == split].reshape(-1, 64) for split in ("train", "test"))
    fitted = linear(test, train) @ np.linalg.pinv(linear(train, train), rcond=1e-12) @ data.target[:TRAIN]
    error = ((fitted - data.target[data.split == "test"]) ** 2).mean(axis=1)
    np.testing.assert_allclose(found["squared_error"].sel(size=40, repeat=0, time=np.inf), error, rtol=1e-8)


def test_the_same_settings_give_the_same_bytes(study, curves):
    for first, again in zip(curves[1], measured(study)[1], strict=True):
        assert store.checksum(first) == store.checksum(again)


def test_a_regression_task_has_errors_only():
    study = parsed(task={"name": "ising", "lattice": 3, "train": 30, "test": 20}, regression={"sizes": [10, 30]})
    data, found = measured(study)
    assert data.label is None and "correct" not in found[0]
    joined = regression.join(study, found)
    assert "mse" in joined and not any("accuracy" in str(name) for name in joined.variables)
    assert (joined["mse"] > 0).all()
    assert len(learning_curves(joined).axes) == 1
    assert "mean squared error is" in page(study, joined)
    assert "repeat_mse" in regression.tables(study, joined)["repeats"]


# ---------------------------------------------------------------------------------- sets and errors


def test_training_sets():
    for size in (1, 7, 25, 50):
        sets = training_sets(3, 7, 50, size)
        assert sets.shape == (7, size) and (np.diff(sets, axis=1) > 0).all()
        assert (sets == training_sets(3, 7, 50, size)).all()
        counts = np.bincount(sets.ravel(), minlength=50)
        assert counts.max() - counts.min() <= 1, "every sample is in as many sets as any other"
        assert all(set(small) <= set(large) for small, large in zip(sets, training_sets(3, 7, 50, 50), strict=True))
    assert (training_sets(3, 7, 50, 25) != training_sets(4, 7, 50, 25)).any()
    small, large = training_sets(0, 5, 50, 10), training_sets(0, 5, 50, 20)
    assert len(np.unique(small)) == 50, "disjoint where they fit"
    assert all(set(a) <= set(b) for a, b in zip(small, large, strict=True))
    assert overlap(5, 50, 10) == 0 and overlap(5, 50, 50) == 1
    assert overlap(5, 50, 20) == pytest.approx((5 * 20 / 50 - 1) / 4)


def _simulated(pool, tests, repeats, sizes, value, seed):
    """Estimates from many independent pools and test sets of standard normal inputs, with the values themselves."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(400):
        x, x_test = generator.standard_normal((pool, 2)), generator.standard_normal((tests, 2))
        values = np.array([[value(x[s], x_test) for s in training_sets(0, repeats, pool, n)] for n in sizes])
        found.append(estimate(values, np.array(sizes), pool))
    return np.array([f.value for f in found]), np.array([[f.repeats, f.test, f.total] for f in found])


def test_standard_errors_of_a_sum_over_samples_are_exact():
    """v linear in the samples of the set: the correlation of two sets is the share they have in common."""

    def value(x, x_test):
        return x[:, 0].mean() + 0.2 * x_test[:, 0]

    values, claimed = _simulated(60, 40, 8, [5, 20, 45, 60], value, 1)
    actual = values.std(axis=0)
    ratio = np.sqrt((claimed[:, 2] ** 2).mean(axis=0)) / actual
    assert (np.abs(ratio - 1) < 4 * 0.05).all(), ratio
    # by the choice of training samples alone: the variance of the mean of all samples that occur
    expected = [1 / 40, 1 / 60, 1 / 60, 1 / 60]
    np.testing.assert_allclose((claimed[:, 0] ** 2).mean(axis=0), expected, rtol=0.3)


def test_standard_errors_of_regression_are_right_for_disjoint_sets_and_bounds_for_others():
    def truth(x):
        return np.tanh(1.5 * x[:, 0]) + 0.5 * np.sin(2 * x[:, 1])

    def value(x, x_test):
        gram = gauss(x, x) + 1e-2 * np.eye(len(x))
        return (gauss(x_test, x) @ np.linalg.solve(gram, truth(x)) - truth(x_test)) ** 2

    values, claimed = _simulated(40, 60, 8, [5, 15, 30, 40], value, 2)
    ratio = np.sqrt((claimed[:, 2] ** 2).mean(axis=0)) / values.std(axis=0)
    assert 0.85 < ratio[0] < 1.25, ratio
    assert (ratio[1:] > 0.9).all() and (ratio[1:] < 3).all(), ratio


def test_a_single_repeat_has_no_error_by_the_choice_of_training_samples():
    found = estimate(np.random.default_rng(0).random((2, 1, 30)), np.array([5, 40]), 40)
    assert np.isnan(found.repeats).all() and np.isnan(found.total).all() and (found.test > 0).all()


# ---------------------------------------------------------------------------------------- all arms


def test_metrics_are_means_and_differences_are_paired(curves, metrics):
    _, (a, b) = curves
    path = {"arm": "network~A", "arm_": "network~B"}
    for metric, name in (("accuracy", "correct"), ("mse", "squared_error")):
        np.testing.assert_allclose(metrics[metric].sel(arm="network~A"), a[name].mean(["repeat", "sample"]), rtol=1e-12)
        pair = (a[name].astype(float) - b[name]).transpose("size", "repeat", "time", "sample")
        expected = estimate(pair.values, pair["size"].values, TRAIN)
        np.testing.assert_allclose(metrics[f"{metric}_difference"].sel(path), expected.value, atol=1e-15)
        np.testing.assert_allclose(metrics[f"{metric}_difference_se"].sel(path), expected.total, rtol=1e-12)
        swapped = metrics[f"{metric}_difference"].transpose("arm_", "arm", "size", "time").values
        np.testing.assert_array_equal(metrics[f"{metric}_difference"].values, -swapped)
    late = metrics.sel(time=np.inf, size=20)
    alone = np.hypot(*late["mse_se"].values)
    assert late["mse_difference_se"].sel(path) < 0.8 * alone, "the arms share training and test samples"
    assert list(metrics["arm_label"].values) == ["A", "B"] and list(metrics["network"].values) == ["A", "B"]


def test_arms_with_other_sizes_or_data_are_joined_and_not_paired():
    study = parsed(sweep={"regression.sizes": [[5, 20], [20, 40]], "task.seed": [0, 1]})
    data = [build_task(arm.settings) for arm in study.arms]
    parts = [
        regression.measure(arm.settings, one, kernels=kernel_store(one, gauss))
        for arm, one in zip(study.arms, data, strict=True)
    ]
    joined = regression.join(study, parts)
    assert list(joined["size"].values) == [5, 20, 40]
    assert np.isnan(joined["mse"].sel(size=40)[:2]).all() and np.isfinite(joined["mse"].sel(size=20)).all()
    paired = np.isfinite(joined["mse_difference"].sel(size=20, time=np.inf).values)
    seed = joined["seed"].values
    assert (paired == ((seed[:, None] == seed) & ~np.eye(4, dtype=bool))).all()
    assert np.isnan(joined["mse_difference"].sel(size=5, arm=study.arms[0].path, arm_=study.arms[2].path)).all()
    tables = regression.tables(study, joined)
    assert len(tables["learning_curves"]) == 4 * 2 * 3 and "seed" in tables["learning_curves"]
    assert len(learning_curves(joined).axes) == 2
    assert "seed 1" in page(study, joined)


def test_tables(study, metrics):
    tables = regression.tables(study, metrics)
    assert len(tables["learning_curves"]) == 2 * 3 * 3 and len(tables["repeats"]) == 2 * 3 * 3 * 3
    assert len(tables["differences"]) == 2 * 3 * 3 and "published" not in tables
    row = tables["learning_curves"].query("arm == 'network~B' and size == 20 and time == inf").iloc[0]
    assert row["accuracy"] == metrics["accuracy"].sel(arm="network~B", size=20, time=np.inf)
    assert {"mse_se_test", "accuracy_se_repeats", "arm_label"} <= set(row.index)
    assert tables["repeats"]["rank"].notna().all()


def test_the_stores_survive_the_disk(curves, metrics, tmp_path):
    path = tmp_path / "arm.zarr.zip"
    store.write(curves[1][0], path, {"format": 1})
    xr.testing.assert_identical(store.read(path).load().drop_attrs(), curves[1][0].drop_attrs())
    store.write_netcdf(metrics, tmp_path / "metrics.nc", {})
    back = store.read_netcdf(tmp_path / "metrics.nc")
    xr.testing.assert_equal(back["mse_se"], metrics["mse_se"])


# ------------------------------------------------------------------------------ words and pictures


PUBLISHED = [
    {"label": "A", "size": 20, "value": 0.5, "source": "a talk"},
    {"label": "elsewhere", "size": 80, "value": 0.9, "source": "a paper"},
]


@pytest.fixture(scope="module")
def with_published(curves):
    study = parsed(regression={**BASE["regression"], "published": PUBLISHED})
    return study, regression.join(study, curves[1])


def test_published_values_stand_beside_ours_and_change_nothing(study, metrics, with_published):
    other, joined = with_published
    assert [a.config_hash for a in other.arms] == [a.config_hash for a in study.arms]
    assert other.arms[0].join_fields != study.arms[0].join_fields, "the metrics are joined again"
    xr.testing.assert_identical(joined["mse"], metrics["mse"])
    assert list(joined["published_value"].values) == [0.5, 0.9]
    text = page(other, joined)
    assert "a talk" in text and "a paper" in text
    hollow = [line for line in learning_curves(joined).axes[0].lines if line.get_markerfacecolor() == "none"]
    assert [(list(line.get_xdata()), list(line.get_ydata())) for line in hollow] == [([20], [0.5]), ([80], [0.9])]
    solid = learning_curves(joined).axes[0].lines[0]
    assert hollow[0].get_color() == solid.get_color() != hollow[1].get_color()
    assert list(regression.tables(other, joined)["published"]["size"]) == [20, 80]


def test_published_values_of_every_arm_are_kept_once(curves):
    swept = {"talk": PUBLISHED[:1], "both": PUBLISHED}
    study = parsed(sweep={"regression.published": swept})
    joined = regression.join(study, curves[1])
    assert list(joined["published_label"].values) == ["A", "elsewhere"]


def test_the_picture_shows_the_metrics(study, metrics, tmp_path):
    figure = learning_curves(metrics)
    for ax, name in zip(figure.axes, ("accuracy", "mse"), strict=True):
        assert name in ("accuracy", "mse") and ax.get_xscale() == "log"
        drawn = [line.get_ydata() for line in ax.lines]
        expected = [metrics[name].sel(arm=arm, time=t).values for arm in metrics["arm"] for t in (np.inf, 7, 0)]
        np.testing.assert_array_equal(drawn, expected)
    (tmp_path / "again").mkdir()
    first = draw_all(study, metrics, tmp_path)
    again = draw_all(study, metrics, tmp_path / "again")
    assert [p.name for p in first] == [f"learning_curves.{kind}" for kind in ("svg", "png", "pdf", "csv")]
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in again]


def test_of_many_kernels_some_have_a_line(metrics):
    many = [f"kernel {k}" for k in range(20)]
    metrics = metrics.drop_dims("published", errors="ignore").isel(arm=np.resize([0, 1], 20))
    metrics = metrics.assign_coords(arm=many, arm_label=("arm", many))
    figure = learning_curves(metrics)
    labels = {str(line.get_label()).split(", ")[0] for line in figure.axes[0].lines}
    assert len(labels) == 8 and {"kernel 0", "kernel 19"} <= labels
    assert "8 of 20 kernels have a line" in figure.get_suptitle()


def test_words(study, metrics):
    text = page(study, metrics)
    assert text == page(study, metrics)
    assert "With 40 training samples" in text and "against A: B " in text
    assert "No ridge" in text and "scikit-learn" in text and "Substitute" not in text


@pytest.mark.parametrize(
    ("name", "words", "best_of"), [("accuracy", "accuracy", max), ("mse", "mean squared error", min)]
)
def test_the_claim_names_the_best_kernel(study, metrics, name, words, best_of):
    known = metrics if name == "accuracy" else metrics.drop_vars([v for v in metrics if "accuracy" in str(v)])
    at = {"size": 40, "time": np.inf}
    best = best_of(metrics["arm"].values, key=lambda arm: float(metrics[name].sel(arm=arm, **at)))
    value = number(*(float(metrics[f"{name}{suffix}"].sel(arm=best, **at)) for suffix in ("", "_se")))
    claim = regression.content(study, known).claim
    assert claim.startswith(f"With 40 training samples {best[-1]} has the best {words} of 2 kernels, **{value}**")


def test_a_substitute_is_announced(study, curves):
    parts = [part.assign_attrs(data_provenance='{"substitute": "a part of the set"}') for part in curves[1]]
    joined = regression.join(study, parts)
    assert "<strong>Substitute data</strong>: a part of the set" in page(study, joined)
    assert "substitute data: a part of the set" in learning_curves(joined).get_suptitle()
    parts[1].attrs["data_provenance"] = '{"source": "the whole set"}'
    assert "<strong>Substitute data</strong>: a part of the set" in page(study, regression.join(study, parts))


# --------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"sizes": [10, 41]}, "regression.sizes: 41 samples, but task.train is 40"),
        ({"sizes": []}, "sizes"),
        ({"sizes": [0]}, "sizes"),
        ({"sizes": [5, 5]}, "names a value twice"),
        ({"sizes": [5], "times": []}, "times"),
        ({"sizes": [5], "times": [-1]}, r"regression\.times\.0: -1 is not a training time; give a number of steps"),
        ({"sizes": [5], "times": [3, True]}, r"regression\.times\.1: True is not a training time"),
        ({"sizes": [5], "times": [np.nan]}, r"regression\.times\.0: nan is not a training time"),
        ({"sizes": [5], "times": [-np.inf]}, r"regression\.times\.0: -inf is not a training time"),
        ({"sizes": [5], "times": [10**400]}, r"regression\.times\.0: 10+ is not a training time"),
        ({"sizes": [5], "times": ["inf", np.inf]}, "names a value twice"),
        ({"sizes": [5], "times": [3, 3.0]}, "names a value twice"),
        ({"sizes": [5], "times": [2.5], "form": "descent"}, "whole steps"),
        ({"sizes": [5], "learning_rate": 0.0}, "learning_rate: 0.0 is not positive"),
        ({"sizes": [5], "repeats": 0}, "repeats"),
        ({"sizes": [5], "ridge": 1e-6}, "ridge"),
        ({"sizes": [5], "published": [{"label": "A", "size": 5, "value": 1.0}]}, "source"),
        (
            {"sizes": [5], "published": [{"label": "A", "size": 5, "value": 1, "source": "x", "metric": "mae"}]},
            "metric",
        ),
    ],
)
def test_bad_sections_are_refused(section, says):
    with pytest.raises(StudyError, match=says) as caught:
        parsed(regression=section)
    assert "my_study.yaml" in str(caught.value)


def test_descent_above_the_critical_rate_is_refused(curves):
    section = {"sizes": [20], "times": [5], "form": "descent"}
    with pytest.raises(StudyError, match=r"learning_rate: .* above the critical learning rate: gradient descent div"):
        parsed(regression={**section, "learning_rate": {"critical_fraction": 1.2}})
    parsed(regression={**section, "learning_rate": {"critical_fraction": 1.0}})
    measured(parsed(regression={**section, "form": "flow", "learning_rate": {"critical_fraction": 1.2}}))
    critical = 2 * curves[1][0]["learning_rate"].sel(size=20).max().item()
    with pytest.raises(StudyError, match=r"learning_rate: .* above the critical learning rate .* 20 samples"):
        measured(parsed(regression={**section, "learning_rate": 1.2 * critical}))


def test_infinity_may_be_written_as_yaml_writes_it():
    as_text, as_number = (parsed(regression={"sizes": [5], "times": [0, "1e3", end]}) for end in ("inf", np.inf))
    assert as_number.arms[0].settings.regression.times == [0, 1000, "inf"]
    assert as_number.arms[0].result_hash == as_text.arms[0].result_hash


def test_test_samples_without_targets_are_refused(study):
    data = build_task(study.arms[0].settings)
    data.target[-3:] = np.nan  # of the out-of-distribution split: not used
    regression.measure(study.arms[0].settings, data, kernels=kernel_store(data, gauss))
    data.target[TRAIN : TRAIN + 2] = np.nan
    with pytest.raises(DataError, match="2 of 25 test samples have no target"):
        regression.measure(study.arms[0].settings, data, kernels=kernel_store(data, gauss))


def test_join_needs_every_arm(study, curves):
    with pytest.raises(ValueError, match="2 arms but 1 datasets"):
        regression.join(study, curves[1][:1])


def test_the_kind_is_known():
    assert get_measure("kernel_regression") is regression
