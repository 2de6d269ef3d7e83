"""Tidy data of the pictures: what is drawn, row by row.

One table serves the matplotlib picture, the interactive chart and the CSV file, so that they cannot differ. Columns:

panel: name of the panel. series: entry of the legend. role: what the series is (ROLES), the same in all pictures.
x, y: what is drawn. low, high: ends of the error bar or of the band; NaN where there is none.

Texts are plain (μₜ, σₜ), not TeX. The attributes of a table (``DataFrame.attrs``):

title: the study and what all panels have in common.
notes: list of sentences on what the picture leaves out.
panel_notes: panel → numbers that belong to it, in words (a fitted slope, say).
panels: names of all panels in their order, those without data too.
x_label, y_label: labels of the axes, with units.
x_scale, y_scale: "linear", "log" or "symlog" (linear from 0 to the smallest positive x).
error: what low…high means.
gap: a series of several lines is broken where x falls, or rises by more than this (``pieces``).
x_names: names at positions on the x axis, where it shows no number: position → name.
looks: series → style.Look.

A label or a scale is one text for all panels or a mapping from panel to text (``of_panel`` reads both).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..fits import Series
from .style import Look
from .words import number

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COLUMNS", "ROLES", "Curve", "Rows", "alt_text", "csv_text", "curves", "of_panel", "pieces"]

COLUMNS = ("panel", "series", "role", "x", "y", "low", "high")

#: member: single networks. ensemble: their mean, trained with augmentation. theory: computed, nothing fitted to the
#: networks. control: their mean, trained without augmentation. data: what all were trained on.
ROLES = ("member", "ensemble", "theory", "control", "data")


class Curve(NamedTuple):
    """One series in one panel: arrays x, y, low, high of the same length."""

    panel: str
    series: str
    role: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray
    look: Look


class Rows:
    """Collects the rows of a table."""

    def __init__(self) -> None:
        self._columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
        self._looks: dict[str, Look] = {}

    def add(
        self, panel: str, series: str, role: str, look: Look, x: Any, y: Any, low: Any = np.nan, high: Any = np.nan
    ) -> None:
        """Add a series to a panel: arrays of one length, or numbers. Rows without a finite y are left out.

        Raises ValueError if the role is none of ROLES.
        """
        if role not in ROLES:
            raise ValueError(f"role {role!r} of {series!r} is none of {', '.join(ROLES)}")
        numbers = [np.asarray(part, dtype=float).ravel() for part in np.broadcast_arrays(x, y, low, high)]
        known = np.isfinite(numbers[1])
        for name, value in zip(COLUMNS[:3], (panel, series, role), strict=True):
            self._columns[name].extend([value] * int(known.sum()))
        for name, values in zip(COLUMNS[3:], numbers, strict=True):
            self._columns[name].extend(values[known].tolist())
        if known.any():
            self._looks.setdefault(series, look)

    def points(self, panel: str, series: str, role: str, look: Look, values: Series) -> None:
        """Add numbers with their standard errors."""
        self.add(panel, series, role, look, values.x, values.y, values.y - values.error, values.y + values.error)

    def table(
        self,
        *,
        panels: Sequence[str],
        title: str,
        x_label: str | Mapping[str, str],
        y_label: str | Mapping[str, str],
        x_scale: str | Mapping[str, str] = "linear",
        y_scale: str | Mapping[str, str] = "linear",
        error: str = "± one standard error",
        notes: Sequence[str] = (),
        panel_notes: Mapping[str, str] | None = None,
        gap: float = np.inf,
        x_names: Mapping[float, str] | None = None,
    ) -> pd.DataFrame:
        """The table with its attributes."""
        import pandas as pd

        table = pd.DataFrame(self._columns)
        table = table.astype(dict.fromkeys(COLUMNS[3:], float) | dict.fromkeys(COLUMNS[:3], object))
        table.attrs = {
            "title": title,
            "notes": [note for note in dict.fromkeys(notes) if note],
            "panel_notes": dict(panel_notes or {}),
            "panels": list(panels),
            "x_label": x_label,
            "y_label": y_label,
            "x_scale": x_scale,
            "y_scale": y_scale,
            "error": error,
            "gap": gap,
            "x_names": dict(x_names or {}),
            "looks": dict(self._looks),
        }
        return table


def curves(table: pd.DataFrame) -> Iterator[Curve]:
    """The series of a table, panel by panel in the order of its rows."""
    for (panel, series), rows in table.groupby(["panel", "series"], sort=False):
        x, y, low, high = (rows[name].to_numpy() for name in COLUMNS[3:])
        yield Curve(str(panel), str(series), rows["role"].iloc[0], x, y, low, high, table.attrs["looks"][series])


def pieces(curve: Curve, gap: float) -> Iterator[Curve]:
    """The lines that a series consists of: broken where x falls, or rises by more than ``gap``."""
    step = np.diff(curve.x)
    ends = [0, *(np.flatnonzero((step < 0) | (step > gap)) + 1), len(curve.x)]
    for first, stop in pairwise(ends):
        there = slice(first, stop)
        numbers = {name: getattr(curve, name)[there] for name in ("x", "y", "low", "high")}
        yield curve._replace(**numbers)


def of_panel(table: pd.DataFrame, attribute: str, panel: str) -> str:
    """A label or a scale of one panel."""
    value = table.attrs[attribute]
    return value[panel] if isinstance(value, Mapping) else value


def csv_text(table: pd.DataFrame, source: str) -> str:
    """A table as CSV, numbers to nine digits, below lines that start with #: title, axes, errors, notes and source.

    ``pandas.read_csv(FILE, comment="#")`` and gnuplot skip these lines.
    """
    said = table.attrs
    lines = [said["title"], f"x: {_of_all(said['x_label'])}", f"y: {_of_all(said['y_label'])}"]
    if said["x_names"]:
        lines.append("x names: " + ", ".join(f"{x:g} {name}" for x, name in said["x_names"].items()))
    lines.append(f"low, high: {said['error']}")
    lines += [*said["notes"], *(f"{panel}: {note}" for panel, note in said["panel_notes"].items() if note)]
    head = "".join(f"# {line}\n" for line in [*(" ".join(line.split()) for line in lines), source])
    return head + table.to_csv(index=False, float_format="%.9g", lineterminator="\n")


def _of_all(label: str | Mapping[str, str]) -> str:
    """A label of all panels in one line."""
    if isinstance(label, str):
        return label
    if len(set(label.values())) == 1:
        return next(iter(label.values()))
    return "; ".join(f"{panel}: {text}" for panel, text in label.items())


def alt_text(table: pd.DataFrame) -> str:
    """What a picture shows, in words, for readers who do not see it: axes, panels, and each series' last value."""
    said = [table.attrs["title"], *table.attrs["notes"]]
    if table.empty:
        return f"{'; '.join(said)}: nothing to draw."
    sentences, everything = [f"Chart: {'; '.join(said)}."], list(curves(table))
    for panel in table.attrs["panels"]:
        y, x = (of_panel(table, name, panel).replace("\n", " ") for name in ("y_label", "x_label"))
        drawn = [curve for curve in everything if curve.panel == panel]
        last = [f"{curve.series}: {_last(curve)}" for curve in drawn]
        sentences.append(f"Panel {panel}: {y} against {x}. " + ("; ".join(last) + "." if last else "Nothing to draw."))
    return " ".join(sentences)


def _last(curve: Curve) -> str:
    """The value at the greatest x, in words."""
    at = int(np.argmax(curve.x))
    text = number(curve.y[at], (curve.high[at] - curve.low[at]) / 2)
    return f"{text} at {number_of(curve.x[at])}"


def number_of(x: float) -> str:
    """A position on an axis, in words: a whole number as it is."""
    return f"{x:.0f}" if float(x).is_integer() and abs(x) < 1e7 else number(x)
