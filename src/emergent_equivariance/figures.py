"""One function per picture: labelled datasets in, a matplotlib Figure out.

The pictures show the claim of Gerken & Kessel (2024), *Emergent Equivariance in Deep Ensembles*: members are not
equivariant, their mean is; the mean of m members deviates by a predicted amount that falls like m^(−1/2)
(theory.md §3), down to the orbit variance of the analytic mean μ_t.

Conventions of all pictures. Orbit deviation means √orbit_variance; its standard error is that of the variance
divided by 2√variance. Grey is a single member, blue the mean of an ensemble trained with full augmentation,
vermillion the control without augmentation, black broken lines are theory without a fitted parameter. Where a study
has several widths the widest stands for it, unless width is the subject; of any other swept key (a seed, say)
the first value is drawn, and the title says so. What cannot be drawn is said in the picture.

Which pictures a study has follows from the study file alone (figure_names), so that a workflow can plan them;
nothing heavy is imported for that.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from .groups import get_group

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .study import Arm, Study

# ---------------------------------------------------------------------------------------------- style

#: Colours of constant meaning, distinguishable with any colour vision (Okabe & Ito 2008).
COLOURS = {
    "member": "#8c8c8c",
    "full": "#0072B2",
    "none": "#D55E00",
    "random": "#009E73",
    "subset": "#CC79A7",
    "theory": "#000000",
    "mirror": "#E69F00",
    "guide": "#a0a0a0",
}

#: Width and height of one panel in inches: a journal's column.
PANEL = (3.4, 2.65)

#: matplotlib settings of all pictures; the salt makes the identifiers in an SVG reproducible.
RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "figure.titlesize": 9,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    "errorbar.capsize": 1.5,
    "legend.frameon": False,
    "savefig.dpi": 200,
    "svg.hashsalt": "emergent-equivariance",
}

TEXT_SIZE = 7.5


@contextmanager
def style():
    """Within this context matplotlib draws in the style of all pictures."""
    import matplotlib

    with matplotlib.rc_context(RC):
        yield


def _styled(function: Callable[..., Figure]) -> Callable[..., Figure]:
    @wraps(function)
    def styled(*arguments: Any, **options: Any) -> Figure:
        with style():
            return function(*arguments, **options)

    return styled


def _colour(augmentation: str) -> str:
    return COLOURS["subset" if augmentation.startswith("subset") else augmentation]


def _shades(number: int, colour_map: str) -> list[Any]:
    """Ordered colours, dark to bright, for an ordered quantity."""
    from matplotlib import colormaps

    return [colormaps[colour_map](x) for x in np.linspace(0.0, 0.82, max(number, 2))[:number]]


_AUGMENTED = {"none": "no augmentation", "full": "full augmentation", "random": "random augmentation"}


def _augmented(augmentation: str) -> str:
    if augmentation.startswith("subset-"):
        return f"augmentation with {augmentation.removeprefix('subset-')} elements"
    return _AUGMENTED.get(augmentation, augmentation)


def split_title(split: str) -> str:
    """A split in words."""
    if split.startswith("ood-"):
        return f"out of distribution: {split.removeprefix('ood-')}"
    return {"train": "training inputs", "test": "test inputs"}.get(split, split)


# -------------------------------------------------------------------------------------- choosing arms


class Choice(NamedTuple):
    """One arm that a picture may draw.

    Attributes:
      key: folder name of the arm.
      width: width of its network.
      augmentation: "none", "full", "subset-K" or "random".
    """

    key: str
    width: int
    augmentation: str


@dataclass(frozen=True)
class Chosen:
    """The arms of a picture.

    Attributes:
      main: the widest arm with full augmentation; failing that with another one; failing that without.
      control: the arm without augmentation at the same width (else the widest), if it is not main.
      others: arms at the width of main with further kinds of augmentation.
      widths: all arms augmented like main, by width.
    """

    main: Choice
    control: Choice | None
    others: tuple[Choice, ...]
    widths: tuple[Choice, ...]


def choose(arms: Iterable[Choice]) -> Chosen:
    """Pick the arms that stand for a study; of arms alike in width and augmentation the first one.

    Raises ValueError if there is no arm.
    """
    first: dict[tuple[int, str], Choice] = {}
    for arm in arms:
        first.setdefault((arm.width, arm.augmentation), arm)
    if not first:
        raise ValueError("there is no arm to draw")
    kinds = list(dict.fromkeys(kind for _, kind in first))
    kind = "full" if "full" in kinds else next((k for k in kinds if k != "none"), "none")
    widths = tuple(sorted((a for a in first.values() if a.augmentation == kind), key=lambda a: a.width))
    main = widths[-1]
    controls = sorted(
        (a for a in first.values() if a.augmentation == "none"), key=lambda a: (a.width == main.width, a.width)
    )
    control = controls[-1] if controls and kind != "none" else None
    others = tuple(a for a in first.values() if a.width == main.width and a.augmentation not in (kind, "none"))
    return Chosen(main, control, others, widths)


def augmentation_label(arm: Arm) -> str:
    """Augmentation of an arm as the metrics file labels it: none, full, subset-K or random."""
    augmentation = arm.settings.augmentation
    return f"subset-{augmentation.subset}" if augmentation.kind == "subset" else augmentation.kind


def study_choices(study: Study) -> list[Choice]:
    """All arms of a study, in its order."""
    return [Choice(arm.path, arm.settings.network.width, augmentation_label(arm)) for arm in study.arms]


def metrics_choices(metrics: xr.Dataset) -> list[Choice]:
    """All arms of a metrics dataset, in its order."""
    keys, widths, labels = (metrics[c].values for c in ("arm", "network_width", "augmentation_label"))
    return [Choice(str(k), int(w), str(a)) for k, w, a in zip(keys, widths, labels, strict=True)]


def with_arm_coordinates(study: Study, metrics: xr.Dataset) -> xr.Dataset:
    """Add, where missing, the coordinates network_width, augmentation_label and group_order on ``arm``.

    Raises StudyError if the metrics hold an arm that the study does not have.
    """
    arms = [study.arm(str(path)) for path in metrics["arm"].values]
    columns = {
        "network_width": [arm.settings.network.width for arm in arms],
        "augmentation_label": [augmentation_label(arm) for arm in arms],
        "group_order": [get_group(arm.settings.group).order for arm in arms],
    }
    return metrics.assign_coords({k: ("arm", v) for k, v in columns.items() if k not in metrics.coords})


def _first_of(metrics: xr.Dataset) -> str:
    """Which swept keys are fixed at their first value, in words; empty if none is."""
    swept = ("arm", "network_width", "augmentation_label", "width", "augmentation", "group_order")
    choices = metrics_choices(metrics)
    notes = []
    for name, values in metrics.coords.items():
        if name in swept or values.dims != ("arm",):
            continue
        alike: dict[Any, list[Any]] = {}
        for choice, value in zip(choices, values.values, strict=True):
            alike.setdefault(choice[1:], []).append(value.item() if hasattr(value, "item") else value)
        count = max(len(set(found)) for found in alike.values())
        if count > 1:
            notes.append(f"{name} = {values.values[0]} (the first of {count})")
    return ", ".join(notes)


# ------------------------------------------------------------------------------------- reading series


class Series(NamedTuple):
    """Numbers to draw, without the missing ones: y ± error at x."""

    x: np.ndarray
    y: np.ndarray
    error: np.ndarray


def _series(values: xr.DataArray, errors: xr.DataArray | None, dimension: str) -> Series:
    y = np.asarray(values, dtype=float)
    error = np.full_like(y, np.nan) if errors is None else np.asarray(errors, dtype=float)
    finite = np.isfinite(y)
    return Series(values[dimension].values[finite].astype(float), y[finite], error[finite])


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
    errors = metrics[f"{name}_se"].sel(arm=arm.key, split=split) if f"{name}_se" in metrics else None
    if "member_count" in values.dims and dimension != "member_count" and "member_count" not in at:
        at["member_count"] = full_ensemble(metrics, arm)
    values = values.sel({k: v for k, v in at.items() if k in values.dims})
    if errors is not None:
        errors = errors.sel({k: v for k, v in at.items() if k in errors.dims})
    series = _series(values, errors, dimension)
    if not root:
        return series
    x, y, error = (part[series.y > 0] for part in series)
    return Series(x, np.sqrt(y), error / (2 * np.sqrt(y)))


def full_ensemble(metrics: xr.Dataset, arm: Choice) -> int:
    """Number of members in the largest ensemble that the arm has numbers for."""
    values = metrics["orbit_variance"].sel(arm=arm.key)
    there = values.notnull().any([d for d in values.dims if d != "member_count"]).values
    counts = metrics["member_count"].values
    return int(counts[there].max()) if there.any() else int(counts.max())


def last_step(metrics: xr.Dataset, arm: Choice) -> Any:
    """The last step at which an arm has numbers: arms may be trained for different times."""
    values = metrics["orbit_variance"].sel(arm=arm.key)
    there = values.notnull().any([d for d in values.dims if d != "step"]).values
    return metrics["step"].values[np.flatnonzero(there)[-1] if there.any() else -1]


def member_band(
    metrics: xr.Dataset, arm: Choice, split: str, *, name: str = "orbit_variance", root: bool = True
) -> dict[str, np.ndarray]:
    """Single members over ``step``: x, mean, standard deviation, minimum and maximum over members.

    Empty arrays where the arm has no members' values. Missing members (diverged ones) are left out.
    """
    if f"member_{name}" not in metrics:
        return {key: np.empty(0) for key in ("x", "mean", "std", "min", "max")}
    values = metrics[f"member_{name}"].sel(arm=arm.key, split=split).transpose("step", "member")
    y = np.asarray(values, dtype=float)
    y = np.sqrt(np.where(y >= 0, y, np.nan)) if root else y
    there = np.isfinite(y).any(axis=1)
    y = y[there]
    if not len(y):
        return {key: np.empty(0) for key in ("x", "mean", "std", "min", "max")}
    return {
        "x": values["step"].values[there].astype(float),
        "mean": np.nanmean(y, axis=1),
        "std": np.nanstd(y, axis=1),
        "min": np.nanmin(y, axis=1),
        "max": np.nanmax(y, axis=1),
    }


def _scalar(metrics: xr.Dataset, name: str, arm: Choice, split: str, step: Any) -> tuple[float, float]:
    """(value, standard error) of a metric without member_count; NaN where it is missing."""
    if name not in metrics:
        return np.nan, np.nan
    at = {"arm": arm.key, "split": split, "step": step}
    error = float(metrics[f"{name}_se"].sel(at)) if f"{name}_se" in metrics else np.nan
    return float(metrics[name].sel(at)), error


def _plus_minus(value: float, error: float, digits: int = 2) -> str:
    """Value ± error with as many digits as the error deserves."""
    if not np.isfinite(value):
        return "–"
    if np.isfinite(error) and error > 0:
        decimals = int(np.clip(1 - np.floor(np.log10(error)), 0, 6))
        return f"{value:.{decimals}f} ± {error:.{decimals}f}".replace("-", "−")
    return f"{value:.{digits}f}".replace("-", "−")


# ------------------------------------------------------------------------------------- drawing helpers


def _grid(columns: int, rows: int = 1, *, heights: Sequence[float] | None = None, **options: Any) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    heights = heights or [1.0] * rows
    size = (PANEL[0] * max(columns, 1.35), PANEL[1] * sum(heights) + 0.75)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, gridspec_kw={"height_ratios": heights}, **options)
    return figure, axes


def _panels(splits: Sequence[str], **options: Any) -> tuple[Figure, list[Axes]]:
    """One panel per split, at most three in a row; panels that are not needed are removed."""
    columns = len(splits) if len(splits) <= 3 else int(np.ceil(len(splits) / 2))
    rows = int(np.ceil(len(splits) / columns))
    figure, axes = _grid(columns, rows, **options)
    for extra in axes.ravel()[len(splits) :]:
        extra.remove()
    for ax, split in zip(axes.ravel(), splits, strict=False):
        ax.set_title(split_title(split))
    return figure, list(axes.ravel()[: len(splits)])


def _is_first(ax: Axes) -> bool:
    """Whether a panel is the first of its row."""
    place = ax.get_subplotspec()
    return place is not None and place.is_first_col()


def _finish(figure: Figure, title: str, notes: Iterable[str] = ()) -> Figure:
    """Title with what the picture leaves out, and one legend for all panels below them."""
    notes = [note for note in dict.fromkeys(notes) if note]
    figure.suptitle("\n".join([title, *notes]))
    entries: dict[str, Any] = {}
    for ax in figure.axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
        if not ax.has_data():
            _say(ax, "nothing to draw: no finite value", centre=True)
        for axis in (ax.xaxis, ax.yaxis):
            _quiet_log_axis(axis)
    if entries:
        entry = 0.06 * max(len(re.sub(r"\\[a-zA-Z]+", "x", label)) for label in entries) + 0.5
        columns = int(np.clip(figure.get_figwidth() / entry, 1, len(entries)))
        columns = int(np.ceil(len(entries) / np.ceil(len(entries) / columns)))
        figure.legend(
            list(entries.values()), list(entries), loc="outside lower center", ncols=columns, columnspacing=1.6
        )
    return figure


def _say(ax: Axes, text: str, *, centre: bool = False, x: float = 0.03, y: float = 0.04) -> None:
    if not text:
        return
    place: dict[str, Any] = {"ha": "left" if x < 0.5 else "right", "va": "bottom" if y < 0.5 else "top"}
    if centre:
        x, y, place = 0.5, 0.5, {"ha": "center", "va": "center"}
    ax.text(x, y, text, transform=ax.transAxes, fontsize=TEXT_SIZE, linespacing=1.35, zorder=10, **place)


def _points(ax: Axes, series: Series, **options: Any) -> None:
    """Values with error bars, if there are any. Bars are left out where the error is unknown."""
    if not len(series.x):
        return
    error = np.where(np.isfinite(series.error), series.error, 0.0)
    ax.errorbar(series.x, series.y, yerr=error, **{"marker": "o", "elinewidth": 0.9, **options})


def _prediction(arm: Choice) -> dict[str, Any]:
    """How the prediction for an arm is drawn: black, with dashes that tell the arms apart."""
    dashes = {"full": "--", "none": (0, (4, 1.5, 1, 1.5)), "random": (0, (1, 1.2))}.get(arm.augmentation, (0, (7, 2)))
    label = f"predicted (no fit), {_augmented(arm.augmentation)}"
    return {"color": COLOURS["theory"], "ls": dashes, "lw": 1.1, "label": label, "zorder": 4}


def _ensemble_axes(ax: Axes, metrics: xr.Dataset) -> None:
    """Logarithmic axes over the ensemble size; a short range is labelled with its sizes."""
    ax.set(xscale="log", yscale="log", xlabel="ensemble size $m$ (members)")
    counts = metrics["member_count"].values
    if counts.max() <= 16:
        ax.set_xlim(counts.min() / 1.3, counts.max() * 1.3)
        _plain_log_axis(ax.xaxis, counts)


def _mean_of(members: int) -> str:
    return f"mean of {members} member" + ("s" if members > 1 else "")


def _time_axis(ax: Axes, metrics: xr.Dataset) -> None:
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


def _plain_log_axis(axis: Any, at: Sequence[float] | np.ndarray | None = None) -> None:
    """Logarithmic axis labelled with plain numbers: ``at`` these values, else a few round ones in view."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    low, high = sorted(axis.get_view_interval())
    if at is None:
        locator = (
            MaxNLocator(6, steps=[1, 2, 5, 10])
            if high / low < 8
            else LogLocator(subs=(1, 2, 5) if high / low < 200 else (1,))
        )
        at = [v for v in locator.tick_values(low, high) if low <= v <= high]
    axis.set_ticks(at, [f"{v:g}" for v in np.round(at, 12)])
    axis.set_ticks([], minor=True)


