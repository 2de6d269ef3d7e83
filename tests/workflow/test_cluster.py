"""The SLURM profile where there is no SLURM: dry runs, and what jobs ask for."""

import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml

from emergent_equivariance.study import load_study

from .conftest import ROOT, TINY

SITE = {"account": "lab", "partition": "cpu", "gpu": {"partition": "gpu", "type": "a100"}, "max_minutes": 300}

#: Long enough that engines are measured.
LONG = {
    **TINY,
    "training": {"learning_rate": {"critical_fraction": 0.5}, "steps": 1_000_000, "record": [0, 1_000_000]},
    "network": {"name": "mlp", "width": 512},
    "execution": {"shard_size": 4, "threads": 3, "kernel_threads": 2},
}

SHIPPED = sorted(path.name for path in (ROOT / "config").glob("*.yaml"))


def snakemake(folder, file, *arguments, profile="slurm", site=None):
    """Run snakemake where no command of SLURM is found."""
    commands = folder / "commands"
    commands.mkdir(exist_ok=True)
    for name in ("bash", "sh", "which"):
        if not (commands / name).exists():
            (commands / name).symlink_to(shutil.which(name))
    environment = {**os.environ, "PATH": str(commands), "EMEQ_CLUSTER": ""}
    if site is not None:
        (folder / "site.yaml").write_text(yaml.safe_dump(site))
        environment["EMEQ_CLUSTER"] = "site.yaml"
    command = [sys.executable, "-m", "snakemake", *arguments, "--snakefile", str(ROOT / "Snakefile")]
    options = ["--workflow-profile", str(ROOT / "profiles" / profile), "--configfile", str(file)]
    return subprocess.run(
        [*command, *options], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


def resources(text):
    """Rule → resources of its first job, as a dry run shows them."""
    found = {}
    for block in re.split(r"^(?:local)?rule ", text, flags=re.MULTILINE)[1:]:
        rule, _, rest = block.partition(":")
        line = re.search(r"^ *resources: (.*)$", rest, flags=re.MULTILINE)
        if line and rule not in found:
            found[rule] = dict(part.split("=", 1) for part in line[1].split(", "))
    return found


def written(folder, content):
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def test_jobs_ask_for_what_the_cluster_file_says(tmp_path):
    file = written(tmp_path, LONG)
    done = snakemake(tmp_path, file, "-n", site=SITE)
    assert done.returncode == 0, done.stdout + done.stderr
    asked = resources(done.stdout)
    on_cpu = {"compute_theory", "resolve_learning_rate", "aggregate_arm", "join_metrics", "draw_figures"}
    assert on_cpu < set(asked)
    for rule in on_cpu:
        assert (asked[rule]["slurm_account"], asked[rule]["slurm_partition"]) == ("lab", "cpu")
        assert "gres" not in asked[rule] and "gpu" not in asked[rule]
    for rule in ("probe_engine", "train_shard"):
        assert (asked[rule]["slurm_partition"], asked[rule]["gres"]) == ("gpu", "gpu:a100:1")
    for rule, found in asked.items():
        if rule != "all":
            assert int(found["mem_mb"]) >= 1000 and 1 <= int(found["runtime"]) <= 300, rule


def test_without_a_cluster_file_no_partition_is_named(tmp_path):
    done = snakemake(tmp_path, written(tmp_path, LONG), "-n")
    assert done.returncode == 0, done.stdout + done.stderr
    found = resources(done.stdout)["train_shard"]
    assert {"mem_mb", "runtime"} < set(found) and not any(name.startswith(("slurm", "g")) for name in found)


def test_only_jobs_of_a_scheduler_have_a_time_limit(tmp_path):
    file = written(tmp_path, TINY)
    arm = load_study(file, tmp_path / "results").arms[0]
    shard = f"results/tiny/members/{arm.path}/members-000000-000003.zarr.zip"
    here = snakemake(tmp_path, file, "-np", shard, profile="default")
    there = snakemake(tmp_path, file, "-np", "--mode", "remote", shard, profile="default")
    asked = resources(there.stdout)["train_shard"]["runtime"]
    assert "emergent_equivariance train" in here.stdout and "--minutes" not in here.stdout
    assert f"--last 000003 --minutes {asked} >" in there.stdout
    assert resources(here.stdout)["train_shard"]["runtime"] == asked


def test_a_cluster_file_that_cannot_be_used_stops_the_run(tmp_path):
    done = snakemake(tmp_path, written(tmp_path, TINY), "-n", site={"partitoin": "cpu"})
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "site.yaml: unknown key partitoin" in done.stdout + done.stderr


def test_without_sbatch_nothing_is_submitted(tmp_path):
    done = snakemake(tmp_path, written(tmp_path, TINY), site={"account": "lab"})
    said = done.stdout + done.stderr
    assert done.returncode == 1 and "Traceback" not in said
    assert "sbatch is not on this machine" in said and "Run on a login node" in said, said
    assert "Submitted" not in said and "not checked" not in said and len(said.splitlines()) < 60, said
    assert not (tmp_path / "results" / "tiny" / "data").exists()


@pytest.mark.parametrize(
    "name", [name if name == "histology_ntk.yaml" else pytest.param(name, marks=pytest.mark.slow) for name in SHIPPED]
)
def test_shipped_studies_are_planned_for_a_cluster_without_one(tmp_path, name):
    done = snakemake(tmp_path, ROOT / "config" / name, "-n", site=SITE)
    assert done.returncode == 0, done.stdout + done.stderr
    asked = resources(done.stdout)
    assert {"join_metrics", "draw_figures", "make_data"} < set(asked)
    assert all(found["slurm_account"] == "lab" for rule, found in asked.items() if rule != "all")
