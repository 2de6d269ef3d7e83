"""Picture of a study of kind kernel_convergence: empirical against analytic kernels over the width.

The mean kernel of M networks is away from the analytic one by the bias of finite width and by the noise of a finite
mean, ∝ 1/√(width · M) (see measures.kernel_errors); one network by √M times that noise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..fits import SEEN, Series
from .data import Rows, curves
from .panels import draw, finish, heading, plain_log_axis, title, titled_panels
from .selection import lines, thinned_words
from .style import COLOURS, Look, shades, styled, theory_look
from .words import mean_of, number

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .data import Curve

KINDS = {"nngp": "NNGP, readout averaged", "ntk": "NTK"}

#: One per curve.
MARKERS = "os^vDph"

#: How far below the smallest noise the panels reach: smaller errors of a mean are chance.
BELOW = 8.0

#: Where more widths than this are ticks, round ones are labelled instead.
MOST_TICKS = 12


def kernel_convergence_data(metrics: xr.Dataset) -> pd.DataFrame:
    """Relative error of the mean kernel against width, one panel per kernel, one colour per curve.

    Filled points: mean of M networks, ± standard error. Open points: one network, mean. Dotted: the noise of the
    mean. Diamonds: bias of finite width, where it is more than three standard errors from zero. Crosses: published.
    Needs relative_error, member_error, squared_bias, noise (arm, kind), their _se, and the exponents (curve, kind).
    """
    rows, said = Rows(), {}
    names = lines(metrics["curve"].values.astype(str).tolist())
    for kind, panel in KINDS.items():
        part = metrics.sel(kind=kind)
        for i, (curve, shade) in enumerate(zip(names, shades(len(names) + 1), strict=False)):
            arms = part.isel(arm=np.flatnonzero(part["arm_curve"].values == curve)).sortby("network_width")
            _add_curve(rows, panel, arms, curve, Look(shade, MARKERS[i % len(MARKERS)]))
        _add_published(rows, panel, metrics, kind)
        exponents = [text for curve in names if (text := _exponent(part, curve))]
        said[panel] = f"one network ∝ width^x,\nx = {', '.join(exponents)}" if exponents else ""
    members = metrics["members"].values
    return rows.table(
        panels=list(KINDS.values()),
        title=heading(metrics, mean_of(int(members.min()), int(members.max()))),
        x_label="width (units or channels)",
        y_label="relative error of the kernel",
        x_scale="log",
        y_scale="log",
        error="± one standard error (bootstrap over networks)",
        notes=[thinned_words(metrics.sizes["curve"], "curves")],
        panel_notes=said,
    )


def _add_curve(rows: Rows, panel: str, arms: xr.Dataset, label: str, look: Look) -> None:
    width = arms["network_width"].values.astype(float)

    def series(name: str) -> Series:
        return Series(width, arms[name].values, arms[f"{name}_se"].values)

    single = look._replace(hollow=True, size=3.2, width=0.7)
    rows.points(panel, f"{label}: one network", "member", single, series("member_error"))
    noise = Look(look.colour, dash=(1, 1.65))
    rows.add(panel, f"{label}: noise of the mean", "theory", noise, width, arms["noise"].values)
    mean = look._replace(dash=None, order=5)
    rows.points(panel, f"{label}: mean kernel", "ensemble", mean, series("relative_error"))
    square = series("squared_bias")
    seen = square.y > SEEN * square.error
    bias = np.sqrt(square.y[seen])
    found = Series(square.x[seen], bias, square.error[seen] / (2 * bias))
    diamond = look._replace(marker="D", dash=None, hollow=True, size=7, order=4)
    rows.points(panel, f"{label}: bias", "ensemble", diamond, found)


def _add_published(rows: Rows, panel: str, metrics: xr.Dataset, kind: str) -> None:
    if "published_value" not in metrics:
        return
    part = metrics[["published_value"]].isel(published=np.flatnonzero(metrics["published_kind"].values == kind))
    for label in dict.fromkeys(part["published_label"].values.tolist()):
        one = part.isel(published=np.flatnonzero(part["published_label"].values == label)).sortby("published_width")
        look = theory_look(marker="x", dash=None, size=5.5, order=6)
        rows.add(panel, f"published: {label}", "theory", look, one["published_width"], one["published_value"])


def _exponent(part: xr.Dataset, curve: str) -> str:
    one = part.sel(curve=curve)
    value, error = (one[f"member_error_exponent{suffix}"].item() for suffix in ("", "_se"))
    if not np.isfinite(value):
        return ""
    return f"{number(value, error, compact=True)} ({curve})"


@styled
def kernel_convergence(metrics: xr.Dataset) -> Figure:
    """Draw kernel_convergence_data, and the slope −1/2 above everything."""
    table = kernel_convergence_data(metrics)
    figure, panels = titled_panels(table)
    draw(panels, table)
    widths = np.unique(metrics["network_width"].values)
    for panel, ax in panels.items():
        _guide(ax, [c for c in curves(table) if c.panel == panel and c.role == "member"])
        title(ax, panel, table.attrs["panel_notes"][panel])
        ax.set(xscale="log", yscale="log")
        if len(widths) <= MOST_TICKS:
            ax.set_xlim(widths[0] / 1.3, widths[-1] * 1.3)
            plain_log_axis(ax.xaxis, widths)
    next(iter(panels.values())).set_ylim(bottom=np.nanmin(metrics["noise"].values) / BELOW)
    return finish(figure, table.attrs["title"], table.attrs["notes"])


def _guide(ax: Axes, single: list[Curve]) -> None:
    """Slope −1/2 above everything that is drawn."""
    if not single:
        return
    width, error = (np.concatenate([getattr(curve, axis) for curve in single]) for axis in "xy")
    ends = np.array([width.min(), width.max()])
    if ends[0] < ends[1]:
        height = 1.6 * np.nanmax(error * np.sqrt(width))
        ax.plot(ends, height / np.sqrt(ends), "--", color=COLOURS["guide"], lw=1.0, label="slope $-1/2$", zorder=1)
