"""What the jobs of every rule need: how many there are, minutes, memory, and whether a GPU is of use.

Minutes and memory are estimates for one core of the machine the constants were measured on (docs/cluster.md); a cluster
file says how much more is asked for.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from ..errors import UserError
from ..settings import AnySettings, ConvergenceSettings, RegressionSettings, Settings
from ..settings.engines import ENGINES
from .arms import Arm
from .budget import LEAST, aggregation_memory, job_memory, joining_memory, needs, training_job_memory
from .layout import Study
from .probes import Probe, read_probe
from .products import final_products
from .tiling import planned_tiling
from .work import (
    EIGEN,
    PRODUCTS,
    WORTHWHILE,
    aggregation_seconds,
    empirical_seconds,
    gradient_steps,
    joined_bytes,
    members_per_shard,
    pair_seconds,
    recording_share,
    solution_seconds,
    training_seconds,
)

__all__ = ["LOCAL", "Demand", "Demands", "Job", "jobs", "known_probe", "member_seconds", "threads_of"]

#: Rules whose jobs run where Snakemake does: they may download, and compute nodes often have no network.
LOCAL = ("make_data",)

#: MB (10⁶ bytes) that Snakemake itself takes in a SLURM job: two processes (measured: 277).
SNAKEMAKE = 300

#: Seconds that every job may take beside its work: Snakemake twice, the interpreter, libraries and compilation, from a
#: disk on the network (measured on a local one: 20).
START = 180.0

#: Seconds of measuring engines beside the steps that are timed: libraries and compilation of all of them.
PROBE = 120.0

#: Members at once that a candidate may have on a CPU, and calls that it is timed with.
CANDIDATE = 32 * 5

#: Bytes per second of one core that stores are written with, compressed (measured: 15 to 100 MB/s).
WRITING = 10e6

#: Bytes per second of one core at which arms are joined (measured: 1.4e8).
JOINING = 1e8

#: Seconds of drawing the pictures of an arm, and of one study.
PICTURE, PICTURES = 5.0, 60.0


class Demand(NamedTuple):
    """What a job needs.

    Attributes:
      minutes: estimated time on the threads it is given; None: not known.
      memory: MB (10⁶ bytes), with that of Snakemake in a job on a cluster.
      gpu: whether a GPU is of use to it.
    """

    minutes: float | None
    memory: int
    gpu: bool = False


@dataclass(frozen=True)
class Job:
    """Jobs of a rule that are alike.

    Attributes:
      rule: its name.
      arm: that which they work for; None: all.
      count: how many there are.
      missing: how many of them have not made their file.
    """

    rule: str
    arm: Arm | None
    count: int
    missing: int


class Demands:
    """What the jobs of a study need, each found once."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self._known: dict[tuple[str, str | None, object], Demand] = {}
        self._probe_keys = {arm.path: arm.probe_key for arm in study.arms} if study.kind == "ensemble" else {}

    def of(self, rule: str, arm: Arm | None) -> Demand:
        """What a job of a rule needs; ``arm`` is that which it works for, None where it works for all."""
        probed = self._probe_state(arm) if arm is not None and rule == "train_shard" else None
        key = rule, arm.path if arm is not None else None, probed
        if key not in self._known:
            seconds, memory, gpu = self._work(rule, arm)
            minutes = (START + seconds) / 60 if math.isfinite(seconds) else None
            self._known[key] = Demand(minutes, memory + SNAKEMAKE, gpu)
        return self._known[key]

    def _work(self, rule: str, arm: Arm | None) -> tuple[float, int, bool]:
        if arm is None:
            arms = [arm.settings for arm in self.study.arms]
            seconds = PICTURES + PICTURE * len(arms) if rule == "draw_figures" else float(len(arms))
            return seconds + sum(map(joined_bytes, arms)) / JOINING, joining_memory(arms), False
        if rule == "train_shard":
            return self._training(arm)
        if rule == "probe_engine":
            step = training_seconds(arm.settings) / max(1, arm.settings.ensemble.members * gradient_steps(arm.settings))
            memory = training_job_memory(arm.settings, None)
            return PROBE + CANDIDATE * step, memory, self._may_use_gpu(arm)
        if rule == "aggregate_arm":
            return aggregation_seconds(arm.settings), aggregation_memory(arm.settings), False
        if rule in _ANALYTIC:
            seconds_of, part = _ANALYTIC[rule]
            return seconds_of(arm.settings), job_memory(arm.settings, part), False
        return 0.0, LEAST, False

    def _training(self, arm: Arm) -> tuple[float, int, bool]:
        s, probe = arm.settings, known_probe(self.study, arm)
        seconds = members_per_shard(s) * member_seconds(s, probe)
        gpu = self._may_use_gpu(arm) if probe is None else probe.device != "cpu"
        return seconds, training_job_memory(s, probe), gpu

    def _probe_state(self, arm: Arm) -> object:
        """What changes when the file that says how an arm is trained does."""
        path = self.study.root / "engine" / f"{self._probe_keys[arm.path]}.json"
        try:
            state = os.stat(path)
        except OSError:
            return None
        return state.st_mtime_ns, state.st_size

    def _may_use_gpu(self, arm: Arm) -> bool:
        """Whether measuring engines could choose a GPU: it is done, and an engine that is tried can use one."""
        sharing = [a for a in self.study.arms if self._probe_keys[a.path] == self._probe_keys[arm.path]]
        if sum(training_seconds(other.settings) for other in sharing) < WORTHWHILE:
            return False
        allowed, network = arm.settings.execution.engine, arm.settings.network.name
        return any(e.gpu and network in e.networks and allowed in ("auto", name) for name, e in ENGINES.items())


