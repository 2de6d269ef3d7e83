"""Runs of Weights & Biases: how they start and end, and that nothing that goes wrong with them fails or delays a job.

Whatever goes wrong here is one warning on stderr with its remedy. A job waits for a server at most START seconds when
its run starts and END seconds when it ends. A job that found the server unreachable leaves a marker file, and for
PAUSE seconds the study's later jobs record offline without trying. What is recorded offline is sent by ``emeq sync``.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import StoreError
from ..study import Study, fingerprint
from .reading import lost, recorded
from .service import end_service

#: Seconds that each answer of a server, and wandb's own background process, is waited for.
TIMEOUT = 30

#: Seconds that an unreachable server holds up a job at most: two answers at its start, one at its end.
START, END = 2 * TIMEOUT, TIMEOUT

#: Seconds for which a study records offline after a job found the server unreachable.
PAUSE = 3600

#: In the tracking folder: its age and its text say when and why the server was last found unreachable.
MARKER = "server-unreachable.txt"

#: Ending of the file that says, beside the file of a run, that the server has all of it; as ``wandb sync`` names it.
SENT = ".wandb.synced"

#: Ending of the file in which the client keeps where a run starts on the server.
SYNC_STATE = ".wandb.syncstate"

#: In the logs of a run: a link to the log of wandb's background process, which lies in its cache.
CORE_LOG = "debug-core.log"

#: What an agent of a sweep sets for its program, and what would lead all runs of that program into one.
AGENT_VARIABLES = ("WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH")

#: What of the client's own modules it raises: module, class.
PRIVATE_ERRORS = (
    ("wandb.sdk.lib.service.service_token", "WandbServiceConnectionError"),
    ("wandb.sdk.mailbox.mailbox", "MailboxClosedError"),
    ("wandb.sdk.mailbox.mailbox_handle", "HandleAbandonedError"),
    ("wandb.sdk.mailbox.mailbox_handle", "ServerResponseError"),
)

#: Bytes below which a disk counts as full.
MINIMUM_SPACE = 10**7


@contextmanager
def run(
    study: Study,
    job: str,
    name: str,
    identity: Sequence[Any],
    config: dict[str, Any],
    tags: Sequence[str] = (),
) -> Iterator[Any]:
    """A Weights & Biases run, or None where it is impossible. Its failures are warnings.

    Args:
      job: "train", "theory" or "summary".
      name: what the run is called.
      identity: what makes it this run: a repeated job with the same identity continues it.
      config: settings to show.
      tags: one for every swept key of the arm.
    """
    active = None
    with _warning("nothing of this job is recorded"):
        folder = tracking_folder(study)
        active = _start(
            study,
            folder,
            project=study.tracking.project,
            entity=study.tracking.entity,
            group=study.name,
            job_type=job,
            name=name,
            id=run_id(study, job, identity),
            tags=[tag[:64] for tag in tags],
            config=config,
        )
    if active is None:
        yield None
        return
    place, online, finished = _place(folder, active), not active.offline, False
    unsent = f"what was not sent lies in {place} ({send_later(study)})"
    try:
        with _warning(unsent, marker=folder / MARKER):
            yield active
            active.finish()
            finished = True
    finally:
        _stop()  # only then all is on disk
    if finished:
        with _warning(unsent):
            _settle(place, online)


def tracking_folder(study: Study) -> Path:
    """The folder that holds the runs of a study. Raises StoreError if it, or what jobs write in it, leads elsewhere."""
    for parts in (("wandb", "logs"), ("staging", "wandb", "logs"), (MARKER,)):
        study.place("tracking", *parts)
    return study.place("tracking")


def run_id(study: Study, job: str, identity: Sequence[Any]) -> str:
    """The id of a run."""
    return fingerprint([study.name, job, *identity])


def send_later(study: Study) -> str:
    """How the user sends what is recorded offline."""
    results = "" if study.results == Path("results") else f" --results {study.results}"
    return f"send it later: emeq sync {study.file}{results}"


def use_folder(folder: Path) -> dict[str, str]:
    """Environment variables for wandb, unless set: no error reports, nothing on stdout, no files in the home."""
    staging = str(folder.absolute() / "staging")
    return {
        "WANDB_SILENT": "true",
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_DATA_DIR": staging,
        "WANDB_CACHE_DIR": staging,
    }


def _start(study: Study, folder: Path, **options: Any) -> Any:
    """Start a run; offline if the server cannot be reached now, or could not be a short time ago."""
    for variable, value in use_folder(folder).items():
        os.environ.setdefault(variable, value)
    for variable in AGENT_VARIABLES:
        os.environ.pop(variable, None)
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):  # where wandb would turn to the system's temporary folder
        raise PermissionError(f"{folder} is not writable")
    if shutil.disk_usage(folder).free < MINIMUM_SPACE:  # where wandb would lose rows without a word
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    options |= {"settings": _settings(), "dir": str(folder.absolute())}
    if study.tracking.wandb != "online":
        return wandb.init(mode="offline", **options)
    marker = folder / MARKER
    reason = _unreachable(marker)
    if not reason:
        try:
            with chdir(folder):  # what wandb's background process reads files relative to
                return wandb.init(mode="online", resume="allow", **options)
        except _failures() as error:
            reason = _line(error)
            marker.write_text(reason + "\n")
            _stop()  # the failed run would keep the id
            _remove_empty(folder, options["id"])
    active = wandb.init(mode="offline", **options)
    _warn(
        f"not online ({reason}); this job is recorded offline in {_place(folder, active)} ({send_later(study)}); the "
        f"study's jobs try the server again {PAUSE // 60} minutes after the failure, or once {marker} is deleted"
    )
    return active


def _remove_empty(folder: Path, identity: str) -> None:
    """Remove what attempts to start a run online left of it."""
    for file in folder.glob(f"wandb/run-*-{identity}/run-*.wandb"):
        if not file.parent.is_symlink() and not recorded(file).rows:
            tidy(file.parent)
            shutil.rmtree(file.parent, ignore_errors=True)


def _place(folder: Path, active: Any) -> Path:
    """The folder of a run."""
    return folder / "wandb" / Path(active.dir).parent.name


def log_artifacts_by_relative_paths(active: Any, folder: Path) -> None:
    """Make a run name the files of its artifacts relative to ``folder``: wandb sends these names to the server.

    It holds for the artifacts that wandb makes of tables, too. The folder may be moved before it is sent.
    """
    original = active.log_artifact

    def log_artifact(artifact: Any, *arguments: Any, **options: Any) -> Any:
        for entry in artifact.manifest.entries.values():
            if entry.local_path is not None:
                entry.local_path = os.path.relpath(entry.local_path, folder)
        return original(artifact, *arguments, **options)

    active.log_artifact = log_artifact


def _settings() -> Any:
    """Settings of every run: nothing of the environment, the machine, the code or the console is recorded.

    ``resume`` is not recorded offline: sent to a run that the server knows, the rows would be moved behind its last
    one, where without it they keep their steps.
    """
    import wandb

    return wandb.Settings(
        console="off",
        disable_git=True,
        save_code=False,
        disable_job_creation=True,
        silent=True,
        symlink=False,
        x_disable_stats=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
        x_service_wait=TIMEOUT,
        host="unnamed",
        program="emeq",  # instead of its path
        login_timeout=TIMEOUT,
        init_timeout=TIMEOUT,
        finish_timeout=TIMEOUT,
        finish_timeout_raises=True,
    )


def _settle(place: Path, online: bool) -> None:
    """Check that a finished run is whole, mark what was sent, and remove wandb's logs, which name this machine.

    Raises OSError where the copy on disk is cut off, ConnectionError where the server did not take all of it.
    """
    (file,) = place.glob("run-*.wandb")
    refused = lost(place / "logs" / "debug-internal.log", file.stem) if online else ""
    tidy(place)
    if not recorded(file).finished:
        raise OSError(errno.EIO, "the copy on disk is cut off; is the disk full?", str(file))
    if refused:
        raise ConnectionError(refused)
    if online:
        file.with_suffix(SENT).touch()
        leave_run(file)


def leave_run(file: Path) -> None:
    """Remove, beside the .wandb file of a run that is sent, what only sending it needed."""
    place = file.parent
    for path in (place / "files/config.yaml", place / "files/wandb-summary.json", file.with_suffix(SYNC_STATE)):
        path.unlink(missing_ok=True)
    tidy(place)


def tidy(place: Path) -> None:
    """Remove wandb's logs of a run, and that of its background process if it lies where wandb keeps them."""
    cache = Path({**use_folder(place.parents[1]), **os.environ}["WANDB_CACHE_DIR"])
    with suppress(FileNotFoundError):
        log = (place / "logs" / CORE_LOG).readlink()
        if log.parent == cache / "wandb" / "logs" and log.name.startswith("core-debug"):
            log.unlink(missing_ok=True)
    for folder in ("logs", "tmp"):
        shutil.rmtree(place / folder, ignore_errors=True)


def _stop() -> None:
    """Finish what is not finished and end wandb's background process."""
    with suppress(*_failures()):
        end_service(TIMEOUT)


def _unreachable(marker: Path) -> str:
    """When and why the server was found unreachable, or nothing if that is not known or long ago."""
    try:
        age = time.time() - marker.stat().st_mtime
        return f"{age:.0f} s ago: {marker.read_text().strip()}" if age < PAUSE else ""
    except FileNotFoundError:
        return ""


def _failures() -> tuple[type[Exception], ...]:
    """What wandb raises where a server, its own background process or the disk fails; time-outs are OSErrors.

    A class that another version of wandb has elsewhere is left out.
    """
    import pydantic
    import wandb

    found: list[type[Exception]] = [
        OSError,
        StoreError,  # of tracking_folder
        pydantic.ValidationError,  # of a WANDB_… variable
        wandb.errors.Error,
    ]
    for module, name in PRIVATE_ERRORS:
        with suppress(ImportError, AttributeError):
            found.append(getattr(import_module(module), name))
    return tuple(found)


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
