"""Sending what was recorded offline: each run once, those of jobs first, the summary last.

The client's own ``wandb sync`` does it, some runs at a time, each call with a time limit. It says in its exit code
nothing of what it sent, but leaves a file beside each run that it is done with, and says in its log what the server did
not take: a run counts as sent with the former and without the latter. A run that was
interrupted is sent again; its rows keep their steps, so that its history does not double. Of several recordings of one
run (a job that was repeated) the last complete one is sent.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..errors import TrackingError
from ..study import Study
from .reading import Recorded, lost, recorded
from .runs import CORE_LOG, MARKER, SENT, leave_run, tracking_folder, use_folder

#: Seconds before each attempt to send what is left.
WAITS = (0, 10, 30)

#: Runs per call of the client; the first call sends one, to see whether the server answers.
BATCH = 20

#: Seconds that one call of the client may take, and more for each of its runs.
CALL, EACH = 60, 30

#: Seconds without a change after which a run that was not finished is taken for that of a killed job.
ABANDONED = 300

#: Attempts and longest waits of the client itself, which would otherwise go on for hours.
PATIENCE = {
    f"WANDB__{part}_RETRY_{name}": value
    for part in ("GRAPHQL", "FILE_STREAM", "FILE_TRANSFER")
    for name, value in (("MAX", "3"), ("WAIT_MIN_SECONDS", "1"), ("WAIT_MAX_SECONDS", "5"))
}

#: What the client says where the server answers 401 or 403.
REFUSED = "<no message>"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Recording:
    """A run on disk.

    Attributes:
      file: its .wandb file.
      content: what that file holds.
    """

    file: Path
    content: Recorded

    @property
    def id(self) -> str:
        return self.file.stem.removeprefix("run-")

    @property
    def sent(self) -> bool:
        return self.file.with_suffix(SENT).exists()

    @property
    def said(self) -> str:
        return f"{self.content.job} {self.content.name}".strip() or self.id

    @property
    def rank(self) -> tuple[bool, str]:
        """Of several recordings of a run the greatest is sent."""
        return self.content.finished, self.file.parent.name.removeprefix("offline-")


class Found(NamedTuple):
    """What a study has recorded.

    Attributes:
      unsent: what is to be sent, in this order.
      sent: number of runs that the server has.
      recording: names of runs that a job seems to be recording now.
    """

    unsent: list[Recording]
    sent: int
    recording: list[str]


def recordings(folder: Path, identity: str = "*") -> list[Recording]:
    """The runs in a tracking folder, or the recordings of one of them."""
    files = sorted(folder.glob(f"wandb/*run-*-{identity}/run-{identity}.wandb"))
    return [Recording(file, recorded(file)) for file in files if not file.parent.is_symlink()]


def find(folder: Path) -> Found:
    """Look through a tracking folder."""
    runs: dict[str, list[Recording]] = {}
    for entry in recordings(folder):
        runs.setdefault(entry.id, []).append(entry)
    unsent, sent, recording = [], 0, []
    for entries in runs.values():
        last = max(entries, key=lambda entry: entry.rank)
        if any(entry.sent and entry.content.finished >= last.content.finished for entry in entries):
            sent += 1
        elif not last.content.finished and time.time() - last.file.stat().st_mtime < ABANDONED:
            recording.append(last.said)
        else:
            unsent.append(last)
    unsent.sort(key=lambda entry: (entry.content.job == "summary", entry.rank[1]))
    return Found(unsent, sent, recording)


def send(study: Study, say: Say, *, dry_run: bool = False) -> int:
    """Send the runs of a study that were recorded and not sent yet; returns how many could not be sent.

    Raises TrackingError where another process is sending them or the folder cannot be read or, but for ``dry_run``,
    written; StoreError where a link in it leads elsewhere.
    """
    folder = checked_folder(study)
    try:
        if not folder.is_dir():
            say(f"{folder}: nothing is recorded")
            return 0
        with nullcontext() if dry_run else _alone(folder):
            return _send(folder, say, dry_run)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise TrackingError(
            f"{error.filename or folder}: {reason}. Nothing that was recorded is lost.",
            remedy=f"Mend that and run emeq sync again, or copy {study.root} to a disk that you may write to and that "
            "has locks, and give the folder above the copy as --results.",
        ) from None


def checked_folder(study: Study) -> Path:
    """The tracking folder of a study. Raises StoreError if a link anywhere in it leads elsewhere."""
    folder = tracking_folder(study)
    for parent, folders, files in os.walk(folder):
        for path in (Path(parent, name) for name in (*folders, *files) if name != CORE_LOG):
            if path.is_symlink():
                study.place(*path.relative_to(study.root).parts)
    return folder


def _send(folder: Path, say: Say, dry_run: bool) -> int:
    """Send what a tracking folder holds; returns how many runs could not be sent."""
    found = find(folder)
    for name in found.recording:
        say(f"not sent: {name}: a job is recording it")
    if dry_run:
        for entry in found.unsent:
            say(f"to send: {entry.said} ({entry.content.rows} rows, {entry.file.parent})")
        say(f"{len(found.unsent)} runs to send, {found.sent} sent before")
        return 0
    left, reason = _send_all(folder, found.unsent, say)
    for entry in left:
        say(f"not sent: {entry.said}: {reason}")
    total = len(found.unsent)
    say(f"{total - len(left)} of {total} runs sent, {found.sent} sent before")
    return len(left) + len(found.recording)


def _send_all(folder: Path, left: list[Recording], say: Say) -> tuple[list[Recording], str]:
    """Send with repeated attempts; returns what is left, and why."""
    reason, final = "", False
    for wait in WAITS:
        if not left or final:
            break
        if wait:
            say(f"{len(left)} runs are not sent ({reason}); next attempt in {wait} s")
            time.sleep(wait)
        left, reason, final = _attempt(folder, left, say)
    if not left:
        (folder / MARKER).unlink(missing_ok=True)
        shutil.rmtree(folder / "staging", ignore_errors=True)
    return left, reason


def _attempt(folder: Path, queue: list[Recording], say: Say) -> tuple[list[Recording], str, bool]:
    """Send until nothing of a call is accepted; returns what is left, those that failed last, and why (as _call)."""
    failed: list[Recording] = []
    reason, size = "", 1
    while queue:
        batch, queue = queue[:size], queue[size:]
        said, final = _call(folder, batch)
        unsent = [entry for entry in batch if not entry.sent]
        for entry in batch:
            if entry.sent:
                say(f"sent: {entry.said}")
                leave_run(entry.file)
        if unsent:
            failed, reason = [*failed, *unsent], said
            if final or len(unsent) == len(batch):
                return queue + failed, reason, final
        size = BATCH
    return failed, reason, False


def _call(folder: Path, batch: Sequence[Recording]) -> tuple[str, bool]:
    """Call the client; returns why something was not sent, and whether another attempt is in vain."""
    places = [str(entry.file.parent.relative_to(folder)) for entry in batch]
    command = [sys.executable, "-m", "wandb", "sync", "--yes", "--include-online", "-n", "4", *places]
    environment = {**use_folder(folder.absolute()), **os.environ, **PATIENCE}
    environment |= {
        "WANDB_SILENT": "false",
        "WANDB_MODE": "online",
        "WANDB_PROGRAM": "emeq",
        "WANDB_DIR": str(folder.absolute()),
    }
    limit = CALL + EACH * len(batch)
    _remove_logs(folder)
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        return f"no answer within {limit} s", False
    finally:
        _kill(process)
    refused = _refused(folder, batch)
    reason, final = _reason(said)
    return (reason, True) if final else (refused or reason, False)


def _refused(folder: Path, batch: Sequence[Recording]) -> str:
    """Take back the client's marks of runs of which the server did not take all; returns why it did not."""
    reason = ""
    for entry in batch:
        for log in folder.glob("wandb/logs/debug-sync.*.log"):
            if found := lost(log, entry.id):
                entry.file.with_suffix(SENT).unlink(missing_ok=True)
                reason = found
    _remove_logs(folder)
    return reason


