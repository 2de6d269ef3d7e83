"""Monte-Carlo NNGP and NTK of finite group layers, between points, and the chains that they are taken of.

Every chain ends in a layer with CHANNELS channels; finite networks with iid N(0, 1) parameters give an estimate of
the kernels with a standard error and, behind hidden layers, a bias that falls as 1/width. The NTK of a single affine
layer does not fluctuate: there the comparison is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from emergent_equivariance.groups import Group, get_group
from emergent_equivariance.networks.filters import Filters
from emergent_equivariance.networks.group_layers import (
    activation,
    global_pool,
    group_convolution,
    group_pool,
    lifting,
    pointwise,
    serial,
)
from emergent_equivariance.networks.layers import Layer
from emergent_equivariance.networks.points import PointKernels, image_features, input_kernels

WIDTH, CHANNELS, MEMBERS, ROWS = 32, 4, 320, 8

#: Hidden layers of each chain, and the relative error of the NTK that a chain with so many must see.
HIDDEN = {
    "lifting": 0,
    "group convolution": 1,
    "group pool": 1,
    "global pool": 1,
    "dense after group pool": 2,
    "dense after global pool": 3,
}
RESOLUTION = (1e-9, 0.06, 0.1, 0.1)

#: Chains that end in dense layers.
DENSE = ("dense after group pool", "dense after global pool")

#: Standard errors allowed (about 5,000 correlated comparisons), and bias in units of the kernel's scale over the width.
ERRORS, BIAS = 4.5, 0.5

MASK = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0]])

#: group, side of the grid, then size, padding, stride, mask and elements of the filters.
GEOMETRIES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "c2-circular": ("c2", 3, {"size": 3, "padding": "CIRCULAR"}),
    "c4-same": ("c4", 3, {"size": 3, "padding": "SAME"}),
    "c4-same-stride-2": ("c4", 5, {"size": 3, "padding": "SAME", "stride": 2}),
    "c4-partial": ("c4", 3, {"size": 3, "padding": "SAME", "mask": MASK, "elements": (0, 1)}),
    "d2-valid": ("d2", 4, {"size": 2, "padding": "VALID"}),
    "d4-valid": ("d4", 4, {"size": 3, "padding": "VALID"}),
    "d4-circular-stride-2": ("d4", 4, {"size": 2, "padding": "CIRCULAR", "stride": 2}),
    "d4-partial": ("d4", 3, {"size": 3, "padding": "CIRCULAR", "mask": MASK, "elements": (0, 2, 5)}),
}


def chain(name: str, group: Group, options: dict[str, Any], W_std: float, b_std: float, sigma: Any) -> list[Layer]:
    """Layers up to the one under test; the first convolution keeps the grid, the last has the filters in question."""
    filters, plain = Filters(group, **options), Filters(group, 3, "SAME")
    scales = (W_std, b_std)
    if name == "lifting":
        return [lifting(filters, CHANNELS, *scales)]
    hidden = [lifting(plain, WIDTH, *scales), activation(sigma)]
    pooled = [*hidden, group_convolution(filters, WIDTH, *scales), activation(sigma)]
    return {
        "group convolution": [*hidden, group_convolution(filters, CHANNELS, *scales)],
        "group pool": [*hidden, group_convolution(filters, CHANNELS, *scales), group_pool()],
        "global pool": [*hidden, group_convolution(filters, CHANNELS, *scales), global_pool()],
        "dense after group pool": [*pooled, group_pool(), pointwise(CHANNELS, *scales)],
        "dense after global pool": [
            *pooled,
            global_pool(),
            pointwise(4 * WIDTH, *scales),
            activation(sigma),
            pointwise(CHANNELS, *scales),
        ],
    }[name]


def estimate(
    apply_fn: Any, structure: Any, x: jax.Array, rows: np.ndarray, members: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard error over finite networks, (NNGP or NTK, row, row_) each; rows are pairs (input, point)."""

    def one(params: Any) -> jax.Array:
        def outputs(p: Any) -> jax.Array:
            return apply_fn(p, x).reshape(-1, CHANNELS)[rows]

        f, jacobian = outputs(params), jax.jacrev(lambda p: outputs(p)[:, 0])(params)
        leaves = [leaf.reshape(len(rows), -1) for leaf in jax.tree.leaves(jacobian)]
        return jnp.stack([f @ f.T / CHANNELS, sum(leaf @ leaf.T for leaf in leaves)])

    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.standard_normal((members, *leaf.shape)), structure)
    values = np.asarray(jax.jit(lambda drawn: jax.lax.map(one, drawn))(params))
    return values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(members)


