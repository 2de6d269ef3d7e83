"""Monte-Carlo NNGP and NTK of finite group layers against the analytic kernels, between points (theory.md §7, item 3).

Every chain ends in a layer with CHANNELS channels; finite networks with iid N(0, 1) parameters give an estimate of
the kernels with a standard error and, behind hidden layers, a bias that falls as 1/width. The NTK of a single affine
layer does not fluctuate: there the comparison is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emergent_equivariance.groups import Group, get_group, grid_action, line_action
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
from emergent_equivariance.networks.points import PointKernels, image_features, input_kernels, orbit_features

pytestmark = pytest.mark.usefixtures("float64")

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


@pytest.mark.parametrize("case", CASES, ids=in_words)
def test_layers(case: tuple[str, str, float, str]) -> None:
    run(*case, MEMBERS)


@pytest.mark.slow
@pytest.mark.parametrize("case", REST, ids=in_words)
def test_layers_elsewhere(case: tuple[str, str, float, str]) -> None:
    run(*case, 2 * MEMBERS)


@pytest.mark.parametrize(("name", "b_std", "sigma"), [("c2", 0.4, "relu"), ("d4", 0.0, "erf"), ("c4", 0.4, "relu")])
def test_group_alone(name: str, b_std: float, sigma: Any) -> None:
    """Lifting with full support and convolution over the group without pixels; c2 acts on the line by signs."""
    group = get_group(name)
    action = line_action(group) if name == "c2" else grid_action(group, 3, 3, 2)
    x = orbit_features(action, np.random.default_rng(1).standard_normal((4, *action.shape)))
    filters = Filters(group, 1, "VALID", elements=(0, 1, 3) if name == "c4" else None)
    hidden = [pointwise(WIDTH, 1.5, b_std), activation(sigma)]
    check(serial(*hidden, group_convolution(filters, CHANNELS, 1.5, b_std)), x, hidden=1, members=1000)
    pooled = [*hidden, group_convolution(filters, WIDTH, 1.5, b_std), activation(sigma), group_pool()]
    check(serial(*pooled, pointwise(CHANNELS, 1.5, b_std)), x, hidden=2, members=500)


def doubled(layer: Layer) -> Layer:
    """The lifting NTK counted twice."""

    def kernel_fn(state: PointKernels) -> PointKernels:
        result = layer[2](state)
        return replace(result, ntk=2 * result.ntk)

    return layer[0], layer[1], kernel_fn


def diagonal_variances(layer: Layer) -> Layer:
    """A pool that averages K(p, p) for the variances instead of K(p, p′)."""

    def kernel_fn(state: PointKernels) -> PointKernels:
        result = layer[2](state)
        own = [jnp.diagonal(c).mean(axis=-1)[None, None] for c in (state.covariance1, state.covariance2)]
        return replace(result, covariance1=own[0], covariance2=own[1])

    return layer[0], layer[1], kernel_fn


def test_errors_of_published_code_are_seen() -> None:
    """The comparison refuses each of: the lifting NTK twice, bias where there is none, rh for hr, wrong variances."""
    d4, x = get_group("d4"), images(3)
    options: dict[str, Any] = {"size": 3, "padding": "CIRCULAR", "elements": (0, 1, 4)}
    opposite = Filters(Group(**{**vars(d4), "product": d4.product.T}), **options)
    right = chain("group convolution", d4, options, 1.5, 0.0, "relu")
    deep = chain("dense after global pool", get_group("c2"), {"size": 3, "padding": "SAME"}, 1.5, 0.0, "relu")
    mistaken = {
        "lifting NTK twice": [doubled(right[0]), *right[1:]],
        "bias": [*right[:2], group_convolution(Filters(d4, **options), CHANNELS, 1.5, 0.5)],
        "order of the product": [*right[:2], group_convolution(opposite, CHANNELS, 1.5, 0.0)],
        "variances of the pool": [*deep[:4], diagonal_variances(deep[4]), *deep[5:]],
    }
    measured = {len(chained): measure(serial(*chained), x) for chained in (right, deep)}
    for name, layers in mistaken.items():
        ratio, _ = ratios(measured[len(layers)], serial(*layers)[2], x, 1)
        assert ratio.max() > 1.2, f"{name}: {ratio.max(axis=(1, 2))}"
