"""Speed of the kernels of pooled convolutional networks: two 3×3 SAME convolutions, relu, 3 channels, NNGP and NTK.

Ours in float64 against neural-tangents in float32, processor time on the same core; neural-tangents at the best of
three batch sizes.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from emergent_equivariance.kernels import gram

from . import kernel_worker

pytestmark = pytest.mark.benchmark
WORKER = Path(__file__).with_name("kernel_worker.py")


def measure(*arguments: object, **environment: str) -> dict:
    core = max(os.sched_getaffinity(0))
    command = [sys.executable, str(WORKER), str(core), *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **environment})
    return json.loads(done.stdout.splitlines()[-1])


def difference(ours: dict, theirs: dict) -> float:
    """Largest relative difference of NNGP and NTK."""
    pairs = zip(ours["values"], theirs["values"], strict=True)
    return max(float(np.abs(np.divide(a, b) - 1).max()) for a, b in pairs)


@pytest.mark.parametrize(("pixels", "goal"), [(12, 25), (28, 50)])
def test_pooled_cnn_against_neural_tangents(record, pixels, goal):
    ours, theirs = measure("engine", pixels), measure("neural-tangents", pixels)
    name = f"pooled CNN, {pixels}×{pixels}"
    record(f"{name}: ms per pair, float64", ours["ms"])
    record(f"{name}: neural-tangents, float32, batch {theirs['batch']}: ms per pair", theirs["ms"])
    record(f"{name}: neural-tangents float32 / ours float64", theirs["ms"] / ours["ms"], f">= {goal}")
    agreement = difference(ours, measure("neural-tangents-float64", pixels))
    record(f"{name}: relative difference to neural-tangents float64 / 1e-12", agreement * 1e12, "<= 1")
    assert agreement <= 1e-12


def test_gcnn_against_the_full_group_recursion(record):
    ours, theirs = measure("group-engine", 16), measure("group-recursion", 16)
    record("C4-GCNN, 16×16: ms per pair, float64", ours["ms"])
    record("C4-GCNN, 16×16: full group recursion, float64: ms per pair", theirs["ms"])
    record("C4-GCNN, 16×16: full group recursion / ours", theirs["ms"] / ours["ms"], ">= 50")
    agreement = difference(ours, theirs)
    record("C4-GCNN, 16×16: relative difference / 1e-12", agreement * 1e12, "<= 1")
    assert agreement <= 1e-12


def test_scaling(record):
    """Cost per pair against the number of pixels (theory: their square), of a Gram matrix against its size N."""
    sizes = (8, 12, 16, 28)
    times = [measure("engine", pixels)["ms"] for pixels in sizes]
    for pixels, ms in zip(sizes, times, strict=True):
        record(f"pooled CNN, {pixels}×{pixels}: ms per pair, float64, one core", ms)
    slope = np.polyfit(np.log(np.square(sizes)), np.log(times), 1)[0]
    record("pooled CNN: exponent of the time per pair in the number of pixels", slope, "about 2")
    network, seconds, numbers = kernel_worker.network(12), [], (32, 64, 128)
    for number in numbers:
        x = kernel_worker.images(number, 12)
        seconds.append(kernel_worker.fastest(lambda x=x: gram(network, x), 3))
    record("pooled CNN: exponent of the time in N", np.polyfit(np.log(numbers), np.log(seconds), 1)[0], "about 2")


def test_two_threads(record):
    """Wall-clock time, the least of a few runs; processor time shows what the threads cost each other."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core")
    network, x = kernel_worker.network(28), kernel_worker.images(48, 28)
    wall, processor = {1: [], 2: []}, {1: [], 2: []}
    gram(network, x[:2])
    for _ in range(4):
        for threads in wall:
            begin = time.perf_counter(), time.process_time()
            gram(network, x, threads=threads)
            wall[threads].append(time.perf_counter() - begin[0])
            processor[threads].append(time.process_time() - begin[1])
    record("pooled CNN, 28×28: two threads over one", min(wall[1]) / min(wall[2]), ">= 1.9")
    record(
        "pooled CNN, 28×28: processor time of two threads over one", min(processor[2]) / min(processor[1]), "about 1"
    )


def test_compilation(record, tmp_path):
    fresh, again = (measure("compile", NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2))
    record("pooled CNN: seconds of the first call, compiled", fresh["seconds"])
    record("pooled CNN: seconds of the first call, from the cache", again["seconds"])
