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
from .networks import build_network
from .settings import CriticalFraction, Settings
from .tasks.base import TaskData

__all__ = ["solve"]

#: Called with (pairs of inputs finished, pairs in all).
Progress = Callable[[int, int], None]

PACKAGES = ("jax", "neural-tangents", "numpy", "scipy", "xarray")


def solve(settings: Settings, data: TaskData, progress: Progress | None = None) -> xr.Dataset:
    """The theory store of an arm (docs/layout.md).

    Args:
      settings: the arm; its loss must be mse and its optimiser gd.
      data: the task.
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
    group, outputs = data.input_action.group, data.output_action.shape[0]
    settings.network.check_input(data.input_action.shape, group.name)
    network = build_network(settings.network, data.input_action.shape, outputs)

    train = np.flatnonzero(data.split == "train")
    rows = augmented_rows(settings.augmentation, len(train), group.order)
    inputs = data.input_action.orbit(data.input[train])[rows[:, 0], rows[:, 1]]
    targets = data.output_action.orbit(data.target[train])[rows[:, 0], rows[:, 1]]

    samples = data.evaluated(settings.evaluate.samples)
    orbits = data.input_action.orbit(data.input[samples])
    points = orbits.reshape(-1, *data.input_action.shape)
    gram_pairs, cross_pairs = len(rows) * (len(rows) + 1) // 2, len(points) * len(rows)
    total = gram_pairs + (cross_pairs if settings.has_mean else 0)

    def report(first: int, last: int) -> Progress | None:
        if progress is None:
            return None
        return lambda done, pairs: progress(first + round((last - first) * done / pairs), total)

    train_nngp, train_ntk = gram(network, inputs, progress=report(0, gram_pairs))
    spectrum = dynamics.decompose(train_ntk)
    largest = float(spectrum.eigenvalue[-1])
    critical = dynamics.critical_learning_rate(largest, len(rows), outputs)
    chosen = settings.training.learning_rate
    eta = chosen.critical_fraction * critical if isinstance(chosen, CriticalFraction) else float(chosen)

    steps = settings.training.recorded
    coords: dict[str, Any] = {
        "step": ("step", np.asarray(steps), {"units": settings.training.unit}),
        "sample": samples,
        "split": ("sample", data.split[samples].astype(str)),
        "element": list(group.elements),
        "output": np.arange(outputs),
    }
    variables: dict[str, Any] = {
        "eigenvalue": ("mode", spectrum.eigenvalue, {"long_name": "eigenvalues of the NTK on the augmented rows"})
    }
    if settings.has_mean:
        cross_nngp, cross_ntk = (
            kernel.reshape(len(samples), group.order, len(rows))
            for kernel in cross_kernels(network, points, inputs, progress=report(gram_pairs, total))
        )
        mean = dynamics.mean(spectrum, cross_ntk, targets, steps, eta)
        variables["mean"] = (
            ("step", "sample", "element", "output"),
            mean,
            {"long_name": f"mean of the infinite ensemble: {data.output_name}"},
        )
        if settings.has_covariance:
            coords["element_"] = list(group.elements)
            covariance = dynamics.covariance(
                spectrum, cross_ntk, cross_nngp, train_nngp, orbit_blocks(network, orbits), steps, eta, outputs
            )
            variables["orbit_covariance"] = (
                ("step", "sample", "element", "element_"),
                covariance,
                {"long_name": "covariance of the infinite ensemble over the orbit, per output"},
            )
    attributes: dict[str, Any] = {
        "learning_rate": eta,
        "critical_learning_rate": critical,
        "rows": len(rows),
        "outputs": outputs,
        "loss": "1/(2 rows outputs) * sum |f - y|^2 over the augmented rows",
        "time": "gradient descent: an error along a mode decays as (1 - learning_rate eigenvalue/(rows outputs))^step",
        "smallest_eigenvalue": float(spectrum.eigenvalue[0]),
        "largest_eigenvalue": largest,
        "negative_eigenvalues": spectrum.negative,
        "rank": spectrum.rank,
        "route": "direct on the augmented set",
        "network": network.description,
        "versions": ", ".join(f"{package} {version(package)}" for package in PACKAGES),
    }
    warnings = []
    if eta > critical:
        warnings.append(
            f"training.learning_rate: {eta:g} is above the critical learning rate {critical:g} = 2 N n_out/λ_max "
            f"of the NTK on {len(rows)} training rows: gradient descent is expected to diverge. "
            "Lower it, or give {critical_fraction: 0.5}."
        )
    if settings.has_mean and not np.isfinite(mean).all():
        first = steps[int(np.argmin(np.isfinite(mean).all(axis=(1, 2, 3))))]
        warnings.append(f"The analytic mean is not finite from step {first} on.")
    if warnings:
        attributes["warning"] = " ".join(warnings)
    return xr.Dataset(variables, coords, attributes)
