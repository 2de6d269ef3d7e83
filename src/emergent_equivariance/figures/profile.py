"""Predictions over single orbits: flat for an invariant function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..fits import Series
from .panels import finish, grid, points, say
from .selection import Choice, choose, study_choices
from .stores import ArmStores, missing_members, theory_variance, without_theory
from .style import COLOURS, colour, styled
from .words import augmented, element_text, mean_of, split_words

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..study import Study

#: Elements of an orbit that are named on the axis at most.
MOST_NAMES = 8


@styled
def orbit_profile(study: Study, stores: Mapping[str, ArmStores], *, samples: int = 3) -> Figure:
    """Mean ± 2σ of theory and of the ensemble over the elements of a few orbits, at the last step.

    Rows: without and with augmentation. Columns: splits. Each orbit is drawn relative to the orbit mean of the
    ensemble. Drawn is the invariant observable; of several (logits) the one that is largest at the identity.

    Args:
      stores: stores by arm path, at least those of store_arms(study).
      samples: orbits per split, spread evenly over the first half of its evaluated samples (the second half of a
        grid that is symmetric about 0 has the same orbits).
    """
    chosen = choose(choice for choice in study_choices(study) if choice.key in stores)
    arms = chosen.pair
    reference = stores[chosen.main.key]
    split_of = dict(zip(reference.data["sample"].values.tolist(), reference.data["split"].values.tolist(), strict=True))
    evaluated = reference.ensemble["sample"].values.tolist()
    splits = list(dict.fromkeys(split_of[s] for s in evaluated))
    figure, axes = grid(len(splits), len(arms), sharey="col", sharex=True)
    notes: list[str] = [without_theory(stores, arms), *missing_members(stores, arms)]
    for column, split in zip(axes.T, splits, strict=True):
        inside = [s for s in evaluated if split_of[s] == split]
        picked = inside[:: max(len(inside) // (2 * samples), 1)][:samples]
        rows = {sample: _largest(reference, sample) for sample in picked}
        for ax, arm in zip(column, arms, strict=True):
            notes += _profile_panel(ax, stores[arm.key], rows, arm)
        column[0].set_title(split_words(split))
        column[-1].set_xlabel(f"group element, {len(picked)} orbits")
    for ax, arm in zip(axes[:, 0], arms, strict=True):
        ax.set_ylabel(f"{augmented(arm.augmentation)}\n{reference.observable} − orbit mean")
    unit = study.arm(chosen.main.key).settings.training.unit
    last = int(reference.ensemble["step"].values[-1])
    return finish(figure, f"{study.name} · {chosen.main.size} · {unit} {last}", notes)


def _largest(stores: ArmStores, sample: Any) -> int:
    """Index of the observable that is largest at the identity, at the last step."""
    at_identity = stores.ensemble["mean"].isel(step=-1, element=0).sel(sample=sample)
    return int(np.argmax(stores.data["readout"].values @ at_identity.values))


def _profile_panel(ax: Axes, stores: ArmStores, observables: Mapping[Any, int], arm: Choice) -> list[str]:
    """Draw the orbits of samples, of each the given observable; returns what could not be drawn."""
    ensemble = stores.ensemble.isel(step=-1)
    elements = [str(label) for label in ensemble["element"].values]
    if stores.all_diverged:
        say(ax, stores.all_diverged, centre=True)
        return []
    label = f"{mean_of(stores.members)} ± 2 standard errors, {augmented(arm.augmentation)}"
    look: dict[str, Any] = {"color": colour(arm.augmentation), "lw": 1.0, "ms": 3.2, "label": label, "zorder": 5}
    ticks: list[float] = []
    for k, (sample, index) in enumerate(observables.items()):
        row, x = stores.data["readout"].values[index], k * (len(elements) + 1.0) + np.arange(len(elements))
        ticks.extend(x)
        mean = _observed(ensemble["mean"], sample, row)
        centre = mean.mean()
        _draw_theory(ax, stores, sample, row, x, centre)
        examples = stores.examples()
        if examples is not None:
            for curve in _observed(examples.isel(step=-1), sample, row) - centre:
                ax.plot(x, curve, color=COLOURS["member"], lw=0.7, label="single members", zorder=2)
        deviation = np.full(len(x), np.nan)
        if stores.members > 1:
            second = ensemble["observable_second_moment"].sel(sample=sample).isel(observable=index)
            deviation = _deviation(mean, np.asarray(second, dtype=float), stores.members)
            grey: dict[str, Any] = {"color": COLOURS["member"], "lw": 0, "elinewidth": 0.8, "capsize": 2.5}
            ax.errorbar(x, mean - centre, yerr=2 * deviation, zorder=3, label="members, measured ± 2 std", **grey)
        points(ax, Series(x, mean - centre, 2 * deviation / np.sqrt(stores.members)), **look)
    every = -(-len(elements) // MOST_NAMES)
    names = ["" if g % every else element_text(name) for g, name in enumerate(elements)]
    ax.set_xticks(ticks, names * len(observables))
    ax.tick_params(axis="x", length=0, labelsize=7)
    ax.axhline(0, color=COLOURS["guide"], lw=0.5, zorder=1)
    notes = ["one member only: no spread over members"] if stores.members == 1 else []
    return [*notes, *(["the group has one element: every orbit is one point"] if len(elements) == 1 else [])]


def _draw_theory(ax: Axes, stores: ArmStores, sample: Any, row: np.ndarray, x: np.ndarray, centre: float) -> None:
    """μ_t and μ_t ± 2σ_t of a member over one orbit."""
    theory = stores.comparable_theory
    if theory is None:
        return
    last = theory.sel(step=stores.ensemble["step"].values[-1])
    expected = _observed(last["mean"], sample, row) - centre
    sigma = theory_variance(theory)
    if sigma is not None:
        spread = 2 * np.sqrt(np.asarray(sigma.sel(step=last["step"], sample=sample)) * (row @ row))
        grey: dict[str, Any] = {"color": COLOURS["member"], "alpha": 0.25, "lw": 0}
        label = r"theory, $\mu_t \pm 2\sigma_t$ of a member"
        ax.fill_between(x, expected - spread, expected + spread, label=label, **grey)
    dashes: dict[str, Any] = {"color": COLOURS["theory"], "lw": 1.1, "ls": "--", "zorder": 6}
    ax.plot(x, expected, label=stores.mean_label, **dashes)


def _observed(values: xr.DataArray, sample: Any, row: np.ndarray) -> np.ndarray:
    """One observable (a row of the readout) over the orbit of a sample."""
    return np.asarray(values.sel(sample=sample).transpose(..., "element", "output"), dtype=float) @ row


def _deviation(mean: np.ndarray, second_moment: np.ndarray, members: int) -> np.ndarray:
    """Standard deviation over members from the first two moments; round-off below zero counts as zero."""
    return np.sqrt(np.maximum(second_moment - mean**2, 0) * members / (members - 1))
