"""The pictures of a study: labelled datasets in, matplotlib figures out.

They show the claim of Gerken & Kessel (2024), *Emergent Equivariance in Deep Ensembles*: members are not equivariant,
their mean is; the mean of m members deviates by a predicted amount that falls like m^(−1/2) (theory.md §3), down to
the orbit variance of the analytic mean μ_t. What cannot be drawn is said in the picture.

Which pictures a study has follows from the study file alone (figure_names), so that a workflow can plan them;
nothing heavy is imported for that.

style: colours and sizes. words: words and numbers. data: tidy tables. selection: which arms, and their numbers in the
metrics. panels: what pictures share. curves: pictures of the metrics. predictions, mirror_toy, profile: pictures of
predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..study.products import FIGURE_FORMATS, figure_names, is_classification
from .curves import (
    distance_to_ntk,
    distance_to_ntk_data,
    measured_over_predicted,
    measured_over_predicted_data,
    orbit_in_time,
    orbit_in_time_data,
    orbit_scaling,
    orbit_scaling_data,
    same_predictions,
    same_predictions_data,
)
from .data import csv_text
from .kernel_convergence import kernel_convergence, kernel_convergence_data
from .learning_curves import learning_curves, learning_curves_data
from .mirror_toy import mirror, mirror_data
from .profile import orbit_profile, orbit_profile_data
from .style import COLUMN, PAGE, style

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.figure import Figure

    from ..study import Study

__all__ = [
    "FIGURES",
    "FIGURE_FORMATS",
    "Picture",
    "draw_all",
    "figure_data",
    "figure_names",
    "figure_paths",
    "is_classification",
]


@dataclass(frozen=True)
class Picture:
    """One picture of the report.

    Attributes:
      draw: the function that draws it, from metrics.nc; ``width`` is that of a page or of a column (figures.style).
      data: the numbers that it draws, as a tidy table (figures.data), from metrics.nc.
      title: a few words for the table of contents.
      caption: file under report/captions/.
    """

    draw: Callable[..., Figure]
    data: Callable[[xr.Dataset], pd.DataFrame]
    title: str
    caption: str


#: The picture on a screen is as wide as a page; the one for print as a journal's column.
FORMATS_OF_WIDTH = {PAGE: ("svg", "png"), COLUMN: ("pdf",)}

#: Every picture there is; which of them a study has says figure_names.
FIGURES: dict[str, Picture] = {
    "orbit_scaling": Picture(
        orbit_scaling, orbit_scaling_data, "Orbit deviation against ensemble size", "orbit_scaling.rst"
    ),
    "orbit_in_time": Picture(
        orbit_in_time, orbit_in_time_data, "Orbit deviation against training time", "orbit_in_time.rst"
    ),
    "measured_over_predicted": Picture(
        measured_over_predicted,
        measured_over_predicted_data,
        "Measured over predicted orbit variance",
        "measured_over_predicted.rst",
    ),
    "distance_to_ntk": Picture(
        distance_to_ntk, distance_to_ntk_data, "Distance to the NTK mean", "distance_to_ntk.rst"
    ),
    "same_predictions": Picture(
        same_predictions, same_predictions_data, "Orbit same predictions", "same_predictions.rst"
    ),
    "mirror": Picture(mirror, mirror_data, "The mirror toy", "mirror.rst"),
    "orbit_profile": Picture(orbit_profile, orbit_profile_data, "Predictions over an orbit", "orbit_profile.rst"),
    "learning_curves": Picture(learning_curves, learning_curves_data, "Learning curves", "learning_curves.rst"),
    "kernel_convergence": Picture(
        kernel_convergence, kernel_convergence_data, "Empirical against analytic kernels", "kernel_convergence.rst"
    ),
}


def figure_data(name: str, metrics: xr.Dataset) -> pd.DataFrame:
    """What the picture NAME draws, as a tidy table (figures.data): its CSV file and its interactive chart.

    Raises KeyError if there is no such picture.
    """
    return FIGURES[name].data(metrics)


def figure_paths(study: Study, folder: Path) -> list[Path]:
    """Files that draw_all writes: each picture in every format of FIGURE_FORMATS."""
    return [folder / f"{name}.{suffix}" for name in figure_names(study) for suffix in FIGURE_FORMATS]


def draw_all(study: Study, metrics: xr.Dataset, folder: Path) -> list[Path]:
    """Draw every picture the study has, in every format of FIGURE_FORMATS; the same input gives the same bytes.

    SVG and PNG are as wide as a page; PDF, for print, as a column.

    Each file is complete once it is there. Pictures that the study no longer has are removed from the folder.

    Args:
      metrics: the study's metrics.nc.
      folder: where the files go; made if it is missing.

    Returns the files written. Raises StoreError if the disk is full or not writable.
    """
    names = figure_names(study)
    for name in names:
        source = f"metrics.nc {metrics.attrs.get('checksum', '')}"
        for width, formats in FORMATS_OF_WIDTH.items():
            save(FIGURES[name].draw(metrics, width=width), folder / name, source, formats)
        save_table(figure_data(name, metrics), folder / f"{name}.csv", source)
    for name in set(FIGURES) - set(names):
        for suffix in FIGURE_FORMATS:
            (folder / f"{name}.{suffix}").unlink(missing_ok=True)
    return figure_paths(study, folder)


def save(figure: Figure, stem: Path, source: str, formats: Sequence[str]) -> None:
    """Write STEM.FORMAT in each of the formats (svg, png, pdf), each at once, without dates or versions in them.

    Args:
      source: what the picture is drawn from; each file says it.

    Raises StoreError if the disk is full or not writable.
    """
    from ..pages import UNSEALED, sealed
    from ..store import atomic_path

    metadata: dict[str, dict[str, str | None]] = {
        "svg": {"Date": None, "Creator": None, "Source": source},
        "png": {"Software": None, "Source": source},
        # The positions of all objects stand at the end of a PDF: the seal takes the place of as many letters.
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None, "Subject": source + UNSEALED},
    }
    with style():
        figure.draw_without_rendering()
        figure.set_layout_engine(None)  # one layout for all formats; the engine "none" would draw once more for each
    for suffix in formats:
        with style(), atomic_path(stem.with_name(f"{stem.name}.{suffix}")) as temporary:
            figure.savefig(temporary, format=suffix, metadata=metadata[suffix])
            if suffix != "png":  # every chunk of a PNG has a checksum
                temporary.write_bytes(sealed(temporary.read_bytes()))


def save_table(table: pd.DataFrame, path: Path, source: str) -> None:
    """Write the numbers of a picture as CSV, below lines that start with # and say what they are and come from.

    Raises StoreError if the disk is full or not writable.
    """
    from ..pages import sealed
    from ..store import atomic_path

    with atomic_path(path) as temporary:
        temporary.write_bytes(sealed(csv_text(table, source).encode()))
