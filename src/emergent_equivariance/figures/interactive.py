"""Interactive charts: any tidy table of a picture (figures.data) as a Vega-Lite specification.

The chart shows the numbers of the table and nothing else. It needs no font, address or file from elsewhere, and its
background is transparent: the page that embeds it gives text and axes their colours by ``chart_config``, and for a dark
page puts ``spec["usermeta"]["dark"]`` (a list of colours) in place of the value of the parameter "colours".
On a narrow page ``spec["columns"]`` may be lowered to 1: panels are then below each other.
"""

from __future__ import annotations

import json
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from .data import curves, number_of, of_panel, pieces
from .style import luminance
from .words import number

if TYPE_CHECKING:
    import pandas as pd

    from .data import Curve
    from .style import Look

__all__ = ["PANEL_SIZE", "chart", "chart_config", "on_dark"]

#: The language of the specification: that of the Vega-Lite which vl-convert holds.
SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"

#: Width and height of the plotting area of a panel in pixels: with axes it fits a phone's page.
PANEL_SIZE = (250, 190)

#: Markers of matplotlib → shapes of Vega. A series without markers has a line in the legend, a band a square.
SHAPES = {
    "o": "circle",
    "s": "square",
    "D": "diamond",
    "^": "triangle-up",
    "v": "triangle-down",
    "<": "triangle-left",
    ">": "triangle-right",
    "x": "M-.7,-.7L.7,.7M.7,-.7L-.7,.7",
    "P": "cross",
    "p": "M0,-1L.95,-.31L.59,.81L-.59,.81L-.95,-.31Z",
    "h": "M0,-1L.87,-.5L.87,.5L0,1L-.87,.5L-.87,-.5Z",
}
LINE = "M-2.4,0L2.4,0"

#: Pixels of a dash of length 1: the line in the legend shows the longest pattern once.
DASH = 2

#: Name of the parameter that holds the entry of the legend which was clicked.
CHOSEN = "chosen"

#: Name of the view that asks for it.
FIRST = "first"

#: What a series that is not chosen in the legend fades to.
FADED = 0.08

#: How axes and the legend are labelled.
TICKS: dict[str, Any] = {"format": ".6~g", "labelOverlap": True}
#: Entries of the legend that would be wider than a phone are broken at their last comma.
_LONG = 42
_BREAK = "lastindexof(datum.label, ', ')"
LEGEND: dict[str, Any] = {
    "title": None,
    "labelExpr": f"length(datum.label) > {_LONG} && {_BREAK} > 0 ? "
    f"[slice(datum.label, 0, {_BREAK} + 1), slice(datum.label, {_BREAK} + 2)] : datum.label",
    "columns": 1,
    "orient": "bottom",
    "symbolOpacity": 1,
    "symbolStrokeWidth": 1.6,
    "symbolSize": 80,
    "labelOffset": 12,
}

#: Least relative luminance of a colour on a dark page: a contrast of 5 to #121212.
DARK_LUMINANCE = 0.23

#: Recorded positions that are labelled on an axis at most.
MOST_TICKS = 10


def chart(table: pd.DataFrame, *, columns: int = 3) -> dict[str, Any]:
    """A Vega-Lite specification with one panel per panel of the table; tooltips say series, x and y ± error.

    A click on an entry of the legend keeps that series and fades the others.

    Args:
      columns: panels in a row at most.
    """
    looks = table.attrs["looks"]
    colours = [look.colour for look in looks.values()]
    everything = list(curves(table))
    drawn = {name: [curve for curve in everything if curve.panel == name] for name in table.attrs["panels"]}
    chosen = {"name": CHOSEN, "select": {"type": "point", "fields": ["series"]}, "bind": "legend", "views": [FIRST]}
    return {
        "$schema": SCHEMA,
        "background": "transparent",
        "columns": min(columns, len(drawn)),
        "spacing": 18,
        "concat": [_panel(table, *panel) for panel in drawn.items()],
        "params": [*([chosen] if len(table) else []), {"name": "colours", "value": colours}],
        "usermeta": {"dark": [on_dark(colour) for colour in colours]},
        "datasets": {name: _rows(of_name, table) for name, of_name in drawn.items() if of_name},
    }


