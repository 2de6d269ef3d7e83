"""The picture of a study of kind kernel_regression: error against the number of training samples.

The mean of an infinite ensemble is kernel regression with the NTK (Jacot et al. 2018); a kernel that has the symmetry
of the problem in it needs fewer samples.
"""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from .panels import finish, grid, heading, plain_log_axis
from .style import COLOURS, styled
from .words import substitutes, times_words

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Colours and markers of the kernels, in the order of the study.
KERNELS = (
    ("#D55E00", "s"),
    ("#0072B2", "o"),
    ("#009E73", "D"),
    ("#CC79A7", "^"),
    ("#56B4E9", "v"),
    ("#E69F00", "P"),
)

#: Line styles of the training times, the last time first.
TIMES: tuple[Any, ...] = ("-", "--", ":", (0, (4, 1.5, 1, 1.5)))

AXES = {"accuracy": "test accuracy", "mse": "test mean squared error"}


@styled
def learning_curves(metrics: xr.Dataset) -> Figure:
    """Accuracy, where there are classes, and mean squared error against the number of training samples n.

    One line per kernel and time, band: ± one standard error (choice of training and of test samples); hollow:
    published values, in the colour of the kernel of that name. Needs METRIC(arm, size, time), METRIC_se, the
    coordinate arm_label(arm), and published_value(published) if there are any.
    """
    names = [name for name in AXES if name in metrics]
    figure, axes = grid(len(names))
    times = metrics["time"].values[::-1]
    drawn = times[: len(TIMES)]
    for ax, name in zip(axes[0], names, strict=True):
        for arm, look in zip(metrics["arm"].values, _looks(metrics), strict=True):
            for time, dashes in zip(drawn, TIMES, strict=False):
                _line(ax, metrics[[name, f"{name}_se"]].sel(arm=arm, time=time), dashes, look, len(drawn) > 1)
        _published(ax, metrics, name)
        ax.set(xscale="log", xlabel="training samples $n$", ylabel=AXES[name])
        sizes = [*metrics["size"].values, *_published_sizes(metrics, name)]
        ax.set_xlim(min(sizes) / 1.2, max(sizes) * 1.2)
        plain_log_axis(ax.xaxis, _ticks(sizes))
    title = times_words(drawn[0]) if len(times) == 1 else ""
    lack = f"the last {len(drawn)} of {len(times)} training times" if len(drawn) < len(times) else ""
    notes = [lack, *(f"substitute data: {text}" for text in substitutes(metrics.attrs["data_provenance"]))]
    notes += [f"published: {text}" for text in _sources(metrics)]
    width = int(13 * figure.get_figwidth())
    return finish(figure, heading(metrics, title), ["\n".join(wrap(note, width)) for note in notes])


def _looks(metrics: xr.Dataset) -> list[dict[str, Any]]:
    labels = metrics["arm_label"].values
    return [
        {"color": KERNELS[i % len(KERNELS)][0], "marker": KERNELS[i % len(KERNELS)][1], "label": str(label)}
        for i, label in enumerate(labels)
    ]


def _line(ax: Axes, curve: xr.Dataset, dashes: Any, look: dict[str, Any], timed: bool) -> None:
    """One kernel at one time, with its band."""
    values, errors = (curve[name].values for name in curve.data_vars)
    known = np.isfinite(values)
    x, y, error = curve["size"].values[known], values[known], np.nan_to_num(errors[known])
    label = f"{look['label']}, {times_words(curve['time'].item())}" if timed else look["label"]
    ax.fill_between(x, y - error, y + error, color=look["color"], alpha=0.13, lw=0)
    ax.plot(x, y, **{**look, "label": label, "ls": dashes})


def _published(ax: Axes, metrics: xr.Dataset, name: str) -> None:
    """Hollow markers, in the look of the kernel of the same name where there is one."""
    if "published_value" not in metrics:
        return
    known = {look["label"]: look for look in _looks(metrics)}
    here = metrics.isel(published=metrics["published_metric"].values == name)
    for label in dict.fromkeys(here["published_label"].values.astype(str)):
        of_kernel = here.isel(published=here["published_label"].values == label)
        look = known.get(label, {"color": COLOURS["member"], "marker": "h"})
        options = {"ls": "", "ms": 6.5, "mfc": "none", "mew": 1.2, "zorder": 5, "label": f"{label}, published"}
        ax.plot(of_kernel["published_size"], of_kernel["published_value"], **{**look, **options})


def _published_sizes(metrics: xr.Dataset, name: str) -> list[int]:
    if "published_value" not in metrics:
        return []
    return list(metrics["published_size"].values[metrics["published_metric"].values == name])


def _sources(metrics: xr.Dataset) -> list[str]:
    """Where the published values come from."""
    return list(dict.fromkeys(metrics["published_source"].values.astype(str))) if "published_value" in metrics else []


def _ticks(sizes: list[int]) -> list[int]:
    """The sizes, without those too close to the one before."""
    ticks: list[int] = []
    for size in sorted(set(map(int, sizes))):
        if not ticks or size / ticks[-1] > 1.3:
            ticks.append(size)
    return ticks