def _quiet_log_axis(axis: Any) -> None:
    """Label powers of ten; with fewer than two in view also their multiples by 2 and 5, or plain numbers."""
    from matplotlib.ticker import LogFormatterSciNotation, LogLocator, NullFormatter

    if axis.get_scale() != "log" or not isinstance(axis.get_major_locator(), LogLocator):
        return
    low, high = sorted(axis.get_view_interval())
    if high / low < 5:
        _plain_log_axis(axis)
    elif np.floor(np.log10(high)) - np.ceil(np.log10(low)) >= 1:
        axis.set_minor_formatter(NullFormatter())
    else:
        axis.set_minor_locator(LogLocator(subs=(2, 5)))
        axis.set_minor_formatter(LogFormatterSciNotation(minor_thresholds=(np.inf, np.inf)))


def _deviation_label(metrics: xr.Dataset) -> str:
    """What the vertical axis of an orbit deviation shows, with its unit."""
    attributes = metrics["orbit_variance"].attrs
    observable = attributes.get("observable", "output")
    unit = str(attributes.get("units", "1"))
    for square in ("²", "^2", "**2"):
        unit = unit.removesuffix(square)
    unit = unit.removeprefix("(").removesuffix(")")
    known = {"", "1", "dimensionless", observable}
    return f"orbit deviation of {observable}" + ("" if unit in known else f" ({unit})")


