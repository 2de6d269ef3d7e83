"""Picture of a study of kind kernel_convergence: empirical against analytic kernels over the width.

The mean kernel of M networks is away from the analytic one by the bias of finite width and by the noise of a finite
mean, ∝ 1/√(width · M) (see measures.kernel_errors); one network by √M times that noise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..fits import SEEN, Series
from .panels import finish, grid, heading, plain_log_axis, points
from .style import COLOURS, shades, styled
from .words import mean_of, number

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = {"nngp": "NNGP, readout averaged", "ntk": "NTK"}

#: One per curve.
MARKERS = "os^vDph"

#: How far below the smallest noise the panels reach: smaller errors of a mean are chance.
BELOW = 8.0

#: Where more widths than this are ticks, round ones are labelled instead.
MOST_TICKS = 12


@styled
def kernel_convergence(metrics: xr.Dataset) -> Figure:
    """Relative error of the mean kernel against width, one panel per kernel, one colour per curve.

    Filled points: mean of M networks, ± standard error. Open points: one network, mean. Dotted: the noise of the
    mean. Diamonds: bias of finite width, where it is more than three standard errors from zero. Crosses: published.
    Needs relative_error, member_error, squared_bias, noise (arm, kind), their _se, and the exponents (curve, kind).
    """
    figure, axes = grid(len(KINDS), sharey=True)
    curves = metrics["curve"].values.astype(str)
    widths = np.unique(metrics["network_width"].values)
    for ax, (kind, title) in zip(axes[0], KINDS.items(), strict=True):
        part = metrics.sel(kind=kind)
        for i, (curve, colour) in enumerate(zip(curves, shades(len(curves) + 1, "viridis"), strict=False)):
            arms = part.isel(arm=np.flatnonzero(part["arm_curve"].values == curve)).sortby("network_width")
            beside = 1.03 ** (2 * i - len(curves) + 1)
            _curve(ax, arms, curve, {"color": colour, "marker": MARKERS[i % len(MARKERS)]}, beside)
        _guide(ax, part)
        _published(ax, metrics, kind)
        exponents = [text for curve in curves if (text := _exponent(part, curve))]
        said = ["one network $\\propto$ width$^{\\,x}$,", f"$x$ = {', '.join(exponents)}"] if exponents else []
        ax.set(xscale="log", yscale="log", xlabel="width", title="\n".join([title, *said]))
        if len(widths) <= MOST_TICKS:
            ax.set_xlim(widths[0] / 1.3, widths[-1] * 1.3)
            plain_log_axis(ax.xaxis, widths)
    axes[0, 0].set_ylabel("relative error of the kernel")
    axes[0, 0].set_ylim(bottom=np.nanmin(metrics["noise"].values) / BELOW)
    members = metrics["members"].values
    return finish(figure, heading(metrics, mean_of(int(members.min()), int(members.max()))))


def _curve(ax: Axes, arms: xr.Dataset, label: str, look: dict[str, Any], beside: float) -> None:
    """One curve; ``beside`` moves the mean kernel and its bias aside, so that bars of several curves are seen."""
    width = arms["network_width"].values.astype(float)

    def series(name: str, factor: float = 1.0) -> Series:
        return Series(width * factor, arms[name].values, arms[f"{name}_se"].values)

    points(ax, series("member_error"), **look, mfc="none", ms=3.2, lw=0.7, label=f"{label}: one network")
    points(ax, series("relative_error", beside), **look, ls="none", ms=4.2, label=f"{label}: mean kernel", zorder=5)
    ax.plot(
        width, arms["noise"].values, ":", color=look["color"], lw=1.1, label=f"{label}: noise of the mean", zorder=3
    )
    square = series("squared_bias", beside)
    seen = square.y > SEEN * square.error
    bias = np.sqrt(square.y[seen])
    found = Series(square.x[seen], bias, square.error[seen] / (2 * bias))
    points(ax, found, color=look["color"], marker="D", mfc="none", ms=7, ls="none", label=f"{label}: bias", zorder=4)


def _guide(ax: Axes, part: xr.Dataset) -> None:
    """Slope −1/2 above everything that is drawn."""
    width = part["network_width"].values.astype(float)
    ends = np.array([width.min(), width.max()])
    if ends[0] < ends[1]:
        height = 1.6 * np.nanmax(part["member_error"].values * np.sqrt(width))
        ax.plot(ends, height / np.sqrt(ends), "--", color=COLOURS["guide"], lw=1.0, label="slope $-1/2$", zorder=1)


def _published(ax: Axes, metrics: xr.Dataset, kind: str) -> None:
    if "published_value" not in metrics:
        return
    part = metrics[["published_value"]].isel(published=np.flatnonzero(metrics["published_kind"].values == kind))
    for label in dict.fromkeys(part["published_label"].values.tolist()):
        one = part.isel(published=np.flatnonzero(part["published_label"].values == label)).sortby("published_width")
        look: dict[str, Any] = {"color": COLOURS["theory"], "marker": "x", "ms": 5.5, "ls": "none", "zorder": 6}
        ax.plot(one["published_width"].values, one["published_value"].values, label=f"published: {label}", **look)


def _exponent(part: xr.Dataset, curve: str) -> str:
    one = part.sel(curve=curve)
    value, error = (one[f"member_error_exponent{suffix}"].item() for suffix in ("", "_se"))
    if not np.isfinite(value):
        return ""
    return f"{number(value, error, compact=True)} ({curve})"