def analytic(kernel_fn: Callable[[PointKernels], PointKernels], x: jax.Array, rows: np.ndarray) -> np.ndarray:
    """(NNGP or NTK, row, row_)."""
    state = jax.jit(lambda a: kernel_fn(input_kernels(a, a)))(x)
    points = len(x) * len(state.nngp)
    both = [np.asarray(k).transpose(2, 0, 3, 1).reshape(points, points) for k in (state.nngp, state.ntk)]
    return np.stack(both)[:, rows[:, None], rows]


def measure(layers: Layer, x: jax.Array, members: int = MEMBERS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A fixed choice of rows, and estimate and standard error of the kernels of ``layers`` between them."""
    structure = jax.eval_shape(lambda key: layers[0](key, x.shape)[1], jax.random.key(0))
    points = jax.eval_shape(layers[1], structure, x).size // CHANNELS
    rows = np.sort(np.random.default_rng(0).permutation(points)[:ROWS])
    return rows, *estimate(layers[1], structure, x, rows, members)


def ratios(
    measured: tuple[np.ndarray, ...], kernel_fn: Any, x: jax.Array, hidden: int
) -> tuple[np.ndarray, np.ndarray]:
    """|estimate − kernel_fn| as a fraction of what is allowed, and what is allowed as a fraction of the scale."""
    rows, mean, error = measured
    expected = analytic(kernel_fn, x, rows)
    diagonal = np.diagonal(expected, axis1=1, axis2=2)
    scale = np.sqrt(diagonal[:, :, None] * diagonal[:, None])
    allowed = ERRORS * error + (BIAS / WIDTH if hidden else 1e-12) * scale
    return np.abs(mean - expected) / allowed, allowed / scale


def check(layers: Layer, x: jax.Array, hidden: int, members: int = MEMBERS) -> None:
    ratio, resolution = ratios(measure(layers, x, members), layers[2], x, hidden)
    assert ratio.max() < 1, f"(NNGP, NTK): {ratio.max(axis=(1, 2))} of what is allowed"
    # The test must see errors of published code: a factor 2 in the NNGP, a few per cent of the NTK.
    largest = resolution.max(axis=(1, 2))
    assert largest[0] < 0.3 and largest[1] < RESOLUTION[hidden], largest


def images(side: int) -> jax.Array:
    x = np.random.default_rng(1).standard_normal((2, side, side, 2))
    x[1] = 0.8 * x[0] + 0.6 * x[1]
    return image_features(x)


#: A fixed part of layer × geometry × bias × nonlinearity that contains every value of each; slow: the rest.
CASES = [
    ("lifting", "c2-circular", 0.0, "relu"),
    ("lifting", "c4-same-stride-2", 0.4, "relu"),
    ("lifting", "d2-valid", 0.4, "relu"),
    ("lifting", "d4-partial", 0.0, "relu"),
    ("group convolution", "c4-same", 0.4, "relu"),
    ("group convolution", "d2-valid", 0.0, "erf"),
    ("group convolution", "d4-partial", 0.4, "relu"),
    ("group pool", "c2-circular", 0.4, "relu"),
    ("global pool", "c4-partial", 0.0, "relu"),
    ("global pool", "d4-circular-stride-2", 0.4, "erf"),
    ("dense after group pool", "d2-valid", 0.4, "relu"),
    ("dense after global pool", "c2-circular", 0.4, "relu"),
    ("dense after global pool", "c4-same-stride-2", 0.0, "erf"),
]
REST = [
    case
    for case in product(HIDDEN, GEOMETRIES, (0.0, 0.4), ("relu", "erf"))
    if case not in CASES and (case[0] != "lifting" or case[3] == "relu")
][::3]


def in_words(case: tuple[Any, ...]) -> str:
    return " ".join(map(str, case))


def run(layer: str, geometry: str, b_std: float, sigma: str, members: int) -> None:
    group, side, options = GEOMETRIES[geometry]
    layers = chain(layer, get_group(group), options, 1.5, b_std, sigma)
    check(serial(*layers), images(side), HIDDEN[layer], members)
