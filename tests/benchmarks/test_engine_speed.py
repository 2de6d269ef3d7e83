"""Speed and memory of the training engines for dense networks, as ratios measured in one run.

Processor time is compared, the fastest or the median of interleaved repetitions: the machine may be shared.
"""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.benchmark
WORKER = Path(__file__).with_name("engine_worker.py")
CORES = sorted(os.sched_getaffinity(0))[:2]

TRAINING = {"learning_rate": 0.01, "steps": 2, "record": [0, 2]}
CNN_TASK = {"name": "ising", "lattice": 28, "target": "total", "train": 32, "test": 16, "ood": "none"}
ADAM = {"optimizer": "adam", "learning_rate": 0.01, "epochs": 1, "batch_size": 64}
DIGITS = {"task": {"name": "digits", "train": 1024, "test": 256, "ood": "none"}, "augmentation": "none"}
CNN = {"name": "cnn", "conv_layers": 3, "width": 32}
CNN_ADAM = {"optimizer": "adam", "learning_rate": 0.001, "epochs": 1, "batch_size": 128}
#: Engine, variant, members at once, network, further sections.
MEMORY = [
    ("jax", "map", 16, {"name": "mlp", "hidden_layers": 3, "width": 64}, {}),
    ("jax", "map", 64, {"name": "mlp", "hidden_layers": 3, "width": 1024}, {}),
    ("jax", "vmap", 64, {"name": "mlp", "hidden_layers": 3, "width": 512}, {}),
    ("jax", "map", 16, {"name": "mlp", "hidden_layers": 3, "width": 1024}, {"training": ADAM}),
    ("jax", "map", 1, {"name": "cnn", "width": 48, "head": "flatten"}, {"task": CNN_TASK}),
    ("jax", "vmap", 4, {"name": "cnn", "width": 16, "head": "flatten"}, {"task": CNN_TASK}),
    ("torch", "loop", 1, {"name": "mlp", "hidden_layers": 3, "width": 2048}, {}),
    ("torch", "vmap", 64, {"name": "mlp", "hidden_layers": 3, "width": 512}, {}),
    ("torch", "vmap", 8, {"name": "cnn", "width": 16, "head": "flatten"}, {"task": CNN_TASK}),
    ("numba", "loop", 1, {"name": "cnn", "width": 48, "head": "flatten"}, {"task": CNN_TASK}),
    ("numba", "loop", 1, CNN, DIGITS),
    ("torch", "loop", 1, CNN, DIGITS),
    ("jax", "map", 1, CNN, DIGITS),
    ("numba", "loop", 1, CNN, DIGITS | {"training": CNN_ADAM}),
    ("torch", "loop", 1, CNN, DIGITS | {"training": CNN_ADAM}),
    ("torch", "vmap", 8, CNN, DIGITS | {"training": CNN_ADAM}),
    ("jax", "map", 1, CNN, DIGITS | {"training": CNN_ADAM}),
]


def start(*arguments: str, **environment: str) -> subprocess.Popen:
    command = [sys.executable, str(WORKER), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment})


def finish(process: subprocess.Popen) -> dict:
    output, _ = process.communicate(timeout=1800)
    assert process.returncode == 0
    return json.loads(output.splitlines()[-1])


def test_training_over_the_matmul_rate(record):
    alone = finish(start("rates", str(CORES[0])))
    together = [finish(process) for process in [start("rates", str(core)) for core in CORES]]
    for network, ratio in alone["ratio"].items():
        goal = ">= 0.6" if network.endswith("×32") else ">= 0.8"
        record(f"mlp {network}, 512 rows: training / matmul rate", ratio, goal)
        both = min(worker["ratio"][network] for worker in together)
        record(f"mlp {network}, 512 rows: the same per core, all cores busy", both, goal)
    rates = {
        name: [sum(w["ratio"][n] * w["matmul"][n] for n in w["ratio"]) for w in workers]
        for name, workers in (("alone", [alone]), ("together", together))
    }
    record("mlp: training rate of all cores / one core", sum(rates["together"]) / rates["alone"][0], ">= 1.85")


def test_ways_to_train_side_by_side(record):
    found = finish(start("side", str(CORES[0])))
    for network, rates in found.items():
        record(f"mlp {network}, 512 rows: member-steps/s", rates["engine"])
        for name, goal in (("jax.vmap", ">= 1.5"), ("torch.func", ">= 2"), ("torch one by one", "> 1")):
            record(f"mlp {network}, 512 rows: engine / {name}", rates["engine"] / rates[name], goal)
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start("member").wait()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    members_per_second = found["3×64"]["engine"] / 300
    record("mlp 3×64, 300 steps: engine / one torch process each", members_per_second * min(times), ">= 20")


@pytest.mark.parametrize(("engine", "variant", "together", "network", "sections"), MEMORY)
def test_memory_is_as_predicted(record, tmp_path, engine, variant, together, network, sections):
    """The memory of the first process, which compiles."""
    choice = {"engine": engine, "variant": variant, "members_at_once": together, "steps_per_call": 2}
    content = {"training": TRAINING, "network": network, **sections, "choice": choice}
    found = finish(start("memory", json.dumps(content), NUMBA_CACHE_DIR=str(tmp_path)))
    task, optimizer = sections.get("task", {}).get("name", "ising"), content["training"].get("optimizer", "gd")
    name = f"{network['name']} width {network['width']}, {task}, {optimizer}, {engine} {variant} {together}"
    record(f"memory of training, {name}: predicted / peak", found["expected"] / found["peak"], "0.8 … 1.25")


CACHED = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from engine_worker import problem_of
from emergent_equivariance.training import get_engine, train_shard
from emergent_equivariance.training.compilation import use_compilation_cache
use_compilation_cache(Path(sys.argv[1]))
problem = problem_of(3, 64)
engine = get_engine("jax")
choice = engine.candidates(problem, 1)[0]
start = time.process_time()
train_shard(problem, engine.trainer(problem, choice), choice, range(1))
print(time.process_time() - start)
"""


def test_compilation_is_saved_by_the_second_shard(record, tmp_path):
    took = []
    for _ in range(2):
        command = [sys.executable, "-c", CACHED, str(tmp_path), str(WORKER.parent)]
        environment = {**os.environ, "NPROC": "1", "OMP_NUM_THREADS": "1"}
        took.append(float(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout))
    record("compiled programs from disk: seconds saved per shard", took[0] - took[1], "> 0")
    assert any(tmp_path.rglob("*-cache"))
