"""Colours, sizes and matplotlib settings of all pictures.

Grey is a single member, blue the mean of an ensemble trained with full augmentation, vermillion the control without
augmentation, black broken lines are theory without a fitted parameter. Orange is a mirror image, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
    "outside": "#f2efe6",
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
    "legend.title_fontsize": 7.5,
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


def styled(function: Callable[..., Figure]) -> Callable[..., Figure]:
    """A picture drawn in the style of all pictures."""

    @wraps(function)
    def drawn(*arguments: Any, **options: Any) -> Figure:
        with style():
            return function(*arguments, **options)

    return drawn


def colour(augmentation: str) -> str:
    """Colour of an ensemble by its augmentation: "none", "full", "subset-K" or "random"."""
    return COLOURS["subset" if augmentation.startswith("subset") else augmentation]


def marker(augmentation: str, size: float = 4.0) -> dict[str, Any]:
    """Marker of an ensemble by its augmentation; that of random shows around a point of full in the same place."""
    if augmentation == "random":
        return {"marker": "D", "ms": 1.7 * size, "mfc": "none", "mew": 0.9}
    return {"marker": "s" if augmentation == "none" else "o", "ms": size}


def dashes(augmentation: str) -> Any:
    """Line style of the prediction for an ensemble by its augmentation."""
    return {"full": "--", "none": (0, (4, 1.5, 1, 1.5)), "random": (0, (1, 1.2))}.get(augmentation, (0, (7, 2)))


def shades(number: int, colour_map: str) -> list[Any]:
    """Ordered colours, dark to bright, for an ordered quantity."""
    from matplotlib import colormaps

    return [colormaps[colour_map](x) for x in np.linspace(0.0, 0.82, max(number, 2))[:number]]
