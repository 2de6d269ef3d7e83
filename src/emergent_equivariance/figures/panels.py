"""What pictures share: panels, axes, points with errors, titles, legends."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from ..fits import Series
from .data import Curve, curves, of_panel, pieces
from .selection import (
    Choice,
    Chosen,
    absent,
    all_diverged,
    choose,
    full_ensemble,
    metrics_choices,
    thinned_words,
)
from .style import NARROWEST, PANEL, TEXT_SIZE
from .words import augmented, diverged_words, missing_words

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: What a panel without data says, unless it has something to say itself.
NOTHING = "nothing to draw: no finite value"

#: Width of a letter of a title or a label of a panel, and of the title of a figure, in inches.
LETTER, TITLE_LETTER = 0.053, 0.06

#: A formula in TeX between two $, in names that users give.
FORMULA = re.compile(r"(\$[^$]*\$)")

# --------------------------------------------------------------------------------------------- panels


def grid(columns: int, rows: int = 1, *, heights: Sequence[float] | None = None, **options: Any) -> tuple[Figure, Any]:
    """A figure of the width that the style says, and its panels (row, column); ``finish`` makes room for the words.

    Where panels side by side would be narrower than NARROWEST and there are fewer rows than columns, rows and columns
    change places on the page: panels (row, column) are then below each other.

    Args:
      heights: of the rows in units of a panel.
      options: of matplotlib's subplots.
    """
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    heights = heights or [1.0] * rows
    width = min(rcParams["figure.figsize"][0], PANEL[0] * columns)
    turned = width / columns < NARROWEST and rows < columns
    if turned:
        columns, rows, heights = rows, columns, [1.0] * columns
        other = {"row": "col", "col": "row"}
        options = {name: other.get(value, value) for name, value in options.items()}
    panel = min(PANEL[1], max(0.8 * width / columns, 1.5)) if rows < 3 else 1.5
    figure = Figure(figsize=(width, panel * sum(heights) + 0.35 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, gridspec_kw={"height_ratios": heights}, **options)
    return figure, axes.T if turned else axes


def titled_panels(table: pd.DataFrame) -> tuple[Figure, dict[str, Axes]]:
    """All panels of a table on one vertical scale, at most three in a row, each with its name as title."""
    names = table.attrs["panels"]
    columns = len(names) if len(names) <= 3 else int(np.ceil(len(names) / 2))
    figure, axes = grid(columns, int(np.ceil(len(names) / columns)), sharey=True)
    for extra in axes.ravel()[len(names) :]:
        extra.remove()
    panels = dict(zip(names, axes.ravel(), strict=False))
    for name, ax in panels.items():
        title(ax, name)
    label_axes(panels, table)
    return figure, panels


def title(ax: Axes, *lines: str) -> None:
    """Title of a panel, broken where it is wider than the panel."""
    whole = "\n".join(line for line in lines if line).splitlines()
    ax.set_title("\n".join(part for line in whole for part in _wrapped(line, _room(ax))))


def _wrapped(text: str, room: int) -> list[str]:
    """Lines of at most ``room`` letters, broken between parts (" · ") where these fit; quantities in italics.

    Formulas are not broken: while lines are, letters of no language stand for each, as many as it is wide.
    """
    formulas = FORMULA.findall(text)
    for number, formula in enumerate(formulas):
        text = text.replace(formula, chr(_PRIVATE + number) * min(_drawn_length(formula), room // 2), 1)
    parts = (part.replace(" ", "\u00a0") if len(part) <= room else part for part in text.split(" · "))
    lines = wrap(" · ".join(parts), max(room, 12))
    plain = (line.replace("\u00a0", " ").removesuffix(" ·") for line in lines)
    return [italic(_FORMULAS.sub(lambda found: formulas[ord(found[1]) - _PRIVATE], line)) for line in plain]


#: First letter of Unicode's private use area, and what stands for a formula.
_PRIVATE = 0xE000
_FORMULAS = re.compile("([\ue000-\uf8ff])\\1*")


def _drawn_length(formula: str) -> int:
    """About how many letters wide a formula is."""
    return max(1, len(re.sub(r"[{}^_$\s]", "", re.sub(r"\\[a-zA-Z]+", "x", formula))))


def label_axes(panels: Mapping[str, Axes], table: pd.DataFrame) -> None:
    """Labels of the axes: the vertical one in the first column, the horizontal one below the last panel that has it."""
    places = {name: _place(ax) for name, ax in panels.items()}
    for name, ax in panels.items():
        x, y = (of_panel(table, axis, name) for axis in ("x_label", "y_label"))
        row, column = places[name]
        rows = [r for other, (r, c) in places.items() if c == column and of_panel(table, "x_label", other) == x]
        if row == max(rows):
            ax.set_xlabel("\n".join(_wrapped(x, _room(ax))))
        shared = any(other is not ax for other in ax.get_shared_y_axes().get_siblings(ax))
        if column == 0 or not shared:
            ax.set_ylabel("\n".join(_wrapped(y, _room(ax, upright=True))))


def _place(ax: Axes) -> tuple[int, int]:
    """Row and column of a panel on the page."""
    place = ax.get_subplotspec()
    assert place is not None  # panels are made by grid
    return place.rowspan.start, place.colspan.start


def _room(ax: Axes, *, upright: bool = False) -> int:
    """How many letters fit beside a panel, or below and above it."""
    figure, box = ax.get_figure(root=True), ax.get_position()
    assert figure is not None
    width, height = figure.get_size_inches()
    return int((1.25 * box.height * height if upright else 1.1 * box.width * width) / LETTER)


def italic(text: str) -> str:
    """A text in which single letters but the article, which are quantities, are set in italics; "^x" is raised.

    Formulas between two $ are left as they are.
    """

    def plain(words: str) -> str:
        if "$" in words:  # one without a second: no formula
            return words
        raised = re.sub(r"\^([A-Za-z])", r"$^{\1}$", words)
        return re.sub(r"(?<![\w'${^])([B-Zb-z])(?![\w'$}])", r"$\1$", raised)

    return "".join(part if part.startswith("$") else plain(part) for part in FORMULA.split(text))


def finish(figure: Figure, title: str, notes: Iterable[str] = (), *, legend: bool = True, nothing: str = "") -> Figure:
    """Title with what the picture leaves out, and one legend for all panels below them; the figure grows for both.

    Args:
      nothing: what panels without data say instead of NOTHING.
    """
    width = figure.get_figwidth()
    room = int(width / TITLE_LETTER)
    lines = [part for note in dict.fromkeys([title, *notes]) if note for part in _wrapped(note, room)]
    figure.suptitle("\n".join(lines))
    for ax in figure.axes:
        if not ax.has_data() and not any(text.get_text().startswith("nothing to draw") for text in ax.texts):
            say(ax, nothing or NOTHING, centre=True)
        for axis in (ax.xaxis, ax.yaxis):
            _quiet_log_axis(axis)
    entries = legend_entries(figure.axes)
    rows = 0.0
    if entries and legend:
        entry = 0.052 * max(len(re.sub(r"\\[a-zA-Z]+", "x", label)) for label in entries) + 0.45
        columns = int(np.clip(width / entry, 1, len(entries)))
        rows = np.ceil(len(entries) / columns)
        columns = int(np.ceil(len(entries) / rows))
        options: dict[str, Any] = {"loc": "outside lower center", "ncols": columns, "columnspacing": 1.4}
        figure.legend(list(entries.values()), list(entries), **options)
    figure.set_figheight(figure.get_figheight() + 0.15 * len(lines) + 0.15 * rows + 0.2)
    _show_unreadable_formulas(figure)
    return figure


def _show_unreadable_formulas(figure: Figure) -> None:
    """Texts of users with a $ that matplotlib cannot read as a formula are drawn as they are written."""
    from matplotlib.mathtext import MathTextParser
    from matplotlib.text import Text

    reader: Any = MathTextParser("path")
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        try:
            for line in text.get_text().splitlines():
                if "$" in line:
                    reader.parse(line)
        except ValueError:
            text.set_parse_math(False)


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


def draw(axes: Mapping[str, Axes], table: pd.DataFrame) -> None:
    """Draw every series of a table into the panel of its name, as its look says."""
    for curve in curves(table):
        for piece in pieces(curve, table.attrs["gap"]):
            draw_curve(axes[curve.panel], piece)


def draw_curve(ax: Axes, curve: Curve) -> None:
    """Draw one series: line, markers, and error bars or a band where low and high are known."""
    look, known = curve.look, np.isfinite(curve.low) & np.isfinite(curve.high)
    style: dict[str, Any] = {"color": look.colour, "lw": look.width, "zorder": look.order, "label": curve.series}
    style["ls"] = "none" if look.dash is None else (0, look.dash) if look.dash else "-"
    if look.marker:
        style |= {"marker": look.marker, "ms": look.size, "mfc": "none" if look.hollow else look.colour}
    elif len(curve.x) == 1:
        style |= {"marker": "_", "ms": 12}
    if look.band and known.any():
        band: dict[str, Any] = {"color": look.colour, "alpha": look.opacity, "lw": 0, "zorder": look.order - 0.5}
        ax.fill_between(curve.x, curve.low, curve.high, label="" if look.marker else curve.series, **band)
        ax.plot(curve.x, curve.y, **(style if look.marker else {**style, "label": "_nolegend_"}))
    elif known.any():
        bars = [np.where(known, part, 0.0) for part in (curve.y - curve.low, curve.high - curve.y)]
        ax.errorbar(curve.x, curve.y, yerr=bars, elinewidth=0.9, **style)
    else:
        ax.plot(curve.x, curve.y, **style)


# ----------------------------------------------------------------------------------------------- axes


def ensemble_axes(ax: Axes, metrics: xr.Dataset) -> None:
    """Logarithmic axes over the ensemble size, labelled with the sizes there are."""
    ax.set(xscale="log", yscale="log")
    counts = metrics["member_count"].values
    ax.set_xlim(counts.min() / 1.3, counts.max() * 1.3)
    plain_log_axis(ax.xaxis, counts)


def time_label(metrics: xr.Dataset) -> str:
    """Label of an axis of training time."""
    unit = str(metrics["step"].attrs.get("units", "step"))
    return "training time (" + " or ".join(f"{u}s" for u in unit.split(" or ")) + ")"


def time_scale(metrics: xr.Dataset) -> str:
    """Linear in epochs, logarithmic with 0 included in steps that span decades."""
    steps = np.asarray(metrics["step"].values, dtype=float)
    positive = steps[steps > 0]
    return "symlog" if len(positive) > 1 and positive.max() / positive.min() >= 30 else "linear"


def time_axis(ax: Axes, metrics: xr.Dataset) -> None:
    """Training time on the scale of time_scale, with the recorded steps as ticks."""
    steps = np.asarray(metrics["step"].values, dtype=float)
    if time_scale(metrics) == "symlog":
        first = steps[steps > 0].min()
        ax.set_xscale("symlog", linthresh=first, linscale=0.5)
        ax.set_xticks(steps, [f"{s:g}" for s in steps] if len(steps) <= 9 else _thinned(steps))
        ax.set_xticks([], minor=True)
        ax.set_xlim(-0.3 * first, steps.max() * 1.25)
    elif metrics["step"].attrs.get("units") == "epoch":
        from matplotlib.ticker import MaxNLocator

        ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _thinned(steps: np.ndarray) -> list[str]:
    """Tick labels at 0, at powers of ten and at the last step only."""
    powers = [s > 0 and float(np.log10(s)).is_integer() for s in steps]
    return [f"{s:g}" if s in (0, steps[-1]) or p else "" for s, p in zip(steps, powers, strict=True)]


def plain_log_axis(axis: Any, at: Sequence[float] | np.ndarray | None = None) -> None:
    """Logarithmic axis labelled with plain numbers: a few round ones in view, or those of ``at`` that have room.

    The others of ``at`` are small ticks.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator

    low, high = sorted(axis.get_view_interval())
    others: list[float] = []
    if at is None:
        locator = MaxNLocator(6, steps=[1, 2, 5, 10]) if high / low < 2.5 else LogLocator(subs=(1, 1.5, 2, 3, 5, 7))
        at = [v for v in locator.tick_values(low, high) if low <= v <= high]
    else:
        ax = axis.axes
        length = ax.get_position().width * ax.get_figure(root=True).get_figwidth()
        values = sorted({float(v) for v in at})
        at = []
        for value in [values[0], values[-1], *values[1:-1]]:
            apart = min((abs(np.log(value / other)) for other in at), default=np.inf) * length / np.log(high / low)
            (at if apart > 0.05 * len(f"{value:g}") + 0.05 else others).append(value)
    axis.set_ticks(at, [f"{v:g}" for v in np.round(at, 12)])
    axis.set_ticks(others, minor=True)
    axis.set_ticklabels([], minor=True)


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
    others = choose(metrics_choices(metrics)).others
    notes.append(thinned_words(len(others), "further kinds of augmentation"))
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
