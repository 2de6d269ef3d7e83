"""Speed and memory of training, planning and aggregation, as ratios measured in one run."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from emergent_equivariance.study import load_study

pytestmark = pytest.mark.benchmark
ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).with_name("worker.py")
ISING = ROOT / "config" / "ising.yaml"


def start(core: int, arms: list[str]) -> subprocess.Popen:
    command = [sys.executable, str(WORKER), str(core), str(ISING), *arms]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> dict:
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0
    return json.loads(output)


def test_training_against_matmul_and_one_process_per_member(record):
    arms = [arm.path for arm in load_study(ISING).arms]
    cores = sorted(os.sched_getaffinity(0))[:2]
    alone = finish(start(cores[0], arms))
    together = [finish(process) for process in [start(core, arms) for core in cores]]
    record("matmul 2048², float32, one core / GFLOP/s", alone["matmul"] / 1e9)
    for arm in arms:
        record(f"ising {arm}: training / matmul rate", alone["arms"][arm]["rate"] / alone["matmul"], ">= 0.6")
        both = min(worker["arms"][arm]["rate"] / worker["matmul"] for worker in together)
        record(f"ising {arm}: the same per core, all cores busy", both, ">= 0.6")
    for name, workers in (("one core", [alone]), ("per core, all cores busy", together)):
        totals = [[w["arms"][arm][key] for arm in arms] for w in workers for key in ("flops", "seconds")]
        rates = [sum(f) / sum(s) / w["matmul"] for f, s, w in zip(totals[::2], totals[1::2], workers, strict=True)]
        record(f"ising, all arms together, {name}: training / matmul rate", min(rates), ">= 0.6")
    for arm, width in (("width~64/augmentation~none", 64), ("width~256/augmentation~full", 256)):
        rows = 512 if arm.endswith("full") else 128
        begin = time.perf_counter()
        for _ in range(3):
            command = [sys.executable, str(WORKER), "torch-member", str(rows), "25", str(width), "300"]
            subprocess.run(["taskset", "-c", str(cores[0]), *command], check=True)
        single = (time.perf_counter() - begin) / 3
        record(
            f"ising {arm}: members/s over one torch process each",
            alone["arms"][arm]["members_per_second"] * single,
            ">= 5",
        )


def test_planning_the_full_size_study(record, tmp_path):
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "-n", "--quiet", "all"]
    command += ["--configfile", str(ROOT / "config" / "ising_full.yaml"), "--cores", "2"]
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
        times.append(time.perf_counter() - begin)
    record("snakemake -n of ising_full / s", sorted(times)[1], "<= 5")


AGGREGATE = """
import resource, sys
import numpy as np, xarray as xr
from pathlib import Path
from emergent_equivariance.ensemble import aggregate, reference
from emergent_equivariance.settings import Settings
from emergent_equivariance.study import load_study
from emergent_equivariance.tasks import build_task
from emergent_equivariance.training import build_problem

settings = load_study(sys.argv[1]).arms[0].settings
data = build_task(settings)
problem = build_problem(settings, data, 1.0)
members = int(sys.argv[2])
shape = (len(problem.segments), *problem.orbit_input.shape[:2], data.target.shape[1])

def shards():
    from emergent_equivariance.training.problem import ShardResult
    for first in range(0, members, 100):
        draw = np.random.default_rng(first).standard_normal((100, *shape), dtype=np.float32)
        yield ShardResult(draw, np.ones((100, shape[0])), []).to_dataset(problem, range(first, first + 100))

aggregate(shards(), reference(settings, data, None), settings, members)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)
"""


def test_memory_of_aggregation_does_not_grow_with_the_members(record):
    peaks = {}
    for members in (400, 1600):
        command = [sys.executable, "-c", AGGREGATE, str(ROOT / "config" / "ising_full.yaml"), str(members)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks[members] = float(done.stdout.split()[-1])
        record(f"aggregation of {members} members of ising_full: peak memory / MB", peaks[members])
    record("peak memory at 1600 over 400 members", peaks[1600] / peaks[400], "about 1")
