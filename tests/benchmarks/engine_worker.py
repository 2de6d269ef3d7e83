"""Processes of the engine benchmarks, one per measurement, pinned to one core; each prints JSON.

usage: python engine_worker.py rates CORE     training by the JAX engine over the matmul rate, per network
       python engine_worker.py side CORE      member-steps per second: the engine, jax.vmap, torch.func, torch loops
       python engine_worker.py member         what one process per member does
       python engine_worker.py memory JSON    peak memory of a process that trains as JSON says
       python engine_worker.py many WIDTH LAYERS ROWS SIZE    many members at once, on the device jax finds
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

#: (hidden layers, width) of the networks; inputs of 5 × 5 numbers, 512 rows.
NETWORKS = [(3, 32), (3, 64), (3, 128), (3, 256), (1, 64), (1, 128), (1, 256)]
STEPS, MEMBERS, REPETITIONS = 300, 64, 5
#: Operations of one timed call.
WORK = 2e10


def content_of(layers, width, **sections):
    """A study of 512 rows: 128 lattices with their four rotations; full-batch gradient descent."""
    return {
        "study": "speed",
        "task": {"name": "ising", "lattice": 5, "target": "total", "train": 128, "test": 64, "ood": "none"},
        "augmentation": "full",
        "network": {"name": "mlp", "hidden_layers": layers, "width": width},
        "training": {"learning_rate": 0.01, "steps": STEPS, "record": [0, STEPS]},
        "ensemble": {"members": MEMBERS},
        **sections,
    }


def problem_of(layers, width, **sections):
    """The training problem of such a study."""
    from emergent_equivariance.study import parse_study
    from emergent_equivariance.tasks import build_task
    from emergent_equivariance.training import build_problem

    settings = parse_study(content_of(layers, width, **sections), Path("speed.yaml")).arms[0].settings
    return build_problem(settings, build_task(settings), 0.01)


def step_flops(problem) -> float:
    """Of the products one gradient step needs: forward, weights' gradients, hidden gradients; none of the inputs."""
    rows, size = problem.row_input.reshape(len(problem.row_input), -1).shape
    network = problem.settings.network
    inner = (network.hidden_layers - 1) * network.width**2 + network.width * problem.outputs
    return 2.0 * rows * (2 * size * network.width + 3 * inner)


def seconds(run) -> float:
    """Processor time of a call: the machine may be shared."""
    start = time.process_time()
    run()
    return time.process_time() - start


def trainings(problem, choice):
    """(a call that makes some gradient steps, compiled; member-steps it makes)."""
    from emergent_equivariance.training import get_engine

    trainer = get_engine(choice.engine).trainer(problem, choice)
    held = [trainer.start(range(choice.members_at_once))]
    count = max(1, min(choice.steps_per_call, int(WORK / step_flops(problem) / choice.members_at_once)))

    def run():
        held[0] = trainer.advance(held[0], 0, count)

    run()
    return run, count * choice.members_at_once


