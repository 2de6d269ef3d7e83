"""Speed of training convolutional networks: the numba engine beside torch one by one, torch.func and jax.vmap."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.benchmark
WORKER = Path(__file__).with_name("cnn_worker.py")

NETWORKS = {
    "cnn, 3 convolutions of 28": {"name": "cnn", "width": 28, "conv_layers": 3},
    "cnn, 2 convolutions of 40": {"name": "cnn", "width": 40, "conv_layers": 2},
    "gcnn of c4, 3 convolutions of 8": {"name": "gcnn", "group": "c4", "width": 8, "conv_layers": 3},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_gradient_steps_on_28_by_28_pixels(name, record):
    core = min(os.sched_getaffinity(0))
    command = [sys.executable, str(WORKER), str(core), json.dumps(NETWORKS[name])]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    rates = found["rates"]
    ours = rates.pop("numba loop")
    record(f"{name}: parameters", found["parameters"])
    record(f"{name}: member-steps per second, numba", ours)
    for other, rate in rates.items():
        record(f"{name}: member-steps per second, {other}", rate)
    record(f"{name}: numba over the best of the others", ours / max(rates.values()), ">= 1.3")
    direct = found["flops"] / found["matmul"]
    record(f"{name}: operations of plain convolutions per second, numba / matmul rate", ours * direct)
    record(f"{name}: the same, best of the others", max(rates.values()) * direct)
