"""A whole study, job by job, with the real client and a stand-in server."""

import os
import re
import subprocess
import sys
from getpass import getuser
from pathlib import Path

import pytest
import yaml

from emergent_equivariance.study import load_study
from tests.tracking.conftest import CONTENT, leaked, said_by_client
from tests.tracking.wandb_server import KEY, WandbServer

pytestmark = pytest.mark.slow

SECRETS = {
    "MY_SECRET_TOKEN": "swordfish-4711",
    "DATABASE_URL": "postgres://u:tuna-0815@db",
    "LOGNAME": "porcupine-user",
}


def emeq(folder: Path, *arguments: object) -> str:
    command = [sys.executable, "-m", "emergent_equivariance", *map(str, arguments)]
    variables = {**os.environ, "NPROC": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=variables, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def run_study(folder: Path, mode: str) -> str:
    """All jobs of the study in a folder; what they say."""
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump({**CONTENT, "tracking": {"wandb": mode}}))
    study, said = load_study(file, folder / "results"), ""
    for command, keys in (
        ("data", [arm.data_key for arm in study.arms]),
        ("probe", [arm.probe_key for arm in study.arms]),
        ("theory", [arm.theory_key for arm in study.arms]),
    ):
        for key in dict.fromkeys(keys):
            said += emeq(folder, command, "study.yaml", "--key", key)
    for arm in study.arms:
        for first, last in study.shards(arm):
            said += emeq(folder, "train", "study.yaml", "--arm", arm.path, "--first", first, "--last", last)
        said += emeq(folder, "aggregate", "study.yaml", "--arm", arm.path)
    return said + emeq(folder, "metrics", "study.yaml") + emeq(folder, "figures", "study.yaml")


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_a_study_is_one_run_per_shard_per_theory_store_and_one_summary(
    mode, tmp_path, monkeypatch, server: WandbServer
):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    remote = "https://somebody:halibut-1234@git.invalid/secret-project.git"
    subprocess.run(["git", "remote", "add", "origin", remote], cwd=tmp_path, check=True)
    said = run_study(tmp_path, mode)
    assert "warning: Weights & Biases" not in said
    if mode == "offline":
        assert server.requests == []
        assert "6 of 6 runs sent" in emeq(tmp_path, "sync", "study.yaml")
    runs = {job: server.by_job(job) for job in ("train", "theory", "summary")}
    assert {job: len(found) for job, found in runs.items()} == {"train": 4, "theory": 1, "summary": 1}
    assert all(run.finished and run.fields["groupName"] == "tiny" for found in runs.values() for run in found)
    assert sorted(tuple(run.fields["tags"]) for run in runs["train"]) == [("width=4",)] * 2 + [("width=8",)] * 2
    (theory,), (summary,) = runs["theory"], runs["summary"]
    for row, other in zip(runs["train"][0].history, theory.history, strict=True):
        assert row["step"] == other["step"]
        assert {key for key in other if "/test/" in key and "limit" not in key} <= set(row)
    assert [row["members"] for row in summary.history if "members" in row] == [1, 2, 4, 8]
    assert [row["width"] for row in summary.history if "width" in row] == [4, 8]
    assert server.artifacts["tiny-metrics"]["metrics.nc"] == (tmp_path / "results/tiny/metrics.nc").read_bytes()
    assert {"tables/key_numbers", "tables/failures", "members_total", "diverged/width-4"} <= set(summary.summary)
    names = [*SECRETS, *SECRETS.values(), "tuna-0815", "halibut-1234", "git.invalid", KEY, os.uname().nodename]
    names += [getuser(), str(tmp_path), str(Path.home()), str(Path(__file__).parents[2]), sys.executable]
    root = tmp_path / "results" / "tiny"
    kept = [path.read_bytes() for path in root.rglob("*") if path.is_file() and ".cache" not in path.parts]
    kept = [re.sub(rb"<script\b.*?</script>", b"", content, flags=re.DOTALL) for content in kept]  # Vega's own words
    assert leaked(names, [*said_by_client(server), *kept, said.encode()]) == []
