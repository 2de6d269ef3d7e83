"""What pictures share: panels, axes, points with errors, titles, legends."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..fits import Series
from .selection import Choice, Chosen, absent, all_diverged, full_ensemble
from .style import COLOURS, PANEL, TEXT_SIZE, dashes
from .words import augmented, diverged_words, missing_words, split_words

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: What a panel without data says, unless it has something to say itself.
NOTHING = "nothing to draw: no finite value"

# --------------------------------------------------------------------------------------------- panels


def grid(columns: int, rows: int = 1, *, heights: Sequence[float] | None = None, **options: Any) -> tuple[Figure, Any]:
    """A figure and its panels (row, column); ``heights`` of the rows in units of a panel."""
    from matplotlib.figure import Figure

    heights = heights or [1.0] * rows
    size = (PANEL[0] * max(columns, 1.35), PANEL[1] * sum(heights) + 0.75)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, gridspec_kw={"height_ratios": heights}, **options)
    return figure, axes


def split_panels(metrics: xr.Dataset, label: str) -> tuple[Figure, dict[str, Axes]]:
    """One panel per split on one vertical scale, at most three in a row; panels that are not needed are removed.

    Args:
      label: of the vertical axes.
    """
    splits = [str(s) for s in metrics["split"].values]
    columns = len(splits) if len(splits) <= 3 else int(np.ceil(len(splits) / 2))
    figure, axes = grid(columns, int(np.ceil(len(splits) / columns)), sharey=True)
    for extra in axes.ravel()[len(splits) :]:
        extra.remove()
    for ax in axes[:, 0]:
        ax.set_ylabel(label)
    for ax, split in zip(axes.ravel(), splits, strict=False):
        ax.set_title(split_words(split))
    return figure, dict(zip(splits, axes.ravel(), strict=False))


def finish(figure: Figure, title: str, notes: Iterable[str] = (), *, legend: bool = True, nothing: str = "") -> Figure:
    """Title with what the picture leaves out, and one legend for all panels below them.

    Args:
      nothing: what panels without data say instead of NOTHING.
    """
    notes = [note for note in dict.fromkeys(notes) if note]
    figure.suptitle("\n".join([title, *notes]))
    for ax in figure.axes:
        if not ax.has_data() and not any(text.get_text().startswith("nothing to draw") for text in ax.texts):
            say(ax, nothing or NOTHING, centre=True)
        for axis in (ax.xaxis, ax.yaxis):
            _quiet_log_axis(axis)
    entries = legend_entries(figure.axes)
    if entries and legend:
        entry = 0.06 * max(len(re.sub(r"\\[a-zA-Z]+", "x", label)) for label in entries) + 0.5
        columns = int(np.clip(figure.get_figwidth() / entry, 1, len(entries)))
        columns = int(np.ceil(len(entries) / np.ceil(len(entries) / columns)))
        options: dict[str, Any] = {"loc": "outside lower center", "ncols": columns, "columnspacing": 1.6}
        figure.legend(list(entries.values()), list(entries), **options)
    return figure


def legend_entries(axes: Iterable[Axes]) -> dict[str, Any]:
    """Handles of all artists in the panels by their labels, each label once."""
    entries: dict[str, Any] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    return entries


def say(ax: Axes, text: str, *, centre: bool = False) -> None:
    """Text in the lower left corner of a panel, or in its middle."""
    if centre:
        x, y, place = 0.5, 0.5, {"ha": "center", "va": "center"}
    else:
        x, y, place = 0.03, 0.04, {"ha": "left", "va": "bottom"}
    if text:
        options: Any = {"fontsize": TEXT_SIZE, "linespacing": 1.35, "zorder": 10, **place}
        ax.text(x, y, text, transform=ax.transAxes, **options)


def points(ax: Axes, series: Series, **options: Any) -> None:
    """Values with error bars, if there are any. Bars are left out where the error is unknown."""
    if not len(series.x):
        return
    error = np.where(np.isfinite(series.error), series.error, 0.0)
    ax.errorbar(series.x, series.y, yerr=error, **{"marker": "o", "elinewidth": 0.9, **options})


def prediction(arm: Choice) -> dict[str, Any]:
    """How the prediction for an arm is drawn: black, with dashes that tell the arms apart."""
    label = f"predicted (no fit), {augmented(arm.augmentation)}"
    return {"color": COLOURS["theory"], "ls": dashes(arm.augmentation), "lw": 1.1, "label": label, "zorder": 4}


# ----------------------------------------------------------------------------------------------- axes


def ensemble_axes(ax: Axes, metrics: xr.Dataset) -> None:
    """Logarithmic axes over the ensemble size; a short range is labelled with its sizes."""
    ax.set(xscale="log", yscale="log", xlabel="ensemble size $m$ (members)")
    counts = metrics["member_count"].values
    if counts.max() <= 16:
        ax.set_xlim(counts.min() / 1.3, counts.max() * 1.3)
        plain_log_axis(ax.xaxis, counts)


def time_axis(ax: Axes, metrics: xr.Dataset) -> None:
    """Training time: linear in epochs, logarithmic with 0 included in steps that span decades."""
    steps = np.asarray(metrics["step"].values, dtype=float)
    unit = str(metrics["step"].attrs.get("units", "step"))
    ax.set_xlabel("training time (" + " or ".join(f"{u}s" for u in unit.split(" or ")) + ")")
    positive = steps[steps > 0]
    if len(positive) > 1 and positive.max() / positive.min() >= 30:
        ax.set_xscale("symlog", linthresh=positive.min(), linscale=0.5)
        ax.set_xticks(steps, [f"{s:g}" for s in steps] if len(steps) <= 9 else _thinned(steps))
        ax.set_xticks([], minor=True)
        ax.set_xlim(-0.3 * positive.min(), steps.max() * 1.25)
    elif unit == "epoch":
        from matplotlib.ticker import MaxNLocator

        ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _thinned(steps: np.ndarray) -> list[str]:
    """Tick labels at 0, at powers of ten and at the last step only."""
    powers = [s > 0 and float(np.log10(s)).is_integer() for s in steps]
    return [f"{s:g}" if s in (0, steps[-1]) or p else "" for s, p in zip(steps, powers, strict=True)]


def plain_log_axis(axis: Any, at: Sequence[float] | np.ndarray | None = None) -> None:
    """Logarithmic axis labelled with plain numbers: ``at`` these values, else a few round ones in view."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    low, high = sorted(axis.get_view_interval())
    if at is None:
        locator = MaxNLocator(6, steps=[1, 2, 5, 10]) if high / low < 2.5 else LogLocator(subs=(1, 1.5, 2, 3, 5, 7))
        at = [v for v in locator.tick_values(low, high) if low <= v <= high]
    axis.set_ticks(at, [f"{v:g}" for v in np.round(at, 12)])
    axis.set_ticks([], minor=True)


