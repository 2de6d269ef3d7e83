"""μ_t under full augmentation: orbit averages against neural-tangents on the augmented set, same kernel, one core.

An mlp on N random images of 28×28 pixels, ten outputs, float64; seconds of CPU time of a process pinned to one core,
kernels and solve, compilation not counted. The augmented set has |G| N rows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.benchmark
WORKER = Path(__file__).with_name("theory_worker.py")


def pinned(*command: str) -> dict[str, float]:
    """What a python process on one core prints last."""
    core = str(min(os.sched_getaffinity(0)))
    one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    command = ("taskset", "-c", core, sys.executable, *command)
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | one)
    return json.loads(done.stdout.splitlines()[-1])


def measured(side: str, group: str, samples: int, folder: Path) -> tuple[dict[str, float], np.ndarray]:
    file = folder / f"{side}-{group}-{samples}.npy"
    return pinned(str(WORKER), side, group, str(samples), str(file)), np.load(file)


@pytest.mark.parametrize(("group", "samples", "goal"), [("c4", 1000, ">= 15"), ("d4", 500, ""), ("d4", 1000, ">= 60")])
def test_mean_under_full_augmentation(group, samples, goal, record, tmp_path):
    ours, mean = measured("blocks", group, samples, tmp_path)
    theirs, expected = measured("augmented", group, samples, tmp_path)
    error = max(np.abs(a - b).max() / np.abs(b).max() for a, b in zip(mean, expected, strict=True))
    assert error < 1e-9
    name = f"mean, {group}, N = {samples}"
    seconds = {side: cost["kernel"] + cost["solve"] for side, cost in (("ours", ours), ("theirs", theirs))}
    record(f"{name}: speed over neural-tangents on |G| N rows", seconds["theirs"] / seconds["ours"], goal)
    record(f"{name}: kernels alone", theirs["kernel"] / ours["kernel"])
    record(f"{name}: solve alone", theirs["solve"] / ours["solve"])
    record(f"{name}: their seconds", seconds["theirs"])
    record(f"{name}: memory of theirs over ours", theirs["megabytes"] / ours["megabytes"])
    record(f"{name}: relative difference / 1e-12", error * 1e12, "<= 1000")


COVARIANCE = """
import jax, json, sys, time
import numpy as np
jax.config.update("jax_enable_x64", True)
from emergent_equivariance.settings import Settings
from emergent_equivariance.tasks import build_task
from emergent_equivariance.theory import solve

seconds, found = {}, {}
for route in ("auto", "direct"):
    arm = Settings.model_validate({
        "task": {"name": "digits", "train": int(sys.argv[2])}, "group": sys.argv[1], "network": {"name": "mlp"},
        "augmentation": "full", "training": {"steps": 1000, "record": [1, 1000]}, "evaluate": {"samples": 32},
        "theory": {"route": route}})
    data = build_task(arm)
    begin = time.process_time()
    found[route] = solve(arm, data)
    seconds[route] = time.process_time() - begin
error = max(float(np.abs(found["auto"][n] - found["direct"][n]).max() / np.abs(found["direct"][n]).max())
            for n in ("mean", "orbit_covariance"))
print(json.dumps({"ratio": seconds["direct"] / seconds["auto"], "error": error}))
"""


@pytest.mark.parametrize(("group", "samples"), [("c4", 1000), ("d4", 500)])
def test_mean_and_covariance_against_our_direct_route(group, samples, record):
    result = pinned("-c", COVARIANCE, group, str(samples))
    assert result["error"] < 1e-9
    record(
        f"mean and covariance, {group}, N = {samples}: speed over our direct route, compiling included", result["ratio"]
    )


def test_cost_grows_as_promised(record, tmp_path):
    sizes = [1000, 2000, 4000]
    costs = [measured("blocks", "c4", samples, tmp_path)[0] for samples in sizes]
    for part, goal in (("kernel", "about 2"), ("solve", "about 3")):
        slope = np.polyfit(np.log(sizes), np.log([cost[part] for cost in costs]), 1)[0]
        record(f"mean, c4: exponent of N in the time of the {part}, N = 1000…4000", slope, goal)
    kernels = [measured("blocks", group, 1000, tmp_path)[0]["kernel"] for group in ("c2", "c4", "d4")]
    slope = np.polyfit(np.log([2, 4, 8]), np.log(kernels), 1)[0]
    record("mean, N = 1000: exponent of |G| in the time of the kernels (2 on the augmented set)", slope, "about 1")
