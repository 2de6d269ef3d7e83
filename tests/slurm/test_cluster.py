"""The private clusters themselves: they run side by side, and nothing of them stays."""

import os
from contextlib import suppress
from pathlib import Path

import pytest

from .cluster import Cluster, missing, wait_for

if reason := missing():
    pytest.skip(reason, allow_module_level=True)


def network(process):
    """The network namespace of a process."""
    with suppress(OSError):
        return os.readlink(f"/proc/{process}/ns/net")


def processes_in(namespace):
    return [process for process in os.listdir("/proc") if process.isdigit() and network(process) == namespace]


def test_clusters_run_side_by_side_and_leave_nothing_behind(tmp_path):
    def configuration():
        return sorted((file.name, file.lstat().st_mtime_ns) for file in Path("/etc/slurm").iterdir())

    before = configuration()
    with Cluster(tmp_path / "a") as one, Cluster(tmp_path / "b") as other:
        job = one.submit("-p", "gpu", "--gres=gpu:2", "--nodelist=g1", "--no-requeue")
        wait_for("the job", lambda: [found.state for found in one.jobs()] == ["RUNNING"])
        assert other.jobs() == []
        namespace, another = (cluster.output("readlink", "/proc/self/ns/net").strip() for cluster in (one, other))
        assert len({namespace, another, network("self")}) == 3
        assert len(processes_in(namespace)) > 8
        one.kill_node("g1")
        wait_for("its end", lambda: [found.state for found in one.jobs()] == ["NODE_FAIL"])
        assert one.jobs()[0].id == job
        one.revive("g1")
        again = one.submit("-p", "gpu", "--nodelist=g1")
        wait_for("a job on it", lambda: [f.id for f in one.jobs() if f.state == "RUNNING"] == [again])
    wait_for("the end of all processes", lambda: processes_in(namespace) + processes_in(another) == [])
    assert configuration() == before
