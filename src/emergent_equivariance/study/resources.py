"""What the jobs of every rule need: minutes, memory, and whether a GPU is of use."""

from __future__ import annotations

from math import isfinite
from typing import NamedTuple

from ..errors import UserError
from ..settings.engines import ENGINES
from .arms import Arm
from .budget import LEAST, job_memory, training_job_memory
from .layout import Study
from .probes import Probe, read_probe
from .work import WORTHWHILE, gradient_steps, training_seconds

__all__ = ["Demand", "demand"]

#: MB (10⁶ bytes) that Snakemake itself takes in a SLURM job: two processes (measured: 260).
SNAKEMAKE = 300

#: Minutes that every job may take to start: Snakemake twice, the interpreter and its libraries, from a network's disk.
START = 5.0


class Demand(NamedTuple):
    """What a job needs.

    Attributes:
      minutes: estimated time; None: not known.
      memory: MB (10⁶ bytes), with that of Snakemake in a job on a cluster.
      gpu: whether a GPU is of use to it.
    """

    minutes: float | None
    memory: int
    gpu: bool = False


def demand(study: Study, rule: str, arm: Arm | None) -> Demand:
    """What a job of a rule needs; ``arm`` is that which it works for, None where it works for all."""
    if arm is None:
        return Demand(START, LEAST + SNAKEMAKE)
    if rule == "train_shard":
        return _training(study, arm)
    if rule == "probe_engine":
        return Demand(START, training_job_memory(arm.settings, None) + SNAKEMAKE, _may_use_gpu(study, arm))
    if rule in ("compute_kernel_tiles", "assemble_kernels"):
        return Demand(None, job_memory(arm.settings, "tiles") + SNAKEMAKE)
    if rule in ("compute_theory", "resolve_learning_rate", "measure_kernels"):
        return Demand(None, job_memory(arm.settings, "solution") + SNAKEMAKE)
    return Demand(START, LEAST + SNAKEMAKE)


def _training(study: Study, arm: Arm) -> Demand:
    probe = known_probe(study, arm)
    s = arm.settings
    members = min(s.execution.shard_size, s.ensemble.members)
    if probe is not None and probe.seconds is not None:
        seconds = members * gradient_steps(s) * probe.seconds
    else:
        seconds = training_seconds(s) * members / s.ensemble.members
    minutes = START + seconds / 60 if isfinite(seconds) else None
    gpu = _may_use_gpu(study, arm) if probe is None else probe.device != "cpu"
    return Demand(minutes, training_job_memory(s, probe) + SNAKEMAKE, gpu)


def known_probe(study: Study, arm: Arm) -> Probe | None:
    """How an arm is trained, None where it is not known yet or the file cannot be used (the job refuses it by name)."""
    try:
        return read_probe(study.probe_path(arm), arm.probe_key)
    except UserError:
        return None


def _may_use_gpu(study: Study, arm: Arm) -> bool:
    """Whether the measurement of engines could choose a GPU: it is made, and an engine that it tries can use one."""
    sharing = [other.settings for other in study.arms if other.probe_key == arm.probe_key]
    if sum(map(training_seconds, sharing)) < WORTHWHILE:
        return False
    allowed = arm.settings.execution.engine
    return any(engine.gpu for name, engine in ENGINES.items() if allowed in ("auto", name))
