"""One measurement of test_theory_speed in a process of its own: python theory_worker.py SIDE GROUP SAMPLES FILE.

SIDE is ``blocks`` (orbit averages) or ``augmented`` (neural-tangents on the augmented set). Writes the means to FILE,
prints seconds of CPU time (kernels, solve) and peak memory as JSON. Compilation is not counted.
"""

from __future__ import annotations

import json
import resource
import sys
import time

import jax
import numpy as np

jax.config.update("jax_enable_x64", True)

from emergent_equivariance import orbit_solve  # noqa: E402
from emergent_equivariance.groups import get_group, grid_action, invariant_action  # noqa: E402
from emergent_equivariance.infinite_width import nt  # noqa: E402
from emergent_equivariance.kernels import orbits  # noqa: E402
from emergent_equivariance.networks import build_network  # noqa: E402
from emergent_equivariance.settings import MlpNetwork  # noqa: E402

SIDE, TEST, OUTPUTS, TIMES, ETA = 28, 32, 10, (1.0, 1e3, 1e6), 1.0


def main(side: str, name: str, samples: int, file: str) -> None:
    action = grid_action(get_group(name), SIDE, SIDE)
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((samples + TEST, SIDE, SIDE))
    target = rng.standard_normal((samples, OUTPUTS))
    network = build_network(MlpNetwork(name="mlp", hidden_layers=1), (SIDE, SIDE), OUTPUTS)
    run = {"blocks": in_blocks, "augmented": augmented}[side]
    run(network, action, inputs[: TEST + 64], target[:64])
    base = peak()
    run(network, action, inputs, target, warm=True)
    best: dict[str, float] = {}
    for _ in range(3 if side == "blocks" else 1):
        mean, seconds = run(network, action, inputs, target)
        if not best or sum(seconds) < best["kernel"] + best["solve"]:
            best = dict(zip(("kernel", "solve"), seconds, strict=True))
    np.save(file, mean)
    print(json.dumps(best | {"megabytes": peak() - base}))


def in_blocks(network, action, inputs, target, warm=False):
    """Orbit averages: the trivial block, the mean on the whole orbits of the test inputs."""
    group, train = action.group, len(target)
    kappa = orbits.computed(network, action, inputs)
    begin = time.process_time()
    blocks = orbits.irrep_blocks(kappa, group, [0], np.arange(len(inputs)), train, nngp=False)
    between = time.process_time()
    if warm:
        return None
    assert blocks.smallest >= 0, "λ_max is that of the trivial block"
    spectrum = orbit_solve.decompose(group, orbits.on_training(blocks.ntk), train * group.order)
    cross = orbits.on_samples(blocks.ntk, np.arange(train, len(inputs)))
    targets = invariant_action(group, (OUTPUTS,)).orbit(target)
    mean = orbit_solve.mean(spectrum, cross, targets, TIMES, ETA, "flow")
    return mean[:, :, 0], (between - begin, time.process_time() - between)


def augmented(network, action, inputs, target, warm=False):
    """The same kernel on the augmented set, solved by neural-tangents; the mean on the test inputs."""
    train, order = len(target), action.group.order
    rows = action.orbit(inputs[:train]).reshape(train * order, -1)
    points = inputs[train:].reshape(TEST, -1)
    targets = np.repeat(target, order, axis=0)
    kernel = jax.jit(lambda x1, x2: network.kernel_fn(x1, x2, ("ntk",)).ntk)
    if warm:
        return None
    of_rows, of_points = (kernel.lower(x, rows).compile() for x in (rows, points))
    begin = time.process_time()
    gram = jax.block_until_ready(of_rows(rows, rows))
    cross = jax.block_until_ready(of_points(points, rows))
    between = time.process_time()
    predict = nt.predict.gradient_descent_mse(gram, targets, learning_rate=ETA)
    zero = np.zeros((len(rows), OUTPUTS)), np.zeros((TEST, OUTPUTS))
    mean = predict(np.array(TIMES), *zero, cross)[1]
    return np.asarray(jax.block_until_ready(mean)), (between - begin, time.process_time() - between)


def peak() -> float:
    """Peak memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
