"""Synthetic results with the dimensions of docs/layout.md and plausible numbers, drawn from the theory itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from emergent_equivariance.predictions import ArmStores, with_stores
from emergent_equivariance.study import Study, parse_study

GROUP_ORDER = {"c2": 2, "c4": 4, "d4": 8}


def make_study(**changes: Any) -> Study:
    """A study file's content with some sections replaced (None removes one), parsed."""
    content = {
        "study": "synthetic",
        "task": {"name": "ising", "lattice": 5, "target": "total", "ood": "gaussian"},
        "group": "c4",
        "network": {"name": "mlp"},
        "training": {"loss": "mse", "optimizer": "gd", "steps": 300, "record": [0, 3, 10, 30, 100, 300]},
        "ensemble": {"members": 256},
        "evaluate": {"samples": 16},
        "sweep": {"network.width": [64, 128, 256], "augmentation": ["none", "full"]},
    }
    content.update(changes)
    return parse_study({key: value for key, value in content.items() if value is not None}, Path("synthetic.yaml"))


def classification_study(**changes: Any) -> Study:
    """Cross-entropy on the digits, by epochs: no analytic mean."""
    section = {
        "task": {"name": "digits", "train": 256, "test": 128},
        "network": {"name": "cnn", "width": 16},
        "training": {"loss": "cross_entropy", "optimizer": "adam", "learning_rate": 0.003, "epochs": 12},
        "ensemble": {"members": 32},
        "sweep": {"augmentation": ["none", "full"]},
    }
    return make_study(**{**section, **changes})


def cosine_study(**changes: Any) -> Study:
    """The mirror toy."""
    section = {
        "task": {"name": "cosine", "train": 12, "test": 61},
        "group": "c2",
        "training": {"loss": "mse", "optimizer": "gd", "steps": 1000, "record": [0, 10, 30, 100, 1000]},
        "ensemble": {"members": 64},
        "evaluate": {"samples": 61},
        "sweep": {"augmentation": ["none", "full"]},
    }
    return make_study(**{**section, **changes})


