"""What a user meets on the command line: one paragraph, exit code 1, no traceback, nothing lost."""

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


def test_a_bad_key_is_refused_by_every_command(tmp_path):
    study = write(tmp_path, network={"name": "mlp", "widht": 4})
    for command in (["validate", study], ["plan", study], ["data", study, "--key", "0"], ["metrics", study]):
        refused(emeq(tmp_path, *command), "study.yaml", "network", "widht", "4", "width")


def test_wrong_usage_has_exit_code_2(tmp_path):
    assert emeq(tmp_path, "train", write(tmp_path)).returncode == 2


def test_an_unknown_arm_and_key_name_the_known_ones(tmp_path):
    study = write(tmp_path)
    refused(emeq(tmp_path, "aggregate", study, "--arm", "width~1"), "width~1", "arm~single")
    refused(emeq(tmp_path, "data", study, "--key", "abc"), "abc", keys(tmp_path, study)[0])


def test_training_without_data_says_what_is_missing(tmp_path):
    study = write(tmp_path)
    done = emeq(tmp_path, "train", study, "--arm", "arm~single", "--first", "0", "--last", "1")
    refused(done, keys(tmp_path, study)[0], "does not exist", "emeq data study.yaml --key")


def test_training_without_the_resolved_learning_rate_says_how_to_get_it(tmp_path):
    study = write(tmp_path, training={"learning_rate": {"critical_fraction": 0.5}, "steps": 2})
    assert emeq(tmp_path, "data", study, "--key", keys(tmp_path, study)[0]).returncode == 0
    done = emeq(tmp_path, "train", study, "--arm", "arm~single", "--first", "0", "--last", "1")
    refused(done, "learning-rate.json", "emeq learning-rate study.yaml --key")


def test_training_without_the_probe_says_how_to_get_it(tmp_path):
    study = write(tmp_path)
    assert emeq(tmp_path, "data", study, "--key", keys(tmp_path, study)[0]).returncode == 0
    done = emeq(tmp_path, "train", study, "--arm", "arm~single", "--first", "0", "--last", "1")
    refused(done, "results/tiny/engine", "does not exist", "emeq probe study.yaml --key")


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
    assert "diverged" in (tmp_path / "results" / "tiny" / "summary.html").read_text()


def test_a_missing_data_set_names_the_three_ways_to_provide_it(tmp_path):
    """With a proxy that refuses, and no system package: run only where the package is absent."""
    if os.path.isdir("/usr/share/datasets/fashion-mnist"):
        pytest.skip("FashionMNIST is installed on this machine")
    study = write(tmp_path, task={"name": "fashion_mnist"})
    variables = {"EMEQ_DATA_DIR": str(tmp_path), "HTTPS_PROXY": "http://127.0.0.1:9", "XDG_CACHE_HOME": str(tmp_path)}
    done = emeq(tmp_path, "data", study, "--key", keys(tmp_path, study)[0], **variables)
    refused(done, "data_dir", "EMEQ_DATA_DIR", "dataset-fashion-mnist")


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
