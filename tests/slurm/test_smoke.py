"""A study on a real SLURM, from its data to its figures."""

from .workplace import SITE, SMALL, ClusterRun, assert_same_results


def test_a_study_on_slurm_has_the_bits_of_one_on_this_machine(cluster, small_here, tmp_path, tell):
    run = ClusterRun(tmp_path / "run", SMALL, cluster, SITE)
    run.complete()
    assert_same_results(run, small_here)
    jobs = cluster.jobs()
    assert {job.state for job in jobs} == {"COMPLETED"}
    assert {(job.partition, job.nodes) for job in jobs} == {("cpu", "c1")}
    assert sum("train_shard" in job.comment for job in jobs) == 2
    tell(f"{len(jobs)} jobs; shards, ensembles, theory, metrics and tables equal")
