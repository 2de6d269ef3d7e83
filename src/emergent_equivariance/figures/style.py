"""Colours, sizes and matplotlib settings of all pictures.

Grey is a single member, blue the mean of an ensemble trained with full augmentation, vermillion the control without
augmentation, black broken lines are theory without a fitted parameter. Orange is a mirror image, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Colours of constant meaning, told apart with any colour vision (after Okabe & Ito 2008).
COLOURS = {
    "member": "#999999",
    "full": "#0072B2",
    "none": "#D55E00",
    "random": "#009E73",
    "subset": "#56B4E9",
    "theory": "#000000",
    "mirror": "#E69F00",
    "guide": "#a0a0a0",
    "outside": "#f2efe6",
}


class Look(NamedTuple):
    """How a series is drawn, in matplotlib and in interactive charts alike.

    Attributes:
      colour: as #rrggbb.
      marker: a marker of matplotlib; empty: no markers.
      dash: lengths of dashes and gaps in line widths; () is a solid line, None no line.
      band: whether low…high is a band; else it is error bars.
      width: of the line, in points.
      size: of the markers, in points.
      hollow: whether markers are open.
      opacity: of the band.
      order: what is drawn later has more; 1 is the background.
    """

    colour: str
    marker: str = ""
    dash: tuple[float, ...] | None = ()
    band: bool = False
    width: float = 1.1
    size: float = 4.0
    hollow: bool = False
    opacity: float = 0.28
    order: float = 3


#: Markers of ensembles augmented with a subset, first all filled, then all hollow; and dashes of their theory.
SUBSET_MARKERS = "^v<>p"
SUBSET_DASHES = ((2, 1), (3, 1, 1, 1, 1, 1), (1, 2.4), (6, 1.5), (2, 3))

#: Widths of a picture in inches, as it is printed: across a journal's page and in one of its columns.
PAGE, COLUMN = 7.1, 3.4

#: Greatest width and height of one panel in inches, and the least width.
PANEL, NARROWEST = (3.4, 2.2), 1.75

#: matplotlib settings of all pictures; the salt makes the identifiers in an SVG reproducible.
RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 7.5,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 6.8,
    "ytick.labelsize": 6.8,
    "legend.fontsize": 6.8,
    "legend.title_fontsize": 6.8,
    "figure.titlesize": 8,
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
    "pdf.fonttype": 42,
}

#: Size of text in panels, in points.
TEXT_SIZE = 6.8


@contextmanager
def style(width: float = PAGE):
    """Within this context matplotlib draws in the style of all pictures, of this width in inches."""
    import matplotlib

    with matplotlib.rc_context({**RC, "figure.figsize": (width, PANEL[1])}):
        yield


def styled(function: Callable[..., Figure]) -> Callable[..., Figure]:
    """A picture drawn in the style of all pictures; ``width=COLUMN`` makes it one that is printed in a column."""

    @wraps(function)
    def drawn(*arguments: Any, width: float = PAGE, **options: Any) -> Figure:
        with style(width):
            return function(*arguments, **options)

    return drawn


def colour(augmentation: str) -> str:
    """Colour of an ensemble by its augmentation: "none", "full", "subset-K" or "random"."""
    return COLOURS["subset" if augmentation.startswith("subset") else augmentation]


def luminance(channels: np.ndarray) -> float:
    """Relative luminance (0…1) of an sRGB colour, channels 0…1 (WCAG 2)."""
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def member_look(**changes: Any) -> Look:
    """How single members are drawn together: a grey band about their mean."""
    return Look(COLOURS["member"], width=0.8, band=True, order=2)._replace(**changes)


def ensemble_look(
    augmentation: str, *, rank: int = 0, size: float = 4.0, dash: tuple[float, ...] | None = None
) -> Look:
    """How an ensemble mean is drawn; the marker of random augmentation shows around a point of full augmentation.

    Args:
      rank: among the ensembles in the picture that are augmented with subsets, which have triangles and the like.
    """
    marker, hollow = {"random": ("D", True), "none": ("s", False)}.get(augmentation, ("o", False))
    if augmentation.startswith("subset"):
        marker, hollow = SUBSET_MARKERS[rank % len(SUBSET_MARKERS)], rank // len(SUBSET_MARKERS) % 2 == 1
    size = size * (1.7 if augmentation == "random" else 1)
    return Look(colour(augmentation), marker, dash, size=size, hollow=hollow, order=5)


def theory_look(augmentation: str = "full", *, rank: int = 0, **changes: Any) -> Look:
    """How theory for an ensemble is drawn: black, with dashes that tell the augmentations apart; rank as above."""
    dashes = {"full": (3.7, 1.6), "none": (4, 1.5, 1, 1.5), "random": (1, 1.2)}
    dash = dashes.get(augmentation) or SUBSET_DASHES[rank % len(SUBSET_DASHES)]
    return Look(COLOURS["theory"], dash=dash, order=4)._replace(**changes)


def shades(number: int, colour_map: str = "viridis") -> list[str]:
    """Ordered colours (#rrggbb), dark to bright, for an ordered quantity: widths, and times ("plasma")."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps[colour_map](x)) for x in np.linspace(0.0, 0.82, max(number, 2))[:number]]
