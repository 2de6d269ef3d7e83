"""What the jobs of a study read: its data, kernels and learning rates, or what to run first."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import StoreError
from .study import Arm, Study

if TYPE_CHECKING:
    import xarray as xr

    from .tasks import TaskData


def read_data(study: Study, arm: Arm) -> TaskData:
    """The data of an arm. Raises StoreError if they are missing or damaged."""
    from . import store

    return store.task_from_dataset(read_data_store(study, arm))


def read_data_store(study: Study, arm: Arm) -> xr.Dataset:
    """The data store of an arm, opened but not loaded. Raises StoreError if it is missing, damaged or another's."""
    from . import store

    path = study.data_path(arm)
    if not path.is_file():
        raise StoreError(f"{path}: does not exist.", remedy=f"Run `emeq data {study.file} --key {arm.data_key}` first.")
    return _of_key(store.read(path), path, "data_key", arm.data_key)


def read_theory(study: Study, arm: Arm) -> xr.Dataset | None:
    """The analytic solution of an arm, opened but not loaded; None where it has no analytic mean.

    Raises StoreError if it is missing, damaged or another's.
    """
    from . import store

    if not arm.settings.has_mean:
        return None
    path = study.theory_path(arm)
    return _of_key(store.read(path), path, "theory_key", arm.theory_key)


def _of_key(found: xr.Dataset, path: Path, name: str, key: str) -> xr.Dataset:
    """A store that is named by its key, if it says it (those of earlier versions may not). Raises StoreError."""
    if found.attrs.get(name, key) != key:
        raise StoreError(
            f"{path}: holds what belongs under another name ({name.replace('_', ' ')} {found.attrs[name]}).",
            remedy="Delete this file and run the study again: only it is made again.",
        )
    return found


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
    if not path.is_file():
        raise StoreError(
            f"{path}: does not exist.",
            remedy=f"Run `emeq learning-rate {study.file} --key {arm.learning_rate_key}` first.",
        )
    found = rate_in(path, rate.critical_fraction)
    if found.get("learning_rate_key", arm.learning_rate_key) != arm.learning_rate_key:
        raise StoreError(
            f"{path}: holds what belongs under another name (learning rate key {found['learning_rate_key']}).",
            remedy="Delete it and run the study again.",
        )
    return found["learning_rate"]


def rate_text(rates: Mapping[str, float], key: str) -> str:
    """What the file of a resolved learning rate holds: ``theory.resolve_learning_rate``, its key, and a checksum."""
    said = {**rates, "learning_rate_key": key}
    return json.dumps(said | {"checksum": _checksum(said)}) + "\n"


def rate_in(path: Path, fraction: float) -> dict[str, Any]:
    """Content of a file with a resolved learning rate, without its checksum.

    Args:
      path: the file.
      fraction: of the critical learning rate, by the study: what those of earlier versions are held against, which
        have no checksum.

    Raises StoreError if it is damaged.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        rate, checksum = float(found["learning_rate"]), found.pop("checksum", None)
        if checksum is None:
            whole = math.isclose(rate, fraction * float(found["critical_learning_rate"]), rel_tol=1e-9)
        else:
            whole = checksum == _checksum(found)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        rate, whole = math.nan, False
    if not (whole and 0 < rate < math.inf):
        raise StoreError(f"{path}: is damaged.", remedy="Delete it and run the study again: it is made again.")
    return {**found, "learning_rate": rate}


def _checksum(said: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