def _heading(metrics: xr.Dataset, *parts: str) -> str:
    study = metrics.attrs.get("study")
    return " · ".join([*([str(study)] if study else []), *(part for part in parts if part)])


def _time(metrics: xr.Dataset, step: Any) -> str:
    return f"{metrics['step'].attrs.get('units', 'step')} {step:g}"


def _missing(metrics: xr.Dataset, chosen: Chosen) -> list[str]:
    """Sentences on what the arms of a picture lack."""
    notes = []
    if chosen.main.augmentation == "none":
        notes.append("no augmented arm in this study")
    elif chosen.control is None:
        notes.append("no arm without augmentation in this study")
    if full_ensemble(metrics, chosen.main) == 1:
        notes.append("one member only: no ensemble to average, no spread over members")
    return notes


# ------------------------------------------------------------------------------------------- pictures


@_styled
def orbit_scaling(metrics: xr.Dataset) -> Figure:
    """Orbit deviation against ensemble size m, one panel per split, at the last recorded step.

    Band: mean ± standard deviation of single members. Points: ensembles, ± standard error. Dashes: predicted
    from μ_t and Σ_t, nothing fitted. Needs orbit_variance(arm, step, split, member_count), its _se,
    predicted_orbit_variance, member_orbit_variance, and for the text orbit_slope and orbit_variance_ratio.
    """
    chosen = choose(metrics_choices(metrics))
    step = last_step(metrics, chosen.main)
    splits = [str(s) for s in metrics["split"].values]
    figure, axes = _panels(splits)
    arms = [arm for arm in (chosen.control, *chosen.others, chosen.main) if arm]
    predicted = False
    for ax, split in zip(axes, splits, strict=True):
        largest = max(full_ensemble(metrics, arm) for arm in arms)
        band = member_band(metrics, chosen.main, split)
        if len(band["x"]) and band["x"][-1] == step and largest > 1:
            low = max(band["mean"][-1] - band["std"][-1], band["min"][-1])
            high = band["mean"][-1] + band["std"][-1]
            ax.fill_between(
                [1, largest], low, high, color=COLOURS["member"], alpha=0.28, lw=0, label="single members, mean ± std"
            )
        for arm in arms:
            theory = read_series(metrics, "predicted_orbit_variance", arm, split, "member_count", root=True, step=step)
            if len(theory.x):
                predicted = True
                dash: dict[str, Any] = {} if len(theory.x) > 1 else {"marker": "_", "ms": 12}
                ax.plot(theory.x, theory.y, **_prediction(arm), **dash)
            series = read_series(metrics, "orbit_variance", arm, split, "member_count", root=True, step=step)
            label = f"ensemble mean, {_augmented(arm.augmentation)}"
            marker = "s" if arm.augmentation == "none" else "o"
            _points(ax, series, color=_colour(arm.augmentation), ls="none", marker=marker, label=label, zorder=5)
            if arm is chosen.main and len(series.x) > 1:
                x = np.array([series.x[-1] ** 0.45, series.x[-1]])
                y = 1.8 * series.y[-1] * np.sqrt(series.x[-1] / x)
                ax.plot(x, y, ":", color=COLOURS["guide"], lw=1.6, label=r"slope $-1/2$", zorder=1)
        _ensemble_axes(ax, metrics)
        _say(ax, _scaling_text(metrics, chosen, split, step))
    for ax in axes:
        if _is_first(ax):
            ax.set_ylabel(_deviation_label(metrics))
    notes = [*_missing(metrics, chosen), _first_of(metrics)]
    if not predicted:
        notes.append("no prediction: these arms have no analytic covariance $\\Sigma_t$")
    return _finish(figure, _heading(metrics, f"width {chosen.main.width}", _time(metrics, step)), notes)


