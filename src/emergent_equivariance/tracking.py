"""Weights & Biases: a mirror of the results, never their source. The only module that knows it.

One run per shard, per theory store and per study summary (never one per member), grouped by study, with
deterministic ids so that a repeated job continues its run. Offline by default; no environment, code, host
name or console output is sent.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .study import Arm, Study, fingerprint

if TYPE_CHECKING:
    import xarray as xr

#: Seconds that an unreachable server may hold up a job at its start and at its end.
TIMEOUT = 30

QUANTILES = (0.1, 0.5, 0.9)


@contextmanager
def run(study: Study, job: str, name: str, config: dict[str, Any], tags: list[str]) -> Iterator[Any]:
    """A Weights & Biases run, or None where tracking is disabled or the server cannot be reached."""
    if study.tracking.wandb == "disabled":
        yield None
        return
    import wandb

    folder = study.root / "tracking"
    folder.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {
        "project": study.tracking.project,
        "entity": study.tracking.entity,
        "group": study.name,
        "job_type": job,
        "name": name,
        "id": fingerprint([study.name, job, name, config]),
        "tags": tags,
        "config": config,
        "dir": str(folder),
        "resume": "allow",
    }
    settings = wandb.Settings(
        console="off",
        disable_git=True,
        save_code=False,
        disable_job_creation=True,
        silent=True,
        x_disable_stats=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
        host="unnamed",
        init_timeout=TIMEOUT,
        finish_timeout=TIMEOUT,
    )
    try:
        active = wandb.init(mode=study.tracking.wandb, settings=settings, **options)
    except (wandb.errors.CommError, wandb.errors.UsageError, wandb.errors.AuthenticationError) as error:
        print(f"warning: Weights & Biases is not reached ({error}); recording offline instead", file=sys.stderr)
        options.pop("resume")
        active = wandb.init(mode="offline", settings=settings, **options)
    try:
        yield active
    finally:
        active.finish()


def _config(arm: Arm) -> dict[str, Any]:
    return arm.settings.model_dump(mode="json") | {"arm": arm.path}


def _tags(arm: Arm) -> list[str]:
    return [f"{key}={label}"[:64] for key, label in arm.labels.items()]


def log_shard(study: Study, arm: Arm, shard: xr.Dataset, first: int, last: int) -> None:
    """Training curves over the members of a shard: mean and quantiles of the loss at the recorded times."""
    with run(study, "train", f"{arm.path}/{first}-{last}", _config(arm), _tags(arm)) as active:
        if active is None:
            return
        loss = shard["loss"].where(~shard["diverged"])
        quantiles = loss.quantile(QUANTILES, dim="member")
        unit = str(shard["step"].attrs["units"])
        for step in shard["step"].values:
            values = {f"loss/q{int(100 * q)}": float(quantiles.sel(step=step, quantile=q)) for q in QUANTILES}
            active.log({unit: int(step), "loss/mean": float(loss.sel(step=step).mean()), **values})
        active.summary["members"] = int(shard.sizes["member"])
        active.summary["diverged"] = int(shard["diverged"].sum())


def log_theory(study: Study, arm: Arm, solution: xr.Dataset) -> None:
    """Key numbers of an analytic solution."""
    with run(study, "theory", arm.theory_key, arm.theory_fields, []) as active:
        if active is not None:
            plain = {k: v for k, v in solution.attrs.items() if isinstance(v, (int, float, str))}
            active.summary.update(plain)


def log_summary(study: Study, metrics: xr.Dataset, tables: dict[str, Any]) -> None:
    """Key numbers, figures and the metrics file of a study."""
    with run(study, "summary", study.name, {"arms": [arm.path for arm in study.arms]}, []) as active:
        if active is None:
            return
        import wandb

        for name, table in tables.items():
            active.log({f"tables/{name}": wandb.Table(dataframe=table)})
        for picture in sorted((study.root / "figures").glob("*.png")):
            active.log({f"figures/{picture.stem}": wandb.Image(str(picture))})
        active.summary["diverged"] = int(metrics["diverged"].sum())
