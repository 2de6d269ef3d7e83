"""What lies under results/STUDY, and what should: from names alone, nothing is read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ..study import Arm, Study
from ..study.products import FIGURE_FORMATS, figure_names
from ..study.shards import plan_shards
from ..study.tiling import planned_tiling

#: What is no result: never looked into.
IGNORED = {"logs", "benchmarks", "tracking", ".cache", ".controller", "snakemake-report.html"}

_KEY, _ARM, _RANGE = "[0-9a-f]{16}", r"[^/]+~[^/]*(?:/[^/]+~[^/]*)*", r"(\d{6})-(\d{6})"
#: Names of files that some study makes.
_RESULT = re.compile(
    rf"data/{_KEY}\.zarr\.zip|kernels/{_KEY}\.zarr\.zip|theory/{_KEY}\.(?:zarr\.zip|learning-rate\.json)"
    rf"|engine/{_KEY}\.json|(?:ensemble|measures)/(?P<arm>{_ARM})\.zarr\.zip"
    rf"|members/(?P<folder>{_ARM})/members-{_RANGE}\.zarr\.zip"
)
_TILES = re.compile(rf"kernels/(?P<key>{_KEY})/tiles?-\d{{6}}(?:-\d{{6}})?\.zarr\.zip")
_TRAINING = re.compile(
    rf"members/(?P<folder>{_ARM})/\.members-{_RANGE}\.(?P<what>checkpoint\.zarr\.zip|lease(?:\.[0-9a-f]{{16}})?)"
)
#: Those of ``store.atomic_path``, and of earlier versions with the number of the process.
_TEMPORARY = re.compile(r"(?:.*/)?\.[^/]+\.(?:[0-9a-f]{12}|\d+)\.tmp")


class Role(StrEnum):
    """What a file is."""

    DATA = "data"
    KERNELS = "kernels"
    TILES = "tiles of kernels"
    RATE = "learning rate"
    ENGINE = "choice of engine"
    THEORY = "theory"
    SHARD = "shard"
    RESULT = "result of an arm"
    METRICS = "metrics"
    TABLES = "tables"
    PICTURE = "picture"
    REPORT = "report"


@dataclass(frozen=True)
class Place:
    """A file that belongs to the study.

    Attributes:
      path: where it is.
      role: what it is.
      needed: whether it is missed if it is not there; what others were made from may be gone.
      arm: an arm that uses it; of a result, its arm.
      attribute: of the file, that says for which settings it was made.
      key: value of that attribute.
      members: first and last member of a shard.
      shared: whether it is named by its key, not by an arm.
    """

    path: Path
    role: Role
    needed: bool
    arm: Arm
    attribute: str = "config_hash"
    key: str = ""
    members: tuple[int, int] | None = None

    @property
    def shared(self) -> bool:
        """Whether the name of the file is its key."""
        return self.role in (Role.DATA, Role.KERNELS, Role.TILES, Role.RATE, Role.ENGINE, Role.THEORY)


def expected(study: Study) -> dict[str, Place]:
    """The files of a complete study, by path under its root; shards planned from all that are there."""
    places: list[Place] = []
    for arm in study.arms:
        places += _of_arm(study, arm)
    some = study.arms[0]
    places.append(Place(study.metrics_path, Role.METRICS, True, some, key=study.metrics_hash))
    places.append(Place(study.table_path("x").parent, Role.TABLES, True, some))
    for name in figure_names(study):
        for suffix in FIGURE_FORMATS:
            places.append(Place(study.figures_folder / f"{name}.{suffix}", Role.PICTURE, True, some))
    places.append(Place(study.report_path, Role.REPORT, True, some))
    files = {name_of(study, place.path): place for place in places}
    return files | shards_planned(study, shards_there(study).values())


def _of_arm(study: Study, arm: Arm) -> Iterator[Place]:
    yield Place(study.data_path(arm), Role.DATA, False, arm, "data_key", arm.data_key)
    if planned_tiling(arm.settings) is not None:
        yield Place(study.kernel_path(arm), Role.KERNELS, False, arm, key=arm.kernel_key)
    yield Place(study.result_path(arm), Role.RESULT, True, arm, key=arm.result_hash)
    if study.kind != "ensemble":
        return
    if arm.settings.resolves_learning_rate:
        path = study.learning_rate_path(arm)
        yield Place(path, Role.RATE, False, arm, "learning_rate_key", arm.learning_rate_key)
    if arm.settings.has_mean:
        yield Place(study.theory_path(arm), Role.THEORY, False, arm, "theory_key", arm.theory_key)
    yield Place(study.probe_path(arm), Role.ENGINE, False, arm, "probe_key", arm.probe_key)


def shard_place(study: Study, arm: Arm, shard: tuple[int, int], needed: bool) -> Place:
    """The place of a shard of an arm."""
    return Place(study.shard_path(arm, *shard), Role.SHARD, needed, arm, key=arm.config_hash, members=shard)


def shards_there(study: Study) -> dict[str, Place]:
    """The shards that are in the folders of the arms, whatever they hold, by path under the root."""
    if study.kind != "ensemble":
        return {}
    places = [shard_place(study, arm, shard, False) for arm in study.arms for shard in study.existing_shards(arm)]
    return {name_of(study, place.path): place for place in places}


def shards_planned(study: Study, whole: Iterable[Place]) -> dict[str, Place]:
    """The shards that cover the members of every arm, formed of those that are ``whole``, by path under the root."""
    there: dict[str, list[tuple[int, int]]] = {}
    for place in whole:
        if place.members is not None:
            there.setdefault(place.arm.path, []).append(place.members)
    places: dict[str, Place] = {}
    for arm in study.arms if study.kind == "ensemble" else ():
        given, execution = there.get(arm.path, []), arm.settings.execution
        for shard in plan_shards(arm.settings.ensemble.members, execution.shard_size, given):
            place = shard_place(study, arm, shard, shard in given or not execution.allow_missing)
            places[name_of(study, place.path)] = place
    return places


def name_of(study: Study, path: Path) -> str:
    """Path under the root of the study, with slashes."""
    return path.relative_to(study.root).as_posix()


def found(study: Study) -> Iterator[str]:
    """Every file and every lease under the root, by its path there; links are named and not followed."""
    yield from _walk(study.root, "")


def _walk(folder: Path, prefix: str) -> Iterator[str]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    for entry in entries:
        if (not prefix and entry.name in IGNORED) or entry.name == ".snakemake_timestamp":
            continue
        name = f"{prefix}{entry.name}"
        if entry.is_dir(follow_symlinks=False) and classify(name).what not in ("lease", "taker"):
            yield from _walk(Path(entry.path), f"{name}/")
        else:
            yield name


@dataclass(frozen=True)
class Other:
    """A file that is not expected.

    Attributes:
      name: path under the root.
      what: "result", "tiles", "checkpoint", "lease", "taker" (of a lease), "temporary", "picture", or "" for what no
        study makes.
      arm: folder of the arm in its name, or "".
      key: of tiles.
      members: of a shard, a checkpoint or a lease.
    """

    name: str
    what: str
    arm: str = ""
    key: str = ""
    members: tuple[int, int] | None = None


def classify(name: str) -> Other:
    """What a file is that is not expected, by its name."""
    if match := _RESULT.fullmatch(name):
        return Other(name, "result", match["arm"] or match["folder"] or "", members=_members(match))
    if match := _TILES.fullmatch(name):
        return Other(name, "tiles", key=match["key"])
    if match := _TRAINING.fullmatch(name):
        kind, _, token = match["what"].partition(".")
        what = "taker" if kind == "lease" and token else kind
        return Other(name, what, match["folder"], members=_members(match))
    if _TEMPORARY.fullmatch(name):
        return Other(name, "temporary")
    if re.fullmatch(rf"figures/[a-z_]+\.({'|'.join(FIGURE_FORMATS)})", name) or re.fullmatch(
        r"tables/[a-z_]+\.csv", name
    ):
        return Other(name, "picture")
    if name == "summary.html":  # what earlier versions called their report
        return Other(name, "picture")
    return Other(name, "")


def _members(match: re.Match[str]) -> tuple[int, int] | None:
    numbers = [text for text in match.groups() if text and re.fullmatch(r"\d{6}", text)]
    return (int(numbers[0]), int(numbers[1])) if len(numbers) == 2 else None
