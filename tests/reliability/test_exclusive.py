"""One shard, several jobs: it is trained by one of them at a time, and not again."""

import signal
import time

import pytest

from emergent_equivariance import store
from emergent_equivariance.errors import INTERRUPTED
from emergent_equivariance.lease import holder

from .test_kill import DESCENT, RESUMED, Study, compare, stamp, undisturbed

#: ``emeq`` with a short silence of leases, as if it ran on a machine of its own.
ELSEWHERE = """
from emergent_equivariance import lease
from emergent_equivariance.cli import main
lease.Lease.__init__.__kwdefaults__["silence"] = 2.0
lease._machine = lambda: ("{host}", "{host}")
main()
"""
TRAINED, FOUND = "2 members in", "is there, and nothing is trained"


def program(host):
    return ("-c", ELSEWHERE.format(host=host))


def study_of(folder, steps=20000):
    return Study(
        folder, "gd", training={**DESCENT["training"], "steps": steps, "record": [0, steps]}, ensemble={"members": 2}
    )


def test_of_two_jobs_for_one_shard_one_trains_it_and_the_other_waits(tmp_path):
    study = study_of(tmp_path)
    (shard,) = study.shards
    jobs = [study.train(shard, program=program(host)) for host in ("node1", "node2")]
    said = [job.communicate(timeout=300)[1] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], said
    assert sorted((TRAINED in text, FOUND in text) for text in said) == [(False, True), (True, False)]
    assert not any(RESUMED in text for text in said)
    assert [file.name for file in study.members().iterdir()] == [study.path(shard).name]


@pytest.mark.slow
def test_a_job_that_was_stopped_too_long_ends_and_the_one_that_took_over_goes_on(tmp_path):
    study = study_of(tmp_path, 60000)
    (shard,) = study.shards
    expected, _ = undisturbed(study)
    first = study.train(shard, program=program("node1"))
    while stamp(study.checkpoint(shard)) is None:
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)
    before = stamp(study.checkpoint(shard))
    second = study.train(shard, program=program("node2"))
    while stamp(study.checkpoint(shard)) == before:
        assert second.poll() is None
        time.sleep(0.01)
    first.send_signal(signal.SIGCONT)
    told = first.communicate(timeout=300)[1]
    assert first.returncode == INTERRUPTED, told
    assert "members 0 to 1: taken over by another job (node2, process" in told.splitlines()[-1]
    said = second.communicate(timeout=300)[1]
    assert second.returncode == 0, said
    assert "waiting for another job that trains them (node1, process" in said
    assert "taken over from a job that has not been heard of for 2 s (node1, process" in said
    assert RESUMED in said
    assert compare(study, expected) == 1


def test_a_shard_that_is_there_is_not_trained_again_and_a_damaged_one_is(tmp_path):
    study = study_of(tmp_path, 10)
    (shard,) = study.shards
    study.finish(shard)
    path, before = study.path(shard), stamp(study.path(shard))
    study.checkpoint(shard).write_bytes(b"left by a job that was killed")
    assert FOUND in study.finish(shard)
    assert stamp(path) == before
    assert [file.name for file in study.members().iterdir()] == [path.name]
    checksum = store.read(path).attrs["checksum"]
    path.write_bytes(path.read_bytes()[:-100])
    process = study.train(shard)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    assert f"warning: {path}: is damaged" in said
    assert "It is trained again" in said
    assert store.read(path).attrs["checksum"] == checksum


def test_a_job_that_waits_can_be_ended(tmp_path):
    study = study_of(tmp_path, 10)
    (shard,) = study.shards
    lease = study.study.lease_path(study.arm, *shard)
    lease.mkdir(parents=True)
    (lease / "3").write_text("not known")
    process = study.train(shard)
    line = process.stderr.readline()
    assert line == "members 0 to 1: waiting for another job that trains them (unknown).\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED
    assert [file.name for file in study.members().iterdir()] == [lease.name]
    assert [file.name for file in lease.iterdir()] == ["3"]
    assert holder(lease) is None
