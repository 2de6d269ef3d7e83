"""What the jobs of a study record: one run per shard, one per theory store, one per study (docs/tracking.md)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import curves
from .runs import log_artifacts_by_relative_paths, run, tracking_folder

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from ..study import Arm, Study
    from ..tasks.base import TaskData


def shard_identity(arm: Arm, first: int, last: int) -> list[Any]:
    """What makes the run of a shard this run."""
    return [arm.path, first, last, arm.config_hash]


def log_shard(study: Study, arm: Arm, shard: xr.Dataset, data: TaskData) -> None:
    """The training curves of a shard: aggregates over its members, never those themselves.

    Args:
      shard: prediction(member, step, sample, element, output), loss(member, step), diverged(member); of its attributes
        seconds (of training) and, where training was interrupted, resumed (how often).
      data: of the arm.
    """
    if study.tracking.wandb == "disabled":
        return
    first, last = (int(shard["member"].values[i]) for i in (0, -1))
    size, diverged = shard.sizes["member"], int(shard["diverged"].sum())
    rows = curves.shard_curves(arm, shard, data)
    config = {
        **curves.describe(arm),
        "arm_key": curves.arm_keys(study)[arm.path],
        "first": first,
        "last": last,
        "ensemble_size": size,
    }
    identity = shard_identity(arm, first, last)
    with run(study, "train", f"{arm.path}/{first}-{last}", identity, config, _tags(arm.labels)) as active:
        if active is not None:
            _log(active, rows, arm.settings.training.unit)
            active.summary.update({"members": size, "diverged": diverged, "resumed": shard.attrs.get("resumed", 0)})
            if "seconds" in shard.attrs:
                active.summary["seconds"] = shard.attrs["seconds"]


def log_theory(study: Study, arm: Arm, solution: xr.Dataset, data: TaskData) -> None:
    """The curves of an analytic solution under the keys of the shards', and its numbers.

    Args:
      solution: a theory store.
      data: of the arm.
    """
    if study.tracking.wandb == "disabled":
        return
    settings, key = arm.settings, arm.theory_key
    size = min(settings.ensemble.members, settings.execution.shard_size)
    rows = curves.theory_curves(arm, solution, data, size)
    sharing = [other for other in study.arms if other.theory_key == key]
    common = {k: v for k, v in arm.labels.items() if all(other.labels.get(k) == v for other in sharing)}
    fields = curves.without_folders(arm.theory_fields)
    config = {
        **fields,
        "arm": f"theory {'/'.join(f'{k}~{v}' for k, v in common.items()) or key}",
        "arms": [other.path for other in sharing],
        "labels": common,
        "ensemble_size": size,
    }
    with run(study, "theory", f"theory/{key}", [key], config, _tags(common)) as active:
        if active is not None:
            _log(active, rows, settings.training.unit)
            plain = {k: v for k, v in solution.attrs.items() if isinstance(v, (int, float, str))}
            active.summary.update(plain)


def log_summary(
    study: Study, joined: xr.Dataset, tables: dict[str, pd.DataFrame], pictures: list[Path], file: Path
) -> None:
    """Key numbers, tables and pictures of a study, and its metrics as an artifact.

    Args:
      joined: metrics of all arms.
      tables: by name; of an ensemble study also ``key_numbers``.
      pictures: PNG files.
      file: metrics.nc.
    """
    if study.tracking.wandb == "disabled":
        return
    import pandas as pd

    numbers = tables.get("key_numbers")
    by_members = [] if numbers is None else curves.by_members(study, joined, numbers)
    by_width = curves.by_width(study, joined, numbers)
    values = curves.key_values(study, joined, numbers)
    if lost := curves.failures(joined):
        tables = {**tables, "failures": pd.DataFrame(lost)}
    counted = {row["arm"]: row for row in lost}
    config = {"study": study.name, "kind": study.kind, "arm": "summary", "arms": curves.arm_keys(study)}
    identity = [[arm.path, arm.result_hash, counted.get(arm.path)] for arm in study.arms]
    with run(study, "summary", study.name, identity, config) as active:
        if active is None:
            return
        import wandb

        log_artifacts_by_relative_paths(active, tracking_folder(study))
        _log(active, by_members, curves.MEMBER_COUNT, (curves.BY_MEMBERS, curves.PREDICTED), start=0)
        _log(active, by_width, curves.WIDTH, (curves.BY_WIDTH,), start=len(by_members))
        media: dict[str, Any] = {
            f"tables/{name}": wandb.Table(dataframe=table, allow_mixed_types=True)
            for name, table in tables.items()
            if len(table) <= curves.TABLE_ROWS
        }
        media |= {f"figures/{picture.stem}": wandb.Image(str(picture)) for picture in pictures}
        active.log(media, step=len(by_members) + len(by_width))
        active.summary.update(values)
        artifact = wandb.Artifact(f"{study.name}-metrics", "metrics")
        artifact.add_file(str(file), skip_cache=True)
        active.log_artifact(artifact)


def _tags(labels: dict[str, str]) -> list[str]:
    return [f"{key}={label}" for key, label in labels.items()]


def _log(
    active: Any, rows: list[curves.Row], axis: str, prefixes: tuple[str, ...] = (), start: int | None = None
) -> None:
    """Log rows against one of their keys.

    The step of a row is given, so that a run that is continued drops the rows that the server has: the recorded time,
    or, from ``start`` on, the index of the row.
    """
    active.define_metric(axis)
    for pattern in [f"{prefix}/*" for prefix in prefixes] or ["*"]:
        active.define_metric(pattern, step_metric=axis)
    for i, row in enumerate(rows):
        active.log(row, step=int(row[axis]) if start is None else start + i)
