"""A process pinned to one core: measures its matmul rate and the training of arms, prints JSON.

usage: python worker.py CORE SECONDS_TO_WAIT_FOR STUDY ARM…   |   python worker.py torch-member ROWS INPUTS WIDTH STEPS
"""

import json
import os
import statistics
import sys
import time


def pin(core: int) -> None:
    os.sched_setaffinity(0, {core})
    os.environ["NPROC"] = os.environ["OMP_NUM_THREADS"] = "1"


def matmul_rate(size: int = 2048) -> float:
    """FLOP per second of a float32 product, the faster of torch and JAX, median of five."""
    import jax
    import jax.numpy as jnp
    import torch

    torch.set_num_threads(1)
    a, b = torch.randn(size, size), torch.randn(size, size)
    x, y = jnp.asarray(a.numpy()), jnp.asarray(b.numpy())
    product = jax.jit(lambda u, v: u @ v)
    rates = []
    for run in (lambda: a @ b, lambda: product(x, y).block_until_ready()):
        run()
        times = []
        for _ in range(5):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        rates.append(2 * size**3 / statistics.median(times))
    return max(rates)


def train(study_file: str, arms: list[str]) -> dict:
    """Per arm: matmul FLOP per second of training, and members per second, without compilation."""
    from emergent_equivariance.study import load_study
    from emergent_equivariance.tasks import build_task
    from emergent_equivariance.training import build_problem, get_engine, train_shard

    study = load_study(study_file)
    result = {}
    for path in arms:
        settings = study.arm(path).settings
        problem = build_problem(settings, build_task(settings), 2.0)
        engine = get_engine("jax")
        choice = engine.candidates(problem, 16)[0]
        trainer = engine.trainer(problem, choice)
        train_shard(problem, trainer, choice, range(16))
        times = []
        for _ in range(5):
            start = time.perf_counter()
            train_shard(problem, trainer, choice, range(16))
            times.append(time.perf_counter() - start)
        seconds = statistics.median(times)
        rows, size = problem.row_input.reshape(len(problem.row_input), -1).shape
        width, outputs, records = settings.network.width, problem.row_target.shape[1], len(problem.segments)
        step = rows * width * (4 * size + 6 * outputs)  # forward, both weight gradients, hidden gradient
        evaluated = problem.orbit_input.shape[0] * problem.orbit_input.shape[1] + len(problem.train_input)
        flops = 16 * (int(problem.segments.sum()) * step + records * evaluated * 2 * width * (size + outputs))
        result[path] = {"flops": flops, "seconds": seconds, "rate": flops / seconds, "members_per_second": 16 / seconds}
    return result


def torch_member(rows: int, inputs: int, width: int, steps: int) -> None:
    """What one process per member does: a torch MLP trained by full-batch gradient descent."""
    import torch

    torch.set_num_threads(1)
    x, y = torch.randn(rows, inputs), torch.randn(rows, 1)
    net = torch.nn.Sequential(torch.nn.Linear(inputs, width), torch.nn.ReLU(), torch.nn.Linear(width, 1, bias=False))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        (0.5 * (net(x) - y).square().mean()).backward()
        optimizer.step()


if __name__ == "__main__":
    if sys.argv[1] == "torch-member":
        os.environ["OMP_NUM_THREADS"] = "1"
        torch_member(*map(int, sys.argv[2:]))
    else:
        pin(int(sys.argv[1]))
        rate = matmul_rate()
        print(json.dumps({"matmul": rate, "arms": train(sys.argv[2], sys.argv[3:])}))
