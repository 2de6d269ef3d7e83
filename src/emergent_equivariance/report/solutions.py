"""What is said of the analytic solutions of a study: which arms have none and why, their routes and conditioning."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..figures.words import number
from .content import Block, Heading, Points, Text
from .numbers import why_no_covariance, why_no_mean

if TYPE_CHECKING:
    import xarray as xr

    from ..study import Study


def theory_words(study: Study) -> list[str]:
    """Which arms have no analytic mean or covariance, or an estimated one, and why: one sentence each."""
    result = []
    for arm in study.arms:
        networks = arm.settings.theory.monte_carlo
        if networks is not None and arm.settings.has_mean:
            result.append(
                f"Arm {arm.path}: μ_t and Σ_t are not analytic: they follow from a "
                f"**Monte-Carlo kernel of {networks} networks** at initialisation, of the members' own width."
            )
        if reason := why_no_mean(arm):
            result.append(f"Arm {arm.path}: no analytic mean μ_t: {reason}.")
        elif reason := why_no_covariance(arm):
            lack = "no analytic covariance Σ_t, hence no predicted deviation"
            result.append(f"Arm {arm.path}: {lack}: {reason}.")
    return result


def warning_words(metrics: xr.Dataset) -> list[str]:
    """Warnings of the theory, each once with all arms it concerns."""
    found: dict[str, list[str]] = {}
    for arm, text in _said(metrics, "warning"):
        found.setdefault(text, []).append(arm)
    return [f"**Warning** ({', '.join(arms)}): {text}" for text, arms in found.items()]


def analytic_words(metrics: xr.Dataset) -> list[Block]:
    """By which route each solution was computed, how well conditioned it is, and how certain if estimated."""
    items: dict[str, list[str]] = {}
    for arm, route in _said(metrics, "route"):
        items.setdefault(_solution(metrics.sel(arm=arm), route), []).append(arm)
    if not items:
        return []
    arms = len({arm for shared in items.values() for arm in shared})
    lines = [text + (f" Arms: {', '.join(shared)}." if len(shared) < arms else "") for text, shared in items.items()]
    estimated = bool(metrics["theory_mean_error"].notnull().any())
    return [
        Heading("Analytic and estimated solutions" if estimated else "Analytic solutions"),
        Points(lines),
        Text("No ridge is added: at finite times none is needed, and at t = ∞ modes below round-off are not fitted."),
    ]


def _said(metrics: xr.Dataset, name: str) -> list[tuple[str, str]]:
    """(arm, text) of the arms whose theory says something; none in metrics of an earlier version."""
    if f"theory_{name}" not in metrics:
        return []
    texts = metrics[f"theory_{name}"].values.astype(str)
    return [(arm, text) for arm, text in zip(metrics["arm"].values.astype(str), texts, strict=True) if text]


def _solution(one: xr.Dataset, route: str) -> str:
    """The solution of one arm in words."""

    def value(name: str) -> float:
        return float(one[f"theory_{name}"])

    smallest = value("smallest_kept_eigenvalue")
    above = f"smallest above round-off {smallest:.3g}" if np.isfinite(smallest) else "none above round-off"
    return (
        f"{route}. Eigenvalues of Θ(X, X) ({one['theory_modes'].item()}): largest {value('largest_eigenvalue'):.3g}, "
        f"{above}; {value('rank'):.0f} of {value('modes_computed'):.0f} above round-off, "
        f"{value('negative_eigenvalues'):.0f} negative.{_uncertainty(value)}"
    )


def _uncertainty(value: Callable[[str], float]) -> str:
    """How certain a solution from an estimated kernel is; empty for an analytic one."""
    error, mean = value("mean_error"), value("mean_size")
    if not np.isfinite(error):
        return ""
    text = f" Standard error of μ_t at the last step, root mean square: {number(error)}"
    text += f" ({number(error / mean)} of that of μ_t)" if mean > 0 else ""
    return (
        f"{text}. Besides a multiple of the identity over outputs the kernel has {number(value('output_deviation'))} "
        f"of its norm; from noise alone {number(value('output_deviation_noise'))} are expected."
    )
