"""Pictures of the metrics dataset: orbit deviation, distance to the NTK and same predictions.

Of ensembles of m members, the orbit variance expected from μ_t and Σ_t falls like 1/m, down to the orbit variance of
the analytic mean μ_t (theory.md §3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..fits import Series, power_law
from .panels import (
    deviation_label,
    ensemble_axes,
    finish,
    grid,
    heading,
    legend_entries,
    missing,
    one_point,
    plain_log_axis,
    points,
    prediction,
    say,
    split_panels,
    time_axis,
    time_words,
)
from .selection import (
    Choice,
    Chosen,
    absent,
    all_diverged,
    choose,
    first_of,
    full_ensemble,
    last_step,
    member_band,
    metrics_choices,
    read_at,
    read_series,
)
from .style import COLOURS, colour, marker, shades, styled
from .words import augmented, diverged_words, mean_of, missing_words, number, split_words

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BAND: dict[str, Any] = {"color": COLOURS["member"], "alpha": 0.28, "lw": 0, "label": "single members, mean ± std"}


def _notes(metrics: xr.Dataset, chosen: Chosen) -> list[str]:
    """What a picture of orbit deviations leaves out."""
    predicted = metrics.get("predicted_orbit_variance")
    arms = [arm.key for arm in chosen.drawn if not all_diverged(metrics, arm)]
    lack = ""
    if arms and (predicted is None or not bool(predicted.sel(arm=arms).notnull().any())):
        softmax = metrics.attrs.get("ensemble_mean") == "softmax"
        reason = "the ensembles average probabilities" if softmax else "no analytic covariance $\\Sigma_t$"
        lack = f"no prediction: {reason}"
    return [*missing(metrics, chosen), first_of(metrics), lack]


@styled
def orbit_scaling(metrics: xr.Dataset) -> Figure:
    """Orbit deviation against ensemble size m, one panel per split, at the last recorded step.

    Band: mean ± standard deviation of single members. Points: ensembles, ± standard error. Dashes: predicted
    from μ_t and Σ_t, nothing fitted. Needs orbit_variance(arm, step, split, member_count), its _se,
    predicted_orbit_variance, member_orbit_variance, and for the text orbit_slope and orbit_variance_ratio.
    """
    chosen = choose(metrics_choices(metrics))
    step = last_step(metrics, chosen.main)
    figure, panels = split_panels(metrics, deviation_label(metrics))
    largest = max(full_ensemble(metrics, arm) for arm in chosen.drawn)
    for split, ax in panels.items():
        band = member_band(metrics, chosen.main, split)
        if len(band.x) and band.x[-1] == step and largest > 1:
            ax.fill_between([1, largest], band.low[-1], band.high[-1], **_BAND)
        for arm in chosen.drawn:
            theory = read_series(metrics, "predicted_orbit_variance", arm, split, "member_count", root=True, step=step)
            if len(theory.x):
                dash: dict[str, Any] = {} if len(theory.x) > 1 else {"marker": "_", "ms": 12}
                ax.plot(theory.x, theory.y, **prediction(arm), **dash)
            series = read_series(metrics, "orbit_variance", arm, split, "member_count", root=True, step=step)
            label = f"ensemble mean, {augmented(arm.augmentation)}"
            look: dict[str, Any] = {"color": colour(arm.augmentation), "ls": "none", "label": label, "zorder": 5}
            points(ax, series, **look, **marker(arm.augmentation))
            if arm is chosen.main and len(series.x) > 1:
                scaled = np.concatenate([part.y * np.sqrt(part.x) for part in (series, theory)])
                x = np.array([series.x[-1] ** 0.45, series.x[-1]])
                y = scaled.min() / np.sqrt(x) / 1.6  # below everything, parallel to what is expected
                ax.plot(x, y, ":", color=COLOURS["guide"], lw=1.6, label=r"slope $-1/2$", zorder=1)
        ensemble_axes(ax, metrics)
        say(ax, _scaling_text(metrics, chosen.main, split, step))
    title = heading(metrics, chosen.main.size, time_words(metrics, step))
    return finish(figure, title, _notes(metrics, chosen), nothing=one_point(metrics, chosen.main))


def _scaling_text(metrics: xr.Dataset, arm: Choice, split: str, step: Any) -> str:
    slope = number(*read_at(metrics, "orbit_slope", arm, split, step))
    ratio = number(*read_at(metrics, "orbit_variance_ratio", arm, split, step))
    lines = [] if slope == "–" else [f"slope {slope}"]
    return "\n".join([*lines, *([] if ratio == "–" else [f"measured/predicted\nvariance {ratio}"])])


@styled
def orbit_in_time(metrics: xr.Dataset) -> Figure:
    """Orbit deviation against training time, one panel per split: members, full ensemble, prediction, control.

    Needs orbit_variance, its _se, member_orbit_variance and, where there is theory, predicted_orbit_variance.
    """
    chosen = choose(metrics_choices(metrics))
    figure, panels = split_panels(metrics, deviation_label(metrics))
    for split, ax in panels.items():
        band = member_band(metrics, chosen.main, split)
        if len(band.x):
            if full_ensemble(metrics, chosen.main) > 1:
                ax.fill_between(band.x, band.low, band.high, **_BAND)
            ax.plot(band.x, band.mean, color=COLOURS["member"], lw=1)
        for arm in chosen.drawn:
            counts = {full_ensemble(metrics, arm), *([1] if arm is chosen.main else [])}
            for count in sorted(counts):
                at: dict[str, Any] = {"root": True, "member_count": count}
                theory = read_series(metrics, "predicted_orbit_variance", arm, split, "step", **at)
                if len(theory.x):
                    ax.plot(theory.x, theory.y, **prediction(arm))
            series = read_series(metrics, "orbit_variance", arm, split, "step", root=True)
            label = f"{mean_of(full_ensemble(metrics, arm))}, {augmented(arm.augmentation)}"
            look: dict[str, Any] = {"color": colour(arm.augmentation), "lw": 0.9, "label": label, "zorder": 5}
            points(ax, series, **look, **marker(arm.augmentation, 3.2))
        ax.set_yscale("log")
        time_axis(ax, metrics)
    title = heading(metrics, chosen.main.size)
    return finish(figure, title, _notes(metrics, chosen), nothing=one_point(metrics, chosen.main))


@styled
def measured_over_predicted(metrics: xr.Dataset) -> Figure:
    """Measured over predicted orbit variance against training time, one line per width, one panel per split.

    1 where the NTK describes the networks. Needs orbit_variance_ratio(arm, step, split) and its _se.
    """
    chosen = choose(metrics_choices(metrics))
    figure, panels = split_panels(metrics, "measured/predicted\norbit variance")
    for split, ax in panels.items():
        for arm, shade in zip(chosen.widths, shades(len(chosen.widths), "viridis"), strict=True):
            series = read_series(metrics, "orbit_variance_ratio", arm, split, "step")
            points(ax, series, color=shade, ms=3.2, lw=1.0, label=arm.size)
        if ax.has_data():
            ax.axhline(1, color=COLOURS["theory"], ls="--", lw=1.1, label="infinite width", zorder=1)
            ax.set_yscale("log")
            time_axis(ax, metrics)
    drawn = [ax for ax in panels.values() if ax.has_data()]
    if drawn:
        low, high = drawn[0].get_ylim()
        drawn[0].set_ylim(min(low, 0.8), max(high, 1.25))
        plain_log_axis(drawn[0].yaxis)
    title = heading(metrics, augmented(chosen.main.augmentation))
    return finish(figure, title, _width_notes(metrics, chosen), nothing=one_point(metrics, chosen.main))


def _width_notes(metrics: xr.Dataset, chosen: Chosen) -> list[str]:
    """What a picture of all widths leaves out."""
    gone = [(arm.size, members) for arm in chosen.widths if (members := all_diverged(metrics, arm))]
    notes = [missing_words(*absent(metrics, arm), arm.size) for arm in chosen.widths]
    return [*(diverged_words(members, size) for size, members in gone), *notes, first_of(metrics)]


@styled
def distance_to_ntk(metrics: xr.Dataset) -> Figure:
    """Relative distance of the ensemble mean to μ_t, one column per split.

    Upper row: full ensemble against width, one line per step, with the exponent of a power law fitted to the last.
    Lower row: against ensemble size at the last step, one line per width: it does not fall to zero with m.
    Needs difference_to_ntk(arm, step, split, member_count) and its _se. With one width only the lower row.
    """
    chosen = choose(metrics_choices(metrics))
    splits = [str(s) for s in metrics["split"].values]
    rows = 2 if len(chosen.widths) > 1 else 1
    figure, axes = grid(len(splits), rows, sharey="row")
    last = last_step(metrics, chosen.main)
    for column, split in zip(axes.T, splits, strict=True):
        column[0].set_title(split_words(split))
        if rows == 2:
            text = _distance_against_width(column[0], metrics, chosen.widths, split)
            column[0].set_title("\n".join([split_words(split), *text]))
        ax = column[-1]
        for arm, shade in zip(chosen.widths, shades(len(chosen.widths), "viridis"), strict=True):
            series = read_series(metrics, "difference_to_ntk", arm, split, "member_count", step=last)
            points(ax, series, color=shade, lw=0.9, ms=3.2, label=arm.size)
        ensemble_axes(ax, metrics)
    for ax in axes[:, 0]:
        ax.set_ylabel("distance to the NTK mean\n(relative)")
    augmentation, when = augmented(chosen.main.augmentation), time_words(metrics, last)
    if rows == 1:
        notes = [*_width_notes(metrics, chosen), "one width only: distance against width not drawn"]
        return finish(figure, heading(metrics, augmentation, when), notes)
    finish(figure, heading(metrics, augmentation), _width_notes(metrics, chosen), legend=False)
    figure.set_figwidth(figure.get_figwidth() + 1.2)
    sizes = [size for arm in chosen.widths if (size := full_ensemble(metrics, arm))] or [0]
    for row, title in zip(axes, (mean_of(min(sizes), max(sizes)), f"at {when}"), strict=True):
        entries = legend_entries(row)
        if entries:
            beside: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.02, 1.0), "borderaxespad": 0.0}
            row[-1].legend(list(entries.values()), list(entries), title=title, alignment="left", **beside)
    return figure


def _distance_against_width(ax: Axes, metrics: xr.Dataset, arms: tuple[Choice, ...], split: str) -> list[str]:
    """Draw one line per step, at most four; returns the exponent at the last one, in words."""
    steps = [s for s in metrics["step"].values if s > 0]
    if len(steps) > 4:
        steps = [steps[i] for i in np.unique(np.round(np.linspace(0, len(steps) - 1, 4)).astype(int))]
    text = []
    for step, shade in zip(steps, shades(len(steps), "plasma"), strict=True):
        found = [(arm.width, *read_at(metrics, "difference_to_ntk", arm, split, step)) for arm in arms]
        series = Series(*np.array([point for point in found if np.isfinite(point[1])]).reshape(-1, 3).T)
        points(ax, series, color=shade, label=time_words(metrics, step))
        exponent, error = power_law(series)
        if np.isfinite(exponent) and step == steps[-1]:
            text = [f"{time_words(metrics, step)}: $\\propto$ width$^{{\\,x}}$, $x$ = {number(exponent, error)}"]
    ax.set(xscale="log", yscale="log", xlabel="width (units)")
    low, high = arms[0].width, arms[-1].width
    ax.set_xlim(low * (low / high) ** 0.1, high * (high / low) ** 0.1)
    plain_log_axis(ax.xaxis, [a.width for a in arms])
    return text


@styled
def same_predictions(metrics: xr.Dataset) -> Figure:
    """Orbit same predictions (1…|G|) against training time: members' range, ensemble, control; per split.

    Needs orbit_same_predictions(arm, step, split, member_count), its _se, the member_… variable, and the
    coordinate group_order(arm) for the reference of perfect symmetry.
    """
    chosen = choose(metrics_choices(metrics))
    figure, panels = split_panels(metrics, "orbit same predictions")
    name = "orbit_same_predictions"
    for split, ax in panels.items():
        for arm in chosen.drawn:
            if arm in chosen.pair and full_ensemble(metrics, arm) > 1:
                _same_band(ax, metrics, arm, split, arm is chosen.main)
            series = read_series(metrics, name, arm, split, "step")
            label = f"{mean_of(full_ensemble(metrics, arm))}, {augmented(arm.augmentation)}"
            look: dict[str, Any] = {"color": colour(arm.augmentation), "label": label, "zorder": 5}
            points(ax, series, **look, **marker(arm.augmentation, 3.2))
        if "group_order" in metrics.coords:
            order = int(metrics["group_order"].sel(arm=chosen.main.key))
            label = f"perfect symmetry, |G| = {order}"
            ax.axhline(order, color=COLOURS["theory"], ls="--", lw=1.1, label=label, zorder=4)
            ax.set_ylim(1 - 0.04 * order, order * 1.04)
        time_axis(ax, metrics)
        ax.set_title("\n".join([split_words(split), *_same_text(metrics, chosen.main, split)]))
    when = time_words(metrics, last_step(metrics, chosen.main))
    title = heading(metrics, chosen.main.size, f"numbers: {when}, {augmented(chosen.main.augmentation)}")
    return finish(figure, title, [*missing(metrics, chosen), first_of(metrics)])


def _same_band(ax: Axes, metrics: xr.Dataset, arm: Choice, split: str, main: bool) -> None:
    """From the least to the greatest member of an arm, and for the main arm their mean."""
    band = member_band(metrics, arm, split, name="orbit_same_predictions", root=False)
    shade = COLOURS["member"] if main else colour(arm.augmentation)
    label = f"single members, min…max, {augmented(arm.augmentation)}"
    if len(band.x):
        look: dict[str, Any] = {"color": shade, "alpha": 0.3 if main else 0.13, "lw": 0, "label": label}
        ax.fill_between(band.x, band.least, band.greatest, **look)
        if main:
            ax.plot(band.x, band.mean, color=shade, lw=1, label="single members, mean")


def _same_text(metrics: xr.Dataset, arm: Choice, split: str) -> list[str]:
    """Ensemble and members of an arm at its last step, in words."""
    step = last_step(metrics, arm)
    value, error = read_at(metrics, "orbit_same_predictions", arm, split, step)
    band = member_band(metrics, arm, split, name="orbit_same_predictions", root=False)
    parts = [f"ensemble {number(value, error)}"] if np.isfinite(value) else []
    if len(band.x) and band.x[-1] == step and full_ensemble(metrics, arm) > 1:
        parts.append(f"members {band.least[-1]:.2f}…{band.greatest[-1]:.2f}")
    return [", ".join(parts)] if parts else []
