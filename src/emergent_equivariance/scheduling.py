"""How often Snakemake looks at the jobs that wait."""

from __future__ import annotations

from typing import Any

__all__ = ["look_when_it_matters"]


def look_when_it_matters(scheduler: Any) -> None:
    """Have the scheduler look again after a while only where its limit of jobs per time holds some back.

    Snakemake (9.27) looks at all waiting jobs whenever one ends. After each look it plans another one for when the
    span of ``--max-jobs-per-timespan`` (by default a second) is over, and that look the next: while jobs wait there
    are as many looks per second as jobs have ended. Each evaluates the resources of every waiting job, so that a
    controller with some hundred shards left would fill a core.

    Args:
      scheduler: Snakemake's, of the run. One without this method, as another version's may be, is left as it is.
    """
    plan, limit = getattr(scheduler, "_schedule_reevalutation", None), scheduler.job_rate_limiter
    if plan is None or limit is None:
        return

    def plan_look(delay: float) -> None:
        if delay != limit.timespan or not limit.get_free_jobs():
            plan(delay)

    scheduler._schedule_reevalutation = plan_look
