"""How far a study is: what is done, running, waiting, failed and missing, how fast it goes and how long it takes still.

Nothing is written, and no array is read: names of files, times of their modification, the headers of a few shards, the
leases of those in training, and the last lines of the logs of what is not there.
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from . import controller, lease
from .errors import StoreError
from .settings import Settings
from .study import Arm, Study, header
from .study.missing import Lost, last_words, lost_of_all, lost_of_arm
from .study.resources import jobs, known_probe, member_seconds
from .study.shards import shard_name

State = Literal["done", "running", "waiting", "failed", "missing"]
#: In the order in which they are shown. waiting: not begun, and a Snakemake works on the study; missing: none does.
STATES: tuple[State, ...] = ("done", "running", "failed", "waiting", "missing")

#: Rule → what its jobs make, in the order in which it is made.
STAGES = {
    "make_data": "data",
    "compute_kernel_tiles": "tiles of kernels",
    "assemble_kernels": "kernels",
    "resolve_learning_rate": "learning rates",
    "compute_theory": "analytic solutions",
    "probe_engine": "choices of an engine",
    "train_shard": "shards",
    "aggregate_arm": "ensembles",
    "measure_kernels": "measurements",
    "join_metrics": "metrics",
    "draw_figures": "figures and report",
}

#: Newest shards of an arm whose headers are read, for their speed.
SAMPLED = 4
#: Seconds of the past in which finished shards tell the speed of a run.
WINDOW = 900.0
#: Seconds by which clocks may differ, and a sign of life may be late.
TOLERANCE = 15.0

NAN = float("nan")
_UNKNOWN = dict.fromkeys(("process", "host", "user", "since"), "?")


@dataclass(frozen=True)
class Running:
    """A job that is at work.

    Attributes:
      arm: folder name of the arm.
      what: what it makes, in words.
      holder: host, process and job, in words; "" where it has not said yet.
      seconds: since it began, by the clocks of both machines; NaN where it has not said.
    """

    arm: str
    what: str
    holder: str
    seconds: float


@dataclass(frozen=True)
class Failed:
    """A job that failed, and its reason: the line of its log that says so."""

    arm: str
    what: str
    reason: str
    log: str


@dataclass(frozen=True)
class ArmStatus:
    """How far an arm is.

    Attributes:
      path: its folder name.
      states: of its shards in order; of its measurement in a study of kernels.
      members, members_done: of its ensemble; 0 in a study of kernels.
      seconds_per_member: of one job; None where it is not known.
      measured: whether that is what finished shards took; else it is estimated, as by ``emeq plan``.
      complete: whether its ensemble or measurement is there, so that nothing more is needed; with
        execution.allow_missing some shards may be missing.
    """

    path: str
    states: list[State]
    members: int
    members_done: int
    seconds_per_member: float | None
    measured: bool
    complete: bool


@dataclass(frozen=True)
class Stage:
    """How many of the jobs of a rule are in which state."""

    rule: str
    what: str
    states: dict[State, int]

    @property
    def of(self) -> int:
        return sum(self.states.values())


@dataclass(frozen=True)
class Pace:
    """How fast members are trained now.

    Attributes:
      members_per_second: of all jobs together, starts included; None where no shard was finished lately.
      window: seconds of the past that this is of.
      seconds_left: until all members are trained; None where that cannot be said, as where nothing runs.
      measured: whether ``seconds_left`` rests on what finished shards took; else it is estimated.
    """

    members_per_second: float | None
    window: float
    seconds_left: float | None
    measured: bool


@dataclass(frozen=True)
class Status:
    """How far a study is. See the parts."""

    study: str
    file: str
    kind: str
    root: str
    complete: bool
    worker: str
    arms: list[ArmStatus]
    stages: list[Stage]
    running: list[Running]
    failed: list[Failed]
    checkpoints: int
    pace: Pace

    @property
    def members(self) -> int:
        return sum(arm.members for arm in self.arms)

    @property
    def members_done(self) -> int:
        return sum(arm.members_done for arm in self.arms)

    def to_json(self) -> dict[str, Any]:
        """What ``emeq status --json`` prints: all attributes, the states of shards counted; no NaN."""
        found = asdict(self) | {"members": self.members, "members_done": self.members_done}
        for arm in found["arms"]:
            arm["shards"] = dict(Counter(arm.pop("states")))
        for job in found["running"]:
            job["seconds"] = None if math.isnan(job["seconds"]) else job["seconds"]
        return found


def status(study: Study) -> Status:
    """How far a study is now.

    Raises StoreError where a folder of its results cannot be read or a link leads out of them, and StudyError where
    they hold members of another version of the study.
    """
    return _Look(study).status()


class _Look:
    """One look at a study."""

    def __init__(self, study: Study) -> None:
        self.study, self.now = study, time.time()
        owner = controller.owner(study)
        self.worker = "" if owner is None else _worker_words(owner)
        self.since = _timestamp(owner.get("since")) if owner else None
        self.running: list[Running] = []
        self.failed: list[Failed] = []
        self.training: list[float] = []  # seconds since they began, of shards in training
        self.checkpoints = 0
        self.finished: list[tuple[float, float, int]] = []  # time, seconds of work, members: of shards
        self.left, self.left_estimated = 0.0, 0.0  # seconds of work in which shards tell the speed, and the plan does
        self.known = True
        self.compared = (0.0, 0.0)  # seconds that members of arms in training take, and would by the plan

    def status(self) -> Status:
        study = self.study
        lost = {arm.path: list(lost_of_arm(study, arm)) for arm in study.arms}
        final = list(lost_of_all(study))
        arms = [self._arm(arm, lost[arm.path]) for arm in study.arms]
        stages = self._stages(arms, lost, final)
        complete = not final and not any(lost.values())
        return Status(
            study.name,
            str(study.file),
            study.kind,
            str(study.root),
            complete,
            self.worker,
            arms,
            stages,
            self.running,
            self.failed,
            self.checkpoints,
            self._pace(),
        )

    # ------------------------------------------------------------------------------------------------ arms

    def _arm(self, arm: Arm, lost: list[Lost]) -> ArmStatus:
        complete = not lost
        if self.study.kind != "ensemble":
            measured = [self._state(part, arm.path) for part in lost if part.rule == "measure_kernels"]
            return ArmStatus(arm.path, measured or ["done"], 0, 0, None, False, complete)
        settings = arm.settings
        assert isinstance(settings, Settings)
        members, shards = settings.ensemble.members, self.study.shards(arm)
        missing = {part.path.name: part for part in lost if part.rule == "train_shard"}
        folder = self.study.shard_path(arm, 0, 0).parent
        beside = _modified(folder)
        hidden = {name for name in beside if name.startswith(".")}
        logs = _modified(self.study.log_path(folder / "any").parent) if missing else {}
        each, is_measured = self._member_seconds(arm, folder, beside, shards)
        states: list[State] = []
        done = 0
        for first, last in shards:
            name, count = shard_name(first, last), min(last + 1, members) - first
            if name in beside:
                states.append("done")
                done += count
                self.finished.append((beside[name], count * (each or 0.0), count))
                continue
            self.checkpoints += bool(hidden) and self.study.checkpoint_path(arm, first, last).name in hidden
            if name not in missing:
                states.append("missing")
                continue
            is_held = bool(hidden) and self.study.lease_path(arm, first, last).name in hidden
            states.append(self._shard(arm, (first, last), missing[name], is_held, missing[name].log.name in logs))
            self._add_work(states[-1], None if each is None else each * count, is_measured)
        return ArmStatus(arm.path, states, members, done, each, is_measured, complete)

    def _shard(self, arm: Arm, shard: tuple[int, int], part: Lost, is_held: bool, has_log: bool) -> State:
        """State of a shard that is not there."""
        held = lease.holder(self.study.lease_path(arm, *shard)) if is_held else None
        if held is not None and not (silent := self._silence(arm, shard, held)):
            since = _timestamp(held.since)
            seconds = NAN if since is None else max(0.0, self.now - since)
            self.running.append(Running(arm.path, part.what, _holder_words(held), seconds))
            self.training.append(seconds)
            return "running"
        state = self._state(part, arm.path, is_begun=False) if has_log else self._idle
        if state == "running":
            self.training.append(self.running[-1].seconds)
        if held is not None and state == "missing":
            self.failed.append(Failed(arm.path, part.what, f"{_holder_words(held)}: {silent}", str(part.log)))
            return "failed"
        return state

    def _silence(self, arm: Arm, shard: tuple[int, int], held: lease.Holder) -> str:
        """Why the holder of a shard's lease is taken for dead; empty if it is not."""
        if held.is_gone:
            return "has ended without a word"
        silent = self.now - max(_modified(self.study.lease_path(arm, *shard)).values(), default=self.now)
        return f"has not been heard of for {silent:.0f} s" if silent > lease.SILENCE + TOLERANCE else ""

    def _add_work(self, state: State, work: float | None, measured: bool) -> None:
        if work is None:
            self.known = False
            return
        if state == "running" and not math.isnan(self.training[-1]):
            work = max(0.0, work - self.training[-1])
        if measured:
            self.left += work
        else:
            self.left_estimated += work

    def _member_seconds(
        self, arm: Arm, folder: Path, beside: dict[str, float], shards: list[tuple[int, int]]
    ) -> tuple[float | None, bool]:
        """Seconds of one job to train a member; and whether shards of the arm tell, and not the plan."""
        counts = {shard_name(first, last): last - first + 1 for first, last in shards}
        newest = sorted((name for name in counts if name in beside), key=lambda name: beside[name])[-SAMPLED:]
        seconds, members = 0.0, 0
        for name in newest:
            said = header(folder / name)
            self.study.check_shard(arm, folder / name, said)
            took = said.get("seconds")
            if isinstance(took, (int, float)) and took > 0:
                seconds, members = seconds + took, members + counts[name]
        assert isinstance(arm.settings, Settings)
        each = member_seconds(arm.settings, known_probe(self.study, arm))
        if members:
            if each < float("inf"):
                self.compared = self.compared[0] + seconds / members, self.compared[1] + each
            return seconds / members, True
        return (each if each < float("inf") else None), False

    # ---------------------------------------------------------------------------------------------- states

    @property
    def _idle(self) -> State:
        return "waiting" if self.worker else "missing"

    def _state(self, part: Lost, arm: str, *, is_begun: bool = True) -> State:
        """State of what is not there, as its log tells; what runs or failed is noted.

        Args:
          part: what is not there.
          arm: folder name of its arm.
          is_begun: whether a job that said something, and nothing of an error, is at work: one that trains would have
            been seen by its lease.
        """
        try:
            modified, said = part.log.stat().st_mtime, last_words(part.log)
        except OSError:
            return self._idle
        if self.since is not None and modified < self.since - TOLERANCE:
            return "waiting"  # the log is of a run before this one
        if said.is_error:
            self.failed.append(Failed(arm, part.what, said.text, str(part.log)))
            return "failed"
        if not self.worker or (said.text and not is_begun):
            return self._idle
        self.running.append(Running(arm, part.what, "", NAN if said.text else max(0.0, self.now - modified)))
        return "running"

    def _stages(self, arms: list[ArmStatus], lost: dict[str, list[Lost]], final: list[Lost]) -> list[Stage]:
        states: dict[str, dict[Path, State]] = {}
        for arm, parts in lost.items():
            for part in parts:
                known = states.setdefault(part.rule, {})
                if part.rule not in ("train_shard", "measure_kernels") and part.path not in known:
                    known[part.path] = self._state(part, arm)
        for part in final:
            known = states.setdefault(part.rule, {})
            if not known:
                known[part.log] = self._state(part, "")
        stages: dict[str, Counter[State]] = {}
        for job in jobs(self.study):
            counts = stages.setdefault(job.rule, Counter())
            counts["done"] += job.count
            if job.rule == "compute_kernel_tiles" and "assemble_kernels" in states:
                counts[self._idle] += job.missing
                counts["done"] -= job.missing
        for rule, found in states.items():
            stages.setdefault(rule, Counter({"done": len(found)})).update(found.values())
            stages[rule]["done"] -= len(found)
        for rule in ("train_shard", "measure_kernels"):
            if rule in stages:
                stages[rule] = Counter(state for arm in arms for state in arm.states)
        return [Stage(rule, what, _ordered(stages[rule])) for rule, what in STAGES.items() if rule in stages]

    # ------------------------------------------------------------------------------------------------ pace

    def _pace(self) -> Pace:
        """From the work that jobs did lately, over the time in which they did it."""
        begin = max(self.now - WINDOW, self.since or 0.0)
        lately = [shard for shard in self.finished if shard[0] >= begin] if self.worker else []
        spans = [(at - work, at) for at, work, _ in lately]
        spans += [(self.now - seconds, self.now) for seconds in self.training if not math.isnan(seconds)]
        begin = max(begin, min((start for start, _ in spans), default=begin))
        window = max(self.now - begin, 1.0)
        rate = sum(count for *_, count in lately) / window if lately else None
        parallel = sum(end - max(start, begin) for start, end in spans) / window
        parallel = parallel or float(len(self.running))
        took, planned = self.compared
        left = self.left + self.left_estimated * (took / planned if planned else 1.0)
        if not self.known or (left and not parallel):
            return Pace(rate, window, None, False)
        return Pace(rate, window, left / parallel if left else 0.0, not self.left_estimated)


def _ordered(counts: Counter[State]) -> dict[State, int]:
    return {state: counts[state] for state in STATES if counts[state]}


def _modified(folder: Path) -> dict[str, float]:
    """Name → time of modification of what is in a folder; empty if there is none."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name: modified for entry in entries if (modified := _time(entry)) is not None}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StoreError(
            f"{folder}: cannot be read ({error.strerror}).", remedy="Make it a folder that you may read."
        ) from None


def _time(entry: os.DirEntry[str]) -> float | None:
    try:
        return entry.stat().st_mtime
    except OSError:  # gone meanwhile
        return None


def _holder_words(held: lease.Holder) -> str:
    return f"{held.host}, " + (f"SLURM job {held.job}" if held.job else f"process {held.process}")


def _worker_words(owner: dict[str, str | int]) -> str:
    if not owner:
        return "Snakemake"
    return "Snakemake (process {process} on {host}, by {user}, since {since})".format(**{**_UNKNOWN, **owner})


def _timestamp(text: object) -> float | None:
    """Seconds since 1970 of an ISO time."""
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return None
