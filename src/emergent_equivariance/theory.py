"""The theory of one arm: μ_t and Σ_t on group orbits, and the learning rate.

With full augmentation μ_t(gx) = ρ_Y(g) μ_t(x) for all t and all x (Gerken & Kessel 2024, theorem 5.1), and the problem
is solved in blocks, one per irrep of the group; otherwise on the augmented rows (``routes``). Fresh random group
elements have, in the linearised dynamics, the mean of the full orbit, but a larger covariance, which is not computed.
Kernels are analytic, or, where ``theory.monte_carlo`` says so, estimated from many networks (``monte_carlo``).
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np
import xarray as xr

from . import dynamics
from .kernels import Progress
from .routes import ArmData, Problem, kernel_samples, largest_eigenvalue, problem
from .settings import CriticalFraction, Settings
from .tasks.base import TaskData

__all__ = ["kernel_samples", "resolve_learning_rate", "solve"]

KERNEL = "analytic, of infinite width"

PACKAGES = ("jax", "neural-tangents", "numpy", "scipy", "xarray")

TIME = {
    "descent": "gradient descent: an error along a mode decays as (1 - learning_rate eigenvalue/(rows outputs))^step",
    "flow": "gradient flow: an error along a mode decays as exp(-learning_rate eigenvalue step/(rows outputs))",
}


def resolve_learning_rate(
    settings: Settings, data: TaskData, progress: Progress | None = None, kernels: xr.Dataset | None = None
) -> dict[str, float]:
    """The step size η that a critical_fraction stands for: ``learning_rate`` and ``critical_learning_rate``.

    critical = 2 N n_out/λ_max with λ_max the largest eigenvalue of Θ(X, X) on the N augmented training rows.
    Arguments as for ``solve``.
    """
    arm = ArmData(settings, data, kernels, progress)
    critical = dynamics.critical_learning_rate(largest_eigenvalue(arm), *arm.target.shape)
    return {"learning_rate": _learning_rate(settings, critical), "critical_learning_rate": critical}


def solve(
    settings: Settings,
    data: TaskData,
    learning_rate: float | None = None,
    progress: Progress | None = None,
    kernels: xr.Dataset | None = None,
) -> xr.Dataset:
    """The theory store of an arm (docs/layout.md).

    Args:
      settings: the arm; its loss must be mse and its optimiser gd.
      data: the task.
      learning_rate: η; None: what the settings say, resolved here.
      progress: called with (pairs finished, pairs in all) of the kernels, or (networks finished, networks in all).
      kernels: store with ``nngp`` and ``ntk`` (sample, train, element), κ_ij(u) between the samples i given by
        ``kernel_samples`` (coordinate ``sample``) and u times the training samples j (coordinate ``train``); None:
        the kernels are computed. Used if the kernels are invariant under the group.

    Returns:
      Dataset with ``eigenvalue(mode)`` of Θ(X, X) on the augmented rows, ascending; where the study asks for them
      ``mean(step, sample, element, output)`` and ``orbit_covariance(step, sample, element, element_)`` per
      output; where kernels are estimated, ``mean_error``, the standard error of ``mean``. Time is in gradient-descent
      steps with the rate constant λ → ηλ/(N n_out). The attributes hold ``learning_rate`` η,
      ``critical_learning_rate`` 2 N n_out/λ_max, conventions, ``kernel``, ``route``, what is known of an estimated
      kernel (``monte_carlo.Estimate``), conditioning and, where η is too large, a mean is not finite or an estimated
      kernel is not what is assumed, ``warning``. Where only the mean is wanted, the eigenvalues are
      those of the irreps that occur in the action on the outputs (attribute ``modes``), and so is the conditioning.

    Raises ValueError for an arm without a closed form, UserError where a kernel is not finite, RuntimeError
    without 64-bit jax.
    """
    if not (settings.training.has_mean and settings.has_kernel):
        raise ValueError("the NTK gives no closed form for this arm: it needs a kernel, loss mse and optimizer gd")
    arm = ArmData(settings, data, kernels, progress)
    posed = problem(arm)
    critical = dynamics.critical_learning_rate(posed.largest, *arm.target.shape)
    if learning_rate is None:
        learning_rate = _learning_rate(settings, critical)

    steps, elements = settings.training.recorded, list(data.input_action.group.elements)
    coords: dict[str, Any] = {
        "step": ("step", np.asarray(steps), {"units": settings.training.unit}),
        "sample": arm.evaluated,
        "split": ("sample", data.split[arm.evaluated].astype(str)),
        "element": elements,
        "output": np.arange(arm.target.shape[1]),
    }
    name = {"long_name": "eigenvalues of the NTK on the augmented rows"}
    variables: dict[str, Any] = {"eigenvalue": ("mode", posed.eigenvalue, name)}
    if settings.has_mean:
        name = {"long_name": f"mean of the infinite ensemble: {data.output_name}"}
        variables["mean"] = (("step", "sample", "element", "output"), posed.mean(steps, learning_rate), name)
        if posed.mean_error is not None:
            name = {"long_name": "standard error of the mean, from a finite number of networks"}
            variables["mean_error"] = (variables["mean"][0], posed.mean_error(steps, learning_rate), name)
    if settings.has_covariance:
        coords["element_"] = elements
        name = {"long_name": "covariance of the infinite ensemble over the orbit, per output"}
        dims = ("step", "sample", "element", "element_")
        variables["orbit_covariance"] = (dims, posed.covariance(steps, learning_rate), name)
    solution = xr.Dataset(variables, coords)
    return solution.assign_attrs(_attributes(arm, posed, learning_rate, critical, solution))


def _learning_rate(settings: Settings, critical: float) -> float:
    rate = settings.training.learning_rate
    return rate.critical_fraction * critical if isinstance(rate, CriticalFraction) else float(rate)


def _attributes(
    arm: ArmData, posed: Problem, learning_rate: float, critical: float, solution: xr.Dataset
) -> dict[str, Any]:
    """Conventions, conditioning and warnings of a solution."""
    rows, outputs = arm.target.shape
    networks = arm.settings.theory.monte_carlo
    packages = PACKAGES if networks is None else (*PACKAGES, "torch")
    kept = posed.eigenvalue[posed.eigenvalue > posed.cutoff]
    attributes: dict[str, Any] = {
        "learning_rate": learning_rate,
        "critical_learning_rate": critical,
        "rows": rows,
        "outputs": outputs,
        "loss": "1/(2 rows outputs) * sum |f - y|^2 over the augmented rows",
        "time": TIME[arm.settings.theory.form],
        "kernel": KERNEL if networks is None else f"Monte-Carlo: mean over {networks} networks at initialisation",
        "route": posed.route,
        "modes": posed.modes,
        "smallest_eigenvalue": float(posed.eigenvalue[0]),
        "largest_eigenvalue": posed.largest,
        "negative_eigenvalues": int((posed.eigenvalue < 0).sum()),
        "rank": len(kept),
        "network": arm.description,
        "versions": ", ".join(f"{package} {version(package)}" for package in packages),
        **posed.attributes,
    }
    if len(kept):
        attributes["smallest_kept_eigenvalue"] = float(kept[0])
    warnings = list(posed.warnings)
    if learning_rate > critical:
        warnings.append(
            f"training.learning_rate: {learning_rate:g} is above the critical learning rate {critical:g} = "
            f"2 N n_out/λ_max of the NTK on {rows} training rows: gradient descent is expected to diverge. "
            "Lower it, or give {critical_fraction: 0.5}."
        )
    finite = np.isfinite(solution["mean"].values).all(axis=(1, 2, 3)) if "mean" in solution else np.array([True])
    if not finite.all():
        first = int(solution["step"].values[~finite][0])
        warnings.append(f"The analytic mean is not finite from step {first} on.")
    if warnings:
        attributes["warning"] = " ".join(warnings)
    return attributes
