"""When a job has to be over: by its own option, and by the limit of the SLURM job that it runs in."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

#: Seconds that SLURM's controller is given to say how much time is left.
PATIENCE = 10.0


@dataclass(frozen=True)
class TimeLimit:
    """The end of a job.

    Attributes:
      deadline: when the job has to be over, in seconds of time.monotonic.
      name: what sets the limit, for messages.
    """

    deadline: float
    name: str

    @property
    def left(self) -> float:
        """Seconds until the deadline; negative behind it."""
        return self.deadline - time.monotonic()


def time_limit(minutes: float | None) -> TimeLimit | None:
    """The earlier of ``minutes`` after the start of this process and the end of the SLURM job around it, if any."""
    limits = []
    if minutes is not None:
        limits.append(TimeLimit(time.monotonic() - process_age() + 60 * minutes, f"--minutes {minutes:g}"))
    if (job := os.environ.get("SLURM_JOB_ID")) and (left := _slurm_seconds_left(job)) is not None:
        limits.append(TimeLimit(time.monotonic() + left, f"the end of SLURM job {job}"))
    return min(limits, key=lambda limit: limit.deadline, default=None)


def process_age() -> float:
    """Seconds since this process began; 0 where the system does not tell."""
    try:
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - start_ticks("self") / os.sysconf("SC_CLK_TCK"))
    except (OSError, AttributeError, IndexError, ValueError):
        return 0.0


def start_ticks(process: int | str) -> int:
    """When a process began, in clock ticks since the machine did; raises OSError where the system does not tell."""
    return int(_stat(process)[19])


def is_zombie(process: int) -> bool:
    """Whether a process has ended and was not waited for; raises OSError where the system does not tell."""
    return _stat(process)[0] in "ZX"


def _stat(process: int | str) -> list[str]:
    """Fields of /proc/PID/stat behind the name of the program, which may contain anything."""
    return Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()


def _slurm_seconds_left(job: str) -> float | None:
    """Seconds until SLURM ends the job; None where it does not say or there is no limit.

    The controller is asked for the time left, which no clock of this machine enters and which follows changes of the
    limit. Where it cannot be asked, SLURM_JOB_END_TIME counts, which SLURM sets since 23.02.
    """
    try:
        command = ["squeue", "--noheader", "--jobs", job, "--format", "%L"]
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout
        return _seconds(answer.strip())
    except (OSError, subprocess.SubprocessError):
        end = os.environ.get("SLURM_JOB_END_TIME", "")
        return float(end) - time.time() if end.isdigit() else None


def _seconds(text: str) -> float | None:
    """Seconds of "1-02:03:04", "02:03:04", "03:04"; None of words such as UNLIMITED."""
    days, _, clock = text.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdigit() for part in [days or "0", *parts]):
        return None
    seconds = 0
    for part in parts:
        seconds = 60 * seconds + int(part)
    return 86400.0 * int(days or 0) + seconds
