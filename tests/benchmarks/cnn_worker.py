"""Gradient steps of a convolutional network on 28 × 28 pixels by every engine, side by side on one core: prints JSON.

usage: python cnn_worker.py CORE NETWORK, the section of a study file as JSON
"""

import json
import os
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

BATCH, OUTPUTS, ROUNDS = 128, 10, 5

#: Seconds between two calls: threads of the one before are done.
PAUSE = 0.1

#: Engine, variant, members at once.
OURS = [("numba", "loop", 1), ("torch", "loop", 1), ("torch", "vmap", 4), ("jax", "map", 1), ("jax", "vmap", 2)]


def problem_of(network: dict):
    import numpy as np

    from emergent_equivariance.study import parse_study
    from emergent_equivariance.tasks import build_task
    from emergent_equivariance.training import build_problem

    content = {
        "study": "speed",
        "task": {"name": "digits", "train": 20, "test": 4, "ood": "none"},
        "network": network,
        "training": {"optimizer": "sgd", "learning_rate": 1e-3, "epochs": 1000, "batch_size": BATCH, "record": [0]},
    }
    settings = parse_study(content, Path("speed.yaml")).arms[0].settings
    draw, rows = np.random.default_rng(0), 4 * BATCH
    x, y = (draw.standard_normal((rows, *shape)).astype(np.float32) for shape in ((28, 28, 1), (OUTPUTS,)))
    problem = build_problem(settings, build_task(settings), 1e-3)
    return replace(
        problem, row_input=x, row_target=y, train_input=x, train_target=y, orbit_input=x[:4, None], units=rows
    )


def engine_step(problem, engine: str, variant: str, together: int):
    """A function that makes one gradient step of ``together`` members."""
    from emergent_equivariance.training import Choice, get_engine

    choice = Choice(engine, variant, together, 1)
    trainer = get_engine(engine).trainer(problem, choice)
    state = {"of": trainer.start(range(together)), "at": 0}

    def step():
        state["of"] = trainer.advance(state["of"], state["at"], 1)
        state["at"] += 1

    return step


def plain_torch_step(problem, layout: str):
    """What one writes without a library of engines: conv2d, autograd, torch.optim; images in one memory layout."""
    import torch
    from torch.nn import functional

    network = problem.settings.network
    memory = getattr(torch, layout)
    leaves, fan_in = [], 1
    for _ in range(network.conv_layers):
        leaves.append(torch.randn(network.width, fan_in, network.kernel_size, network.kernel_size))
        leaves.append(torch.randn(network.width))
        fan_in = network.width
    leaves.append(torch.randn(network.width, OUTPUTS))
    leaves = [leaf.contiguous(memory_format=memory) if leaf.ndim == 4 else leaf for leaf in leaves]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    optimizer = torch.optim.SGD(leaves, 1e-3)
    images = torch.tensor(problem.row_input).permute(0, 3, 1, 2).contiguous(memory_format=memory)
    targets = torch.tensor(problem.row_target)

    def step():
        rows = torch.randperm(len(images))[:BATCH]
        values = images[rows]
        for W, b in zip(leaves[:-1:2], leaves[1:-1:2], strict=True):
            scale = network.W_std / (W[0].numel()) ** 0.5
            values = functional.relu(functional.conv2d(values, scale * W, network.b_std * b, padding="same"))
        output = values.mean((2, 3)) @ (leaves[-1] / network.width**0.5)
        optimizer.zero_grad()
        (0.5 * (output - targets[rows]).square().mean()).backward()
        optimizer.step()

    return step


def side_by_side(steps: dict) -> dict:
    """Median processor time of every function, called in turns with pauses between them."""
    for step in steps.values():
        step()
    times: dict = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            start = time.process_time()
            step()
            times[name].append(time.process_time() - start)
            time.sleep(PAUSE)
    return {name: statistics.median(taken) for name, taken in times.items()}


def main(core: int, network: dict) -> dict:
    os.sched_setaffinity(0, {core})
    os.environ["NPROC"] = os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)
    problem = problem_of(network)
    a = torch.randn(2048, 2048)
    steps = {"matmul": lambda: a @ a}
    steps |= {f"{engine} {variant}": engine_step(problem, engine, variant, k) for engine, variant, k in OURS}
    if network["name"] == "cnn":
        steps |= {f"plain torch, {layout}": plain_torch_step(problem, layout) for layout in PLAIN}
    seconds = side_by_side(steps)
    members = {f"{engine} {variant}": k for engine, variant, k in OURS}
    section, shape = problem.settings.network, problem.orbit_input.shape[2:]
    first = section.model_copy(update={"conv_layers": 1}).forward_flops(shape, 0)
    return {
        "parameters": problem.network.parameters,
        "flops": BATCH * (3 * section.forward_flops(shape, OUTPUTS) - first),
        "matmul": 2 * 2048**3 / seconds.pop("matmul"),
        "rates": {name: members.get(name, 1) / taken for name, taken in seconds.items()},
    }


PLAIN = ("contiguous_format", "channels_last")

if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), json.loads(sys.argv[2]))))
