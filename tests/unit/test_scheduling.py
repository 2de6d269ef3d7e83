"""How often Snakemake's scheduler looks at the jobs that wait."""

from __future__ import annotations

from snakemake.scheduling.job_scheduler import JobRateLimiter, JobScheduler
from snakemake.settings.types import MaxJobsPerTimespan

from emergent_equivariance.scheduling import look_when_it_matters


class Scheduler:
    """As much of Snakemake's as plans looks."""

    def __init__(self, limit):
        self.job_rate_limiter = JobRateLimiter(MaxJobsPerTimespan.parse_choice(limit)) if limit else None
        self.planned = []

    def _schedule_reevalutation(self, delay):
        self.planned.append(delay)


def test_the_pinned_version_plans_looks_by_the_method_that_is_replaced():
    assert hasattr(JobScheduler, "_schedule_reevalutation")


def test_a_look_is_planned_where_the_limit_holds_jobs_back():
    scheduler = Scheduler("3/60s")
    look_when_it_matters(scheduler)
    for started, looks in ((2, 0), (1, 1), (1, 2)):
        scheduler.job_rate_limiter.register_jobs(started)
        scheduler._schedule_reevalutation(scheduler.job_rate_limiter.timespan)
        assert len(scheduler.planned) == looks


def test_other_looks_are_planned_as_ever():
    scheduler = Scheduler("3/60s")
    look_when_it_matters(scheduler)
    scheduler._schedule_reevalutation(10)  # those for inputs from a queue
    assert scheduler.planned == [10]


def test_a_scheduler_without_a_limit_is_left_alone():
    scheduler = Scheduler("")
    look_when_it_matters(scheduler)
    scheduler._schedule_reevalutation(1)
    assert scheduler.planned == [1]
