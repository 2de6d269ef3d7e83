"""A disk that is full, limited or read-only: training says so by name, and nothing that was written is lost."""

import os
import resource
import signal
import subprocess
import time

import pytest

from emergent_equivariance import store

from .test_kill import DESCENT, RESUMED, Study, compare, stamp, undisturbed

TRAINING = {"training": {**DESCENT["training"], "steps": 40000, "record": [0, 40000]}, "ensemble": {"members": 2}}
SHORT = {"training": {"learning_rate": 0.2, "steps": 10}, "ensemble": {"members": 2}}


@pytest.fixture
def disk(tmp_path):
    """A file system of 8 MB, where one may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], check=False).returncode
    ):
        pytest.skip("a small file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def remount(disk, how):
    subprocess.run(["mount", "-o", f"remount,{how}", disk], check=True)


def refused(study, *texts):
    """Train, which fails with one paragraph; → what was said before."""
    process = study.train(study.shards[0])
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 1, said
    check(said, *texts)
    return said


def check(said, *texts):
    assert "Traceback" not in said
    last = said.strip().splitlines()[-1]
    assert last.startswith("error: ")
    for text in (*texts, "cannot be written", "run the same command again"):
        assert text in last, last


@pytest.mark.slow
def test_a_read_only_results_folder_is_named_and_what_is_there_counts(disk):
    study = Study(disk, "gd", **SHORT)
    lease = study.study.lease_path(study.arm, *study.shards[0])
    remount(disk, "ro")
    refused(study, str(lease), "the disk is read-only")
    remount(disk, "rw")
    study.finish(study.shards[0])
    remount(disk, "ro")
    assert "is there, and nothing is trained" in study.finish(study.shards[0])


@pytest.mark.slow
def test_a_disk_that_fills_up_in_training_leaves_the_last_good_checkpoint(disk):
    study = Study(disk, "gd", **TRAINING)
    expected, _ = undisturbed(study)
    (shard,) = study.shards
    checkpoint, filler = study.checkpoint(shard), disk / "filler"
    process = study.train(shard)
    while stamp(checkpoint) is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGSTOP)
    filler.write_bytes(bytes(os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize))
    process.send_signal(signal.SIGCONT)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 1
    check(said, "the disk is full", "members-000000-000001.", "zarr.zip", "lost")  # the next checkpoint, or the shard
    assert [file.name for file in study.members().iterdir()] == [checkpoint.name]
    store.read(checkpoint)
    refused(study, ".members-000000-000001.", "the disk is full")
    filler.unlink()
    assert RESUMED in study.finish(shard)
    assert compare(study, expected) == 1


@pytest.mark.slow
def test_files_that_may_not_be_as_large_are_named(tmp_path):
    """Neither programs can be kept, of which JAX warns, nor checkpoints, nor the shard."""
    study = Study(tmp_path, "gd", **SHORT)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        refused(study, "members-000000-000001.", "zarr.zip", "File too large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not any(study.members().iterdir())
    study.finish(study.shards[0])
