"""The compiled kernels of convolutional networks against neural-tangents, full group recursions and closed forms."""

from __future__ import annotations

import subprocess
import sys
from itertools import product
from math import pi
from typing import Any

import jax
import mpmath
import numpy as np
import pytest
from pydantic import ValidationError

from emergent_equivariance.errors import UserError
from emergent_equivariance.groups import get_group, grid_action
from emergent_equivariance.kernels import cross_kernels, fused, gram, orbit_blocks
from emergent_equivariance.kernels.convolutional import pair_kernels
from emergent_equivariance.networks import Network, build_network
from emergent_equivariance.settings import CnnNetwork, GcnnNetwork, MlpNetwork


def images(samples: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((samples, *shape))


def cnn(shape: tuple[int, ...], **options: Any) -> Network:
    return build_network(CnnNetwork(name="cnn", **options), shape, 1)


def oracle(network: Network, x1: np.ndarray, x2: np.ndarray) -> list[np.ndarray]:
    """NNGP and NTK of the network's own definition."""
    kernels = jax.jit(lambda a, b: network.kernel_fn(a, b, ("nngp", "ntk")))(x1, x2)
    return [np.asarray(kernels.nngp), np.asarray(kernels.ntk)]


def assert_equal(ours: Any, theirs: Any, tolerance: float = 1e-12) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.dtype == np.float64
        np.testing.assert_allclose(mine, other, rtol=tolerance, atol=tolerance * np.abs(other).max())


# ------------------------------------------------------------------------------------------------ networks

SHAPES = [(5, 6, 2), (6, 5, 1), (5, 5, 3)]
HEADS = ["global_average_pool", "flatten"]
CASES = list(product([3, 1, 2, 5], ["SAME", "VALID", "CIRCULAR"], ["relu", "erf"], HEADS))


def case(number: int) -> Network:
    """Case ``number``; what is not in CASES takes all its values in turn."""
    size, padding, activation, head = CASES[number]
    convolutions = 1 + number % 3
    if padding == "VALID":
        convolutions = min(convolutions, 1 if size == 5 else 2)
    return cnn(
        SHAPES[number // 2 % 3],
        kernel_size=size,
        padding=padding,
        activation=activation,
        head=head,
        conv_layers=convolutions,
        dense_layers=number // 4 % 3,
        b_std=0.3 * (number // 3 % 2),
        readout_b_std=0.2 * (number % 2),
        W_std=1.3,
        readout_W_std=0.8,
    )


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "number", [pytest.param(n, marks=[] if n % 14 == 7 else pytest.mark.slow) for n in range(len(CASES))]
)
def test_every_layer_agrees_with_neural_tangents(number: int) -> None:
    """Distinct, coincident, opposite and partly black images."""
    network = case(number)
    x1, x2 = images(3, *network.input_shape), images(5, *network.input_shape, seed=1)
    x1[2, :3] = 0
    x2[1:4] = x1[0], -x1[1], x1[2]
    x2[4] = 0
    assert_equal(cross_kernels(network, x1, x2), oracle(network, x1, x2))
    x = np.concatenate([x1, x2])
    for ours, theirs in zip(gram(network, x), oracle(network, x, x), strict=True):
        np.testing.assert_array_equal(ours, ours.T)
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12 * np.abs(theirs).max())


@pytest.mark.usefixtures("float64")
def test_images_as_large_as_several_strips() -> None:
    """Strips of several displacements side by side do not fit the width of a prime number of pixels."""
    for shape in ((24, 23, 1), (12, 22, 3)):
        network, x = cnn(shape, b_std=0.2), images(2, *shape)
        assert_equal(gram(network, x), oracle(network, x, x))


def test_coincident_and_opposite_images_have_exact_angles() -> None:
    """For 1 × 1 filters and no bias K(x, x) = W² mean|x|²/2 and Θ(x, x) = 2 K(x, x); Θ(x, −x) = 0."""
    network = cnn((5, 5, 3), kernel_size=1, conv_layers=1, b_std=0.0, head="flatten", W_std=1.5)
    x = images(20, 5, 5, 3)
    nngp, ntk = gram(network, x)
    np.testing.assert_allclose(np.diag(nngp), 1.5**2 * (x**2).mean(axis=(1, 2, 3)) / 2, rtol=1e-14)
    np.testing.assert_allclose(np.diag(ntk), 1.5**2 * (x**2).mean(axis=(1, 2, 3)), rtol=1e-14)
    np.testing.assert_allclose(np.diag(cross_kernels(network, x, -x)[1]), 0, atol=1e-15)


def test_tiny_variances_are_harmless() -> None:
    x = images(2, 4, 4, 1)
    for activation in ("relu", "erf"):
        network = cnn((4, 4, 1), activation=activation, b_std=0.0)
        for kernel, small in zip(gram(network, x * 1e-5), gram(network, x * 1e-145), strict=True):
            np.testing.assert_allclose(small * 1e280, kernel, rtol=1e-8)
        for kernel in gram(network, x * 1e-170):
            assert (kernel == 0).all()


@pytest.mark.parametrize("head", HEADS)
def test_threads_give_the_same_bits(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emergent_equivariance.kernels.convolutional.TASK", 2000)
    network, x = cnn((5, 5, 2), head=head, dense_layers=1), images(9, 5, 5, 2)
    orbits = grid_action(get_group("c4"), 5, 5, 2).orbit(x)
    for function, inputs in ((cross_kernels, (x[:4], x)), (gram, (x,)), (orbit_blocks, (orbits,))):
        alone = np.asarray(function(network, *inputs))
        for threads in (2, 3):
            np.testing.assert_array_equal(function(network, *inputs, threads=threads), alone)


# ------------------------------------------------------------------------------------------------ groups


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("group", "activation", "dense_layers"), [("c2", "relu", 0), ("c4", "erf", 1), ("c4", "relu", 1), ("d4", "relu", 2)]
)
def test_gcnn_is_the_average_of_cnns_up_to_the_pool(group: str, activation: str, dense_layers: int) -> None:
    """neural-tangents' kernels of the ordinary network behind its pool, averaged; then the dense recursion."""
    options = {"activation": activation, "dense_layers": dense_layers, "W_std": 1.4, "b_std": 0.3, "readout_W_std": 0.7}
    network = build_network(GcnnNetwork(name="gcnn", group=group, **options), (4, 4, 2), 1)
    plain = cnn((4, 4, 2), **options)
    pooled = jax.jit(lambda a, b: plain.truncated(plain.layers.index("pool") + 1)(a, b, ("nngp", "ntk")))
    x1, x2 = images(3, 4, 4, 2), images(4, 4, 4, 2, seed=1)
    x2[1] = x1[0]
    orbit = grid_action(get_group(group), 4, 4, 2).orbit

    def averaged(a: np.ndarray, b: np.ndarray) -> list[np.ndarray]:
        moved = orbit(b).reshape(-1, 4, 4, 2)
        return [np.asarray(kernel).reshape(len(a), len(b), -1).mean(axis=-1) for kernel in pooled(a, moved)]

    nngp, ntk = averaged(x1, x2)
    v1, v2 = np.diag(averaged(x1, x1)[0]), np.diag(averaged(x2, x2)[0])
    for _ in range(dense_layers):
        nngp, v1, v2 = (1.4**2 * kernel + 0.3**2 for kernel in (nngp, v1, v2))
        ntk = nngp + 1.4**2 * ntk
        if activation == "relu":
            scale = np.sqrt(np.outer(v1, v2))
            angle = np.arccos(np.clip(nngp / scale, -1, 1))
            nngp, ntk = (scale * np.sin(angle) + (pi - angle) * nngp) / (2 * pi), ntk * (pi - angle) / (2 * pi)
            v1, v2 = v1 / 2, v2 / 2
        else:
            scale = np.sqrt(np.outer(1 + 2 * v1, 1 + 2 * v2))
            ntk = ntk * 4 / (pi * np.sqrt(scale**2 - 4 * nngp**2))
            nngp = 2 / pi * np.arcsin(2 * nngp / scale)
            v1, v2 = (2 / pi * np.arcsin(2 * v / (1 + 2 * v)) for v in (v1, v2))
    assert_equal(cross_kernels(network, x1, x2), [0.7**2 * nngp, 0.7**2 * (nngp + ntk)], 1e-12)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("group", "dense_layers"), [("c4", 0), ("d4", 1)])