def _remove_logs(folder: Path) -> None:
    """Remove the client's logs, which name this machine."""
    for log in (*folder.glob("wandb/debug-cli.*.log"), *folder.glob("wandb/logs/debug-*.log")):
        log.unlink(missing_ok=True)


def _kill(process: subprocess.Popen[str]) -> None:
    """End a call of the client with its background process; what it sent stays sent."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def _reason(said: str) -> tuple[str, bool]:
    """What went wrong, in the client's words; whether trying again is in vain."""
    lines = [
        re.sub(r"^(wandb: )?((ERROR|Error):?) ", "", line) for line in said.splitlines() if "error" in line.lower()
    ]
    if REFUSED in lines:
        return "the server refuses the key or the project (401 or 403): `wandb login`, tracking.entity", True
    if any("API key" in line for line in lines):
        return "there is no API key: `wandb login`, or WANDB_API_KEY", True
    lines = [line for line in lines if "debug" not in line]
    return lines[-1] if lines else "the client gives no reason", False


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep others from sending the same; raises TrackingError if they are, OSError where that cannot be known."""
    path = folder / ".sync.lock"
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrackingError(
                f"{folder}: another emeq sync is sending these runs.", remedy="Wait until it has ended."
            ) from None
        except OSError as error:
            raise OSError(error.errno, f"the file system gives no lock ({error.strerror})", str(path)) from None
        yield
    finally:
        os.close(lock)