def _scaling_text(metrics: xr.Dataset, chosen: Chosen, split: str, step: Any) -> str:
    slope = _plus_minus(*_scalar(metrics, "orbit_slope", chosen.main, split, step), digits=3)
    ratio = _plus_minus(*_scalar(metrics, "orbit_variance_ratio", chosen.main, split, step))
    lines = [] if slope == "–" else [f"slope {slope}"]
    return "\n".join([*lines, *([] if ratio == "–" else [f"measured/predicted\nvariance {ratio}"])])


@_styled
def orbit_in_time(metrics: xr.Dataset) -> Figure:
    """Orbit deviation against training time, one panel per split: members, full ensemble, prediction, control.

    Needs orbit_variance, its _se, member_orbit_variance and, where there is theory, predicted_orbit_variance.
    """
    chosen = choose(metrics_choices(metrics))
    splits = [str(s) for s in metrics["split"].values]
    figure, axes = _panels(splits)
    arms = [arm for arm in (chosen.control, *chosen.others, chosen.main) if arm]
    predicted = False
    for ax, split in zip(axes, splits, strict=True):
        band = member_band(metrics, chosen.main, split)
        if len(band["x"]):
            low = np.maximum(band["mean"] - band["std"], band["min"])
            grey = COLOURS["member"]
            if full_ensemble(metrics, chosen.main) > 1:
                high = band["mean"] + band["std"]
                ax.fill_between(band["x"], low, high, color=grey, alpha=0.28, lw=0, label="single members, mean ± std")
            ax.plot(band["x"], band["mean"], color=grey, lw=1)
        for arm in arms:
            counts = {full_ensemble(metrics, arm), *([1] if arm is chosen.main else [])}
            for count in sorted(counts):
                theory = read_series(
                    metrics, "predicted_orbit_variance", arm, split, "step", root=True, member_count=count
                )
                if len(theory.x):
                    predicted = True
                    ax.plot(theory.x, theory.y, **_prediction(arm))
            series = read_series(metrics, "orbit_variance", arm, split, "step", root=True)
            label = f"{_mean_of(full_ensemble(metrics, arm))}, {_augmented(arm.augmentation)}"
            marker = "s" if arm.augmentation == "none" else "o"
            _points(ax, series, color=_colour(arm.augmentation), marker=marker, lw=0.9, ms=3.2, label=label, zorder=5)
        ax.set_yscale("log")
        _time_axis(ax, metrics)
    for ax in axes:
        if _is_first(ax):
            ax.set_ylabel(_deviation_label(metrics))
    notes = [*_missing(metrics, chosen), _first_of(metrics)]
    if not predicted:
        notes.append("no prediction: these arms have no analytic covariance $\\Sigma_t$")
    return _finish(figure, _heading(metrics, f"width {chosen.main.width}"), notes)


@_styled
def measured_over_predicted(metrics: xr.Dataset) -> Figure:
    """Measured over predicted orbit variance against training time, one line per width, one panel per split.

    1 where the NTK describes the networks. Needs orbit_variance_ratio(arm, step, split) and its _se.
    """
    chosen = choose(metrics_choices(metrics))
    splits = [str(s) for s in metrics["split"].values]
    figure, axes = _panels(splits)
    for ax, split in zip(axes, splits, strict=True):
        for arm, colour in zip(chosen.widths, _shades(len(chosen.widths), "viridis"), strict=True):
            series = read_series(metrics, "orbit_variance_ratio", arm, split, "step")
            _points(ax, series, color=colour, label=f"width {arm.width}")
        if ax.has_data():
            ax.axhline(1, color=COLOURS["theory"], ls="--", lw=1.1, label="the networks are as the NTK says", zorder=1)
            ax.set_yscale("log")
            low, high = ax.get_ylim()
            ax.set_ylim(min(low, 0.8), max(high, 1.25))
            _time_axis(ax, metrics)
            _plain_log_axis(ax.yaxis)
    for ax in axes:
        if _is_first(ax):
            ax.set_ylabel("measured/predicted\norbit variance")
    title = _heading(metrics, _augmented(chosen.main.augmentation))
    return _finish(figure, title, [_first_of(metrics)])


@_styled
def distance_to_ntk(metrics: xr.Dataset) -> Figure:
    """Relative distance of the ensemble mean to μ_t, one column per split.

    Upper row: full ensemble against width, one line per step, with the exponent of a power law fitted to it.
    Lower row: against ensemble size at the last step, one line per width: it does not fall to zero with m.
    Needs difference_to_ntk(arm, step, split, member_count) and its _se. With one width only the lower row.
    """
    chosen = choose(metrics_choices(metrics))
    splits = [str(s) for s in metrics["split"].values]
    rows = 2 if len(chosen.widths) > 1 else 1
    figure, axes = _grid(len(splits), rows)
    last = last_step(metrics, chosen.main)
    for column, split in zip(axes.T, splits, strict=True):
        column[0].set_title(split_title(split))
        if rows == 2:
            _distance_against_width(column[0], metrics, chosen.widths, split)
        ax = column[-1]
        for arm, colour in zip(chosen.widths, _shades(len(chosen.widths), "viridis"), strict=True):
            series = read_series(metrics, "difference_to_ntk", arm, split, "member_count", step=last)
            _points(ax, series, color=colour, lw=0.9, ms=3.2, label=f"width {arm.width}, {_time(metrics, last)}")
        _ensemble_axes(ax, metrics)
    for ax in axes[:, 0]:
        ax.set_ylabel("distance to the NTK mean\n(relative)")
    notes = [_first_of(metrics)]
    if rows == 1:
        notes.append("one width only: distance against width not drawn")
    full = _mean_of(full_ensemble(metrics, chosen.main)) if rows == 2 else ""
    return _finish(figure, _heading(metrics, _augmented(chosen.main.augmentation), full), notes)


