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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import isclose
from pathlib import Path

from .. import controller, lease
from ..errors import StoreError, StudyError, UserError, write_error
from ..study import Study, header
from .content import Checked, check, check_tables, identity, inputs_of
from .findings import PROBLEMS, REMOVED, Finding, Kind
from .places import Other, Place, Role, classify, expected, found

__all__ = ["PROBLEMS", "REMOVED", "Finding", "Kind", "Report", "repair", "verify"]

#: Seconds for which a temporary file was not written to before it is taken for left over.
ABANDONED = 3600.0


@dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
      findings: sorted by kind and path.
      files: files that were read; nbytes: their size.
      unproven: files that do not say what they were made from, because an earlier version wrote them.
      identities: of the files read, to see whether they are still the same.
    """

    findings: list[Finding]
    files: int
    nbytes: int
    unproven: int
    identities: dict[Path, tuple[int, int, int]]

    @property
    def is_well(self) -> bool:
        """Whether nothing is missing, torn, foreign or stale."""
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
        places, names = expected(study), list(found(study))
    except PermissionError as error:
        raise StoreError(f"{error.filename}: cannot be read: {error.strerror}.", remedy="Ask its owner.") from None
    others = [classify(name) for name in names if name not in places and not name.startswith("tables/")]
    places |= _tiles_in_use(study, places, others)
    checked = _check_all(study, places, jobs, progress)
    if "tables" in checked:
        check_tables(study, checked["tables"], checked.get("metrics.nc"))
    held = {name: holder for name, place in places.items() if (holder := _holder(study, place))}
    findings = [*_judge(study, places, checked, held), *_judge_links(study, places, checked)]
    findings += [
        finding for other in others if other.name not in places for finding in _judge_other(study, other, held)
    ]
    order = list(Kind)
    return Report(
        sorted(set(findings), key=lambda finding: (order.index(finding.kind), str(finding.path))),
        len(checked),
        sum(each.identity[1] for each in checked.values()),
        sum(each.unproven and not each.problem for each in checked.values()),
        {each.place.path: each.identity for each in checked.values()},
    )


def repair(study: Study, report: Report) -> Iterator[Finding]:
    """Remove what is torn, foreign, stale or left over, and nothing else; yields what was removed.

    What changed since it was read stays. Raises StudyError while a Snakemake works on the results, StoreError where the
    file system refuses.
    """
    if other := controller.other(study):
        raise StudyError(f"{study.root}: {other} works on it now.", remedy="Repair it when that has ended.")
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


def _tiles_in_use(study: Study, places: dict[str, Place], others: list[Other]) -> dict[str, Place]:
    """Tiles of kernels of the study that are not assembled yet."""
    waiting = {p.key: p for p in places.values() if p.role is Role.KERNELS and not p.path.exists()}
    return {
        other.name: Place(study.root / other.name, Role.TILES, False, waiting[other.key].arm, key=other.key)
        for other in others
        if other.what == "tiles" and other.key in waiting
    }


def _check_all(
    study: Study, places: dict[str, Place], jobs: int, progress: Callable[[int, int], None]
) -> dict[str, Checked]:
    """Every file that is there, read; the largest first, so that no thread is left with one at the end."""
    sizes = {name: place.path.lstat().st_size for name, place in places.items() if os.path.lexists(place.path)}
    order = sorted(sizes, key=lambda name: -sizes[name])
    total, done, told, checked = sum(sizes.values()), 0, -1, {}
    with ThreadPoolExecutor(jobs) as pool:
        for name, each in zip(order, pool.map(lambda name: check(study, places[name]), order), strict=True):
            if each is not None:
                checked[name] = each
            done += sizes[name]
            if done // 10**6 > told:
                told = done // 10**6
                progress(told, total // 10**6)
    return checked


# ------------------------------------------------------------------------------------------- what is wrong


def _judge(
    study: Study, places: dict[str, Place], checked: dict[str, Checked], held: dict[str, lease.Holder]
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


def _judge_links(study: Study, places: dict[str, Place], checked: dict[str, Checked]) -> Iterator[Finding]:
    """Files that are whole, but were made from others than there are now."""
    rates = {
        each.place.key: each.attributes["learning_rate"]
        for each in checked.values()
        if each.place.role is Role.RATE and not each.problem
    }
    for each in checked.values():
        if each.problem:
            continue
        place, said = each.place, each.attributes
        try:
            inputs = inputs_of(each)
        except UserError as error:
            yield Finding(Kind.TORN, place.path, str(error))
            continue
        for source, checksum in inputs.items():
            now = checked[source].checksum if source in checked else None
            if now is not None and now != checksum:
                yield Finding(Kind.STALE, place.path, f"was made from another {source} than there is")
        if place.role is Role.RESULT and study.kind == "ensemble" and inputs:
            yield from _judge_shards(places, checked, place, inputs)
        if place.role in (Role.SHARD, Role.THEORY) and place.arm.settings.resolves_learning_rate:
            rate = rates.get(place.arm.learning_rate_key)
            if rate is not None and not isclose(rate, said.get("learning_rate", rate), rel_tol=1e-9):
                yield Finding(Kind.STALE, place.path, f"has learning rate {said['learning_rate']}, resolved is {rate}")


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


def _judge_other(study: Study, other: Other, held: dict[str, lease.Holder]) -> Iterator[Finding]:
    """A file that the study does not expect."""
    path = study.root / other.name
    shard = ""
    if other.what in ("checkpoint", "lease") and other.members:
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
    elif other.what in ("checkpoint", "lease"):
        if shard not in held and (study.root / shard).exists():
            folder = path.parent if other.what == "lease" else path
            if other.what == "checkpoint" or _is_free(folder):
                yield Finding(Kind.LEFTOVER, folder, "its shard is trained")
        elif shard not in held and other.arm not in {arm.path for arm in study.arms}:
            yield Finding(Kind.UNUSED, path, "its arm is not in the sweep")
    elif other.what == "temporary":
        if _is_abandoned(path) and not any(Path(name).name in path.as_posix() for name in held):
            yield Finding(Kind.LEFTOVER, path, "its writer did not finish it")
    elif other.what == "picture":
        yield Finding(Kind.UNUSED, path, "the study has no such picture now")
    else:
        yield Finding(Kind.UNKNOWN, path, "no study makes such a file")


def _judge_unused(study: Study, other: Other, path: Path) -> Finding:
    """A result under a name that the study does not use: another's, or of an arm that is not in the sweep."""
    said = header(path)
    owner, arm = said.get("study", study.name), said.get("arm", other.arm)
    if owner != study.name:
        return Finding(Kind.FOREIGN, path, f"belongs to the study {owner!r}")
    if other.arm and arm != other.arm:
        return Finding(Kind.FOREIGN, path, f"belongs to the arm {arm!r}")
    return Finding(Kind.UNUSED, path, "no arm of the sweep uses it now")


# --------------------------------------------------------------------------------------------- what is alive


def _holder(study: Study, place: Place) -> lease.Holder | None:
    """Who may be training a shard: a holder on another machine that died is not told from one that lives."""
    if place.members is None:
        return None
    holder = lease.holder(study.lease_path(place.arm, *place.members))
    return None if holder is None or holder.is_gone else holder


def _is_free(folder: Path) -> bool:
    holder = lease.holder(folder)
    return holder is None or holder.is_gone


def _is_abandoned(path: Path) -> bool:
    try:
        return time.time() - path.lstat().st_mtime > ABANDONED
    except FileNotFoundError:
        return False
