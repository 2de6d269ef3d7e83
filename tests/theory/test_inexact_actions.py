"""μ_t and Σ_t where the action on the inputs is not exact, and where networks see canonical inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

from emergent_equivariance.augmentation import augmented_rows
from emergent_equivariance.canonicalisation import canonical
from emergent_equivariance.groups import Action, Group
from emergent_equivariance.metrics import Reference, predict
from emergent_equivariance.settings import CustomTask, Settings
from emergent_equivariance.study.budget import PROGRAM, needs
from emergent_equivariance.tasks import Readout, TaskData, build_task
from emergent_equivariance.theory import resolve_learning_rate, solve

pytestmark = pytest.mark.usefixtures("float64")

STEPS = [0, 1, 10, 100]


def settings(group: str = "c8", augmentation: Any = "full", task: Any = None, **sections: Any) -> Settings:
    return Settings.model_validate(
        {
            "task": {"name": "digits", "train": 6, "test": 4, **(task or {})},
            "group": group,
            "network": {"name": "mlp"},
            "augmentation": augmentation,
            "training": {"steps": STEPS[-1], "record": STEPS},
            "evaluate": {"samples": 3},
            **sections,
        }
    )


def solved(*arguments: Any, **sections: Any) -> tuple[Settings, TaskData, xr.Dataset]:
    arm = settings(*arguments, **sections)
    data = build_task(arm)
    return arm, data, solve(arm, data)


def relu_kernels(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """NNGP kernel and NTK of the mlp of ``settings`` between flattened inputs (Cho & Saul 2009)."""
    hidden = 1.4142**2 * x @ x.T / x.shape[1] + 0.1**2
    norm = np.sqrt(np.outer(hidden.diagonal(), hidden.diagonal()))
    cosine = np.clip(hidden / norm, -1, 1)
    angle = np.arccos(cosine)
    nngp = norm * (np.sqrt(1 - cosine**2) + (np.pi - angle) * cosine) / (2 * np.pi)
    return nngp, nngp + hidden * (np.pi - angle) / (2 * np.pi)


def brute_force(arm: Settings, data: TaskData, rate: float, seen: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """μ_t and Σ_t by iterating gradient descent on the augmented rows, one transform at a time."""
    transform = seen or (lambda x: x)
    orbits = np.stack([[transform(m[None])[0] for m in data.input_action.orbit(x[None])[0]] for x in data.input])
    train, order = np.flatnonzero(data.split == "train"), orbits.shape[1]
    rows = augmented_rows(arm.augmentation, len(train), order)
    at, n = data.evaluated(arm.evaluate.samples), len(rows)
    inputs = np.concatenate([[orbits[train[i], g] for i, g in rows], orbits[at].reshape(-1, *orbits.shape[2:])])
    nngp, ntk = relu_kernels(inputs.reshape(len(inputs), -1))
    target = data.target[train][rows[:, 0]]
    step = np.eye(len(inputs))
    step[:, :n] -= rate / (n * target.shape[1]) * ntk[:, :n]
    mean, spread = np.zeros((len(inputs), target.shape[1])), np.eye(len(inputs))
    means, covariances, done = [], [], 0
    for wanted in STEPS:
        for _ in range(wanted - done):
            error = mean[:n] - target
            mean = mean - rate / (n * target.shape[1]) * ntk[:, :n] @ error
            spread = step @ spread
        done = wanted
        covariance = (spread @ nngp @ spread.T)[n:, n:].reshape(len(at), order, len(at), order)
        means.append(mean[n:].reshape(len(at), order, -1))
        covariances.append(np.stack([covariance[i, :, i] for i in range(len(at))]))
    return np.stack(means), np.stack(covariances)


@pytest.mark.parametrize("augmentation", ["none", "full", {"subset": 3}])
@pytest.mark.parametrize("action", [{}, {"interpolation": "nearest", "mask": False, "fill": -0.5}])
def test_the_direct_route_is_that_of_the_augmented_rows(augmentation: Any, action: dict[str, Any]) -> None:
    arm, data, theory = solved("c8", augmentation, action=action)
    assert theory.attrs["route"] == "direct on the augmented set, because the action of c8 is not exact"
    mean, covariance = brute_force(arm, data, theory.attrs["learning_rate"])
    np.testing.assert_allclose(theory["mean"].values, mean, rtol=0, atol=1e-9)
    np.testing.assert_allclose(theory["orbit_covariance"].values, covariance, rtol=0, atol=1e-9)
    rate = resolve_learning_rate(arm, data)
    np.testing.assert_allclose(rate["learning_rate"], theory.attrs["learning_rate"], rtol=1e-12)


def test_fresh_elements_have_the_mean_of_the_full_orbit() -> None:
    _, _, full = solved("c8", "full")
    _, _, random = solved("c8", "random")
    np.testing.assert_allclose(random["mean"].values, full["mean"].values, rtol=0, atol=1e-12)
    assert "orbit_covariance" not in random


def plateau(group: str, augmentation: str, action: dict[str, Any]) -> tuple[float, float]:
    """Var_g μ_t/mean_g μ_t² at the last step on the training and on the test split, by the metrics' own prediction."""
    arm, data, theory = solved(group, augmentation, {"train": 12, "test": 6}, action=action, evaluate={"samples": 6})
    infinite = Reference.of(data, samples=arm.evaluate.samples, loss="mse", theory=theory)
    predicted = predict(infinite, xr.DataArray([10**15], dims="ensemble_size"))["predicted_orbit_variance"]
    size = (theory["mean"].isel(step=-1) ** 2).mean(("element", "output")).groupby("split").mean()
    last = predicted.isel(step=-1, ensemble_size=0)
    return tuple(float(last.sel(split=name) / size.sel(split=name)) for name in ("train", "test"))


