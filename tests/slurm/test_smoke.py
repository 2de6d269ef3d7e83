"""A study on a real SLURM, from its data to its metrics."""

import pytest
import yaml

from .cluster import wait_for
from .workplace import LONG, METRICS, ROOT, SITE, SMALL, ClusterRun, assert_same_results, assert_same_shards


def test_a_study_on_slurm_has_the_bits_of_one_on_this_machine(cluster, small_here, tmp_path, tell):
    run = ClusterRun(tmp_path / "run", SMALL, cluster, SITE)
    run.complete(METRICS)
    assert_same_results(run, small_here)
    jobs = cluster.jobs()
    assert {job.state for job in jobs} == {"COMPLETED"}
    assert {(job.partition, job.nodes) for job in jobs} == {("cpu", "c1")}
    assert sum("train_shard" in job.comment for job in jobs) == 2
    tell(f"{len(jobs)} jobs; shards, ensembles, theory, metrics and tables equal")


@pytest.mark.slow
def test_states_are_known_from_the_accounting_database_too(start_cluster, small_here, tmp_path, tell):
    cluster = start_cluster(accounting=True)
    run = ClusterRun(tmp_path / "run", SMALL, cluster, {**SITE, "account": "lab"})
    run.complete(METRICS, "--slurm-status-command", "sacct")
    assert_same_results(run, small_here)
    told = wait_for("sacct", lambda: cluster.output("sacct", "-X", "-n", "-P", "-o", "account,state,elapsed"))
    assert {tuple(line.split("|")[:2]) for line in told.splitlines()} == {("lab", "COMPLETED")}
    tell(f"status by sacct, account lab: {len(told.splitlines())} jobs, results equal")


@pytest.mark.slow
def test_several_shards_are_trained_in_one_job(cluster, long_here, tmp_path, tell):
    run = ClusterRun(tmp_path / "run", LONG, cluster, SITE)
    # The profile's own lines, which are commented there.
    lines = (ROOT / "profiles" / "slurm" / "config.yaml").read_text().partition("# groups: ")[1:]
    wanted = yaml.safe_load("".join(lines).replace("# ", ""))
    wanted["group-components"] = ["shards=2"]
    options = [word for name, values in wanted.items() for word in (f"--{name}", *values)]
    assert len(wanted) == 5
    run.complete("all_members", *options)
    assert_same_shards(run, long_here)
    (job,) = cluster.jobs()
    assert (job.state, job.comment) == ("COMPLETED", "rule_shards_train_shard")
    tell(f"2 shards in one job ({job.comment}), equal")
