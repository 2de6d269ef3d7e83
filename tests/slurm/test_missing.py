"""A shard that fails for good: what is told, what is there, and how the study is closed without it."""

import pytest

from emergent_equivariance import store
from emergent_equivariance.settings.cluster import Cluster
from emergent_equivariance.study.cluster import request
from emergent_equivariance.study.resources import Demands

from .workplace import LONG, SITE, ClusterRun, stores

pytestmark = pytest.mark.slow


def test_a_shard_that_fails_for_good_leaves_the_others_and_is_named(cluster, long_here, tmp_path, tell):
    site = {**SITE, "unknown_minutes": 10, "max_memory": 16}  # so that a re-run may ask for more
    run = ClusterRun(tmp_path / "run", LONG, cluster, site)
    run.environment["EMEQ_TEST_FAIL"] = "000004"
    assert run.snakemake("--retries", "1") == 1
    good, bad = run.shards()
    assert [job.state for job in run.jobs_of(good)] == ["COMPLETED"]
    assert [job.state for job in run.jobs_of(bad)] == ["FAILED", "FAILED"]
    (arm,) = run.study.arms
    demand = Demands(run.study).of("train_shard", arm)
    asked = [request(Cluster(**site), "train_shard", demand, attempt) for attempt in (1, 2)]
    given = [(job.minutes, job.memory) for job in run.jobs_of(bad)]
    assert given == [(one["runtime"], one["mem_mb"]) for one in asked]
    assert given[0] < given[1] and given[0][1] < given[1][1]
    assert [job for job in cluster.jobs() if "aggregate" in job.comment] == []
    report = run.said()[run.said().index("is not complete") :]
    assert f"members 4–7: {run.shard_path(bad)}" in report.replace("results/", f"{run.folder}/results/")
    assert "logs/members/arm~single/members-000004-000007.log: " in report
    assert "this member shall fail" in run.said()
    name = str(run.shard_path(good).relative_to(run.study.root / "members"))
    assert stores(run.study.root / "members") == {name: stores(long_here.root / "members")[name]}
    refused = run.emeq("aggregate", "--arm", bad[0])
    assert refused.returncode == 1
    assert run.shard_path(bad).name in refused.stderr
    assert "allow_missing" in refused.stderr

    run.write(execution={**LONG["execution"], "allow_missing": True})
    run.complete()
    assert len(run.jobs_of(bad)) == 2
    ensemble = store.read(run.study.ensemble_path(arm))
    assert list(ensemble["missing"].values) == 4 * [False] + 4 * [True]
    assert ensemble.attrs["members"] == 4
    assert (run.study.root / "report.html").exists()
    tell(f"failed twice, asked for {given} (minutes, MB), named in the report with its last words; aggregate refused")
