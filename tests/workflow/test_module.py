"""The workflow as a module of another Snakefile, in a folder that holds nothing of this repository (docs/module.md)."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from emergent_equivariance.study import load_study

from .conftest import ROOT, TINY

DEPLOYED = """
configfile: "config/study.yaml"

module emeq:
    snakefile: "{root}/workflow/Snakefile"
    config: config

use rule * from emeq
"""

TWO = """
module first:
    snakefile: "{root}/Snakefile"
    config: {"study_file": "config/study.yaml"}
    prefix: "one"

use rule * from first as first_*

module second:
    snakefile: "{root}/Snakefile"
    config: {"study_file": "config/other.yaml"}

use rule * from second as second_*

onstart:
    first.begin()
    second.begin()

onerror:
    first.tell_missing()

rule all:
    default_target: True
    input: rules.first_all.input, rules.second_all.input
"""

STANDIN = """#!/bin/bash
if [ "$1" = --version ]; then echo "apptainer version 1.3.4"; exit 0; fi
echo "$@" >> "$(dirname "$0")/called"
while [[ "$1" != envs/emergent-equivariance.sif ]]; do shift; done
shift
exec "$@"
"""


def project(folder: Path, snakefile: str, **studies) -> Path:
    """A folder with a Snakefile of its own, and study files below config/."""
    (folder / "workflow").mkdir(parents=True)
    (folder / "config").mkdir()
    (folder / "workflow" / "Snakefile").write_text(snakefile.replace("{root}", str(ROOT)))
    for name, content in studies.items():
        (folder / "config" / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return folder


def snakemake(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Run the Snakefile of a folder there."""
    profile = ["--workflow-profile", str(ROOT / "profiles" / "default")]
    command = [sys.executable, "-m", "snakemake", "--cores", "1", *arguments, *profile]
    environment = {**os.environ, "NPROC": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **environment}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, timeout=900)


def planned(said: str) -> dict[str, int]:
    """Rule → number of jobs, of the table that a dry run begins with."""
    table = re.search(r"Job stats:\n(.*?)\n\n", said, re.DOTALL)[1]
    return {rule: int(count) for rule, count in re.findall(r"^(\w+)\s+(\d+)$", table, re.MULTILINE)}


@pytest.mark.slow
def test_the_default_study_is_the_file_beside_the_workflow(tmp_path):
    for snakefile in ("Snakefile", "workflow/Snakefile"):
        said = snakemake(tmp_path, "-n", "-p", "--snakefile", str(ROOT / snakefile)).stdout
        assert f" data {ROOT / 'config' / 'ising.yaml'} --key " in said


def test_as_snakedeploy_deploys_it(tmp_path):
    """Without a default target of the module's own the plan would be empty."""
    folder = project(tmp_path / "a", DEPLOYED, study=TINY)
    done = snakemake(folder, "-n")
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert planned(said)["train_shard"] == 6 and "results/tiny/metrics.nc" in said
    assert "--results" not in said


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
@pytest.mark.slow
def test_read_from_a_repository(tmp_path):
    """The rules and captions too; the Python code is that of the environment."""
    repository = tmp_path / "repository"
    for part in ("workflow", "src/emergent_equivariance/report/captions"):
        shutil.copytree(ROOT / part, repository / part)
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "all"], ["tag", "v1.0.0"]):
        subprocess.run(["git", *command], cwd=repository, check=True)
    hosted = f'gitfile("{repository}", path="workflow/Snakefile", tag="v1.0.0")'
    folder = project(tmp_path / "a", DEPLOYED.replace('"{root}/workflow/Snakefile"', hosted), study=TINY)
    done = snakemake(folder, "-n")
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert planned(said)["train_shard"] == 6


@pytest.mark.slow
def test_a_finished_study_is_found_under_a_prefix_beside_another_one(finished, tmp_path):
    folder = project(tmp_path / "a", TWO, study=TINY, other={**TINY, "study": "other"})
    shutil.copytree(finished.folder / "results", folder / "one" / "results")
    done = snakemake(folder, "-n", "-p")
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert {rule for rule in planned(said) if rule.startswith("first_")} == set()
    assert planned(said)["second_train_shard"] == 6
    lost = next((folder / "one" / "results" / "tiny" / "ensemble").rglob("*none.zarr.zip"))
    lost.unlink()
    said = snakemake(folder, "-n", "-p").stdout
    assert {rule for rule in planned(said) if rule.startswith("first_")} == {
        *("first_aggregate_arm", "first_join_metrics", "first_draw_figures")
    }
    assert re.search(r"aggregate config/study.yaml --results one/results --arm augmentation~none", said)


@pytest.mark.slow
def test_a_config_that_is_no_study_is_refused(tmp_path):
    two = 'configfile: "config/study.yaml"\nconfigfile: "config/other.yaml"\n'
    text = DEPLOYED.replace('configfile: "config/study.yaml"\n', two).replace(
        "config: config", 'config: {"study": "tiny"}'
    )
    folder = project(tmp_path / "a", text, study=TINY, other=TINY)
    done = snakemake(folder, "-n")
    said = "one study file is expected, got config/study.yaml, config/other.yaml"
    assert done.returncode == 1 and said in done.stderr + done.stdout, done.stderr


@pytest.mark.slow
def test_jobs_in_a_container_run_its_python(tmp_path):
    """With a stand-in for apptainer, which runs the command as it is."""
    folder = project(tmp_path / "a", DEPLOYED, study=TINY)
    standin = tmp_path / "bin" / "apptainer"
    standin.parent.mkdir()
    standin.write_text(STANDIN)
    standin.chmod(0o755)
    path = os.pathsep.join([str(standin.parent), str(Path(sys.executable).parent), os.environ["PATH"]])
    data = load_study(folder / "config" / "study.yaml").arms[0].data_key
    done = snakemake(folder, f"results/tiny/data/{data}.zarr.zip", "-p", "--sdm", "apptainer", PATH=path)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert f"python -m emergent_equivariance data config/study.yaml --key {data}" in said
    assert sys.executable not in said.split("Shell command:")[1].splitlines()[0]
    assert (tmp_path / "bin" / "called").read_text().startswith("exec ")


@pytest.mark.slow
def test_a_study_runs_through_another_snakefile(tmp_path):
    small = {**TINY, "sweep": {"augmentation": ["full"]}, "ensemble": {"members": 4}}
    text = TWO + "\n# the other one is not run\n"
    folder = project(tmp_path / "a", text, study=small, other={**small, "study": "other"})
    done = snakemake(folder, "first_all")
    assert done.returncode == 0, done.stdout + done.stderr
    root = folder / "one" / "results" / "tiny"
    assert (root / "metrics.nc").is_file() and (root / ".controller").is_file()
    assert not (folder / "results" / "other" / "metrics.nc").exists()
    again = snakemake(folder, "-n", "first_all")
    assert "Nothing to be done" in again.stdout + again.stderr
    shown = snakemake(folder, "--report", "report.html", "first_all")
    assert shown.returncode == 0 and (folder / "report.html").stat().st_size > 1e5, shown.stdout + shown.stderr
