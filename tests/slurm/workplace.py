"""A study in a folder of its own, run on a private cluster and, to compare, on this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import xarray as xr
import yaml

from emergent_equivariance import store
from emergent_equivariance.study import Choice, Probe, Study, load_study

from ..workflow.conftest import ROOT, Workplace
from .cluster import Cluster, Job, wait_for

#: One arm of two shards, each trained in an instant.
SMALL = {
    "study": "small",
    "task": {"name": "ising", "lattice": 3, "target": "local", "train": 8, "test": 8},
    "network": {"name": "mlp", "width": 16},
    "training": {"learning_rate": 0.2, "steps": 10, "record": [0, 3, 10]},
    "ensemble": {"members": 8},
    "augmentation": "full",
    "evaluate": {"samples": 8},
    "tracking": {"wandb": "disabled"},
    "execution": {"shard_size": 4},
}

#: What it is run for: everything but its pictures, which take as long to draw as all the rest.
METRICS = "results/small/metrics.nc"

#: Gradient steps of a member of the long study.
STEPS = 600

#: One arm of two shards, each of four members trained one after the other, with many checkpoints: really trained, and
#: as slowly as is asked for (see slow_network).
LONG = {
    **SMALL,
    "study": "long",
    "network": {"name": "torch", "factory": "slow_network:network", "width": 8},
    "training": {"learning_rate": 0.05, "steps": STEPS, "record": [0, STEPS // 2, STEPS]},
    "theory": {"mean": False},
    "execution": {"shard_size": 4, "checkpoint_period": 0.2, "engine": "torch"},
}
#: How its members are trained, with a pause every ten steps.
SLOWLY = Choice("torch", "loop", 1, 10)

#: What a user writes into the cluster file, for the private cluster.
SITE = {"partition": "cpu", "max_minutes": 30, "max_memory": 8}
GPU_SITE = {**SITE, "gpu": {"partition": "gpu", "request": "gpus"}}

#: Seconds after which something is taken to hang: far more than anything takes, on a busy machine too.
DEADLINE = 1200

CONTROLLER = [sys.executable, "-P", str(Path(__file__).with_name("controller.py"))]
SPY = Path(__file__).with_name("spy")


def clean_environment(**more: str) -> dict[str, str]:
    """The environment of a user's shell: nothing of a cluster that this test might itself run on."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SBATCH_", "EMEQ_"))}
    return {**kept, "WANDB_MODE": "disabled", **more}


class ClusterRun:
    """A study on a cluster: the study file, the cluster file and the results are in ``folder``."""

    def __init__(self, folder: Path, content: dict, cluster: Cluster, site: dict, **environment: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.cluster, self.content = folder, cluster, content
        self.file, self.log = folder / "study.yaml", folder / "snakemake.log"
        self.write()
        (folder / "cluster.yaml").write_text(yaml.safe_dump(site))
        self.spied = folder / "spied.jsonl"
        prepare(folder, self.file)
        self.environment = clean_environment(EMEQ_CLUSTER=str(folder / "cluster.yaml"), **environment)

    def write(self, **sections: object) -> None:
        """Write the study file, with some sections changed."""
        self.content = {**self.content, **sections}
        self.file.write_text(yaml.safe_dump(self.content))

    def emeq(self, command: str, *arguments: str) -> subprocess.CompletedProcess:
        """Run a subcommand on the study file, on the login host."""
        program = [sys.executable, "-m", "emergent_equivariance", command, str(self.file), *arguments]
        return self.cluster.run(*program, cwd=self.folder, env=self.environment, timeout=DEADLINE)

    def spy(self, **more: str) -> None:
        """Have every call of `emeq` say what it sees; see the folder ``spy``."""
        path = os.pathsep.join(filter(None, [str(SPY), self.environment.get("PYTHONPATH", "")]))
        self.environment |= {"PYTHONPATH": path, "EMEQ_SPY": str(self.spied), **more}

    def seen(self) -> list[dict]:
        """What the calls of `emeq` saw."""
        return [json.loads(line) for line in self.spied.read_text().splitlines()]

    @property
    def study(self) -> Study:
        return load_study(self.file, self.folder / "results")

    def start(self, *arguments: str) -> subprocess.Popen:
        """Start Snakemake; what it says is appended to ``log``."""
        command = [*CONTROLLER, "--snakefile", str(ROOT / "Snakefile"), "--configfile", str(self.file)]
        profile = ["--workflow-profile", str(ROOT / "profiles" / "slurm"), "--latency-wait", "10"]
        polling = ["--slurm-init-seconds-before-status-checks", "1"]
        with self.log.open("ab") as log:
            return self.cluster.popen(
                *command, *profile, *polling, *arguments, cwd=self.folder, env=self.environment, stdout=log, stderr=log
            )

    def finish(self, process: subprocess.Popen, seconds: float = DEADLINE) -> int:
        """Wait for Snakemake; → its exit code. Raises TimeoutError with what it said."""
        try:
            return process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            queue = "\n".join(map(str, self.cluster.jobs()))
            raise TimeoutError(f"snakemake runs for more than {seconds} s\n{self.said()}\n{queue}") from None

    def snakemake(self, *arguments: str, seconds: float = DEADLINE) -> int:
        """Run Snakemake to its end; → its exit code."""
        return self.finish(self.start(*arguments), seconds)

    def complete(self, *arguments: str, seconds: float = DEADLINE) -> None:
        """Run Snakemake to its end. Raises AssertionError with what it said where it fails."""
        assert self.snakemake(*arguments, seconds=seconds) == 0, self.said()

    def said(self) -> str:
        """Everything that Snakemake has said so far."""
        return self.log.read_text(errors="replace")

    def shards(self) -> list[tuple[str, int, int]]:
        """Arm, first and last member of every shard."""
        study = self.study
        return [(arm.path, *shard) for arm in study.arms for shard in study.shards(arm)]

    def shard_path(self, shard: tuple[str, int, int]) -> Path:
        study = self.study
        return study.shard_path(study.arm(shard[0]), *shard[1:])

    def checkpoint(self, shard: tuple[str, int, int]) -> Path:
        study = self.study
        return study.checkpoint_path(study.arm(shard[0]), *shard[1:])

    def training_log(self, shard: tuple[str, int, int]) -> str:
        """What the training of a shard said, in its last run."""
        arm, first, last = shard
        file = self.study.root / "logs" / "members" / arm / f"members-{first:06d}-{last:06d}.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def jobs_of(self, shard: tuple[str, int, int]) -> list[Job]:
        """The jobs that train a shard, the first one first."""
        arm, first, last = shard
        name = f"rule_train_shard_wildcards_{arm}_{first:06d}_{last:06d}"
        return [job for job in self.cluster.jobs() if job.comment == name]

    def job_of(self, shard: tuple[str, int, int], *states: str) -> Job | None:
        """The last job that trains a shard, None if there is none or it is in no such state."""
        found = self.jobs_of(shard)
        return found[-1] if found and (not states or found[-1].state in states) else None

    def until_training(self, shard: tuple[str, int, int], seconds: float = DEADLINE) -> Job:
        """Wait until a shard is in training and has a checkpoint; → the job that trains it."""

        def training() -> Job | None:
            job = self.job_of(shard, "RUNNING")
            return job if job and self.checkpoint(shard).exists() else None

        try:
            return wait_for(f"training of {shard}", training, seconds, every=0.3)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.said()}\n{self.training_log(shard)}") from None

    def choose_gpu(self, choice: Choice) -> None:
        """Have the measurement of engines found that the study trains best on a GPU, so that its jobs ask for one."""
        for arm in self.study.arms:
            told = {"reason": "for this test", "device": "fake GPU", "machine": "any", "threads": 1}
            store.write_text(Probe(arm.probe_key, choice, **told).to_json(), self.study.probe_path(arm))

    def last(self, seconds: float) -> None:
        """Have every shard of the long study train for about so many seconds."""
        pause = seconds / (STEPS * self.content["execution"]["shard_size"])
        self.environment["EMEQ_TEST_PAUSE"] = f"{pause:.6f}"


