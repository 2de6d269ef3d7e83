"""What each job of a study is made from, as the rules of the workflow ask: by the wildcards of their outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from .arms import Arm
from .choice import store_arms
from .layout import Study
from .missing import missing_members
from .products import products
from .shards import header
from .tiling import planned_tiling

__all__ = ["AGELESS", "Dependencies"]

#: Names of inputs whose content is in their file names: their age does not matter.
AGELESS = ("data", "kernels", "learning_rate", "probe")

#: Rule with the wildcard ``key`` → the attribute of an arm that it is. Rules of kernels ask ``Study.arm_with_tiles``.
KEYS = {
    "make_data": "data_key",
    "resolve_learning_rate": "learning_rate_key",
    "compute_theory": "theory_key",
    "probe_engine": "probe_key",
}

#: Name of an input → the file, or the files.
Files = dict[str, str | list[str]]


@dataclass(frozen=True)
class Dependencies:
    """Inputs of the jobs of a study, each method called with the wildcards of a job.

    Raise StudyError if no arm has the key.

    Attributes:
      study: the study.
      forced: whether jobs are run although their output is there.
      remake: has a file made, whatever the workflow knows of it.
    """

    study: Study
    forced: Callable[[], bool]
    remake: Callable[[Path], None]

    @cached_property
    def arms(self) -> dict[str, Arm]:
        """Folder name → arm."""
        return {arm.path: arm for arm in self.study.arms}

    def arm_of(self, rule: str, *, arm: str = "", key: str = "", **_: str) -> Arm | None:
        """The arm that a job of a rule works for, by its wildcards; None: for all."""
        if arm:
            return self.arms[arm]
        if key:
            return self.study.arm_with(KEYS[rule], key) if rule in KEYS else self.study.arm_with_tiles(key)
        return None

    @property
    def trained(self) -> list[Arm]:
        """The arms that have members."""
        return self.study.arms if self.study.kind == "ensemble" else []

    def declared(self, path: Path) -> str:
        """A file as the rules name it: below results/, wherever that folder is."""
        return str("results" / path.relative_to(self.study.results))

    def products(self) -> list[str]:
        """What a complete study consists of. Intermediate files too: a lost one would not be missed otherwise."""
        return [self.declared(path) for path in products(self.study)]

    def all_members(self) -> list[str]:
        """Every shard of the study, those on disk re-used."""
        return [
            self.declared(self.study.shard_path(arm, *shard))
            for arm in self.trained
            for shard in self.study.shards(arm)
        ]

    def all_theory(self) -> list[str]:
        """The analytic solutions of the arms that have one."""
        return sorted({path for arm in self.trained for path in self._theory(arm)})

    def tiles(self, key: str, **_: str) -> Files:
        """Of a job that computes tiles of kernels."""
        return self._data(self.study.arm_with_tiles(key))

    def assembly(self, key: str) -> Files:
        """Of a kernel store that is to be assembled; one that exists stays, however it was cut."""
        arm = self.study.arm_with_tiles(key)
        tiling = planned_tiling(arm.settings)
        if self._stays(self.study.kernel_path(arm)) or tiling is None:
            return {}
        jobs = tiling.jobs(arm.settings.execution.tiles_per_job)
        return self._data(arm) | {"tiles": [self.declared(self.study.tiles_path(arm, *job)) for job in jobs]}

    def learning_rate(self, key: str) -> Files:
        """Of a learning rate that is resolved."""
        arm = self.study.arm_with("learning_rate_key", key)
        return self._kernels(arm, self._stays(self.study.learning_rate_path(arm)))

    def theory(self, key: str) -> Files:
        """Of an analytic solution."""
        arm = self.study.arm_with("theory_key", key)
        return self._training(arm) | self._kernels(arm, self._stays(self.study.theory_path(arm)))

    def measure(self, arm: str) -> Files:
        """Of an arm of a study of kernels."""
        found = self.arms[arm]
        path = self.study.measure_path(found)
        return self._kernels(found, self._is_current(path, found.result_hash) and self._stays(path))

    def probe(self, key: str) -> Files:
        """Of the measurement of engines; one that is made needs nothing."""
        arm = self.study.arm_with("probe_key", key)
        return {} if self._stays(self.study.probe_path(arm)) else self._data(arm)

    def shard(self, arm: str, first: str, last: str) -> Files:
        """Of a shard that is to be trained; one that exists needs nothing, whatever became of its inputs."""
        found = self.arms[arm]
        if self._stays(self.study.shard_path(found, int(first), int(last))):
            return {}
        return self._training(found) | {"probe": self.declared(self.study.probe_path(found))}

    def ensemble(self, arm: str) -> Files:
        """Of an ensemble: shards, with ``execution.allow_missing`` those on disk."""
        found = self.arms[arm]
        path, members = self.study.ensemble_path(found), missing_members(self.study, found)
        if self._is_current(path, found.ensemble_hash) and header(path).get("missing", 0) != len(members):
            self.remake(path)
        shards = [self.declared(self.study.shard_path(found, *s)) for s in self.study.needed_shards(found)]
        return self._data(found) | {"theory": self._theory(found), "shards": shards}

    def formed_of(self, arm: str) -> object:
        """What an ensemble depends on beside its inputs: a shard that arrives later changes it."""
        found = self.arms[arm]
        missing = self.study.missing_shards(found) if found.settings.execution.allow_missing else []
        return [found.ensemble_hash, missing] if missing else found.ensemble_hash

    def metrics(self) -> Files:
        """Of the file that joins all arms: their results, and the data and theory that pictures and report quote."""
        self._is_current(self.study.metrics_path, self.study.metrics_hash)
        quoted = store_arms(self.study)
        data = sorted({self.declared(self.study.data_path(arm)) for arm in quoted})
        theory = sorted({path for arm in quoted for path in self._theory(arm)})
        results = [self.declared(self.study.result_path(arm)) for arm in self.study.arms]
        return {"results": results, "data": data, "theory": theory}

    def _data(self, arm: Arm) -> Files:
        return {"data": self.declared(self.study.data_path(arm))}

    def _theory(self, arm: Arm) -> list[str]:
        return [self.declared(self.study.theory_path(arm))] if arm.settings.has_mean else []

    def _training(self, arm: Arm) -> Files:
        """Data of an arm, and the learning rate file where one is resolved."""
        if not arm.settings.resolves_learning_rate:
            return self._data(arm)
        return self._data(arm) | {"learning_rate": self.declared(self.study.learning_rate_path(arm))}

    def _kernels(self, arm: Arm, made: bool) -> Files:
        """Data of an arm, and its kernels where they are computed in tiles, unless what is made of them stays."""
        if planned_tiling(arm.settings) is None or made:
            return self._data(arm)
        return self._data(arm) | {"kernels": self.declared(self.study.kernel_path(arm))}

    def _stays(self, path: Path) -> bool:
        """Whether a file is there to stay: what exists needs no inputs, whatever became of them."""
        return path.exists() and not self.forced()

    def _is_current(self, path: Path, expected: str) -> bool:
        """Whether a file carries this config hash. One with another is made again, also where the records of the
        workflow, which would tell, are lost, or in another folder than that of the study that wrote it."""
        found = header(path).get("config_hash")
        if found not in (None, expected):
            self.remake(path)
        return found == expected
