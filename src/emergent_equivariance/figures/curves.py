"""Pictures of the metrics dataset: orbit deviation, distance to the NTK and same predictions.

Of ensembles of m members, the orbit variance expected from μ_t and Σ_t falls like 1/m, down to the orbit variance of
the analytic mean μ_t (theory.md §3). Of each picture NAME, NAME_data gives the numbers, and NAME draws them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..fits import Series, power_law
from .data import Curve, Rows, curves
from .panels import (
    deviation_label,
    draw,
    ensemble_axes,
    finish,
    grid,
    heading,
    label_axes,
    missing,
    one_point,
    plain_log_axis,
    time_axis,
    time_label,
    time_scale,
    time_words,
    title,
    titled_panels,
)
from .selection import (
    MOST_LINES,
    Choice,
    Chosen,
    absent,
    all_diverged,
    chosen_arms,
    first_of,
    full_ensemble,
    last_step,
    lines,
    member_band,
    read_at,
    read_series,
    thinned_words,
)
from .style import COLOURS, Look, ensemble_look, member_look, shades, styled, theory_look
from .words import augmented, diverged_words, mean_of, missing_words, number, split_words

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DEVIATION_ERROR = "single members: mean ± standard deviation; ensembles: ± one standard error"
_SIZE_LABEL = "ensemble size m (members)"


def _panels(metrics: xr.Dataset) -> dict[str, str]:
    """Split → name of its panel."""
    return {str(split): split_words(str(split)) for split in metrics["split"].values}


def _role(arm: Choice) -> str:
    return "control" if arm.augmentation == "none" else "ensemble"


def _finish(figure: Figure, table: pd.DataFrame, metrics: xr.Dataset) -> Figure:
    nothing = one_point(metrics, chosen_arms(metrics).main)
    return finish(figure, table.attrs["title"], table.attrs["notes"], nothing=nothing)


def _notes(metrics: xr.Dataset, chosen: Chosen) -> list[str]:
    """What a picture of orbit deviations leaves out."""
    predicted = metrics.get("predicted_orbit_variance")
    arms = [arm.key for arm in chosen.drawn if not all_diverged(metrics, arm)]
    lack = ""
    if arms and (predicted is None or not bool(predicted.sel(arm=arms).notnull().any())):
        softmax = metrics.attrs.get("ensemble_mean") == "softmax"
        reason = "the ensembles average probabilities" if softmax else "no analytic covariance Σₜ"
        lack = f"no prediction: {reason}"
    return [*missing(metrics, chosen), first_of(metrics), lack]


def _ratio_words(metrics: xr.Dataset, arm: Choice, split: str, step: Any) -> str:
    slope, ratio = (
        number(*read_at(metrics, name, arm, split, step), compact=True)
        for name in ("orbit_slope", "orbit_variance_ratio")
    )
    lines = [] if slope == "–" else [f"slope {slope}"]
    return "\n".join([*lines, *([] if ratio == "–" else [f"variance {ratio} × predicted"])])


def orbit_scaling_data(metrics: xr.Dataset) -> pd.DataFrame:
    """Orbit deviation against ensemble size m, one panel per split, at the last recorded step.

    Band: mean ± standard deviation of single members. Points: ensembles, ± standard error. Dashes: predicted
    from μ_t and Σ_t, nothing fitted. Needs orbit_variance(arm, step, split, member_count), its _se,
    predicted_orbit_variance, member_orbit_variance, and for the text orbit_slope and orbit_variance_ratio.
    """
    chosen = chosen_arms(metrics)
    step, rows, panels = last_step(metrics, chosen.main), Rows(), _panels(metrics)
    largest = max(full_ensemble(metrics, arm) for arm in chosen.drawn)
    at: dict[str, Any] = {"root": True, "step": step}
    for split, panel in panels.items():
        band = member_band(metrics, chosen.main, split)
        if len(band.x) and band.x[-1] == step and largest > 1:
            ends = (part[-1] for part in (band.mean, band.low, band.high))
            rows.add(panel, "single members, mean ± std", "member", member_look(), [1, largest], *ends)
        for arm in chosen.drawn:
            kind = augmented(arm.augmentation)
            theory = read_series(metrics, "predicted_orbit_variance", arm, split, "member_count", **at)
            look = theory_look(arm.augmentation, rank=chosen.rank(arm))
            rows.add(panel, f"predicted (no fit), {kind}", "theory", look, theory.x, theory.y)
            series = read_series(metrics, "orbit_variance", arm, split, "member_count", **at)
            look = ensemble_look(arm.augmentation, rank=chosen.rank(arm))
            rows.points(panel, f"ensemble mean, {kind}", _role(arm), look, series)
    return rows.table(
        panels=list(panels.values()),
        title=heading(metrics, chosen.main.size, time_words(metrics, step)),
        x_label=_SIZE_LABEL,
        y_label=deviation_label(metrics),
        x_scale="log",
        y_scale="log",
        error=_DEVIATION_ERROR,
        notes=_notes(metrics, chosen),
        panel_notes={panel: _ratio_words(metrics, chosen.main, split, step) for split, panel in panels.items()},
    )


@styled
def orbit_scaling(metrics: xr.Dataset) -> Figure:
    """Draw orbit_scaling_data, and the slope −1/2 below everything, parallel to what is expected."""
    table = orbit_scaling_data(metrics)
    chosen = chosen_arms(metrics)
    figure, panels = titled_panels(table)
    draw(panels, table)
    guided = {f"{start}, {augmented(chosen.main.augmentation)}" for start in ("ensemble mean", "predicted (no fit)")}
    for panel, ax in panels.items():
        drawn = [c for c in curves(table) if c.panel == panel and c.series in guided]
        _slope_guide(ax, drawn)
        ensemble_axes(ax, metrics)
        title(ax, panel, table.attrs["panel_notes"][panel])
    return _finish(figure, table, metrics)


def _slope_guide(ax: Axes, drawn: list[Curve]) -> None:
    measured = [curve for curve in drawn if curve.role != "theory"]
    if not measured or len(measured[0].x) < 2:
        return
    scaled = np.concatenate([curve.y * np.sqrt(curve.x) for curve in drawn])
    x = np.array([measured[0].x[-1] ** 0.45, measured[0].x[-1]])
    y = scaled.min() / np.sqrt(x) / 1.6
    ax.plot(x, y, ":", color=COLOURS["guide"], lw=1.6, label=r"slope $-1/2$", zorder=1)


def orbit_in_time_data(metrics: xr.Dataset) -> pd.DataFrame:
    """Orbit deviation against training time, one panel per split: members, full ensemble, prediction, control.

    Needs orbit_variance, its _se, member_orbit_variance and, where there is theory, predicted_orbit_variance.
    """
    chosen = chosen_arms(metrics)
    rows, panels = Rows(), _panels(metrics)
    for split, panel in panels.items():
        band = member_band(metrics, chosen.main, split)
        spread = (band.low, band.high) if full_ensemble(metrics, chosen.main) > 1 else ()
        rows.add(panel, "single members, mean ± std", "member", member_look(), band.x, band.mean, *spread)
        for arm in chosen.drawn:
            kind, size = augmented(arm.augmentation), full_ensemble(metrics, arm)
            for count in sorted({size, *([1] if arm is chosen.main else [])}):
                theory = read_series(
                    metrics, "predicted_orbit_variance", arm, split, "step", root=True, member_count=count
                )
                name = f"predicted (no fit), {mean_of(count).removeprefix('mean of ')}, {kind}"
                look = theory_look(arm.augmentation, rank=chosen.rank(arm), width=1.1 if count == size else 0.8)
                rows.add(panel, name, "theory", look, theory.x, theory.y)
            series = read_series(metrics, "orbit_variance", arm, split, "step", root=True)
            look = ensemble_look(arm.augmentation, rank=chosen.rank(arm), size=3.2, dash=())
            rows.points(panel, f"{mean_of(size)}, {kind}", _role(arm), look, series)
    return rows.table(
        panels=list(panels.values()),
        title=heading(metrics, chosen.main.size),
        x_label=time_label(metrics),
        y_label=deviation_label(metrics),
        x_scale=time_scale(metrics),
        y_scale="log",
        error=_DEVIATION_ERROR,
        notes=_notes(metrics, chosen),
    )


@styled
def orbit_in_time(metrics: xr.Dataset) -> Figure:
    """Draw orbit_in_time_data."""
    table = orbit_in_time_data(metrics)
    figure, panels = titled_panels(table)
    draw(panels, table)
    for ax in panels.values():
        ax.set_yscale("log")
        time_axis(ax, metrics)
    return finish(
        figure,
        table.attrs["title"],
        table.attrs["notes"],
        nothing=one_point(metrics, chosen_arms(metrics).main),
    )


def measured_over_predicted_data(metrics: xr.Dataset) -> pd.DataFrame:
    """Measured over predicted orbit variance against training time, one line per width, one panel per split.

    1 where the NTK describes the networks. Of more than MOST_LINES widths some have a line. Needs
    orbit_variance_ratio(arm, step, split) and its _se.
    """
    chosen = chosen_arms(metrics)
    rows, panels, widths = Rows(), _panels(metrics), lines(chosen.widths)
    for split, panel in panels.items():
        ends: list[float] = []
        for arm, shade in zip(widths, shades(len(widths)), strict=True):
            series = read_series(metrics, "orbit_variance_ratio", arm, split, "step")
            ends.extend(series.x)
            rows.points(panel, arm.size, _role(arm), Look(shade, "o", width=1.0, size=3.2), series)
        if ends:
            rows.add(panel, "infinite width", "theory", theory_look(order=1), [min(ends), max(ends)], 1.0)
    return rows.table(
        panels=list(panels.values()),
        title=heading(metrics, augmented(chosen.main.augmentation)),
        x_label=time_label(metrics),
        y_label="measured/predicted orbit variance",
        x_scale=time_scale(metrics),
        y_scale="log",
        notes=_width_notes(metrics, chosen),
    )


@styled
def measured_over_predicted(metrics: xr.Dataset) -> Figure:
    """Draw measured_over_predicted_data."""
    table = measured_over_predicted_data(metrics)
    figure, panels = titled_panels(table)
    draw(panels, table)
    drawn = [ax for ax in panels.values() if ax.has_data()]
    for ax in drawn:
        ax.set_yscale("log")
        time_axis(ax, metrics)
    if drawn:
        low, high = drawn[0].get_ylim()
        drawn[0].set_ylim(min(low, 0.8), max(high, 1.25))
        plain_log_axis(drawn[0].yaxis)
    return finish(
        figure,
        table.attrs["title"],
        table.attrs["notes"],
        nothing=one_point(metrics, chosen_arms(metrics).main),
    )


def _width_notes(metrics: xr.Dataset, chosen: Chosen) -> list[str]:
    """What a picture of all widths leaves out; of very many widths, of how many."""
    gone = [diverged_words(members, arm.size) for arm in chosen.widths if (members := all_diverged(metrics, arm))]
    notes = [*gone, *filter(None, (missing_words(*absent(metrics, arm), arm.size) for arm in chosen.widths))]
    if len(notes) > MOST_LINES:
        notes = [f"members diverged or are missing at {len(notes)} of {len(chosen.widths)} widths"]
    return [*notes, thinned_words(len(chosen.widths), "widths"), first_of(metrics)]


def distance_to_ntk_data(metrics: xr.Dataset) -> pd.DataFrame:
    """Relative distance of the ensemble mean to μ_t, two panels per split.

    Against width: full ensemble, one line per step, with the exponent of a power law fitted to the last. Against
    ensemble size at the last step, one line per width: it does not fall to zero with m. With one width only the
    second. Needs difference_to_ntk(arm, step, split, member_count) and its _se.
    """
    chosen = chosen_arms(metrics)
    last, rows, splits = last_step(metrics, chosen.main), Rows(), _panels(metrics)
    several, said, widths = len(chosen.widths) > 1, {}, lines(chosen.widths)
    against = [f"{name}, against width" for name in splits.values()] if several else []
    sizes = [f"{name}, against ensemble size" if several else name for name in splits.values()]
    for split, panel in zip(splits, against, strict=False):
        said[panel] = _distance_against_width(rows, panel, metrics, chosen.widths, split)
    for split, panel in zip(splits, sizes, strict=True):
        for arm, shade in zip(widths, shades(len(widths)), strict=True):
            series = read_series(metrics, "difference_to_ntk", arm, split, "member_count", step=last)
            rows.points(panel, arm.size, _role(arm), Look(shade, "o", width=0.9, size=3.2), series)
    panels, notes = [*against, *sizes], _width_notes(metrics, chosen)
    parts = [augmented(chosen.main.augmentation)]
    if several:
        members = [size for arm in chosen.widths if (size := full_ensemble(metrics, arm))]
        parts += [f"against width: {mean_of(min(members), max(members))}"] if members else []
        parts += [f"against ensemble size: {time_words(metrics, last)}"]
    else:
        parts += [time_words(metrics, last)]
        notes = [*notes, "one width only: distance against width not drawn"]
    return rows.table(
        panels=panels,
        title=heading(metrics, *parts),
        x_label={panel: "width (units)" if panel in against else _SIZE_LABEL for panel in panels},
        y_label="relative distance to NTK mean",
        x_scale="log",
        y_scale="log",
        notes=notes,
        panel_notes=said,
    )


def _distance_against_width(rows: Rows, panel: str, metrics: xr.Dataset, arms: tuple[Choice, ...], split: str) -> str:
    """One series per step, at most four; returns the exponent at the last one, in words."""
    steps = [s for s in metrics["step"].values if s > 0]
    if len(steps) > 4:
        steps = [steps[i] for i in np.unique(np.round(np.linspace(0, len(steps) - 1, 4)).astype(int))]
    text = ""
    for step, shade in zip(steps, shades(len(steps), "plasma"), strict=True):
        found = [(arm.width, *read_at(metrics, "difference_to_ntk", arm, split, step)) for arm in arms]
        series = Series(*np.array([point for point in found if np.isfinite(point[1])]).reshape(-1, 3).T)
        rows.points(panel, time_words(metrics, step), _role(arms[-1]), Look(shade, "s"), series)
        exponent, error = power_law(series)
        if np.isfinite(exponent) and step == steps[-1]:
            text = f"{time_words(metrics, step)}: ∝ width^x,\nx = {number(exponent, error)}"
    return text


@styled
def distance_to_ntk(metrics: xr.Dataset) -> Figure:
    """Draw distance_to_ntk_data: upper row against width, lower row against ensemble size."""
    table = distance_to_ntk_data(metrics)
    names, widths = table.attrs["panels"], chosen_arms(metrics).widths
    splits = len(metrics["split"])
    figure, axes = grid(splits, len(names) // splits, sharey=True)
    panels = dict(zip(names, axes.ravel(), strict=True))
    draw(panels, table)
    for panel, ax in panels.items():
        if table.attrs["x_label"][panel] == _SIZE_LABEL:
            ensemble_axes(ax, metrics)
        else:
            _width_axes(ax, [arm.width for arm in widths])
    label_axes(panels, table)
    turned = axes[0, 0].get_gridspec().ncols < splits  # of one split, the panels are then side by side
    for k, (panel, ax) in enumerate(panels.items()):
        name = list(_panels(metrics).values())[k % splits]
        title(ax, name if turned or k < splits else "", table.attrs["panel_notes"].get(panel, ""))
    return _finish(figure, table, metrics)


def _width_axes(ax: Axes, widths: list[int]) -> None:
    ax.set(xscale="log", yscale="log")
    low, high = widths[0], widths[-1]
    ax.set_xlim(low * (low / high) ** 0.1, high * (high / low) ** 0.1)
    plain_log_axis(ax.xaxis, widths)


def same_predictions_data(metrics: xr.Dataset) -> pd.DataFrame:
    """Orbit same predictions (1…|G|) against training time: members' range, ensemble, control; per split.

    Needs orbit_same_predictions(arm, step, split, member_count), its _se, the member_… variable, and the
    coordinate group_order(arm) for the reference of perfect symmetry.
    """
    chosen = chosen_arms(metrics)
    rows, panels, name = Rows(), _panels(metrics), "orbit_same_predictions"
    steps = metrics["step"].values
    for split, panel in panels.items():
        for arm in chosen.drawn:
            size, kind = full_ensemble(metrics, arm), augmented(arm.augmentation)
            if arm in chosen.pair and size > 1:
                band = member_band(metrics, arm, split, name=name, root=False)
                main = arm is chosen.main
                look = member_look() if main else member_look(colour=COLOURS["none"], opacity=0.13, dash=None)
                label = f"single members, min…max, {kind}"
                rows.add(panel, label, "member", look, band.x, band.mean, band.least, band.greatest)
            series = read_series(metrics, name, arm, split, "step")
            look = ensemble_look(arm.augmentation, rank=chosen.rank(arm), size=3.2)
            rows.points(panel, f"{mean_of(size)}, {kind}", _role(arm), look, series)
        if "group_order" in metrics.coords:
            order = int(metrics["group_order"].sel(arm=chosen.main.key))
            label, ends = f"perfect symmetry, |G| = {order}", [steps.min(), steps.max()]
            rows.add(panel, label, "theory", theory_look(), ends, order)
    when = time_words(metrics, last_step(metrics, chosen.main))
    return rows.table(
        panels=list(panels.values()),
        title=heading(metrics, chosen.main.size, f"numbers: {when}, {augmented(chosen.main.augmentation)}"),
        x_label=time_label(metrics),
        y_label="orbit same predictions",
        x_scale=time_scale(metrics),
        error="single members: smallest and largest value; ensembles: ± one standard error",
        notes=[*missing(metrics, chosen), first_of(metrics)],
        panel_notes={panel: _same_words(metrics, chosen.main, split) for split, panel in panels.items()},
    )


def _same_words(metrics: xr.Dataset, arm: Choice, split: str) -> str:
    """Ensemble and members of an arm at its last step, in words."""
    step = last_step(metrics, arm)
    value, error = read_at(metrics, "orbit_same_predictions", arm, split, step)
    band = member_band(metrics, arm, split, name="orbit_same_predictions", root=False)
    parts = [f"ensemble {number(value, error)}"] if np.isfinite(value) else []
    if len(band.x) and band.x[-1] == step and full_ensemble(metrics, arm) > 1:
        parts.append(f"members {band.least[-1]:.2f}…{band.greatest[-1]:.2f}")
    return ", ".join(parts)


@styled
def same_predictions(metrics: xr.Dataset) -> Figure:
    """Draw same_predictions_data."""
    table = same_predictions_data(metrics)
    figure, panels = titled_panels(table)
    draw(panels, table)
    for panel, ax in panels.items():
        if "group_order" in metrics.coords:
            order = int(metrics["group_order"].sel(arm=chosen_arms(metrics).main.key))
            ax.set_ylim(1 - 0.04 * order, order * 1.08)
        time_axis(ax, metrics)
        title(ax, panel, table.attrs["panel_notes"][panel])
    return _finish(figure, table, metrics)