def make_metrics(study: Study, *, seed: int = 0, diverged: int = 0) -> xr.Dataset:
    """A metrics dataset in which the ensemble's orbit variance follows its prediction times a drift."""
    rng = np.random.default_rng(seed)
    arms, training = study.arms, study.arms[0].settings.training
    splits, steps = arms[0].settings.splits(), training.recorded
    members = arms[0].settings.ensemble.members
    counts = sorted({*(2**k for k in range(20) if 2**k < members), members - diverged})
    shape = (len(arms), len(steps), len(splits), len(counts))
    dims = ("arm", "step", "split", "member_count")
    time = np.arange(len(steps)) / max(len(steps) - 1, 1)
    level = {"train": 0.5 * 10.0 ** (-3 * time), "test": 0.5 * 10.0 ** (-0.5 * time)}
    bias = np.zeros(shape[:3])
    base, drift, predicted = np.zeros(shape[:3]), np.ones(shape[:3]), np.zeros(shape[:3], dtype=bool)
    for a, arm in enumerate(arms):
        for s, split in enumerate(splits):
            base[a, :, s] = level.get(split, 1.0 + 0 * time) ** 2
            if arm.settings.augmentation.label == "none":
                bias[a, :, s] = 0.3 * base[a, :, s] * time
            width = arm.settings.network.width
            strength = 60 if split == "train" else -8
            drift[a, :, s] = 1 + strength / width * time**3
        predicted[a] = arm.settings.has_covariance
    m = np.array(counts)
    expectation = bias[..., None] + base[..., None] / m
    noise = 0.05 * rng.standard_normal(shape)
    measured = (bias[..., None] + base[..., None] * drift[..., None] / m) * (1 + noise)
    value: dict[str, Any] = {
        "orbit_variance": (dims, measured),
        "orbit_variance_se": (dims, 0.05 * measured),
        "predicted_orbit_variance": (dims, np.where(predicted[..., None], expectation, np.nan)),
        "member_orbit_variance": (
            (*dims[:3], "member"),
            (bias + base * drift)[..., None] * rng.gamma(6, 1 / 6, (*shape[:3], members)),
        ),
    }
    ratio = np.where(predicted, (bias + base * drift) / (bias + base), np.nan)
    augmented = np.array([arm.settings.augmentation.label != "none" for arm in arms])[:, None, None]
    slope = np.where(augmented, -0.5, -0.2) + 0.01 * rng.standard_normal(shape[:3])
    single = members == 1
    value |= {
        "orbit_variance_ratio": (dims[:3], ratio * (1 + 0.02 * rng.standard_normal(shape[:3]))),
        "orbit_variance_ratio_se": (dims[:3], np.where(predicted, 0.02 * ratio, np.nan)),
        "orbit_slope": (dims[:3], np.full_like(slope, np.nan) if single else slope),
        "orbit_slope_se": (dims[:3], np.full_like(slope, np.nan if single else 0.01)),
        "members": ("arm", np.full(len(arms), members - diverged)),
        "diverged": ("arm", np.full(len(arms), diverged)),
    }
    if diverged:
        value["member_orbit_variance"][1][..., :diverged] = np.nan
    width = np.array([arm.settings.network.width for arm in arms])[:, None, None, None]
    distance = np.sqrt((3.0 / width * (0.2 + time[None, :, None, None])) ** 2 + 0.02**2 / m)
    distance = distance * np.exp(0.03 * rng.standard_normal(shape)) * np.where(predicted[..., None], 1, np.nan)
    distance[:, 0] = np.nan
    value |= {
        "difference_to_ntk": (dims, distance),
        "difference_to_ntk_se": (dims, 0.03 * distance),
        "zscore_to_ntk": (dims, np.where(predicted[..., None], 1.1 + 0 * measured, np.nan)),
        "zscore_to_ntk_se": (dims, np.where(predicted[..., None], 0.05 + 0 * measured, np.nan)),
    }
    if arms[0].settings.task.name == "digits":
        order = GROUP_ORDER[arms[0].settings.group]
        gap = np.where(augmented, 0.45 - 0.3 * time[None, :, None], 0.5 - 0.05 * time[None, :, None])
        gap = (order - 1) * gap * np.array([0.6, 0.9, 1.2])[: len(splits)]
        same = order - gap[..., None] / np.sqrt(m) ** np.where(augmented, 1, 0.2)[..., None]
        spread = 0.12 * rng.standard_normal((*shape[:3], members))
        value |= {
            "orbit_same_predictions": (dims, same),
            "orbit_same_predictions_se": (dims, 0.03 + 0 * same),
            "member_orbit_same_predictions": (
                (*dims[:3], "member"),
                np.clip(order - gap[..., None] + spread, 1, order),
            ),
            "accuracy": (dims, 0.9 + 0 * same),
            "accuracy_se": (dims, 0.01 + 0 * same),
        }
    columns = {key: ("arm", [arm.coords.get(key) for arm in arms]) for key in arms[0].coords}
    coords = {
        "arm": [arm.path for arm in arms],
        "step": ("step", steps, {"units": training.unit}),
        "split": splits,
        "member_count": counts,
        "member": np.arange(members),
        "network_width": ("arm", [arm.settings.network.width for arm in arms]),
        "augmentation_label": ("arm", [arm.settings.augmentation.label for arm in arms]),
        "group_order": ("arm", [GROUP_ORDER[arm.settings.group] for arm in arms]),
        **columns,
    }
    attributes = {
        "study": study.name,
        "git_commit": "0123456789ab",
        "versions": '{"jax": "0.10.0"}',
        "data_provenance": '{"source": "generated here", "normalisation": "spins are ±1"}',
    }
    metrics = xr.Dataset(value, coords, attributes)
    metrics["orbit_variance"].attrs = {"observable": "total energy", "units": "1"}
    return metrics


