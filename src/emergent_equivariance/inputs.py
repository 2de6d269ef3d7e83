"""What the jobs of a study read: its data, kernels and learning rates, or what to run first."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from .errors import StoreError
from .study import Arm, Study

if TYPE_CHECKING:
    import xarray as xr

    from .tasks import TaskData


def read_data(study: Study, arm: Arm) -> TaskData:
    """The data of an arm. Raises StoreError if they are missing or damaged."""
    from . import store

    path = study.data_path(arm)
    if not path.is_file():
        raise StoreError(f"{path}: does not exist.", remedy=f"Run `emeq data {study.file} --key {arm.data_key}` first.")
    return store.task_from_dataset(store.read(path))


def read_kernels(study: Study, arm: Arm) -> xr.Dataset | None:
    """The kernels computed in tiles, where the arm's are."""
    from .study.tiling import planned_tiling

    if planned_tiling(arm.settings) is None:
        return None
    from .kernel_store import read

    return read(study, arm)


def read_learning_rate(study: Study, arm: Arm) -> float:
    """The step size of an arm, from the file where it is resolved. Raises StoreError if that is missing or damaged."""
    rate = arm.settings.training.learning_rate
    if isinstance(rate, float):
        return rate
    path = study.learning_rate_path(arm)
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))["learning_rate"])
    except FileNotFoundError:
        raise StoreError(
            f"{path}: does not exist.",
            remedy=f"Run `emeq learning-rate {study.file} --key {arm.learning_rate_key}` first.",
        ) from None
    except (ValueError, KeyError):
        raise StoreError(f"{path}: is damaged.", remedy="Delete it and run the study again.") from None