def _distance_against_width(ax: Axes, metrics: xr.Dataset, arms: Sequence[Choice], split: str) -> None:
    steps = [s for s in metrics["step"].values if s > 0]
    if len(steps) > 4:
        steps = [steps[i] for i in np.unique(np.round(np.linspace(0, len(steps) - 1, 4)).astype(int))]
    text = []
    for step, colour in zip(steps, _shades(len(steps), "plasma"), strict=True):
        found = [_single(read_series(metrics, "difference_to_ntk", a, split, "step"), step, a.width) for a in arms]
        series = Series(*np.array([point for point in found if point], dtype=float).reshape(-1, 3).T)
        if not len(series.x):
            continue
        _points(ax, series, color=colour, label=_time(metrics, step))
        exponent, error = power_law(series)
        if np.isfinite(exponent) and step == steps[-1]:
            text.append(f"{_time(metrics, step)}: width$^{{x}}$, $x$ = {_plus_minus(exponent, error)}")
    ax.set(xscale="log", yscale="log", xlabel="width (units)")
    ax.margins(x=0.1)
    _plain_log_axis(ax.xaxis, [a.width for a in arms])
    if text:
        _say(ax, "\n".join(text), x=0.97, y=0.97)


def _single(series: Series, x: float, position: float) -> tuple[float, float, float] | None:
    here = np.flatnonzero(series.x == x)
    return (position, float(series.y[here[0]]), float(series.error[here[0]])) if len(here) else None


def power_law(series: Series) -> tuple[float, float]:
    """(exponent, its standard error) of y ∝ x^exponent: least squares in logarithms, errors propagated."""
    usable = series.y > 0
    x, y, error = (part[usable] for part in series)
    if len(x) < 2:
        return np.nan, np.nan
    centred = np.log(x) - np.log(x).mean()
    weights = centred / (centred @ centred)
    return float(weights @ np.log(y)), float(np.sqrt(np.sum((weights * error / y) ** 2)))


@_styled
def same_predictions(metrics: xr.Dataset) -> Figure:
    """Orbit same predictions (1…|G|) against training time: members' range, ensemble, control; per split.

    Needs orbit_same_predictions(arm, step, split, member_count), its _se, the member_… variable, and the
    coordinate group_order(arm) for the reference of perfect symmetry.
    """
    chosen = choose(metrics_choices(metrics))
    splits = [str(s) for s in metrics["split"].values]
    figure, axes = _panels(splits, sharey=True)
    last = last_step(metrics, chosen.main)
    arms = [arm for arm in (chosen.control, *chosen.others, chosen.main) if arm]
    name = "orbit_same_predictions"
    for ax, split in zip(axes, splits, strict=True):
        for arm in arms:
            band = member_band(metrics, arm, split, name=name, root=False)
            main, colour = arm is chosen.main, _colour(arm.augmentation)
            if len(band["x"]) and arm in (chosen.main, chosen.control) and full_ensemble(metrics, arm) > 1:
                shade = COLOURS["member"] if main else colour
                label = f"single members, min…max, {_augmented(arm.augmentation)}"
                options: dict[str, Any] = {"alpha": 0.3 if main else 0.13, "lw": 0, "label": label}
                ax.fill_between(band["x"], band["min"], band["max"], color=shade, **options)
                if main:
                    ax.plot(band["x"], band["mean"], color=shade, lw=1, label="single members, mean")
            series = read_series(metrics, name, arm, split, "step")
            label = f"{_mean_of(full_ensemble(metrics, arm))}, {_augmented(arm.augmentation)}"
            marker = "o" if arm.augmentation != "none" else "s"
            _points(ax, series, color=colour, marker=marker, ms=3.2, label=label, zorder=5)
        if "group_order" in metrics.coords:
            order = int(metrics["group_order"].sel(arm=chosen.main.key))
            label = f"perfect symmetry, |G| = {order}"
            ax.axhline(order, color=COLOURS["theory"], ls="--", lw=1.1, label=label, zorder=4)
            ax.set_ylim(1 - 0.04 * order, order * 1.04)
        _time_axis(ax, metrics)
        _say(ax, _same_text(metrics, chosen, split, last), x=0.97)
    for ax in axes:
        if _is_first(ax):
            ax.set_ylabel("orbit same predictions")
    title = _heading(metrics, f"width {chosen.main.width}")
    return _finish(figure, title, [*_missing(metrics, chosen), _first_of(metrics)])


def _same_text(metrics: xr.Dataset, chosen: Chosen, split: str, step: Any) -> str:
    series = read_series(metrics, "orbit_same_predictions", chosen.main, split, "step")
    band = member_band(metrics, chosen.main, split, name="orbit_same_predictions", root=False)
    point = _single(series, step, 0)
    lines = [f"ensemble {_plus_minus(point[1], point[2])}"] if point else []
    if len(band["x"]) and band["x"][-1] == step and full_ensemble(metrics, chosen.main) > 1:
        lines.append(f"one member {band['mean'][-1]:.2f} ({band['min'][-1]:.2f}…{band['max'][-1]:.2f})")
    return f"at {_time(metrics, step)}:\n" + "\n".join(lines) if lines else ""


# -------------------------------------------------------------------- pictures of predictions themselves


class ArmStores(NamedTuple):
    """The stores of one arm, as docs/layout.md describes them.

    Attributes:
      data: input, split, readout, input_sign (for the mirror) …
      theory: mean and orbit_covariance; None where the arm has no analytic mean.
      ensemble: mean, second_moment, and single members as example_prediction(example, step, sample, element,
        output) or, failing that, as the entries of subset_mean that have one member.
    """

    data: xr.Dataset
    theory: xr.Dataset | None
    ensemble: xr.Dataset


def ensemble_size(ensemble: xr.Dataset) -> int:
    """Number of members in the mean that an ensemble store holds."""
    if "members" in ensemble.attrs:
        return int(ensemble.attrs["members"])
    return int(ensemble["member_count"].max())


def example_members(ensemble: xr.Dataset, limit: int = 8) -> xr.DataArray | None:
    """Raw predictions of a few single members (example, step, sample, element, output), or None."""
    if "example_prediction" in ensemble:
        return ensemble["example_prediction"].isel(example=slice(limit))
    if "subset_mean" in ensemble:
        for values in ensemble["subset_mean"].coords.values():
            if values.dims == ("stored_subset",) and "count" in str(values.name):
                single = np.flatnonzero(values.values == 1)[:limit]
                return ensemble["subset_mean"].isel(stored_subset=single).rename(stored_subset="example")
    return None