# ----------------------------------------------------------------------- predictions of a Gaussian process


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared exponential kernel of inputs (row, coordinate), invariant under orthogonal maps."""
    distance = ((a[:, None, :] - b[None, :, :]) ** 2).sum(-1)
    return np.exp(-distance / (2 * 1.5**2)) + 0.3


def _process(x: np.ndarray, orbit: np.ndarray, y: np.ndarray, steps: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """μ_t (step, row) and Σ_t (step, row, row) of theory.md §2 for Θ = K, at half the critical rate."""
    gram, cross = _kernel(x, x), _kernel(orbit, x)
    eigenvalue, vector = np.linalg.eigh(gram)
    means, covariances = [], []
    for step in steps:
        decay = (1 - eigenvalue / eigenvalue.max()) ** step
        solve = (vector * ((1 - decay) / np.maximum(eigenvalue, 1e-10))) @ vector.T
        a = cross @ solve
        means.append(a @ y)
        covariances.append(_kernel(orbit, orbit) + a @ gram @ a.T - a @ cross.T - cross @ a.T)
    return np.array(means), np.array(covariances)


def make_stores(study: Study, *, seed: int = 0, examples: bool = True, mixing: bool = False) -> dict[str, ArmStores]:
    """Stores of every arm: members are drawn from the Gaussian process that theory says they are.

    Args:
      examples: whether predictions of single members are kept.
      mixing: give the data two outputs whose sum is the observable.
    """
    stores = {}
    for arm in study.arms:
        rng = np.random.default_rng(seed)
        settings = arm.settings
        splits = settings.splits()
        if settings.task.name == "cosine":
            edge = settings.task.domain
            x = {
                "train": np.sort(rng.uniform(-edge, edge, settings.task.train)),
                "test": np.linspace(-edge, edge, settings.task.test),
                "ood-outside": rng.choice([-1, 1], 40) * rng.uniform(edge, 1.5 * edge, 40),
            }
            inputs = np.concatenate(list(x.values()))[:, None]
            target = np.cos(inputs)
            matrices, elements = np.array([[[1.0]], [[-1.0]]]), ["e", "r2"]
        else:
            inputs = rng.standard_normal((6 * len(splits), 2))
            x = {split: inputs[6 * k : 6 * k + 6, 0] for k, split in enumerate(splits)}
            target = (inputs[:, :1] ** 2 - inputs[:, 1:] ** 2) ** 2 / 4
            turn = np.array([[0.0, -1.0], [1.0, 0.0]])
            matrices, elements = np.array([np.linalg.matrix_power(turn, k) for k in range(4)]), ["e", "r", "r2", "r3"]
        split = np.concatenate([[name] * len(values) for name, values in x.items()])
        orbit = np.einsum("gij,sj->sgi", matrices, inputs)
        train = split == "train"
        rows = orbit[train] if arm.settings.augmentation.label != "none" else orbit[train][:, :1]
        y = np.repeat(target[train, 0], rows.shape[1])
        steps, size, order = settings.training.recorded, len(inputs), len(elements)
        mean, covariance = _process(rows.reshape(-1, inputs.shape[1]), orbit.reshape(size * order, -1), y, steps)
        members, outputs = settings.ensemble.members, 2 if mixing else 1
        draws = np.empty((members, len(steps), size, order, outputs))
        normal = rng.standard_normal((members, size * order, outputs))
        for t in range(len(steps)):
            eigenvalue, vector = np.linalg.eigh(covariance[t])
            root = vector * np.sqrt(np.maximum(eigenvalue, 0))
            draws[:, t] = (mean[t][:, None] + root @ normal).reshape(members, size, order, outputs)
        block = covariance.reshape(len(steps), size, order, size, order)
        block = np.stack([block[:, s, :, s, :] for s in range(size)], axis=1)
        coords = {"step": steps, "sample": np.arange(size), "element": elements}
        data = xr.Dataset(
            {
                "input": (("sample", "axis_0"), inputs),
                "input_sign": (("element", "coordinate"), matrices[:, :, 0] if order == 2 else np.ones((order, 1))),
                "target": (("sample", "output"), np.repeat(target, outputs, axis=1)),
                "readout": (("observable", "output"), np.ones((1, outputs))),
            },
            {"sample": np.arange(size), "split": ("sample", split), "element": elements},
            {"observable_name": "total energy" if mixing else "f"},
        )
        shaped = np.repeat(mean.reshape(len(steps), size, order, 1), outputs, axis=-1)
        theory = xr.Dataset(
            {
                "mean": (("step", "sample", "element", "output"), shaped),
                "orbit_covariance": (("step", "sample", "element", "element_"), block),
            },
            coords,
        )
        dims = ("step", "sample", "element", "output")
        observable = draws.sum(-1, keepdims=True)
        ensemble = xr.Dataset(
            {
                "mean": (dims, draws.mean(0)),
                "second_moment": (dims, (draws**2).mean(0)),
                "observable_second_moment": ((*dims[:-1], "observable"), (observable**2).mean(0)),
            },
            coords,
            {"members": members},
        )
        if examples:
            ensemble["example_prediction"] = (("example", *dims), draws[:8])
        stores[arm.path] = ArmStores(data, theory if settings.has_mean else None, ensemble)
    return stores


def make_whole(study: Study, stores: dict[str, ArmStores] | None = None, **options: Any) -> xr.Dataset:
    """The metrics with what is quoted of the stores of all arms, as metrics.nc has it.

    Args:
      options: of make_metrics.
    """
    return with_stores(study, make_metrics(study, **options), stores or make_stores(study))


def diverge(metrics: xr.Dataset, stores: dict[str, ArmStores], arms: list[str]) -> None:
    """Make all members of some arms diverged, in place: as ``join`` and ``aggregate`` give such arms."""
    for arm in arms:
        for values in metrics.data_vars.values():
            if values.dtype.kind == "f":
                values.loc[{"arm": arm}] = np.nan
        metrics["diverged"].loc[{"arm": arm}] += metrics["members"].sel(arm=arm)
        metrics["members"].loc[{"arm": arm}] = 0
        if arm in stores:
            data, theory, ensemble = stores[arm]
            lost = (ensemble * np.nan).drop_vars("example_prediction", errors="ignore")
            lost.attrs = {**ensemble.attrs, "members": 0, "diverged": ensemble.attrs["members"]}
            stores[arm] = ArmStores(data, theory, lost)
