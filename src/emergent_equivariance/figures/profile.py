"""Predictions over single orbits: flat for an invariant function."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .data import Rows
from .panels import draw, finish, grid, heading, label_axes, say, title
from .predictions import SINGLE, SPREAD, has, mean_label, members, notes_of, nothing, pair, role, time_of
from .style import COLOURS, Look, ensemble_look, styled
from .words import augmented, element_text, mean_of, split_words

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.figure import Figure

    from .selection import Choice

#: Elements of an orbit that are named on the axis at most, and the room for a letter of a name in inches.
MOST_NAMES, NAME_LETTER = 8, 0.06

_MEMBER = Look(COLOURS["member"], width=0.7, order=2)
_MEASURED = Look(COLOURS["member"], dash=None, width=0.8, order=3)
_SPREAD = Look(COLOURS["member"], dash=None, band=True, width=0, opacity=0.25, order=1.5)
_THEORY = Look(COLOURS["theory"], dash=(3.7, 1.6), width=1.1, order=6)


def _panel(arm: Choice, split: str) -> str:
    return f"{split_words(split)}, {augmented(arm.augmentation)}"


def orbit_profile_data(metrics: xr.Dataset) -> pd.DataFrame:
    """Mean ± 2σ of theory and of the ensemble over the elements of a few orbits, at the last step.

    Panels: splits, without and with augmentation. Each orbit is drawn relative to the orbit mean of the ensemble; x
    counts its elements, and leaves one place between orbits. Needs the variables ``drawn_…``.
    """
    arms, splits = pair(metrics), list(dict.fromkeys(metrics["drawn_split"].values.astype(str).tolist()))
    drawn = metrics.isel(drawn_step=-1, drawn_sample=metrics["drawn_profile"].values)
    elements = [str(name) for name in metrics["element"].values]
    rows, notes, most = Rows(), notes_of(metrics, arms), 0
    for arm in arms:
        if nothing(metrics, arm):
            continue
        for split in splits:
            here = drawn.sel(drawn_arm=arm.key)
            here = here.isel(drawn_sample=here["drawn_split"].values.astype(str) == split)
            most = max(most, here.sizes["drawn_sample"])
            for k in range(here.sizes["drawn_sample"]):
                _add_orbit(rows, metrics, here.isel(drawn_sample=k), arm, _panel(arm, split), k)
        if members(metrics, arm) == 1:
            notes.append("one member only: no spread over members")
        if len(elements) == 1:
            notes.append("the group has one element: every orbit is one point")
    observable = metrics["drawn_mean"].attrs.get("observable", "output")
    panels = {_panel(arm, split): arm for arm in arms for split in splits}
    return rows.table(
        panels=list(panels),
        title=heading(metrics, arms[-1].size, time_of(metrics, int(metrics["drawn_step"].values[-1]))),
        x_label=f"group element, {most} orbit" + ("s" if most != 1 else ""),
        y_label={panel: f"{observable} − orbit mean" for panel in panels},
        error="ensemble means: ± 2 standard errors; members and theory: ± 2 standard deviations of a member",
        notes=notes,
        panel_notes={panel: nothing(metrics, arm) for panel, arm in panels.items()},
        gap=1.5,
        x_names={x: name for k in range(most) for x, name in zip(_places(k, len(elements)), elements, strict=True)},
    )


def _places(orbit: int, elements: int) -> np.ndarray:
    """Positions of the elements of an orbit on the x axis."""
    return orbit * (elements + 1.0) + np.arange(elements)


def _add_orbit(rows: Rows, metrics: xr.Dataset, orbit: xr.Dataset, arm: Choice, panel: str, k: int) -> None:
    x, mean = _places(k, orbit.sizes["element"]), orbit["drawn_mean"].values
    centre = mean.mean()
    y = mean - centre
    if has(orbit, "drawn_theory_mean"):
        expected = orbit["drawn_theory_mean"].values - centre
        if has(orbit, "drawn_theory_std"):
            spread = 2 * orbit["drawn_theory_std"].values
            rows.add(panel, SPREAD, "theory", _SPREAD, x, expected, expected - spread, expected + spread)
        rows.add(panel, mean_label(metrics), "theory", _THEORY, x, expected)
    if has(orbit, "drawn_single"):
        for curve in orbit["drawn_single"].transpose("drawn_member", "element").values:
            rows.add(panel, SINGLE, "member", _MEMBER, x, curve - centre)
    deviation, error = 2 * orbit["drawn_member_std"].values, 2 * orbit["drawn_mean_se"].values
    if members(metrics, arm) > 1:
        rows.add(panel, "members, measured ± 2 std", "member", _MEASURED, x, y, y - deviation, y + deviation)
    label = f"{mean_of(members(metrics, arm))} ± 2 standard errors, {augmented(arm.augmentation)}"
    look = ensemble_look(arm.augmentation, size=3.2, dash=())._replace(width=1.0, order=5)
    rows.add(panel, label, role(arm), look, x, y, y - error, y + error)


@styled
def orbit_profile(metrics: xr.Dataset) -> Figure:
    """Draw orbit_profile_data: splits side by side, arms below each other."""
    table, arms = orbit_profile_data(metrics), pair(metrics)
    panels = table.attrs["panels"]
    figure, axes = grid(len(panels) // len(arms), len(arms), sharey="col", sharex=True)
    named = dict(zip(panels, axes.ravel(), strict=True))
    draw(named, table)
    places, elements = list(table.attrs["x_names"]), metrics.sizes["element"]
    room = figure.get_figwidth() * axes[0, 0].get_position().width / (max(places, default=0) + 1)
    longest = max(map(len, table.attrs["x_names"].values()), default=0)
    every = int(np.ceil(max(elements / MOST_NAMES, NAME_LETTER * longest / room)))
    names = [
        "" if k % elements % every else element_text(name) for k, name in enumerate(table.attrs["x_names"].values())
    ]
    for name, ax in named.items():
        if said := table.attrs["panel_notes"][name]:
            say(ax, said, centre=True)
            continue
        ax.set_xticks(places, names)
        ax.tick_params(axis="x", length=0)
        ax.axhline(0, color=COLOURS["guide"], lw=0.5, zorder=1)
    for name, ax in named.items():
        title(ax, *name.split(", ", 1))
    label_axes(named, table)
    return finish(figure, table.attrs["title"], table.attrs["notes"])
