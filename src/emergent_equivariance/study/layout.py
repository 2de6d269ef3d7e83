"""A validated study and where its files lie."""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import StoreError, StudyError
from ..settings import ConvolutionalNetwork, CriticalFraction, GroupAction, Tracking
from .arms import Arm, fingerprint
from .shards import header, plan_shards, shard_name
from .tiling import planned_tiling


@dataclass(frozen=True)
class Study:
    """A validated study and where its files lie.

    Attributes:
      file: path of the study file.
      name: name of the study.
      kind: kind of the study, a key of settings.STUDY_FILES.
      tracking: Weights & Biases settings.
      arms: all cells of the sweep, in the order of the file.
      results: folder that holds results/STUDY.
    """

    file: Path
    name: str
    kind: str
    tracking: Tracking
    arms: list[Arm]
    results: Path = Path("results")

    @property
    def root(self) -> Path:
        """results/STUDY."""
        return self.results / self.name

    def place(self, *parts: str) -> Path:
        """The file or folder of these names under ``root``.

        Raises StoreError if a link in it leads elsewhere: ``root`` itself may be a link, and nothing below it.
        """
        path = self.root.joinpath(*parts)
        if _has_link(self.root, path.parent) or (path.is_symlink() and not _is_inside(self.root, path)):
            raise StoreError(
                f"{path}: a link in this path leads out of {self.root}.",
                remedy=f"Replace it by what it leads to. To keep results elsewhere, make {self.root} or "
                f"{self.results} itself a link.",
            )
        return path

    def made_from(self, *paths: Path) -> dict[str, str]:
        """The attribute ``inputs`` of a file made from these: the checksum that each has now, by its path under root.

        Ask before they are read: of one that is replaced meanwhile the older checksum is kept, which shows.
        """
        found = {path.relative_to(self.root).as_posix(): header(path).get("checksum") for path in paths}
        return {"inputs": json.dumps({name: checksum for name, checksum in found.items() if checksum is not None})}

    @property
    def metrics_path(self) -> Path:
        """All arms in one file."""
        return self.place("metrics.nc")

    @property
    def report_path(self) -> Path:
        """The report page."""
        return self.place("report.html")

    @property
    def figures_folder(self) -> Path:
        """Pictures."""
        return self.place("figures")

    def table_path(self, name: str) -> Path:
        """A plain table of the metrics."""
        return self.place("tables", f"{name}.csv")

    @property
    def metrics_hash(self) -> str:
        """Hash metrics.nc carries: of what all arms' parts of it depend on."""
        return fingerprint([arm.join_fields for arm in self.arms])

    def arm(self, path: str) -> Arm:
        """The arm with this folder name; raises StudyError listing the arms."""
        for arm in self.arms:
            if arm.path == path:
                return arm
        raise StudyError(
            f"{self.file}: there is no arm {path!r}.",
            remedy=f"Use one of {', '.join(a.path for a in self.arms)}.",
        )

    def arm_with(self, attribute: str, key: str) -> Arm:
        """The first arm whose store has this key; raises StudyError listing the keys.

        Args:
          attribute: data_key, kernel_key, theory_key, learning_rate_key or probe_key.
          key: the key.
        """
        for arm in self.arms:
            if getattr(arm, attribute) == key:
                return arm
        known = sorted({getattr(arm, attribute) for arm in self.arms})
        raise StudyError(f"{self.file}: no arm has the key {key}.", remedy=f"Use one of {', '.join(known)}.")

    def arm_with_tiles(self, key: str) -> Arm:
        """The arm whose settings say how the kernels with this key are cut: the first whose kernels are.

        Arms share kernels although theory, training or execution differ, so that some may use tiles and others not;
        where no arm does, it is the first one. Raises StudyError as ``arm_with``.
        """
        tiled = (arm for arm in self.arms if arm.kernel_key == key and planned_tiling(arm.settings) is not None)
        return next(tiled, None) or self.arm_with("kernel_key", key)

    def warnings(self) -> list[str]:
        """What is allowed but probably not meant, one sentence each."""
        found = []
        for arm in self.arms if self.kind == "ensemble" else ():
            s, where = arm.settings, f"{self.file}: arm {arm.path}: "
            rate = s.training.learning_rate
            if isinstance(rate, CriticalFraction) and rate.critical_fraction >= 1:
                found.append(
                    f"{where}training.learning_rate.critical_fraction = {rate.critical_fraction} is above the critical "
                    "learning rate: gradient descent diverges. Choose a fraction below 1."
                )
        return list(dict.fromkeys(found)) + self._equal_means() + self._idle_actions()

    def _idle_actions(self) -> list[str]:
        """Keys of ``action`` that change nothing, where they are swept or no arm depends on them."""
        found = []
        for key in ("interpolation", "fill"):
            given = [(arm.settings.group, getattr(arm.settings.action, key)) for arm in self.arms]
            used = [key in arm.settings.action_identity for arm in self.arms]
            swept = len({value for _, value in given}) > 1
            for (group, value), has_effect in zip(given, used, strict=True):
                if has_effect or value == GroupAction.model_fields[key].default or (any(used) and not swept):
                    continue
                same = ": arms that differ in it alone are the same" if swept else ""
                found.append(
                    f"{self.file}: action.{key} = {value} has no effect on group {group}, which acts exactly on these "
                    f"inputs{same}. Leave it out, or use a group that needs interpolation, for instance c8."
                )
        return list(dict.fromkeys(found))

    def _equal_means(self) -> list[str]:
        """Where augmented CNNs stand beside GCNNs: whether their analytic means can agree (docs/kernels.md)."""
        if self.kind != "ensemble":
            return []
        pairs = [(arm, arm.settings.network) for arm in self.arms]
        augmented = [arm for arm, net in pairs if net.name == "cnn" and arm.settings.augmentation.kind == "full"]
        convolved = [arm for arm, net in pairs if net.name == "gcnn"]
        deep = [(arm, net.dense_layers) for arm, net in pairs if isinstance(net, ConvolutionalNetwork)]
        deep = [(arm, layers) for arm, layers in deep if layers]
        if not (augmented and convolved and deep):
            return []
        arm, layers = deep[0]
        return [
            f"{self.file}: arm {arm.path}: network.dense_layers = {layers}: with a nonlinearity after the pool the "
            "means of augmented CNNs and of GCNNs are not expected to agree (relative differences of 1e-3 to 7e-2). "
            "Use dense_layers 0 to compare them."
        ]

    def data_path(self, arm: Arm) -> Path:
        """Data store of an arm."""
        return self.place("data", f"{arm.data_key}.zarr.zip")

    def theory_path(self, arm: Arm) -> Path:
        """Theory store of an arm."""
        return self.place("theory", f"{arm.theory_key}.zarr.zip")

    def learning_rate_path(self, arm: Arm) -> Path:
        """Learning rate resolved from the largest eigenvalue of the NTK; read by training and theory."""
        return self.place("theory", f"{arm.learning_rate_key}.learning-rate.json")

    def probe_path(self, arm: Arm) -> Path:
        """How the members of an arm are trained: engine, variant, members at once (see probes)."""
        return self.place("engine", f"{arm.probe_key}.json")

    @property
    def compilation_cache(self) -> Path:
        """Compiled programs that the training jobs share; may be deleted at any time."""
        return self.place(".cache", "jax")

    def shard_path(self, arm: Arm, first: int, last: int) -> Path:
        """Shard with the members first…last, both included."""
        return self.place("members", arm.path, shard_name(first, last))

    def checkpoint_path(self, arm: Arm, first: int, last: int) -> Path:
        """Where the training of that shard stands, until it is written; no file that the workflow declares."""
        return self.place("members", arm.path, f".members-{first:06d}-{last:06d}.checkpoint.zarr.zip")

    def lease_path(self, arm: Arm, first: int, last: int) -> Path:
        """Folder that says who trains that shard now; see lease."""
        return self.place("members", arm.path, f".members-{first:06d}-{last:06d}.lease")

    def ensemble_path(self, arm: Arm) -> Path:
        """Ensemble store of an arm."""
        return self.place("ensemble", f"{arm.path}.zarr.zip")

    def measure_path(self, arm: Arm) -> Path:
        """Store of an arm of a study of kernels."""
        return self.place("measures", f"{arm.path}.zarr.zip")

    def result_path(self, arm: Arm) -> Path:
        """Store of an arm that enters metrics.nc."""
        return self.ensemble_path(arm) if self.kind == "ensemble" else self.measure_path(arm)

    def kernel_path(self, arm: Arm) -> Path:
        """Kernels between an arm's samples, where they are computed in tiles."""
        return self.place("kernels", f"{arm.kernel_key}.zarr.zip")

    def tiles_path(self, arm: Arm, first: int, last: int) -> Path:
        """The tiles first…last of an arm's kernels, both included, until they are assembled."""
        return self.place("kernels", arm.kernel_key, f"tiles-{first:06d}-{last:06d}.zarr.zip")

    def shards(self, arm: Arm) -> list[tuple[int, int]]:
        """Member ranges (first, last) that cover the arm, re-using the shards already on disk."""
        existing = self.existing_shards(arm)
        return plan_shards(arm.settings.ensemble.members, arm.settings.execution.shard_size, existing)

    def existing_shards(self, arm: Arm) -> list[tuple[int, int]]:
        """Member ranges (first, last) of the shards on disk, ascending."""
        folder = self.place("members", arm.path)
        names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
        matches = [re.fullmatch(r"members-(\d{6})-(\d{6})\.zarr\.zip", name) for name in names]
        return sorted((int(m[1]), int(m[2])) for m in matches if m)

    def missing_shards(self, arm: Arm) -> list[tuple[int, int]]:
        """Those of ``shards`` that are not on disk."""
        existing = set(self.existing_shards(arm))
        return [shard for shard in self.shards(arm) if shard not in existing]

    def needed_shards(self, arm: Arm) -> list[tuple[int, int]]:
        """Those of ``shards`` that the ensemble needs: all, or with execution.allow_missing those on disk."""
        missing = self.missing_shards(arm) if arm.settings.execution.allow_missing else []
        return [shard for shard in self.shards(arm) if shard not in missing]

    def log_path(self, path: Path) -> Path:
        """Log of the job that makes a store or a JSON file under ``root``."""
        name = path.name.removesuffix(".zarr.zip").removesuffix(".json")
        return self.root / "logs" / path.parent.relative_to(self.root) / f"{name}.log"

    def check_existing(self) -> None:
        """Raise StudyError if an arm's folder holds shards of another version of the study.

        Only headers are read; aggregation verifies every shard it uses. Studies of kernels have none: what their arms
        measure is measured again.
        """
        for arm in self.arms:
            for first, last in self.existing_shards(arm):
                path = self.shard_path(arm, first, last)
                self.check_shard(arm, path, header(path))

    def check_shard(self, arm: Arm, path: Path, said: Mapping[str, Any]) -> None:
        """Raise StudyError if a shard, whose header says this, is of another version of the study."""
        found = said.get("config_hash")
        if found not in (None, arm.config_hash):
            raise StudyError(
                f"{self.file}: {path.parent} holds members of another version of this study ({path.name} has "
                f"config hash {found}, the study file now gives {arm.config_hash}). Nothing was changed.",
                remedy="Take back the change, give the study another name, or delete that folder to train its "
                "members again.",
            )


@functools.cache
def _has_link(root: Path, folder: Path) -> bool:
    """Whether a link leads out of ``root`` on the way to a folder below it."""
    return not _is_inside(root, folder)


def _is_inside(root: Path, path: Path) -> bool:
    """Whether a path leads to ``root`` or below it, all links followed."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))
