"""The toy that explains the paper: a function of one number and its mirror image (group C2, x ↦ −x)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .data import Rows
from .panels import draw, finish, grid, heading, label_axes, say, title
from .predictions import SINGLE, SPREAD, has, mean_label, members, notes_of, nothing, pair, role, time_of
from .style import COLOURS, Look, colour, styled
from .words import augmented, mean_of

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .selection import Choice

_MEMBER = Look(COLOURS["member"], width=0.7, order=2)
_SPREAD = Look(COLOURS["member"], dash=None, band=True, width=0, opacity=0.2, order=1.5)
#: Its dashes lie in the gaps of those of the mirror image.
_THEORY = Look(COLOURS["theory"], dash=(0, 3, 3, 0), width=1.2, order=5)
_ERROR = Look(COLOURS["theory"], dash=None, band=True, width=0, opacity=0.25, order=3)
_IMAGE = Look(COLOURS["mirror"], dash=(3, 3), width=1.2, order=6)
_POINT = Look(COLOURS["theory"], "o", None, size=3.4, order=7)


class _Line(NamedTuple):
    """Functions of one real input on the grid x ∪ −x of all evaluated inputs; the last axis is the grid."""

    x: np.ndarray
    order: np.ndarray

    @classmethod
    def of(cls, metrics: xr.Dataset) -> _Line:
        return cls(*np.unique(np.round(metrics["drawn_input"].values.ravel(), 12), return_index=True))

    def read(self, values: xr.DataArray) -> np.ndarray:
        """Values (…, drawn_sample, element) on the grid."""
        array = values.transpose(..., "drawn_sample", "element").values
        return array.reshape(*array.shape[:-2], -1)[..., self.order]


def _odd(curve: np.ndarray) -> np.ndarray:
    return curve - curve[..., ::-1]


def _panel(metrics: xr.Dataset, arm: Choice, step: int) -> str:
    return f"{augmented(arm.augmentation)}, {time_of(metrics, step)}"


def _difference(metrics: xr.Dataset, arm: Choice) -> str:
    return f"{_panel(metrics, arm, int(metrics['drawn_step'].values[-1]))}, difference"


def mirror_data(metrics: xr.Dataset) -> pd.DataFrame:
    """f(x) of members, of their mean and of μ_t, with mirror images, and f(x) − f(−x) at the last step.

    Panels: without and with augmentation, at an early and the last step; then the differences, which are zero for a
    symmetric function. Needs the variables ``drawn_…`` and ``data_…`` of the mirror toy.
    """
    arms, steps, line = pair(metrics), [int(s) for s in metrics["drawn_step"].values], _Line.of(metrics)
    rows, notes = Rows(), notes_of(metrics, arms)
    for arm in arms:
        drawn = metrics.sel(drawn_arm=arm.key)
        if nothing(metrics, arm):
            continue
        for step in steps:
            _add_functions(rows, metrics, drawn.sel(drawn_step=step), line, arm, _panel(metrics, arm, step))
        _add_differences(rows, metrics, drawn.sel(drawn_step=steps[-1]), line, arm)
        if members(metrics, arm) == 1:
            notes.append("one member only: the mean is that member")
        if not has(drawn, "drawn_single"):
            notes.append("no single members were kept: not drawn")
    labels = {_panel(metrics, arm, step): f"f(x) at {time_of(metrics, step)}" for step in steps for arm in arms}
    labels |= {_difference(metrics, arm): "f(x) − f(−x)" for arm in arms}
    said = {arm.key: nothing(metrics, arm) for arm in arms}
    return rows.table(
        panels=list(labels),
        title=heading(metrics, arms[-1].size),
        x_label="input x",
        y_label=labels,
        error="bands of functions: ± 2 standard deviations; bands of differences: ± 2 standard errors of the mean",
        notes=notes,
        panel_notes={_panel(metrics, arm, step): said[arm.key] for arm in arms for step in steps}
        | {_difference(metrics, arm): said[arm.key] for arm in arms},
    )


def _add_functions(rows: Rows, metrics: xr.Dataset, drawn: xr.Dataset, line: _Line, arm: Choice, panel: str) -> None:
    if has(drawn, "drawn_theory_mean"):
        mean = line.read(drawn["drawn_theory_mean"])
        if has(drawn, "drawn_theory_std"):
            spread = 2 * line.read(drawn["drawn_theory_std"])
            rows.add(panel, SPREAD, "theory", _SPREAD, line.x, mean, mean - spread, mean + spread)
        rows.add(panel, mean_label(metrics), "theory", _THEORY, line.x, mean)
    if has(drawn, "drawn_single"):
        for curve in line.read(drawn["drawn_single"]):
            rows.add(panel, SINGLE, "member", _MEMBER, line.x, curve)
    curve, kind = line.read(drawn["drawn_mean"]), augmented(arm.augmentation)
    rows.add(panel, f"ensemble mean, {kind}", role(arm), _mean_look(arm), line.x, curve)
    rows.add(panel, "its mirror image, f(−x)", role(arm), _IMAGE, line.x, curve[::-1])
    x, y = (metrics[f"data_{name}"].values[metrics["data_split"].values == "train"] for name in ("input", "target"))
    sort = np.argsort(x)
    rows.add(panel, "training points", "data", _POINT, x[sort], y[sort])
    if arm.augmentation != "none":
        rows.add(panel, "added by augmentation", "data", _POINT._replace(hollow=True), -x[sort][::-1], y[sort][::-1])


def _mean_look(arm: Choice) -> Look:
    return Look(colour(arm.augmentation), width=2.2, order=4)


def _add_differences(rows: Rows, metrics: xr.Dataset, drawn: xr.Dataset, line: _Line, arm: Choice) -> None:
    panel = _difference(metrics, arm)
    if has(drawn, "drawn_single"):
        for curve in _odd(line.read(drawn["drawn_single"])):
            rows.add(panel, SINGLE, "member", _MEMBER, line.x, curve)
    if has(drawn, "drawn_theory_mean"):
        centre = _odd(line.read(drawn["drawn_theory_mean"]))
        if has(drawn, "drawn_theory_difference_std"):
            deviation = drawn["drawn_theory_difference_std"]
            both = deviation.isel(element=1).broadcast_like(deviation)  # f(x) − f(−x) varies like f(−x) − f(x)
            spread = 2 * line.read(both) / np.sqrt(members(metrics, arm))
            label = "theory, μₜ ± 2 standard errors of the mean"
            rows.add(panel, label, "theory", _ERROR, line.x, centre, centre - spread, centre + spread)
        rows.add(panel, mean_label(metrics), "theory", _THEORY, line.x, centre)
    name = f"ensemble mean, {augmented(arm.augmentation)}"
    rows.add(panel, name, role(arm), _mean_look(arm), line.x, _odd(line.read(drawn["drawn_mean"])))


@styled
def mirror(metrics: xr.Dataset) -> Figure:
    """Draw mirror_data: arms side by side, times below each other, and the differences below them.

    The vertical scales are those of targets and means: far outside the training interval single members leave the
    panels.
    """
    table = mirror_data(metrics)
    arms, steps, line = pair(metrics), [int(s) for s in metrics["drawn_step"].values], _Line.of(metrics)
    heights = [0.85] * len(steps) + [0.62]
    figure, axes = grid(len(arms), len(heights), heights=heights, sharex=True, sharey="row")
    panels = dict(zip(table.attrs["panels"], axes.ravel(), strict=True))
    draw(panels, table)
    for ax, arm in zip(axes[0], arms, strict=True):
        here = members(metrics, arm)
        title(ax, augmented(arm.augmentation) + (f": {mean_of(here)}" if here else ""))
    for name, ax in panels.items():
        if said := table.attrs["panel_notes"][name]:
            say(ax, said, centre=True)
        else:
            _shade_outside(ax, metrics, line)
    for ax in axes[-1]:
        ax.axhline(0, color=COLOURS["guide"], lw=0.6, zorder=1)
    label_axes(panels, table)
    _scale(axes, metrics, line)
    return finish(figure, table.attrs["title"], table.attrs["notes"])


def _scale(axes: np.ndarray, metrics: xr.Dataset, line: _Line) -> None:
    """Vertical scales of targets and ensemble means, not of members far outside the training interval."""
    means = line.read(metrics["drawn_mean"])  # (arm, step, x)
    if not np.isfinite(means).any():
        return
    values = np.concatenate([means.ravel(), metrics["data_target"].values])
    low, high = np.nanmin(values), np.nanmax(values)
    for ax in axes[:-1, 0]:
        ax.set_ylim(low - 0.3 * (high - low), high + 0.3 * (high - low))
    greatest = 1.3 * float(np.nanmax(np.abs(_odd(means[:, -1]))))
    if greatest > 0:
        axes[-1, 0].set_ylim(-greatest, greatest)


def _shade_outside(ax: Axes, metrics: xr.Dataset, line: _Line) -> None:
    """Shade the inputs beyond those of the splits train and test."""
    inside = ~np.char.startswith(metrics["data_split"].values.astype(str), "ood-")
    edge = np.abs(metrics["data_input"].values[inside]).max()
    if line.x[-1] > edge:
        for low, high in ((line.x[0], -edge), (edge, line.x[-1])):
            ax.axvspan(low, high, color=COLOURS["outside"], lw=0, zorder=0, label="out of distribution")
    ax.set_xlim(line.x[0], line.x[-1])
