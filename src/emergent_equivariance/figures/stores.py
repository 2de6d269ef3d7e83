"""The stores of one arm as pictures of predictions read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .selection import Choice
from .words import augmented, diverged_words, missing_words

if TYPE_CHECKING:
    import xarray as xr


class ArmStores(NamedTuple):
    """The stores of one arm, as docs/layout.md describes them.

    Attributes:
      data: input, split, readout, input_sign (for the mirror) …
      theory: mean and orbit_covariance; None where the arm has no analytic mean.
      ensemble: mean, second_moment, observable_second_moment, and single members as example_prediction.
    """

    data: xr.Dataset
    theory: xr.Dataset | None
    ensemble: xr.Dataset

    @property
    def members(self) -> int:
        """Number of members in the mean; 0 if all diverged."""
        return int(self.ensemble.attrs["members"])

    @property
    def all_diverged(self) -> str:
        """What is drawn instead of an arm without valid members, in words; empty for other arms."""
        if self.members:
            return ""
        return f"nothing to draw: {diverged_words(int(self.ensemble.attrs.get('diverged', 0)))}"

    @property
    def missing(self) -> str:
        """How many members are missing, in words; empty if none is."""
        missing, diverged = (int(self.ensemble.attrs.get(name, 0)) for name in ("missing", "diverged"))
        return missing_words(missing, self.members + diverged + missing)

    @property
    def comparable_theory(self) -> xr.Dataset | None:
        """The theory at the evaluated samples; None also where the ensemble averages the softmax of its outputs."""
        if self.theory is None or self.ensemble.attrs.get("ensemble_mean") == "softmax":
            return None
        return self.theory.sel(sample=self.ensemble["sample"].values)

    @property
    def mean_label(self) -> str:
        """What μ_t is called in pictures."""
        analytic = self.theory is None or "mean_error" not in self.theory
        return rf"{'analytic' if analytic else 'Monte-Carlo'} mean $\mu_t$ (no fit)"

    @property
    def observable(self) -> str:
        """The observable drawn: the one there is, or of several (logits) the largest."""
        name = str(self.data.attrs.get("observable_name", "output"))
        return name if self.data.sizes["observable"] == 1 else f"largest {name.removesuffix('s')}"

    def examples(self, limit: int = 4) -> xr.DataArray | None:
        """Predictions of a few single members (example, step, sample, element, output), or None."""
        if "example_prediction" not in self.ensemble:
            return None
        return self.ensemble["example_prediction"].isel(example=slice(limit)).transpose("example", ...)


def theory_variance(theory: xr.Dataset) -> xr.DataArray | None:
    """Σ_t(gx, gx) per output (step, sample, element), or None."""
    if "orbit_covariance" not in theory:
        return None
    covariance = theory["orbit_covariance"].transpose(..., "step", "sample", "element", "element_")
    values = np.einsum("...gg->...g", covariance.values)
    return covariance.isel(element_=0, drop=True).copy(data=values)


def missing_members(stores: Mapping[str, ArmStores], arms: Sequence[Choice]) -> list[str]:
    """Which of the arms lack members, and how many, in words."""
    notes = ((stores[arm.key].missing, augmented(arm.augmentation)) for arm in arms)
    return [f"{text}: {name}" for text, name in notes if text]


def without_theory(stores: Mapping[str, ArmStores], arms: Sequence[Choice]) -> str:
    """Which of the arms have no analytic mean, in words; empty if all have one."""
    without = [arm for arm in arms if stores[arm.key].comparable_theory is None]
    if not without:
        return ""
    reasons = {stores[arm.key].ensemble.attrs.get("ensemble_mean") == "softmax" for arm in without}
    reason = " (the ensemble averages probabilities)" if reasons == {True} else ""
    return f"no analytic mean{reason}: {', '.join(augmented(arm.augmentation) for arm in without)}"
