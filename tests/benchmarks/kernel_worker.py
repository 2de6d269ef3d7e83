"""A process pinned to one core: time per pair of kernels of a pooled CNN (or GCNN), prints JSON.

usage: python kernel_worker.py CORE TASK [PIXELS]     with a TASK named at the end of this file
"""

import json
import os
import sys
import time

CHANNELS, W_STD, B_STD = 3, 1.4142, 0.1


def pin(core: int) -> None:
    os.sched_setaffinity(0, {core})
    os.environ["NPROC"] = os.environ["OMP_NUM_THREADS"] = "1"


def images(number: int, pixels: int):
    import numpy as np

    return np.random.default_rng(pixels).standard_normal((number, pixels, pixels, CHANNELS))


def network(pixels: int, group: str | None = None):
    from emergent_equivariance.networks import build_network
    from emergent_equivariance.settings.networks import CnnNetwork, GcnnNetwork

    options = {"conv_layers": 2, "kernel_size": 3, "padding": "SAME", "W_std": W_STD, "b_std": B_STD}
    section = CnnNetwork(name="cnn", **options) if group is None else GcnnNetwork(name="gcnn", group=group, **options)
    return build_network(section, (pixels, pixels, CHANNELS), 1)


def fastest(run, repetitions: int) -> float:
    """Seconds of processor time, the least of several repetitions: what else the machine does counts little."""
    run()
    times = []
    for _ in range(repetitions):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def recursion(kernel_fn, x, batches: list[int]) -> dict:
    """Milliseconds per pair at the best of several square batches; ``values`` of the first images."""
    import jax
    import numpy as np

    compiled = jax.jit(lambda a, b: kernel_fn(a, b, ("nngp", "ntk")))
    per_pair = {}
    for size in batches:
        a, b = (jax.numpy.asarray(part) for part in (x[:size], x[-size:]))
        per_pair[size] = 1e3 * fastest(lambda a=a, b=b: jax.block_until_ready(compiled(a, b)), 3) / size**2
    size = min(batches)
    values = [np.asarray(kernel).tolist() for kernel in compiled(x[:size], x[-size:])]
    best = min(per_pair, key=per_pair.__getitem__)
    return {"ms": per_pair[best], "batch": best, "values": values}


def neural_tangents(pixels: int, double: bool = False) -> dict:
    import jax

    from emergent_equivariance.infinite_width import stax

    layers = []
    for _ in range(2):
        layers += [stax.Conv(1, (3, 3), padding="SAME", W_std=W_STD, b_std=B_STD), stax.Relu()]
    _, _, kernel_fn = stax.serial(*layers, stax.GlobalAvgPool(), stax.Dense(1))
    if double:
        jax.config.update("jax_enable_x64", True)
        return recursion(kernel_fn, images(8, pixels), [2])
    return recursion(
        kernel_fn, images(64, pixels).astype("float32"), {8: [32, 64], 12: [8, 16, 32], 28: [2, 4, 8]}[pixels]
    )


def group_recursion(pixels: int) -> dict:
    import jax

    jax.config.update("jax_enable_x64", True)
    return recursion(network(pixels, "c4").kernel_fn, images(4, pixels), [1, 2])


def engine(pixels: int, group: str | None = None) -> dict:
    """Milliseconds per pair of a Gram matrix; ``values`` of the pairs that ``recursion`` gives."""
    from emergent_equivariance.kernels import cross_kernels, gram

    net = network(pixels, group)
    number = max(6, round((28 / pixels) ** 2 * (6 if group else 10)))
    x = images(number, pixels)
    seconds = fastest(lambda: gram(net, x), 8)
    result = {"ms": 1e3 * seconds / (number * (number + 1) / 2)}
    y, size = (images(4, pixels), 1) if group else (images(8, pixels), 2)
    result["values"] = [kernel.tolist() for kernel in cross_kernels(net, y[:size], y[-size:])]
    return result


def compilation() -> dict:
    from emergent_equivariance.kernels import gram

    net, x = network(8), images(2, 8)
    start = time.perf_counter()
    gram(net, x)
    return {"seconds": time.perf_counter() - start}


if __name__ == "__main__":
    core, task, *arguments = sys.argv[1:]
    pin(int(core))
    run = {
        "neural-tangents": neural_tangents,
        "neural-tangents-float64": lambda pixels: neural_tangents(pixels, double=True),
        "group-recursion": group_recursion,
        "engine": engine,
        "group-engine": lambda pixels: engine(pixels, "c4"),
        "compile": compilation,
    }[task]
    print(json.dumps(run(*map(int, arguments))))
