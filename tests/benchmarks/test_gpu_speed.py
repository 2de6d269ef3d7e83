"""Speed of training on a GPU: many members at once over one at a time, and over the rate of a matrix product."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from emergent_equivariance.devices import list_gpus

from .engine_worker import many

WORKER = Path(__file__).with_name("engine_worker.py")


def measured(precision: str, *arguments: int) -> dict:
    command = [sys.executable, str(WORKER), "many", *map(str, arguments)]
    environment = {**os.environ, "JAX_DEFAULT_MATMUL_PRECISION": precision}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.benchmark
@pytest.mark.skipif(not list_gpus(), reason="no GPU here")
@pytest.mark.parametrize("precision", ["highest", "tensorfloat32"])
@pytest.mark.parametrize("width", [128, 512, 1024, 2048])
def test_many_members_at_once(record, width, precision):
    found = measured(precision, width, 3, 512, 8192)
    rates = {int(together): rate for together, rate in found["member_steps"].items()}
    together = max(rates, key=rates.__getitem__)
    name = f"{found['device']}, mlp 3×{width}, 512 rows, float32 {precision}"
    record(f"{name}: member-steps/s, {together} members at once", rates[together])
    share = rates[together] * found["flops"] / found["matmul"]
    record(f"{name}: training / rate of a product of 8192²", share, ">= 0.5" if width >= 512 else "")
    record(f"{name}: over one member at a time", rates[together] / rates[1], ">= 40" if width == 128 else "")


def test_the_measurement_runs_on_any_device():
    found = many(8, 2, 16, 64)
    assert found["flops"] == 2 * 16 * (2 * 256 * 8 + 3 * (8 * 8 + 8))
    assert set(found["member_steps"]) >= {1}
    assert min(found["member_steps"].values()) > 0
    assert found["matmul"] > 0
