"""The picture of a study of kind kernel_regression: error against the number of training samples.

The mean of an infinite ensemble is kernel regression with the NTK (Jacot et al. 2018); a kernel that has the symmetry
of the problem in it needs fewer samples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .data import Rows
from .panels import draw, finish, grid, heading, label_axes, plain_log_axis
from .selection import lines, thinned_words
from .style import COLOURS, Look, shades, styled
from .words import substitutes, times_words

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.figure import Figure

#: Markers of the kernels, in the order of the study.
MARKERS = "soD^vP"

#: Dashes of the training times, the last time first.
TIMES = ((), (3.7, 1.6), (1, 1.65), (4, 1.5, 1, 1.5))

AXES = {"accuracy": "test accuracy", "mse": "test mean squared error"}


def learning_curves_data(metrics: xr.Dataset) -> pd.DataFrame:
    """Accuracy, where there are classes, and mean squared error against the number of training samples n.

    One line per kernel and time, band: ± one standard error (choice of training and of test samples); hollow:
    published values, in the colour of the kernel of that name. Needs METRIC(arm, size, time), METRIC_se, the
    coordinate arm_label(arm), and published_value(published) if there are any.
    """
    rows, names = Rows(), [name for name in AXES if name in metrics]
    times = metrics["time"].values[::-1]
    drawn = times[: len(TIMES)]
    for name in names:
        for label, look in _looks(metrics).items():
            arm = metrics["arm"].values[metrics["arm_label"].values == label].item()
            for time, dash in zip(drawn, TIMES, strict=False):
                curve = metrics[[name, f"{name}_se"]].sel(arm=arm, time=time)
                value, error = (curve[part].values for part in curve.data_vars)
                known = np.isfinite(value)
                x, y, error = curve["size"].values[known], value[known], np.nan_to_num(error[known])
                series = f"{label}, {times_words(time)}" if len(drawn) > 1 else label
                rows.add(AXES[name], series, "theory", look._replace(dash=dash), x, y, y - error, y + error)
        _add_published(rows, metrics, name)
    lack = f"the last {len(drawn)} of {len(times)} training times" if len(drawn) < len(times) else ""
    notes = [
        lack,
        thinned_words(metrics.sizes["arm"], "kernels"),
        *(f"substitute data: {text}" for text in substitutes(metrics.attrs["data_provenance"])),
    ]
    return rows.table(
        panels=[AXES[name] for name in names],
        title=heading(metrics, times_words(drawn[0]) if len(times) == 1 else ""),
        x_label="training samples n",
        y_label={AXES[name]: AXES[name] for name in names},
        x_scale="log",
        error="± one standard error (choice of training and of test samples)",
        notes=[*notes, *(f"published: {text}" for text in _sources(metrics))],
    )


def _looks(metrics: xr.Dataset) -> dict[str, Look]:
    """Label of a kernel that has a line → how it is drawn."""
    labels = lines(metrics["arm_label"].values.astype(str).tolist())
    markers = (MARKERS[i % len(MARKERS)] for i in range(len(labels)))
    looks = zip(labels, shades(len(labels)), markers, strict=True)
    return {label: Look(shade, marker, band=True, opacity=0.13, width=1.3) for label, shade, marker in looks}


def _add_published(rows: Rows, metrics: xr.Dataset, name: str) -> None:
    """Hollow markers, in the look of the kernel of the same name where there is one."""
    if "published_value" not in metrics:
        return
    known = _looks(metrics)
    here = metrics.isel(published=metrics["published_metric"].values == name)
    for label in dict.fromkeys(here["published_label"].values.astype(str)):
        of_kernel = here.isel(published=here["published_label"].values == label)
        look = known.get(label, Look(COLOURS["theory"], "h"))._replace(dash=None, size=6.5, hollow=True, order=5)
        values = of_kernel["published_size"], of_kernel["published_value"]
        rows.add(AXES[name], f"{label}, published", "theory", look, *values)


@styled
def learning_curves(metrics: xr.Dataset) -> Figure:
    """Draw learning_curves_data."""
    table = learning_curves_data(metrics)
    names = table.attrs["panels"]
    figure, axes = grid(len(names))
    panels = dict(zip(names, axes.ravel(), strict=True))
    draw(panels, table)
    label_axes(panels, table)
    for name, ax in panels.items():
        sizes = sorted({*metrics["size"].values, *table.loc[table["panel"] == name, "x"]})
        ax.set(xscale="log", xlim=(min(sizes) / 1.2, max(sizes) * 1.2))
        plain_log_axis(ax.xaxis, sizes)
    return finish(figure, table.attrs["title"], table.attrs["notes"])


def _sources(metrics: xr.Dataset) -> list[str]:
    """Where the published values come from."""
    return list(dict.fromkeys(metrics["published_source"].values.astype(str))) if "published_value" in metrics else []