def test_gcnn_agrees_with_the_full_group_recursion(group: str, dense_layers: int) -> None:
    network = build_network(GcnnNetwork(name="gcnn", group=group, dense_layers=dense_layers), (4, 4, 2), 1)
    x = images(3, 4, 4, 2)
    assert_equal(gram(network, x), oracle(network, x, x))


# ------------------------------------------------------------------------------------------------ functions


@pytest.mark.parametrize(
    ("ours", "exact"), [(fused.arccos, mpmath.acos), (fused.arcsin, mpmath.asin)], ids=["arccos", "arcsin"]
)
def test_inverse_functions_to_two_units_in_the_last_place(ours: Any, exact: Any) -> None:
    rng = np.random.default_rng(0)
    near = 2.0 ** rng.uniform(-52, -1, 2000)
    x = np.concatenate([rng.uniform(-1, 1, 4000), 1 - near, near - 1, near, -near, [-1, -0.5, 0.5, 1]])
    values = np.empty_like(x)
    ours(x, values)
    with mpmath.workprec(200):
        expected = [exact(mpmath.mpf(float(value))) for value in x]
        error = [float(abs(mpmath.mpf(float(v)) - e)) for v, e in zip(values, expected, strict=True)]
    assert (np.array(error) <= 2 * np.spacing(np.abs([float(e) for e in expected]))).all()


