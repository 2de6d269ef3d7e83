"""The analytic side of one arm: μ_t and Σ_t on group orbits, and the learning rate.

The direct route: the Gram matrices of the *augmented* training rows, one eigendecomposition, then the formulas of
``dynamics``. With full augmentation μ_t(gx) = ρ_Y(g) μ_t(x) for all t and all x (Gerken & Kessel 2024, theorem
5.1). Fresh random group elements have, in the linearised dynamics, the mean of the full orbit, but a larger
covariance, which is not computed.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import xarray as xr

from . import dynamics
from .augmentation import augmented_rows
from .kernels import cross_kernels, gram, orbit_blocks
from .networks import Network, build_network
from .settings import CriticalFraction, Settings
from .tasks.base import TaskData

__all__ = ["resolve_learning_rate", "solve"]

#: Called with (pairs of inputs finished, pairs in all).
Progress = Callable[[int, int], None]

PACKAGES = ("jax", "neural-tangents", "numpy", "scipy", "xarray")


def training_set(settings: Settings, data: TaskData) -> tuple[Network, np.ndarray, np.ndarray]:
    """The network and the augmented training set: inputs (row, *input shape), targets (row, output).

    The target of the row (x, g) is ρ_Y(g) y.
    """
    group, outputs = data.input_action.group, data.output_action.shape[0]
    settings.network.check_input(data.input_action.shape, group.name)
    network = build_network(settings.network, data.input_action.shape, outputs)
    train = np.flatnonzero(data.split == "train")
    rows = augmented_rows(settings.augmentation, len(train), group.order)
    inputs = data.input_action.orbit(data.input[train])[rows[:, 0], rows[:, 1]]
    targets = data.output_action.orbit(data.target[train])[rows[:, 0], rows[:, 1]]
    return network, inputs, targets


def resolve_learning_rate(settings: Settings, data: TaskData, progress: Progress | None = None) -> dict[str, float]:
    """The step size η that a critical_fraction stands for: ``learning_rate`` and ``critical_learning_rate``.

    critical = 2 N n_out/λ_max with λ_max the largest eigenvalue of Θ(X, X) on the N augmented training rows.
    """
    network, inputs, targets = training_set(settings, data)
    _, ntk = gram(network, inputs, progress=progress)
    critical = dynamics.critical_learning_rate(dynamics.largest_eigenvalue(ntk), *targets.shape)
    rate = settings.training.learning_rate
    eta = rate.critical_fraction * critical if isinstance(rate, CriticalFraction) else float(rate)
    return {"learning_rate": eta, "critical_learning_rate": critical}


def solve(
    settings: Settings, data: TaskData, learning_rate: float | None = None, progress: Progress | None = None
) -> xr.Dataset:
    """The theory store of an arm (docs/layout.md).

    Args:
      settings: the arm; its loss must be mse and its optimiser gd.
      data: the task.
      learning_rate: η; None: what the settings say, resolved here.
      progress: called with (pairs finished, pairs in all) of the kernels.

    Returns:
      Dataset with ``eigenvalue(mode)`` of Θ(X, X) on the augmented rows, ascending; where the study asks for them
      ``mean(step, sample, element, output)`` and ``orbit_covariance(step, sample, element, element_)`` per
      output. Time is in gradient-descent steps with the rate constant λ → ηλ/(N n_out). The attributes hold
      ``learning_rate`` η, ``critical_learning_rate`` 2 N n_out/λ_max, conventions, conditioning and, where η is
      too large or a mean is not finite, ``warning``.

    Raises ValueError for an arm without a closed form, UserError where a kernel is not finite, RuntimeError
    without 64-bit jax.
    """
    if not settings.training.has_mean:
        raise ValueError("the NTK gives no closed form for this arm: it needs loss mse and optimizer gd")
    network, inputs, targets = training_set(settings, data)
    samples = data.evaluated(settings.evaluate.samples)
    orbits = data.input_action.orbit(data.input[samples])
    gram_pairs = len(inputs) * (len(inputs) + 1) // 2
    total = gram_pairs + (orbits.shape[0] * orbits.shape[1] * len(inputs) if settings.has_mean else 0)

    def report(first: int, last: int) -> Progress | None:
        if progress is None:
            return None
        return lambda done, pairs: progress(first + round((last - first) * done / pairs), total)

    train_nngp, train_ntk = gram(network, inputs, progress=report(0, gram_pairs))
    spectrum = dynamics.decompose(train_ntk)
    critical = dynamics.critical_learning_rate(float(spectrum.eigenvalue[-1]), *targets.shape)
    rate = settings.training.learning_rate
    if learning_rate is None:
        learning_rate = rate.critical_fraction * critical if isinstance(rate, CriticalFraction) else float(rate)

    steps, group = settings.training.recorded, data.input_action.group
    coords: dict[str, Any] = {
        "step": ("step", np.asarray(steps), {"units": settings.training.unit}),
        "sample": samples,
        "split": ("sample", data.split[samples].astype(str)),
        "element": list(group.elements),
        "output": np.arange(targets.shape[1]),
    }
    variables: dict[str, Any] = {
        "eigenvalue": ("mode", spectrum.eigenvalue, {"long_name": "eigenvalues of the NTK on the augmented rows"})
    }
    if settings.has_mean:
        points = orbits.reshape(-1, *data.input_action.shape)
        cross_nngp, cross_ntk = (
            kernel.reshape(*orbits.shape[:2], len(inputs))
            for kernel in cross_kernels(network, points, inputs, progress=report(gram_pairs, total))
        )
        mean = dynamics.mean(spectrum, cross_ntk, targets, steps, learning_rate)
        name = {"long_name": f"mean of the infinite ensemble: {data.output_name}"}
        variables["mean"] = (("step", "sample", "element", "output"), mean, name)
    if settings.has_covariance:
        coords["element_"] = list(group.elements)
        orbit_nngp = orbit_blocks(network, orbits)
        covariance = dynamics.covariance(
            spectrum, cross_ntk, cross_nngp, train_nngp, orbit_nngp, steps, learning_rate, targets.shape[1]
        )
        name = {"long_name": "covariance of the infinite ensemble over the orbit, per output"}
        variables["orbit_covariance"] = (("step", "sample", "element", "element_"), covariance, name)
    solution = xr.Dataset(variables, coords)
    return solution.assign_attrs(_attributes(network, spectrum, targets.shape, learning_rate, critical, solution))


def _attributes(
    network: Network,
    spectrum: dynamics.Spectrum,
    size: tuple[int, ...],
    learning_rate: float,
    critical: float,
    solution: xr.Dataset,
) -> dict[str, Any]:
    """Conventions, conditioning and warnings of a solution; ``size`` is (rows, outputs)."""
    attributes: dict[str, Any] = {
        "learning_rate": learning_rate,
        "critical_learning_rate": critical,
        "rows": size[0],
        "outputs": size[1],
        "loss": "1/(2 rows outputs) * sum |f - y|^2 over the augmented rows",
        "time": "gradient descent: an error along a mode decays as (1 - learning_rate eigenvalue/(rows outputs))^step",
        "smallest_eigenvalue": float(spectrum.eigenvalue[0]),
        "largest_eigenvalue": float(spectrum.eigenvalue[-1]),
        "negative_eigenvalues": spectrum.negative,
        "rank": spectrum.rank,
        "route": "direct on the augmented set",
        "network": network.description,
        "versions": ", ".join(f"{package} {version(package)}" for package in PACKAGES),
    }
    warnings = []
    if learning_rate > critical:
        warnings.append(
            f"training.learning_rate: {learning_rate:g} is above the critical learning rate {critical:g} = "
            f"2 N n_out/λ_max of the NTK on {size[0]} training rows: gradient descent is expected to diverge. "
            "Lower it, or give {critical_fraction: 0.5}."
        )
    finite = np.isfinite(solution["mean"].values).all(axis=(1, 2, 3)) if "mean" in solution else np.array([True])
    if not finite.all():
        first = int(solution["step"].values[~finite][0])
        warnings.append(f"The analytic mean is not finite from step {first} on.")
    if warnings:
        attributes["warning"] = " ".join(warnings)
    return attributes
