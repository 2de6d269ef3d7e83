"""The words of a verification."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Kind(StrEnum):
    """What is the matter with a file; docs/layout.md explains the words."""

    MISSING = "missing"
    TORN = "torn"
    FOREIGN = "foreign"
    STALE = "stale"
    DOUBTFUL = "doubtful"
    LEFTOVER = "leftover"
    TRAINING = "in training"
    UNUSED = "unused"
    UNKNOWN = "unknown"


#: With these a study is not well: exit code 1.
PROBLEMS = (Kind.MISSING, Kind.TRAINING, Kind.TORN, Kind.FOREIGN, Kind.STALE, Kind.DOUBTFUL)

#: These a repair removes.
REMOVED = (Kind.TORN, Kind.FOREIGN, Kind.STALE, Kind.LEFTOVER)


@dataclass(frozen=True)
class Finding:
    """Something to say about a file or folder."""

    kind: Kind
    path: Path
    reason: str
