"""A study as large as one likes, trained by the stub engine: everything but the training is real.

    python -m tests.scale.simulation FOLDER [--arms 10] [--members 1000] [--shard-size 100] [--full-size] [--slurm]

runs one in FOLDER, by the local executor or on a private SLURM cluster (tests/slurm), and prints as JSON what it took:
processor time and memory of every kind of process, files and bytes. What docs/scaling.md says of such runs is of those
of tests/benchmarks/test_workflow_overhead.py.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

import yaml

from emergent_equivariance.study import load_study

from ..slurm.cluster import Cluster
from . import constants

ROOT = Path(__file__).parents[2]
STUB = Path(__file__).with_name("stub")
WIDTHS = (256, 512, 1024, 2048, 4096)


def content(arms=10, members=1000, shard_size=100, *, full_size=False, wandb="offline"):
    """A study with the arms of config/ising_full.yaml (more or fewer widths), trained by the stub.

    Args:
      arms: number of arms, even: half without and half with augmentation.
      members, shard_size: of each arm.
      full_size: whether a member is as many bytes as there; otherwise data is small.
      wandb: mode of tracking.
    """
    study = yaml.safe_load((ROOT / "config" / "ising_full.yaml").read_text())
    study |= {"study": "simulated", "tracking": {"wandb": wandb}}
    study["sweep"]["network.width"] = [WIDTHS[k] if k < len(WIDTHS) else 8 * k for k in range(arms // 2)]
    study["ensemble"]["members"] = members
    study["execution"] = {"shard_size": shard_size, "engine": "stub"}
    if not full_size:
        study["task"] |= {"lattice": 3, "train": 16, "test": 16}
        study["evaluate"]["samples"] = 8
    return study


@dataclass
class Account:
    """What a run took.

    Attributes:
      code: exit status of Snakemake.
      output: what it printed.
      wall: seconds.
      processes: kind of process → list of what each took (stub/usage.py). Kinds are "controller", "job" (Snakemake
        inside a cluster job) and the subcommands of emeq.
    """

    code: int
    output: str
    wall: float
    processes: dict[str, list[dict]] = field(default_factory=dict)

    def total(self, *kinds):
        """Processor time of the processes of some kinds in seconds, what they start included."""
        return sum(
            p["seconds"] + (p["children"] if kind not in SNAKEMAKE else 0) for kind in kinds for p in self.of(kind)
        )

    def of(self, kind):
        """What the processes of a kind took."""
        return self.processes.get(kind, [])

    def summary(self):
        """Means per kind of process, as a dictionary for JSON."""
        kinds = {
            kind: {
                "processes": len(taken),
                "seconds": round(mean(p["seconds"] for p in taken), 3),
                "children": round(mean(p["children"] for p in taken), 3),
                "wall": round(mean(p["wall"] for p in taken), 3),
                "MB": round(max(p["memory"] for p in taken) / 1e6),
            }
            for kind, taken in self.processes.items()
        }
        return {"code": self.code, "wall": round(self.wall, 1), "processes": kinds}


SNAKEMAKE = ("controller", "job")


class Simulation:
    """A study file in a folder of its own, and the means to run it with the stub engine."""

    def __init__(self, folder, study, cluster=None, **environment):
        self.folder, self.study = Path(folder).resolve(), study
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file = self.folder / "study.yaml"
        self.file.write_text(yaml.safe_dump(study, sort_keys=False))
        path = os.pathsep.join(filter(None, [str(STUB), os.environ.get("PYTHONPATH")]))
        self.environment = {**os.environ, "PYTHONPATH": path, "NPROC": "1", "OMP_NUM_THREADS": "1", **environment}
        self.cluster = cluster

    @property
    def root(self):
        return self.folder / "results" / self.study["study"]

    def snakemake(self, *arguments, profile="default"):
        """Run the workflow; → Account."""
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), *arguments]
        options = ["--workflow-profile", str(ROOT / "profiles" / profile), "--configfile", str(self.file)]
        return self.run(*command, *options)

    def local(self, *arguments):
        """Run it on one core of this machine."""
        return self.snakemake("--cores", "1", *arguments)

    def slurm(self, *arguments):
        """Run it on ``cluster``, a tests.slurm.cluster.Cluster."""
        quick = ["--slurm-init-seconds-before-status-checks", "5", "--seconds-between-status-checks", "5"]
        return self.snakemake("--jobs", "4", *quick, *arguments, profile="slurm")

    def emeq(self, *arguments):
        """Run a subcommand of emeq; → Account."""
        return self.run(sys.executable, "-m", "emergent_equivariance", *arguments)

    def run(self, *command):
        """Run a command with the stub engine known; → Account."""
        usage = self.folder / "usage" / str(time.time_ns())
        start = time.monotonic()
        environment = {**self.environment, "STUB_USAGE": str(usage)}
        if self.cluster is None:
            done = subprocess.run(command, cwd=self.folder, env=environment, text=True, capture_output=True)
        else:
            done = self.cluster.run(*command, cwd=self.folder, env=environment, timeout=7200)
        account = Account(done.returncode, done.stdout + done.stderr, time.monotonic() - start)
        kinds = defaultdict(list)
        for file in usage.iterdir() if usage.is_dir() else ():
            taken = json.loads(file.read_text())
            kinds[kind_of(taken["command"])].append(taken)
        account.processes = dict(kinds)
        return account

    def real(self):
        """The study as one with a real engine, which the program itself knows: its jobs are the same."""
        file = self.folder / "real.yaml"
        study = {**self.study, "execution": {**self.study["execution"], "engine": "jax"}}
        file.write_text(yaml.safe_dump(study, sort_keys=False))
        return load_study(file, self.folder / "results")

    def taken(self, account):
        """What a run from data to figures took: constants.TAKEN → number."""
        (controller,), files = account.of("controller"), self.files()
        commands = 0.0
        if self.cluster is not None:  # sbatch and squeue, but not the one job that runs beside it
            commands = controller["children"] - account.total("data")
        return {
            constants.JOBS: sum(len(found) for kind, found in account.processes.items() if kind not in SNAKEMAKE),
            constants.WALL: account.wall / 60,
            constants.FILES: len(files),
            constants.BYTES: sum(p.stat().st_size for p in files) / 1e6,
            constants.SECONDS: controller["seconds"] + max(commands, 0.0),
            constants.MEMORY: controller["memory"] / 1e6,
        }

    def files(self, without=("logs", "tracking", ".cache")):
        """Files under results/STUDY, but those of some of its folders."""
        return [p for p in self.root.rglob("*") if p.is_file() and p.relative_to(self.root).parts[0] not in without]


def kind_of(command):
    """What a process is, from its command line."""
    if "snakemake" in command:
        return "job" if "--mode" in command else "controller"
    if "emergent_equivariance" in command:
        return command[command.index("emergent_equivariance") + 1]
    return "other"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for name, default in (("arms", 10), ("members", 1000), ("shard-size", 100)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--full-size", action="store_true", help="as many bytes per member as config/ising_full.yaml")
    parser.add_argument("--slurm", action="store_true")
    parser.add_argument("--wandb", default="offline")
    given = parser.parse_args()
    study = content(given.arms, given.members, given.shard_size, full_size=given.full_size, wandb=given.wandb)
    if given.slurm:
        with tempfile.TemporaryDirectory() as root, Cluster(Path(root) / "slurm") as cluster:
            simulation = Simulation(given.folder, study, cluster)
            account = simulation.slurm()
    else:
        simulation = Simulation(given.folder, study)
        account = simulation.local()
    found = simulation.taken(account)
    tracking = [p for p in simulation.root.glob("tracking/**/*") if p.is_file()]
    found |= {"tracking files": len(tracking), "tracking MB": sum(p.stat().st_size for p in tracking) / 1e6}
    (simulation.folder / "output.txt").write_text(account.output)
    print(json.dumps(account.summary() | found, indent=1))
    sys.exit(account.code)


if __name__ == "__main__":
    main()