def _deviation_of(mean: np.ndarray, second_moment: np.ndarray, members: int) -> np.ndarray:
    """Standard deviation over members from the first two moments; round-off below zero counts as zero."""
    return np.sqrt(np.maximum(second_moment - mean**2, 0) * members / (members - 1))


def _theory_variance(theory: xr.Dataset) -> xr.DataArray | None:
    """Σ_t(gx, gx) per output (step, sample, element), or None."""
    if "orbit_covariance" not in theory:
        return None
    covariance = theory["orbit_covariance"].transpose(..., "step", "sample", "element", "element_")
    values = np.einsum("...gg->...g", covariance.values)
    return covariance.isel(element_=0, drop=True).copy(data=values)


if TYPE_CHECKING:
    Stores = ArmStores | tuple[xr.Dataset, xr.Dataset | None, xr.Dataset]


class _Line(NamedTuple):
    """Functions of one real input on a grid that is symmetric about 0; the last axis is the grid."""

    x: np.ndarray
    order: np.ndarray

    def of(self, values: xr.DataArray) -> np.ndarray:
        """Values (…, sample, element) on the grid."""
        array = np.asarray(values.transpose(..., "sample", "element"), dtype=float)
        return array.reshape(*array.shape[:-2], -1)[..., self.order]


def _line(stores: ArmStores) -> _Line:
    """The grid x ∪ −x of all evaluated inputs of a one-dimensional task."""
    inputs = stores.data["input"].sel(sample=stores.ensemble["sample"].values)
    signs = stores.data["input_sign"].values.reshape(-1)
    x = np.outer(np.asarray(inputs, dtype=float).reshape(-1), signs).reshape(-1)
    x, order = np.unique(np.round(x, 12), return_index=True)
    return _Line(x, order)