def test_the_mean_keeps_an_orbit_variance_that_falls_as_the_action_becomes_exact() -> None:
    """Masks help on the training inputs, linear interpolation off them; both are far below no augmentation."""
    assert max(plateau("c4", "full", {})) < 1e-12
    bilinear, unmasked, nearest = (
        plateau("c8", "full", action) for action in ({}, {"mask": False}, {"interpolation": "nearest"})
    )
    control = plateau("c8", "none", {})
    assert 1e-4 < bilinear[0] < 0.9 * unmasked[0]
    assert 1e-4 < bilinear[1] < 0.9 * unmasked[1]
    assert bilinear[1] < 0.5 * nearest[1]
    assert all(augmented < 0.05 * plain for augmented, plain in zip(bilinear, control, strict=True))


def test_memory_is_counted_on_the_augmented_rows() -> None:
    """An action by interpolation takes |G|² times the Gram matrix of the solve in blocks."""
    task = {"train": 400, "test": 10, "ood": "none"}
    exact, inexact, canonical_inputs = (
        needs(settings(group, task=task, network={"name": "mlp", "canonicalisation": rule}))
        for group, rule in (("c4", "none"), ("c5", "none"), ("c4", "orbit_maximum"))
    )
    program = PROGRAM + settings().execution.block_memory
    assert inexact.solution - program > 8 * 6 * (5 * 400) ** 2 > 3 * (exact.solution - program)
    assert canonical_inputs.solution - program > 8 * 6 * (4 * 400) ** 2
    tiled = {"name": "digits", "train": 1000, "test": 100}
    for group, expected in (("c4", True), ("t2", True), ("c8", False)):
        assert (needs(settings(group, task=tiled, execution={"tiles_above": 500})).tiling is not None) == expected
    cnn = {"name": "cnn", "padding": "SAME"}
    assert needs(settings("t2", task=tiled, network=cnn, execution={"tiles_above": 500})).tiling is None