def chart_config(dark: bool) -> dict[str, Any]:
    """Colours and sizes of text, axes and grid on a bright or a dark page, as a Vega-Lite configuration."""
    ink, faint = ("#e6e6e6", "#4a4a4a") if dark else ("#1f1f1f", "#dddddd")
    font = {"labelFont": FONT, "titleFont": FONT, "labelColor": ink, "titleColor": ink, "titleFontWeight": "normal"}
    return {
        "background": "transparent",
        "font": FONT,
        "axis": {**font, "domainColor": ink, "tickColor": ink, "gridColor": faint, "gridOpacity": 0.4},
        "legend": {**font, "labelLimit": 0},
        "title": {"font": FONT, "subtitleFont": FONT, "color": ink, "subtitleColor": ink, "subtitleFontSize": 11},
        "text": {"color": ink},
        "view": {"stroke": None},
    }


FONT = "system-ui, sans-serif"


def on_dark(colour: str) -> str:
    """A colour (#rrggbb) as drawn on a dark page: mixed with white until it is bright enough; black becomes white."""
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    white = next(w for w in np.arange(0, 1.01, 0.05) if luminance(channels + w * (1 - channels)) >= DARK_LUMINANCE)
    if not channels.any():
        white = 0.95
    return "#" + "".join(f"{round(255 * c):02x}" for c in channels + white * (1 - channels))