def _quiet_log_axis(axis: Any) -> None:
    """Label powers of ten, and over fewer than two and a half decades also their multiples by 2 and 5.

    Numbers are written out where none is longer than 0.0001 or 10000: they take less room than 2×10⁻².
    """
    from matplotlib.ticker import FuncFormatter, LogFormatterSciNotation, LogLocator, NullFormatter

    if axis.get_scale() != "log" or not isinstance(axis.get_major_locator(), LogLocator):
        return
    low, high = sorted(axis.get_view_interval())
    if high / low < 5:
        plain_log_axis(axis)
        return

    def formatter() -> Any:
        if low >= 1e-4 and high < 1e5:
            return FuncFormatter(lambda value, _: f"{value:g}")
        return LogFormatterSciNotation(minor_thresholds=(np.inf, np.inf))

    axis.set_major_formatter(formatter())
    if high / low > 300:
        axis.set_minor_formatter(NullFormatter())
    else:
        axis.set_minor_locator(LogLocator(subs=(2, 5)))
        axis.set_minor_formatter(formatter())


# ---------------------------------------------------------------------------------------------- words


def deviation_label(metrics: xr.Dataset) -> str:
    """What the vertical axis of an orbit deviation shows, with its unit."""
    attributes = metrics["orbit_variance"].attrs
    observable = attributes.get("observable", "output")
    unit = str(attributes.get("units", "1"))
    for square in ("²", "^2", "**2"):
        unit = unit.removesuffix(square)
    unit = unit.removeprefix("(").removesuffix(")")
    known = {"", "1", "dimensionless", observable}
    return f"orbit deviation of {observable}" + ("" if unit in known else f" ({unit})")


def heading(metrics: xr.Dataset, *parts: str) -> str:
    """Title of a picture: the study and what all panels have in common."""
    study = metrics.attrs.get("study")
    return " · ".join([*([str(study)] if study else []), *(part for part in parts if part)])


def time_words(metrics: xr.Dataset, step: Any) -> str:
    """A recorded time with its unit."""
    return f"{metrics['step'].attrs.get('units', 'step')} {step:g}"


def missing(metrics: xr.Dataset, chosen: Chosen) -> list[str]:
    """Sentences on what the arms of a picture lack."""
    notes = []
    for arm in chosen.drawn:
        name = f"{augmented(arm.augmentation)}, {arm.size}"
        if members := all_diverged(metrics, arm):
            notes.append(diverged_words(members, name))
        notes.append(missing_words(*absent(metrics, arm), name))
    if chosen.main.augmentation == "none":
        notes.append("no augmented arm in this study")
    elif chosen.control is None:
        notes.append("no arm without augmentation in this study")
    if full_ensemble(metrics, chosen.main) == 1:
        notes.append("one member only: no ensemble to average, no spread over members")
    return notes


def one_point(metrics: xr.Dataset, arm: Choice) -> str:
    """That orbits are single points, in words, where the group is trivial; else empty."""
    trivial = "group_order" in metrics.coords and metrics["group_order"].sel(arm=arm.key).item() == 1
    return "nothing to draw: the group has one element,\nso every orbit deviation is 0" if trivial else ""