# ------------------------------------------------------------------------------------------------ bad input


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("network", "size", "layer"),
    [
        (cnn((4, 4, 1), W_std=1e6), 1e149, "convolution 1"),
        (cnn((4, 4, 1), W_std=1e6), 1e145, "convolution 2"),
        (cnn((4, 4, 1), W_std=1e6, dense_layers=2), 1e139, "dense 1"),
        (cnn((4, 4, 1), W_std=1e6, readout_W_std=1e6, head="flatten"), 1e139, "readout"),
        (build_network(GcnnNetwork(name="gcnn", group="c4", W_std=1e6), (4, 4, 1), 1), 1e145, "group convolution 2"),
        (build_network(MlpNetwork(name="mlp", hidden_layers=2, W_std=1e6), (4, 4, 1), 1), 1e145, "dense 2"),
    ],
)
def test_kernels_that_are_not_finite_name_the_layer(network: Network, size: float, layer: str) -> None:
    x = np.concatenate([images(1, 4, 4, 1), np.full((1, 4, 4, 1), size)])
    with pytest.raises(UserError, match=rf"is not finite for . of 4 .* \(first at .*, from its layer '{layer}' on\)"):
        gram(network, x)
    with pytest.raises(UserError, match=f"first at .*, from its layer '{layer}' on"):
        orbit_blocks(network, x[None])


@pytest.mark.parametrize("name", ["W_std", "b_std", "readout_W_std", "readout_b_std"])
def test_scales_that_no_network_has_are_refused(name: str) -> None:
    network = cnn((4, 4, 1), conv_layers=4, **{name: 1e6})
    assert all(np.isfinite(kernel).all() for kernel in gram(network, images(2, 4, 4, 1)))
    with pytest.raises(ValidationError, match=f"(?s){name}.*less than or equal to 1000000"):
        cnn((4, 4, 1), **{name: 1.1e6})


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("padding", ["SAME", "VALID", "CIRCULAR"])
def test_a_kernel_that_is_not_finite_leaves_the_others_alone(head: str, padding: str) -> None:
    stack, x = cnn((8, 7, 1), head=head, padding=padding).stack, images(4, 8, 7, 1)
    assert stack is not None
    bad = x.copy()
    bad[1] = np.nan
    first, second = np.array([0, 1, 2, 1, 0]), np.array([2, 0, 3, 1, 0])
    expected = np.array(pair_kernels(stack, x, x, first, second))
    expected[:, [1, 3]] = np.nan
    np.testing.assert_array_equal(pair_kernels(stack, bad, bad, first, second), expected)


def test_compiles_without_a_place_for_the_cache() -> None:
    """A function without a source file is one that numba cannot keep."""
    namespace: dict[str, Any] = {}
    exec("def double(x):\n    return 2.0 * x", namespace)
    assert fused._compiled(namespace["double"])(3.0) == 6.0


CONCURRENT = """
import numpy as np
from emergent_equivariance.kernels import gram
from emergent_equivariance.networks import build_network
from emergent_equivariance.settings import CnnNetwork
x = np.random.default_rng(0).standard_normal((3, 4, 4, 1))
print(gram(build_network(CnnNetwork(name="cnn"), (4, 4, 1), 1), x)[1].tolist())
"""


@pytest.mark.slow
def test_processes_that_compile_at_once_share_a_cache(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    command = [sys.executable, "-c", CONCURRENT]
    together = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [process.communicate(timeout=300)[0] for process in together]
    assert list(tmp_path.rglob("*.nbc"))
    later = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert printed[0] == printed[1] == later != ""
