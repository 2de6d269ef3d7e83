"""Runs the real workflow on a tiny study in a folder of its own."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]

TINY = {
    "study": "tiny",
    "task": {"name": "ising", "lattice": 3, "target": "local", "train": 8, "test": 8},
    "network": {"name": "mlp", "width": 16},
    "training": {"learning_rate": {"critical_fraction": 0.5}, "steps": 10, "record": [0, 3, 10]},
    "ensemble": {"members": 12},
    "sweep": {"augmentation": ["none", "full"]},
    "evaluate": {"samples": 8},
    "tracking": {"wandb": "disabled"},
    "execution": {"shard_size": 4},
}


class Workplace:
    """A folder with a study file in it, and the means to run snakemake and emeq there."""

    def __init__(self, folder: Path, content: dict):
        self.folder, self.file = folder, folder / "study.yaml"
        self.content = content
        self.write()

    def write(self, **sections):
        """Change sections of the study file."""
        self.content = {**self.content, **sections}
        self.file.write_text(yaml.safe_dump(self.content))

    @property
    def root(self) -> Path:
        return self.folder / "results" / self.content["study"]

    def _run(self, *command: str) -> subprocess.CompletedProcess:
        environment = {**os.environ, "NPROC": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, env=environment, timeout=600)

    def snakemake(self, *arguments: str) -> subprocess.CompletedProcess:
        """Run the workflow on the study file."""
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "1"]
        profile = ["--workflow-profile", str(ROOT / "profiles" / "default"), "--configfile", str(self.file)]
        return self._run(*command, *arguments, *profile)

    def emeq(self, *arguments: str) -> subprocess.CompletedProcess:
        """Run the command line."""
        return self._run(sys.executable, "-m", "emergent_equivariance", *arguments)

    def planned(self, *arguments: str) -> dict[str, int]:
        """Rule name → number of jobs that a dry run would start."""
        done = self.snakemake(*arguments, "-n", "--quiet", "host")
        assert done.returncode == 0, done.stdout + done.stderr
        counts = {}
        for line in (done.stdout + done.stderr).splitlines():
            words = line.split()
            if len(words) == 2 and words[1].isdigit() and words[0].isidentifier() and words[0] != "total":
                counts[words[0]] = int(words[1])
        return counts


@pytest.fixture(scope="session")
def finished(tmp_path_factory, worker_id) -> Workplace:
    """The tiny study, run to its end once for all workers of pytest-xdist. Tests copy it before they change it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "finished"
    folder.mkdir(exist_ok=True)
    workplace, done = Workplace(folder, TINY), folder.with_suffix(".done")
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            run = workplace.snakemake()
            assert run.returncode == 0, run.stdout + run.stderr
            done.touch()
    return workplace


@pytest.fixture
def workplace(finished, tmp_path) -> Workplace:
    """A copy of the finished study that a test may change."""
    import shutil

    shutil.copytree(finished.folder, tmp_path / "copy", symlinks=True)
    return Workplace(tmp_path / "copy", TINY)
