"""The tidy table of a picture, its matplotlib picture and its interactive chart hold the same numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from synthetic_results import classification_study, cosine_study, make_metrics, make_study

from emergent_equivariance.figures import FIGURES, figure_data, interactive
from emergent_equivariance.figures.data import COLUMNS, ROLES, Rows, alt_text, curves, of_panel
from emergent_equivariance.figures.interactive import chart
from emergent_equivariance.figures.kernel_convergence import MARKERS as OF_CURVES
from emergent_equivariance.figures.learning_curves import MARKERS as OF_KERNELS
from emergent_equivariance.figures.style import COLOURS, SUBSET_MARKERS, Look
from emergent_equivariance.figures.words import number
from emergent_equivariance.fits import Series

FULL, NONE = "width~256/augmentation~full", "width~256/augmentation~none"
NAMES = ["orbit_scaling", "orbit_in_time", "measured_over_predicted", "distance_to_ntk", "same_predictions"]


@pytest.fixture(scope="module")
def tables():
    """Name → (metrics, table)."""
    metrics, classes = make_metrics(make_study(), diverged=2), make_metrics(classification_study())
    source = {name: classes if name == "same_predictions" else metrics for name in NAMES}
    return {name: (source[name], figure_data(name, source[name])) for name in NAMES}


def drawn(ax):
    """Label → (x, y, half lengths of error bars or of the band) of what a panel shows, broken lines put together."""
    found, bands = {}, {}
    for collection in ax.collections:
        label = str(collection.get_label())
        if not label.startswith("_") and collection.get_paths():
            path = collection.get_paths()[0].vertices
            bands[label] = (path[:, 1].min(), path[:, 1].max())
    for line in ax.lines:
        found[str(line.get_label())] = (*line.get_data(), None)
    for bar in ax.containers:
        segments = bar.lines[2][0].get_segments()
        found[str(bar.get_label())] = (*bar.lines[0].get_data(), [(s[0, 1], s[1, 1]) for s in segments])
    return found, bands


@pytest.mark.parametrize("name", NAMES)
def test_matplotlib_draws_the_numbers_of_the_table(tables, name):
    metrics, table = tables[name]
    figure = FIGURES[name].draw(metrics)
    panels = dict(zip(table.attrs["panels"], figure.axes, strict=True))
    seen = 0
    for curve in curves(table):
        found, bands = drawn(panels[curve.panel])
        if curve.look.band:
            assert bands[curve.series] == pytest.approx((curve.low.min(), curve.high.max()))
            seen += 1
            continue
        x, y, bars = found[curve.series]
        np.testing.assert_array_equal(x, curve.x)
        np.testing.assert_array_equal(y, curve.y)
        if np.isfinite(curve.low).any():
            known = np.isfinite(curve.low)
            np.testing.assert_allclose(np.array(bars)[known], np.c_[curve.low, curve.high][known])
        seen += 1
    assert seen == table.groupby(["panel", "series"]).ngroups > 5
    for panel, ax in panels.items():
        scales = [of_panel(table, f"{axis}_scale", panel) for axis in "xy"]
        assert [ax.get_xscale(), ax.get_yscale()] == scales


@pytest.mark.parametrize("name", ["orbit_scaling", "same_predictions"])
def test_the_chart_shows_the_numbers_of_the_table(tables, name):
    _, table = tables[name]
    spec = chart(table)
    rows = [row for values in spec["datasets"].values() for row in values]
    assert len(rows) == len(table)
    keys = table.sort_values(["series", "x", "y"], kind="stable")
    rows.sort(key=lambda row: (row["series"], row["x"], row["y"]))
    assert [row["series"] for row in rows] == list(keys["series"])
    for axis in "xy":
        np.testing.assert_allclose([row[axis] for row in rows], keys[axis], rtol=1e-6)
    high = np.array([row.get("high", np.nan) for row in rows])
    np.testing.assert_allclose(high, keys["high"], rtol=1e-6)
    assert {row["series"] for row in rows} == set(spec_domain(spec))
    text = json.dumps(spec)
    assert "http" not in text.replace(spec["$schema"], "") and spec["background"] == "transparent"


def test_charts_are_vega_lite(tables):
    altair, jsonschema = pytest.importorskip("altair"), pytest.importorskip("jsonschema")
    validator = jsonschema.Draft7Validator(altair.load_schema())
    empty = Rows().table(panels=["a"], title="empty", x_label="x", y_label="y")
    for table in (empty, *(tables[name][1] for name in ("orbit_scaling", "same_predictions"))):
        spec = chart(table)
        assert validator.is_valid(spec)
        assert not validator.is_valid({**spec, "concat": [{**panel, "layer": None} for panel in spec["concat"]]})


def spec_domain(spec):
    """The series in the legend of a chart."""
    return spec["concat"][0]["layer"][0]["encoding"]["color"]["scale"]["domain"]


def test_tables_have_the_columns_roles_and_texts_that_others_rely_on(tables):
    for metrics, table in tables.values():
        assert tuple(table.columns) == COLUMNS and set(table["role"]) <= set(ROLES)
        assert table[["x", "y"]].notna().all().all() and set(table["series"]) == set(table.attrs["looks"])
        assert (table["low"].isna() | (table["low"] <= table["y"])).all()
        assert (table["high"].isna() | (table["high"] >= table["y"])).all()
        assert table.attrs["title"].startswith("synthetic") and metrics.attrs["study"] == "synthetic"
        texts = [table.attrs["title"], *table["series"], *table.attrs["panels"], *table.attrs["notes"]]
        texts += [of_panel(table, f"{axis}_label", p) for p in table.attrs["panels"] for axis in "xy"]
        assert not any("$" in text or "\\" in text for text in texts), "TeX is for matplotlib only"


def test_orbit_scaling_holds_measured_predicted_and_control(tables):
    metrics, table = tables["orbit_scaling"]
    here = metrics.sel(split="test", step=300)
    rows = table[table["panel"] == "test inputs"].set_index("series")
    for arm, kind, role in ((FULL, "full augmentation", "ensemble"), (NONE, "no augmentation", "control")):
        points = rows.loc[f"ensemble mean, {kind}"]
        value, error = (here[key].sel(arm=arm).values for key in ("orbit_variance", "orbit_variance_se"))
        assert set(points["role"]) == {role}
        np.testing.assert_allclose(points["y"], np.sqrt(value))
        np.testing.assert_allclose((points["high"] - points["low"]) / 2, error / (2 * np.sqrt(value)))
        predicted = rows.loc[f"predicted (no fit), {kind}"]
        assert set(predicted["role"]) == {"theory"} and predicted["low"].isna().all()
        np.testing.assert_allclose(predicted["y"], np.sqrt(here["predicted_orbit_variance"].sel(arm=arm)))
    slope = number(
        *(metrics[f"orbit_slope{s}"].sel(arm=FULL, split="test", step=300).item() for s in ("", "_se")), compact=True
    )
    assert f"slope {slope}" in table.attrs["panel_notes"]["test inputs"]


def test_bars_and_bands_of_a_chart_stop_at_the_end_of_a_log_axis():
    rows = Rows()
    look = Look("#0072B2", "o")
    rows.points("panel", "wide errors", "ensemble", look, Series(np.array([1.0, 2.0]), np.ones(2), np.full(2, 3.0)))
    table = rows.table(panels=["panel"], title="t", x_label="m", y_label="v", y_scale="log")
    spec = chart(table)
    (values,) = spec["datasets"].values()
    assert list(table["low"]) == [-2.0, -2.0] and all(0 < row["low"] < 1 for row in values)


@pytest.mark.parametrize("name", ["orbit_scaling", "orbit_in_time", "measured_over_predicted"])
def test_logarithmic_axes_of_charts_are_labelled_with_round_numbers(tables, name):
    axis = chart(tables[name][1])["concat"][0]["layer"][0]["encoding"]["y"]
    low, high = axis["scale"]["domain"]
    labels = axis["axis"]["values"]
    assert axis["scale"]["type"] == "log" and 3 <= len(labels) <= 9
    assert all(low <= value <= high for value in labels)
    if high / low > 10:
        assert {float(f"{value:e}".partition("e")[0]) for value in labels} <= {1, 2, 5}


def test_charts_know_the_markers_of_pictures():
    markers = {*OF_CURVES, *OF_KERNELS, *SUBSET_MARKERS, *"osDxh"}
    assert markers <= set(interactive.SHAPES)


def test_long_entries_of_the_legend_are_broken_at_a_comma(tables):
    vl_convert = pytest.importorskip("vl_convert")
    table = tables["orbit_in_time"][1]
    longest = max(table["series"], key=len)
    assert len(longest) > 42 and ", " in longest
    svg = vl_convert.vegalite_to_svg(json.dumps(chart(table)))
    assert f">{longest}<" not in svg and f">{longest.rpartition(', ')[2]}<" in svg


def test_a_table_without_numbers_says_so():
    table = Rows().table(panels=["a", "b"], title="empty study", x_label="x", y_label="y", x_scale="log")
    assert len(table) == 0 and list(curves(table)) == []
    assert "nothing to draw" in alt_text(table) and "nothing to draw" in json.dumps(chart(table))
    metrics = make_metrics(make_study())
    gone = metrics.where(metrics["network_width"] < 0).assign_attrs(metrics.attrs)
    assert len(chart(figure_data("orbit_scaling", gone))["concat"]) == 3


def test_rows_refuse_a_role_that_has_no_meaning():
    with pytest.raises(ValueError, match=r"role 'guide' of 's' is none of member, ensemble"):
        Rows().add("p", "s", "guide", Look("#000000"), 1, 1)


def test_rows_leave_out_what_is_not_finite():
    rows = Rows()
    rows.add("p", "s", "theory", Look("#000000"), [1, 2, 3], [1.0, np.nan, np.inf])
    rows.add("p", "empty", "theory", Look("#000000"), [1.0], [np.nan])
    table = rows.table(panels=["p"], title="t", x_label="x", y_label="y")
    assert list(table["x"]) == [1.0] and list(table.attrs["looks"]) == ["s"]


def test_alt_text_says_axes_series_and_last_values(tables):
    _, table = tables["orbit_scaling"]
    text = alt_text(table)
    (last,) = [c for c in curves(table) if c.panel == "test inputs" and c.series == "ensemble mean, full augmentation"]
    value = number(last.y[-1], last.high[-1] - last.y[-1])
    assert f"ensemble mean, full augmentation: {value} at 254" in text
    assert "orbit deviation of total energy against ensemble size m (members)" in text


def test_colours_mean_the_same_in_all_pictures(tables):
    by_role = {"member": COLOURS["member"], "control": COLOURS["none"], "theory": COLOURS["theory"]}
    for name in ("orbit_scaling", "orbit_in_time", "same_predictions"):
        for curve in curves(tables[name][1]):
            if curve.role == "ensemble":
                assert curve.look.colour == COLOURS["full"]
            elif "min…max, no augmentation" not in curve.series:  # the members of the control are tinted like it
                assert curve.look.colour == by_role[curve.role], (name, curve.series)


def test_one_width_has_one_panel_per_split():
    table = figure_data("distance_to_ntk", make_metrics(cosine_study()))
    assert len(table.attrs["panels"]) == 3 and any("one width only" in note for note in table.attrs["notes"])
