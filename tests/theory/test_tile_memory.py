"""Peak memory of the jobs of the analytic side, measured in processes of their own, against the stated budget."""

import json
import subprocess
import sys

import pytest

from emergent_equivariance.study.budget import PROGRAM

WORKER = """
import json, sys
from pathlib import Path
import jax; jax.config.update("jax_enable_x64", True)
from emergent_equivariance import kernel_store, theory
from emergent_equivariance.study import parse_study
from emergent_equivariance.study.budget import needs
from emergent_equivariance.tasks import build_task
job, folder, content = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
study = parse_study(content, folder / "study.yaml", folder)
(arm,) = study.arms
task, counted = arm.settings.task, needs(arm.settings)
if task.name == "fashion_mnist":  # the pixels do not matter, and need no files
    import numpy as np
    from emergent_equivariance.groups import get_group
    from emergent_equivariance.tasks.images import classification
    count = {"train": task.train, "test": task.test}
    image = {split: np.random.default_rng(0).standard_normal((n, 28, 28, 1)) for split, n in count.items()}
    label = {split: np.zeros(n, dtype=int) for split, n in count.items()}
    data = classification(image, label, get_group(arm.settings.group), arm.settings.action, {})
else:
    data = build_task(arm.settings)
if job == "tiles":
    kernel_store.compute(study, arm, data, 0, counted.tiling.count - 1, say=print)
elif job == "assemble":
    kernel_store.assemble(study, arm, data)
else:
    theory.solve(arm.settings, data, 0.1, kernels=kernel_store.read(study, arm))
# of this program alone: ru_maxrss counts what the process had before it became this program, a copy of a large pytest
(peak,) = (1024 * int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([peak, counted.solution if job == "solve" else counted.tile_job, counted.disk]))
"""


def measured(job, folder, train, side, augmentation, **sections):
    """Peak memory, what is counted for it, and the size of the whole matrix, in bytes."""
    content = {
        "study": "s",
        "task": {"name": "ising", "lattice": 4, "train": train, "test": 20},
        "network": {"name": "mlp"},
        "augmentation": augmentation,
        "training": {"learning_rate": 0.1, "steps": 10},
        "evaluate": {"samples": 20},
        "execution": {"tiles_above": 10, "tile_size": side, "tiles_per_job": 10**6},
    }
    for key, section in sections.items():
        content[key] = section if "name" in section else {**content[key], **section}
    command = [sys.executable, "-c", WORKER, job, str(folder), json.dumps(content)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("augmentation", ["full", {"subset": 2}])
def test_no_job_needs_more_than_is_counted(tmp_path, augmentation):
    for job in ("tiles", "assemble", "solve"):
        peak, counted, _ = measured(job, tmp_path, 600, 300, augmentation)
        assert peak < counted, job


@pytest.mark.slow
@pytest.mark.parametrize("network", ["cnn", "gcnn"])
def test_tiles_of_pooled_networks_on_28_pixels_stay_within_the_budget(tmp_path, network):
    """Two tiles of 16 × 16 images and 4 elements; the covariances of one tile between all pixels would be 5 GB."""
    sections = {
        "task": {"name": "fashion_mnist", "train": 16, "test": 16, "ood": "none"},
        "network": {"name": network},
        "execution": {"memory": 1.0},
    }
    peak, counted, _ = measured("tiles", tmp_path, 16, 16, "full", **sections)
    assert counted < 1e9 < 16 * 16 * 4 * 28**4 * 8
    assert peak < counted


@pytest.mark.slow
def test_memory_of_tiles_follows_their_size_and_not_that_of_the_matrix(tmp_path):
    """A matrix of 64 times the size in tiles of the same size takes no more; the count is not far from the truth."""
    for job in ("tiles", "assemble"):
        small, _, _ = measured(job, tmp_path / "small", 225, 100, "full")
        large, _, matrix = measured(job, tmp_path / "large", 1800, 100, "full")
        assert matrix > 200e6
        assert large - small < matrix / 3, job
    for job in ("tiles", "assemble"):
        measured(job, tmp_path / "middle", 900, 100, "full")
    peak, counted, _ = measured("solve", tmp_path / "middle", 900, 100, "full")
    assert counted - PROGRAM < 2.5 * (peak - small), "an estimate many times too large would refuse what can run"
