"""The theory of an arm: equivariance of μ_t (theory.md §7, item 1), covariance, learning rate, oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

from emergent_equivariance.groups import Group
from emergent_equivariance.infinite_width import stax
from emergent_equivariance.settings import CustomTask, GroupAction, Settings
from emergent_equivariance.tasks.base import TaskData
from emergent_equivariance.tasks.images import classification
from emergent_equivariance.tasks.registry import build_task
from emergent_equivariance.theory import solve

pytestmark = pytest.mark.usefixtures("float64")

STEPS = [0, 1, 10, 100, 1000]

TASKS: dict[str, dict[str, Any]] = {
    "ising-local": {"name": "ising", "lattice": 4, "target": "local", "train": 8, "test": 4},
    "ising-total": {"name": "ising", "lattice": 4, "target": "total", "train": 8, "test": 4},
    "digits": {"name": "digits", "train": 8, "test": 4},
    "cosine": {"name": "cosine", "train": 8, "test": 4},
    "colour": {"name": "custom", "factory": f"{__name__}:colour_images", "train": 8, "test": 4},
}
NETWORKS: dict[str, dict[str, Any]] = {
    "mlp": {"name": "mlp", "hidden_layers": 2},
    "flatten": {"name": "cnn", "head": "flatten"},
    "pool": {"name": "cnn", "head": "global_average_pool"},
    "gcnn": {"name": "gcnn"},
}


def colour_images(section: CustomTask, group: Group) -> TaskData:
    """Images of three channels in the form of PathMNIST: noise, classes at random."""
    generator, count = np.random.default_rng(0), {"train": section.train, "test": section.test}
    image = {split: generator.standard_normal((n, 6, 6, 3)) for split, n in count.items()}
    label = {split: generator.integers(4, size=n) for split, n in count.items()}
    return classification(image, label, group, GroupAction(), {}, classes=4)


def settings(
    task: str, group: str, network: str, augmentation: Any = "full", route: str = "auto", **options: Any
) -> Settings:
    return Settings.model_validate(
        {
            "task": TASKS[task],
            "group": group,
            "network": NETWORKS[network],
            "augmentation": augmentation,
            "training": {"steps": STEPS[-1], "record": STEPS, **options},
            "theory": {"route": route},
            "evaluate": {"samples": 3},
        }
    )


def solved(*arguments: Any, **options: Any) -> tuple[xr.Dataset, Any]:
    arm = settings(*arguments, **options)
    data = build_task(arm)
    return solve(arm, data), data


def orbit_deviation(theory: xr.Dataset, data: Any) -> np.ndarray:
    """(step,) largest |ρ_Y(g)⁻¹ μ_t(gx) − μ_t(x)| over the root mean square of μ_t; 0 at step 0."""
    mean = theory["mean"].values
    pulled = data.output_action.pull_back(mean)
    deviation = np.abs(pulled - pulled[:, :, :1]).max(axis=(1, 2, 3))
    scale = np.sqrt((mean**2).mean(axis=(1, 2, 3)))
    return deviation / np.where(scale > 0, scale, 1)


def cases() -> list[Any]:
    """Every task × group × network; a Latin square of them, in which all pairs meet, is run by default."""
    grid = []
    for i, task in enumerate(("ising-local", "ising-total", "digits")):
        for j, group in enumerate(("c2", "c4", "d4", "d2")):
            for k, network in enumerate(("mlp", "flatten", "pool")):
                marks = () if (i + j + k) % 3 == 1 else pytest.mark.slow
                grid.append(pytest.param(task, group, network, marks=marks))
    for group in ("c2", "c4", "d4", "d2"):
        marks = () if group == "d4" else pytest.mark.slow
        grid += [pytest.param("colour", group, network, marks=marks) for network in ("mlp", "flatten", "pool", "gcnn")]
    return [*grid, ("digits", "d2", "gcnn"), ("cosine", "c2", "mlp")]


@pytest.mark.parametrize(("task", "group", "network"), cases())
def test_full_augmentation_makes_the_mean_equivariant(task: str, group: str, network: str) -> None:
    """On the direct route, which knows nothing of the group but the augmented rows."""
    theory, data = solved(task, group, network, route="direct")
    deviation = orbit_deviation(theory, data)
    assert deviation[0] == 0
    assert deviation.max() < 1e-12, deviation
    if task == "ising-local":
        assert not data.output_action.is_invariant


@pytest.mark.parametrize("group", ["c2", "c4", "d2", "d4"])
def test_the_solve_in_blocks_keeps_it(group: str) -> None:
    deviation = orbit_deviation(*solved("ising-local", group, "mlp"))
    assert deviation[0] == 0 and deviation.max() < 1e-12, deviation


@pytest.mark.parametrize(
    ("task", "group", "network"),
    [
        ("ising-local", "c4", "mlp"),
        ("ising-total", "d4", "flatten"),
        ("digits", "c4", "mlp"),
        ("cosine", "c2", "mlp"),
        ("colour", "d4", "mlp"),
    ],
)
def test_control_without_augmentation_it_is_not(task: str, group: str, network: str) -> None:
    deviation = orbit_deviation(*solved(task, group, network, "none"))
    assert (deviation[1:] > 0.1).all(), deviation


@pytest.mark.parametrize(("task", "group"), [("ising-total", "d4"), ("colour", "c4"), ("digits", "d2")])
def test_a_gcnn_is_invariant_without_augmentation(task: str, group: str) -> None:
    deviation = orbit_deviation(*solved(task, group, "gcnn", "none"))
    assert deviation[0] == 0 and deviation.max() < 1e-12, deviation


def test_partial_augmentation_lies_between() -> None:
    none, subset, full = (
        orbit_deviation(*solved("digits", "c4", "mlp", augmentation))[-1]
        for augmentation in ("none", {"subset": 2}, "full")
    )
    assert full < 1e-12 < 0.01 * none < subset < none


@pytest.mark.parametrize("augmentation", ["none", "full"])
@pytest.mark.parametrize("case", [("ising-local", "c4", "mlp"), ("digits", "c2", "pool"), ("cosine", "c2", "mlp")])
def test_covariance(case: tuple[str, str, str], augmentation: str) -> None:
    theory, _ = solved(*case, augmentation)
    covariance = theory["orbit_covariance"].values
    scale = covariance[0].max()
    np.testing.assert_array_equal(covariance, covariance.swapaxes(-1, -2))
    assert np.linalg.eigvalsh(covariance).min() > -1e-13 * scale, "Σ_t ≥ 0"
    own = covariance.diagonal(axis1=-2, axis2=-1).mean(axis=-1)
    assert (own - covariance.mean(axis=(-2, -1)) > -1e-13 * scale).all(), "expected orbit variance of a member"
    train = (theory["split"] == "train").values
    assert own[-1, train].mean() < 0.5 * own[0, train].mean(), "training pins members on the training inputs"


def rotated(x: np.ndarray, k: int) -> np.ndarray:
    """Images (sample, height, width, channel) turned by k quarters."""
    return np.rot90(x, k, axes=(1, 2))


def test_against_explicit_descent_on_images_turned_by_numpy() -> None:
    """μ_t and Σ_t of the local energies, with nothing of ours but the data and nothing solved."""
    theory, data = solved("ising-local", "c4", "mlp", "full", learning_rate=2.0)
    train = data.split == "train"
    x = data.input[train]
    y = data.target[train].reshape(-1, 4, 4, 1)
    direction = 1 if np.array_equal(data.input_action.orbit(x)[:, 1], rotated(x, 1)) else -1
    inputs = np.concatenate([rotated(x, direction * k) for k in range(4)])
    targets = np.concatenate([rotated(y, direction * k) for k in range(4)]).reshape(len(inputs), 16)
    samples = data.input[theory["sample"].values]
    points = np.stack([rotated(samples, direction * k) for k in range(4)], axis=1).reshape(-1, 16)

    hidden = [stax.Dense(1, W_std=1.4142, b_std=0.1), stax.Relu(), stax.Dense(1, W_std=1.4142, b_std=0.1), stax.Relu()]
    _, _, kernel_fn = stax.serial(*hidden, stax.Dense(1))
    everything = np.concatenate([inputs.reshape(-1, 16), points])
    nngp, ntk = (np.asarray(k) for k in kernel_fn(everything, everything, ("nngp", "ntk")))
    rows = len(inputs)
    response, mean = np.zeros((len(everything), rows)), np.zeros((len(everything), 16))
    rate = 2.0 / (rows * 16)
    for step in range(101):
        if step in (0, 1, 10, 100):
            got = theory.sel(step=step)
            expected = mean[rows:].reshape(len(samples), 4, 16)
            np.testing.assert_allclose(got["mean"], expected, rtol=0, atol=1e-7 * max(np.abs(mean).max(), 1e-300))
            a = response[rows:]
            covariance = nngp[rows:, rows:] + a @ nngp[:rows, :rows] @ a.T - a @ nngp[:rows, rows:]
            covariance -= nngp[rows:, :rows] @ a.T
            blocks = covariance.reshape(len(samples), 4, len(samples), 4)
            expected = np.stack([blocks[s, :, s] for s in range(len(samples))])
            np.testing.assert_allclose(got["orbit_covariance"], expected, rtol=0, atol=1e-7 * nngp.max())
        mean = mean - rate * ntk[:, :rows] @ (mean[:rows] - targets)
        response = response - rate * ntk[:, :rows] @ (response[:rows] - np.eye(rows))


def test_schema() -> None:
    theory, data = solved("ising-local", "c4", "mlp")
    assert theory["mean"].dims == ("step", "sample", "element", "output")
    assert theory["orbit_covariance"].dims == ("step", "sample", "element", "element_")
    assert theory["mean"].shape == (5, 9, 4, 16)
    assert theory["eigenvalue"].dims == ("mode",) and theory.sizes["mode"] == 32
    assert theory["step"].attrs["units"] == "step"
    assert list(theory["element"].values) == list(data.input_action.group.elements) == list(theory["element_"].values)
    assert list(theory["sample"].values) == list(data.evaluated(3))
    assert list(theory["split"].values) == list(data.split[data.evaluated(3)])
    attributes = theory.attrs
    assert attributes["rows"] == 32 and attributes["outputs"] == 16
    assert attributes["learning_rate"] == pytest.approx(0.5 * attributes["critical_learning_rate"])
    largest = theory["eigenvalue"].values[-1]
    assert attributes["critical_learning_rate"] == pytest.approx(2 * 32 * 16 / largest)
    assert attributes["route"].startswith("group: irreps of c4 in blocks of 1 × 8, 1 × 8, 2 × 8, because")
    assert attributes["modes"] == "all" and attributes["rank"] == 32 and attributes["negative_eigenvalues"] == 0
    assert attributes["smallest_kept_eigenvalue"] == attributes["smallest_eigenvalue"] > 0
    assert "warning" not in attributes
    assert all(isinstance(value, str | int | float) for value in attributes.values()), "storable"


def test_random_elements_have_the_mean_of_the_full_orbit_and_no_covariance() -> None:
    random, _ = solved("ising-total", "c4", "mlp", "random")
    full, _ = solved("ising-total", "c4", "mlp", "full")
    np.testing.assert_array_equal(random["mean"], full["mean"])
    assert "orbit_covariance" not in random and "element_" not in random.coords


def test_learning_rate_alone() -> None:
    arm = settings("ising-total", "c4", "mlp").model_copy(
        update={"theory": Settings.model_fields["theory"].annotation(mean=False)}
    )
    theory = solve(arm, build_task(arm))
    assert "mean" not in theory and theory.attrs["learning_rate"] > 0


def test_learning_rate_above_critical_is_said() -> None:
    stable, _ = solved("ising-total", "c4", "mlp")
    above = 1.5 * stable.attrs["critical_learning_rate"]
    theory, _ = solved("ising-total", "c4", "mlp", learning_rate=above)
    assert theory.attrs["learning_rate"] == above
    assert "above the critical learning rate" in theory.attrs["warning"]
    wild, _ = solved("ising-total", "c4", "mlp", learning_rate=100 * above)
    assert "not finite from step 1000" in wild.attrs["warning"]


def test_progress_reaches_the_end() -> None:
    arm = settings("ising-total", "c4", "mlp")
    calls: list[tuple[int, int]] = []
    solve(arm, build_task(arm), progress=lambda done, total: calls.append((done, total)))
    assert calls == sorted(calls) and calls[-1][0] == calls[-1][1]


def test_arms_without_a_closed_form_are_refused() -> None:
    arm = Settings.model_validate(
        {
            "task": TASKS["digits"],
            "network": NETWORKS["mlp"],
            "training": {"optimizer": "adam", "loss": "cross_entropy", "epochs": 1, "learning_rate": 0.01},
        }
    )
    with pytest.raises(ValueError, match="no closed form"):
        solve(arm, build_task(arm))
