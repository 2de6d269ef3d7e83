"""Private clusters for tests, and a table of what happened on them."""

from __future__ import annotations

import importlib.metadata
from contextlib import ExitStack

import pytest

pytest.register_assert_rewrite("tests.slurm.workplace")

from . import cluster as slurm  # noqa: E402
from .workplace import LONG, METRICS, SMALL, run_here, train_here  # noqa: E402


@pytest.fixture
def start_cluster(tmp_path):
    """Starts a cluster with given settings; it is stopped with the test, whatever became of it."""
    if reason := slurm.missing():
        pytest.skip(reason)
    with ExitStack() as running:

        def start(**settings) -> slurm.Cluster:
            if reason := slurm.missing(accounting=settings.get("accounting", False)):
                pytest.skip(reason)
            return running.enter_context(slurm.Cluster(tmp_path / "slurm", **settings))

        yield start


@pytest.fixture
def cluster(start_cluster) -> slurm.Cluster:
    """A cluster without accounting: states by squeue."""
    return start_cluster()


@pytest.fixture(scope="session")
def small_here(tmp_path_factory):
    """The small study, run on this machine."""
    return run_here(tmp_path_factory.mktemp("here") / "small", SMALL, METRICS)


@pytest.fixture(scope="session")
def long_here(tmp_path_factory):
    """The shards of the long study, trained on this machine."""
    return train_here(tmp_path_factory.mktemp("here") / "long", LONG)


@pytest.fixture
def tell(record_property):
    """Puts a sentence into the table that is printed after the tests."""
    return lambda text: record_property("slurm", text)


def pytest_terminal_summary(terminalreporter):
    """What happened on the clusters: test, outcome, seconds, and what the test told."""
    reports = [
        report
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        if report.when == "call" and "tests/slurm/" in report.nodeid
    ]
    if not reports:
        return
    executor = importlib.metadata.version("snakemake-executor-plugin-slurm")
    terminalreporter.section(f"{slurm.version()}, snakemake-executor-plugin-slurm {executor}")
    for report in sorted(reports, key=lambda report: report.nodeid):
        name = report.nodeid.rpartition("::")[2]
        told = "; ".join(text for key, text in report.user_properties if key == "slurm")
        terminalreporter.write_line(f"| {name} | {report.outcome} | {report.duration:.0f} s | {told} |")