@pytest.mark.parametrize("group", ["c4", "c8"])
@pytest.mark.parametrize("augmentation", ["none", "full"])
def test_canonical_inputs_enter_the_kernels(group: str, augmentation: str) -> None:
    network = {"name": "mlp", "canonicalisation": "orbit_maximum"}
    arm, data, theory = solved(group, augmentation, network=network)
    mean, covariance = brute_force(arm, data, theory.attrs["learning_rate"], lambda x: canonical(data.input_action, x))
    np.testing.assert_allclose(theory["mean"].values, mean, rtol=0, atol=1e-9)
    np.testing.assert_allclose(theory["orbit_covariance"].values, covariance, rtol=0, atol=1e-9)
    variance = theory["mean"].var("element").max()
    if group == "c4":
        assert "the network sees canonical inputs" in theory.attrs["route"]
        assert variance < 1e-24
        block = theory["orbit_covariance"].values
        np.testing.assert_allclose(block, np.broadcast_to(block[..., :1, :1], block.shape), rtol=0, atol=1e-12)
        _, _, plain = solved("c4", "none", network=network)
        np.testing.assert_allclose(theory["mean"].values, plain["mean"].values, rtol=0, atol=1e-9)
    else:
        assert variance > 1e-6


@pytest.mark.parametrize("group", ["t2", "d3", "c1"])
def test_other_families(group: str) -> None:
    arm, data, theory = solved(group, "full")
    assert theory.attrs["route"].startswith("group" if group == "t2" else "direct")
    mean, covariance = brute_force(arm, data, theory.attrs["learning_rate"])
    np.testing.assert_allclose(theory["mean"].values, mean, rtol=0, atol=1e-9)
    np.testing.assert_allclose(theory["orbit_covariance"].values, covariance, rtol=0, atol=1e-9)


def ring(section: CustomTask, group: Group) -> TaskData:
    """Noise on a ring of sites that the rotations and reflections of a polygon permute."""
    sites = sum(np.linalg.det(matrix) > 0 for matrix in group.planar)
    power, flipped = np.arange(group.order) % sites, np.arange(group.order) >= sites
    site = np.arange(sites)
    source = np.stack([(site - k) % sites * (-1 if m else 1) % sites for k, m in zip(power, flipped, strict=True)])
    samples, generator = section.train + section.test, np.random.default_rng(0)
    action = Action(group, (sites,), source, np.ones(source.shape, dtype=np.int8))
    return TaskData(
        input=generator.standard_normal((samples, sites)),
        target=generator.standard_normal((samples, sites)),
        split=np.repeat(["train", "test"], [section.train, section.test]),
        input_action=action,
        output_action=action,
        output_name="sites",
        readout=Readout("sum", np.ones((1, sites))),
    )


@pytest.mark.parametrize("group", ["c5", "c8", "d5", "d6"])
def test_exact_actions_of_any_family_are_solved_in_blocks(group: str) -> None:
    """Irreps of every kind, with equivariant outputs, against the augmented rows."""
    task = {"name": "custom", "factory": f"{__name__}:ring", "train": 4, "test": 3}
    _, data, blocks = solved(group, "full", task)
    _, _, direct = solved(group, "full", task, theory={"route": "direct"})
    assert blocks.attrs["route"].startswith("group: irreps of") and direct.attrs["route"].startswith("direct")
    for name in ("mean", "orbit_covariance"):
        np.testing.assert_allclose(blocks[name].values, direct[name].values, rtol=0, atol=1e-11)
    pulled = data.output_action.pull_back(blocks["mean"].values)
    np.testing.assert_allclose(pulled, np.broadcast_to(pulled[:, :, :1], pulled.shape), rtol=0, atol=1e-11)
    assert np.abs(blocks["mean"].values).max() > 0.01


def test_a_gcnn_of_an_exact_subgroup() -> None:
    """Members are invariant under the quarter turns among the elements of c8, not under the others."""
    network = {"name": "gcnn", "group": "c4", "width": 4, "conv_layers": 1}
    _, _, theory = solved("c8", "none", {"train": 3, "test": 2}, network=network)
    mean = theory["mean"].isel(step=-1).values
    scale = np.sqrt((mean**2).mean())
    assert np.abs(mean[:, ::2] - mean[:, :1]).max() < 1e-9 * scale
    assert np.abs(mean[:, 1::2] - mean[:, :1]).max() > 1e-3 * scale
