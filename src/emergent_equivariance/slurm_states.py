"""States of SLURM jobs that Snakemake's executor does not take for an end, and would wait on for ever."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from .errors import StudyError

__all__ = ["heed_lost_jobs", "known_states"]


def known_states(states: Mapping[str, str], requeue: bool) -> dict[str, str]:
    """States as the executor (snakemake-executor-plugin-slurm 2.8.0) knows them.

    It fails jobs that are CANCELLED, but not those that sacct calls "CANCELLED by 1000"; and it takes a PREEMPTED job
    for one that SLURM runs again, which SLURM does only where jobs are submitted with --requeue and the preemption
    mode of the site is REQUEUE (then the job is PENDING, not PREEMPTED).

    Args:
      states: number of the job → what squeue or sacct says.
      requeue: whether SLURM is the one to run jobs again.
    """
    words = {job: (state.split() or [""])[0] for job, state in states.items()}
    return {job: "CANCELLED" if word == "PREEMPTED" and not requeue else word for job, word in words.items()}


def heed_lost_jobs(executor: ModuleType, requeue: bool) -> None:
    """Have the executor see that a job is lost which was preempted, or cancelled by somebody.

    Args:
      executor: the module snakemake_executor_plugin_slurm, in which ``query_job_status`` is replaced.
      requeue: as of known_states.

    Raises StudyError where the module has no such function, as another version than the pinned one.
    """
    ask = getattr(executor, "query_job_status", None)
    if ask is None:
        raise StudyError(
            f"{executor.__name__}: has no function query_job_status, by which version 2.8.0 asks for states of jobs: "
            "it would wait for ever for jobs that were preempted or cancelled by somebody. Nothing was submitted.",
            remedy="Install the pinned version: `make env`, or `pip install snakemake-executor-plugin-slurm==2.8.0`.",
        )
    told: set[str] = set()

    async def query_job_status(command: str, logger: Any) -> tuple[dict[str, str] | None, float | None]:
        states, seconds = await ask(command, logger)
        if states is None:
            return states, seconds
        for job in {job for job, state in states.items() if state == "PREEMPTED"} - told:
            told.add(job)
            logger.warning(f"SLURM job {job} was preempted.")
        return known_states(states, requeue), seconds

    executor.query_job_status = query_job_status  # type: ignore[attr-defined]