def member_seconds(settings: Settings, probe: Probe | None) -> float:
    """Seconds of a job to train and record one member: as measured by the probe, or else estimated; infinite as of
    training_seconds."""
    if probe is not None and probe.seconds is not None:
        return gradient_steps(settings) * probe.seconds * (1 + recording_share(settings))
    return training_seconds(settings) / settings.ensemble.members


def threads_of(rule: str, arm: Arm | None) -> int:
    """CPU threads of a job of a rule, unless fewer are granted."""
    if arm is None:
        return 1
    if rule in ("train_shard", "probe_engine"):
        return arm.settings.execution.threads
    return arm.settings.execution.kernel_threads if rule in _ANALYTIC and rule != "assemble_kernels" else 1


def known_probe(study: Study, arm: Arm) -> Probe | None:
    """How an arm is trained; None where it is not known yet or the file cannot be used, which the job refuses."""
    try:
        return read_probe(study.probe_path(arm), arm.probe_key)
    except UserError:
        return None


# ------------------------------------------------------------------------------------------- the analytic side


def _kernel_seconds(settings: AnySettings) -> float:
    """All kernels of an arm that are computed in the job that needs them."""
    found = needs(settings)
    if found is None or found.tiling is not None:
        return 0.0
    if isinstance(settings, Settings) and (networks := settings.theory.monte_carlo) is not None:
        seconds = empirical_seconds(settings, networks, math.isqrt(found.pairs // networks))
        return math.inf if seconds is None else seconds
    pair = pair_seconds(settings)
    return math.inf if pair is None else found.pairs * pair / settings.execution.kernel_threads


def _tiles_seconds(settings: AnySettings) -> float:
    """One job that computes tiles."""
    tiling, pair = planned_tiling(settings), pair_seconds(settings)
    if tiling is None or pair is None:
        return math.inf
    tiles = min(settings.execution.tiles_per_job, tiling.count)
    pairs = tiles * tiling.elements * min(tiling.side, tiling.rows) * min(tiling.side, tiling.train)
    return pairs * pair / settings.execution.kernel_threads + tiles * tiling.tile_bytes / WRITING


def _assembly_seconds(settings: AnySettings) -> float:
    tiling = planned_tiling(settings)
    return 0.0 if tiling is None else tiling.nbytes / WRITING


def _rate_seconds(settings: AnySettings) -> float:
    assert isinstance(settings, Settings)
    return _kernel_seconds(settings) + solution_seconds(settings)


def _theory_seconds(settings: AnySettings) -> float:
    assert isinstance(settings, Settings)
    found = needs(settings)
    return _rate_seconds(settings) + (found.disk / WRITING if found else 0.0)


def _measure_seconds(settings: AnySettings) -> float:
    if isinstance(settings, ConvergenceSettings):
        drawn, pair = settings.convergence, pair_seconds(settings)
        seconds = empirical_seconds(settings, drawn.members, drawn.inputs)
        return math.inf if seconds is None or pair is None else seconds + drawn.inputs**2 * pair
    assert isinstance(settings, RegressionSettings)
    section, test, found = settings.regression, settings.task.test, needs(settings)
    predicted = 4 * test * len(section.times) / PRODUCTS
    solved = section.repeats * sum(EIGEN * size**3 + predicted * size**2 for size in section.sizes)
    return _kernel_seconds(settings) + solved + (found.disk / WRITING if found else 0.0)


_ANALYTIC: dict[str, tuple[Callable[[AnySettings], float], Literal["tiles", "solution"]]] = {
    "compute_kernel_tiles": (_tiles_seconds, "tiles"),
    "assemble_kernels": (_assembly_seconds, "tiles"),
    "resolve_learning_rate": (_rate_seconds, "solution"),
    "compute_theory": (_theory_seconds, "solution"),
    "measure_kernels": (_measure_seconds, "solution"),
}


# ------------------------------------------------------------------------------------------- all jobs


def jobs(study: Study) -> list[Job]:
    """All jobs of a study, those that are alike together, in the order in which they can run."""
    found: list[Job] = []

    def one_per(rule: str, key: str, arms: list[Arm], path: Callable[[Arm], Path]) -> None:
        for arm in {getattr(arm, key): arm for arm in reversed(arms)}.values():
            found.append(Job(rule, arm, 1, int(not path(arm).exists())))

    one_per("make_data", "data_key", study.arms, study.data_path)
    tiled = {arm.kernel_key: arm for arm in study.arms if planned_tiling(arm.settings) is not None}
    for arm in map(study.arm_with_tiles, tiled):
        tiling, made = planned_tiling(arm.settings), study.kernel_path(arm).exists()
        ranges = tiling.jobs(arm.settings.execution.tiles_per_job) if tiling else []
        missing = 0 if made else sum(not study.tiles_path(arm, *job).exists() for job in ranges)
        found.append(Job("compute_kernel_tiles", arm, len(ranges), missing))
        found.append(Job("assemble_kernels", arm, 1, int(not made)))
    if study.kind == "ensemble":
        resolved = [arm for arm in study.arms if arm.settings.resolves_learning_rate]
        one_per("resolve_learning_rate", "learning_rate_key", resolved, study.learning_rate_path)
        solved = [arm for arm in study.arms if arm.settings.has_mean]
        one_per("compute_theory", "theory_key", solved, study.theory_path)
        one_per("probe_engine", "probe_key", study.arms, study.probe_path)
        for arm in study.arms:
            found.append(Job("train_shard", arm, len(study.shards(arm)), len(study.missing_shards(arm))))
        one_per("aggregate_arm", "path", study.arms, study.ensemble_path)
    else:
        one_per("measure_kernels", "path", study.arms, study.measure_path)
    joined = (study.metrics_path, study.table_path("any").parent)
    lost = [path for path in final_products(study) if not path.exists()]
    found.append(Job("join_metrics", None, 1, int(any(path in joined for path in lost))))
    found.append(Job("draw_figures", None, 1, int(any(path not in joined for path in lost))))
    return found
