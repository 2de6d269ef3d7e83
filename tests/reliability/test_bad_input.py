"""What goes wrong while a study runs, from the command line to the report; messages: test_error_table."""

import os
import subprocess
import sys

import pytest
import yaml

TINY = {
    "study": "tiny",
    "task": {"name": "ising", "lattice": 3, "train": 4, "test": 4},
    "network": {"name": "mlp", "width": 4},
    "training": {"learning_rate": 0.1, "steps": 2},
    "ensemble": {"members": 2},
    "tracking": {"wandb": "disabled"},
}


def emeq(folder, *arguments, **environment):
    command = [sys.executable, "-m", "emergent_equivariance", *arguments]
    variables = {**os.environ, "NPROC": "1", "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=variables, timeout=300)


def write(folder, **sections):
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump({**TINY, **sections}))
    return file.name


def keys(folder, study):
    from emergent_equivariance.study import load_study

    arm = load_study(folder / study).arms[0]
    return arm.data_key, arm.theory_key


def probe(folder, study, *options):
    from emergent_equivariance.study import load_study

    key = load_study(folder / study).arms[0].probe_key
    done = emeq(folder, "probe", study, "--key", key, *options)
    assert done.returncode == 0, done.stderr


def refused(done, *texts):
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    for text in texts:
        assert text in last, last


@pytest.mark.slow
def test_a_learning_rate_above_critical_is_warned_about_and_reaches_the_report_as_diverged_members(tmp_path):
    study = write(tmp_path, training={"learning_rate": 1e4, "steps": 200, "record": [0, 200]})
    data_key, theory_key = keys(tmp_path, study)
    assert emeq(tmp_path, "data", study, "--key", data_key).returncode == 0
    theory = emeq(tmp_path, "theory", study, "--key", theory_key)
    assert theory.returncode == 0
    assert "warning" in theory.stderr
    assert "critical" in theory.stderr
    probe(tmp_path, study)
    train = emeq(tmp_path, "train", study, "--arm", "arm~single", "--first", "0", "--last", "1")
    assert train.returncode == 0
    assert "2 of them diverged" in train.stderr
    for command in (["aggregate", study, "--arm", "arm~single"], ["metrics", study], ["figures", study]):
        done = emeq(tmp_path, *command)
        assert done.returncode == 0, done.stderr
    assert "diverged" in (tmp_path / "results" / "tiny" / "report.html").read_text()


def test_a_full_disk_is_named_and_nothing_is_lost(tmp_path):
    """On a file system of 2 MB, where it may be mounted."""
    small = tmp_path / "small"
    small.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", small]).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        study = write(tmp_path)
        key = keys(tmp_path, study)[0]
        assert emeq(tmp_path, "data", study, "--key", key, "--results", str(small)).returncode == 0
        probe(tmp_path, study, "--results", str(small))
        (small / "filler").write_bytes(bytes(os.statvfs(small).f_bavail * os.statvfs(small).f_frsize))
        before = {p: p.read_bytes() for p in small.rglob("*.zip")}
        arguments = ["train", study, "--arm", "arm~single", "--first", "0", "--last", "1", "--results", str(small)]
        refused(emeq(tmp_path, *arguments), ".members-000000-000001.lease", "disk is full", "Make room")
        assert {p: p.read_bytes() for p in small.rglob("*.zip")} == before
        (small / "filler").unlink()
        assert emeq(tmp_path, *arguments).returncode == 0
    finally:
        subprocess.run(["umount", small], check=True)
