"""The one exception that reaches a user as a paragraph instead of a traceback."""

from __future__ import annotations

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
