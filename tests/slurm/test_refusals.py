"""Cluster files that the cluster cannot serve: refused by key and value, and nothing is submitted."""

import pytest

from .workplace import LONG, SITE, SLOWLY, SMALL, ClusterRun

pytestmark = pytest.mark.slow

GPU = {"partition": "gpu"}


@pytest.mark.parametrize(
    ("site", "words"),
    [
        ({"partition": "nonesuch"}, ["partition = nonesuch", "cpu, gpu, urgent"]),
        ({"gpu": {"partition": "cpu"}}, ["partition", "cpu", "no node of it has GPUs"]),
        ({"gpu": {**GPU, "type": "h100"}}, ["type = h100", "fake"]),
        ({"partition": "cpu", "max_memory": 0.2}, ["max_memory = 0.2 GB", "needs about"]),
        ({"partitoin": "cpu"}, ["partitoin"]),
        ({"gpu": {**GPU, "request": "gras"}}, ["request", "gras", "gres"]),
        ({"constraint": "avx512"}, ["constraint = avx512", "no node of partition cpu has the feature avx512"]),
        ({"max_minutes": 10000, "unknown_minutes": 9000}, ["9000", "allows 120", "max_minutes"]),
    ],
)
def test_what_the_cluster_cannot_serve_is_refused_by_name(cluster, tmp_path, site, words):
    run = ClusterRun(tmp_path / "run", LONG, cluster, {**SITE, **site})
    if "gpu" in site:
        run.choose_gpu(SLOWLY)
    assert run.snakemake() == 1
    assert all(word in run.said() for word in ["cluster.yaml", *words]), run.said()
    assert "Traceback" not in run.said()
    assert cluster.jobs() == []


def test_where_no_partition_is_the_default_one_must_be_named(start_cluster, tmp_path, tell):
    cluster = start_cluster(default=False)
    refused = cluster.run("sbatch", "--wrap=true")
    assert "No partition specified or system default partition" in refused.stderr
    site = {key: value for key, value in SITE.items() if key != "partition"}
    run = ClusterRun(tmp_path / "run", SMALL, cluster, site)
    assert run.snakemake() == 1
    assert "partition = null: none is named, and the cluster has no default; it has cpu, gpu, urgent" in run.said()
    assert "Nothing was submitted." in run.said() and "Traceback" not in run.said()
    assert cluster.jobs() == []
    tell("no default partition and none named: refused")


def test_an_account_that_is_not_the_users_is_refused_by_name(start_cluster, tmp_path, tell):
    cluster = start_cluster(accounting=True)
    run = ClusterRun(tmp_path / "run", SMALL, cluster, {**SITE, "account": "others"})
    assert run.snakemake() == 1
    assert "account = others: not one of your accounts, which are lab, root" in run.said()
    assert cluster.jobs() == []
    tell("sacctmgr asked; refused")
