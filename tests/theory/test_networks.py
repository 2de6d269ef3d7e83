"""Finite networks: shapes, numbers of neural-tangents' own layers, reproducible initial weights."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from emergent_equivariance.errors import StudyError
from emergent_equivariance.infinite_width import stax
from emergent_equivariance.networks import Network, build_network, initial_parameters
from emergent_equivariance.networks.layers import conv, dense
from emergent_equivariance.settings import CnnNetwork, MlpNetwork

SHAPE = (6, 7, 2)


def mlp(**options: Any) -> Network:
    return build_network(MlpNetwork(name="mlp", **{"width": 5, "hidden_layers": 2, **options}), SHAPE, 3)


def cnn(**options: Any) -> Network:
    return build_network(CnnNetwork(name="cnn", **{"width": 5, **options}), SHAPE, 3)


@pytest.mark.parametrize("padding", ["SAME", "VALID", "CIRCULAR"])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("b_std", [0.0, 0.3])
def test_conv_gives_the_numbers_of_neural_tangents(padding: str, size: int, b_std: float) -> None:
    reference_init, reference_apply, _ = stax.Conv(5, (size, size), padding=padding, W_std=1.3, b_std=b_std or None)
    _, apply_fn, _ = conv(5, size, padding, 1.3, b_std)
    rng = np.random.default_rng(size)
    for dtype, tolerance in ((np.float32, 1e-5), (np.float64, 1e-12)):
        with jax.enable_x64(dtype == np.float64):
            _, shapes = jax.eval_shape(lambda key: reference_init(key, (1, *SHAPE)), jax.random.key(0))
            params = jax.tree.map(lambda leaf, d=dtype: rng.standard_normal(leaf.shape).astype(d), shapes)
            x = rng.standard_normal((4, *SHAPE)).astype(dtype)
            ours, reference = apply_fn(params, x), reference_apply(params, x)
            assert ours.dtype == reference.dtype == dtype
            np.testing.assert_allclose(ours, reference, atol=tolerance, rtol=tolerance)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("b_std", [0.0, 0.3])
def test_dense_gives_the_numbers_of_neural_tangents(b_std: float) -> None:
    _, reference_apply, _ = stax.Dense(3, W_std=1.3, b_std=b_std or None)
    _, apply_fn, _ = dense(3, 1.3, b_std)
    rng = np.random.default_rng(0)
    params = (rng.standard_normal((6, 3)), rng.standard_normal((1, 3)) if b_std else None)
    x = rng.standard_normal((4, 6))
    np.testing.assert_allclose(apply_fn(params, x), reference_apply(params, x), rtol=1e-13)


def test_layers_and_leaves() -> None:
    assert mlp().shapes == ((84, 5), (1, 5), (5, 5), (1, 5), (5, 3))
    assert mlp(b_std=0.0, readout_b_std=0.1).shapes == ((84, 5), (5, 5), (5, 3), (1, 3))
    assert cnn().shapes == ((3, 3, 2, 5), (1, 1, 1, 5), (3, 3, 5, 5), (1, 1, 1, 5), (5, 3))
    assert cnn(padding="VALID", head="flatten", b_std=0.0).shapes == ((3, 3, 2, 5), (3, 3, 5, 5), (2 * 3 * 5, 3))
    assert cnn().parameters == 90 + 5 + 225 + 5 + 15


@pytest.mark.parametrize("network", [mlp(), cnn(), cnn(head="flatten")])
def test_one_batch(network: Network) -> None:
    x = np.random.default_rng(0).standard_normal((4, *SHAPE)).astype(np.float32)
    params = jax.tree.map(np.float32, initial_parameters(network, 0, 0))
    assert network.apply(params, x).shape == (4, 3)
    assert jax.tree.structure(params) == network.structure


def test_initial_weights_depend_on_seed_member_and_leaf_alone() -> None:
    network = mlp()
    leaves = jax.tree.leaves(initial_parameters(network, 3, 17))
    again = jax.tree.leaves(initial_parameters(mlp(W_std=2.0), 3, 17))
    assert all(np.array_equal(a, b) and a.dtype == np.float64 for a, b in zip(leaves, again, strict=True))
    for other in (initial_parameters(network, 4, 17), initial_parameters(network, 3, 18)):
        assert not any(np.array_equal(a, b) for a, b in zip(leaves, jax.tree.leaves(other), strict=True))
    assert not np.array_equal(leaves[1], leaves[3]), "leaves of one shape differ"


def test_initial_weights_are_standard_normal() -> None:
    network = mlp(width=200)
    for leaf in jax.tree.leaves(initial_parameters(network, 0, 0)):
        error = 1 / np.sqrt(leaf.size)
        assert abs(leaf.mean()) < 4.5 * error
        assert abs(leaf.var() - 1) < 4.5 * np.sqrt(2) * error


def test_networks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(StudyError, match="cnn needs images"):
        build_network(CnnNetwork(name="cnn"), (5,), 1)
    with pytest.raises(StudyError, match="do not fit"):
        build_network(CnnNetwork(name="cnn", conv_layers=4, padding="VALID"), (8, 8, 1), 1)