def _panel(table: pd.DataFrame, panel: str, drawn: list[Curve]) -> dict[str, Any]:
    said = table.attrs["panel_notes"].get(panel, "").splitlines()
    title = {"text": wrap(panel, PANEL_SIZE[0] // 6), "subtitle": said, "anchor": "start", "fontSize": 12}
    size = {"width": PANEL_SIZE[0], "height": PANEL_SIZE[1], "title": title}
    if not drawn:
        nothing = {"type": "text", "text": "nothing to draw: no finite value"}
        return {**size, "data": {"values": [{}]}, "layer": [{"mark": nothing}]}
    x, y = (_position(table, panel, axis) for axis in "xy")
    x, y = {**x, "field": "x", "axis": _ticks(table, panel, x["scale"])}, {**y, "axis": _upright_ticks(y["scale"])}
    at = {"y": {**y, "field": "y"}}
    ends = {"y": {**y, "field": "low"}, "y2": {"field": "high"}}
    titles = {"series": "series", "at": x["title"], "value": y["title"]}
    tooltip = [{"field": name, "type": "nominal", "title": said} for name, said in titles.items()]
    channels = _channels(table.attrs["looks"])
    shaped, dashed = ({**at, name: channels[name]} for name in ("shape", "strokeDash"))

    def layer(shows: str, mark: dict[str, Any], opacity: float, encoding: dict[str, Any]) -> dict[str, Any]:
        faded = {"condition": {"param": CHOSEN, "value": opacity}, "value": FADED * opacity}
        line = {"field": "line", "type": "nominal"}
        encoding = {"x": x, "color": channels["color"], "opacity": faded, "detail": line, **encoding}
        return {"transform": [{"filter": f"datum.{shows}"}], "mark": mark, "encoding": encoding}

    layers = [
        layer("band", {"type": "area"}, 0.28, ends),
        layer("bar", {"type": "rule"}, 1, ends),
        layer("joined", {"type": "line", "strokeWidth": 1.6}, 1, dashed),
        layer("open", {"type": "point", "filled": False, "size": 130}, 1, shaped),
        layer("full", {"type": "point", "filled": True, "size": 40}, 1, shaped),
        layer("series", {"type": "point", "filled": True, "size": 160}, 0, {**at, "tooltip": tooltip}),
    ]
    if panel == table["panel"].iloc[0]:  # one choice for all panels; Vega asks the first layer about the legend
        layers[0] = {"name": FIRST, **layers[0]}
    return {**size, "data": {"name": panel}, "layer": layers}


def _channels(looks: dict[str, Look]) -> dict[str, Any]:
    """Colour, shape and dash by series, the same in all panels, with one legend."""
    ranges: dict[str, list[Any]] = {
        "color": [{"expr": f"colours[{i}]"} for i in range(len(looks))],
        "shape": [_shape(look) for look in looks.values()],
        "strokeDash": [[DASH * part for part in look.dash or ()] or [1, 0] for look in looks.values()],
    }
    series = {"field": "series", "type": "nominal", "sort": None, "legend": LEGEND}
    return {name: {**series, "scale": {"domain": list(looks), "range": values}} for name, values in ranges.items()}


def _shape(look: Look) -> str:
    if look.marker:
        return SHAPES[look.marker]
    return "square" if look.band and look.dash is None else LINE


def _rows(drawn: list[Curve], table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of a panel: numbers, tooltips, and the layers that show them. Low ends stop where a log axis ends."""
    scale = _scale(table, drawn[0].panel, "y")
    floor = scale["domain"][0] if scale["type"] == "log" else -np.inf
    lines = (piece for curve in drawn for piece in enumerate(pieces(curve, table.attrs["gap"])))
    return [row for count, line in lines for row in _line_rows(line, count, floor)]


def _line_rows(curve: Curve, line: int, floor: float) -> list[dict[str, Any]]:
    look, rows = curve.look, []
    marked = bool(look.marker) or len(curve.x) == 1
    kinds = {"full": marked and not look.hollow, "open": marked and look.hollow}
    kinds["joined"] = look.dash is not None and len(curve.x) > 1
    for x, y, low, high in zip(curve.x, curve.y, curve.low, curve.high, strict=True):
        known = bool(np.isfinite(low) and np.isfinite(high))
        ends = {"low": max(low, floor), "high": high} if known else {}
        row: dict[str, Any] = {name: float(f"{value:.7g}") for name, value in {"x": x, "y": y, **ends}.items()}
        text = f"{number(y)} ({number(low)} … {number(high)})" if known and look.band else number(y, (high - low) / 2)
        shown = {**kinds, "band": known and look.band, "bar": known and not look.band}
        row |= {"series": curve.series, "line": line}
        rows.append({**row, "at": number_of(x), "value": text, **{kind: 1 for kind, true in shown.items() if true}})
    return rows


def _position(table: pd.DataFrame, panel: str, axis: str) -> dict[str, Any]:
    """What all that is drawn along an axis has in common."""
    label, scale = of_panel(table, f"{axis}_label", panel), _scale(table, panel, axis)
    return {"type": "quantitative", "title": label, "scale": scale}


def _scale(table: pd.DataFrame, panel: str, axis: str) -> dict[str, Any]:
    """The scale of an axis, over all panels whose axis has the same label."""
    label, scale = (of_panel(table, f"{axis}_{what}", panel) for what in ("label", "scale"))
    same = [name for name in table.attrs["panels"] if of_panel(table, f"{axis}_label", name) == label]
    rows = table[table["panel"].isin(same)]
    values = rows[["x"] if axis == "x" else ["y", "low", "high"]].to_numpy().ravel()
    values = values[np.isfinite(values)]
    low, high = float(values.min()), float(values.max())
    if scale == "log":  # error bars may reach below zero
        return {"type": "log", "domain": [float(rows[axis].min()) / 1.3, high * 1.3]}
    if scale == "symlog":
        first = float(values[values > 0].min())
        return {"type": "symlog", "constant": first, "domain": [low - 0.3 * first, high * 1.25]}
    margin = 0.05 * ((high - low) or abs(high) or 1.0)
    return {"type": "linear", "domain": [low - margin, high + margin]}


def _upright_ticks(scale: dict[str, Any]) -> dict[str, Any]:
    """A vertical axis; on a logarithmic one round numbers are labelled, where Vega would hide some in the middle."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    low, high = scale["domain"]
    if scale["type"] != "log":
        return TICKS
    if high / low < 10:
        locator: MaxNLocator | LogLocator = MaxNLocator(6, steps=[1, 2, 5, 10])
    else:
        locator = LogLocator(subs=(1, 2, 5) if high / low < 300 else (1,), numticks=12)
    return {**TICKS, "values": [float(f"{v:.6g}") for v in locator.tick_values(low, high) if low <= v <= high]}


def _ticks(table: pd.DataFrame, panel: str, scale: dict[str, Any]) -> dict[str, Any]:
    """A horizontal axis; named positions, and a few that are not evenly spaced, are labelled themselves."""
    names = {f"{x:g}": name for x, name in table.attrs["x_names"].items()}
    if names:
        label = f"({json.dumps(names)})[datum.label]"
        return {**TICKS, "values": list(table.attrs["x_names"]), "labelExpr": label}
    at = sorted({float(x) for x in table.loc[table["panel"] == panel, "x"]})
    return TICKS if scale["type"] == "linear" or len(at) > MOST_TICKS else {**TICKS, "values": at}
