"""Weights & Biases: a mirror of the results, never their source. The only module that knows it.

One run per shard, per theory store and per study summary (never one per member), grouped by study, with
deterministic ids so that a repeated job continues its run. Offline by default; no environment, code, host
name or console output is sent.

A mirror must not fail or delay what it mirrors: whatever goes wrong here is one warning on stderr, and a job
waits for a server at most `TIMEOUT` at its start and at its end. A job that found the server unreachable
leaves a marker file, and for `PAUSE` the study's later jobs record offline without trying.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..study import Arm, Study, fingerprint

if TYPE_CHECKING:
    import xarray as xr

#: Seconds that an unreachable server may hold up a job at its start and at its end.
TIMEOUT = 30

#: Seconds for which a study records offline after a job found the server unreachable.
PAUSE = 600

#: In the tracking folder: its age and its text say when and why the server was last found unreachable.
MARKER = "server-unreachable.txt"

#: Bytes below which a disk counts as full.
MINIMUM_SPACE = 10**7

QUANTILES = (0.1, 0.5, 0.9)


@contextmanager
def run(study: Study, job: str, name: str, config: dict[str, Any], tags: list[str]) -> Iterator[Any]:
    """A Weights & Biases run, or None where tracking is disabled or impossible. Its failures are warnings."""
    if study.tracking.wandb == "disabled":
        yield None
        return
    folder = study.root / "tracking"
    active = None
    with _warning("nothing of this job is recorded"):
        active = _start(
            folder,
            study.tracking.wandb == "online",
            project=study.tracking.project,
            entity=study.tracking.entity,
            group=study.name,
            job_type=job,
            name=name,
            id=fingerprint([study.name, job, name, config]),
            tags=tags,
            config=config,
        )
    if active is None:
        yield None
        return
    place = Path(active.dir).parent
    try:
        with _warning(f"what was not sent lies in {place} (upload: wandb sync {place})", marker=folder / MARKER):
            yield active
            active.finish()
    finally:
        _stop()


def _start(folder: Path, online: bool, **options: Any) -> Any:
    """Start a run; offline if the server cannot be reached now, or could not be a short time ago."""
    # Also where the user's own settings do not say so: nothing on stdout, no error reports, no files in the home.
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_DATA_DIR", str(folder / "staging"))
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):  # where wandb would turn to the system's temporary folder
        raise PermissionError(f"{folder} is not writable")
    if shutil.disk_usage(folder).free < MINIMUM_SPACE:  # where wandb would lose rows without a word
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
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
        login_timeout=TIMEOUT,
        init_timeout=TIMEOUT,
        finish_timeout=TIMEOUT,
        finish_timeout_raises=True,
    )
    options |= {"settings": settings, "dir": str(folder)}
    if not online:
        return wandb.init(mode="offline", **options)
    marker = folder / MARKER
    reason = _unreachable(marker)
    if not reason:
        try:
            return wandb.init(mode="online", resume="allow", **options)
        except _failures() as error:
            reason = _line(error)
            marker.write_text(reason + "\n")
            _stop()  # the failed run would keep the id
    active = wandb.init(mode="offline", **options)
    place = Path(active.dir).parent
    _warn(
        f"not online ({reason}); this job is recorded offline in {place} (upload: wandb sync {place}); the study's "
        f"jobs try the server again {PAUSE // 60} minutes after the failure, or once {marker} is deleted"
    )
    return active


def _stop() -> None:
    """Finish what is not finished and end wandb's background process, dead or alive."""
    import wandb

    with suppress(SystemExit, *_failures()):  # wandb would end this process with the other's exit code
        wandb.teardown()


def _unreachable(marker: Path) -> str:
    """When and why the server was found unreachable, or nothing if that is not known or long ago."""
    try:
        age = time.time() - marker.stat().st_mtime
        return f"{age:.0f} s ago: {marker.read_text().strip()}" if age < PAUSE else ""
    except FileNotFoundError:
        return ""


def _failures() -> tuple[type[Exception], ...]:
    """What wandb raises where a server, its own background process or the disk fails; time-outs are OSErrors."""
    import pydantic
    import wandb
    from wandb.sdk.lib.service.service_token import WandbServiceConnectionError
    from wandb.sdk.mailbox.mailbox import MailboxClosedError
    from wandb.sdk.mailbox.mailbox_handle import HandleAbandonedError, ServerResponseError

    return (
        OSError,
        pydantic.ValidationError,  # of a WANDB_… variable
        wandb.errors.Error,
        WandbServiceConnectionError,
        MailboxClosedError,
        HandleAbandonedError,
        ServerResponseError,
    )


@contextmanager
def _warning(consequence: str, marker: Path | None = None) -> Iterator[None]:
    """Turn a failure of the mirror into a warning; with a marker, a time-out is remembered."""
    try:
        yield
    except _failures() as error:
        _warn(f"{_line(error)}; {consequence}")
        if marker and isinstance(error, TimeoutError):
            with _warning("the next job tries the server again"):
                marker.write_text(_line(error) + "\n")


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _warn(text: str) -> None:
    print(f"warning: Weights & Biases: {text}", file=sys.stderr, flush=True)


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


def log_summary(study: Study, metrics: xr.Dataset, tables: dict[str, Any], pictures: list[Path]) -> None:
    """Key numbers, tables and pictures (PNG files) of a study."""
    with run(study, "summary", study.name, {"arms": [arm.path for arm in study.arms]}, []) as active:
        if active is None:
            return
        import wandb

        for name, table in tables.items():
            active.log({f"tables/{name}": wandb.Table(dataframe=table)})
        for picture in pictures:
            active.log({f"figures/{picture.stem}": wandb.Image(str(picture))})
        if "diverged" in metrics:  # of networks that were trained
            active.summary["diverged"] = int(metrics["diverged"].sum())
