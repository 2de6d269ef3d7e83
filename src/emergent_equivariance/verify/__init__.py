"""Whether what lies under results/STUDY is the study: every file read again, and held against what it was made from.

A file is judged by itself (whole, of the settings its place says), and by the checksums that it recorded of what it was
made from. What cannot be proven from hashes and checksums is not said: no time stamps are compared, except of temporary
files. One file is judged stale or torn, not those made from it: the workflow makes them again after it.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from .. import lease
from ..errors import StoreError, UserError, write_error
from ..study import Study, header
from .content import Checked, check, check_tables, identity, inputs_of
from .findings import PROBLEMS, REMOVED, Finding, Kind
from .places import Other, Place, Role, classify, expected, found, shards_planned, shards_there
from .rates import judge_rates

__all__ = ["PROBLEMS", "REMOVED", "Finding", "Kind", "Report", "repair", "verify"]

#: Seconds for which a temporary file was not written to before it is taken for left over.
ABANDONED = 3600.0

#: Bytes from which on files are read by processes instead of threads: a process takes a second to start, but threads
#: share the one reading loop of zarr.
WORTH_PROCESSES = 2 * 10**9


@dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
      findings: sorted by kind and path.
      files: files that were read; nbytes: their size.
      unproven: files that do not say what they were made from, because an earlier version wrote them.
      allowed: members that are missing, and may be (execution.allow_missing).
      identities: of the files read, to see whether they are still the same.
    """

    findings: list[Finding]
    files: int
    nbytes: int
    unproven: int
    allowed: int
    identities: dict[Path, tuple[int, int, int]]

    @property
    def is_well(self) -> bool:
        """Whether nothing is missing, torn, foreign, stale or doubtful."""
        return not any(finding.kind in PROBLEMS for finding in self.findings)


def verify(study: Study, jobs: int = 1, progress: Callable[[int, int], None] = lambda done, total: None) -> Report:
    """Read everything under the root of a study again. Nothing is written.

    Args:
      study: the study.
      jobs: files read at the same time.
      progress: called with (MB read, MB in all).

    Raises StoreError where a link leads out of the results folder, or it cannot be listed.
    """
    try:
        places, names = expected(study) | shards_there(study), list(found(study))
    except PermissionError as error:
        raise StoreError(f"{error.filename}: cannot be read: {error.strerror}.", remedy="Ask its owner.") from None
    others = [classify(name) for name in names if name not in places and not name.startswith("tables/")]
    places |= _tiles_in_use(study, places, others)
    checked = _check_all(study, places, jobs, progress)
    if "tables" in checked:
        check_tables(study, checked["tables"], checked.get("metrics.nc"))
    wrong = [*_judge_inputs(checked), *judge_rates(checked.values())]
    removed = {finding.path for finding in wrong if finding.kind in REMOVED}
    whole = {name for name, each in checked.items() if not each.problem and each.place.path not in removed}
    shards = [name for name, place in places.items() if place.role is Role.SHARD]
    planned = shards_planned(study, (places[name] for name in shards if name in whole))
    for name in shards:
        if name not in planned and (name in whole or name not in checked):
            del places[name]
    others += [classify(name) for name in shards if name in whole and name not in planned]
    places |= planned
    held = {name: holder for name, place in places.items() if (holder := _holder(study, place))}
    findings = [*wrong, *_judge(study, places, checked, held), *_judge_ensembles(study, places, checked)]
    findings += [finding for other in others for finding in _judge_other(study, other, whole, held)]
    order = list(Kind)
    return Report(
        sorted(set(findings), key=lambda finding: (order.index(finding.kind), str(finding.path))),
        len(checked),
        sum(each.identity[1] for each in checked.values()),
        sum(each.unproven and not each.problem for each in checked.values()),
        _allowed(planned),
        {each.place.path: each.identity for each in checked.values()},
    )


def repair(report: Report) -> Iterator[Finding]:
    """Remove what is torn, foreign, stale or left over, and nothing else; yields what was removed.

    What changed since it was read stays. The caller is the controller of the study since before it was verified (see
    ``controller.acquire``). Raises StoreError where the file system refuses.
    """
    for finding in report.findings:
        path = finding.path
        if finding.kind not in REMOVED or not os.path.lexists(path):
            continue
        if path in report.identities and identity(path) != report.identities[path]:
            continue
        try:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        except OSError as error:
            raise write_error(path, error) from None
        yield finding


