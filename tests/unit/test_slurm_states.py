"""Jobs that were preempted or cancelled by somebody are lost, in the eyes of Snakemake's SLURM executor too."""

import asyncio
import logging
from types import SimpleNamespace

import pytest

from emergent_equivariance.errors import StudyError
from emergent_equivariance.slurm_states import heed_lost_jobs, known_states


@pytest.mark.parametrize(("requeue", "preempted"), [(False, "CANCELLED"), (True, "PREEMPTED")])
def test_states_become_those_that_the_executor_knows(requeue, preempted):
    states = {"1": "RUNNING", "2": "CANCELLED by 1000", "3": "PREEMPTED", "4": "TIMEOUT", "5": ""}
    expected = {"1": "RUNNING", "2": "CANCELLED", "3": preempted, "4": "TIMEOUT", "5": ""}
    assert known_states(states, requeue) == expected


def test_the_executor_asks_through_it_and_a_preemption_is_told_once(caplog):
    answers = iter([({"7": "PREEMPTED"}, 0.1), (None, None), ({"7": "PREEMPTED"}, 0.2)])

    async def query_job_status(command, logger):
        return next(answers)

    executor = SimpleNamespace(query_job_status=query_job_status)
    heed_lost_jobs(executor, requeue=False)
    found = [asyncio.run(executor.query_job_status("squeue", logging.getLogger())) for _ in range(3)]
    assert found == [({"7": "CANCELLED"}, 0.1), (None, None), ({"7": "CANCELLED"}, 0.2)]
    assert caplog.text.count("SLURM job 7 was preempted") == 1


def test_an_executor_that_asks_in_another_way_is_refused():
    with pytest.raises(StudyError, match=r"^future_plugin: has no function query_job_status.*slurm==2\.8\.0"):
        heed_lost_jobs(SimpleNamespace(__name__="future_plugin"), requeue=False)


def test_the_installed_executor_asks_by_the_function_that_is_replaced():
    """A later version that does not would wait for preempted jobs again."""
    import snakemake_executor_plugin_slurm as executor

    assert "query_job_status" in executor.Executor.check_active_jobs.__code__.co_names
