"""What the pictures of predictions share: the variables ``drawn_…`` of metrics.nc, and what is missing in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .selection import Choice, absent, all_diverged, metrics_choices
from .words import augmented, diverged_words, missing_words

if TYPE_CHECKING:
    import xarray as xr

#: Legend entries that several pictures have; their roles are member, theory and theory.
SINGLE, SPREAD = "single members", "theory, μₜ ± 2σₜ of a member"


def pair(metrics: xr.Dataset) -> list[Choice]:
    """Control (if there is one) and main arm."""
    arms = {arm.key: arm for arm in metrics_choices(metrics)}
    return [arms[str(key)] for key in metrics["drawn_arm"].values]


def role(arm: Choice) -> str:
    """Role of the ensemble of an arm."""
    return "control" if arm.augmentation == "none" else "ensemble"


def members(metrics: xr.Dataset, arm: Choice) -> int:
    """Number of members in the ensemble mean; 0 if all diverged."""
    return int(metrics["members"].sel(arm=arm.key))


def nothing(metrics: xr.Dataset, arm: Choice) -> str:
    """What is drawn instead of an arm without valid members, in words; empty for other arms."""
    diverged = all_diverged(metrics, arm)
    return f"nothing to draw: {diverged_words(diverged)}" if diverged else ""


def has(drawn: xr.Dataset, name: str) -> bool:
    """Whether a variable is there and has a number."""
    return name in drawn and bool(drawn[name].notnull().any())


def mean_label(metrics: xr.Dataset) -> str:
    """What μₜ is called in pictures."""
    kernel = metrics["drawn_theory_mean"].attrs.get("kernel", "analytic") if "drawn_theory_mean" in metrics else ""
    return f"{kernel} mean μₜ (no fit)"


def time_of(metrics: xr.Dataset, step: int) -> str:
    """A drawn step with its unit."""
    return f"{metrics['drawn_step'].attrs.get('units', 'step')} {step}"


def notes_of(metrics: xr.Dataset, arms: Sequence[Choice]) -> list[str]:
    """Which of the arms have no analytic mean, and which lack members, in words."""
    without = [arm for arm in arms if not _has_theory(metrics, arm)]
    notes = []
    if without:
        softmax = metrics["drawn_mean"].attrs.get("ensemble_mean") == "softmax"
        reason = " (the ensemble averages probabilities)" if softmax else ""
        notes.append(f"no analytic mean{reason}: {', '.join(augmented(arm.augmentation) for arm in without)}")
    lacking = ((missing_words(*absent(metrics, arm)), augmented(arm.augmentation)) for arm in arms)
    return [*notes, *(f"{text}: {name}" for text, name in lacking if text)]


def _has_theory(metrics: xr.Dataset, arm: Choice) -> bool:
    """Whether there is a μₜ to compare with, be it one that overflows."""
    if "drawn_theory_mean" not in metrics:
        return False
    return bool((~metrics["drawn_theory_mean"].sel(drawn_arm=arm.key).isnull()).any())