def _allowed(planned: dict[str, Place]) -> int:
    """Members of shards that are missing and not needed."""
    missing = [place for place in planned.values() if not place.needed and place.members]
    return sum(
        min(last, place.arm.settings.ensemble.members - 1) - first + 1
        for place in missing
        if place.members
        for first, last in [place.members]
    )


def _tiles_in_use(study: Study, places: dict[str, Place], others: list[Other]) -> dict[str, Place]:
    """Tiles of kernels of the study that are not assembled yet."""
    waiting = {p.key: p for p in places.values() if p.role is Role.KERNELS and not p.path.exists()}
    return {
        other.name: Place(study.root / other.name, Role.TILES, False, waiting[other.key].arm, key=other.key)
        for other in others
        if other.what == "tiles" and other.key in waiting
    }


def readers(jobs: int, nbytes: int) -> Executor:
    """What reads ``nbytes`` of files, ``jobs`` at the same time."""
    if jobs > 1 and nbytes >= WORTH_PROCESSES:
        return ProcessPoolExecutor(jobs, mp_context=get_context("spawn"))
    return ThreadPoolExecutor(jobs)


def _check_all(
    study: Study, places: dict[str, Place], jobs: int, progress: Callable[[int, int], None]
) -> dict[str, Checked]:
    """Every file that is there, read; the largest first, so that no thread is left with one at the end."""
    sizes = {name: place.path.lstat().st_size for name, place in places.items() if os.path.lexists(place.path)}
    order = sorted(sizes, key=lambda name: -sizes[name])
    total, done, told, checked = sum(sizes.values()), 0, -1, {}
    with readers(jobs, total) as pool:
        found = pool.map(partial(check, study), (places[name] for name in order))
        for name, each in zip(order, found, strict=True):
            if each is not None:
                checked[name] = each
            done += sizes[name]
            if done // 10**6 > told:
                told = done // 10**6
                progress(told, total // 10**6)
    return checked


# ------------------------------------------------------------------------------------------- what is wrong


def _judge(
    study: Study, places: dict[str, Place], checked: dict[str, Checked], held: dict[str, str]
) -> Iterator[Finding]:
    """Files by themselves: those that are not there, and those with a problem of their own."""
    for name, place in places.items():
        if name in held and (name not in checked or checked[name].problem):
            yield Finding(Kind.TRAINING, place.path, f"held by {held[name]}")
        elif name in checked:
            if (problem := checked[name].problem) is not None:
                yield problem
        elif place.needed:
            waits = place.members and study.checkpoint_path(place.arm, *place.members).exists()
            reason = "a checkpoint is there, from which its training goes on" if waits else f"no {place.role}"
            yield Finding(Kind.MISSING, place.path, reason)


def _judge_inputs(checked: dict[str, Checked]) -> Iterator[Finding]:
    """Files that are whole, but were made from others than there are now."""
    for each in checked.values():
        if each.problem:
            continue
        place = each.place
        try:
            inputs = inputs_of(each)
        except UserError as error:
            yield Finding(Kind.TORN, place.path, str(error))
            continue
        for source, checksum in inputs.items():
            now = checked[source].checksum if source in checked else None
            if now is not None and now != checksum:
                yield Finding(Kind.STALE, place.path, f"was made from another {source} than there is")


def _judge_ensembles(study: Study, places: dict[str, Place], checked: dict[str, Checked]) -> Iterator[Finding]:
    """Ensembles that were not formed of the shards of their arm that are there."""
    for each in checked.values():
        if each.place.role is Role.RESULT and study.kind == "ensemble" and not each.problem:
            with suppress(UserError):  # is torn, and named
                if inputs := inputs_of(each):
                    yield from _judge_shards(places, checked, each.place, inputs)


def _judge_shards(
    places: dict[str, Place], checked: dict[str, Checked], place: Place, inputs: dict[str, str]
) -> Iterator[Finding]:
    """Whether an ensemble was formed of the shards of its arm that are there, and of no others."""
    of_arm = {n for n, p in places.items() if p.role is Role.SHARD and p.arm.path == place.arm.path}
    formed = {source for source in inputs if source.startswith("members/")}
    without = sorted(name for name in of_arm - formed if name in checked and not checked[name].problem)
    if without:
        yield Finding(Kind.STALE, place.path, f"was formed without {without[0]}")
    if beyond := sorted(formed - of_arm):
        yield Finding(Kind.STALE, place.path, f"was formed of {beyond[0]}, which is none of the shards of its arm")


def _judge_other(study: Study, other: Other, whole: set[str], held: dict[str, str]) -> Iterator[Finding]:
    """A file that the study does not expect. Nothing but what a study leaves behind is said to be left over."""
    path = study.root / other.name
    shard = ""
    if other.members and other.arm:
        first, last = other.members
        shard = f"members/{other.arm}/members-{first:06d}-{last:06d}.zarr.zip"
    if path.is_symlink():
        yield Finding(Kind.UNKNOWN, path, "is a link, which is not followed")
    elif other.what == "result":
        yield _judge_unused(study, other, path)
    elif other.what == "tiles":
        known = any(arm.kernel_key == other.key for arm in study.arms)
        kind, reason = (Kind.LEFTOVER, "its kernels are assembled") if known else (Kind.UNUSED, "no arm uses it now")
        yield Finding(kind, path, reason)
    elif other.what in ("checkpoint", "lease", "taker"):
        yield from _judge_training(study, other, path, shard in whole, shard in held)
    elif other.what == "temporary":
        if _is_abandoned(path) and not any(Path(name).name in path.as_posix() for name in held):
            yield Finding(Kind.LEFTOVER, path, "its writer did not finish it")
    elif other.what == "picture":
        yield Finding(Kind.UNUSED, path, "the study has no such picture or page now")
    else:
        yield Finding(Kind.UNKNOWN, path, "no study makes such a file")


def _judge_training(study: Study, other: Other, path: Path, trained: bool, held: bool) -> Iterator[Finding]:
    """A checkpoint or a lease; ``trained``: whether its shard is whole, ``held``: whether a job may be training it."""
    if path.is_dir() != (other.what != "checkpoint"):
        yield Finding(Kind.UNKNOWN, path, "no study makes such a file")
    elif other.arm not in {arm.path for arm in study.arms}:
        yield Finding(Kind.UNUSED, path, "its arm is not in the sweep")
    elif other.what == "taker":
        if _is_abandoned(path) or (not _holder_at(path) and any(path.iterdir())):
            yield Finding(Kind.LEFTOVER, path, "the job that wanted the lease has ended")
    elif trained and not held and (other.what == "checkpoint" or not _holder_at(path)):
        yield Finding(Kind.LEFTOVER, path, "its shard is trained")


def _judge_unused(study: Study, other: Other, path: Path) -> Finding:
    """A result under a name that the study does not read, and that hinders nothing: whosever it is, it stays."""
    said = header(path)
    if (owner := said.get("study", study.name)) != study.name:
        return Finding(Kind.UNUSED, path, f"belongs to the study {owner!r}")
    if other.arm and (arm := said.get("arm", other.arm)) != other.arm:
        return Finding(Kind.UNUSED, path, f"belongs to the arm {arm!r}")
    return Finding(Kind.UNUSED, path, "no arm of the sweep uses it now")


# --------------------------------------------------------------------------------------------- what is alive


def _holder(study: Study, place: Place) -> str:
    """Who may be training a shard, "" if nobody does."""
    return "" if place.members is None else _holder_at(study.lease_path(place.arm, *place.members))


def _holder_at(folder: Path) -> str:
    """Who holds a lease: a holder on another machine that died is not told from one that lives."""
    try:
        holder = lease.holder(folder)
    except OSError as error:
        return f"whom {folder} does not tell ({error.strerror})"
    return "" if holder is None or holder.is_gone else str(holder)


def _is_abandoned(path: Path) -> bool:
    try:
        return time.time() - path.lstat().st_mtime > ABANDONED
    except FileNotFoundError:
        return False
