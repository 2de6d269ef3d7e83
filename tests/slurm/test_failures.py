"""What goes wrong on a cluster, done to a real SLURM: jobs are lost, results are not, and their bits are the same."""

import signal
import time

import pytest

from emergent_equivariance import store

from .cluster import wait_for
from .workplace import LONG, SITE, ClusterRun, assert_same_shards

pytestmark = pytest.mark.slow

#: Two nodes, two jobs on each.
TWO_NODES = {**SITE, "partition": "gpu"}
ALL_OF_BOTH = ("-p", "urgent", "--nodes=2", "--exclusive")
OUTSIDE = "SIGTERM (preempted or cancelled from outside): stopped after writing"
RESUMED = "going on from this checkpoint"


@pytest.fixture
def long_run(tmp_path):
    """Makes a run of the long study on a cluster, with shards of about so many seconds."""

    def make(cluster, site=SITE, seconds=25.0, **sections):
        run = ClusterRun(tmp_path / "run", {**LONG, **sections}, cluster, site)
        run.last(seconds)
        return run

    return make


def states(run, shard):
    return [job.state for job in run.jobs_of(shard)]


def test_a_shard_goes_on_elsewhere_when_its_node_dies(cluster, long_run, long_here, tell):
    run = long_run(cluster, TWO_NODES)
    process = run.start("all_members")
    shards = run.shards()
    jobs = [run.until_training(shard) for shard in shards]
    node = jobs[0].nodes
    died = time.monotonic()
    cluster.kill_node(node)
    assert run.finish(process) == 0, run.said()
    resumed = assert_same_shards(run, long_here)
    lost = [shard for shard in shards if run.jobs_of(shard)[0].nodes == node]
    for shard in lost:
        first, *_, last = run.jobs_of(shard)
        assert first.state == "NODE_FAIL"
        assert (last.state, last.nodes != node) == ("COMPLETED", True)
        said = run.training_log(shard)
        assert RESUMED in said
        assert f"taken over from a job that has not been heard of for 120 s ({node}, process" in said
    assert sum(resumed.values()) == len(lost) > 0
    tell(f"{node} killed with {len(lost)} shards in training: resumed elsewhere, {time.monotonic() - died:.0f} s later")


def test_one_job_cancelled_from_outside_is_run_again_and_the_others_go_on(cluster, long_run, long_here, tell):
    run = long_run(cluster)
    process = run.start("all_members")
    cancelled, other = run.shards()
    job = run.until_training(cancelled)
    run.until_training(other)
    cluster.cancel(job.id)
    assert run.finish(process) == 0, run.said()
    resumed = assert_same_shards(run, long_here)
    assert (states(run, cancelled), states(run, other)) == (["CANCELLED", "COMPLETED"], ["COMPLETED"])
    assert sorted(resumed.values()) == [0, 1]
    assert OUTSIDE in run.said()
    assert "time limit" not in run.said()
    tell("CANCELLED, checkpoint written at SIGTERM, run again by Snakemake, resumed; the other shard untouched")


def test_a_job_stops_itself_before_its_time_limit(cluster, long_run, long_here, tell):
    run = long_run(cluster, {**SITE, "max_minutes": 2}, seconds=130)
    assert run.snakemake("all_members", "--retries", "10") == 0, run.said()
    resumed = assert_same_shards(run, long_here)
    assert min(resumed.values()) >= 1
    found = [states(run, shard) for shard in run.shards()]
    stopped = [state for jobs in found for state in jobs[:-1]]
    assert set(stopped) <= {
        "FAILED",
        "TIMEOUT",
    }  # the latter where Snakemake itself took long to end, on a busy machine
    assert run.said().count("time limit (the end of SLURM job") == len(stopped)
    assert "SIGTERM" not in run.said()
    tell(f"limit of 2 minutes, shards of 130 s: each stopped itself and resumed; states {found}")


def test_a_job_that_slurm_ends_at_its_time_limit_resumes(start_cluster, long_run, long_here, tmp_path, tell):
    """One job of the first two gets stuck, so that it cannot stop itself."""
    cluster = start_cluster(kill_wait=2)
    run = long_run(cluster, {**SITE, "max_minutes": 2})
    (tmp_path / "stuck").mkdir()
    (tmp_path / "stuck" / "one").touch()
    run.environment["EMEQ_TEST_STUCK"] = str(tmp_path / "stuck")
    assert run.snakemake("all_members", "--retries", "10") == 0, run.said()
    resumed = assert_same_shards(run, long_here)
    found = [states(run, shard) for shard in run.shards()]
    assert list((tmp_path / "stuck").iterdir()) == []
    assert sum(jobs.count("TIMEOUT") for jobs in found) >= 1
    assert sum(resumed.values()) >= 1
    tell(f"a job that is stuck: TIMEOUT, killed; run again, resumed from the last checkpoint; states {found}")


@pytest.mark.parametrize(("mode", "grace"), [("CANCEL", 60), ("CANCEL", 0), ("REQUEUE", 0)])
def test_preempted_shards_resume(start_cluster, long_run, long_here, mode, grace, tell):
    cluster = start_cluster(preemption=mode, grace=grace)
    run = long_run(cluster, TWO_NODES)
    process = run.start("all_members")
    for shard in run.shards():
        run.until_training(shard)
    important = cluster.submit(*ALL_OF_BOTH, command="sleep 5")
    wait_for("preemption", lambda: any(job.id == important and job.state == "COMPLETED" for job in cluster.jobs()))
    assert run.finish(process) == 0, run.said()
    resumed = assert_same_shards(run, long_here)
    assert set(resumed.values()) == {1}
    assert OUTSIDE in run.said()
    assert "time limit" not in run.said()
    found = [states(run, shard) for shard in run.shards()]
    assert all(len(jobs) == 2 for jobs in found)
    tell(f"PreemptMode={mode}, GraceTime={grace} s: states {found[0]}, resumed")


def test_jobs_outlive_a_killed_controller_and_no_shard_is_trained_twice(cluster, long_run, tmp_path, tell):
    run = long_run(cluster, TWO_NODES, seconds=160, ensemble={"members": 5})
    process = run.start("all_members")
    long, short = run.shards()
    for shard in (long, short):
        run.until_training(shard)
    cluster.signal(process, signal.SIGKILL)
    process.wait()
    wait_for("the short shard", run.shard_path(short).exists)
    (job,) = run.jobs_of(long)
    assert (job.state, run.shard_path(long).exists()) == ("RUNNING", False)
    run.complete("--unlock")
    process = run.start("all_members")
    again = wait_for("another job for the long shard", lambda: run.jobs_of(long)[1:])
    waiting = f"waiting for another job that trains them ({job.nodes}, process"
    wait_for("a job that waits", lambda: waiting in run.training_log(long))
    assert run.job_of(long, "RUNNING").id == again[0].id
    wait_for("the long shard", run.shard_path(long).exists)
    made, seconds = run.shard_path(long).stat().st_ino, store.read(run.shard_path(long)).attrs["seconds"]
    assert run.finish(process) == 0, run.said()
    assert "and nothing is trained" in run.training_log(long)
    assert run.shard_path(long).stat().st_ino == made  # Snakemake touches it
    assert store.read(run.shard_path(long)).attrs["seconds"] == seconds
    assert states(run, short) == ["COMPLETED"]
    assert states(run, long) == ["COMPLETED", "COMPLETED"]
    for shard in (long, short):
        assert "resumed" not in store.read(run.shard_path(shard)).attrs  # each was trained in one go
    tell(
        "SIGKILL to Snakemake, --unlock, run again: the job of the rerun waited for the living one and trained nothing"
    )
