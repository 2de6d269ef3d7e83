"""What the runs of Weights & Biases hold, as plain rows and values: computed here, sent by ``runs``.

Curves of a shard and of the theory share their keys, so that one panel shows both:

  training_loss/STAT       recorded loss on the augmented training set
  METRIC/SPLIT/STAT        METRIC of orbit_deviation (√orbit_variance), loss, accuracy

against ``step`` or ``epoch``. STAT of a shard: over its valid members ``mean``, ``q10``, ``q50``, ``q90`` (mean of
orbit_deviation: root mean square), and ``ensemble``, of the mean of their predictions. STAT of the theory: ``mean``
and ``ensemble``, what μ_t and Σ_t lead to expect of a single member and of the mean of a shard, and ``limit``, of μ_t
itself. Values that are not finite are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from xarray import DataArray

from .. import metrics as equivariance
from ..ensemble import CHUNK_BYTES, reference
from ..metrics import Reference, Statistic

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from ..study import Arm, Study
    from ..tasks.base import TaskData

QUANTILES = (0.1, 0.5, 0.9)

#: Rows of a table at most; larger ones stay in results/STUDY/tables/.
TABLE_ROWS = 10_000

#: Axes of the rows of the summary run that are not times, and the first parts of the keys against them.
MEMBER_COUNT, WIDTH = "members", "width"
BY_MEMBERS, PREDICTED, BY_WIDTH = "orbit_deviation_by_members", "predicted_by_members", "distance_by_width"

_AXES = ("step", "sample", "element", "output")

Row = dict[str, float]


# ------------------------------------------------------------------------------------------------ names


def arm_keys(study: Study) -> dict[str, str]:
    """Folder name of every arm → its name in keys: letters, digits, ``_`` and ``-`` only, unique."""
    return _unique({arm.path: arm.labels for arm in study.arms})


def curve_keys(study: Study) -> dict[str, str]:
    """Folder name of every arm → the name in keys that it shares with the arms that differ in width alone."""
    names = {
        arm.path: tuple((k, v) for k, v in arm.labels.items() if k.rsplit(".", 1)[-1] != "width") for arm in study.arms
    }
    chosen = _unique({labels: dict(labels) for labels in dict.fromkeys(names.values())})
    return {path: chosen[labels] or "all" for path, labels in names.items()}


def _unique(labels: Mapping[Any, Mapping[str, str]]) -> dict[Any, str]:
    found: dict[Any, str] = {}
    for key, values in labels.items():
        name = plain = "_".join(re.sub(r"[^A-Za-z0-9_-]", "_", f"{k}-{v}") for k, v in values.items())
        count = 1
        while name in found.values():
            count += 1
            name = f"{plain}_{count}"
        found[key] = name
    return found


def describe(arm: Arm) -> dict[str, Any]:
    """The resolved settings of an arm without places on this machine: what a run shows as its configuration."""
    task = arm.settings.task
    resolved = arm.settings.model_dump(mode="json", exclude={"task": task.LOCATION} if task.LOCATION else None)
    return {**without_folders(resolved), "arm": arm.path, "labels": dict(arm.labels)}


def without_folders(value: Any) -> Any:
    """Absolute paths reduced to the name of the file."""
    if isinstance(value, dict):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_folders(item) for item in value]
    if isinstance(value, str) and re.match(r"(/|~|[A-Za-z]:[\\/])", value):
        return re.split(r"[\\/]", value.rstrip("\\/"))[-1]
    return value


# --------------------------------------------------------------------------------------- curves of a shard


def shard_curves(arm: Arm, shard: xr.Dataset, data: TaskData) -> list[Row]:
    """One row per recorded time of a shard.

    Args:
      shard: prediction(member, step, sample, element, output), loss(member, step), diverged(member).
      data: of the arm.
    """
    valid = ~shard["diverged"].values
    unit = arm.settings.training.unit
    rows: list[Row] = [{unit: int(step)} for step in shard["step"].values]
    if not valid.any():
        return rows
    _add(rows, "training_loss", over_members(shard["loss"].transpose("member", "step").values[valid]))
    known = reference(arm.settings, data, None)
    members, total = [], 0.0
    predictions = shard["prediction"].transpose("member", *_AXES)
    size = max(1, CHUNK_BYTES // max(1, 8 * int(np.prod(predictions.shape[1:]))))
    for start in range(0, len(valid), size):
        part = slice(start, start + size)
        values = predictions.isel(member=part).values[valid[part]].astype(np.float64)
        if not len(values):
            continue
        if known.averaged == "softmax":
            values = np.exp(values - values.max(axis=-1, keepdims=True))
            values /= values.sum(axis=-1, keepdims=True)
        members.append(performance(DataArray(values, dims=("member", *_AXES)), known))
        total = total + values.sum(axis=0)
    of_mean = performance(DataArray(total / valid.sum(), dims=_AXES), known)
    for name in of_mean:
        each = np.concatenate([chunk[name] for chunk in members])  # (member, step, split)
        for i, split in enumerate(known.splits):
            statistics = over_members(each[..., i], root=name == "orbit_deviation")
            _add(rows, f"{name}/{split}", statistics | {"ensemble": of_mean[name][..., i]})
    return rows


def performance(prediction: DataArray, known: Reference) -> dict[str, np.ndarray]:
    """orbit_deviation and, where they are defined, loss and accuracy, each (…, step, split).

    Args:
      prediction: (…, step, sample, element, output), samples and elements in the order of the reference.
    """
    label = None if known.label is None else known.label.drop_vars("sample", errors="ignore")
    variance = equivariance.orbit_variance(equivariance.read_out(prediction, known.readout))
    found = {"orbit_deviation": np.sqrt(_values(variance, known))}
    if known.loss == "mse" and known.averaged == "logits":
        target = known.target.drop_vars("sample", errors="ignore")
        found["loss"] = _values(equivariance.mse_loss(prediction, target), known)
    if label is not None:
        if known.loss == "cross_entropy":
            log_p = equivariance.log_probabilities(prediction, known.averaged)
            found["loss"] = _values(equivariance.cross_entropy_loss(log_p, label), known)
        found["accuracy"] = _values(equivariance.accuracy(prediction, label), known)
    return found


def _values(statistic: Statistic, known: Reference) -> np.ndarray:
    return statistic.summary(known.splits)[0]


def over_members(values: np.ndarray, *, root: bool = False) -> dict[str, np.ndarray]:
    """Mean and quantiles (step) of values (member, step); with ``root`` the mean is the root mean square."""
    mean = np.sqrt((values**2).mean(axis=0)) if root else values.mean(axis=0)
    quantiles = np.quantile(values, QUANTILES, axis=0)
    return {"mean": mean} | {f"q{round(100 * q)}": row for q, row in zip(QUANTILES, quantiles, strict=True)}


def _add(rows: list[Row], prefix: str, curves: Mapping[str, np.ndarray]) -> None:
    for name, curve in curves.items():
        for row, value in zip(rows, curve, strict=True):
            if np.isfinite(value):
                row[f"{prefix}/{name}"] = float(value)


# ----------------------------------------------------------------------------------- curves of the theory


def theory_curves(arm: Arm, solution: xr.Dataset, data: TaskData, size: int) -> list[Row]:
    """One row per recorded time: what the analytic mean and covariance lead to expect.

    Args:
      solution: a theory store; without a mean there is no row.
      size: members of the mean prediction called ``ensemble``.
    """
    known = reference(arm.settings, data, solution)
    if known.mean is None:
        return []
    rows: list[Row] = [{arm.settings.training.unit: int(step)} for step in known.mean["step"].values]
    limit = performance(known.mean.drop_vars(_AXES, errors="ignore"), known)
    expected = equivariance.predict(known, DataArray([1, size], dims="ensemble_size"))
    noise = None if known.variance is None else _noise(known)  # (step, split)
    for i, split in enumerate(known.splits):
        curves = {"limit": limit["orbit_deviation"][:, i]}
        if expected:
            deviation = np.sqrt(expected["predicted_orbit_variance"].isel(split=i).values)
            curves |= {"mean": deviation[0], "ensemble": deviation[1]}
        _add(rows, f"orbit_deviation/{split}", curves)
        curves = {"limit": limit["loss"][:, i]}
        if noise is not None:
            curves |= {"mean": curves["limit"] + noise[:, i], "ensemble": curves["limit"] + noise[:, i] / size}
        _add(rows, f"loss/{split}", curves)
        if "accuracy" in limit:
            _add(rows, f"accuracy/{split}", {"ensemble": limit["accuracy"][:, i]})
    return rows


def _noise(known: Reference) -> np.ndarray:
    """½ mean over samples of Σ_t(x, x), by which the expected loss of a member exceeds that of μ_t: (step, split)."""
    assert known.variance is not None
    there = known.target.notnull().all("output").drop_vars("sample", errors="ignore")
    here = known.variance.isel(element=0, drop=True).drop_vars(_AXES, errors="ignore").transpose("step", "sample") / 2
    return _values(Statistic(np.divide, (here.where(there, 0.0), there)), known)


# -------------------------------------------------------------------------------------- the study as a whole


def by_members(study: Study, joined: xr.Dataset, numbers: pd.DataFrame) -> list[Row]:
    """Orbit deviation against the number of members, measured and predicted, at each arm's last recorded time.

    Args:
      joined: metrics.nc of an ensemble study.
      numbers: its key numbers.
    """
    names = arm_keys(study)
    rows: dict[int, Row] = {}
    for _, line in numbers.iterrows():
        for metric, key in (("orbit_variance", BY_MEMBERS), ("predicted_orbit_variance", PREDICTED)):
            if metric not in joined:
                continue
            values = joined[metric].sel(arm=line["arm"], split=line["split"], step=line["step"])
            for members, value in zip(values["member_count"].values, np.sqrt(values.values), strict=True):
                if np.isfinite(value):
                    row = rows.setdefault(int(members), {})
                    row[f"{key}/{line['split']}/{names[line['arm']]}"] = float(value)
    return [{MEMBER_COUNT: members, **rows[members]} for members in sorted(rows)]


def by_width(study: Study, joined: xr.Dataset, numbers: pd.DataFrame | None) -> list[Row]:
    """Distance to the NTK against the width: of the full ensemble, or in a study of kernels of the mean kernel."""
    names = curve_keys(study)
    rows: dict[int, Row] = {}
    if "network_width" not in joined.coords:  # studies of kernel regression
        return []
    width = {str(arm): int(w or 0) for arm, w in zip(joined["arm"].values, joined["network_width"].values, strict=True)}
    for arm, key, value in _distances(joined, numbers):
        if width[arm] and np.isfinite(value):
            rows.setdefault(width[arm], {})[f"{BY_WIDTH}/{key}/{names[arm]}"] = float(value)
    return [{WIDTH: w, **rows[w]} for w in sorted(rows)]


def _distances(joined: xr.Dataset, numbers: pd.DataFrame | None) -> Iterable[tuple[str, str, float]]:
    if numbers is not None and "difference_to_ntk" in numbers:
        yield from zip(numbers["arm"], numbers["split"], numbers["difference_to_ntk"], strict=True)
    elif "relative_error" in joined:
        for kind in joined["kind"].values:
            for arm in joined["arm"].values:
                yield str(arm), str(kind), float(joined["relative_error"].sel(arm=arm, kind=kind))


def failures(joined: xr.Dataset) -> list[dict[str, Any]]:
    """Per arm of an ensemble study: members asked for, valid, diverged, missing."""
    if "diverged" not in joined:
        return []
    rows = []
    for arm in joined["arm"].values:
        valid, diverged, missing = (
            int(joined[name].sel(arm=arm)) if name in joined else 0 for name in ("members", "diverged", "missing")
        )
        asked = valid + diverged + missing
        rows.append({"arm": str(arm), "asked": asked, "valid": valid, "diverged": diverged, "missing": missing})
    return rows


def key_values(study: Study, joined: xr.Dataset, numbers: pd.DataFrame | None) -> dict[str, float]:
    """Key numbers under flat names: COLUMN/SPLIT/ARM, and members, diverged, missing by arm and in total."""
    names = arm_keys(study)
    values: dict[str, float] = {"arms": len(names)}
    for row in failures(joined):
        for column in ("members", "diverged", "missing"):
            number = row["valid" if column == "members" else column]
            values[f"{column}/{names[row['arm']]}"] = number
            values[f"{column}_total"] = values.get(f"{column}_total", 0) + number
    if numbers is not None:
        left = {"arm", "split", "members", "diverged", "missing", *study.arms[0].coords}
        columns = [c for c in numbers.columns if c not in left and numbers[c].dtype.kind in "fi"]
        for _, line in numbers.iterrows():
            for column in columns:
                if np.isfinite(line[column]):
                    values[f"{column}/{line['split']}/{names[line['arm']]}"] = float(line[column])
    return values
