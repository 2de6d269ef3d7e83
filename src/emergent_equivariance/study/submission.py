"""Whether the jobs of a study can run on a cluster: asked once, before anything is submitted."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil, floor
from pathlib import Path

from ..devices import has_cuda
from ..errors import UserError
from ..settings.cluster import Cluster
from ..slurm import ClusterError, Offer, asked_gpus, check
from .arms import Arm
from .budget import LEAST, MARGIN
from .cluster import EXAMPLE, request
from .layout import Study
from .resources import LOCAL, SNAKEMAKE, START, Demand, Demands, jobs, threads_of
from .work import members_per_shard

__all__ = ["Asked", "check_jobs", "to_submit", "unused_gpus"]

#: Rules whose jobs go on where an earlier run of theirs was ended.
RESUMED = ("train_shard", "compute_kernel_tiles")

#: What to do where a job of a rule needs more memory than it may ask for.
LESS_MEMORY = {
    "train_shard": "lower execution.shard_size, members_at_once, training.batch_size or the width",
    "probe_engine": "lower execution.members_at_once, training.batch_size or the width",
    "aggregate_arm": "lower execution.shard_size or evaluate.samples",
    "compute_kernel_tiles": "lower execution.tile_size",
    "assemble_kernels": "lower execution.tile_size",
}


@dataclass(frozen=True)
class Asked:
    """A job and what it asks for.

    Attributes:
      rule: its name.
      arm: that which it works for; None: all.
      demand: what it needs.
      resources: what it asks for, by the names of Snakemake's SLURM executor.
      threads: its CPUs.
    """

    rule: str
    arm: Arm | None
    demand: Demand
    resources: Mapping[str, int | str]
    threads: int


def to_submit(study: Study, cluster: Cluster) -> list[Asked]:
    """The jobs of a study that are still to do and are submitted, one of each kind, the first time they run."""
    demands, found = Demands(study), []
    for job in jobs(study):
        if job.missing and job.rule not in LOCAL:
            need = demands.of(job.rule, job.arm)
            asked = request(cluster, job.rule, need)
            found.append(Asked(job.rule, job.arm, need, asked, threads_of(job.rule, job.arm)))
    return found


def unused_gpus(asked: Iterable[Asked]) -> list[str]:
    """A warning where jobs ask for GPUs that the environment they run in cannot use: that of this process."""
    rules = sorted({job.rule for job in asked if asked_gpus(job.resources)[1]})
    if not rules or has_cuda():
        return []
    return [
        f"{', '.join(rules)}: jobs ask for a GPU, but jax and torch in {sys.prefix} compute on CPUs alone, so that "
        "GPUs are held and not used. Run from the environment that `make env-gpu` makes (.venv-gpu), or leave the "
        "section gpu out of the cluster file."
    ]


def check_jobs(cluster: Cluster, file: Path | None, asked: Iterable[Asked], offer: Offer | None, runs: int) -> None:
    """Raise ClusterError if a job needs more than it may ask for, or asks for what the cluster does not have.

    Args:
      cluster: the cluster file.
      file: its path; None: there is none.
      asked: the jobs.
      offer: what the cluster has; None: not known.
      runs: times a job is run at most.
    """
    problems: dict[str, tuple[UserError, int]] = {}
    for job in asked:
        for error in (_too_little_memory(cluster, job), _too_long(cluster, job, runs), _misfit(cluster, job, offer)):
            if error is not None:
                key = error.message.partition(" = ")[0]
                first, count = problems.get(key, (error, 0))
                problems[key] = first, count + 1
    if not problems:
        return
    where = f"{file}: " if file else f"there is no cluster file (see {EXAMPLE}): "
    lines = []
    for error, count in problems.values():
        others = f" The same holds for {count - 1} other job{'s' * (count > 2)}." if count > 1 else ""
        lines.append(f"{error}{others}")
    raise ClusterError(where + "\n".join(lines), remedy="Nothing was submitted.")


def _too_little_memory(cluster: Cluster, job: Asked) -> UserError | None:
    memory = int(job.resources.get("mem_mb", 0))
    if memory >= job.demand.memory / MARGIN:
        return None
    least = job.demand.memory <= LEAST + SNAKEMAKE
    less = LESS_MEMORY.get(job.rule, "lower task.train or the size of what is evaluated")
    needs = f"{_name(job)} needs about {job.demand.memory} MB"
    if cluster.max_memory is not None and memory >= floor(1000 * cluster.max_memory):
        message = f"max_memory = {cluster.max_memory:g} GB: {needs}."
        remedy = f"Raise it if nodes have as much, or {less} in the study."
        if least:
            remedy = f"That is the least a job asks for: set it to {ceil(job.demand.memory / 100) / 10:g} or more."
        return ClusterError(message, remedy=remedy)
    return ClusterError(f"mem_mb = {memory}: {needs}.", remedy="Leave it out of --set-resources, or raise it.")


def _too_long(cluster: Cluster, job: Asked, runs: int) -> UserError | None:
    minutes, allowed = job.demand.minutes, int(job.resources.get("runtime", 0))
    if minutes is None:
        return None
    start = START / 60
    resumed = job.rule in RESUMED
    if minutes - start <= (runs * max(0.0, allowed - start) if resumed else allowed - start):
        return None
    limited = cluster.max_minutes is not None and allowed >= cluster.max_minutes
    key = "max_minutes" if limited else "runtime"
    often = f" in {runs} runs" if resumed else ""
    takes = f"about {ceil(minutes)} minutes{often}, {start:g} of them the allowance for starting"
    message = f"{key} = {allowed}: {_name(job)} takes {takes}."
    remedy = "Raise it if the cluster allows it" if limited else "Leave it out of --set-resources"
    if job.rule == "train_shard" and job.arm is not None:
        each = (minutes - start) / members_per_shard(job.arm.settings)
        fits = floor((allowed / cluster.minutes_factor - start) / each)
        remedy += f", or set execution.shard_size to {fits} in the study" if fits >= 1 else ", or allow more retries"
    elif job.rule == "compute_kernel_tiles":
        remedy += ", or lower execution.tiles_per_job in the study"
    return ClusterError(message, remedy=remedy + ".")


def _misfit(cluster: Cluster, job: Asked, offer: Offer | None) -> UserError | None:
    found = check(offer, job.resources, job.threads, START / 60) if offer is not None else None
    if found is None:
        return None
    gpu = cluster.gpu if asked_gpus(job.resources)[1] else None
    key = f"gpu.{found.key}" if gpu is not None and getattr(gpu, found.key, None) is not None else found.key
    return ClusterError(f"{key} = {found.value}: {found.said} ({_name(job)}).", remedy=found.remedy)


def _name(job: Asked) -> str:
    return f"{job.rule} of arm {job.arm.path}" if job.arm is not None else job.rule