def matmul(size=2048):
    """Calls of a float32 product by JAX and by torch, compiled."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import torch

    torch.set_num_threads(1)
    a = np.random.default_rng(0).standard_normal((size, size), dtype=np.float32)
    x, t = jnp.asarray(a), torch.from_numpy(a)
    product = jax.jit(lambda u, v: u @ v)
    product(x, x).block_until_ready()
    return [lambda: product(x, x).block_until_ready(), lambda: t @ t], 2 * size**3


def rates() -> dict:
    """Per network: useful FLOP/s of the engine over the matmul rate, interleaved; the median of REPETITIONS."""
    from emergent_equivariance.training import get_engine

    products, product_flops = matmul()
    found = {}
    for layers, width in NETWORKS:
        problem = problem_of(layers, width)
        choice = get_engine("jax").candidates(problem, MEMBERS)[0]
        run, steps = trainings(problem, choice)
        flops = steps * step_flops(problem)
        pairs = []
        for _ in range(REPETITIONS):
            rate = max(product_flops / seconds(product) for product in products)
            pairs.append((flops / seconds(run) / rate, rate))
        found[f"{layers}×{width}"] = sorted(pairs)[REPETITIONS // 2]
    return {"ratio": {k: v[0] for k, v in found.items()}, "matmul": {k: v[1] for k, v in found.items()}}


def side() -> dict:
    """Member-steps per second of training in different ways, timed in turn; the fastest of three, per network."""
    from emergent_equivariance.training import Choice, get_engine

    found = {}
    for layers, width in ((3, 64), (1, 64)):
        problem = problem_of(layers, width)
        ways = {
            "engine": get_engine("jax").candidates(problem, MEMBERS)[0],
            "jax.vmap": Choice("jax", "vmap", MEMBERS, STEPS),
            "torch.func": Choice("torch", "vmap", MEMBERS, STEPS),
            "torch one by one": Choice("torch", "loop", 1, STEPS),
        }
        runs = {name: trainings(problem, choice) for name, choice in ways.items()}
        best = dict.fromkeys(ways, 0.0)
        for _ in range(3):
            for name, (run, steps) in runs.items():
                best[name] = max(best[name], steps / seconds(run))
        found[f"{layers}×{width}"] = best
    return found


def member() -> None:
    """What one process per member does: a torch MLP of 3 × 64 trained by full-batch gradient descent."""
    import torch

    torch.set_num_threads(1)
    x, y = torch.randn(512, 25), torch.randn(512, 1)
    units = (25, 64, 64, 64)
    hidden = [m for a, b in pairwise(units) for m in (torch.nn.Linear(a, b), torch.nn.ReLU())]
    net = torch.nn.Sequential(*hidden, torch.nn.Linear(64, 1, bias=False))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for _ in range(STEPS):
        optimizer.zero_grad()
        (0.5 * (net(x) - y).square().mean()).backward()
        optimizer.step()


def memory(content: dict) -> dict:
    """Peak memory of a process that trains a shard of one group of members, and what is predicted.

    It is ``emeq train`` in a folder of its own: programs are compiled, and the shard is written.
    """
    from emergent_equivariance import members, store
    from emergent_equivariance.study import Choice, Probe, parse_study
    from emergent_equivariance.study.training_memory import training_memory
    from emergent_equivariance.tasks import build_task

    choice = Choice(**content.pop("choice"))
    together = choice.members_at_once
    content = {**content_of(1, 1, **content), "ensemble": {"members": together}, "execution": {"shard_size": together}}
    with tempfile.TemporaryDirectory() as folder:
        study = parse_study({**content, "tracking": {"wandb": "disabled"}}, Path("memory.yaml"), Path(folder))
        (arm,) = study.arms
        data = build_task(arm.settings)
        store.write(store.task_to_dataset(data), study.data_path(arm), store.provenance(study))
        probe = Probe(arm.probe_key, choice, reason="given", device="cpu", machine="any", threads=1)
        store.write_text(probe.to_json(), study.probe_path(arm))
        members.train(study, arm, 0, together - 1, lambda text: None, lambda done, total: None)
    rows = arm.settings.task.train * arm.settings.augmentation.rows(data.input_action.group.order)
    shape, outputs = arm.settings.task.input_shape(), arm.settings.task.outputs()
    (peak,) = (line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    return {"peak": int(peak) * 1024, "expected": training_memory(arm.settings, choice, shape, outputs, rows)}


def many(width: int, layers: int, rows: int, size: int) -> dict:
    """Wall-clock rates on the device jax finds: member-steps per second by members at once; a product of size²."""
    import jax

    from emergent_equivariance.training import Choice, get_engine

    task = {"name": "ising", "lattice": 16, "target": "total", "train": rows // 4, "test": 16, "ood": "none"}
    problem, engine, steps = problem_of(layers, width, task=task), get_engine("jax"), 50
    choices = {c.members_at_once: c for c in engine.candidates(problem, 512) if c.variant == "vmap"}
    choices[1] = Choice("jax", "vmap", 1, steps)
    found = {}
    for together, choice in sorted(choices.items()):
        trainer = engine.trainer(problem, choice)
        held = [trainer.start(range(together))]

        def run(trainer=trainer, held=held):
            held[0] = trainer.advance(held[0], 0, steps)

        found[together] = together * steps / fastest(run)
    a = jax.random.normal(jax.random.key(0), (size, size))
    product = jax.jit(lambda x: x @ x)
    rate = 2 * size**3 / fastest(lambda: product(a).block_until_ready())
    return {"device": engine.device(), "member_steps": found, "matmul": rate, "flops": step_flops(problem)}


def fastest(run) -> float:
    """Seconds of wall time, the least of three calls behind a first one."""
    run()
    times = []
    for _ in range(3):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    os.environ["NPROC"] = os.environ["OMP_NUM_THREADS"] = "1"
    what = sys.argv[1]
    if what == "member":
        member()
    elif what == "many":
        print(json.dumps(many(*map(int, sys.argv[2:]))))
    elif what == "memory":
        print(json.dumps(memory(json.loads(sys.argv[2]))))
    else:
        os.sched_setaffinity(0, {int(sys.argv[2])})
        print(json.dumps({"rates": rates, "side": side}[what]()))
