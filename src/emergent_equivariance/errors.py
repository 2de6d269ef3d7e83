"""The one exception that reaches a user as a paragraph instead of a traceback."""

from __future__ import annotations

import errno
from pathlib import Path

#: Exit code of a job that stopped because it was asked to and goes on when it is run again (EX_TEMPFAIL of sysexits.h).
INTERRUPTED = 75


class UserError(Exception):
    """Something the user can mend: a study file, a data set, a store, a full disk.

    Args:
      message: what is wrong, naming file, key and value.
      remedy: what to do about it.
    """

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(f"{message} {remedy}".strip())
        self.message, self.remedy = message, remedy


class StudyError(UserError):
    """The study file cannot be run as written."""


class DataError(UserError):
    """A data set is missing, damaged, or does not fit the study."""


class StoreError(UserError):
    """A file under results/ is missing, torn, or belongs to another study."""


class TrackingError(UserError):
    """Weights & Biases cannot be reached, or refuses what it is asked for."""


class Interrupted(Exception):
    """A job stopped because it was asked to, and goes on when it is run again; the message is for the user."""


class Superseded(Interrupted):
    """Another job does the work of this one, which was taken for dead."""


def write_error(path: Path, error: OSError) -> StoreError:
    """What a file system that refuses to write means for the user."""
    reasons = {
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "your disk quota is used up",
        errno.EROFS: "the disk is read-only",
    }
    reason = reasons.get(error.errno or 0, error.strerror or str(error))
    return StoreError(
        f"{path}: cannot be written: {reason}. Nothing already written is lost.",
        remedy="Make room or choose a results folder that you may write to, then run the same command again.",
    )
