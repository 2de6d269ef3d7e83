"""One Snakemake at a time on the results of a study, from whichever folder and by whichever user it is started.

Snakemake's own lock lies in the working folder: two folders that share results/, by a link or on a shared disk, do not
see each other's. The lock here is one of the operating system on a file beside the results, and is gone when the
process is, however it ended. Where the file system has no such locks, there is none, and the user is told.
"""

from __future__ import annotations

import errno
import fcntl
import getpass
import json
import os
import socket
import time
from datetime import datetime
from pathlib import Path
from typing import IO

from .errors import StoreError, StudyError
from .study import Study

#: What a file system without locks answers.
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
#: Attempts to get the lock, and seconds between two: a look at it (``other``) holds it for an instant.
_ATTEMPTS, _PAUSE = 5, 0.1


def lock_path(study: Study) -> Path:
    """The file that the controller of a study holds a lock on, and in which it says who it is.

    Raises StoreError if it is a link: the file is overwritten.
    """
    path = study.place(".controller")
    if path.is_symlink():
        raise StoreError(f"{path}: is a link.", remedy="Delete it; Snakemake makes a file of that name when it starts.")
    return path


def acquire(study: Study) -> IO[str] | None:
    """Become the controller of a study: hold the result as long as jobs run.

    Returns None where the file system has no locks. Raises StudyError saying who the controller is if there is one, and
    StoreError if the results folder cannot be written or the file in it is a link.
    """
    path = lock_path(study)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        file = os.fdopen(os.open(path, flags, 0o666), "a+", encoding="utf-8")
        if not _lock(file):
            owner = _words(_read(file))
            raise StudyError(
                f"{study.file}: {owner} works on {study.root} now. Nothing was started.",
                remedy="Wait until it has ended, or end it; or give your study another name.",
            )
        file.truncate(0)
        file.write(json.dumps(_myself(study), ensure_ascii=False) + "\n")
        file.flush()
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return None
        raise StoreError(
            f"{path}: cannot be written: {(error.strerror or str(error)).lower()}. Nothing was started.",
            remedy="Make room, or choose a results folder that you may write to.",
        ) from None
    return file


def _lock(file: IO[str]) -> bool:
    """Lock a file for this process alone; returns whether nobody else holds it."""
    for attempt in range(_ATTEMPTS):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if attempt < _ATTEMPTS - 1:
                time.sleep(_PAUSE)
    return False


def owner(study: Study) -> dict[str, str | int] | None:
    """What the one that works on the results of a study now wrote of itself (see ``_myself``; empty if it is about to);
    None if nobody does, or nothing can be known."""
    try:
        with lock_path(study).open(encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _read(file)
    except OSError:
        pass
    return None


def other(study: Study) -> str:
    """Who works on the results of a study now, in words; empty as ``owner`` is None."""
    found = owner(study)
    return "" if found is None else _words(found)


def _myself(study: Study) -> dict[str, str | int]:
    return {
        "user": _user(),
        "host": socket.gethostname(),
        "process": os.getpid(),
        "since": datetime.now().astimezone().isoformat(timespec="seconds"),
        "folder": os.getcwd(),
        "study_file": str(study.file),
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without an entry for the user
        return f"user {os.getuid()}"


def _read(file: IO[str]) -> dict[str, str | int]:
    """What the controller wrote of itself; empty where it is just writing it."""
    file.seek(0)
    try:
        found = json.loads(file.read())
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _words(owner: dict[str, str | int]) -> str:
    if not owner:
        return "another Snakemake"
    said = {name: owner.get(name, "?") for name in ("process", "host", "user", "since", "study_file", "folder")}
    text = "another Snakemake (process {process} on {host}, by {user}, since {since}, with {study_file} in {folder})"
    return text.format(**said)
