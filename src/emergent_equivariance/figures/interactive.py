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
    import altair as alt
    import pandas as pd

    from .data import Curve
    from .style import Look

__all__ = ["PANEL_SIZE", "chart", "chart_config", "on_dark"]

#: Width and height of the plotting area of a panel in pixels: with axes it fits a phone's page.
PANEL_SIZE = (250, 190)

#: Markers of matplotlib → shapes of Vega. A series without markers has a line in the legend.
SHAPES = {
    "o": "circle",
    "s": "square",
    "D": "diamond",
    "^": "triangle-up",
    "v": "triangle-down",
    "x": "M-.7,-.7L.7,.7M.7,-.7L-.7,.7",
}
LINE = "M-2.4,0L2.4,0"

#: Name of the parameter that holds the entry of the legend which was clicked.
CHOSEN = "chosen"

#: What a series that is not chosen in the legend fades to.
FADED = 0.08

#: How axes are labelled.
TICKS: dict[str, Any] = {"format": ".6~g", "labelOverlap": True}

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
    import altair as alt

    looks = table.attrs["looks"]
    colours = [look.colour for look in looks.values()]
    drawn = {name: [curve for curve in curves(table) if curve.panel == name] for name in table.attrs["panels"]}
    whole = alt.concat(
        *(_panel(table, *panel) for panel in drawn.items()), columns=min(columns, len(drawn)), spacing=18
    )
    whole = whole.properties(usermeta={"dark": [on_dark(colour) for colour in colours]}, background="transparent")
    whole = whole.add_params(alt.param(name="colours", value=colours))
    rows = {name: _rows(of_name, table) for name, of_name in drawn.items() if of_name}
    return {**whole.to_dict(), "datasets": rows}  # put in last: Altair copies and checks what it is given many times


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


def _panel(table: pd.DataFrame, panel: str, drawn: list[Curve]) -> alt.LayerChart | alt.FacetChart:
    import altair as alt

    said = table.attrs["panel_notes"].get(panel, "").splitlines()
    title = alt.TitleParams(wrap(panel, PANEL_SIZE[0] // 6), subtitle=said, anchor="start", fontSize=12)
    size = {"width": PANEL_SIZE[0], "height": PANEL_SIZE[1], "title": title}
    if not drawn:
        nothing = alt.Chart(alt.Data(values=[{}])).mark_text(text="nothing to draw: no finite value")
        return alt.layer(nothing).properties(**size)
    scales = {axis: _scale(table, panel, axis) for axis in "xy"}
    channels = _channels(table.attrs["looks"])
    label = {axis: of_panel(table, f"{axis}_label", panel) for axis in "xy"}
    x = alt.X("x:Q", title=label["x"], scale=alt.Scale(**scales["x"]), axis=_ticks(table, panel, scales["x"]))
    vertical: dict[str, Any] = {"title": label["y"], "scale": alt.Scale(**scales["y"]), "axis": alt.Axis(**TICKS)}
    y = {"y": alt.Y("y:Q", **vertical)}
    ends = {"y": alt.Y("low:Q", **vertical), "y2": alt.Y2("high:Q")}
    tooltip = [
        alt.Tooltip("series:N", title="series"),
        alt.Tooltip("at:N", title=label["x"]),
        alt.Tooltip("value:N", title=label["y"]),
    ]

    def layer(shows: str, mark: str, opacity: float, encoding: dict[str, Any], **options: Any) -> alt.Chart:
        shown = getattr(alt.Chart(alt.NamedData(name=panel)).transform_filter(f"datum.{shows}"), f"mark_{mark}")(
            **options
        )
        faded = alt.condition({"param": CHOSEN}, alt.value(opacity), alt.value(FADED * opacity))
        return shown.encode(x=x, color=channels["color"], opacity=faded, detail="line:N", **encoding)

    marked = {**y, "shape": channels["shape"]}
    layers = [
        layer("band", "area", 0.28, ends),
        layer("bar", "rule", 1, ends),
        layer("joined", "line", 1, {**y, "strokeDash": channels["strokeDash"]}, strokeWidth=1.6),
        layer("open", "point", 1, marked, filled=False, size=60),
        layer("full", "point", 1, marked, filled=True, size=40),
        layer("series", "point", 0, {**y, "tooltip": tooltip}, filled=True, size=160),
    ]
    if panel == table["panel"].iloc[0]:  # one choice for all panels; Vega asks the first layer about the legend
        layers[0] = layers[0].add_params(alt.selection_point(name=CHOSEN, fields=["series"], bind="legend"))
    return alt.layer(*layers).properties(**size)


def _channels(looks: dict[str, Look]) -> dict[str, Any]:
    """Colour, shape and dash by series, the same in all panels, with one legend."""
    import altair as alt

    ranges: dict[str, tuple[Any, list[Any]]] = {
        "color": (alt.Color, [{"expr": f"colours[{i}]"} for i in range(len(looks))]),
        "shape": (alt.Shape, [SHAPES.get(look.marker, LINE) for look in looks.values()]),
        "strokeDash": (alt.StrokeDash, [[3 * part for part in look.dash or ()] or [1, 0] for look in looks.values()]),
    }
    legend = alt.Legend(
        title=None, columns=1, orient="bottom", symbolOpacity=1, symbolStrokeWidth=1.6, symbolSize=80, labelOffset=12
    )
    return {
        name: kind("series:N", sort=None, legend=legend, scale=alt.Scale(domain=list(looks), range=values))
        for name, (kind, values) in ranges.items()
    }


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


def _ticks(table: pd.DataFrame, panel: str, scale: dict[str, Any]) -> alt.Axis:
    """A horizontal axis; named positions, and a few that are not evenly spaced, are labelled themselves."""
    import altair as alt

    names = {f"{x:g}": name for x, name in table.attrs["x_names"].items()}
    if names:
        return alt.Axis(values=list(table.attrs["x_names"]), labelExpr=f"({json.dumps(names)})[datum.label]", **TICKS)
    at = sorted({float(x) for x in table.loc[table["panel"] == panel, "x"]})
    if scale["type"] == "linear" or len(at) > MOST_TICKS:
        return alt.Axis(**TICKS)
    return alt.Axis(values=at, **TICKS)
