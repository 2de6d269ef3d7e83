"""The pictures of a study: labelled datasets in, matplotlib figures out.

They show the claim of Gerken & Kessel (2024), *Emergent Equivariance in Deep Ensembles*: members are not equivariant,
their mean is; the mean of m members deviates by a predicted amount that falls like m^(−1/2) (theory.md §3), down to
the orbit variance of the analytic mean μ_t. What cannot be drawn is said in the picture.

Which pictures a study has follows from the study file alone (figure_names), so that a workflow can plan them;
nothing heavy is imported for that.

style: colours and sizes. words: words and numbers. data: tidy tables. selection: which arms, and their numbers in the
metrics. panels: what pictures share. curves: pictures of the metrics. stores, mirror_toy, profile: pictures of predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..study.products import figure_names, is_classification
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
from .kernel_convergence import kernel_convergence, kernel_convergence_data
from .learning_curves import learning_curves, learning_curves_data
from .mirror_toy import mirror
from .profile import orbit_profile
from .selection import choose, study_choices
from .stores import ArmStores
from .style import style

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.figure import Figure

    from ..study import Arm, Study

__all__ = [
    "FIGURES",
    "ArmStores",
    "Picture",
    "draw_all",
    "figure_data",
    "figure_names",
    "figure_paths",
    "is_classification",
    "store_arms",
]


@dataclass(frozen=True)
class Picture:
    """One picture of the report.

    Attributes:
      draw: the function, called with (metrics) or (study, stores).
      needs: which of the two.
      title: a few words for the table of contents.
      caption: file under workflow/report/.
      data: the numbers that it draws, as a tidy table (figures.data), from (metrics).
    """

    draw: Callable[..., Figure]
    needs: Literal["metrics", "stores"]
    title: str
    caption: str
    data: Callable[[xr.Dataset], pd.DataFrame] | None = None


#: Every picture there is; which of them a study has says figure_names.
FIGURES: dict[str, Picture] = {
    "orbit_scaling": Picture(
        orbit_scaling, "metrics", "Orbit deviation against ensemble size", "orbit_scaling.rst", orbit_scaling_data
    ),
    "orbit_in_time": Picture(
        orbit_in_time, "metrics", "Orbit deviation against training time", "orbit_in_time.rst", orbit_in_time_data
    ),
    "measured_over_predicted": Picture(
        measured_over_predicted,
        "metrics",
        "Measured over predicted orbit variance",
        "measured_over_predicted.rst",
        measured_over_predicted_data,
    ),
    "distance_to_ntk": Picture(
        distance_to_ntk, "metrics", "Distance to the NTK mean", "distance_to_ntk.rst", distance_to_ntk_data
    ),
    "same_predictions": Picture(
        same_predictions, "metrics", "Orbit same predictions", "same_predictions.rst", same_predictions_data
    ),
    "mirror": Picture(mirror, "stores", "The mirror toy", "mirror.rst"),
    "orbit_profile": Picture(orbit_profile, "stores", "Predictions over an orbit", "orbit_profile.rst"),
    "learning_curves": Picture(
        learning_curves, "metrics", "Learning curves", "learning_curves.rst", learning_curves_data
    ),
    "kernel_convergence": Picture(
        kernel_convergence,
        "metrics",
        "Empirical against analytic kernels",
        "kernel_convergence.rst",
        kernel_convergence_data,
    ),
}


def figure_data(name: str, metrics: xr.Dataset) -> pd.DataFrame:
    """What the picture NAME draws, as a tidy table (figures.data): its CSV file and its interactive chart.

    Raises KeyError if there is no such picture.
    """
    data = FIGURES[name].data
    assert data is not None  # every picture has its table once those of predictions have theirs
    return data(metrics)


def store_arms(study: Study) -> list[Arm]:
    """The arms whose stores pictures and words need: control and main arm, and one for each other data or theory.

    None in studies of kernels, whose pictures are drawn from the metrics alone.
    """
    if study.kind != "ensemble":
        return []
    chosen = choose(study_choices(study))
    arms = [study.arm(choice.key) for choice in chosen.pair]
    known = {(arm.data_key, arm.theory_key) for arm in arms}
    for arm in study.arms:
        if (arm.data_key, arm.theory_key) not in known:
            known.add((arm.data_key, arm.theory_key))
            arms.append(arm)
    return arms


def figure_paths(study: Study, folder: Path) -> list[Path]:
    """Files that draw_all writes, SVG and PNG of each picture."""
    return [folder / f"{name}.{suffix}" for name in figure_names(study) for suffix in ("svg", "png")]


def draw_all(study: Study, metrics: xr.Dataset, stores: Mapping[str, ArmStores], folder: Path) -> list[Path]:
    """Draw every picture the study has, as SVG and PNG; the same input gives the same bytes.

    Each file is complete once it is there. Pictures that the study no longer has are removed from the folder.

    Args:
      metrics: the study's metrics.nc.
      stores: stores by arm path, at least for the arms of store_arms(study).
      folder: where the files go; made if it is missing.

    Returns the files written.
    """
    names = figure_names(study)
    for name in names:
        picture = FIGURES[name]
        figure = picture.draw(metrics) if picture.needs == "metrics" else picture.draw(study, stores)
        save(figure, folder / name, f"metrics.nc {metrics.attrs.get('checksum', '')}")
    for name in set(FIGURES) - set(names):
        for suffix in ("svg", "png"):
            (folder / f"{name}.{suffix}").unlink(missing_ok=True)
    return figure_paths(study, folder)


#: Attributes that would put dates or versions into a picture.
_METADATA: dict[str, dict[str, None]] = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}


def save(figure: Figure, stem: Path, source: str) -> None:
    """Write STEM.svg and STEM.png, each at once, without dates or versions in them, and with what they are drawn from.

    Raises StoreError if the disk is full or not writable.
    """
    from ..pages import sealed
    from ..store import atomic_path

    for suffix, metadata in _METADATA.items():
        with style(), atomic_path(stem.with_name(f"{stem.name}.{suffix}")) as temporary:
            figure.savefig(temporary, format=suffix, metadata={**metadata, "Source": source})
            if suffix == "svg":  # every chunk of a PNG has a checksum
                temporary.write_bytes(sealed(temporary.read_bytes()))
