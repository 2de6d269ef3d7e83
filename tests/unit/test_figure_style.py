"""Pictures are told apart with any colour vision, and read at the size at which they are printed."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from synthetic_results import classification_study, cosine_study, make_metrics, make_study, make_whole

from emergent_equivariance import figures
from emergent_equivariance.figures.interactive import chart_config, on_dark

STYLE = sys.modules["emergent_equivariance.figures.style"]

#: Linear sRGB as it is seen without one kind of cones (Machado, Oliveira & Fernandes 2009, severity 1).
VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}


def seen(colour, vision):
    """CIELAB (L, a, b) of a colour (#rrggbb) as it is seen."""
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.asarray(VISION[vision]) @ linear, 0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(to_xyz) @ linear / [0.9505, 1.0, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def distance(one, other, vision):
    return np.linalg.norm(seen(one, vision) - seen(other, vision))


@pytest.mark.parametrize("vision", list(VISION))
@pytest.mark.parametrize("page", ["bright", "dark"])
def test_colours_of_different_meaning_differ_with_any_colour_vision(vision, page):
    """A difference of 2.3 is just noticeable; 10 is told apart at a glance."""
    meanings = ("member", "full", "none", "random", "subset", "theory", "mirror")
    colours = {name: STYLE.COLOURS[name] for name in meanings}
    if page == "dark":
        colours = {name: on_dark(colour) for name, colour in colours.items()}
    for one, other in itertools.combinations(meanings, 2):
        assert distance(colours[one], colours[other], vision) > 10, (one, other)


@pytest.mark.parametrize("vision", list(VISION))
@pytest.mark.parametrize("colour_map", ["viridis", "plasma"])
def test_neighbouring_shades_differ(vision, colour_map):
    for number in (2, 3, 4):
        shades = STYLE.shades(number, colour_map)
        assert all(distance(a, b, vision) > 10 for a, b in itertools.combinations(shades, 2)), number


def test_the_measure_of_distance_knows_a_pair_that_is_confused():
    """Red and green of the same lightness, which a colour-blind safe style avoids."""
    assert distance("#d62728", "#2ca02c", "normal") > 100
    assert distance("#d62728", "#2ca02c", "deuteranopia") < 10


def test_colours_are_seen_on_a_dark_page():
    dark = STYLE.luminance(np.full(3, 0x12 / 255))
    for colour in [*STYLE.COLOURS.values(), *STYLE.shades(4), *STYLE.shades(4, "plasma")]:
        channels = np.array([int(on_dark(colour)[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        assert (STYLE.luminance(channels) + 0.05) / (dark + 0.05) > 4.5, colour
    ink = chart_config(True)["axis"]["labelColor"], chart_config(False)["axis"]["labelColor"]
    assert ink[0] > "#c" and ink[1] < "#4"


def texts_of(figure):
    found = [text for ax in figure.axes for text in (*ax.texts, ax.title, ax.xaxis.label, ax.yaxis.label)]
    found += [text for ax in figure.axes for text in _ticks_in_view(ax)]
    found += [text for legend in figure.legends for text in legend.get_texts()]
    return [t for t in [*found, figure._suptitle] if t is not None and t.get_text() and t.get_visible()]


@pytest.mark.parametrize("width", [STYLE.PAGE, STYLE.COLUMN])
@pytest.mark.parametrize(
    "name",
    [
        "orbit_scaling",
        "orbit_in_time",
        "measured_over_predicted",
        "distance_to_ntk",
        "same_predictions",
        "orbit_profile",
        "mirror",
    ],
)
def test_pictures_are_read_at_the_size_at_which_they_are_printed(name, width):
    """No text is smaller than 6 points, leaves the picture or covers another one; the legend covers no panel."""
    make = {"same_predictions": classification_study, "mirror": cosine_study}.get(name, make_study)
    study = make()
    metrics = make_whole(study) if name in ("orbit_profile", "mirror") else make_metrics(study)
    figure = figures.FIGURES[name].draw(metrics, width=width)
    with STYLE.style(width):
        FigureCanvasAgg(figure).draw()
    assert figure.get_figwidth() <= width and figure.get_figheight() < 9
    texts = texts_of(figure)
    assert min(text.get_fontsize() for text in texts) >= 6
    page = figure.bbox.expanded(1.01, 1.01)
    boxes = {id(text): text.get_window_extent() for text in texts}
    for text in texts:
        box = boxes[id(text)]
        assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1, text.get_text()
    for one, other in itertools.combinations(texts, 2):
        assert not _overlap(boxes[id(one)], boxes[id(other)]), (one.get_text(), other.get_text())
    for legend in figure.legends:
        assert not any(_overlap(legend.get_window_extent(), ax.bbox) for ax in figure.axes)


def _ticks_in_view(ax):
    found = []
    for axis, place in ((ax.xaxis, 0), (ax.yaxis, 1)):
        low, high = sorted(axis.get_view_interval())
        found += [t for t in axis.get_ticklabels(which="both") if low <= t.get_position()[place] <= high]
    return found


def _overlap(one, other):
    """Whether two boxes share more than a pixel in both directions."""
    return min(one.x1, other.x1) - max(one.x0, other.x0) > 1 and min(one.y1, other.y1) - max(one.y0, other.y0) > 1