def prepare(folder: Path, file: Path) -> None:
    """Put beside a study file what its long form needs: the network, and the choice of engine (nothing is measured)."""
    shutil.copy(Path(__file__).with_name("slow_network.py"), folder)
    study = load_study(file, folder / "results")
    for arm in study.arms:
        if arm.settings.network.name == "torch":
            probe = Probe(arm.probe_key, SLOWLY, reason="for this test", device="cpu", machine="any", threads=1)
            store.write_text(probe.to_json(), study.probe_path(arm))


def run_here(folder: Path, content: dict, *targets: str) -> Workplace:
    """Run a study on this machine."""
    folder.mkdir(parents=True)
    workplace = Workplace(folder, content)
    done = workplace.snakemake(*targets)
    assert done.returncode == 0, done.stdout + done.stderr
    return workplace


def train_here(folder: Path, content: dict) -> Workplace:
    """Train the shards of a study of one arm on this machine, by hand."""
    folder.mkdir(parents=True)
    workplace = Workplace(folder, content)
    prepare(folder, workplace.file)
    study = load_study(workplace.file, folder / "results")
    (arm,) = study.arms
    commands = [["data", "--key", arm.data_key]]
    for first, last in study.shards(arm):
        commands.append(["train", "--arm", arm.path, "--first", str(first), "--last", str(last)])
    for name, *options in commands:
        done = workplace.emeq(name, str(workplace.file), *options)
        assert done.returncode == 0, done.stdout + done.stderr
    return workplace


def stores(results: Path) -> dict[str, str]:
    """Path of every store below a folder → its checksum over all arrays, verified."""
    found = sorted(file for file in results.rglob("*.zarr.zip") if not file.name.startswith("."))
    return {str(file.relative_to(results)): store.read(file).attrs["checksum"] for file in found}


def table(file: Path) -> pd.DataFrame:
    """A table, its columns and rows in an order of their own (theirs is that in which stores are listed)."""
    if not file.read_text().strip():  # one of a study too small for it
        return pd.DataFrame()
    found = pd.read_csv(file).sort_index(axis="columns")
    return found.sort_values(list(found.columns), ignore_index=True)


def assert_same_results(run: ClusterRun, here: Workplace) -> None:
    """Every array of two runs of a study is the same, bit by bit."""
    ours, expected = run.study.root, here.root
    assert stores(ours) == stores(expected)
    xr.testing.assert_equal(store.read_netcdf(ours / "metrics.nc"), store.read_netcdf(expected / "metrics.nc"))
    for file in (expected / "tables").iterdir():
        pd.testing.assert_frame_equal(table(ours / "tables" / file.name), table(file), check_exact=True)


def assert_same_shards(run: ClusterRun, here: Workplace) -> dict[str, int]:
    """Every shard of two runs of a study is the same, bit by bit; → shard → how often it was resumed."""
    ours, expected = stores(run.study.root / "members"), stores(here.root / "members")
    assert ours == expected
    left = [file.name for file in (run.study.root / "members").rglob(".*")]
    assert not [name for name in left if "checkpoint" in name], left
    return {name: store.read(run.study.root / "members" / name).attrs.get("resumed", 0) for name in ours}
