"""Which arms a picture draws, and the numbers it reads from the metrics dataset.

Orbit deviation means √orbit_variance; its standard error is that of the variance divided by 2√variance. Where a study
has several widths the widest stands for it, unless width is the subject; of any other swept key (a seed, say) the
first value is drawn, and the title says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..fits import Series
from ..study.choice import SUBJECTS, Choice, Chosen, choose

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "MOST_LINES",
    "Choice",
    "Chosen",
    "MemberBand",
    "absent",
    "all_diverged",
    "choose",
    "chosen_arms",
    "first_of",
    "full_ensemble",
    "last_step",
    "lines",
    "member_band",
    "metrics_choices",
    "read_at",
    "read_series",
    "thinned_words",
]

#: Lines of one kind in a panel at most: more cannot be told apart.
MOST_LINES = 8


def metrics_choices(metrics: xr.Dataset) -> list[Choice]:
    """All arms of a metrics dataset, in its order."""
    fixed = sorted(_fixed(metrics).items())
    keys, widths, labels = (metrics[c].values for c in ("arm", "network_width", "augmentation_label"))
    return [
        Choice(str(key), int(width), str(label), tuple(str(values[i]) for _, values in fixed))
        for i, (key, width, label) in enumerate(zip(keys, widths, labels, strict=True))
    ]


def chosen_arms(metrics: xr.Dataset) -> Chosen:
    """The arms that stand for a study (study.choice), of further kinds of augmentation as many as can be told apart."""
    chosen = choose(metrics_choices(metrics))
    return replace(chosen, others=lines(chosen.others))


def lines(wanted: Sequence[Any]) -> tuple[Any, ...]:
    """What gets a line: all that is wanted, or MOST_LINES of it, evenly spread with the first and the last."""
    if len(wanted) <= MOST_LINES:
        return tuple(wanted)
    return tuple(wanted[i] for i in np.round(np.linspace(0, len(wanted) - 1, MOST_LINES)).astype(int))


def thinned_words(number: int, of_what: str) -> str:
    """That not all of one kind have a line, in words; empty if all have."""
    return f"{MOST_LINES} of {number} {of_what} have a line" if number > MOST_LINES else ""


def _fixed(metrics: xr.Dataset) -> dict[str, list[Any]]:
    """Values of the swept keys of which the first one is drawn."""
    return {
        str(name): values.values.tolist()
        for name, values in metrics.coords.items()
        if name not in SUBJECTS and values.dims == ("arm",)
    }


def first_of(metrics: xr.Dataset) -> str:
    """Which swept keys are fixed at their first value, in words; empty if none is."""
    return ", ".join(
        f"{name} = {values[0]} (the first of {len(set(values))})"
        for name, values in _fixed(metrics).items()
        if len(set(values)) > 1
    )


# ------------------------------------------------------------------------------------- reading numbers


def read_series(
    metrics: xr.Dataset, name: str, arm: Choice, split: str, dimension: str, *, root: bool = False, **at: Any
) -> Series:
    """One metric of one arm along ``dimension``.

    Args:
      at: labels of the remaining dimensions; without ``member_count`` the full ensemble is taken.
      root: take the square root, and propagate the standard error; values that are not positive are dropped.
    """
    if name not in metrics:
        return Series(*np.empty((3, 0)))
    values = metrics[name].sel(arm=arm.key, split=split)
    if "member_count" in values.dims and dimension != "member_count" and "member_count" not in at:
        at["member_count"] = full_ensemble(metrics, arm)
    if at.get("member_count") == 0:  # nothing was measured: there is no ensemble of any size
        return Series(*np.empty((3, 0)))
    at = {k: v for k, v in at.items() if k in values.dims}
    values = values.sel(at)
    y = np.asarray(values, dtype=float)
    error = np.full_like(y, np.nan)
    if f"{name}_se" in metrics:
        error = np.asarray(metrics[f"{name}_se"].sel(arm=arm.key, split=split, **at), dtype=float)
    there = (y > 0) & np.isfinite(y) if root else np.isfinite(y)
    x, y, error = values[dimension].values[there].astype(float), y[there], error[there]
    return Series(x, np.sqrt(y), error / (2 * np.sqrt(y))) if root else Series(x, y, error)


def read_at(
    metrics: xr.Dataset, name: str, arm: Choice, split: str, step: Any, *, root: bool = False, **at: Any
) -> tuple[float, float]:
    """(value, standard error) of one metric at one time, else as read_series; NaN where it is missing."""
    series = read_series(metrics, name, arm, split, "step", root=root, **at)
    here = np.flatnonzero(series.x == step)
    return (float(series.y[here[0]]), float(series.error[here[0]])) if len(here) else (np.nan, np.nan)


def full_ensemble(metrics: xr.Dataset, arm: Choice) -> int:
    """Number of members in the largest ensemble that the arm has numbers for; 0 if all members diverged."""
    values = metrics["orbit_variance"].sel(arm=arm.key)
    there = values.notnull().any([d for d in values.dims if d != "member_count"]).values
    return int(metrics["member_count"].values[there].max(initial=0))


def all_diverged(metrics: xr.Dataset, arm: Choice) -> int:
    """How many members an arm has if all of them diverged, else 0."""
    if not {"members", "diverged"} <= set(metrics.data_vars):
        return 0
    valid, diverged = (metrics[name].sel(arm=arm.key).item() for name in ("members", "diverged"))
    return int(diverged) if valid == 0 and diverged > 0 else 0


def absent(metrics: xr.Dataset, arm: Choice) -> tuple[int, int]:
    """How many members of an arm are missing, and how many the study asks for."""
    if "missing" not in metrics:  # metrics of an earlier version: none is
        return 0, 0
    valid, diverged, missing = (int(metrics[name].sel(arm=arm.key)) for name in ("members", "diverged", "missing"))
    return missing, valid + diverged + missing


def last_step(metrics: xr.Dataset, arm: Choice) -> Any:
    """The last step at which an arm has numbers: arms may be trained for different times."""
    values = metrics["orbit_variance"].sel(arm=arm.key)
    there = values.notnull().any([d for d in values.dims if d != "step"]).values
    return metrics["step"].values[np.flatnonzero(there)[-1] if there.any() else -1]


class MemberBand(NamedTuple):
    """Statistics over single members, by step ``x``; empty where an arm has no members' values."""

    x: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    least: np.ndarray
    greatest: np.ndarray

    @property
    def low(self) -> np.ndarray:
        """Mean − standard deviation, but not below the least member."""
        return np.maximum(self.mean - self.std, self.least)

    @property
    def high(self) -> np.ndarray:
        """Mean + standard deviation."""
        return self.mean + self.std


def member_band(
    metrics: xr.Dataset, arm: Choice, split: str, *, name: str = "orbit_variance", root: bool = True
) -> MemberBand:
    """Statistics over the single members of an arm. Missing members (diverged ones) are left out.

    Args:
      root: of square roots; steps at which no member's value is positive are dropped.
    """
    if f"member_{name}" not in metrics:
        return MemberBand(*np.empty((5, 0)))
    values = metrics[f"member_{name}"].sel(arm=arm.key, split=split).transpose("step", "member")
    y = np.asarray(values, dtype=float)
    y = np.sqrt(np.where(y >= 0, y, np.nan)) if root else y
    there = (np.isfinite(y) & (y > 0) if root else np.isfinite(y)).any(axis=1)
    if not there.any():
        return MemberBand(*np.empty((5, 0)))
    y = y[there]
    statistics = (f(y, axis=1) for f in (np.nanmean, np.nanstd, np.nanmin, np.nanmax))
    return MemberBand(values["step"].values[there].astype(float), *statistics)
