"""What a complete study consists of, from the study file alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .arms import Arm
from .layout import Study

__all__ = ["FIGURE_FORMATS", "PICTURES", "figure_names", "final_products", "is_classification", "products"]


def is_classification(arm: Arm) -> bool:
    """Whether the settings alone say that an arm classifies: by its task, or by its loss."""
    return (
        arm.settings.task.name in ("digits", "fashion_mnist", "path_mnist")
        or arm.settings.training.loss == "cross_entropy"
    )


def _always(_: Study) -> bool:
    return True


#: Kind of study → name of a picture → whether a study of the kind has it. How they are drawn: figures.FIGURES.
PICTURES: dict[str, dict[str, Callable[[Study], bool]]] = {
    "ensemble": {
        "orbit_scaling": _always,
        "orbit_in_time": _always,
        "measured_over_predicted": lambda study: any(arm.settings.has_covariance for arm in study.arms),
        "distance_to_ntk": lambda study: any(arm.settings.has_mean for arm in study.arms),
        "same_predictions": lambda study: any(is_classification(arm) for arm in study.arms),
        "mirror": lambda study: all(a.settings.task.name == "cosine" and a.settings.group == "c2" for a in study.arms),
        "orbit_profile": _always,
    },
    "kernel_regression": {"learning_curves": _always},
    "kernel_convergence": {"kernel_convergence": _always},
}


#: Files of each picture: for screens, for print, and its numbers.
FIGURE_FORMATS = ("svg", "png", "pdf", "csv")


def figure_names(study: Study) -> list[str]:
    """Names of the pictures a study has."""
    return [name for name, applies in PICTURES[study.kind].items() if applies(study)]


def final_products(study: Study) -> list[Path]:
    """What is made of all arms together: metrics, the folder of tables, report and pictures."""
    pictures = [f"{name}.{kind}" for name in figure_names(study) for kind in FIGURE_FORMATS]
    tables = study.table_path("any").parent
    return [study.metrics_path, tables, study.report_path, *(study.figures_folder / name for name in pictures)]


def products(study: Study) -> list[Path]:
    """All that a complete study consists of: the shards that its ensembles need, results of the arms, final products.

    What these are made from (data, kernels, theory, choice of the engine) may be gone.
    """
    trained = study.arms if study.kind == "ensemble" else []
    shards = [study.shard_path(arm, *shard) for arm in trained for shard in study.needed_shards(arm)]
    return [*shards, *(study.result_path(arm) for arm in study.arms), *final_products(study)]