@_styled
def mirror(study: Study, stores: Mapping[str, ArmStores], *, steps: Sequence[int] | None = None) -> Figure:
    """The toy that explains the paper: f(x) of members, of their mean and of μ_t, with mirror images.

    Columns: without and with augmentation. Rows: an early and the last step (or ``steps``); below them
    f(x) − f(−x) at the last one, zero for a symmetric function.

    Args:
      stores: stores by arm path, at least those of store_arms(study). Inputs are numbers; the second group
        element is x ↦ −x.
    """
    chosen = choose(choice for choice in study_choices(study) if choice.key in stores)
    arms = [arm for arm in (chosen.control, chosen.main) if arm]
    recorded = [int(s) for s in stores[chosen.main.key].ensemble["step"].values]
    positive = [s for s in recorded if s > 0]
    early = positive[(len(positive) - 1) // 2] if positive else recorded[0]
    rows = list(dict.fromkeys(steps if steps is not None else [early, recorded[-1]]))
    figure, axes = _grid(len(arms), len(rows) + 1, heights=[1.0] * len(rows) + [0.62], sharex=True, sharey="row")
    notes = [_without_theory(stores, arms)]
    for column, arm in zip(axes.T, arms, strict=True):
        line, size = _line(stores[arm.key]), ensemble_size(stores[arm.key].ensemble)
        column[0].set_title(f"{_augmented(arm.augmentation)}: {_mean_of(size)}")
        for ax, step in zip(column, rows, strict=False):
            _mirror_panel(ax, stores[arm.key], line, step, arm)
        _asymmetry_panel(column[-1], stores[arm.key], line, rows[-1], arm)
        column[-1].set_xlabel("input $x$")
        if size == 1:
            notes.append("one member only: the mean is that member")
        if example_members(stores[arm.key].ensemble) is None:
            notes.append("no single members were kept: not drawn")
    unit = study.arm(chosen.main.key).settings.training.unit
    for ax, step in zip(axes[:, 0], rows, strict=False):
        ax.set_ylabel(f"$f(x)$ at {unit} {step}")
    axes[-1, 0].set_ylabel(f"$f(x) - f(-x)$\nat {unit} {rows[-1]}")
    return _finish(figure, f"{study.name} · width {chosen.main.width}", notes)


def _mirror_panel(ax: Axes, stores: ArmStores, line: _Line, step: int, arm: Choice) -> None:
    data, ensemble, theory = stores.data, stores.ensemble, _theory(stores)
    _shade_outside(ax, data, line)
    if theory is not None:
        mean = line.of(theory["mean"].sel(step=step).isel(output=0))
        variance = _theory_variance(theory)
        if variance is not None:
            sigma = np.sqrt(line.of(variance.sel(step=step)))
            label = r"theory, $\mu_t \pm 2\sigma_t$ of a member"
            ax.fill_between(
                line.x, mean - 2 * sigma, mean + 2 * sigma, color=COLOURS["member"], alpha=0.2, lw=0, label=label
            )
    examples = example_members(ensemble)
    if examples is not None:
        curves = line.of(examples.sel(step=step).isel(output=0).transpose("example", ...))
        for curve in curves[:4]:
            ax.plot(line.x, curve, color=COLOURS["member"], lw=0.7, label="single members", zorder=2)
    curve = line.of(ensemble["mean"].sel(step=step).isel(output=0))
    label = f"ensemble mean, {_augmented(arm.augmentation)}"
    ax.plot(line.x, curve, color=_colour(arm.augmentation), lw=2.6, label=label, zorder=3, solid_capstyle="butt")
    image = "its mirror image, $f(-x)$"
    ax.plot(line.x, curve[::-1], color=COLOURS["mirror"], lw=1.4, ls=(0, (3, 3)), label=image, zorder=5)
    if theory is not None:
        label = r"analytic mean $\mu_t$ (no fit)"
        ax.plot(line.x, mean, color=COLOURS["theory"], lw=1.0, ls=(3, (3, 3)), label=label, zorder=4)
    train = data["split"].values == "train"
    x, y = data["input"].values.reshape(len(train), -1)[train, 0], data["target"].values[train, 0]
    black: dict[str, Any] = {"marker": "o", "ls": "none", "ms": 3.6, "zorder": 6, "mec": "black", "mew": 0.7}
    ax.plot(x, y, mfc="black", label="training points", **black)
    if arm.augmentation != "none":
        ax.plot(-x, y, mfc="white", label="added by augmentation", **black)


def _asymmetry_panel(ax: Axes, stores: ArmStores, line: _Line, step: int, arm: Choice) -> None:
    def odd(values: xr.DataArray) -> np.ndarray:
        curve = line.of(values.sel(step=step).isel(output=0).transpose(..., "sample", "element"))
        return curve - curve[..., ::-1]

    _shade_outside(ax, stores.data, line)
    examples = example_members(stores.ensemble)
    if examples is not None:
        for curve in odd(examples.transpose("example", ...))[:4]:
            ax.plot(line.x, curve, color=COLOURS["member"], lw=0.7, zorder=2)
    theory = _theory(stores)
    if theory is not None:
        centre = odd(theory["mean"])
        if "orbit_covariance" in theory:
            block = theory["orbit_covariance"].sel(step=step).transpose("sample", "element", "element_").values
            spread = block[:, 0, 0] + block[:, 1, 1] - 2 * block[:, 0, 1]
            both = np.repeat(spread[:, None], block.shape[1], axis=1).reshape(-1)[line.order]
            band = 2 * np.sqrt(np.maximum(both, 0) / ensemble_size(stores.ensemble))
            label = r"theory, $\mu_t \pm 2$ standard errors of the mean"
            options: dict[str, Any] = {"color": COLOURS["theory"], "alpha": 0.25, "lw": 0, "label": label, "zorder": 3}
            ax.fill_between(line.x, centre - band, centre + band, **options)
    ax.axhline(0, color=COLOURS["guide"], lw=0.6, zorder=1)
    ax.plot(line.x, odd(stores.ensemble["mean"]), color=_colour(arm.augmentation), lw=1.6, zorder=4)
    if theory is not None:
        ax.plot(line.x, centre, color=COLOURS["theory"], lw=1.0, ls=(3, (3, 3)), zorder=5)


def _shade_outside(ax: Axes, data: xr.Dataset, line: _Line) -> None:
    """Shade the inputs beyond those of the splits train and test."""
    inside = ~np.char.startswith(data["split"].values.astype(str), "ood-")
    edge = np.abs(data["input"].values.reshape(len(inside), -1)[inside, 0]).max()
    if line.x[-1] > edge:
        for low, high in ((line.x[0], -edge), (edge, line.x[-1])):
            ax.axvspan(low, high, color="#f2efe6", lw=0, zorder=0, label="out of distribution")
    ax.set_xlim(line.x[0], line.x[-1])


@_styled
def orbit_profile(study: Study, stores: Mapping[str, ArmStores], *, samples: int = 3) -> Figure:
    """Mean ± 2σ of theory and of the ensemble over the elements of a few orbits, at the last step.

    Rows: without and with augmentation. Columns: splits. Each orbit is drawn relative to the orbit mean of the
    ensemble. Drawn is the invariant observable; of several (logits) the one that wins at the identity.

    Args:
      stores: stores by arm path, at least those of store_arms(study).
      samples: orbits per split.
    """
    chosen = choose(choice for choice in study_choices(study) if choice.key in stores)
    arms = [arm for arm in (chosen.control, chosen.main) if arm]
    reference = stores[chosen.main.key]
    split_of = dict(zip(reference.data["sample"].values.tolist(), reference.data["split"].values.tolist(), strict=True))
    evaluated = reference.ensemble["sample"].values.tolist()
    splits = list(dict.fromkeys(split_of[s] for s in evaluated))
    figure, axes = _grid(len(splits), len(arms), sharey="col", sharex=True)
    notes: list[str] = [_without_theory(stores, arms)]
    for row, arm in zip(axes, arms, strict=True):
        for ax, split in zip(row, splits, strict=True):
            picked = [s for s in evaluated if split_of[s] == split][:samples]
            notes += _profile_panel(ax, stores[arm.key], picked, arm, reference)
            ax.set_title(split_title(split) if arm is arms[0] else "")
        row[0].set_ylabel(f"{_augmented(arm.augmentation)}\n{_observable(reference)} − orbit mean")
    for ax in axes[-1]:
        ax.set_xlabel(f"group element, {samples} orbits")
    unit = study.arm(chosen.main.key).settings.training.unit
    last = int(reference.ensemble["step"].values[-1])
    return _finish(figure, f"{study.name} · width {chosen.main.width} · {unit} {last}", notes)


def _theory(stores: ArmStores) -> xr.Dataset | None:
    """The theory that an ensemble store can be held against: none where it averages the softmax of the outputs."""
    if stores.theory is None or stores.ensemble.attrs.get("ensemble_mean") == "softmax":
        return None
    return stores.theory.sel(sample=stores.ensemble["sample"].values)


def _without_theory(stores: Mapping[str, ArmStores], arms: Sequence[Choice]) -> str:
    """Which of the arms have no analytic mean, in words; empty if all have one."""
    without = [_augmented(arm.augmentation) for arm in arms if _theory(stores[arm.key]) is None]
    return f"no analytic mean: {', '.join(without)}" if without else ""


def _observable(stores: ArmStores) -> str:
    name = str(stores.data.attrs.get("observable_name", "output"))
    return name if stores.data.sizes["observable"] == 1 else f"winning one of the {name}"


def _profile_panel(ax: Axes, stores: ArmStores, picked: list, arm: Choice, reference: ArmStores) -> list[str]:
    """Draw the orbits of the samples ``picked``; returns what could not be drawn."""
    notes = []
    readout = stores.data["readout"].values
    members = ensemble_size(stores.ensemble)
    last = {"step": stores.ensemble["step"].values[-1]}
    complete = _theory(stores)
    theory = None if complete is None else complete.sel(last)
    sigma = None if complete is None else _theory_variance(complete)
    examples = example_members(stores.ensemble)
    elements = [str(label) for label in stores.ensemble["element"].values]
    ticks: list[float] = []
    options: dict[str, Any]

    def observed(values: xr.DataArray, sample: Any, row: np.ndarray) -> np.ndarray:
        return np.asarray(values.sel(sample=sample).transpose(..., "element", "output"), dtype=float) @ row

    for k, sample in enumerate(picked):
        winner = int(np.argmax(readout @ np.asarray(reference.ensemble["mean"].sel(last).sel(sample=sample))[0]))
        row, x = readout[winner], k * (len(elements) + 1.0) + np.arange(len(elements))
        ticks.extend(x)
        mean = observed(stores.ensemble["mean"].sel(last), sample, row)
        centre = mean.mean()
        if theory is not None:
            expected = observed(theory["mean"], sample, row) - centre
            if sigma is not None:
                spread = 2 * np.sqrt(np.asarray(sigma.sel(last).sel(sample=sample)) * (row @ row))
                label = r"theory, $\mu_t \pm 2\sigma_t$ of a member"
                options = {"color": COLOURS["member"], "alpha": 0.25, "lw": 0, "label": label}
                ax.fill_between(x, expected - spread, expected + spread, **options)
            label = r"analytic mean $\mu_t$ (no fit)"
            ax.plot(x, expected, "--", color=COLOURS["theory"], lw=1.1, label=label, zorder=6)
        if examples is not None:
            for curve in observed(examples.sel(last), sample, row)[:4] - centre:
                ax.plot(x, curve, color=COLOURS["member"], lw=0.7, label="single members", zorder=2)
        deviation = _observable_deviation(stores.ensemble, sample, winner, row, last)
        if members == 1:
            notes.append("one member only: no spread over members")
        elif deviation is None:
            notes.append("spread over members not stored for this observable: not drawn")
        else:
            label = "members, measured ± 2 std"
            options = {"color": COLOURS["member"], "lw": 0, "elinewidth": 0.8, "capsize": 2.5, "label": label}
            ax.errorbar(x, mean - centre, yerr=2 * deviation, zorder=3, **options)
        error = np.full(len(x), np.nan) if deviation is None else 2 * deviation / np.sqrt(members)
        label = f"{_mean_of(members)} ± 2 standard errors, {_augmented(arm.augmentation)}"
        _points(
            ax, Series(x, mean - centre, error), color=_colour(arm.augmentation), lw=1.0, ms=3.2, label=label, zorder=5
        )
    names = [_element_text(name) for name in elements] * len(picked)
    ax.set_xticks(ticks, names)
    ax.tick_params(axis="x", length=0, labelsize=7)
    ax.axhline(0, color=COLOURS["guide"], lw=0.5, zorder=1)
    return notes


def _observable_deviation(
    ensemble: xr.Dataset, sample: Any, index: int, row: np.ndarray, at: dict
) -> np.ndarray | None:
    """Standard deviation over members of an observable on an orbit; None where the store cannot tell.

    Exact from the outputs' second moments where the observable is one output, and from
    observable_second_moment(step, sample, element, observable) where the store has it.
    """
    members = ensemble_size(ensemble)
    if members < 2:
        return None
    here = ensemble.sel(at).sel(sample=sample)
    mean = np.asarray(here["mean"].transpose("element", "output"), dtype=float)
    if np.count_nonzero(row) == 1:
        output = int(np.flatnonzero(row)[0])
        second = np.asarray(here["second_moment"].transpose("element", "output"), dtype=float)
        return abs(row[output]) * _deviation_of(mean[:, output], second[:, output], members)
    if "observable_second_moment" not in ensemble:
        return None
    second = np.asarray(here["observable_second_moment"].isel(observable=index), dtype=float)
    return _deviation_of(mean @ row, second, members)


def _element_text(name: str) -> str:
    """A group element with raised powers: r2m → $r^2m$."""
    return "$" + "".join(f"^{c}" if c.isdigit() else c for c in name) + "$"


# ------------------------------------------------------------------------------------------- registry


def is_classification(arm: Arm) -> bool:
    """Whether the settings alone say that an arm classifies: by its task, or by its loss."""
    return arm.settings.task.name in ("digits", "fashion_mnist") or arm.settings.training.loss == "cross_entropy"


@dataclass(frozen=True)
class Picture:
    """One picture of the report.

    Attributes:
      draw: the function, called with (metrics) or (study, stores).
      needs: which of the two.
      title: a few words for the table of contents.
      caption: file under workflow/report/.
      applies: whether a study has this picture; a function of the study alone.
    """

    draw: Callable[..., Figure]
    needs: Literal["metrics", "stores"]
    title: str
    caption: str
    applies: Callable[[Study], bool]


FIGURES: dict[str, Picture] = {
    "orbit_scaling": Picture(
        orbit_scaling, "metrics", "Orbit deviation against ensemble size", "orbit_scaling.rst", lambda study: True
    ),
    "orbit_in_time": Picture(
        orbit_in_time, "metrics", "Orbit deviation against training time", "orbit_in_time.rst", lambda study: True
    ),
    "measured_over_predicted": Picture(
        measured_over_predicted,
        "metrics",
        "Measured over predicted orbit variance",
        "measured_over_predicted.rst",
        lambda study: any(arm.settings.has_covariance for arm in study.arms),
    ),
    "distance_to_ntk": Picture(
        distance_to_ntk,
        "metrics",
        "Distance to the NTK mean",
        "distance_to_ntk.rst",
        lambda study: any(arm.settings.has_mean for arm in study.arms),
    ),
    "same_predictions": Picture(
        same_predictions,
        "metrics",
        "Orbit same predictions",
        "same_predictions.rst",
        lambda study: any(is_classification(arm) for arm in study.arms),
    ),
    "mirror": Picture(
        mirror,
        "stores",
        "The mirror toy",
        "mirror.rst",
        lambda study: all(a.settings.task.name == "cosine" and a.settings.group == "c2" for a in study.arms),
    ),
    "orbit_profile": Picture(
        orbit_profile, "stores", "Predictions over an orbit", "orbit_profile.rst", lambda study: True
    ),
}


def figure_names(study: Study) -> list[str]:
    """Names of the pictures a study has: a function of the study file alone."""
    return [name for name, picture in FIGURES.items() if picture.applies(study)]


def store_arms(study: Study) -> list[Arm]:
    """The arms whose stores pictures and words need: control and main arm, and one for each other data or theory."""
    chosen = choose(study_choices(study))
    arms = [study.arm(choice.key) for choice in (chosen.control, chosen.main) if choice]
    known = {(arm.data_key, arm.theory_key) for arm in arms}
    for arm in study.arms:
        if (arm.data_key, arm.theory_key) not in known:
            known.add((arm.data_key, arm.theory_key))
            arms.append(arm)
    return arms


def figure_paths(study: Study, folder: Path) -> list[Path]:
    """Files that draw_all writes, SVG and PNG of each picture."""
    return [folder / f"{name}.{suffix}" for name in figure_names(study) for suffix in ("svg", "png")]


def draw_all(study: Study, metrics: xr.Dataset, stores: Mapping[str, Stores], folder: Path) -> list[Path]:
    """Draw every picture the study has, as SVG and PNG; the same input gives the same bytes.

    Args:
      metrics: the study's metrics.nc.
      stores: (data, theory or None, ensemble) by arm path, at least for the arms of store_arms(study).
      folder: where the files go; made if it is missing.

    Returns the files written.
    """
    metrics = with_arm_coordinates(study, metrics)
    stores = {path: ArmStores(*of_arm) for path, of_arm in stores.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for name in figure_names(study):
        picture = FIGURES[name]
        figure = picture.draw(metrics) if picture.needs == "metrics" else picture.draw(study, stores)
        save(figure, folder / name)
    return figure_paths(study, folder)


def save(figure: Figure, stem: Path) -> None:
    """Write STEM.svg and STEM.png without dates or versions in them."""
    with style():
        figure.savefig(stem.with_name(f"{stem.name}.svg"), metadata={"Date": None, "Creator": None})
        figure.savefig(stem.with_name(f"{stem.name}.png"), metadata={"Software": None})
