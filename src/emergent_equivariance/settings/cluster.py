"""What a user says about a cluster: one short file, beside the study and not part of it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .base import GPU_TYPE, NAMES, Section

__all__ = ["Cluster", "GpuQueue", "Queue"]


class Queue(Section):
    """Where jobs are sent; null: nothing is said, the site's default applies, and the user's default account."""

    account: str | None = Field(None, pattern=NAMES, description="Account that is charged (sbatch --account).")
    partition: str | None = Field(None, pattern=NAMES, description="Partition (sbatch --partition).")
    qos: str | None = Field(None, pattern=NAMES, description="Quality of service (sbatch --qos).")
    constraint: str | None = Field(None, description="Features that a node must have (sbatch --constraint).")
    extra: str | None = Field(None, description="Further arguments of sbatch, as one text.")


class GpuQueue(Queue):
    """Where jobs that use a GPU are sent, one GPU each; what is not given here is as for the others."""

    request: Literal["gres", "gpus"] = Field(
        "gres", description="How one GPU is asked for: gres: --gres=gpu:TYPE:1; gpus: --gpus=TYPE:1."
    )
    type: str | None = Field(None, pattern=GPU_TYPE, description="Type of the GPU; null: any.")
    rules: list[Literal["probe_engine", "train_shard"]] = Field(
        ["probe_engine", "train_shard"],
        description="Rules whose jobs may use one. A job is given none where training is too short to be measured, "
        "where the engine computes on CPUs only, and where the measurement chose the CPU.",
    )


class Cluster(Queue):
    """A cluster: where jobs are sent, and how much they may ask for."""

    gpu: GpuQueue | None = Field(None, description="Jobs that use a GPU; null: none does.")
    max_minutes: int | None = Field(
        None, ge=1, description="Longest time a job may ask for. A shard that takes longer goes on in a re-run."
    )
    max_memory: float | None = Field(
        None, gt=0, description="Largest memory in GB a job may ask for: 64 is sbatch --mem 64000."
    )
    unknown_minutes: int = Field(
        240, ge=1, description="Time that jobs ask for whose length is not known (tasks and networks of one's own)."
    )
    minutes_factor: float = Field(
        2.0, ge=1, description="Times the estimated time that a job asks for: nodes may be slower than estimated."
    )
    minutes_growth: float = Field(1.5, ge=1, description="Times as many minutes with each re-run of a job.")
    memory_growth: float = Field(1.5, ge=1, description="Times as much memory with each re-run of a job.")
